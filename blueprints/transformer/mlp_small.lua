-- Newest generation, transformer: feed-forward block, hidden width 2 dim.
return blueprint "transformer/mlp_small" {
  doc   = "x + fc2(gelu(fc1(x))): identity at birth through fc2 = 0, alive; checkpoint = true recomputes the hidden layer in backward",
  hyper = { dim = { 384, min = 1, whole = true }, expand = { 2, min = 1, whole = true }, checkpoint = false },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local y = g.gelu(g.linear(x, h.expand * h.dim, { name = "fc1" }))
    if h.checkpoint then y = g.checkpoint(y) end
    y = g.linear(y, h.dim, { name = "fc2", weight = g.zeros, bias = g.zeros })
    return { y = x + y }
  end,
}
