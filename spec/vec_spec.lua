-- Every row of vec.def through builder, plain-C lowering, libtcc and execution, against the meaning written here anew:
-- special values, wrapping, rounding, masks, memory, loops. Random programs: spec/stress/vec_fuzz.c.
local native = require "esper.native"
local unit = require "support.unit"
local vec = require "esper.vec"
local C = native.C

local INF, NAN = math.huge, 0 / 0
local seen = {} -- "row" and "row.type" of everything lowered below

local function note_rows(b)
  for name in b:text():gmatch("([%a_][%w_%.]*)[ \n]") do seen[name] = true end
end

-- A block as a function of words: addresses and counts.
local function build(type, body)
  local b = vec.block("scalar", type)
  body(b)
  note_rows(b)
  local code = unit.build(b:lower "block" .. "void run(const long *w) { block(w); }\n")
  local fn = code:get("run", "void (*)(const int64_t *)")
  return function(...)
    local words = native.new("int64_t[8]")
    for i, w in ipairs { ... } do words[i - 1] = type and native.cast("int64_t", w) end
    fn(words)
    return code
  end
end

local function address(array) return native.cast("int64_t", native.cast("intptr_t", native.cast("void *", array))) end

local WIDTH = {
  { f = "f32", i = "i32", float = "float", int = "int32_t", uint = "uint32_t", bits = 32, bytes = 4 },
  { f = "f64", i = "i64", float = "double", int = "int64_t", uint = "uint64_t", bits = 64, bytes = 8 },
}

-- ---- the meaning of the rows, in doubles and 64-bit integers ----

local function signed(w, n) return native.cast("int64_t", native.cast(w.int, n)) end
local function unsigned(w, n) return native.cast("uint64_t", native.cast(w.uint, n)) end

local function rint(x)
  if not (math.abs(x) < 2 ^ 52) or x == 0 then return x end
  local r = x < 0 and (x - 2 ^ 52) + 2 ^ 52 or (x + 2 ^ 52) - 2 ^ 52
  return r == 0 and x < 0 and -0.0 or r
end

-- Results are rounded to f32 by the store that follows; products of f32 are exact in double.
local function round(w, x)
  local cell = native.new(w.float .. "[1]", x)
  return cell[0]
end

local FLOAT = {
  add = function(_, a, b) return a + b end, sub = function(_, a, b) return a - b end, mul = function(_, a, b) return a * b end,
  div = function(_, a, b) return a / b end, fma = function(w, a, b, c) return round(w, a * b) + c end,
  sqrt = function(_, a) return math.sqrt(a) end, rint = function(_, a) return rint(a) end,
  min = function(_, a, b) if a < b then return a end return b end, max = function(_, a, b) if a > b then return a end return b end,
  hadd = function(_, a) return a end, hmin = function(_, a) return a end, hmax = function(_, a) return a end,
}
local INTEGER = {
  add = function(_, a, b) return a + b end, sub = function(_, a, b) return a - b end,
  and_ = function(_, a, b) return bit.band(a, b) end, or_ = function(_, a, b) return bit.bor(a, b) end,
  xor_ = function(_, a, b) return bit.bxor(a, b) end,
}
local SHIFT = {
  shl = function(w, a, k) return bit.lshift(unsigned(w, a), k) end, shr = function(w, a, k) return bit.rshift(unsigned(w, a), k) end,
  sar = function(w, a, k) return bit.arshift(signed(w, a), k) end,
  rotl = function(w, a, k)
    local u = unsigned(w, a)
    return k == 0 and u or bit.bor(bit.lshift(u, k), bit.rshift(u, w.bits - k))
  end,
}
local COMPARE = {
  lt = function(a, b) return a < b end, le = function(a, b) return a <= b end, eq = function(a, b) return a == b end,
  ne = function(a, b) return a ~= b end,
}

local FLOATS = { 0, -0.0, 1, -1, 0.5, 1.5, 2.5, -2.5, 3.25, 1e-45, -1e-40, 1.1754943508222875e-38, 3.4028234663852886e38, 16777217,
  -8388607.5, INF, -INF, NAN }
