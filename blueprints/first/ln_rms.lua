-- First generation, BP-LN-RMS: root-mean-square norm.
return blueprint "first/ln_rms" {
  doc   = "x / sqrt(mean x^2 + 1e-5) * w, w = 1 at birth",
  hyper = { dim = { 768, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h) return { y = g.rms_norm(x, { eps = 1e-5, name = "norm" }) } end,
}
