--- Dead nodes: drops what no root needs. Declared inputs stay, they are part of the signature.
return {
  name = "dead", version = 1,
  doc = "drops nodes that no output and no update needs",
  run = function(src, ctx) return ctx:rebuild(src) end,
}
