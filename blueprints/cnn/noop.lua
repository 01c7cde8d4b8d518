-- Newest generation, CNN: does nothing; the baseline of every comparison.
return blueprint "cnn/noop" {
  doc   = "y = x",
  hyper = { channels = { 64, min = 1, whole = true } },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h) return { y = x } end,
}
