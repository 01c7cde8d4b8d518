--- Vector blocks as recipes write them: a thin Lua face of src/vec (vec.h), one FFI call per instruction.
-- Stands between the recipes (kernels/*.lua, lua/esper/vecmath.lua) and the unit (lua/esper/emit.lua).
--
--   local b = vec.block("scalar", "f32")    -- isa name; element type "f32" "f64" "i32" "i64"
--   local n, x, y = b:arg(0), b:arg(1), b:arg(2)
--   b:each(n, { x, y }, function(mask)      -- y[i] = x[i] * x[i] + 1
--     local v = b:load(x, 0, mask)
--     b:store(y, b:fma(v, v, b:splat(1)), 0, mask)
--   end)
--   local text = b:lower("square")          -- static void square(const long *w) { ... }
--
-- b.type as given, b.ftype and b.itype its float and integer type of equal width, b.bytes 4 or 8, b.lanes (1 in
-- plain C), b.isa.
-- A register is a plain Lua number, good within its block: scalars g, vectors v (float or integer), masks m. A mistake
-- (wrong class or type, missing operand, open loop) is a Lua error at the line that made it.
--
-- One method per row of vec.def, under its name, operands in the row's order; a byte offset may be left out (0).
--   * Element type. Rows of floats only (mul, fma, splat...) work in b.ftype, rows of integers only (shl, and_,
--     iota...) in b.itype. Rows of both classes (add, sub, select, lt, set, store, bits...) take the class of their
--     vector operands; those without vector operands (load, bcast, loads...) are b.type. An `i` in front fixes the
--     integer class: iload, iloads, ibcast, and iadd, ilt, iselect... where a recipe wants it checked.
--   * bits(v) turns float into integer and back; cvt_i, cvtt_i give integers, cvt_f floats.
--   * Memory: load(g, k, m), bcast(g, k), loads(g, stride_g, k, m), store(g, v, k, m), stores(g, stride_g, v, k, m),
--     store1(g, v, k): a mask may be nil (all lanes). k is in bytes, strides are g registers in bytes.
--   * loadx(g, h, scale, k), bcastx(g, h, scale, k): at g + h * scale + k, scale 1, 2, 4 or 8. prefetch(g, k): a hint.
--   * arg = g_arg, const = g_const, isplat = splati.
--   * set(acc, v) and g_set(g, h) change a register in place: the only way a value leaves a loop's body.
--   * note(k) marks what follows as the group's k-th node; dumps show it.
-- Shapes of control:
--   b:loop(g, body)               body() runs g times
--   b:each(g, advance, body)      body(mask) covers g elements, b.lanes at a time; mask is nil except in the tail. Every
--                                 entry of `advance` is moved along by each() itself: p by b.bytes per ELEMENT,
--                                 { p, step = g } by the bytes in scalar g per element (each() multiplies by lanes),
--                                 { p, bytes = 8 } by a constant per element. Afterwards these registers are used up;
--                                 keep a start with b:copy(p). A body that gathers into an accumulator under a mask
--                                 must make masked lanes neutral itself (b:select).
-- Across lanes: b:hadd, hmin, hmax (in every lane), b:transpose(rows), b:hadd_all(vectors), b:unzip(low, high).
-- Also: b:copy(g) a scalar of its own; b:text() the listing; vec.lanes(isa, type); vec.best() the ISA name to use.

local native = require "esper.native"
local C = native.C

local M = {}
local Block = {}
Block.__index = Block

-- In the order of es_vec_type.
local TYPE = { f32 = 0, f64 = 1, i32 = 2, i64 = 3, none = 4 }
local BYTES = { f32 = 4, i32 = 4, f64 = 8, i64 = 8 }

local function isa_number(name)
  local isa = C.es_isa_named(name)
  if isa < 0 then error(("vec: unknown isa %q; want scalar, avx2 or avx512"):format(tostring(name)), 3) end
  return isa
end

local function check_type(type)
  return BYTES[type] or error(("vec: element type %s; want f32, f64, i32 or i64"):format(tostring(type)), 3)
end

function M.best() return native.string(C.es_isa_name(C.es_isa_best())) end
function M.lanes(isa, type) return C.es_isa_lanes(isa_number(isa), check_type(type)) end

function M.block(isa, type)
  local bytes, number = check_type(type), isa_number(isa)
  local handle = C.es_vec_new(number, bytes)
  if handle == nil then error("vec: out of memory", 2) end
  return setmetatable({
    handle = native.gc(handle, C.es_vec_free), isa = isa, type = type, bytes = bytes,
    ftype = bytes == 4 and "f32" or "f64", itype = bytes == 4 and "i32" or "i64",
    lanes = C.es_isa_lanes(number, bytes), code = TYPE[type], icode = TYPE[bytes == 4 and "i32" or "i64"],
  }, Block)
end

-- ---- one method per row of vec.def ----

local emit, emit3, emitk = C.es_vec_emit, C.es_vec_emit3, C.es_vec_emitk
local ANY = TYPE.none -- lets the builder take the element type from row or operands

local function refuse(b) error(native.string(C.es_vec_failure(b.handle)), 3) end -- 3: whoever called the method

local function whole(k)
  local kind = type(k)
  if kind ~= "number" and kind ~= "cdata" or k % 1 ~= 0 then
    error(("vec: constant is %s; want a whole number"):format(tostring(k)), 3)
  end
end

-- The argument lists there are, by the place of the constant in the row (0: none): functions of the op's number, the
-- block's field with its element type (nil: ANY), what stands in for a constant left out, and how many operands there are.
-- The bodies are alike but for their calls: a call from Lua costs by its arguments, so most instructions take a short one.
local SHAPE = {}

SHAPE[0] = function(op, key)
  return function(b, x, y, z)
    local r = emit3(b.handle, op, key and b[key] or ANY, x or -1, y or -1, z or -1)
    if r < 0 then refuse(b) end
    return r
  end
end

SHAPE[1] = function(op, key)
  return function(b, k)
    whole(k)
    local r = emitk(b.handle, op, key and b[key] or ANY, -1, -1, k)
    if r < 0 then refuse(b) end
    return r
  end
end

SHAPE[2] = function(op, key, k0, count)
  return function(b, x, k, z)
    k = k or k0
    whole(k)
    local r
    if count == 2 then r = emitk(b.handle, op, key and b[key] or ANY, x or -1, -1, k)
    else r = emit(b.handle, op, key and b[key] or ANY, x or -1, -1, z or -1, -1, -1, k, 0) end
    if r < 0 then refuse(b) end
    return r
  end
end

SHAPE[3] = function(op, key, k0, count)
  return function(b, x, y, k, u)
    k = k or k0
    whole(k)
    local r
    if count == 3 then r = emitk(b.handle, op, key and b[key] or ANY, x or -1, y or -1, k)
    else r = emit(b.handle, op, key and b[key] or ANY, x or -1, y or -1, -1, u or -1, -1, k, 0) end
    if r < 0 then refuse(b) end
    return r
  end
end

SHAPE[4] = function(op, key, k0)
  return function(b, x, y, z, k, v)
    k = k or k0
    whole(k)
    local r = emit(b.handle, op, key and b[key] or ANY, x or -1, y or -1, z or -1, -1, v or -1, k, 0)
    if r < 0 then refuse(b) end
    return r
  end
end

local function number_method(op, key)
  return function(b, n)
    if type(n) ~= "number" then error(("vec: splat of %s; want a number"):format(tostring(n)), 2) end
    local r = emit(b.handle, op, key and b[key] or ANY, -1, -1, -1, -1, -1, 0, n)
    if r < 0 then refuse(b) end
    return r
  end
end

-- loadx, bcastx: an address with an index register times a scale.
local function indexed_method(op)
  return function(b, x, y, scale, k)
    whole(k or 0)
    local r = emit(b.handle, op, b.code, x or -1, y or -1, -1, -1, -1, k or 0, scale or 1)
    if r < 0 then refuse(b) end
    return r
  end
end

-- The row with a mask serves the one without: load(g, k, m) is loadm when m is given.
local function masked(plain, with, place)
  if place == 3 then
    return function(b, x, k, m)
      if m then return with(b, x, k, m) end
      return plain(b, x, k)
    end
  elseif place == 4 then
    return function(b, x, y, k, m)
      if m then return with(b, x, y, k, m) end
      return plain(b, x, y, k)
    end
  end
  return function(b, x, y, z, k, m)
    if m then return with(b, x, y, z, k, m) end
    return plain(b, x, y, z, k)
  end
end

local function define(op, row)
  local name, operands, types = native.string(row.name), native.string(row.operands), native.string(row.types)
  local make = operands == "n" and number_method or operands == "ggkn" and indexed_method
    or SHAPE[operands:find("k", 1, true) or 0]
  local both = types == "b"
  local memory = name:find "^load" or name:find "^store" or name == "bcast" or name == "prefetch"
  Block[name] = make(op, both and not operands:find("v", 1, true) and "code" or nil, memory and 0, #operands)
  if both then Block["i" .. name] = make(op, "icode", memory and 0, #operands) end
end

local op = 0
while C.es_vec_row_of(op) ~= nil do
  define(op, C.es_vec_row_of(op))
  op = op + 1
end
for name, place in pairs { load = 3, loads = 4, store = 4, stores = 5 } do
  for _, class in ipairs { "", "i" } do
    Block[class .. name] = masked(Block[class .. name], Block[class .. name .. "m"], place)
  end
end
Block.arg, Block.const, Block.isplat = Block.g_arg, Block.g_const, Block.splati

function Block:copy(g) return self:g_addk(g, 0) end

-- ---- control ----

local open, close = Block.loop, Block["end"]
function Block:loop(count, body)
  open(self, count)
  body()
  close(self)
end

-- Bytes to add to each pointer after `lanes` elements: { pointer, k = bytes } or { pointer, g = register }.
local function advances(b, list)
  local out = {}
  for i, entry in ipairs(list) do
    if type(entry) == "number" then
      out[i] = { entry, k = b.bytes * b.lanes }
    elseif entry.step then
      out[i] = { entry[1], g = b.lanes == 1 and entry.step or b:g_mulk(entry.step, b.lanes) }
    else
      out[i] = { entry[1], k = entry.bytes * b.lanes }
    end
  end
  return out
end

local function move(b, moves)
  for _, m in ipairs(moves) do b:g_set(m[1], m.k and b:g_addk(m[1], m.k) or b:g_add(m[1], m.g)) end
end

function Block:each(count, advance, body)
  local moves = advances(self, advance)
  if self.lanes == 1 then
    return self:loop(count, function()
      body(nil)
      move(self, moves)
    end)
  end
  local shift, left = math.log(self.lanes, 2), self:copy(count)
  self:loop(self:g_shrk(count, shift), function()
    body(nil)
    move(self, moves)
    self:g_set(left, self:g_addk(left, -self.lanes))
  end)
  -- left < lanes; the tail runs once when left > 0
  self:loop(self:g_shrk(self:g_addk(left, self.lanes - 1), shift), function() body(self:m_tail(left)) end)
end

-- ---- across lanes ----

-- Combines the parts of the four (two) vectors q[1..] so that vector p of the result holds part p of each.
local function turn_parts(b, q)
  if #q == 2 then return { b:part(q[1], q[2], 0x20), b:part(q[1], q[2], 0x31) } end
  local low, high = { b:part(q[1], q[2], 0x44), b:part(q[3], q[4], 0x44) }, { b:part(q[1], q[2], 0xEE), b:part(q[3], q[4], 0xEE) }
  return { b:part(low[1], low[2], 0x88), b:part(low[1], low[2], 0xDD), b:part(high[1], high[2], 0x88), b:part(high[1], high[2], 0xDD) }
end

--- Rows r[1 .. lanes] to columns: lane i of result j is lane j of r[i]. Floats.
function Block:transpose(r)
  if self.lanes == 1 then return { r[1] } end
  local per = 16 / self.bytes -- elements of a part
  local groups, out = self.lanes / per, {}
  local inside = {} -- [g][j]: in part p, elements r[(g - 1) * per + 1 ..] of column p * per + j
  for g = 1, groups do
    local a = { unpack(r, (g - 1) * per + 1, g * per) }
    if per == 2 then
      inside[g] = { self:unpl(a[1], a[2]), self:unph(a[1], a[2]) }
    else
      local ab, cd = { self:unpl(a[1], a[2]), self:unph(a[1], a[2]) }, { self:unpl(a[3], a[4]), self:unph(a[3], a[4]) }
      inside[g] = { self:unpl2(ab[1], cd[1]), self:unph2(ab[1], cd[1]), self:unpl2(ab[2], cd[2]), self:unph2(ab[2], cd[2]) }
    end
  end
  for j = 1, per do
    local q = {}
    for g = 1, groups do q[g] = inside[g][j] end
    for p, v in ipairs(turn_parts(self, q)) do out[(p - 1) * per + j] = v end
  end
  return out
end

--- One vector whose lane i is the sum of all lanes of v[i]; of at most `lanes` vectors, lanes beyond #v hold anything.
function Block:hadd_all(v)
  if self.lanes == 1 then return v[1] end
  local per = 16 / self.bytes
  local function take(i) return v[i] or v[#v] end
  local function joined(low, high, a, b2) return self:add(low(self, a, b2), high(self, a, b2)) end
  local q = {}
  for g = 1, self.lanes / per do
    local first = (g - 1) * per + 1
    if first > #v then
      q[g] = q[#q]
    else
      local ab = joined(self.unpl, self.unph, take(first), take(first + 1))
      q[g] = per == 2 and ab
        or joined(self.unpl2, self.unph2, ab, joined(self.unpl, self.unph, take(first + 2), take(first + 3)))
    end
  end
  if #q == 2 then return self:add(self:part(q[1], q[2], 0x20), self:part(q[1], q[2], 0x31)) end
  local function pair(a, b2, low, high) return self:add(self:part(a, b2, low), self:part(a, b2, high)) end
  return pair(pair(q[1], q[2], 0x44, 0xEE), pair(q[3], q[4], 0x44, 0xEE), 0x88, 0xDD)
end

--- Every second element of two vectors that follow each other in memory: 0, 2, 4..., then 1, 3, 5... Floats.
function Block:unzip(low, high)
  if self.lanes == 1 then return low, high end
  local wide = self.lanes * self.bytes == 64
  local a, b2 = self:part(low, high, wide and 0x88 or 0x20), self:part(low, high, wide and 0xDD or 0x31)
  local even, odd = self:unpl(a, b2), self:unph(a, b2) -- done where a part is two elements
  if self.bytes == 8 then return even, odd end
  return self:unpl(even, odd), self:unph(even, odd)
end

-- ---- out ----

local scratch = native.gc(native.new "es_text", C.es_text_clear)

local digest = native.new "es_hash"

--- 32 bytes that are equal for blocks with equal instructions.
function Block:digest()
  C.es_vec_digest(self.handle, digest)
  return native.string(digest.bytes, 32)
end

--- C text that defines the block as a static function `name`.
function Block:lower(name)
  local err = native.fresh()
  C.es_text_clear(scratch)
  if C.es_vec_lower(self.handle, name, scratch, err) ~= 0 then
    C.es_text_clear(scratch)
    local _, message = native.failure()
    error(message, 2)
  end
  local text = native.string(scratch.bytes, scratch.length)
  C.es_text_clear(scratch)
  return text
end

--- Its machine instructions with their offsets, each with the loop and the node (b:note) it belongs to; nil in plain C.
function Block:assembly()
  if self.lanes == 1 then return nil end
  local err = native.fresh()
  C.es_text_clear(scratch)
  if C.es_vec_listing(self.handle, scratch, err) ~= 0 then
    local _, message = native.failure()
    error(message, 2)
  end
  return native.string(scratch.bytes, scratch.length)
end

function Block:text() return native.text(C.es_vec_print, self.handle) end

return M
