--- Pooling over [N, C, H, W]: max, average (padding counts as 0, the divisor is the whole window), adaptive average. NaN wins
-- a maximum. Small windows slide over planes (window.lua); others are reduced one by one (pool_region.lua).

local region = require "kernels.pool_region"
local vecmath = require "esper.vecmath"
local window = require "kernels.window"

local function max_op()
  return {
    start = function(b) return b:splat(-math.huge) end,
    tap = function(b, acc, x) return vecmath.maximum(b, x, acc) end,
    finish = function(_, acc) return acc end,
  }
end

local function average_op(count)
  return {
    start = function(b) return b:splat(0) end,
    tap = function(b, acc, x) return b:add(acc, x) end,
    finish = function(b, acc) return b:div(acc, b:splat(count)) end,
  }
end

-- What both ways need to know of the anchor.
local function describe(k, id, x)
  local out, size = k.graph:shape(id), k.graph:shape(k.graph:inputs(id)[1])
  local p = { x = x, dtype = k.graph:dtype(id), samples = out[1], channels = out[2], xs = { unpack(x.strides) },
    size = { size[3], size[4] }, out = { out[3], out[4] }, max = k.graph:op(id) == "max_pool2d" }
  if k.graph:op(id) ~= "adaptive_avg_pool2d" then
    p.tap, p.stride, p.pad = k.graph:attr(id, "kernel"), k.graph:attr(id, "stride"), k.graph:attr(id, "pad")
    return p
  end
  local D = k.dims
  p.adaptive = true
  if D:value(out[3]) == 1 and D:value(out[4]) == 1 and p.xs[3] == D:mul(p.xs[4], size[4]) then -- a plane is one row
    p.size, p.xs[3] = { D:const(1), D:mul(size[3], size[4]) }, D:const(0)
  end
  return p
end

local function windows(k, p)
  local win = {
    dtype = p.dtype, xs = p.xs, size = p.size, out = p.out, tap = p.tap, stride = p.stride, pad = p.pad, dilation = { 1, 1 },
    planes = p.channels, samples = p.samples, outside = p.max and -math.huge or 0,
    op = p.max and max_op() or average_op(p.tap[1] * p.tap[2]),
    address = function(sample, plane) return k:at(p.x, { sample, plane }) end,
  }
  if not window.plan(k, win) then return false end
  window.emit(k, win)
  return true
end

local function emit(k, group)
  local p = describe(k, group.anchor, group.args[group.anchor][1])
  if p.adaptive or not windows(k, p) then region.emit(k, p) end
end

return { name = "pool", emit = emit }
