--- Sugar that makes its own parameters, with torch's default inits. Part of ops.lua.
-- A layer NAME makes parameters NAME.weight, NAME.bias; without `name` it is counted: linear1, linear2...
--   g.linear(x, out, { name, bias = init | false, weight = init })       weight [out, in]
--   g.conv1d(x, out, kernel, { stride, pad, dilation, groups, name, bias, weight })   g.conv2d likewise, numbers or pairs
--   g.layer_norm(x, { dims = 1, eps, name, affine = true, weight, bias })   g.rms_norm(x, { eps, name, affine, weight })
--   g.group_norm(x, { groups, eps, name, affine, weight, bias })   groups left out: the first of 32, 16, 8, 4, 2, 1 that
--        divides the channels and leaves at least 16 in a group, else the first that divides
--   g.batch_norm(x, { momentum = 0.1, eps, name, affine, weight, bias })    buffers NAME.running_mean, NAME.running_var;
--        training uses the batch's statistics and moves the buffers (unbiased variance), evaluation uses the buffers
--   g.embedding(idx, count, dim, { name, weight })                       weight [count, dim], normal(0, 1)
--   g.sdpa(q, k, v, { causal, scale, mask })   g.dropout(x, p)   g.noise(x, std): identity in evaluation
-- With tensors in place of the numbers (g.linear(x, w, b)) each is the plain op.

local builder = require "esper.ops.builder"
local inits = require("esper.ops.inits")
local value = require "esper.ops.value"
local describe, fail = value.describe, builder.fail

local ones, zeros = inits.values.ones, inits.values.zeros

local function options(given, known)
  if given == nil then return {} end
  if given == value.poison then builder.silent() end
  if type(given) ~= "table" then fail("options are %s, wanted a table", describe(given)) end
  local names = {}
  for name in string.gmatch(known, "%S+") do names[name] = true end
  for k, v in pairs(given) do
    if not names[k] then fail("unknown option %s; known are: %s", describe(k), known) end
    if v == value.poison then builder.silent() end
  end
  return given
end

local function whole(v, what)
  if v == value.poison then builder.silent() end
  if type(v) ~= "number" or v % 1 ~= 0 or v < 1 or v > 2 ^ 31 then
    fail("%s is %s, wanted an integer from 1 to 2^31", what, describe(v))
  end
  return v
end

local function pair(v, what)
  if type(v) ~= "table" then return whole(v, what), v end
  if #v ~= 2 then fail("%s is a list of %d, wanted a number or two", what, #v) end
  return whole(v[1], what), whole(v[2], what)
end

-- Uniform in +-1/sqrt(fan_in): what torch draws for the bias of a linear or convolution.
local function fan_bias(fan_in) return value.init("uniform", -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)) end

local function weighted(b, name, opts, shape, fan_in)
  local init = b:init(opts.weight, value.init("kaiming_uniform", math.sqrt(5), 0))
  local weight = b:leaf("param", name .. ".weight", shape, init)
  local bias = opts.bias
  if bias == false then return weight end
  if bias == true then bias = nil end
  return weight, b:leaf("param", name .. ".bias", { shape[1] }, b:init(bias, fan_bias(fan_in)))
end

