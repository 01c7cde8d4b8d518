--- Convolution: conv1d and conv2d with stride, zero padding, dilation and groups; bias and pointwise epilogue fused. Brings
-- the anchor into one form, lays out its input, and chooses the way to compute it.

local channels = require "kernels.conv_channels"
local depthwise = require "kernels.conv_depthwise"
local direct = require "kernels.conv_direct"
local form = require "kernels.conv_form"
local window = require "kernels.window"

local function emit(k, group)
  local c = form.of(k, group)
  local win = depthwise.plan(k, c)
  local done = channels.emit(k, c, win ~= nil) -- true, false, or up to so many columns
  if done == true then return end
  if win then return window.emit(k, win, done) end
  direct.emit(k, c, form.layout(k, c))
end

return { name = "conv", emit = emit }
