--- esper repl
return {
  name = "repl", usage = "", doc = "An interactive session: Lua with Esper at hand.", positional = { 0, 0 }, options = {},
  notes = "compile(\"transformer/mlp\")   run(...)   randn{2, 3}   catalogue()   help(x)   reload()",
  run = function(_, rearm) return require("esper.repl").run(rearm) end,
}
