--- Depthwise convolution, one input and one output channel per group, as windows that slide over planes (window.lua): every
-- element is read from memory once, so it runs at the speed of memory where windows are small.

local window = require "kernels.window"

local M = {}

local function op_of(c)
  return {
    start = function(b, w) return c.bias and b:bcast(w.bias, 0) or b:splat(0) end,
    tap = function(b, acc, x, weight) return b:fma(x, weight, acc) end,
    finish = function(_, acc) return acc end,
  }
end

--- The window (window.lua) that computes it, or nil when none suits.
function M.plan(k, c)
  local D = k.dims
  if c.depth ~= 1 or c.each ~= 1 or c.tap[1] * c.tap[2] == 1 then return nil end
  local line = c.ws[4] == D:const(1) and (c.tap[1] == 1 or c.ws[3] == D:const(c.tap[2]))
  local bytes = k:bytes(c.dtype)
  local win = {
    dtype = c.dtype, xs = c.xs, size = c.size, out = c.out, tap = c.tap, stride = c.stride, pad = c.pad, dilation = c.dilation,
    planes = D:const(c.groups), samples = c.samples, outside = 0, op = op_of(c),
    address = function(sample, plane) return k:at(c.x, { sample, plane }) end,
    weights = function(plane)
      local bias = c.bias and k:at(c.bias, { plane }) or "0L"
      local step = c.bias and ("%s * %dL"):format(k:dim(c.bias.strides[1]), bytes) or "0L"
      return { k:at(c.w, { plane }), ("%s * %dL"):format(k:dim(c.ws[1]), bytes), bias, step }
    end,
  }
  return line and window.plan(k, win) and win or nil
end

return M
