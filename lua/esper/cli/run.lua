--- esper run NAME|FILE --input x=FILE.npy|randn:32x128 --output y=FILE.npy
local inputs_module = require "esper.cli.inputs"
local options_module = require "esper.cli.options"

local function write_outputs(outputs, wanted, names)
  for name in pairs(wanted) do
    if not outputs[name] then return nil, ("no output '%s'; there is %s"):format(name, table.concat(names, ", ")) end
  end
  for _, name in ipairs(names) do
    if wanted[name] then
      local ok, why = outputs[name]:save(wanted[name])
      if not ok then return nil, why end
      print(("%s -> %s"):format(name, wanted[name]))
    else
      print(name .. " = " .. tostring(outputs[name]))
    end
  end
  return true
end

return {
  name = "run", usage = "NAME|FILE --input x=FILE.npy|randn:32x128 ... [--output y=FILE.npy ...]",
  doc = "Runs a blueprint. Parameters are drawn from the seed, or read with --params.",
  positional = { 1, 1 },
  options = {
    { "--input", "x=SOURCE", "FILE.npy, randn:2x3, zeros:2x3, ones:2x3 or index:2x3:LIMIT", many = true },
    { "--output", "y=FILE", "write an output as .npy instead of printing it", many = true },
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--mode", "train|eval", "eval unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--size", "dim=n", "take what was tuned for such an extent of a symbolic dimension; any other runs as well", many = true },
    { "--seed", "S", "of parameters, random inputs, dropout and noise; 0 unless given" },
    { "--step", "N", "training step the random numbers belong to; 0 unless given" },
    { "--params", "DIR", "one NAME.npy per parameter and buffer" },
    { "--save-params", "DIR", "write them there, after the run" },
    { "--threads", "N", "threads a kernel may use; all cores unless given" },
  },
  run = function(args)
    local options, why = options_module.compile(args)
    if not options then return nil, why, "usage" end
    local given, wanted, seed, step
    given, why = inputs_module.named("--input", args.input)
    if not given then return nil, why, "usage" end
    wanted, why = inputs_module.named("--output", args.output)
    if not wanted then return nil, why, "usage" end
    seed, why = options_module.whole("--seed", args.seed, 0)
    if not seed then return nil, why, "usage" end
    step, why = options_module.whole("--step", args.step, 0)
    if not step then return nil, why, "usage" end
    local threads, problem = options_module.whole("--threads", args.threads, 0)
    if not threads then return nil, problem, "usage" end
    local esper = require "esper"
    if threads > 0 then esper.set_threads(threads) end
    options.certify = true
    local kernel
    kernel, why = esper.compile(args[1], options)
    if not kernel then return nil, why end
    local inputs, params, outputs
    inputs, why = inputs_module.gather(kernel, given, seed)
    if not inputs then return nil, why end
    if args.params then params, why = require("esper.kernel").load_params(kernel, args.params)
    else params, why = kernel:params(seed) end
    if not params then return nil, why end
    outputs, why = kernel:run(inputs, { params = params, seed = seed, step = step })
    if not outputs then return nil, why end
    if args.save_params then
      local ok, cannot = params:save(args.save_params)
      if not ok then return nil, cannot end
    end
    local names = {}
    for i, row in ipairs(kernel:signature().outputs) do names[i] = row.name end
    return write_outputs(outputs, wanted, names)
  end,
}
