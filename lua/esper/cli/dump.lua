--- esper dump NAME --stage S
local STAGES = "graph | passes | groups | plan | vec | c | asm | torchscript"

return {
  name = "dump", usage = "NAME|FILE [--stage S]", doc = "Prints one stage of a compilation as text.", positional = { 1, 1 },
  options = {
    { "--stage", "S", STAGES .. "; graph unless given" },
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--mode", "train|eval", "eval unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--passes", "FILE", "apply a user's pass file" },
  },
  run = function(args)
    local options, why = require("esper.cli.options").compile(args)
    if not options then return nil, why, "usage" end
    local stage = args.stage or "graph"
    if not (" " .. STAGES:gsub("|", "") .. " "):find(" " .. stage .. " ", 1, true) then
      return nil, ("no stage '%s'; there are %s"):format(stage, STAGES), "usage"
    end
    local text, problem = require("esper").dump(args[1], stage, options)
    if not text then return nil, problem end
    io.write(text, text:sub(-1) == "\n" and "" or "\n")
    return true
  end,
}
