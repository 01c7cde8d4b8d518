-- Newest generation, CNN: squeeze and excitation.
return blueprint "cnn/attention" {
  doc   = "x * sigmoid(fc2(relu(fc1(mean x)))): squeeze-excite; starts at sigmoid(3) = 0.953 of x",
  hyper = { channels = { 64, min = 1, whole = true }, reduction = { 4, min = 1, whole = true } },
  input = { x = { "batch", "channels", "h", "w" } },
  sizes = { h = { 1, 4096 }, w = { 1, 4096 } },
  build = function(g, x, h)
    local width = math.max(1, math.floor(h.channels / h.reduction))
    local s = g.mean(x, { 2, 3 })
    s = g.relu(g.linear(s, width, { name = "fc1", bias = false }))
    s = g.linear(s, h.channels, { name = "fc2", weight = g.zeros, bias = g.const(3) })
    return { y = x * g.sigmoid(s):reshape { "batch", "channels", 1, 1 } }
  end,
}
