-- Newest generation, CNN: depthwise-separable residual block.
return blueprint "cnn/depthwise" {
  doc   = "x + relu(group_norm(pointwise(depthwise3x3(x)))); not the identity at birth, as in the original: blend it in",
  hyper = { channels = { 64, min = 1, whole = true } },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h)
    local c = h.channels
    local y = g.conv2d(x, c, 3, { pad = 1, groups = c, bias = false, name = "depthwise" })
    y = g.conv2d(y, c, 1, { bias = false, name = "pointwise" })
    y = g.group_norm(y, { name = "norm" })
    return { y = x + g.relu(y) }
  end,
}
