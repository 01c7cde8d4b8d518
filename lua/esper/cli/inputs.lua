--- Tensors named on the command line: --input x=FILE.npy|randn:2x3|... Shared by the commands that run kernels.

local M = {}

--- "x=FILE" or, with one input or output, just "FILE".
function M.named(option, list)
  local out = {}
  for _, item in ipairs(list or {}) do
    local name, value = item:match("^([%a_][%w_.]*)=(.+)$")
    if not name then return nil, ("%s %s: want name=FILE"):format(option, item) end
    if out[name] then return nil, ("%s: '%s' is given twice"):format(option, name) end
    out[name] = value
  end
  return out
end

-- A tensor from "FILE.npy", "randn:2x3", "zeros:2x3", "ones:2x3", "index:2x3:50" (whole numbers below 50).
local function source(name, text, dtype, seed)
  local tensor = require "esper.tensor"
  local kind, sizes, rest = text:match("^(%a+):([%dx]*)(.*)$")
  if not kind then return tensor.load(text) end
  local shape = {}
  for e in sizes:gmatch("%d+") do shape[#shape + 1] = tonumber(e) end
  local allowed = { randn = "normal", zeros = true, ones = true, index = "index" }
  if not allowed[kind] then
    return nil, ("input '%s': no source '%s'; there are randn zeros ones index, or a .npy file"):format(name, kind)
  end
  local count = 1
  for _, e in ipairs(shape) do count = count * e end
  if count > 2 ^ 32 then return nil, ("input '%s': %s has over 2^32 elements"):format(name, text) end
  if kind == "index" then return tensor.sample("index", dtype, shape, seed, 0, 0, tonumber(rest:match("^:(%d+)$")) or 2) end
  if kind == "randn" then
    if dtype ~= "f32" and dtype ~= "f64" then return nil, ("input '%s' is %s: use index:SIZES:LIMIT"):format(name, dtype) end
    return tensor.sample("normal", dtype, shape, seed, require("esper.native").C.es_random_stream(name))
  end
  local t = tensor.new(dtype, shape)
  if kind == "ones" then for i = 0, t.count - 1 do t.data[i] = 1 end end
  return t
end

--- Tensors by input name for "name = source" pairs; nil, message.
function M.gather(kernel, given, seed)
  local inputs = {}
  local dtypes = {}
  for _, row in ipairs(kernel:signature().inputs) do dtypes[row.name] = row.dtype end
  for name, text in pairs(given) do
    local t, why = source(name, text, dtypes[name] or "f32", seed)
    if not t then return nil, why end
    inputs[name] = t
  end
  return inputs
end

return M
