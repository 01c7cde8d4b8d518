--- esper compile NAME|FILE
local options_module = require "esper.cli.options"

-- What --json prints; key order is the encoder's.
local function report(kernel)
  local json = require "esper.json"
  local s = kernel:signature()
  for _, list in pairs(s) do
    json.array(list)
    for _, row in ipairs(list) do json.array(row.shape) end
  end
  return { name = kernel.name, key = kernel.key, status = kernel.status, isa = kernel.isa, mode = kernel.mode, dtype = kernel.dtype,
    hyper = kernel.hyper, inputs = s.inputs, outputs = s.outputs, params = s.params, buffers = s.buffers,
    param_count = kernel:param_count(), flops = kernel.flops, bytes = kernel.bytes, workspace_bytes = kernel.workspace,
    rounds = kernel.rounds, kept_bytes = kernel.kept, kernels = kernel.kernels, ms = kernel.ms,
    certificate = kernel.certificate or json.null }
end

return {
  name = "compile", usage = "NAME|FILE [--set k=v]... [--mode train|eval] [--json]",
  doc = "Compiles a blueprint into a certified kernel and stores it; the second time it comes from the store.",
  positional = { 1, 1 },
  options = {
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--mode", "train|eval", "eval unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--size", "dim=n", "take what was tuned for such an extent of a symbolic dimension; any other runs as well", many = true },
    { "--target", "cpu", "the only target so far" },
    { "--passes", "FILE", "apply a user's pass file" },
    { "--no-certify", nil, "compile and store without proving; it is proved before it first runs" },
    { "--object", "FILE", "also write the object code to a file" },
    { "--json", nil, "print a report for machines" },
  },
  run = function(args)
    local options, why = options_module.compile(args)
    if not options then return nil, why, "usage" end
    options.certify = not args.no_certify
    local kernel, problem = require("esper").compile(args[1], options)
    if not kernel then return nil, problem end
    if args.object then
      local file, cannot = io.open(args.object, "wb")
      if not file then return nil, "--object: cannot write " .. cannot end
      file:write(kernel.object)
      file:close()
    end
    if not args.json then
      print(tostring(kernel))
      local ms = {}
      for stage, v in pairs(kernel.ms) do ms[#ms + 1] = ("%s %.2f"):format(stage, v) end
      table.sort(ms)
      print(("  %s   ms: %s"):format(kernel.status, table.concat(ms, ", ")))
      return true
    end
    return true, report(kernel)
  end,
}
