--- Hyper-parameters: defaults of a declaration plus what the caller sets, checked. Part of blueprint.lua.
--   resolve(body, set, errors) -> { name = value }, read-only view for the blueprint | nil (errors recorded)

local builder = require "esper.ops.builder"
local nearest = require("esper.text").nearest
local value = require "esper.ops.value"
local format, gmatch, match = string.format, string.gmatch, string.match
local describe = value.describe

local M = {}
local HUGE = 2 ^ 31 -- beyond this a hyper-parameter is taken for a mistake

local function wanted(spec, v)
  local default = spec.default
  if type(v) ~= type(default) then return "a " .. type(default) end
  if type(v) == "number" then
    if v ~= v then return "a number" end
    if v > HUGE or v < -HUGE then return "a number from -2^31 to 2^31" end
    if spec.whole and v % 1 ~= 0 then return "a whole number" end
    if spec.min and v < spec.min then return format("at least %g", spec.min) end
    if spec.max and v > spec.max then return format("at most %g", spec.max) end
  end
  if spec.choices then
    for _, choice in ipairs(spec.choices) do if choice == v then return nil end end
    local names = {}
    for i, choice in ipairs(spec.choices) do names[i] = tostring(choice) end
    return "one of " .. table.concat(names, ", ")
  end
end

-- Long or short form of a default -> { default, whole, min, max, choices }, or nil and what is wrong.
local function specification(given)
  local spec = type(given) == "table" and given or { given }
  local default = spec[1]
  local t = type(default)
  if t ~= "number" and t ~= "string" and t ~= "boolean" then return nil, "default is " .. describe(default) end
  for k, v in pairs(spec) do
    local ok = k == 1 or (k == "min" or k == "max") and type(v) == "number" or k == "choices" and type(v) == "table"
      or k == "doc" and type(v) == "string" or k == "whole" and type(v) == "boolean"
    if not ok then return nil, format("unknown or wrong field %s = %s", describe(k), describe(v)) end
  end
  local whole = spec.whole
  if whole == nil then whole = t == "number" and default % 1 == 0 and type(given) ~= "table" end
  return { default = default, whole = whole, min = spec.min, max = spec.max, choices = spec.choices }
end

--- "dim=64 expand=2" -> table of strings; nil, message when it is not a list of name=value.
function M.parse(text)
  local set = {}
  for word in gmatch(text, "%S+") do
    local name, v = match(word, "^([%a_][%w_]*)=(.*)$")
    if not name then return nil, format("'%s' is not of the form name=value", word) end
    set[name] = v
  end
  return set
end

--- Keys of a table, ascending by their text, so that errors come in one order.
function M.keys(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

-- Text given on a command line takes the type of the default.
local function typed(v, default)
  if type(v) ~= "string" or type(default) == "string" then return v end
  if type(default) == "number" then return tonumber(v) or v end
  if v == "true" then return true elseif v == "false" then return false end
  return v
end

local function specifications(body, E)
  local specs, names, keys = {}, {}, M.keys(body.hyper or {})
  for _, name in ipairs(keys) do
    local given = body.hyper[name]
    if type(name) ~= "string" or not match(name, "^[%a_][%w_]*$") then
      E.add(nil, "hyper", "name is " .. describe(name) .. ", wanted letters, digits and _")
    else
      local spec, problem = specification(given)
      names[#names + 1] = name
      if not spec then E.add(nil, "hyper '" .. name .. "'", problem) else specs[name] = spec end
    end
  end
  return specs, names
end

-- Puts the caller's values over the defaults.
local function override(specs, names, set, E)
  local values = {}
  for name, spec in pairs(specs) do values[name] = spec.default end
  for _, name in ipairs(M.keys(set)) do
    local spec = specs[name]
    if spec then
      values[name] = typed(set[name], spec.default)
    else
      local near = type(name) == "string" and #name < 64 and nearest(name, names)
      E.add(nil, "hyper " .. describe(name), (near and "unknown; did you mean '" .. near .. "'?" or "unknown")
        .. (#names > 0 and "; known: " .. table.concat(names, ", ") or "; this blueprint has none"))
    end
  end
  return values
end

local function view_of(values, names, E)
  return value.view(function(key)
    local v = values[key]
    if v == nil then
      local near = type(key) == "string" and #key < 64 and nearest(key, names)
      E.report("h." .. tostring(key), near and "unknown hyper-parameter; did you mean '" .. near .. "'?" or "unknown hyper-parameter")
      return value.poison
    end
    return v
  end, function(key) E.report("h." .. tostring(key), "assignment; hyper-parameters are read-only") end)
end

local function run_check(check, view, E)
  local ok, message = pcall(check, view)
  if not ok then
    E.add(nil, "check", builder.reason(message))
  elseif message ~= nil and type(message) ~= "string" then
    E.add(nil, "check", "returned " .. describe(message) .. ", wanted nil or a text")
  elseif message then
    E.add(nil, "check", message)
  end
end

function M.resolve(body, set, E)
  local specs, names = specifications(body, E)
  if type(set) == "string" then
    local message
    set, message = M.parse(set)
    if not set then E.add(nil, "set", message) return nil end
  elseif set ~= nil and type(set) ~= "table" then
    E.add(nil, "set", "is " .. describe(set) .. ", wanted a table or a text") return nil
  end
  local values = override(specs, names, set or {}, E)
  for _, name in ipairs(names) do
    local problem = specs[name] and wanted(specs[name], values[name])
    if problem then
      E.add(nil, "hyper '" .. name .. "'", format("is %s, wanted %s", describe(values[name]), problem))
    end
  end
  if #E.list > 0 then return nil end
  local view = view_of(values, names, E)
  if body.check then run_check(body.check, view, E) end
  if #E.list > 0 then return nil end
  return values, view
end

return M
