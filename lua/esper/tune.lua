--- The autotuner: measures the choices that recipes and grouping leave open (k:choice, Builder:choice) on this machine, for one
-- class of sizes. Nobody waits for it: a compile takes what the store has, or the defaults (tuning.lua).
--
--   tune.run(source, { set=, mode=, dtype=, size = { [dimension] = extent }, budget = seconds of search, pool =,
--                      progress = fn(done, budget), known = fn(result of compile, sizes) -> choices to go on from })
--     -> report | nil, message, status
--   report = { name=, trials=, searched = seconds of trials, seconds=, complete = every candidate was tried, interrupted=,
--              before=, after= (nanoseconds of a run, measured side by side at the end; nil when the defaults stayed), tuning=,
--              source = result of compile, case = of the suite, sizes = all symbols,
--              rows = { { group = label, count = groups alike, trials=, before=, after= (nanoseconds; nil: not reached),
--                         choices = { [name] = { default=, best= } } }, ... } }
--
-- A trial: one group is compiled alone (parts.lua) and its steps are timed in turns with the best so far, only until the order
-- is clear. It wins when it is faster by more than MARGIN in WON more turns than not, and its results are those of the defaults
-- (another order of sums, not another computation). What fusion there is concerns the whole kernel, which is timed as such,
-- first. Then choices of a group one after the other until none helps, heavy groups first; then all their combinations.
-- At the end the whole kernel as tuned must beat the whole kernel as it was.
local compile = require "esper.compile"
local duel = require "esper.bench.duel"
local kernel = require "esper.kernel"
local native = require "esper.native"
local parts = require "esper.parts"
local sides = require "esper.bench.sides"
local suite = require "esper.bench.suite"
local tuning = require "esper.tuning"
local C = native.C
local M = {}

local MARGIN = 0.98
local SLOW = 1.3          -- at first sight: not looked at again
local LONG, SLOWER = 1e6, 1.05 -- nanoseconds from which on a run tells more and costs more; the same for such
local TURN = 1e5          -- nanoseconds, of as many runs as fit
local REPS, TURNS = 64, 25
local LOST, WON = 3, 5    -- turns ahead that decide
local SAME = 1e-3         -- of the largest output
local KEPT = 0.99         -- of the whole kernel's time, at most
local FINAL = { rounds = 15, turn = 8 }

local buffer = native.new("double[?]", REPS)

local function need(value, message, status)
  if value == nil then error({ message = message, status = status }, 0) end
  return value, message
end

local function least(side, reps)
  need(side.run(reps, buffer))
  local low = buffer[0]
  for i = 1, reps - 1 do low = math.min(low, buffer[i]) end
  return low
end

