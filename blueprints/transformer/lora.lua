-- Newest generation, transformer: a low-rank adapter.
return blueprint "transformer/lora" {
  doc   = "x + up(down(x)) of rank 8, no biases: identity at birth through up = 0, alive",
  hyper = { dim = { 384, min = 1, whole = true }, rank = { 8, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local y = g.linear(x, h.rank, { name = "down", bias = false })
    y = g.linear(y, h.dim, { name = "up", bias = false, weight = g.zeros })
    return { y = x + y }
  end,
}
