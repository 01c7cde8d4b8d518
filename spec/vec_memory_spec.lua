-- Rows of vec.def that touch memory, count and loop, on every instruction set this processor runs. Accesses are made against
-- pages that cannot be touched: what a masked-off lane, a broadcast or a single element reached beyond, the process dies of.
local native = require "esper.native"
local case = require "support.vec_case"
local vec = require "esper.vec"

local address, same = case.address, case.same
local MARK = 99

-- Elements of `count` at the end (or the beginning) of a page, 1 2 3 ..., as a typed pointer.
local function elements(page, ctype, bytes, count, at_end)
  local from = native.cast(ctype .. " *", at_end and page + case.PAGE - count * bytes or page)
  for i = 0, count - 1 do from[i] = i + 1 end
  return from
end

local function expect(want, got, text)
  for i = 1, #want do
    if tonumber(got[i - 1]) ~= want[i] then
      error(("%s: element %d is %s; want %s"):format(text, i - 1, tostring(got[i - 1]), want[i]), 2)
    end
  end
end

-- A mask of the lanes below a count, or of those from the count on.
local function mask_of(b, count, upper)
  local below = b:m_tail(count)
  return upper and b:m_not(below) or below
end

-- Which lanes are on, as a list of booleans.
local function lanes_on(lanes, count, upper)
  local on = {}
  for lane = 1, lanes do on[lane] = (lane <= count) ~= upper end
  return on
end

