-- Newest generation, CNN: a gated normalisation.
return blueprint "cnn/norm" {
  doc   = "x + tanh(s) (group_norm(x) - x): identity at birth through s = 0; s alone has gradient then",
  hyper = { channels = { 64, min = 1, whole = true } },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h)
    local s = g.param("gate", { 1 }, g.zeros)
    local y = g.group_norm(x, { name = "norm" })
    return { y = x + g.tanh(s) * (y - x) }
  end,
}
