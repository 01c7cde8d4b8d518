-- First generation, BP-MLP-SWIGLU-4096: gated feed-forward block.
return blueprint "first/mlp_swiglu" {
  doc   = "w3(dropout(silu(w1(x)) * w2(x))), all biased",
  hyper = { dim = { 768, min = 1, whole = true }, inner = { 4096, min = 1, whole = true }, dropout = { 0.1, min = 0, max = 0.99 } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local gate = g.silu(g.linear(x, h.inner, { name = "w1" }))
    local y = gate * g.linear(x, h.inner, { name = "w2" })
    return { y = g.linear(g.dropout(y, h.dropout), h.dim, { name = "w3" }) }
  end,
}
