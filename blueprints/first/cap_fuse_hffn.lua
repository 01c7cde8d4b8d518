-- First generation, BP-CAP-FUSE-HFFN: the original returns its input, and so does this.
return blueprint "first/cap_fuse_hffn" {
  doc   = "y = x, as the original computes; its capacity factor and minimum had no effect and have none here",
  hyper = { dim = { 768, min = 1, whole = true }, capacity = { 1.25, min = 0, max = 100 }, least = { 4, min = 0, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h) return { y = x } end,
}