local WIDE = { 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308, 2 ^ 52 + 1, 4503599627370495.5, 1e-320 }
local INTEGERS = { 0LL, 1LL, -1LL, 2LL, 7LL, 12345LL, -98765LL, 2147483647LL, -2147483648LL, 0x55555555LL }
local WIDE_INTEGERS = { 9223372036854775807LL, -9223372036854775807LL - 1, 4294967296LL, -4294967297LL, 0x5555555555555555LL }

local function list_of(w, narrow, wide)
  local list = { unpack(narrow) }
  if w.bits == 64 then for _, v in ipairs(wide) do list[#list + 1] = v end end
  return list
end

-- Bits of one result against one wanted; NaNs are equal where arithmetic made them.
local function same(w, got, at, want, float, exact)
  local cell = native.new((float and w.float or w.int) .. "[1]", float and want or signed(w, want))
  local bits = native.cast(w.uint .. " *", cell)[0]
  local mine = native.cast(w.uint .. " *", got)[at]
  if mine == bits then return true end
  local x = native.cast(w.float .. " *", got)[at]
  return float and not exact and x ~= x and want ~= want
end

-- Runs `op` on all tuples of operands: out[i] = op(in[i]...). Operands and results are arrays of the width.
local function tabulate(w, op, arity, in_class, out_class, values, meaning, exact, masks)
  local tuples = {}
  local function grow(tuple)
    if #tuple == arity then tuples[#tuples + 1] = tuple return end
    for _, v in ipairs(values) do
      local longer = { unpack(tuple) }
      longer[#longer + 1] = v
      grow(longer)
    end
  end
  grow {}
  local from = native.new((in_class == "f" and w.float or w.int) .. "[?]", #tuples * arity)
  local to = native.new(w.uint .. "[?]", #tuples)
  for i, tuple in ipairs(tuples) do
    for k = 1, arity do from[(i - 1) * arity + k - 1] = in_class == "f" and tuple[k] or signed(w, tuple[k]) end
  end
  build(w[in_class], function(b)
    local count, x, y = b:arg(0), b:arg(1), b:arg(2)
    b:each(count, { { x, bytes = arity * w.bytes }, y }, function()
      local operands = {}
      for k = 1, arity do operands[k] = b:load(x, (k - 1) * w.bytes) end
      local v = op(b, unpack(operands))
      if masks then v = b:select(v, b:isplat(1), b:isplat(0)) end
      b:store(y, v)
    end)
  end)(#tuples, address(from), address(to))
  for i, tuple in ipairs(tuples) do
    local stored = {}
    for k = 1, arity do
      stored[k] = in_class == "f" and tonumber(from[(i - 1) * arity + k - 1]) or signed(w, from[(i - 1) * arity + k - 1])
    end
    local want = meaning(w, unpack(stored))
    if masks then want = want and 1LL or 0LL end
    assert.is_true(same(w, to, i - 1, want, out_class == "f", exact),
      ("operands %s: got bits %s, want %s"):format(table.concat({ tostring(stored[1]), tostring(stored[2]), tostring(stored[3]) }, ", "),
        tostring(native.cast(w.uint .. " *", to)[i - 1]), tostring(want)))
  end
end

for _, w in ipairs(WIDTH) do
  local floats, integers = list_of(w, FLOATS, WIDE), list_of(w, INTEGERS, WIDE_INTEGERS)
  describe("vector rows of " .. w.f .. " and " .. w.i, function()
    for name, meaning in pairs(FLOAT) do
      local arity = ({ sqrt = 1, rint = 1, hadd = 1, hmin = 1, hmax = 1, fma = 3 })[name] or 2
      it(name .. "." .. w.f, function()
        tabulate(w, function(b, ...) return b[name](b, ...) end, arity, "f", "f", floats, meaning)
      end)
    end
    for name, meaning in pairs(INTEGER) do
      it(name .. "." .. w.i, function()
        tabulate(w, function(b, ...) return b[name](b, ...) end, 2, "i", "i", integers, meaning)
      end)
    end
    for name, meaning in pairs(SHIFT) do
      it(name .. "." .. w.i, function()
        for _, k in ipairs { 0, 1, 7, w.bits - 1 } do
          tabulate(w, function(b, x) return b[name](b, x, k) end, 1, "i", "i", integers, function(_, a) return meaning(w, a, k) end)
        end
      end)
    end
    for name, meaning in pairs(COMPARE) do
      it(name .. " of both classes", function()
        local function compare(b, x, y) return b[name](b, x, y) end
        local function want(_, x, y) return meaning(x, y) end
        tabulate(w, compare, 2, "i", "i", integers, want, true, true)
        tabulate(w, compare, 2, "f", "i", floats, want, true, true)
      end)
    end

    it("neg, abs and bits touch the sign bit and nothing else", function()
      local function flipped(_, x) return -x end
      tabulate(w, function(b, x) return b:neg(x) end, 1, "f", "f", floats, flipped)
      tabulate(w, function(b, x) return b:abs(x) end, 1, "f", "f", floats, function(_, x) return math.abs(x) end)
      tabulate(w, function(b, x) return b:bits(b:bits(x)) end, 1, "f", "f", floats, function(_, x) return x end, true)
      local sign = bit.lshift(1ULL, w.bits - 1)
      tabulate(w, function(b, x) return b:bits(b:neg(b:bits(x))) end, 1, "i", "i", integers,
        function(_, n) return bit.bxor(unsigned(w, n), sign) end)
      tabulate(w, function(b, x) return b:bits(b:abs(b:bits(x))) end, 1, "i", "i", integers,
        function(_, n) return bit.band(unsigned(w, n), sign - 1) end)
    end)

    it("conversions round to even, truncate, and come back", function()
      local inside = { 0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 1e6, -999999.75, 123.999, 8388607.5 }
      tabulate(w, function(b, x) return b:cvt_i(x) end, 1, "f", "i", inside, function(_, x) return native.cast("int64_t", rint(x)) end)
      tabulate(w, function(b, x) return b:cvtt_i(x) end, 1, "f", "i", inside, function(_, x) return native.cast("int64_t", x) end)
      tabulate(w, function(b, x) return b:cvt_f(x) end, 1, "i", "f", integers, function(_, n) return tonumber(n) end)
    end)

    it("select, m_and, m_or, m_not", function()
      local function inside(b, x, y) return b:m_and(b:lt(x, y), b:m_not(b:eq(x, b:isplat(0)))) end
      tabulate(w, inside, 2, "i", "i", integers, function(_, x, y) return x < y and x ~= 0 end, true, true)
      tabulate(w, function(b, x, y) return b:m_or(b:lt(x, y), b:eq(y, b:isplat(7))) end, 2, "i", "i", integers,
        function(_, x, y) return x < y or y == 7 end, true, true)
      tabulate(w, function(b, x, y) return b:select(b:lt(x, y), x, y) end, 2, "f", "f", floats,
        function(_, x, y) if x < y then return x end return y end, true)
    end)

    it("splat, splati, splatg, iota", function()
      for _, n in ipairs(floats) do
        tabulate(w, function(b, x) return b:select(b:eq(x, x), b:splat(n), b:splat(n)) end, 1, "f", "f", { 1 }, function() return n end)
      end
      for _, n in ipairs(integers) do
        tabulate(w, function(b, x) return b:select(b:ieq(x, x), b:isplat(n), x) end, 1, "i", "i", { 5LL }, function() return n end)
        local to = native.new(w.uint .. "[2]")
        build(w.i, function(b)
          b:store(b:arg(1), b:splatg(b:arg(0)))
          b:store(b:arg(1), b:iota(), w.bytes)
        end)(n, address(to))
        assert.is_true(same(w, to, 0, n) and same(w, to, 1, 0LL))
      end
    end)

    it("loads and stores touch exactly their element, under masks none", function()
      for _, class in ipairs { "f", "i" } do
        local ctype = class == "f" and w.float or w.int
        local from, to = native.new(ctype .. "[8]", { 1, 2, 3, 4, 5, 6, 7, 8 }), native.new(ctype .. "[8]")
        for i = 0, 7 do to[i] = 99 end
        build(w[class], function(b)
          local x, y, stride, yes = b:arg(0), b:arg(1), b:arg(2), b:m_tail(b:arg(3))
          local no = b:m_not(yes)
          b:store(y, b:load(x, 3 * w.bytes))
          b:store(y, b:load(x, w.bytes, yes), w.bytes, yes)
          b:store(y, b:load(x, 0), 2 * w.bytes, no)
          b:stores(y, stride, b:loads(x, stride, 4 * w.bytes), 3 * w.bytes)
          b:stores(y, stride, b:loads(x, stride, 5 * w.bytes, yes), 4 * w.bytes, yes)
          b:stores(y, stride, b:bcast(x), 5 * w.bytes, no)
          b:store1(y, b:bcast(x, 7 * w.bytes), 6 * w.bytes)
        end)(address(from), address(to), 64, 1)
        local got = {}
        for i = 0, 7 do got[i + 1] = tonumber(to[i]) end
        assert.same({ 4, 2, 99, 5, 6, 99, 8, 99 }, got)
        build(w[class], function(b) -- a masked-off load gives 0 and does not touch its address
          local y, no = b:arg(0), b:lt(b:isplat(1), b:isplat(0))
          b:store(y, b:load(b:const(8), 0, no))
          b:store(y, b:loads(b:const(8), b:const(8), 0, no), w.bytes)
        end)(address(to))
        assert.same({ 0, 0 }, { tonumber(to[0]), tonumber(to[1]) })
      end
    end)

    it("loops, and registers changed in them", function()
      for _, case in ipairs { { 0, 3, 0 }, { -5, 3, 0 }, { 1, 1, 1 }, { 4, 3, 12 }, { 3, 0, 0 } } do
        local to = native.new(w.uint .. "[2]")
        build(w.i, function(b)
          local y, outer, inner = b:arg(0), b:arg(1), b:arg(2)
          local sum, g, total = b:isplat(0), b:const(0), b:splat(0)
          b:loop(outer, function()
            b:loop(inner, function()
              b:set(sum, b:add(sum, b:isplat(1)))
              b:set(total, b:add(total, b:splat(0.5)))
              b:note(1)
              b:g_set(g, b:g_addk(g, 2))
            end)
          end)
          b:store(y, b:add(b:add(sum, b:splatg(g)), b:cvt_i(b:add(total, total))))
        end)(address(to), case[1], case[2])
        assert.is_true(same(w, to, 0, native.cast("int64_t", 4 * case[3])))
      end
    end)
  end)
end

describe("vector scalars", function()
  it("wrap, shift down and keep 64 bits", function()
    local w = WIDTH[2]
    for _, n in ipairs { 0LL, 1LL, -1LL, 123456789012345LL, -9223372036854775807LL - 1 } do
      local to = native.new "int64_t[6]"
      build("i64", function(b)
        local y, g = b:arg(0), b:arg(1)
        local results = { b:g_add(g, b:const(2 ^ 40)), b:g_addk(g, -3), b:g_sub(b:const(5), g), b:g_mulk(g, -7), b:g_shrk(g, 3),
          b:copy(g) }
        for i, r in ipairs(results) do b:store(y, b:splatg(r), 8 * (i - 1)) end
      end)(address(to), n)
      local want = { n + 1099511627776LL, n - 3, 5 - n, n * -7, bit.arshift(n, 3), n }
      for i, v in ipairs(want) do assert.is_true(same(w, to, i - 1, v), i) end
    end
  end)
end)

describe("vector builder", function()
  local function message(body, type)
    local b = vec.block("scalar", type or "f64")
    local ok, why = pcall(body, b)
    assert.is_false(ok)
    return tostring(why)
  end

  it("refuses operands of the wrong class, type or scope, at the caller's line", function()
    assert.is_truthy(message(function(b) b:add(b:splat(1), b:isplat(2)) end):match "vec_spec.lua:%d+: .*want f64")
    assert.is_truthy(message(function(b) b:load(b:splat(1)) end):match "want a g register")
    assert.is_truthy(message(function(b) b:select(b:arg(0), b:splat(1), b:splat(1)) end):match "want a m register")
    assert.is_truthy(message(function(b) b:mul(b:isplat(2), b:isplat(1)) end):match "i64; want f64")
    assert.is_truthy(message(function(b) b:shl(b:splat(2), 1) end):match "f64; want i64")
    assert.is_truthy(message(function(b) b:add(500, 501) end):match "no register")
    local escaped
    assert.is_truthy(message(function(b)
      b:loop(b:arg(0), function() escaped = b:splat(2) end)
      b:sqrt(escaped)
    end):match "inside a loop that has ended")
  end)

  it("refuses constants out of range", function()
    for _, body in ipairs {
      function(b) b:shl(b:isplat(2), 64) end, function(b) b:rotl(b:isplat(2), -1) end, function(b) b:g_shrk(b:arg(0), 64) end,
      function(b) b:arg(-1) end, function(b) b:arg(4096) end, function(b) b:load(b:arg(0), 2 ^ 31) end,
      function(b) b:isplat(2.5) end, function(b) b:splat "1" end,
    } do
      assert.is_true(#message(body) > 0)
    end
    assert.is_truthy(message(function(b) b:shl(b:isplat(2), 32) end, "f32"):match "want 0 to 31")
    assert.is_truthy(message(function(b) b:isplat(2 ^ 33) end, "f32"):match "out of range")
  end)

  it("refuses open loops, stray ends and too many loops", function()
    assert.is_truthy(message(function(b) b["end"](b) end)
      :match "no loop is open")
    assert.is_truthy(message(function(b)
      local n = b:arg(0)
      b:loop(n, function() b:lower "inside" end)
    end):match "still open")
    local function nest(b, n, depth) b:loop(n, function() nest(b, n, depth + 1) end) end
    assert.is_truthy(message(function(b) nest(b, b:arg(0), 1) end):match "the most there may be")
  end)

  it("keeps its first error", function()
    local b = vec.block("scalar", "f32")
    pcall(b.load, b, 77)
    local first = native.string(C.es_vec_failure(b.handle))
    pcall(b.sqrt, b, 99)
    assert.equal(first, native.string(C.es_vec_failure(b.handle)))
    local ok, why = pcall(b.lower, b, "name")
    assert.is_false(ok)
    assert.is_truthy(tostring(why):find(first, 1, true))
  end)

  it("refuses names that are none, and targets without a lowering", function()
    for _, name in ipairs { "", "a b", "9x", "x;y" } do
      local ok, why = pcall(vec.block("scalar", "f32").lower, vec.block("scalar", "f32"), name)
      assert.is_false(ok)
      assert.is_truthy(tostring(why):match "no C name")
    end
    assert.is_false(pcall(vec.block, "sse", "f32"))
    assert.is_false(pcall(vec.block, "scalar", "u8"))
    assert.equal(16, vec.lanes("avx512", "f32"))
    assert.equal(4, vec.lanes("avx2", "f64"))
    assert.equal(1, vec.lanes("scalar", "f32"))
  end)

  it("has run every row for every type it exists for", function()
    local op, missing = 0, {}
    while C.es_vec_row_of(op) ~= nil do
      local row = C.es_vec_row_of(op)
      local name, types = native.string(row.name), native.string(row.types)
      local wanted = ({ f = { "f32", "f64" }, i = { "i32", "i64" }, b = { "f32", "f64", "i32", "i64" }, ["-"] = { false } })[types]
      for _, type in ipairs(wanted) do
        local full = type and name .. "." .. type or name
        if not seen[full] then missing[#missing + 1] = full end
      end
      op = op + 1
    end
    assert.same({}, missing)
    assert.is_true(op > 50)
  end)
end)
