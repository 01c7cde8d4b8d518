--- What a blueprint calls as g.NAME(...) and x:NAME(...): one function per row of ops.def, plus the sugar of ops/*.lua.
-- Stands between blueprints and the builder. Call convention of every plain op:
--   tensors first (or a list of them), then attributes in the order of ops.def, or named in a table, or both:
--   g.softmax(x, -1)   g.softmax(x, { axis = -1 })   x:reduce_sum({ 1, 2 }, { keepdim = true })   x:reshape{ "batch", 384 }
--   `name` in the table labels the node. Axes count from 0, negative ones from the end. Sets of axes default to all.
--   add sub mul div maximum minimum lerp take numbers in place of tensors.
-- Sugar modules return tables name -> function(builder, ...); those in `many` return several values.

local native = require "esper.native"
local builder = require "esper.ops.builder"
local value = require "esper.ops.value"
local hidden, describe, fail, Builder = value.hidden, value.describe, builder.fail, builder.methods

local M = {}

local TAKES_NUMBERS = { broadcast = true }
local LIST_TYPES = { D = true, p = true, m = true, ["2"] = true }

-- ---- attributes as a blueprint gives them -> as graph.lua takes them ----

local convert = {}
function convert.d(b, v, a) return b:dim(v, a.name) end
function convert.D(b, v, a) return b:shape(v, a.name) end
function convert.t(b, v) return v == "float" and b.dtype or v end

local function put(b, info, attrs, a, v)
  if v == value.poison then builder.silent() end
  if attrs[a.name] ~= nil then fail("attribute '%s' is given twice", a.name) end
  if v == nil then fail("attribute '%s' is nil", a.name) end
  if hidden[v] and a.type ~= "d" then
    fail("attribute '%s' is %s, wanted a plain value", a.name, describe(v))
  end
  attrs[a.name] = convert[a.type] and convert[a.type](b, v, a) or v
  if attrs[a.name] == nil then attrs[a.name] = v end
end

-- Arguments of one call, read from left to right.
local Call = {}
Call.__index = Call

function Call:positional(v)
  local a = self.info.attrs[self.next]
  if not a then fail("argument %s is one too many", describe(v)) end
  self.next = self.next + 1
  put(self.b, self.info, self.attrs, a, v)
end

function Call:tensors(list)
  for i = 1, #list do self:argument(list[i], i) end
end

-- A table: list part = the next list attribute, string keys = attributes by name.
function Call:options(t)
  local named, list = {}, {}
  for k, v in pairs(t) do
    if type(k) == "string" then named[#named + 1] = k elseif type(k) == "number" then list[k] = v
    else fail("a table key is %s, wanted attribute names", describe(k)) end
  end
  local a = self.info.attrs[self.next]
  if a and LIST_TYPES[a.type] and (#list > 0 or #named == 0) then self:positional(list)
  elseif #list > 0 then fail("a list was given where %s was wanted", a and "'" .. a.name .. "'" or "no argument") end
  table.sort(named) -- errors come in one order
  for _, k in ipairs(named) do
    if k == "name" then
      if type(t[k]) ~= "string" then fail("name is %s, wanted a string", describe(t[k])) end
      self.label = t[k]
    else
      local a = self.info.attr[k]
      if not a then fail("unknown attribute '%s'", k) end
      put(self.b, self.info, self.attrs, a, t[k])
    end
  end
end

function Call:argument(v, i)
  local early = self.next == 1 and self.label == nil and next(self.attrs) == nil
  if self.b:is_tensor(v) then
    if not early then fail("argument %d is a tensor, wanted tensors before attributes", i) end
    self.inputs[#self.inputs + 1] = self.b:id(v)
  elseif type(v) == "number" and early and self.numbers and #self.inputs < self.info.max then
    self.inputs[#self.inputs + 1] = { number = v }
  elseif type(v) == "table" then
    if early and #self.inputs == 0 and #v > 0 and self.b:is_tensor(v[1]) then return self:tensors(v) end
    self:options(v)
  elseif v == nil then
    fail("argument %d is nil", i)
  else
    self:positional(v)
  end
end

-- Numbers among the inputs become constants of the tensors' dtype.
function Call:settle_numbers()
  local dtype = self.b.dtype
  for _, id in ipairs(self.inputs) do
    if type(id) == "number" then dtype = self.b.graph:dtype(id) break end
  end
  for i, id in ipairs(self.inputs) do
    if type(id) == "table" then self.inputs[i] = self.b:const(id.number, dtype) end
  end
end

--- Reads a call's arguments: inputs (ids), attrs, label.
function M.read(b, info, ...)
  local call = setmetatable({ b = b, info = info, inputs = {}, attrs = {}, next = 1,
                              numbers = TAKES_NUMBERS[info.rule] }, Call)
  local given, count = { ... }, select("#", ...)
  while count > 0 and given[count] == nil do count = count - 1 end
  for i = 1, count do call:argument(given[i], i) end
  if call.numbers then call:settle_numbers() end
  for _, a in ipairs(info.attrs) do
    if a.type == "m" and call.attrs[a.name] == nil and #call.inputs > 0 then
      local all = {}
      for axis = 0, b.graph:rank(call.inputs[1]) - 1 do all[axis + 1] = axis end
      call.attrs[a.name] = all
    end
  end
  return call.inputs, call.attrs, call.label
end

local api, many = {}, {}
for name, info in pairs(native.opinfo) do
  if info.class ~= "leaf" then
    api[name] = function(b, ...)
      local inputs, attrs, label = M.read(b, info, ...)
      return b:tensor(b:node(name, inputs, attrs, label))
    end
  end
end
M.plain = {} -- the plain ops, for sugar of the same name
for name, fn in pairs(api) do M.plain[name] = fn end

for _, family in ipairs { "arithmetic", "shapes", "layers", "state" } do
  local module = require("esper.ops." .. family)
  for name, fn in pairs(module(M.plain)) do
    if name == "many" then for _, m in ipairs(fn) do many[m] = true end else api[name] = fn end
  end
end

local inits = require "esper.ops.inits"
for name, fn in pairs(inits.calls) do api[name] = fn end

-- ---- what a blueprint sees ----

local function names_of(...)
  local names = {}
  for _, t in ipairs { ... } do for k in pairs(t) do names[#names + 1] = k end end
  return names
end

--- The function behind g.NAME for this build, made on first use.
function Builder:method(name)
  local made = self.methods_made[name]
  if not made and api[name] then
    made = self:entry(name, api[name], many[name])
    self.methods_made[name] = made
  end
  return made
end

-- Methods tensors and dimensions have besides the ops.
local tensor_methods = {
  size = function(b, x, axis) return b:public_dim(b:extent(b:id(x), axis)) end,
  rank = function(b, x) return b.graph:rank(b:id(x)) end,
  dtype = function(b, x) return b.graph:dtype(b:id(x)) end,
  shape = function(b, x)
    local shape = b.graph:shape(b:id(x))
    for i, d in ipairs(shape) do shape[i] = b:public_dim(d) end
    return shape
  end,
}
local function divided(method)
  return function(b, d, by)
    if type(by) ~= "number" or by % 1 ~= 0 or by < 1 then
      fail("divisor is %s, wanted an integer of at least 1", describe(by))
    end
    return b:public_dim(b.D[method](b.D, b:dim(d), by))
  end
end
local dim_methods = { floordiv = divided "floordiv", ceildiv = divided "ceildiv" }

function Builder:member(record, key)
  local own = record.kind == "tensor" and tensor_methods or dim_methods
  if own[key] then return self:entry(key, own[key]) end
  if record.kind == "tensor" then
    local method = self:method(key)
    if method then return method end
    return self:unknown("x:", key, names_of(api, tensor_methods))
  end
  return self:unknown("dimension:", key, names_of(dim_methods))
end

--- The g of one build.
function M.face(b)
  b.methods_made = {}
  return value.view(function(key)
    if key == "training" then return b.training end
    return b:method(key) or inits.values[key]
      or b:unknown("g.", key, names_of(api, inits.values, { training = true }))
  end, function(key) b:report("g." .. tostring(key), "assignment; g is read-only") end)
end

--- Names a blueprint can call, sorted; for completion and documentation.
function M.names()
  local names = names_of(api)
  table.sort(names)
  return names
end

return M
