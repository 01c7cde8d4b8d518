-- Newest generation, transformer: a wider low-rank adapter.
return blueprint "transformer/lora_large" {
  doc   = "x + up(down(x)) of rank 32, no biases: identity at birth through up = 0, alive",
  hyper = { dim = { 384, min = 1, whole = true }, rank = { 32, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local y = g.linear(x, h.rank, { name = "down", bias = false })
    y = g.linear(y, h.dim, { name = "up", bias = false, weight = g.zeros })
    return { y = x + y }
  end,
}
