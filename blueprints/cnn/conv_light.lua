-- Newest generation, CNN: one 3x3 convolution.
return blueprint "cnn/conv_light" {
  doc   = "x + relu(group_norm(conv3x3(x))); not the identity at birth, as in the original: blend it in",
  hyper = { channels = { 64, min = 1, whole = true } },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h)
    local y = g.conv2d(x, h.channels, 3, { pad = 1, bias = false, name = "conv" })
    y = g.group_norm(y, { name = "norm" })
    return { y = x + g.relu(y) }
  end,
}
