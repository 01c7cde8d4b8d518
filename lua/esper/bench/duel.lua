--- Interleaved timing: several sides of one case take turns, so that a busy moment of the machine hits all of them.
-- Between the sides (sides.lua, or processes of bench/compare.lua) and the reports.
--
--   duel.run(list of sides, { rounds = 12, turn = 8 (ms), threads = 1 }) -> { [side name] = stats } | nil, message
--   stats = { median =, low =, high = (nanoseconds: p10, p90), count =, rounds = { median of each round } }
--   duel.ratio(stats a, stats b) -> median ratio, low, high       round by round: how much of it is noise
--   duel.quantile(sorted, q)
-- With threads, a turn begins with a rest: libraries let their threads spin after a job, and would take the cores of
-- the side whose turn it is.

local native = require "esper.native"
local C = native.C

local M = {}

local REPS_MAX = 5000   -- of one turn
local REST = 25         -- ms: longer than any of the thread pools seen spins
local WARM = { [false] = 1, [true] = 3 } -- runs of a turn that do not count

function M.quantile(sorted, q)
  if #sorted == 0 then return 0 / 0 end
  return sorted[math.max(1, math.min(#sorted, math.ceil(q * #sorted)))]
end

local function summary(list, rounds)
  table.sort(list)
  return { median = M.quantile(list, 0.5), low = M.quantile(list, 0.1), high = M.quantile(list, 0.9), count = #list,
    rounds = rounds }
end

-- Runs that fit into `turn` ms, from one that is timed now.
local function reps_for(side, buffer, turn)
  local ok, why, status = side.run(2, buffer)
  if not ok then return nil, why, status end
  return math.max(1, math.min(REPS_MAX, math.floor(turn * 1e6 / math.max(buffer[1], 1))))
end

function M.run(sides, options)
  local many = (options.threads or 1) > 1
  local buffer, kept = native.new("double[?]", REPS_MAX), {}
  for i, side in ipairs(sides) do
    if many then C.es_measure_rest(REST) end
    local reps, why, status = reps_for(side, buffer, options.turn or 8)
    if not reps then return nil, why, status end
    kept[i] = { reps = reps, all = {}, rounds = {} }
  end
  for round = 1, options.rounds or 12 do
    for k = 1, #sides do
      local i = (k + round) % #sides + 1 -- who comes first changes
      local side, mine = sides[i], kept[i]
      if many then C.es_measure_rest(REST) end
      local ok, why, status = side.run(WARM[many], buffer)
      if ok then ok, why, status = side.run(mine.reps, buffer) end
      if not ok then return nil, why, status end
      local list = {}
      for n = 1, mine.reps do list[n] = buffer[n - 1] end
      for n = 1, mine.reps do mine.all[#mine.all + 1] = list[n] end
      table.sort(list)
      mine.rounds[round] = M.quantile(list, 0.5)
    end
  end
  local out = {}
  for i, side in ipairs(sides) do out[side.name] = summary(kept[i].all, kept[i].rounds) end
  return out
end

function M.ratio(a, b)
  local list = {}
  for i, t in ipairs(a.rounds) do list[i] = t / b.rounds[i] end
  table.sort(list)
  return a.median / b.median, M.quantile(list, 0.1), M.quantile(list, 0.9)
end

return M
