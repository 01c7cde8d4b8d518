--- esper tune NAME: measures what recipes leave open on this machine, and keeps the best.
local options_module = require "esper.cli.options"

local function sizes(list)
  local out, why = require("esper.cli.args").pairs(list)
  if not out then return nil, (why:gsub("%-%-set", "--size")) end
  for name, value in pairs(out) do
    if type(value) ~= "number" or value < 1 or value % 1 ~= 0 then return nil, ("--size %s: want a whole number above 0"):format(name) end
  end
  return out
end

local function budget(given)
  if given == nil then return 2 end
  local seconds = tonumber((given:gsub("s$", "")))
  if seconds and seconds > 0 and seconds <= 3600 then return seconds end
  return nil, ("--budget %s: want seconds, above 0 and at most 3600"):format(given)
end

local function table_of(report)
  local rows = { { "group", "choice", "default", "best", "saved" } }
  for _, row in ipairs(report.rows) do
    rows[#rows + 1] = { row.group, row.choice, tostring(row.default), tostring(row.best),
      row.gain > 0 and ("%.0f %%"):format(100 * row.gain) or "-" }
  end
  return require("esper.text").columns(rows, "llrrr")
end

local function summary(report, kept)
  local lines = { ("%d trials in %.2f s (%.0f a second)%s"):format(report.trials, report.seconds,
    report.trials / math.max(report.seconds, 1e-9), report.complete and "" or "; the budget ended before the list did") }
  if not report.after then
    lines[2] = "the defaults are the best found; nothing to keep"
  else
    local fate = kept and "kept in the store" or next(report.tuning) and "not kept: no store" or "not kept: not faster"
    lines[2] = ("%.3f ms before, %.3f ms after, ratio %.2f; %s"):format(report.before / 1e6, report.after / 1e6,
      report.after / report.before, fate)
  end
  return table.concat(lines, "\n")
end

return {
  name = "tune", usage = "NAME|FILE [--budget 2s] [--size tokens=128]...",
  doc = "Times the sizes and variants that recipes leave open, on this machine, and keeps the best for later compiles.",
  positional = { 1, 1 },
  options = {
    { "--budget", "SECONDS", "time to spend; 2s unless given" },
    { "--size", "dim=n", "extent of a symbolic dimension to tune at", many = true },
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--mode", "train|eval", "eval unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--json", nil, "print the report for machines" },
  },
  notes = "A call never waits for tuning: what is not tuned runs with the defaults. A tuned kernel has a key of its own.",
  run = function(args)
    local options, why = options_module.compile(args)
    if not options then return nil, why, "usage" end
    options.budget, why = budget(args.budget)
    if not options.budget then return nil, why, "usage" end
    options.size, why = sizes(args.size)
    if not options.size then return nil, why, "usage" end
    local tick, done = require("esper.cli.progress").new("tune " .. args[1])
    options.progress = function(spent, whole) tick(1 + math.floor(100 * math.min(spent / whole, 1)), 100) end
    local report, problem = require("esper").tune(args[1], options)
    done()
    if not report then return nil, problem end
    if not args.json then print(table_of(report) .. "\n" .. summary(report, report.kept)) end
    return true, { name = report.name, trials = report.trials, seconds = report.seconds, complete = report.complete,
      before_ns = report.before, after_ns = report.after, kept = report.kept, rows = report.rows }
  end,
}
