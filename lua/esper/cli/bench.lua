--- esper bench NAME|FILE|--all
local options_module = require "esper.cli.options"

local QUICK = { rounds = 3, turn = 2 }

local function cases_of(args, options)
  local suite = require "esper.bench.suite"
  if args[1] then
    return { suite.case(args[1], { set = options.set, size = options.size, mode = options.mode, dtype = options.dtype }) }
  end
  local list = suite.cases(args.group)
  if #list == 0 then return nil, ("--group %s: there are suite, kernels and catalogue"):format(args.group) end
  for _, case in ipairs(list) do case.mode, case.dtype = options.mode or case.mode, options.dtype end
  return list
end

local function thread_list(args)
  local n, why = options_module.whole("--threads", args.threads, 0)
  if not n then return nil, why end
  if n > 1024 then return nil, "--threads: at most 1024" end
  return n > 0 and { n } or require("esper.bench").thread_counts()
end

-- Checked arguments: cases and the options of bench.run; nil, message when one is wrong.
local function prepare(args)
  if (args.all and 1 or 0) + #args ~= 1 then return nil, "usage: esper bench NAME|FILE, or esper bench --all" end
  if args.vs and args.vs ~= "torch" and args.vs ~= "none" then return nil, "--vs " .. args.vs .. ": wanted torch or none" end
  if args.clock and args.clock ~= "wall" and args.clock ~= "cpu" then return nil, "--clock " .. args.clock .. ": wanted wall or cpu" end
  local options, why = options_module.compile(args)
  if not options then return nil, why end
  if args.all and next(options.set) then return nil, "--set goes with one blueprint, not with --all" end
  local threads, rounds, cases
  rounds, why = options_module.whole("--rounds", args.rounds, args.quick and QUICK.rounds or 12)
  if not rounds or rounds < 1 then return nil, why or "--rounds: at least 1" end
  threads, why = thread_list(args)
  if not threads then return nil, why end
  cases, why = cases_of(args, options)
  if not cases then return nil, why end
  return cases, { threads = threads, vs = args.vs ~= "none" and "torch" or nil, rounds = rounds,
    cpu = args.clock == "cpu", turn = args.quick and QUICK.turn or nil }
end

local function write_chart(path, report)
  local rows = {}
  for _, r in ipairs(require("esper.bench.report").slowest_first(report.cases)) do
    if r.ratio then rows[#rows + 1] = { name = ("%s, %d thr"):format(r.name, r.threads), ratio = r.ratio } end
  end
  local m = report.machine
  return options_module.write("--svg", path, require("esper.bench.chart").bars { rows = rows,
    title = ("Esper %s against libtorch %s, %s"):format(m.esper, m.torch or "", m.processor) })
end

return {
  name = "bench", usage = "NAME|FILE|--all [--threads N] [--vs torch|none] [--json] [--svg FILE]",
  doc = "Times kernels beside the same graph as libtorch calls, interleaved in one process, and against the machine's own peak.",
  positional = { 0, 1 },
  options = {
    { "--all", nil, "the whole suite" },
    { "--group", "G", "of the suite: suite, kernels or catalogue" },
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--size", "k=v", "a symbolic dimension (batch=8)", many = true },
    { "--mode", "train|eval", "eval unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--vs", "torch|none", "the other side; torch unless given" },
    { "--threads", "N", "threads of both sides; 1 and then all cores unless given" },
    { "--rounds", "N", "turns of each side; 12 unless given" },
    { "--quick", nil, "few short turns: a look, not a measurement" },
    { "--clock", "wall|cpu", "cpu: processor time, for one thread on a busy machine; wall unless given" },
    { "--svg", "FILE", "write a bar chart" },
    { "--json", nil, "print the report for machines" },
  },
  notes = "ratio: Esper's median over libtorch's, below 1 is faster; noise: the same round by round (p10-p90); of peak: share\n"
    .. "of what the machine's measured arithmetic or memory allows, whichever binds. docs/performance.md tells how.",
  run = function(args)
    local cases, options = prepare(args)
    if not cases then return nil, options, "usage" end
    require("esper.bench").settle()
    local tick, done = require("esper.cli.progress").new "bench"
    options.progress = tick
    options.store = require("esper").store()
    local report, why = require("esper.bench").run(cases, options)
    done()
    if not report then return nil, why end
    if #cases == 1 and report.cases[1].error then return nil, report.cases[1].error end
    if args.svg then
      local ok, cannot = write_chart(args.svg, report)
      if not ok then return nil, cannot end
    end
    if args.json then return true, report end
    print(require("esper.bench.report").text(report))
    return true
  end,
}
