--- esper tune NAME: measures what recipes and fusion leave open on this machine, and keeps the best.
local options_module = require "esper.cli.options"
local text = require "esper.text"
local time = require("esper.bench.report").time

local LONGEST = 3600 -- seconds of a budget

local function budget(given)
  local number, unit = (given or "2s"):match "^([%d.]+)(m?s?)$"
  local seconds = (tonumber(number) or 0) * (unit == "ms" and 1e-3 or 1)
  if unit ~= "m" and seconds > 0 and seconds <= LONGEST then return seconds end
  return nil, ("--budget %s: want a time like 500ms or 2s, above 0 and at most %ds"):format(given, LONGEST)
end

local function choices_text(choices)
  local parts = {}
  for _, name in ipairs(text.keys(choices)) do
    local c = choices[name]
    if c.best ~= c.default then parts[#parts + 1] = ("%s %s (%s)"):format(name, c.best, c.default) end
  end
  return #parts > 0 and table.concat(parts, ", ") or "the defaults"
end

local function table_of(report)
  local rows = { { "group", "alike", "trials", "default", "best", "saved", "choices that differ (their defaults)" } }
  for _, row in ipairs(report.rows) do
    local gain = row.before and 1 - row.after / row.before or 0
    rows[#rows + 1] = { row.group, row.count, row.trials, row.before and time(row.before / 1e3) or "-",
      row.after and time(row.after / 1e3) or "-", gain > 0 and ("%.0f %%"):format(100 * gain) or "-",
      row.before and choices_text(row.choices) or "not reached" }
  end
  return text.columns(rows, "lrrrrrl")
end

local function sizes_text(sizes)
  local parts = {}
  for _, name in ipairs(text.keys(sizes)) do parts[#parts + 1] = ("%s=%.0f"):format(name, sizes[name]) end
  return #parts > 0 and table.concat(parts, " ") or "fixed sizes"
end

local function summary(report)
  local lines = { ("%s: %d trials in %.2f s of search (%.0f a second), %.2f s in all%s"):format(sizes_text(report.sizes), report.trials,
    report.searched, report.trials / math.max(report.searched, 1e-9), report.seconds, report.complete and ""
    or report.interrupted and "; interrupted" or "; the budget ended before the list did") }
  if not report.after then
    lines[2] = "the defaults are the best found; nothing to keep"
  else
    local fate = report.kept and "kept in the store for sizes near these" or next(report.tuning) and "not kept: no store"
      or "not kept: not faster as a whole"
    lines[2] = ("whole kernel %s before, %s after, ratio %.3f; %s"):format(time(report.before / 1e3), time(report.after / 1e3),
      report.after / report.before, fate)
  end
  return table.concat(lines, "\n")
end

return {
  name = "tune", usage = "NAME|FILE [--budget 2s] [--size tokens=128]...",
  doc = "Times the sizes, loop orders and fusions that are left open, on this machine, and keeps the best for later compiles.",
  positional = { 1, 1 },
  options = {
    { "--budget", "TIME", "time to search, like 500ms or 10s; 2s unless given" },
    { "--size", "dim=n", "extent of a symbolic dimension to tune at; usual ones unless given", many = true },
    { "--threads", "N", "threads; 1 unless given, 0 for all cores" },
    { "--set", "k=v", "a hyper-parameter", many = true },
    { "--mode", "train|eval", "eval unless given" },
    { "--dtype", "f32|f64", "f32 unless given" },
    { "--json", nil, "print the report for machines" },
  },
  notes = "A call never waits for tuning: what is not tuned for sizes near those of a compile (--size there) runs with the defaults.\n"
    .. "Beside a running service: `nice esper tune NAME &` in its store; its next compile takes what was found.\n"
    .. "Ctrl-C ends the search and keeps what was found so far.",
  run = function(args, rearm)
    local options, why = options_module.compile(args)
    if not options then return nil, why, "usage" end
    options.budget, why = budget(args.budget)
    if not options.budget then return nil, why, "usage" end
    options.threads, why = options_module.whole("--threads", args.threads, 1)
    if not options.threads then return nil, why, "usage" end
    local tick, done = require("esper.cli.progress").new("tune " .. args[1])
    options.progress = function(spent, whole) tick(1 + math.floor(100 * math.min(spent / whole, 1)), 100) end
    if rearm then rearm() end
    local report, problem = require("esper").tune(args[1], options)
    done()
    if not report then return nil, problem end
    if not args.json then print(table_of(report) .. "\n" .. summary(report)) end
    return true, { name = report.name, sizes = report.sizes, trials = report.trials, search_s = report.searched, seconds = report.seconds,
      complete = report.complete, interrupted = report.interrupted, before_ns = report.before, after_ns = report.after,
      kept = report.kept, rows = report.rows }
  end,
}
