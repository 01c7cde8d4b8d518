--- The autotuner: measures the choices recipes offer (k:choice) on this machine and keeps the best in the store.
-- Nobody waits for it: a compile takes what the store has, or the defaults.
--
--   tune.run(source, { set=, mode=, dtype=, size = { [dimension] = extent }, budget = seconds, store =, pool =, threads =,
--                      progress = fn(done, budget) })
--     -> report | nil, message, status
--   report = { name=, trials=, seconds=, before=, after= (nanoseconds of a run, measured side by side at the end), tuning=,
--              rows = { { group = label, choice =, default =, best =, gain = time saved by it, as a share }, ... } }
--
-- Search: choices one after the other, dearest group first; each candidate is compiled, checked against the kernel with
-- the default choices (equal up to rounding), and timed in turns with the best so far. It wins when it is faster in the
-- median by more than MARGIN and in most of the turns. What a choice does to other groups is nothing, by construction.
local duel = require "esper.bench.duel"
local native = require "esper.native"
local sides = require "esper.bench.sides"
local suite = require "esper.bench.suite"
local C = native.C
local M = {}

local MARGIN = 0.98
local ROUNDS, TURN = 5, 1.5 -- turns of a trial and their milliseconds
local FINAL = { rounds = 15, turn = 8 }
local SAME = 1e-3 -- of the largest output: another order of sums, not another computation

local function side_of(case, options, choices)
  return sides.esper(case, { pool = options.pool, compiles = 1, tuning = choices })
end

-- Every (group, choice) with its candidates, groups in order of the work they have.
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

-- Is `mine` faster than `best`, turn by turn?
local function faster(mine, best)
  best.name, mine.name = "best", "candidate"
  local stats, why, status = duel.run({ best, mine }, { rounds = ROUNDS, turn = TURN })
  if not stats then return nil, why, status end
  local ratio, _, high = duel.ratio(stats.candidate, stats.best)
  return ratio < MARGIN and high < 1, ratio
end

local function try(state, choice, candidate)
  local choices = with(state.choices, choice.signature, choice.name, candidate)
  local side, why, status = side_of(state.case, state.options, choices)
  if not side then return nil, why, status end
  state.trials = state.trials + 1
  if sides.difference(state.first, side) > SAME then return false end
  local wins, ratio, code = faster(side, state.best)
  if wins == nil then return nil, ratio, code end
  if wins then
    state.best, state.choices = side, choices
    choice.best, choice.gain = candidate, 1 - (1 - (choice.gain or 0)) * ratio
  end
  return true
end

-- One sweep over all choices; false when the budget ended first.
local function sweep(state, list, stop)
  for _, choice in ipairs(list) do
    for _, candidate in ipairs(choice.candidates) do
      if candidate ~= (choice.best or choice.default) then
        if C.es_clock_ms() > stop then return false end
        local ok, why, status = try(state, choice, candidate)
        if ok == nil then return nil, why, status end
        local budget, progress = state.options.budget or 2, state.options.progress
        if progress then progress(budget - (stop - C.es_clock_ms()) / 1e3, budget) end
      end
    end
  end
  return true
end

local function report_of(state, list, started)
  local report = { name = state.case.name, trials = state.trials, tuning = state.choices, rows = {},
    seconds = (C.es_clock_ms() - started) / 1e3 }
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
  local first, why, status = side_of(case, options, {})
  if not first then return nil, why, status end
  local list = choices_of(first)
  local state = { case = case, options = options, first = first, best = first, choices = {}, trials = 0 }
  local stop = started + 1e3 * (options.budget or 2)
  local complete
  complete, why, status = sweep(state, list, stop)
  if complete == nil then return nil, why, status end
  local report
  report, why, status = report_of(state, list, started)
  if not report then return nil, why, status end
  report.complete = complete
  report.source = first.compiled
  return report
end

return M
