-- Newest generation, CNN: 1x1 convolution.
return blueprint "cnn/conv_small" {
  doc   = "x + relu(group_norm(conv1x1(x))). The original zeroes the convolution, and relu'(0) = 0 then keeps every gradient 0 "
       .. "for ever; here the norm's weight starts at `birth`: nearly the identity, and alive",
  hyper = { channels = { 64, min = 1, whole = true }, birth = { 0.01, min = 1e-6, max = 1 } },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h)
    local y = g.conv2d(x, h.channels, 1, { bias = false, name = "conv" })
    y = g.group_norm(y, { name = "norm", weight = g.const(h.birth) })
    return { y = x + g.relu(y) }
  end,
}
