--- esper demo
return {
  name = "demo", usage = "[--shapes N]", doc = "Compiles, proves and runs every blueprint of the catalogue and prints a table.",
  positional = { 0, 0 }, options = { { "--shapes", "N", "shapes to prove each kernel on; 20 unless given" } },
  run = function(args)
    local shapes = require("esper.cli.options").whole("--shapes", args.shapes, 20)
    if not shapes or shapes < 1 then return nil, "--shapes wants a whole number of at least 1", "usage" end
    return require("esper.demo").run(shapes)
  end,
}
