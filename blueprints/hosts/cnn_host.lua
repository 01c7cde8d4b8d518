-- Host network, CNN: what cnn/* seeds grow in. Slots are added by layers, outside the blueprint.
local widths = { 32, 64, 128 }

return blueprint "hosts/cnn_host" {
  doc   = "image classifier: three times max_pool(relu(batch_norm(conv3x3))), 3 -> 32 -> 64 -> 128 channels, then linear on the mean",
  hyper = { classes = { 10, min = 1, whole = true } },
  input = { x = { "batch", 3, "h", "w" } },
  sizes = { h = { 8, 1024 }, w = { 8, 1024 } },
  build = function(g, x, h)
    for i, width in ipairs(widths) do
      x = g.scope("block" .. i, function()
        local y = g.conv2d(x, width, 3, { pad = 1, bias = false, name = "conv" })
        return g.max_pool2d(g.relu(g.batch_norm(y, { name = "norm" })), 2)
      end)
    end
    return { logits = g.linear(g.mean(x, { 2, 3 }), h.classes, { name = "classifier" }) }
  end,
}
