--- Tensors for scripts and the REPL: compact row-major data in C memory, with a shape and a dtype.
--
--   tensor.new(dtype, { 2, 3 })          zeros
--   tensor.from({ { 1, 2 }, { 3, 4 } }, dtype)     nested tables, "f32" unless given
--   tensor.randn({ 2, 3 }, seed, dtype)  normal draws: the same seed gives the same numbers
--   tensor.load(path)  t:save(path)      .npy; nil, message, status on failure
--   t.shape t.dtype t.count t.data       data: C pointer of the dtype's type, alive as long as t
--   t:get(i, j, ...)  t:set(value, i, j, ...)   indices from 1
--   t == u compares shape, dtype and bytes; tostring(t) is a short picture
-- Owner: the tensor owns its memory. Thread: one at a time.

local native = require "esper.native"
local C = native.C

local M = {}
local Tensor = {}
Tensor.__index = Tensor
local CTYPE = { f32 = "float *", f64 = "double *", i32 = "int32_t *", i64 = "int64_t *", u8 = "uint8_t *",
  bool = "uint8_t *", bf16 = "uint16_t *", f16 = "uint16_t *" }

local ALIGNMENT = 64 -- a vector that crosses a cache line costs twice
-- Large tensors begin at a page: a load whose address ends in the same 12 bits as one that is being written waits for it, and
-- tensors made one after the other would lie just so.
local LARGE, PAGE = 65536, 4096

local function product(shape)
  local n = 1
  for _, e in ipairs(shape) do n = n * e end
  return n
end

function M.is(value) return getmetatable(value) == Tensor end

--- Takes over memory from C (es_alloc) as a tensor.
function M.adopt(memory, dtype, shape)
  local count = product(shape)
  return setmetatable({ dtype = dtype, shape = { unpack(shape) }, count = count, bytes = count * native.dtypebytes[dtype],
    owner = native.gc(memory, C.es_free), data = native.cast(CTYPE[dtype], memory) }, Tensor)
end

function M.new(dtype, shape)
  local bytes = native.dtypebytes[dtype]
  if not bytes then error("no dtype '" .. tostring(dtype) .. "'; there are f32 f64 i32 i64 u8 bool", 2) end
  if type(shape) ~= "table" then error(("the shape is %s, wanted an array of extents"):format(type(shape)), 2) end
  for i, e in ipairs(shape) do
    if type(e) ~= "number" or e < 0 or e % 1 ~= 0 then error(("extent %d of the shape is %s"):format(i, tostring(e)), 2) end
  end
  local count = product(shape)
  if count > 2 ^ 40 then error("a tensor of " .. tostring(count) .. " elements is over the limit 2^40", 2) end
  local alignment = count * bytes >= LARGE and PAGE or ALIGNMENT
  local memory = C.es_alloc(count * bytes + alignment)
  if memory == nil then error(("no memory for a tensor of %.0f bytes"):format(count * bytes), 2) end
  local t = M.adopt(memory, dtype, shape)
  local shift = -native.address(memory) % alignment
  t.data = native.cast(CTYPE[dtype], native.cast("char *", memory) + shift)
  return t
end

--- Draws of one kind (sample.h: normal wide tiny special positive near_one small index coin).
function M.sample(kind, dtype, shape, seed, stream, lo, hi)
  local t = M.new(dtype, shape)
  if C.es_sample_fill(native.sample[kind], native.dtype[dtype], seed, stream or 0, lo or 0, hi or 100, t.count,
      t.data, native.fresh()) ~= 0 then
    return native.failure()
  end
  return t
end

function M.randn(shape, seed, dtype) return assert(M.sample("normal", dtype or "f32", shape, seed or 0)) end

function M.from(values, dtype)
  local shape, level = {}, values
  while type(level) == "table" do
    shape[#shape + 1] = #level
    level = level[1]
  end
  local t, at = M.new(dtype or "f32", shape), 0
  local function fill(v, axis)
    if axis > #shape then
      if type(v) ~= "number" and type(v) ~= "boolean" then error("tensor.from: an element is a " .. type(v) .. ", wanted a number", 3) end
      t.data[at] = v == true and 1 or v or 0
      at = at + 1
      return
    end
    if type(v) ~= "table" or #v ~= shape[axis] then
      error(("tensor.from: ragged rows on axis %d, wanted %d elements"):format(axis, shape[axis]), 3)
    end
    for _, e in ipairs(v) do fill(e, axis + 1) end
  end
  fill(values, 1)
  return t
end

function Tensor:offset(...)
  local index, at = { ... }, 0
  if #index ~= #self.shape then error(("%d indices for a tensor of rank %d"):format(#index, #self.shape), 3) end
  for axis, i in ipairs(index) do
    if i < 1 or i > self.shape[axis] then
      error(("index %d on axis %d, which has %d elements"):format(i, axis, self.shape[axis]), 3)
    end
    at = at * self.shape[axis] + i - 1
  end
  return at
end

function Tensor:get(...) return tonumber(self.data[self:offset(...)]) end
function Tensor:set(value, ...) self.data[self:offset(...)] = value end

function Tensor:raw() return native.string(self.data, self.bytes) end

function Tensor.__eq(a, b)
  return a.dtype == b.dtype and table.concat(a.shape, ",") == table.concat(b.shape, ",") and a:raw() == b:raw()
end

--- A tensor from a .npy file | nil, message, status.
function M.load(path)
  if type(path) ~= "string" then return nil, ("the path is %s, wanted a string"):format(type(path)), "EARG" end
  local head, data = native.new("es_npy"), native.new("void *[1]")
  if C.es_npy_read(path, head, data, native.fresh()) ~= 0 then return native.failure() end
  local shape, dtype = {}, native.dtypename[head.dtype]
  for i = 1, head.rank do shape[i] = tonumber(head.shape[i - 1]) end
  return M.adopt(data[0], dtype, shape)
end

--- Writes a .npy file, replacing what is there: true | nil, message, status.
function Tensor:save(path)
  local shape = native.new("int64_t[8]", self.shape)
  if C.es_npy_write(path, native.dtype[self.dtype], #self.shape, shape, self.data, native.fresh()) ~= 0 then return native.failure() end
  return true
end

local function number(self, i)
  local v = tonumber(self.data[i])
  if self.dtype ~= "f32" and self.dtype ~= "f64" then return ("%d"):format(v) end
  return v ~= v and "nan" or ("%.4g"):format(v)
end

-- Rows of the last axis, the middle of long ones left out.
function Tensor:__tostring()
  local head = ("%s[%s]"):format(self.dtype, table.concat(self.shape, ", "))
  if self.count == 0 or self.dtype == "bf16" or self.dtype == "f16" then return head end
  local width = #self.shape == 0 and 1 or self.shape[#self.shape]
  local rows, lines = self.count / width, {}
  for r = 0, rows - 1 do
    if rows > 8 and r == 4 then lines[#lines + 1] = ("  ... %d rows ..."):format(rows - 8) end
    if rows <= 8 or r < 4 or r >= rows - 4 then
      local cells = {}
      for c = 0, width - 1 do
        if width > 8 and c == 4 then cells[#cells + 1] = "..." end
        if width <= 8 or c < 4 or c >= width - 4 then cells[#cells + 1] = ("%9s"):format(number(self, r * width + c)) end
      end
      lines[#lines + 1] = "  " .. table.concat(cells, " ")
    end
  end
  return head .. "\n" .. table.concat(lines, "\n")
end

return M
