--- esper profile NAME|FILE
local inputs_module = require "esper.cli.inputs"
local options_module = require "esper.cli.options"

-- Checked arguments: the case and the options of profile.run; nil, message when one is wrong.
local function prepare(args)
  local options, why = options_module.compile(args)
  if not options then return nil, why end
  local given, threads, runs
  given, why = inputs_module.named("--input", args.input)
  if not given then return nil, why end
  if next(given) and next(options.size) then return nil, "--input tells the sizes: leave --size out" end
  threads, why = options_module.whole("--threads", args.threads, 1)
  if not threads then return nil, why end
  runs, why = options_module.whole("--runs", args.runs, 0)
  if not runs then return nil, why end
  local case = require("esper.bench.suite").case(args[1],
    { set = options.set, size = options.size, mode = options.mode, dtype = options.dtype })
  return case, { threads = threads, runs = runs > 0 and runs or nil,
    given = next(given) and function(kernel) return inputs_module.gather(kernel, given, 0) end or nil }
end

return {
  name = "profile", usage = "NAME|FILE [--set k=v]... [--size k=v]... [--input x=SOURCE]... [--threads N] [--json] [--svg FILE]",
  doc = "Shows what each kernel of a plan takes and moves, and its share of the machine's measured arithmetic and bandwidth.",
  positional = { 1, 1 },
  options = {
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--size", "k=v", "a symbolic dimension (batch=8)", many = true },
    { "--input", "x=SOURCE", "FILE.npy, randn:2x3, zeros:2x3, ones:2x3 or index:2x3:LIMIT; all inputs or none", many = true },
    { "--mode", "train|eval", "eval unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--threads", "N", "threads; 1 unless given, 0 for all cores" },
    { "--runs", "N", "runs to take the median of; as many as fit into 150 ms unless given" },
    { "--svg", "FILE", "write a roofline plot" },
    { "--json", nil, "print the profile for machines" },
  },
  notes = "of peak: the time the bound (fma, or the level of memory the kernel's data fits) allows, over the time taken.\n"
    .. "Works on any case of the benchmark suite too: esper profile 'softmax 1024x1024'.",
  run = function(args)
    local case, options = prepare(args)
    if not case then return nil, options, "usage" end
    local profile = require "esper.profile"
    options.store = require("esper").store()
    local report, why = profile.run(case, options)
    if not report then return nil, why end
    if args.svg then
      local ok, cannot = options_module.write("--svg", args.svg, require("esper.bench.roofline").svg(profile.points(report)))
      if not ok then return nil, cannot end
    end
    if args.json then return true, report end
    print(profile.text(report))
    return true
  end,
}
