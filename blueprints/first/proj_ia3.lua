-- First generation, BP-PROJ-IA3: learned scale per feature.
return blueprint "first/proj_ia3" {
  doc   = "x * s, s = 1 at birth: the identity, alive",
  hyper = { dim = { 768, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h) return { y = x * g.param("scale", { "dim" }, g.ones) } end,
}
