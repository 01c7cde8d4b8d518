-- Every row of vec.def that computes, through builder, lowering and execution on every instruction set this processor runs,
-- against the meaning written here anew: special values, wrapping, rounding, full vectors and tails. Memory and control:
-- vec_memory_spec.lua. Random programs: spec/stress/vec_fuzz.c.
local ffi = require "ffi"
local native = require "esper.native"
local case = require "support.vec_case"
local vec = require "esper.vec"

local signed, unsigned, address, same, round = case.signed, case.unsigned, case.address, case.same, case.round
local INF, NAN = math.huge, 0 / 0
if not pcall(function() return ffi.C.fmaf end) then ffi.cdef "double fma(double, double, double); float fmaf(float, float, float); double ldexp(double, int);" end

-- ---- the meaning of the rows, in doubles and 64-bit integers ----

local function rint(x)
  if not (math.abs(x) < 2 ^ 52) or x == 0 then return x end
  local r = x < 0 and (x - 2 ^ 52) + 2 ^ 52 or (x + 2 ^ 52) - 2 ^ 52
  return r == 0 and x < 0 and -0.0 or r
end

-- Results are rounded to f32 by the store that follows; products of f32 are exact in double.
local FLOAT = {
  add = function(_, a, b) return a + b end, sub = function(_, a, b) return a - b end, mul = function(_, a, b) return a * b end,
  div = function(_, a, b) return a / b end, sqrt = function(_, a) return math.sqrt(a) end, rint = function(_, a) return rint(a) end,
  min = function(_, a, b) if a < b then return a end return b end, max = function(_, a, b) if a > b then return a end return b end,
}
local function fma(isa)
  if isa == "scalar" then return function(w, a, b, c) return round(w, a * b) + c end end
  return function(w, a, b, c) return w.bytes == 4 and ffi.C.fmaf(a, b, c) or ffi.C.fma(a, b, c) end
end
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

