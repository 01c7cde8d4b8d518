-- Newest generation, transformer: does nothing; the baseline of every comparison.
return blueprint "transformer/noop" {
  doc   = "y = x",
  hyper = { dim = { 384, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h) return { y = x } end,
}