local function masked_accesses(isa, type, ctype, bytes)
  local lanes = vec.lanes(isa, type)
  local page, other = case.page(), native.new(ctype .. "[?]", lanes)
  for _, upper in ipairs { false, true } do
    for _, k in ipairs { 0, -256, 4096 } do
      local function block(body)
        return case.build(isa, type, function(b) body(b, b:arg(0), b:arg(1), b:arg(2), mask_of(b, b:arg(3), upper)) end)
      end
      local load = block(function(b, x, y, _, m) b:store(y, b:load(x, k, m)) end)
      local loads = block(function(b, x, y, step, m) b:store(y, b:loads(x, step, k, m)) end)
      local store = block(function(b, x, y, _, m) b:store(x, b:load(y), k, m) end)
      local stores = block(function(b, x, y, step, m) b:stores(x, step, b:load(y), k, m) end)
      for count = 0, lanes do
        local active = upper and lanes - count or count
        local on = lanes_on(lanes, count, upper)
        local from = elements(page, ctype, bytes, active, not upper) -- lane 0 of the upper ones lies before the page
        local base = address(from) - (upper and count * bytes or 0) - k
        local text = ("%s %s, %d lanes %s, k = %d"):format(isa, type, count, upper and "off" or "on", k)
        local want, n = {}, 0
        for lane = 1, lanes do
          if on[lane] then n = n + 1 end
          want[lane] = on[lane] and n or 0
        end
        load(base, address(other), 0, count)
        expect(want, other, "load of " .. text)
        loads(base, address(other), bytes, count)
        expect(want, other, "loads of " .. text)

        for lane = 0, lanes - 1 do other[lane] = 10 * (lane + 1) end
        want, n = {}, 0
        for lane = 1, lanes do if on[lane] then want[#want + 1] = 10 * lane end end
        for i = 0, active - 1 do from[i] = MARK end
        store(base, address(other), 0, count)
        expect(want, from, "store of " .. text)
        for i = 0, active - 1 do from[i] = MARK end
        stores(base, address(other), bytes, count)
        expect(want, from, "stores of " .. text)
      end
    end
  end
end

-- Strides of more than an element, of less, backwards and none; what lies between stays.
local function strided_accesses(isa, type, ctype, bytes)
  local lanes = vec.lanes(isa, type)
  local room, middle = 8 * 16 + 1, 64
  local from, to = native.new(ctype .. "[?]", room), native.new(ctype .. "[?]", room)
  local fn = case.build(isa, type, function(b)
    local x, y, step = b:arg(0), b:arg(1), b:arg(2)
    b:stores(y, step, b:loads(x, step, 8), 8)
  end)
  local one = case.build(isa, type, function(b) b:store(b:arg(1), b:loads(b:arg(0), b:arg(2))) end)
  for _, step in ipairs { 1, 2, 3, -1, -4, 0 } do
    for i = 0, room - 1 do from[i], to[i] = i % 100, MARK end
    fn(address(from + middle) - 8, address(to + middle) - 8, step * bytes)
    for i = 0, room - 1 do
      local lane = step == 0 and 0 or (i - middle) / step
      local touched = lane == math.floor(lane) and lane >= 0 and lane < lanes and (step ~= 0 or i == middle)
      assert.equal(touched and i % 100 or MARK, tonumber(to[i]))
    end
    one(address(from + middle), address(to), step * bytes)
    for lane = 0, lanes - 1 do assert.equal((middle + lane * step) % 100, tonumber(to[lane])) end
  end
end

-- Full vectors, broadcasts and single elements that end with a page, plain and as operands of arithmetic.
local function full_accesses(isa, type, ctype, bytes)
  local lanes = vec.lanes(isa, type)
  local page, to = case.page(), native.new(ctype .. "[?]", 8 * lanes)
  local last = elements(page, ctype, bytes, lanes, true)
  local at = address(last)
  case.build(isa, type, function(b)
    local x, y, far, h = b:arg(0), b:arg(1), b:arg(2), b:arg(3)
    local size = lanes * bytes
    local vector, third = b:load(x), b:load(b:g_addk(x, -56), 56)
    b:store(y, b:load(x))
    b:store(y, b:loadx(far, h, 8, 16), size)
    b:store(y, b:bcast(x, size - bytes), 2 * size)
    b:store(y, b:bcastx(far, h, 8, 16 + size - bytes), 3 * size)
    b:store(y, b:add(vector, b:load(x)), 4 * size)
    b:store(y, b:add(third, b:bcast(x, size - bytes)), 5 * size)
    b:store(y, b:add(b:loadx(far, h, 8, 16), b:bcastx(far, h, 8, 16 + size - bytes)), 6 * size)
    b:store(y, b:add(vector, b:add(third, b:loadx(far, h, 4, 16 + 4000))), 7 * size)
    b:storent(b:arg(4), vector, -size)
    b:store1(x, b:bcast(x), size - bytes)
  end)(at, address(to), at - 16 - 8 * 1000, 1000, address(page) + lanes * bytes)
  local first = native.cast(ctype .. " *", page)
  for lane = 1, lanes + 1 do assert.equal(lane <= lanes and lane or 0, tonumber(first[lane - 1])) end
  for lane = 1, lanes do
    local want = { lane, lane, lanes, lanes, 2 * lane, lane + lanes, lane + lanes, 3 * lane }
    for i = 1, 8 do assert.equal(want[i], tonumber(to[(i - 1) * lanes + lane - 1]), i) end
  end
  for lane = 1, lanes do assert.equal(lane == lanes and 1 or lane, tonumber(last[lane - 1])) end
end

local function loops(isa, w)
  for _, counts in ipairs { { 0, 3, 0 }, { -5, 3, 0 }, { 1, 1, 1 }, { 4, 3, 12 }, { 3, 0, 0 } } do
    local to = native.new(w.uint .. "[16]")
    case.build(isa, w.i, function(b)
      local y, outer, inner = b:arg(0), b:arg(1), b:arg(2)
      local sum, g, total = b:isplat(0), b:const(0), b:splat(0)
      b:prefetch(b:const(8))
      b:loop(outer, function()
        b:loop(inner, function()
          b:set(sum, b:add(sum, b:isplat(1)))
          b:set(total, b:add(total, b:splat(0.5)))
          b:note(1)
          b:g_set(g, b:g_addk(g, 2))
        end)
      end)
      b:store(y, b:add(b:add(sum, b:splatg(g)), b:cvt_i(b:add(total, total))))
    end)(address(to), counts[1], counts[2])
    assert.is_true(same(w, to, 0, native.cast("int64_t", 4 * counts[3])))
  end
end

-- A pointer moved right behind the load that an instruction further on takes as its operand.
local function moved_pointer(isa, w)
  local lanes = vec.lanes(isa, w.f)
  local from, to = native.new(w.float .. "[?]", 4 * lanes), native.new(w.float .. "[?]", lanes)
  for i = 0, 4 * lanes - 1 do from[i] = i end
  case.build(isa, w.f, function(b)
    local p, y = b:copy(b:arg(0)), b:arg(1)
    local sum = b:splat(0)
    b:loop(b:arg(2), function()
      local v = b:load(p)
      local next_one = b:g_addk(p, lanes * w.bytes)
      b:set(sum, b:add(sum, v))
      b:g_set(p, next_one)
    end)
    b:store(y, sum)
  end)(address(from), address(to), 4)
  for lane = 0, lanes - 1 do assert.equal(4 * lane + 6 * lanes, to[lane]) end
end

-- Constants that loops hold in registers are shared when their bits are equal, not when they compare so.
local function constants(isa, w)
  local lanes = vec.lanes(isa, w.f)
  local to = native.new(w.float .. "[?]", 4 * lanes)
  local list = { 0, -0.0, 1, 0 / 0 }
  case.build(isa, w.f, function(b)
    b:loop(b:arg(1), function()
      for i, n in ipairs(list) do b:store(b:arg(0), b:splat(n), (i - 1) * lanes * w.bytes) end
    end)
  end)(address(to), 2)
  for i, n in ipairs(list) do
    for lane = 0, lanes - 1 do
      local x = to[(i - 1) * lanes + lane]
      assert.is_true(n ~= n and x ~= x or n == x and 1 / n == 1 / x, i)
    end
  end
end

-- A loaded value that is set to another one before it is read.
local function set_load(isa, w)
  local lanes = vec.lanes(isa, w.f)
  local from, to = native.new(w.float .. "[?]", 2 * lanes), native.new(w.float .. "[?]", lanes)
  for i = 0, 2 * lanes - 1 do from[i] = i end
  case.build(isa, w.f, function(b)
    local v, one = b:load(b:arg(0)), b:load(b:arg(0), lanes * w.bytes)
    b:set(v, b:add(one, one))
    b:store(b:arg(1), b:add(one, v))
  end)(address(from), address(to))
  for lane = 0, lanes - 1 do assert.equal(3 * (lanes + lane), to[lane]) end
end

-- More values alive than there are registers of any kind, across nested loops.
local function crowded(isa, w)
  local lanes, many, words = vec.lanes(isa, w.f), 40, 18
  local from, to = native.new(w.float .. "[?]", many + lanes), native.new(w.float .. "[?]", lanes)
  for i = 0, many + lanes - 1 do from[i] = i end
  local fn = case.build(isa, w.f, function(b)
    local y, outer, inner, x = b:arg(0), b:arg(1), b:arg(2), b:arg(3)
    local v, g, m, total, steps = {}, {}, {}, b:splat(0), b:const(0)
    for i = 1, many do v[i] = b:load(x, (i - 1) * w.bytes) end
    for i = 1, words do g[i] = b:g_addk(b:arg(3 + i), i) end
    for i = 1, 12 do m[i] = b:lt(v[i], v[2 * i + 3]) end
    b:loop(outer, function()
      b:loop(inner, function()
        for i = 1, many do b:set(total, b:add(total, v[i])) end
        for i = 1, words do b:g_set(steps, b:g_add(steps, g[i])) end
        for i = 1, 12 do b:set(total, b:add(total, b:select(m[i], b:splat(1), b:splat(0)))) end
      end)
    end)
    b:store(y, b:add(total, b:cvt_f(b:splatg(steps))))
  end)
  local arguments, sum = { address(to), 2, 3, address(from) }, 0
  for i = 1, words do
    arguments[4 + i] = 10 * i
    sum = sum + 11 * i
  end
  fn(unpack(arguments))
  for lane = 0, lanes - 1 do
    assert.equal(6 * (many * (many - 1) / 2 + many * lane + 12 + sum), to[lane])
  end
end

-- As many loops inside each other as there may be, more than there are registers for their counters.
local function nested(isa, w)
  local to = native.new(w.int .. "[16]")
  case.build(isa, w.i, function(b)
    local y, two, sum = b:arg(0), b:arg(1), b:isplat(0)
    local function nest(depth)
      if depth == 0 then return b:set(sum, b:add(sum, b:isplat(1))) end
      b:loop(two, function() nest(depth - 1) end)
    end
    nest(16)
    b:store(y, sum)
  end)(address(to), 2)
  for lane = 0, vec.lanes(isa, w.i) - 1 do assert.equal(65536, tonumber(to[lane])) end
end

for _, isa in ipairs(case.isas()) do
  for _, w in ipairs(case.WIDTH) do
    describe(("vector memory of %d bytes on %s"):format(w.bytes, isa), function()
      for _, class in ipairs { "f", "i" } do
        local type, ctype = w[class], class == "f" and w.float or w.int
        it("masked accesses touch the lanes that are on: " .. type, function() masked_accesses(isa, type, ctype, w.bytes) end)
        it("strided accesses: " .. type, function() strided_accesses(isa, type, ctype, w.bytes) end)
        it("full accesses end where they should: " .. type, function() full_accesses(isa, type, ctype, w.bytes) end)
      end
      it("loops, and registers changed in them", function() loops(isa, w) end)
      it("sixteen loops inside each other", function() nested(isa, w) end)
      it("a pointer does not run ahead of a load", function() moved_pointer(isa, w) end)
      it("a value that is loaded, then set", function() set_load(isa, w) end)
      it("constants keep their bits in loops", function() constants(isa, w) end)
      it("values that do not fit the registers", function() crowded(isa, w) end)
    end)
  end

  describe("vector scalars on " .. isa, function()
    it("wrap, shift down and keep 64 bits", function()
      local w = case.WIDTH[2]
      for _, n in ipairs { 0LL, 1LL, -1LL, 123456789012345LL, -9223372036854775807LL - 1 } do
        local to = native.new "int64_t[20]"
        case.build(isa, "i64", function(b)
          local y, g = b:arg(0), b:arg(1)
          local results = { b:g_add(g, b:const(2 ^ 40)), b:g_addk(g, -3), b:g_sub(b:const(5), g), b:g_mulk(g, -7), b:g_shrk(g, 3),
            b:copy(g), b:g_addk(g, 2 ^ 40), b:g_mulk(g, 2 ^ 33), b:g_sub(g, g) }
          for i, r in ipairs(results) do b:store1(y, b:splatg(r), 8 * (i - 1)) end
        end)(address(to), n)
        local want = { n + 1099511627776LL, n - 3, 5 - n, n * -7, bit.arshift(n, 3), n, n + 1099511627776LL, n * 8589934592LL, 0LL }
        for i, v in ipairs(want) do assert.is_true(same(w, to, i - 1, v), i) end
      end
    end)
  end)
end

describe("vector memory", function()
  it("has run every row, for every type it exists for", function()
    for _, isa in ipairs(case.isas()) do
      local missing, count = case.missing(isa, true)
      assert.same({}, missing)
      assert.is_true(count > 40)
    end
  end)
end)
