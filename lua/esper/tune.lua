--- The autotuner: measures the choices recipes offer (k:choice) on this machine and keeps the best in the store.
-- Nobody waits for it: a compile takes what the store has, or the defaults.
--
--   tune.run(source, { set=, mode=, dtype=, size = { [dimension] = extent }, budget = seconds, pool =,
--                      progress = fn(done, budget), known = fn(result of compile) -> choices to go on from })
--     -> report | nil, message, status
--   report = { name=, trials=, seconds=, complete = every candidate was tried, before=, after= (nanoseconds of a run, measured side
--              by side at the end; nil when the defaults stayed), tuning=, source = result of compile, case = of the suite,
--              rows = { { group = label, choice =, default =, best =, gain = time saved by it now, as a share }, ... } }
--
-- Search: choices one after the other; a candidate is compiled from the groups on, its results are held against those of the
-- defaults (another order of sums, not another computation), and it is timed in turns with the best so far: a few short turns
-- first, longer ones when those speak for it. It wins when it is faster in the median by more than MARGIN and in nearly all
-- turns. Sweeps go on until one changes nothing or the budget is spent. What a choice does to other groups is nothing, by
-- construction.
local compile = require "esper.compile"
local duel = require "esper.bench.duel"
local kernel = require "esper.kernel"
local native = require "esper.native"
local sides = require "esper.bench.sides"
local suite = require "esper.bench.suite"
local C = native.C
local M = {}

local MARGIN = 0.98
local LOOK = { rounds = 3, turn = 0.2 }   -- turns and their milliseconds
local TRIAL = { rounds = 9, turn = 1 }
local FINAL = { rounds = 15, turn = 8 }
local SAME = 1e-3 -- of the largest output

-- Every (group, choice) with its candidates.
local function choices_of(side)
  local list = {}
  for signature, choices in pairs(side.compiled.choices or {}) do
    for name, c in pairs(choices) do
      if #c.candidates > 1 then
        list[#list + 1] = { signature = signature, name = name, candidates = c.candidates, default = c.value, label = c.label }
      end
    end
  end
  table.sort(list, function(a, b)
    if a.label ~= b.label then return a.label < b.label end
    return a.name < b.name
  end)
  return list
end

local function with(choices, signature, name, value)
  local out = {}
  for s, list in pairs(choices) do
    out[s] = {}
    for n, v in pairs(list) do out[s][n] = v end
  end
  out[signature] = out[signature] or {}
  out[signature][name] = value
  return out
end

-- A side of a duel with these choices, over the data of the first one.
local function variant(state, choices)
  local made, why, status = compile.again(state.first.compiled, choices)
  if not made then return nil, why, status end
  return sides.esper(state.case, { kernel = kernel.wrap(made), pool = state.options.pool, leaves = state.first })
end

-- Is `mine` faster than `best`, turn by turn? And by how much: the ratio of times.
local function faster(mine, best)
  best.name, mine.name = "best", "candidate"
  for _, how in ipairs { LOOK, TRIAL } do
    local stats, why, status = duel.run({ best, mine }, how)
    if not stats then return nil, why, status end
    local ratio, _, high = duel.ratio(stats.candidate, stats.best)
    if ratio >= MARGIN then return false, ratio end
    if how == TRIAL then return high < 1, ratio end
  end
end

local function try(state, choice, candidate)
  local choices = with(state.choices, choice.signature, choice.name, candidate)
  local side, why, status = variant(state, choices)
  if not side then return nil, why, status end
  state.trials = state.trials + 1
  local wins, ratio, code = faster(side, state.best)
  if wins == nil then return nil, ratio, code end
  if wins and sides.difference(state.first, side) <= SAME then
    state.best, state.choices = side, choices
    choice.gain = 1 - (1 - (choice.gain or 0)) * ratio
    choice.best = candidate
  end
  return true
end

-- One sweep over all choices: did it change one? nil after a failure, "late" when the budget ended first.
local function sweep(state, list, stop)
  local before = state.best
  for _, choice in ipairs(list) do
    for _, candidate in ipairs(choice.candidates) do
      if candidate ~= (choice.best or choice.default) then
        if C.es_clock_ms() > stop then return "late" end
        local ok, why, status = try(state, choice, candidate)
        if ok == nil then return nil, why, status end
        local budget, progress = state.budget, state.options.progress
        if progress then progress(budget - (stop - C.es_clock_ms()) / 1e3, budget) end
      end
    end
  end
  return state.best ~= before
end

-- The search goes on from what was found before, as far as recipes still offer it and it computes the same.
local function resume(state, list, known)
  local choices = {}
  for _, choice in ipairs(list) do
    local value = known[choice.signature] and known[choice.signature][choice.name]
    for _, candidate in ipairs(choice.candidates) do
      if candidate == value and value ~= choice.default then
        choices, choice.best = with(choices, choice.signature, choice.name, value), value
      end
    end
  end
  if not next(choices) then return true end
  local side, why, status = variant(state, choices)
  if not side then return nil, why, status end
  side.run(1, native.new "double[1]")
  if sides.difference(state.first, side) <= SAME then
    state.best, state.choices = side, choices
  else
    for _, choice in ipairs(list) do choice.best = nil end
  end
  return true
end

local function report_of(state, list, started)
  local report = { name = state.case.name, case = state.case, trials = state.trials, tuning = state.choices, rows = {},
    source = state.first.compiled, seconds = (C.es_clock_ms() - started) / 1e3 }
  for _, choice in ipairs(list) do
    report.rows[#report.rows + 1] = { group = choice.label, choice = choice.name, default = choice.default,
      best = choice.best or choice.default, gain = choice.gain or 0 }
  end
  state.first.name, state.best.name = "before", "after"
  if state.first == state.best then return report end
  local stats, why, status = duel.run({ state.first, state.best }, FINAL)
  if not stats then return nil, why, status end
  report.before, report.after = stats.before.median, stats.after.median
  if report.after >= report.before then report.tuning = {} end -- what won in the trials did not last
  return report
end

function M.run(source, options)
  local case = suite.case(source, { set = options.set, size = options.size, mode = options.mode, dtype = options.dtype })
  local started = C.es_clock_ms()
  local first, why, status = sides.esper(case, { pool = options.pool, compiles = 1 })
  if not first then return nil, why, status end
  local list = choices_of(first)
  local state = { case = case, options = options, budget = options.budget or 2, first = first, best = first, choices = {}, trials = 0 }
  first.run(1, native.new "double[1]") -- results to compare with
  local changed
  changed, why, status = resume(state, list, options.known and options.known(first.compiled) or {})
  while changed == true do
    changed, why, status = sweep(state, list, started + 1e3 * state.budget)
    if changed == nil then return nil, why, status end
  end
  local report
  report, why, status = report_of(state, list, started)
  if not report then return nil, why, status end
  report.complete = changed ~= "late"
  return report
end

return M
