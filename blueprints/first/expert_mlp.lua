-- First generation, BP-EXPERT-MLP-1D: feed-forward block.
return blueprint "first/expert_mlp" {
  doc   = "fc2(dropout(gelu(fc1(x))))",
  hyper = { dim = { 768, min = 1, whole = true }, inner = { 3072, min = 1, whole = true }, dropout = { 0.1, min = 0, max = 0.99 } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local y = g.gelu(g.linear(x, h.inner, { name = "fc1" }))
    return { y = g.linear(g.dropout(y, h.dropout), h.dim, { name = "fc2" }) }
  end,
}
