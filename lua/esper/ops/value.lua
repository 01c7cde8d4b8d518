--- The opaque values a blueprint handles: tensors, dimensions, init specs, poison. Innermost part of authoring.
-- Each is a bare userdata with a sealed metatable; what it stands for is kept in `hidden`, out of a blueprint's reach.
-- Poison stands for the result of a call that failed: everything done with it gives poison again and reports nothing,
-- so that one mistake is one error.
local M = {}

local hidden = setmetatable({}, { __mode = "k" }) -- value -> { kind=, ... }
M.hidden = hidden

local function class(meta)
  local prototype = newproxy(true)
  local sealed = getmetatable(prototype)
  for k, v in pairs(meta) do sealed[k] = v end
  sealed.__metatable = false
  return prototype
end

-- ---- poison ----

local poison
local function give() return poison end
poison = newproxy(class {
  __add = give, __sub = give, __mul = give, __div = give, __mod = give, __pow = give, __unm = give, __concat = give,
  __call = function() return poison, poison, poison, poison, poison, poison, poison, poison end,
  __index = give, __newindex = function() end, __tostring = function() return "result of a failed call" end,
})
hidden[poison] = { kind = "poison" }
M.poison = poison

--- "a number", "a tensor f32[batch, 4]": what a message calls a value.
function M.describe(v)
  local record = hidden[v]
  if record then
    if record.kind == "tensor" then return "tensor " .. record.builder:describe(record.id) end
    if record.kind == "dim" then return "dimension " .. record.builder.D:text(record.dim) end
    return record.kind == "init" and "an init spec" or "the result of a failed call"
  end
  local t = type(v)
  if t == "string" then return #v <= 40 and string.format("'%s'", v) or "a long string" end
  if t == "number" or t == "boolean" then return tostring(v) end
  return t == "nil" and "nil" or "a " .. t
end

-- ---- tensors, dimensions, init specs ----

-- operator -> method of the builder of whichever operand has one
local function operator(name)
  return function(a, b)
    local ra, rb = hidden[a], hidden[b]
    local builder = ra and ra.builder or rb and rb.builder
    if not builder then return poison end
    return builder:operate(name, a, b)
  end
end
local arithmetic = { __add = operator "add", __sub = operator "sub", __mul = operator "mul", __div = operator "div",
                     __unm = operator "neg", __mod = operator "mod", __pow = operator "pow", __concat = operator "concatenate" }

local function member(v, key)
  local record = hidden[v]
  return record.builder:member(record, key)
end

local function opaque(extra)
  local function refuse(v) hidden[v].builder:report("assignment", "a tensor has no fields to set") end
  local meta = { __index = member, __newindex = refuse, __tostring = M.describe }
  for k, f in pairs(arithmetic) do meta[k] = f end
  for k, f in pairs(extra or {}) do meta[k] = f end
  return class(meta)
end

local tensor_class, dim_class = opaque(), opaque()
local init_class = class { __tostring = M.describe }

local function make(prototype, record)
  local v = newproxy(prototype)
  hidden[v] = record
  return v
end

function M.tensor(builder, id) return make(tensor_class, { kind = "tensor", builder = builder, id = id }) end
function M.dim(builder, dim) return make(dim_class, { kind = "dim", builder = builder, dim = dim }) end

--- init: name of inits.def; f0, f1 its arguments.
function M.init(init, f0, f1) return make(init_class, { kind = "init", init = init, f0 = f0, f1 = f1 }) end

--- A read-only view: index(key) answers, everything else is refused through `refuse(key)`.
function M.view(index, refuse)
  return newproxy(class {
    __index = function(_, key) return index(key) end,
    __newindex = function(_, key) refuse(key) end,
    __tostring = function() return "esper value" end,
  })
end

return M
