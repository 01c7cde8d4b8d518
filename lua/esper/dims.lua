--- Dimensions as Lua numbers: handles into an es_dims table, with what can be asked about them. Beside graph.lua.
--
--   D:const(n) D:symbol(name) D:add(a, b) D:sub D:mul D:floordiv(a, n) D:ceildiv(a, n) D:parse(text)   make handles
--   D:value(d) number or nil   D:text(d)   D:ge(a, b) proved   D:bounds(d) -> min, max   D:symbol_index(d)
--   D:range(name, min, max) -> true | nil, message, status
--   D:symbols() -> { { name=, min=, max= }, ... } in index order
--   D:eval{ batch = 2 } -> array from handle 0 | nil, message, status
-- A handle of -1 (overflow, no memory) is refused by whatever takes it. Handles never change, so answers are kept.

local native = require "esper.native"
local C, failure, fresh, new, cstring = native.C, native.failure, native.fresh, native.new, native.string

local M = {}

local Dims = {}
Dims.__index = Dims
local int_a, int_b = new("int64_t[1]"), new("int64_t[1]")

--- Takes over one count of an es_dims *.
function M.wrap(pointer)
  if pointer == nil then return nil, "out of memory", "ENOMEM" end
  return setmetatable({ ptr = native.gc(pointer, C.es_dims_release), consts = {}, values = {}, texts = {}, sums = {},
    products = {} }, Dims)
end

--- A new, empty table of dimensions.
function M.new() return M.wrap(C.es_dims_new()) end

function Dims:const(n)
  local d = self.consts[n]
  if not d then
    d = C.es_dim_const(self.ptr, n)
    if d >= 0 then self.consts[n] = d end
  end
  return d
end

function Dims:symbol(name) return C.es_dim_symbol(self.ptr, name) end

local HANDLES = 2 ^ 26 -- more than a table has: a * HANDLES + b tells a pair of handles from every other

-- Pairs come again and again, and a look into a table costs a tenth of a call; failures are not kept.
local function kept(field, compute)
  return function(self, a, b)
    local known, pair = self[field], a * HANDLES + b
    local d = known[pair]
    if d then return d end
    d = compute(self.ptr, a, b)
    if d >= 0 then known[pair] = d end
    return d
  end
end

Dims.add, Dims.mul = kept("sums", C.es_dim_add), kept("products", C.es_dim_mul)
function Dims:sub(a, b) return C.es_dim_sub(self.ptr, a, b) end
function Dims:floordiv(a, n) return C.es_dim_floordiv(self.ptr, a, n) end
function Dims:ceildiv(a, n) return C.es_dim_ceildiv(self.ptr, a, n) end
function Dims:ge(a, b) return C.es_dim_proved_ge(self.ptr, a, b) end

function Dims:value(d)
  local v = self.values[d]
  if v == nil then
    v = d >= 0 and C.es_dim_is_const(self.ptr, d, int_a) and tonumber(int_a[0])
    self.values[d] = v
  end
  return v or nil
end

function Dims:text(d)
  local t = self.texts[d]
  if not t then
    t = d >= 0 and native.text(C.es_dim_print, self.ptr, d) or "?"
    self.texts[d] = t
  end
  return t
end

function Dims:bounds(d)
  C.es_dim_bounds(self.ptr, d, int_a, int_b)
  return tonumber(int_a[0]), tonumber(int_b[0])
end

--- Is d a lone symbol? Its index, else nil.
function Dims:symbol_index(d)
  local index = new("int32_t[1]")
  if C.es_dim_is_symbol(self.ptr, d, index) then return index[0] end
end

function Dims:range(name, min, max)
  if C.es_dim_range(self.ptr, name, min, max, fresh()) ~= 0 then return failure() end
  return true
end

function Dims:parse(text)
  local stop = new("const char *[1]")
  local d = C.es_dim_parse(self.ptr, text, stop, fresh())
  if d < 0 then return failure() end
  local rest = cstring(stop[0])
  if rest ~= "" then return nil, "dimension '" .. text .. "': cannot read '" .. rest .. "'", "ESYNTAX" end
  return d
end

function Dims:symbols()
  local list = {}
  for i = 0, C.es_symbol_count(self.ptr) - 1 do
    C.es_symbol_range(self.ptr, i, int_a, int_b)
    list[i + 1] = { name = cstring(C.es_symbol_name(self.ptr, i)), min = tonumber(int_a[0]), max = tonumber(int_b[0]) }
  end
  return list
end

function Dims:eval(values)
  local symbols = self:symbols()
  local given = new("int64_t[?]", #symbols + 1)
  for i, s in ipairs(symbols) do
    if not values[s.name] then return nil, "no value for dimension '" .. s.name .. "'", "ENAME" end
    given[i - 1] = values[s.name]
  end
  local count = C.es_dims_count(self.ptr)
  local out = new("int64_t[?]", count + 1)
  if not C.es_dims_eval(self.ptr, given, out) then return nil, "a dimension exceeds 2^62", "ELIMIT" end
  local list = {}
  for d = 0, count - 1 do list[d] = tonumber(out[d]) end
  return list
end

return M