--- Is `mine` faster than `best`, whose `time` is known? And the ratio of their times. mine.once: its first run does more.
function M.order(best, mine)
  local time = (mine.once or best.time < LONG) and least(mine, 1) or best.time
  local long = time >= LONG
  time = least(mine, long and 1 or 2)
  if time > (long and SLOWER or SLOW) * best.time then return false end
  local reps, lead, ratios = math.max(1, math.min(REPS, math.floor(TURN / time))), 0, {}
  if long then lead = time < MARGIN * best.time and 1 or -1 end
  for turn = 1, TURNS do
    local took = {}
    for _, side in ipairs(turn % 2 == 0 and { mine, best } or { best, mine }) do took[side] = least(side, reps) end
    ratios[turn], best.time = took[mine] / took[best], took[best]
    lead = lead + (ratios[turn] < MARGIN and 1 or -1)
    if lead <= (long and -LOST + 1 or -LOST) or lead >= WON then break end
  end
  table.sort(ratios)
  local ratio = ratios[math.ceil(#ratios / 2)]
  return lead >= WON and ratio < MARGIN, ratio
end

-- Ends the search: an error that is no failure.
local LATE = {}

-- One more trial of entry e: does it win?
local function won(state, e, side)
  state.trials, e.trials = state.trials + 1, e.trials + 1
  local wins, ratio = M.order(e.best, side)
  if wins then
    least(side, 1) -- the results lie where the best one leaves its own
    wins = sides.difference(e.reference, side) <= SAME
  end
  if wins then side.time, e.after = e.best.time * ratio, e.after * ratio end
  return wins
end

local function tick(state)
  local now = C.es_clock_ms()
  if now > state.stop then error(LATE, 0) end
  if state.options.progress then state.options.progress((now - state.from) / 1e3, state.budget) end
end

local function key_of(e, values)
  local words = {}
  for i, name in ipairs(e.names) do words[i] = tostring(values[name]) end
  return table.concat(words, " ")
end

-- Tries a set of values for the choices of an entry, unless its like was tried. True when they were something new.
local function try(state, e, values)
  local key = key_of(e, values)
  if e.tried[key] then return end
  e.tried[key] = true
  tick(state)
  local side = e.make(values)
  if not side then return end
  side.chosen = values
  if won(state, e, side) then
    e.best.free()
    e.best, e.values = side, values
    state.choices[e.signature] = values
  else
    side.free()
  end
  return true
end

-- Values with one of them set; a default is none, because chains of one group may have their own.
local function with(e, values, name, value)
  local out = {}
  for n, v in pairs(values) do out[n] = v end
  out[name] = value ~= e.defaults[name] and value or nil
  return out
end

local function one_by_one(state, e)
  repeat
    local before = e.best
    for _, name in ipairs(e.names) do
      for _, candidate in ipairs(e.choices[name].candidates) do
        if try(state, e, with(e, e.values, name, candidate)) then e.live[name] = true end
      end
    end
  until e.best == before
end

-- All combinations of what makes a difference at these sizes.
local function combined(state, e, at, values)
  local name = e.names[at]
  if not name then return try(state, e, values) end
  if not e.live[name] then return combined(state, e, at + 1, values) end
  for _, candidate in ipairs(e.choices[name].candidates) do combined(state, e, at + 1, with(e, values, name, candidate)) end
end

-- What the defaults give, to hold results against.
local function copy_of(results)
  local copies = {}
  for name, t in pairs(results) do
    copies[name] = require("esper.tensor").new(t.dtype, t.shape)
    native.copy(copies[name].data, t.data, t.bytes)
  end
  return { results = function() return copies end }
end

-- Makes something to search of signature, choices and make(values) -> side | false.
local function entry(state, e)
  e.names, e.defaults, e.tried, e.live, e.trials = {}, {}, {}, {}, 0
  for name, c in pairs(e.choices) do
    if #c.candidates > 1 then e.names[#e.names + 1] = name end
    e.defaults[name], e.label = c.candidates[1], c.label
  end
  table.sort(e.names)
  state.entries[#state.entries + 1] = e
  return e
end

-- Times the defaults, then what is known.
local function start(state, e)
  tick(state)
  local side = e.make {}
  e.tried[key_of(e, {})] = true
  side.time = least(side, 1)
  side.time = least(side, side.time < LONG and 3 or 1)
  side.chosen, e.best, e.values, e.before, e.after = {}, side, {}, side.time, side.time
  e.reference = copy_of(side.results())
  local known = state.choices[e.signature] or {}
  for _, name in ipairs(e.names) do
    if known[name] then try(state, e, with(e, e.values, name, known[name])) end
  end
  state.choices[e.signature] = e.values
end

-- The whole kernel with these choices, over the data of the first one.
local function whole(state, choices)
  local first, pool = state.first, state.options.pool
  local made = need(compile.again(first.compiled, choices))
  local side = need(sides.esper(state.case, { kernel = kernel.wrap(made), pool = pool, leaves = first, cpu = pool == nil }))
  side.es_run.data = first.es_run.data -- inputs to outputs have the same numbers in every plan, the rest is in slots
  side.es_run.workspace = parts.workspace(state, made.kernel, side.es_run.symbols, pool)
  side.results, side.once, side.memory = first.results, true, state.memory
  function side.free() end
  return side
end

-- Fusion, whose outcome is the kernel that is taken apart.
local function search_plan(state)
  local choices = state.first.compiled.choices[tuning.PLAN]
  if not next(choices) then return state.first end
  if state.costly then
    entry(state, { signature = tuning.PLAN, count = 1, choices = choices })
    return whole(state, { [tuning.PLAN] = state.choices[tuning.PLAN] })
  end
  local e = entry(state, { signature = tuning.PLAN, count = 1, choices = choices,
    make = function(values) return whole(state, { [tuning.PLAN] = values }) end })
  start(state, e)
  one_by_one(state, e)
  return e.best
end

local function search(state)
  local base = search_plan(state)
  local taken = parts.new(base, state.options.pool)
  local list = {}
  for i, e in ipairs(taken.list) do
    e.make = function(values) return taken:make(e, values) end
    list[i] = entry(state, e)
  end
  table.sort(list, function(a, b) return a.took > b.took end)
  for _, e in ipairs(list) do
    start(state, e)
    one_by_one(state, e)
  end
  for _, e in ipairs(list) do combined(state, e, 1, {}) end
end

-- What was chosen and is not the default.
local function found(state)
  local out = {}
  for signature, values in pairs(state.choices) do
    if next(values) then out[signature] = values end
  end
  return out
end

local function row_of(e)
  local row = { group = e.label, count = e.count, trials = e.trials, before = e.before, after = e.after, choices = {} }
  for _, name in ipairs(e.names) do
    row.choices[name] = { default = e.defaults[name], best = (e.values or {})[name] or e.defaults[name] }
  end
  return row
end

-- Whole kernels, before and after, side by side.
local function judge(state, report)
  if not next(report.tuning) then return end
  local before, after = whole(state, {}), whole(state, report.tuning)
  local time = least(before, 1)
  local reference = copy_of(before.results())
  time = math.min(time, least(after, 1))
  if sides.difference(reference, after) > SAME then
    report.tuning = {}
    return
  end
  before.name, after.name = "before", "after"
  local rounds = math.max(5, math.min(FINAL.rounds, math.floor(1e9 / (4 * time))))
  local stats = need(duel.run({ before, after }, { rounds = rounds, turn = FINAL.turn }))
  report.before, report.after = stats.before.median, stats.after.median
  if report.after >= KEPT * report.before then report.tuning = {} end -- what won in the trials did not last
end

-- Ctrl-C raises an error where it finds us; what a stage makes of it is text.
local function interrupted(problem)
  local message = type(problem) == "table" and problem.message or problem
  return tostring(message):find "interrupted" ~= nil
end

local function run(source, options)
  local case = suite.case(source, { set = options.set, size = options.size, mode = options.mode, dtype = options.dtype })
  local started, budget = C.es_clock_ms(), options.budget or 2
  local first = need(sides.esper(case, { pool = options.pool, compiles = 1, cpu = options.pool == nil }))
  local time, from = least(first, 1), C.es_clock_ms()
  local state = { case = case, options = options, budget = budget, first = first, entries = {}, trials = 0, from = from,
    costly = 32 * time > budget * 1e9, -- a trial of the whole kernel would take much of it
    stop = from + 1e3 * budget, choices = options.known and options.known(first.compiled, first.values) or {} }
  local complete, problem = pcall(search, state)
  local stopped = not complete and interrupted(problem)
  if not complete and problem ~= LATE and not stopped then error(problem, 0) end
  local report = { name = case.name, case = case, sizes = first.values, trials = state.trials, tuning = found(state), rows = {},
    source = first.compiled, complete = complete and not state.costly, interrupted = stopped, searched = (C.es_clock_ms() - from) / 1e3 }
  for i, e in ipairs(state.entries) do report.rows[i] = row_of(e) end
  judge(state, report)
  report.seconds = (C.es_clock_ms() - started) / 1e3
  return report
end

function M.run(source, options)
  local ok, result = pcall(run, source, options)
  if ok then return result end
  if type(result) == "table" then return nil, result.message, result.status end
  return nil, result, "EINTERNAL"
end

return M
