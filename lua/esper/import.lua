--- Blueprints of the first generation, { type = , config = }, as declarations. Beside blueprint.lua.
--   import.declare(architecture) -> declaration for blueprint.build | nil, errors
--   import.json(text) -> declaration | nil, errors        needs lua-cjson
-- config keys and their defaults are the original's:
--   linear     input_size 128, hidden_sizes {256, 256}, output_size 128, activation relu | gelu | tanh, dropout 0
--   conv       in_channels 3, out_channels {64, 128, 256}, kernel_sizes, strides, paddings (3, 1, 1 where missing),
--              activation relu | gelu, pool_type max | avg | none, pool_size 2; image_size 32; ends in the mean over the image
--   attention  embed_dim 256, num_heads 8, dropout 0.1: multi-head self-attention
--   custom     dim 256, num_blocks 2: residual blocks of two linear layers
-- An activation the original did not know was silently left out there; here it is an error.

local blueprint = require "esper.blueprint"
local nearest = require("esper.text").nearest

local M = {}

-- ---- reading a config: every key is checked, unknown ones are refused ----

local Config = {}
Config.__index = Config

function Config:fail(key, wanted)
  self.errors[#self.errors + 1] = string.format("config: '%s' is %s, wanted %s", key, tostring(self.given[key]), wanted)
end

function Config:take(key, default)
  self.known[#self.known + 1] = key
  local v = self.given[key]
  if v == nil then return default end
  return v
end

local function is_whole(v, least) return type(v) == "number" and v % 1 == 0 and v >= least and v <= 2 ^ 31 end

function Config:whole(key, default, least)
  local v = self:take(key, default)
  if is_whole(v, least or 1) then return v end
  self:fail(key, "an integer of at least " .. (least or 1))
  return default
end

function Config:list(key, default, least)
  local v = self:take(key, default)
  local ok = type(v) == "table" and #v <= 64
  for i = 1, ok and #v or 0 do ok = ok and is_whole(v[i], least or 1) end
  if ok then return v end
  self:fail(key, "a list of integers of at least " .. (least or 1))
  return default
end

function Config:rate(key, default)
  local v = self:take(key, default)
  if type(v) == "number" and v >= 0 and v < 1 then return v end
  self:fail(key, "a number from 0 to below 1")
  return default
end

function Config:choice(key, default, choices)
  local v = self:take(key, default)
  for _, c in ipairs(choices) do if c == v then return v end end
  self:fail(key, "one of " .. table.concat(choices, ", "))
  return default
end

function Config:finish()
  table.sort(self.known)
  local unknown = {}
  for key in pairs(self.given) do
    local found = false
    for _, k in ipairs(self.known) do found = found or k == key end
    if not found then unknown[#unknown + 1] = tostring(key) end
  end
  table.sort(unknown)
  for _, key in ipairs(unknown) do
    local near = nearest(key, self.known)
    self.errors[#self.errors + 1] = string.format("config: unknown key '%s'%s; known: %s", key,
      near and "; did you mean '" .. near .. "'?" or "", table.concat(self.known, ", "))
  end
end

-- ---- the four architectures: config -> fields of a declaration ----

local types = {}

function types.linear(c)
  local input, hidden, output = c:whole("input_size", 128), c:list("hidden_sizes", { 256, 256 }), c:whole("output_size", 128)
  local activation, dropout = c:choice("activation", "relu", { "relu", "gelu", "tanh" }), c:rate("dropout", 0)
  return {
    doc = "layers of linear, " .. activation .. ", dropout; then linear",
    input = { x = { "batch", input } },
    build = function(g, x)
      for _, width in ipairs(hidden) do x = g.dropout(g[activation](g.linear(x, width)), dropout) end
      return { y = g.linear(x, output) }
    end,
  }
end

function types.conv(c)
  local channels, outputs, size = c:whole("in_channels", 3), c:list("out_channels", { 64, 128, 256 }), c:whole("image_size", 32)
  local kernels, strides, pads = c:list("kernel_sizes", {}), c:list("strides", {}), c:list("paddings", {}, 0)
  local activation, pool = c:choice("activation", "relu", { "relu", "gelu" }), c:choice("pool_type", "max", { "max", "avg", "none" })
  local window = c:whole("pool_size", 2)
  return {
    doc = "layers of conv2d, batch_norm, " .. activation .. ", pooling; then the mean over the image",
    input = { x = { "batch", channels, size, size } },
    build = function(g, x)
      for i, width in ipairs(outputs) do
        x = g.conv2d(x, width, kernels[i] or 3, { stride = strides[i] or 1, pad = pads[i] or 1 })
        x = g[activation](g.batch_norm(x))
        if pool ~= "none" then x = g[pool .. "_pool2d"](x, window) end
      end
      return { y = g.mean(x, { 2, 3 }) }
    end,
  }
end

function types.attention(c)
  local dim, heads, dropout = c:whole("embed_dim", 256), c:whole("num_heads", 8), c:rate("dropout", 0.1)
  if dim % heads ~= 0 then c:fail("embed_dim", "a multiple of num_heads " .. heads) end
  local width = dim / heads
  return {
    doc = "multi-head self-attention",
    input = { x = { "batch", "tokens", dim } },
    build = function(g, x)
      local qkv = g.linear(x, 3 * dim, { name = "in_proj", weight = g.xavier(), bias = g.zeros })
      local q, k, v = qkv:reshape({ "batch", "tokens", 3 * heads, width }):transpose(1, 2):split(3, 1)
      local y
      if g.training and dropout > 0 then -- the weights must exist to be dropped
        local weights = g.softmax(g.matmul(q, k, { tb = true }) * (1 / math.sqrt(width)), -1)
        y = g.matmul(g.dropout(weights, dropout), v)
      else
        y = g.sdpa(q, k, v)
      end
      y = y:transpose(1, 2):reshape { "batch", "tokens", dim }
      return { y = g.linear(y, dim, { name = "out_proj", bias = g.zeros }) }
    end,
  }
end

function types.custom(c)
  local dim, blocks = c:whole("dim", 256), c:whole("num_blocks", 2, 0)
  return {
    doc = "residual blocks: x + linear(relu(linear(x)))",
    input = { x = { "batch", dim } },
    build = function(g, x)
      for _ = 1, blocks do x = x + g.linear(g.relu(g.linear(x, dim)), dim) end
      return { y = x }
    end,
  }
end

function M.declare(architecture)
  if type(architecture) ~= "table" then
    return nil, { "Blueprint architecture is a " .. type(architecture) .. ", wanted { type =, config = }" }
  end
  local errors = {}
  for _, field in ipairs { "type", "config" } do
    if architecture[field] == nil then errors[#errors + 1] = "Blueprint architecture missing required field: " .. field end
  end
  local kind, make = architecture.type, types[architecture.type or ""]
  if kind ~= nil and not make then
    errors[#errors + 1] = "Unsupported architecture type: " .. tostring(kind)
      .. ". Supported types: linear, conv, attention, custom"
  end
  if architecture.config ~= nil and type(architecture.config) ~= "table" then
    errors[#errors + 1] = "config is a " .. type(architecture.config) .. ", wanted a table"
  end
  if #errors > 0 then return nil, errors end
  local config = setmetatable({ given = architecture.config, known = {}, errors = errors }, Config)
  local body = make(config)
  config:finish()
  if #errors > 0 then return nil, errors end
  return blueprint.define("first/" .. kind)(body)
end

function M.json(text)
  local found, cjson = pcall(require, "cjson")
  if not found then return nil, { "reading JSON needs lua-cjson, which is not installed" } end
  local ok, architecture = pcall(cjson.decode, text)
  if not ok then return nil, { "JSON: " .. tostring(architecture) } end
  return M.declare(architecture)
end

return M
