--- Convolution: conv1d and conv2d with stride, zero padding, dilation and groups; bias and pointwise epilogue fused. Brings
-- the anchor into one form, lays out its input, and chooses the way to compute it.

local channels = require "kernels.conv_channels"
local depthwise = require "kernels.conv_depthwise"
local direct = require "kernels.conv_direct"
local form = require "kernels.conv_form"

local function emit(k, group)
  local c = form.of(k, group)
  if channels.emit(k, c) or depthwise.emit(k, c) then return end
  direct.emit(k, c, form.layout(k, c))
end

return { name = "conv", emit = emit }
