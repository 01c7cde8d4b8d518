--- esper validate NAME|FILE|--all
local options_module = require "esper.cli.options"

-- Accesses proved to stay inside their buffers for all shapes, of all.
local function share(m)
  if not m.proved then return "" end
  return ("%d/%d"):format(m.proved, m.proved + m.data + m.unproved + m.violated)
end

local function row(name, mode, c)
  local f, t, p = c.functional, c.torch, c.performance
  return { name, mode, c.passed and "passed" or "FAILED", tostring(f.shapes), tostring(c.memory.runs), share(c.memory),
    ("%.1f"):format(f.max_ulp),
    ("%.1e"):format(f.max_rel), ("%.3f"):format(f.max_share), ("%.1f%%"):format(100 * f.judged / math.max(1, f.elements)),
    t and tostring(t.shapes) or "absent", p and p.ratio and ("%.2f (%.2f-%.2f)"):format(p.ratio, p.ratio_low, p.ratio_high) or "",
    p and ("%.0f%% %s"):format(100 * p.share, p.bound) or "" }
end
local HEAD = { "blueprint", "mode", "verdict", "shapes", "guarded", "in bounds", "ulp", "relative",
  "of bound", "judged", "libtorch", "time", "peak" }

local function cases(args)
  if not args.all then return { args[1] } end
  return require("esper").catalogue()
end

return {
  name = "validate", usage = "NAME|FILE|--all [--shapes N] [--performance] [--json]",
  doc = "Proves kernels right (against the oracle and libtorch) and in bounds (guard pages), anew.",
  positional = { 0, 1 },
  options = {
    { "--all", nil, "every blueprint of the catalogue, in train and eval mode" },
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--mode", "train|eval", "both unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--shapes", "N", "shapes to draw; 20 unless given" },
    { "--seed", "S", "of shapes and values; 1 unless given" },
    { "--performance", nil, "also time it beside the same graph as libtorch calls: fails above 1.5 times their time" },
    { "--no-torch", nil, "leave libtorch out" },
    { "--json", nil, "print certificates for machines" },
  },
  notes = "in bounds: loads and stores proved inside their buffers for all shapes, of all there are;\n"
    .. "ulp, relative: largest error over judged elements; of bound: largest error as a share of what the oracle allows;\n"
    .. "time, peak (with --performance): median time over libtorch's and its spread; share of the machine's measured best.",
  run = function(args)
    if (args.all and 1 or 0) + #args ~= 1 then return nil, "usage: esper validate NAME|FILE, or esper validate --all", "usage" end
    local options, why = options_module.compile(args)
    if not options then return nil, why, "usage" end
    local shapes = options_module.whole("--shapes", args.shapes, 20)
    local seed = options_module.whole("--seed", args.seed, 1)
    if not shapes or not seed or shapes < 1 then return nil, "--shapes and --seed want whole numbers", "usage" end
    local esper, text, failed = require "esper", require "esper.text", {}
    if args.performance then require("esper.bench").settle() end
    local rows, all = { HEAD }, {}
    for _, name in ipairs(cases(args)) do
      for _, mode in ipairs(args.mode and { args.mode } or { "eval", "train" }) do
        local tick, done = require("esper.cli.progress").new(name .. " " .. mode)
        local kernel, problem = esper.compile(name, { set = options.set, mode = mode, dtype = options.dtype })
        if not kernel then return nil, name .. " (" .. mode .. "): " .. problem end
        local c, unstored = esper.certify(kernel,
          { shapes = shapes, seed = seed, torch = not args.no_torch, progress = tick, performance = args.performance })
        done()
        rows[#rows + 1] = row(name, mode, c)
        all[#all + 1] = { name = name, mode = mode, key = kernel.key, certificate = c }
        if unstored then failed[#failed + 1] = ("%s (%s): %s"):format(name, mode, unstored) end
        if not c.passed then failed[#failed + 1] = ("%s (%s): %s"):format(name, mode, c.failure) end
        collectgarbage()
      end
    end
    if args.json then print(require("esper.json").encode(all)) else print(text.columns(rows, "lllrrrrrrrrrl")) end
    if #failed > 0 then return nil, table.concat(failed, "\n       ") end
    return true
  end,
}
