--- esper run NAME|FILE --input x=FILE.npy|randn:32x128 --output y=FILE.npy
local options_module = require "esper.cli.options"

-- "x=FILE" or, with one input or output, just "FILE".
local function named(option, list)
  local out = {}
  for _, item in ipairs(list or {}) do
    local name, value = item:match("^([%a_][%w_.]*)=(.+)$")
    if not name then return nil, ("%s %s: want name=FILE"):format(option, item) end
    if out[name] then return nil, ("%s: '%s' is given twice"):format(option, name) end
    out[name] = value
  end
  return out
end

-- A tensor from "FILE.npy", "randn:2x3", "zeros:2x3", "ones:2x3", "index:2x3:50" (whole numbers below 50).
local function source(name, text, dtype, seed)
  local tensor = require "esper.tensor"
  local kind, sizes, rest = text:match("^(%a+):([%dx]*)(.*)$")
  if not kind then return tensor.load(text) end
  local shape = {}
  for e in sizes:gmatch("%d+") do shape[#shape + 1] = tonumber(e) end
  local allowed = { randn = "normal", zeros = true, ones = true, index = "index" }
  if not allowed[kind] then
    return nil, ("input '%s': no source '%s'; there are randn zeros ones index, or a .npy file"):format(name, kind)
  end
  local count = 1
  for _, e in ipairs(shape) do count = count * e end
  if count > 2 ^ 32 then return nil, ("input '%s': %s has over 2^32 elements"):format(name, text) end
  if kind == "index" then return tensor.sample("index", dtype, shape, seed, 0, 0, tonumber(rest:match("^:(%d+)$")) or 2) end
  if kind == "randn" then
    if dtype ~= "f32" and dtype ~= "f64" then return nil, ("input '%s' is %s: use index:SIZES:LIMIT"):format(name, dtype) end
    return tensor.sample("normal", dtype, shape, seed, require("esper.native").C.es_random_stream(name))
  end
  local t = tensor.new(dtype, shape)
  if kind == "ones" then for i = 0, t.count - 1 do t.data[i] = 1 end end
  return t
end

local function gather_inputs(kernel, given, seed)
  local inputs = {}
  local dtypes = {}
  for _, row in ipairs(kernel:signature().inputs) do dtypes[row.name] = row.dtype end
  for name, text in pairs(given) do
    local t, why = source(name, text, dtypes[name] or "f32", seed)
    if not t then return nil, why end
    inputs[name] = t
  end
  return inputs
end

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
    given, why = named("--input", args.input)
    if not given then return nil, why, "usage" end
    wanted, why = named("--output", args.output)
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
    inputs, why = gather_inputs(kernel, given, seed)
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
