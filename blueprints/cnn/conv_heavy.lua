-- Newest generation, CNN: two 3x3 convolutions.
return blueprint "cnn/conv_heavy" {
  doc   = "x + block2(block1(x)), block = relu(group_norm(conv3x3(x))); not the identity at birth, as in the original",
  hyper = { channels = { 64, min = 1, whole = true } },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h)
    local y = x
    for i = 1, 2 do
      y = g.scope("block" .. i, function()
        local z = g.conv2d(y, h.channels, 3, { pad = 1, bias = false, name = "conv" })
        return g.relu(g.group_norm(z, { name = "norm" }))
      end)
    end
    return { y = x + y }
  end,
}