-- Scale and shift of a normalisation, appended to its inputs.
local function affine(b, name, opts, shape, shift, inputs)
  if opts.affine == false then return inputs end
  inputs[#inputs + 1] = b:leaf("param", name .. ".weight", shape, b:init(opts.weight, ones))
  if shift then inputs[#inputs + 1] = b:leaf("param", name .. ".bias", shape, b:init(opts.bias, zeros)) end
  return inputs
end

local function default_groups(channels)
  for _, least in ipairs { 16, 1 } do
    for _, n in ipairs { 32, 16, 8, 4, 2, 1 } do
      if channels % n == 0 and channels / n >= least then return n end
    end
  end
end

-- Running statistics: buffer <- lerp(buffer, value, momentum), as a root of the graph.
local function follow(b, buffer, name, id, momentum)
  local weight = b:const(momentum, b.dtype)
  local moved = b:node("lerp", { buffer, b:node("stop_grad", { id }), weight })
  b:root("update", name, moved)
end

return function(plain)
  local M = {}

  function M.linear(b, x, out, given)
    if b:is_tensor(out) then return plain.linear(b, x, out, given) end
    local id, opts = b:id(x), options(given, "name bias weight")
    whole(out, "number of outputs")
    if b.graph:rank(id) == 0 then fail("input is a scalar, wanted at least one axis") end
    local width = b:known_extent(id, -1)
    local w, bias = weighted(b, b:layer_name("linear", opts.name), opts, { out, width }, math.max(width, 1))
    return b:tensor(b:node("linear", { id, w, bias }))
  end

  local function conv(op, axes)
    return function(b, x, out, kernel, given)
      if b:is_tensor(out) then return plain[op](b, x, out, kernel, given) end
      local id, opts = b:id(x), options(given, "stride pad dilation groups name bias weight")
      if b.graph:rank(id) ~= axes + 2 then fail("input is %s, wanted %d axes", b:describe(id), axes + 2) end
      local groups, channels = whole(opts.groups or 1, "groups"), b:known_extent(id, 1)
      whole(out, "number of outputs")
      if channels % groups ~= 0 or out % groups ~= 0 then
        fail("groups is %d, wanted a divisor of %d input and %d output channels", groups, channels, out)
      end
      local shape = { out, channels / groups }
      local h, w = pair(kernel, "kernel")
      shape[3], shape[4] = h, axes == 2 and w or nil
      local fan_in = shape[2] * h * (axes == 2 and w or 1)
      local weight, bias = weighted(b, b:layer_name("conv", opts.name), opts, shape, math.max(fan_in, 1))
      local attrs = { stride = opts.stride, pad = opts.pad, dilation = opts.dilation, groups = groups }
      return b:tensor(b:node(op, { id, weight, bias }, attrs))
    end
  end
  M.conv1d, M.conv2d = conv("conv1d", 1), conv("conv2d", 2)

  function M.layer_norm(b, x, given, ...)
    if b:is_tensor(given) then return plain.layer_norm(b, x, given, ...) end
    local id, opts = b:id(x), options(given, "dims eps name affine weight bias")
    local dims, shape = whole(opts.dims or 1, "dims"), {}
    if dims > b.graph:rank(id) then fail("dims is %d, wanted at most the rank of %s", dims, b:describe(id)) end
    if opts.affine ~= false then
      for k = 1, dims do shape[k] = b:known_extent(id, k - 1 - dims) end
    end
    local inputs = affine(b, b:layer_name("norm", opts.name), opts, shape, true, { id })
    return b:tensor(b:node("layer_norm", inputs, { dims = dims, eps = opts.eps }))
  end

  function M.rms_norm(b, x, given, ...)
    if b:is_tensor(given) then return plain.rms_norm(b, x, given, ...) end
    local id, opts = b:id(x), options(given, "eps name affine weight")
    local shape = opts.affine ~= false and { b:known_extent(id, -1) } or {}
    local inputs = affine(b, b:layer_name("norm", opts.name), opts, shape, false, { id })
    return b:tensor(b:node("rms_norm", inputs, { eps = opts.eps }))
  end

  function M.group_norm(b, x, given, ...)
    if b:is_tensor(given) then return plain.group_norm(b, x, given, ...) end
    local id, opts = b:id(x), options(given, "groups eps name affine weight bias")
    local channels = b:known_extent(id, 1)
    local groups = whole(opts.groups or default_groups(channels), "groups")
    if channels % groups ~= 0 then fail("groups is %d, wanted a divisor of %d channels", groups, channels) end
    local inputs = affine(b, b:layer_name("norm", opts.name), opts, { channels }, true, { id })
    return b:tensor(b:node("group_norm", inputs, { groups = groups, eps = opts.eps }))
  end

  function M.batch_norm(b, x, given, ...)
    if b:is_tensor(given) then return plain.batch_norm(b, x, given, ...) end
    local id, opts = b:id(x), options(given, "momentum eps name affine weight bias")
    local rank, channels = b.graph:rank(id), b:known_extent(id, 1)
    local momentum = opts.momentum or 0.1
    if type(momentum) ~= "number" or not (momentum >= 0 and momentum <= 1) then
      fail("momentum is %s, wanted 0 to 1", describe(momentum))
    end
    local name = b:layer_name("norm", opts.name)
    local mean = b:leaf("buffer", name .. ".running_mean", { channels }, b:init(zeros))
    local var = b:leaf("buffer", name .. ".running_var", { channels }, b:init(ones))
    local inputs = { id, mean, var }
    if b.training then
      local axes = {}
      for axis = 0, rank - 1 do if axis ~= 1 then axes[#axes + 1] = axis end end
      inputs[2] = b:node("reduce_mean", { id }, { axes = axes })
      inputs[3] = b:node("reduce_var", { id }, { axes = axes })
      follow(b, mean, name .. ".running_mean", inputs[2], momentum)
      follow(b, var, name .. ".running_var", b:node("reduce_var", { id }, { axes = axes, correction = 1 }), momentum)
    end
    affine(b, name, opts, { channels }, true, inputs)
    return b:tensor(b:node("batch_norm", inputs, { eps = opts.eps }))
  end

  function M.embedding(b, idx, count, dim, given)
    if b:is_tensor(count) then return plain.embedding(b, idx, count, dim, given) end
    local id, opts = b:id(idx), options(given, "name weight")
    local shape = { whole(count, "count"), whole(dim, "dim") }
    local name = b:layer_name("embedding", opts.name)
    local w = b:leaf("param", name .. ".weight", shape, b:init(opts.weight, value.init("normal", 0, 1)))
    return b:tensor(b:node("embedding", { w, id }))
  end

  function M.sdpa(b, q, k, v, given, ...)
    if type(given) ~= "table" then return plain.sdpa(b, q, k, v, given, ...) end
    local opts = options(given, "causal scale mask name")
    local rest = { causal = opts.causal, scale = opts.scale, name = opts.name }
    if opts.mask ~= nil then return plain.sdpa(b, q, k, v, opts.mask, rest) end
    return plain.sdpa(b, q, k, v, rest)
  end

  function M.dropout(b, x, p, ...)
    local rate = type(p) == "table" and (p.p or p[1]) or p
    if type(rate) ~= "number" or not (rate >= 0 and rate < 1) then
      fail("p is %s, wanted 0 <= p < 1", describe(rate))
    end
    b:id(x)
    if not b.training or rate == 0 then return x end
    return plain.dropout(b, x, p, ...)
  end

  function M.noise(b, x, std, ...)
    local deviation = type(std) == "table" and (std.std or std[1]) or std
    if type(deviation) ~= "number" or not (deviation >= 0 and deviation < math.huge) then
      fail("std is %s, wanted a number of at least 0", describe(deviation))
    end
    b:id(x)
    if not b.training or deviation == 0 then return x end
    return plain.noise(b, x, std, ...)
  end
  return M
end
