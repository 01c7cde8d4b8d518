--- Parameters, buffers, their updates, and name scopes. Part of ops.lua.
--   g.param(name, shape, init)   g.buffer(name, shape, init = zeros)   g.update(buffer, tensor) in training: value after the step
--   g.scope(name, function() ... end): names made inside start with "name."; returns what the function returns

local builder = require "esper.ops.builder"
local inits = require "esper.ops.inits"
local value = require "esper.ops.value"
local describe, fail, Builder = value.describe, builder.fail, builder.methods

local function full_name(b, name)
  if name == value.poison then builder.silent() end
  if type(name) ~= "string" or #name > 100 or not string.find(name, "^[%a_][%w_]*$") then
    fail("name is %s, wanted letters, digits and _", describe(name))
  end
  return b.prefix .. name
end

--- Makes node `id` the value `name` has after the run.
function Builder:root(kind, name, id)
  if self.updated[name] then fail("'%s' is updated twice, first in line %d", name, self.updated[name]) end
  local ok, message, status = self.graph:root(kind, name, id)
  builder.starved(status)
  if not ok then fail("%s", message) end
  if kind == "update" then self.updated[name] = self.line end
end

return function()
  local M = {}

  function M.param(b, name, shape, init)
    if init == nil then fail("%s has no init; give a number or a spec such as g.zeros", describe(name)) end
    return b:tensor(b:leaf("param", full_name(b, name), shape, b:init(init)))
  end

  function M.buffer(b, name, shape, init)
    return b:tensor(b:leaf("buffer", full_name(b, name), shape, b:init(init, inits.values.zeros)))
  end

  function M.update(b, buffer, tensor)
    local id, new = b:id(buffer, "first argument"), b:id(tensor, "second argument")
    if b.graph:op(id) ~= "buffer" then
      fail("first argument is %s made by %s, wanted a buffer", b:describe(id), b.graph:op(id))
    end
    if b:describe(id) ~= b:describe(new) then
      fail("new value is %s, buffer is %s", b:describe(new), b:describe(id))
    end
    if b.training then b:root("update", b.graph:label(id), new) end
  end

  function M.scope(b, name, body)
    local outer = b.prefix
    if type(body) ~= "function" then fail("body is %s, wanted a function", describe(body)) end
    b.prefix = full_name(b, name) .. "."
    local function leave(ok, ...)
      b.prefix = outer
      if not ok then error((...), 0) end
      return ...
    end
    return leave(pcall(body))
  end

  return M
end
