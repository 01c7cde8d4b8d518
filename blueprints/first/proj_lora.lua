-- First generation, BP-PROJ-LoRA-64: low-rank delta.
return blueprint "first/proj_lora" {
  doc   = "b(dropout(a(x))) * alpha / rank: the delta alone, 0 at birth through b = 0, alive",
  hyper = {
    dim = { 768, min = 1, whole = true }, rank = { 64, min = 1, whole = true }, alpha = { 16, min = 0, max = 1e6 },
    dropout = { 0.1, min = 0, max = 0.99 },
  },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local y = g.dropout(g.linear(x, h.rank, { name = "a", bias = false }), h.dropout)
    return { y = g.linear(y, h.dim, { name = "b", bias = false, weight = g.zeros }) * (h.alpha / h.rank) }
  end,
}
