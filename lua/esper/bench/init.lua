--- `esper bench`: cases against libtorch in one process, interleaved, as one report. Over suite, sides, duel and peak.
--
--   bench.run(cases, options) -> report | nil, message
--     options = { threads = { 1, 2 }, vs = "torch" | nil, rounds =, turn = (ms), isa =, progress = function(i, n),
--                 store = the urza store with tuned choices, or nil, cpu = with one thread clock processor time }
--   report = { machine = { ... }, peaks = { [i] = peak.measure's, one per thread count }, cases = { row, ... },
--              summary = { { threads =, group =, cases =, geomean =, worst =, above = how many over 1 }, ... } }
--   row    = { name =, group =, threads =, esper = times, torch = times, ratio =, ratio_low =, ratio_high =, share =,
--              bound = "fma" or a level of memory, gflops =, gbs =, flops =, bytes =, workspace =, naive_workspace =,
--              compile_ms =, difference =, error = text or nil };  times = { median =, low =, high = (us), runs = }
-- report.lua prints it, chart.lua draws it.

local doctor = require "esper.doctor"
local duel = require "esper.bench.duel"
local native = require "esper.native"
local peak = require "esper.bench.peak"
local sides = require "esper.bench.sides"
local vec = require "esper.vec"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}

local DIFFERENT = 1e-3 -- of the largest value: two sides further apart do not compute the same

--- A pool of n threads (nil for 1), to be held while it is used; and how many threads it has.
function M.pool(n)
  local out = native.new "es_pool *[1]"
  if C.es_pool_new(n or 0, out, fresh()) ~= 0 then return failure() end
  local pool = native.gc(out[0], C.es_pool_release)
  return pool, C.es_pool_threads(pool)
end

--- The thread counts that are measured unless told: one, and all.
function M.thread_counts()
  local _, all = M.pool(0)
  return all > 1 and { 1, all } or { 1 }
end

-- The BLAS that libtorch was loaded with: its numbers mean nothing without it.
local function blas()
  local names, seen = {}, {}
  local f = io.open "/proc/self/maps"
  for line in f and f:lines() or function() end do
    local name = line:match "/(lib[^/]*blas[^/]*)$" or line:match "/(libmkl_[^/]*)$"
    if name and not name:find "^libcublas" and not seen[name] then
      seen[name] = true
      names[#names + 1] = line:match "(/%S+)$"
    end
  end
  if f then f:close() end
  return #names > 0 and table.concat(names, ", ") or "inside libtorch"
end

function M.machine(with_torch)
  local m = { esper = require("esper").version, build = native.build():sub(1, 16), isa = vec.best() }
  for _, fact in ipairs(doctor.facts { torch = false }) do
    if fact[1] == "processor" or fact[1] == "caches" then m[fact[1]] = fact[2] end
  end
  if with_torch then
    local version = C.es_torch_version(fresh())
    m.torch = version ~= nil and native.string(version) or "absent"
    m.blas = version ~= nil and blas() or nil
  end
  return m
end

local function times(stats)
  return { median = stats.median / 1e3, low = stats.low / 1e3, high = stats.high / 1e3, runs = stats.count }
end

--- What a case costs and which share of the machine's best it reaches, from its median in nanoseconds.
function M.rate(row, side, peaks, ns)
  local work = side.work
  local seconds = ns / 1e9
  local least, bound = peak.bound(peaks, work)
  row.flops, row.bytes = work.flops, work.read + work.write
  row.gflops, row.gbs = work.flops / seconds / 1e9, row.bytes / seconds / 1e9
  row.share, row.bound = least / seconds, bound
  row.workspace, row.naive_workspace, row.compile_ms = side.workspace, side.naive, side.compile_ms
  row.tuned = side.compiled.tuning ~= nil
end

local function one(case, threads, pool, peaks, options)
  local row = { name = case.name, group = case.group, threads = threads }
  local cpu = options.cpu and threads == 1
  local esper, why = sides.esper(case, { pool = pool, isa = options.isa, store = options.store, cpu = cpu })
  if not esper then row.error = why return row end
  local list, torch = { esper }, nil
  if options.vs == "torch" then
    torch, why = sides.torch(esper, threads, cpu)
    if not torch then row.error = why else list[2] = torch end
  end
  local stats, problem = duel.run(list, { rounds = options.rounds, turn = options.turn, threads = threads })
  if not stats then row.error = problem return row end
  row.esper = times(stats.esper)
  M.rate(row, esper, peaks, stats.esper.median)
  if torch then
    row.torch = times(stats.torch)
    row.ratio, row.ratio_low, row.ratio_high = duel.ratio(stats.esper, stats.torch)
    row.difference = sides.difference(esper, torch)
    if row.difference > DIFFERENT then row.error = ("results differ by %.1e of the largest value"):format(row.difference) end
  end
  return row
end

-- Geometric mean of `ratio` and what is above 1, per thread count and group.
function M.summary(rows)
  local out, at = {}, {}
  for _, row in ipairs(rows) do
    if row.ratio and not row.error then
      local key = row.threads .. " " .. row.group
      local s = at[key]
      if not s then
        s = { threads = row.threads, group = row.group, cases = 0, log = 0, worst = 0, above = 0 }
        at[key], out[#out + 1] = s, s
      end
      s.cases, s.log, s.worst = s.cases + 1, s.log + math.log(row.ratio), math.max(s.worst, row.ratio)
      if row.ratio > 1 then s.above = s.above + 1 end
    end
  end
  for _, s in ipairs(out) do s.geomean, s.log = math.exp(s.log / s.cases), nil end
  return out
end

--- For commands that measure: results that a library allocates anew in every run come from memory the process already has.
function M.settle() C.es_measure_keep_memory() end

function M.run(cases, options)
  local report = { machine = M.machine(options.vs == "torch"), peaks = {}, cases = {} }
  if options.vs == "torch" and C.es_torch_load(fresh()) == nil then return failure() end
  local done, all = 0, #cases * #options.threads
  for i, threads in ipairs(options.threads) do
    local pool = M.pool(threads)
    report.peaks[i] = peak.measure { threads = threads, pool = pool, isa = options.isa }
    for _, case in ipairs(cases) do
      done = done + 1
      if options.progress then options.progress(done, all) end
      report.cases[#report.cases + 1] = one(case, threads, pool, report.peaks[i], options)
      collectgarbage()
    end
  end
  report.summary = M.summary(report.cases)
  return report
end

return M
