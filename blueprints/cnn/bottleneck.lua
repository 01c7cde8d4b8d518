-- Newest generation, CNN: narrow 3x3 convolution between two 1x1.
return blueprint "cnn/bottleneck" {
  doc   = "x + group_norm(up(relu(conv3x3(relu(down(x)))))): identity at birth. The original zeroes `up`, whose gradient the "
       .. "norm of a zero variance then multiplies by 316; here the norm's weight starts at 0 instead",
  hyper = { channels = { 64, min = 1, whole = true }, reduction = { 4, min = 1, whole = true } },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h)
    local width = math.max(8, math.floor(h.channels / h.reduction))
    local y = g.relu(g.conv2d(x, width, 1, { bias = false, name = "down" }))
    y = g.relu(g.conv2d(y, width, 3, { pad = 1, bias = false, name = "conv" }))
    y = g.conv2d(y, h.channels, 1, { bias = false, name = "up" })
    return { y = x + g.group_norm(y, { name = "norm", weight = g.zeros }) }
  end,
}
