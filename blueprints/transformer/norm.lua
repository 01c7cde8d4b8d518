-- Newest generation, transformer: a gated normalisation.
return blueprint "transformer/norm" {
  doc   = "x + tanh(s) (layer_norm(x) - x): identity at birth through s = 0; s alone has gradient then",
  hyper = { dim = { 384, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local s = g.param("gate", { 1 }, g.zeros)
    return { y = x + g.tanh(s) * (g.layer_norm(x, { name = "norm" }) - x) }
  end,
}