-- All tuples of `arity` values.
local function tuples_of(values, arity)
  local tuples = { {} }
  for _ = 1, arity do
    local longer = {}
    for _, tuple in ipairs(tuples) do
      for _, v in ipairs(values) do
        local t = { unpack(tuple) }
        t[#t + 1] = v
        longer[#longer + 1] = t
      end
    end
    tuples = longer
  end
  return tuples
end

-- Runs `op` on all tuples of operands: out[i] = op(in1[i], in2[i]...), full vectors and a tail.
local function tabulate(isa, w, op, arity, in_class, out_class, values, meaning, exact, masks)
  local tuples = tuples_of(values, arity)
  if #tuples % 16 == 0 then tuples[#tuples] = nil end -- so that there is a tail
  local from, words = {}, { #tuples }
  local to = native.new(w.uint .. "[?]", #tuples + 1)
  to[#tuples] = 99
  words[2] = address(to)
  for k = 1, arity do
    from[k] = native.new((in_class == "f" and w.float or w.int) .. "[?]", #tuples)
    for i, tuple in ipairs(tuples) do from[k][i - 1] = in_class == "f" and tuple[k] or signed(w, tuple[k]) end
    words[2 + k] = address(from[k])
  end
  case.build(isa, w[in_class], function(b)
    local count, advance = b:arg(0), {}
    for k = 0, arity do advance[k + 1] = b:arg(1 + k) end
    b:each(count, advance, function(mask)
      local operands = {}
      for k = 1, arity do operands[k] = b:load(advance[k + 1], 0, mask) end
      local v = op(b, unpack(operands))
      if masks then v = b:select(v, b:isplat(1), b:isplat(0)) end
      b:store(advance[1], v, 0, mask)
    end)
  end)(unpack(words))
  for i = 1, #tuples do
    local x = {}
    for k = 1, arity do x[k] = in_class == "f" and tonumber(from[k][i - 1]) or signed(w, from[k][i - 1]) end
    local want = meaning(w, unpack(x))
    if masks then want = want and 1LL or 0LL end
    if not same(w, to, i - 1, want, out_class == "f", exact) then
      error(("%s of %s: operands %s %s %s: got bits %s, want %s"):format(isa, w.f, tostring(x[1]), tostring(x[2]), tostring(x[3]),
        tostring(to[i - 1]), tostring(want)))
    end
  end
  assert.equal(99, tonumber(to[#tuples])) -- nothing is written past the tail
end

-- One vector each from the pointers, through `op`, to the first one: f(lists of lanes) -> list of lanes.
local function once(isa, w, class, inputs, op)
  local lanes = vec.lanes(isa, w[class])
  local ctype = (class == "f" and w.float or w.int) .. "[?]"
  local to, words, keep = native.new(ctype, lanes), {}, {}
  words[1] = address(to)
  for k, list in ipairs(inputs) do
    keep[k] = native.new(ctype, lanes)
    for i = 1, lanes do keep[k][i - 1] = list[i] end
    words[k + 1] = address(keep[k])
  end
  case.build(isa, w[class], function(b)
    local y, x = b:arg(0), {}
    for k = 1, #inputs do x[k] = b:load(b:arg(k)) end
    b:store(y, op(b, unpack(x)))
  end)(unpack(words))
  local out = {}
  for i = 1, lanes do out[i] = tonumber(to[i - 1]) end
  return out
end

local function numbered(lanes, first)
  local list = {}
  for i = 1, lanes do list[i] = first + i - 1 end
  return list
end

-- Halves combined pairwise; lane 1 of what is left.
local function tree(w, list, op)
  local x, n = { unpack(list) }, #list
  while n > 1 do
    n = n / 2
    for i = 1, n do x[i] = round(w, op(w, x[i], x[i + n])) end
  end
  return x[1]
end

local function equal(a, b) return a == b and 1 / a == 1 / b or a ~= a and b ~= b end

local function run(isa, w)
  local floats, integers = list_of(w, FLOATS, WIDE), list_of(w, INTEGERS, WIDE_INTEGERS)
  local lanes = vec.lanes(isa, w.f)
  local function tab(...) tabulate(isa, w, ...) end

  for name, meaning in pairs(FLOAT) do
    it(name .. "." .. w.f, function()
      tab(function(b, ...) return b[name](b, ...) end, (name == "sqrt" or name == "rint") and 1 or 2, "f", "f", floats, meaning)
    end)
  end
  it("fma." .. w.f, function() tab(function(b, ...) return b:fma(...) end, 3, "f", "f", floats, fma(isa)) end)
  for name, meaning in pairs(INTEGER) do
    it(name .. "." .. w.i, function() tab(function(b, ...) return b[name](b, ...) end, 2, "i", "i", integers, meaning) end)
  end
  for name, meaning in pairs(SHIFT) do
    it(name .. "." .. w.i, function()
      for _, k in ipairs { 0, 1, 7, 31, w.bits - 1 } do
        tab(function(b, x) return b[name](b, x, k) end, 1, "i", "i", integers, function(_, a) return meaning(w, a, k) end)
      end
    end)
  end
  for name, meaning in pairs(COMPARE) do
    it(name .. " of both classes", function()
      local function compare(b, x, y) return b[name](b, x, y) end
      local function want(_, x, y) return meaning(x, y) end
      tab(compare, 2, "i", "i", integers, want, true, true)
      tab(compare, 2, "f", "i", floats, want, true, true)
    end)
  end

  it("neg, abs and bits touch the sign bit and nothing else", function()
    tab(function(b, x) return b:neg(x) end, 1, "f", "f", floats, function(_, x) return -x end)
    tab(function(b, x) return b:abs(x) end, 1, "f", "f", floats, function(_, x) return math.abs(x) end)
    tab(function(b, x) return b:bits(b:bits(x)) end, 1, "f", "f", floats, function(_, x) return x end, true)
    local sign = bit.lshift(1ULL, w.bits - 1)
    tab(function(b, x) return b:bits(b:neg(b:bits(x))) end, 1, "i", "i", integers,
      function(_, n) return bit.bxor(unsigned(w, n), sign) end)
    tab(function(b, x) return b:bits(b:abs(b:bits(x))) end, 1, "i", "i", integers,
      function(_, n) return bit.band(unsigned(w, n), sign - 1) end)
  end)

  it("conversions round to even, truncate, and come back", function()
    local inside = { 0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 1e6, -999999.75, 123.999, 8388607.5, 2147483000, -2147483648 }
    if w.bits == 64 then for _, x in ipairs { 2 ^ 50 + 0.5, -2 ^ 50 - 0.75, 2 ^ 51 - 1 } do inside[#inside + 1] = x end end
    tab(function(b, x) return b:cvt_i(x) end, 1, "f", "i", inside, function(_, x) return native.cast("int64_t", rint(x)) end)
    tab(function(b, x) return b:cvtt_i(x) end, 1, "f", "i", inside, function(_, x) return native.cast("int64_t", x) end)
    tab(function(b, x) return b:cvt_f(x) end, 1, "i", "f", integers, function(_, n) return tonumber(n) end)
  end)

  it("select, m_and, m_or, m_not", function()
    local function inside(b, x, y) return b:m_and(b:lt(x, y), b:m_not(b:eq(x, b:isplat(0)))) end
    tab(inside, 2, "i", "i", integers, function(_, x, y) return x < y and x ~= 0 end, true, true)
    tab(function(b, x, y) return b:m_or(b:lt(x, y), b:eq(y, b:isplat(7))) end, 2, "i", "i", integers,
      function(_, x, y) return x < y or y == 7 end, true, true)
    tab(function(b, x, y) return b:select(b:lt(x, y), x, y) end, 2, "f", "f", floats,
      function(_, x, y) if x < y then return x end return y end, true)
    tab(function(b, x, y) return b:select(b:lt(x, y), x, y) end, 2, "i", "i", integers,
      function(_, x, y) if x < y then return x end return y end, true)
  end)

  it("m_tail for counts of 64 bits", function()
    local to = native.new(w.int .. "[?]", lanes)
    local fn = case.build(isa, w.i, function(b)
      b:store(b:arg(0), b:select(b:m_tail(b:arg(1)), b:isplat(1), b:isplat(0)))
    end)
    for _, count in ipairs { -9223372036854775807LL - 1, -4294967295LL, -2147483649LL, -1LL, 0LL, 1LL, 3LL, 7LL, 8LL, 15LL, 16LL, 17LL,
      2147483648LL, 4294967296LL, 1099511627776LL, 9223372036854775807LL } do
      fn(address(to), count)
      for i = 0, lanes - 1 do assert.equal(i < count and 1 or 0, tonumber(to[i])) end
    end
  end)

  it("splat, splati, splatg, iota", function()
    for _, n in ipairs(floats) do
      tab(function(b, x) return b:select(b:eq(x, x), b:splat(n), b:splat(n)) end, 1, "f", "f", { 1 }, function() return n end)
      for _, v in ipairs(once(isa, w, "f", {}, function(b) return b:splat(n) end)) do assert.is_true(equal(v, round(w, n))) end
    end
    for _, n in ipairs(integers) do
      tab(function(b, x) return b:select(b:ieq(x, x), b:isplat(n), x) end, 1, "i", "i", { 5LL }, function() return n end)
      local to = native.new(w.uint .. "[?]", 2 * lanes)
      case.build(isa, w.i, function(b)
        b:store(b:arg(1), b:splatg(b:arg(0)))
        b:store(b:arg(1), b:iota(), lanes * w.bytes)
      end)(n, address(to))
      for i = 0, lanes - 1 do assert.is_true(same(w, to, i, n) and same(w, to, lanes + i, native.cast("int64_t", i))) end
    end
  end)

  it("hadd, hmin, hmax: halves pairwise, in every lane", function()
    for name, op in pairs { hadd = FLOAT.add, hmin = FLOAT.min, hmax = FLOAT.max } do
      for at = 1, #floats do
        local list = {}
        for i = 1, lanes do list[i] = round(w, floats[(at * 7 + i * (at % 3 + 1)) % #floats + 1] + (at % 2 == 0 and i * 1.37 or 0)) end
        local want = tree(w, list, op)
        for _, v in ipairs(once(isa, w, "f", { list }, function(b, x) return b[name](b, x) end)) do
          assert.is_true(equal(v, want), ("%s: got %s, want %s"):format(name, v, want))
        end
      end
    end
  end)

  it("transpose turns rows to columns; hadd_all sums every row", function()
    local rows, words = native.new(w.float .. "[?]", lanes * lanes), {}
    local columns, sums = native.new(w.float .. "[?]", lanes * lanes), native.new(w.float .. "[?]", lanes * lanes)
    for i = 0, lanes * lanes - 1 do rows[i] = (i * 37) % 1009 end
    words[1], words[2], words[3] = address(rows), address(columns), address(sums)
    case.build(isa, w.f, function(b)
      local r = {}
      for i = 1, lanes do r[i] = b:load(b:arg(0), (i - 1) * lanes * w.bytes) end
      for i, v in ipairs(b:transpose(r)) do b:store(b:arg(1), v, (i - 1) * lanes * w.bytes) end
      for count = 1, lanes do b:store(b:arg(2), b:hadd_all { unpack(r, 1, count) }, (count - 1) * lanes * w.bytes) end
    end)(unpack(words))
    for i = 0, lanes - 1 do
      local sum = 0
      for j = 0, lanes - 1 do
        assert.equal(rows[i * lanes + j], columns[j * lanes + i])
        sum = sum + rows[i * lanes + j]
      end
      for count = i + 1, lanes do assert.equal(sum, sums[(count - 1) * lanes + i]) end
    end
  end)

  it("unzip takes even from odd elements", function()
    local from, to = native.new(w.float .. "[?]", 2 * lanes), native.new(w.float .. "[?]", 2 * lanes)
    for i = 0, 2 * lanes - 1 do from[i] = i + 1 end
    case.build(isa, w.f, function(b)
      local even, odd = b:unzip(b:load(b:arg(0)), b:load(b:arg(0), lanes * w.bytes))
      b:store(b:arg(1), even)
      b:store(b:arg(1), odd, lanes * w.bytes)
    end)(address(from), address(to))
    for i = 0, lanes - 1 do
      assert.equal(2 * i + 1, to[i])
      assert.equal(2 * i + 2, to[lanes + i])
    end
  end)

  if lanes > 1 then
    local per = 16 / w.bytes
    it("unpl, unph, unpl2, unph2, part", function()
      local a, b2 = numbered(lanes, 1), numbered(lanes, 101)
      local function interleaved(step, upper) -- runs of `step` elements, of a and b in turn
        local out = {}
        for i = 0, lanes - 1 do
          local first, inside = i - i % per, i % per
          local from = (math.floor(inside / step) % 2 == 0) and a or b2
          out[i + 1] = from[first + (upper and per / 2 or 0) + math.floor(inside / step / 2) * step + inside % step + 1]
        end
        return out
      end
      for _, class in ipairs { "f", "i" } do
        assert.same(interleaved(1, false), once(isa, w, class, { a, b2 }, function(b, x, y) return b:unpl(x, y) end))
        assert.same(interleaved(1, true), once(isa, w, class, { a, b2 }, function(b, x, y) return b:unph(x, y) end))
      end
      if per == 4 then
        assert.same(interleaved(2, false), once(isa, w, "f", { a, b2 }, function(b, x, y) return b:unpl2(x, y) end))
        assert.same(interleaved(2, true), once(isa, w, "f", { a, b2 }, function(b, x, y) return b:unph2(x, y) end))
        assert.same({ 1, 2, 7, 7 }, { unpack(once(isa, w, "f", { a }, function(b, x) return b:unpl2(x, b:splat(7)) end), 1, 4) })
      end
      local parts = lanes / per
      for _, k in ipairs(parts == 4 and { 0, 0x44, 0xEE, 0x88, 0xDD, 0x1B, 0xFF } or { 0, 0x20, 0x31, 0x13, 0x02, 0x11, 0x30 }) do
        local want = {}
        for i = 0, lanes - 1 do
          local p = math.floor(i / per)
          if parts == 4 then
            want[i + 1] = (p < 2 and a or b2)[bit.band(bit.rshift(k, 2 * p), 3) * per + i % per + 1]
          else
            local which = bit.band(bit.rshift(k, 4 * p), 3)
            want[i + 1] = (which < 2 and a or b2)[which % 2 * per + i % per + 1]
          end
        end
        assert.same(want, once(isa, w, "f", { a, b2 }, function(b, x, y) return b:part(x, y, k) end))
      end
    end)
  end

  if isa == "avx512" then
    it("scalef." .. w.f, function() -- b finite; of infinite ones nothing is promised
      local values = {}
      for _, v in ipairs(floats) do if v == v and math.abs(v) ~= INF then values[#values + 1] = v end end
      for _, v in ipairs { 10.5, -10.5, 127, -126, -149, -1074, 1023 } do values[#values + 1] = v end
      tab(function(b, x, y) return b:scalef(x, y) end, 2, "f", "f", values, function(_, x, y)
        return ffi.C.ldexp(x, math.max(-5000, math.min(5000, math.floor(y))))
      end)
    end)
  end
end

for _, isa in ipairs(case.isas()) do
  for _, w in ipairs(case.WIDTH) do
    describe(("vector rows of %s and %s on %s"):format(w.f, w.i, isa), function() run(isa, w) end)
  end
end

describe("vector rows", function()
  it("have all run, for every type they exist for", function()
    for _, isa in ipairs(case.isas()) do
      local missing, count = case.missing(isa, false)
      assert.same({}, missing)
      assert.is_true(count > 60)
    end
  end)
end)
