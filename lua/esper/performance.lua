--- Certificate 4: how fast a kernel is, measured beside the same graph composed of libtorch calls, interleaved, and as a
-- share of what this machine was measured to do at best. After the other certificates (validate.lua), on demand.
--
--   performance.judge(kernel, certificate)     sets certificate.performance; a kernel that is too slow fails it
--   performance.measure(kernel, options) -> evidence | nil, message     options = { rounds =, threads = }
--   evidence = { passed =, gate =, ratio =, ratio_low =, ratio_high = (p10, p90 of the rounds), uncertain = the gate lies
--     within them, esper_us =, esper_low_us =, esper_high_us =, torch_us =, ..., torch = version, threads =, rounds =,
--     share = of the measured best, bound = "fma" or a level of memory, gflops =, gbs =, peak_fma =, peak_memory =,
--     size = { [symbol] = value } }
-- With one thread processor time is clocked, so that a busy machine does not count. Noise speaks for the kernel: it fails
-- when even the fastest tenth of its rounds is over the gate. Without libtorch the share alone is kept and nothing judged.

local bench = require "esper.bench"
local duel = require "esper.bench.duel"
local native = require "esper.native"
local peak = require "esper.bench.peak"
local sides = require "esper.bench.sides"
local suite = require "esper.bench.suite"
local C, fresh = native.C, native.fresh

local M = {}

M.GATE = 1.5 -- times libtorch's time

local function keep(e, prefix, stats)
  e[prefix .. "_us"], e[prefix .. "_low_us"], e[prefix .. "_high_us"] = stats.median / 1e3, stats.low / 1e3, stats.high / 1e3
end

-- Peaks cost a second; one process measures them once per thread count.
local measured = {}
local function peaks_of(threads, pool)
  measured[threads] = measured[threads] or peak.measure { threads = threads, pool = pool }
  return measured[threads]
end

function M.measure(kernel, options)
  options = options or {}
  local threads, rounds = options.threads or 1, options.rounds or 12
  local pool, why = bench.pool(threads)
  if not pool then return nil, why end
  local case = suite.case(kernel.name, { mode = kernel.mode })
  local esper, torch, problem, stats
  esper, problem = sides.esper(case, { pool = pool, kernel = kernel, cpu = threads == 1 })
  if not esper then return nil, problem end
  local list = { esper }
  if C.es_torch_load(fresh()) ~= nil then
    torch, problem = sides.torch(esper, threads, threads == 1)
    if not torch then return nil, "libtorch: " .. problem end
    list[2] = torch
  end
  stats, problem = duel.run(list, { rounds = rounds, threads = threads })
  if not stats then return nil, problem end
  local peaks, rate = peaks_of(threads, pool), {}
  bench.rate(rate, esper, peaks, stats.esper.median)
  local e = { passed = true, gate = M.GATE, threads = threads, rounds = rounds, size = esper.values, share = rate.share,
    bound = rate.bound, gflops = rate.gflops, gbs = rate.gbs, peak_fma = peaks.fma[kernel.dtype],
    peak_memory = peaks.levels[#peaks.levels].read }
  keep(e, "esper", stats.esper)
  if torch then
    keep(e, "torch", stats.torch)
    e.torch = native.string(C.es_torch_version(fresh()))
    e.ratio, e.ratio_low, e.ratio_high = duel.ratio(stats.esper, stats.torch)
    e.uncertain = e.ratio_low <= M.GATE and e.ratio_high > M.GATE
    e.passed = e.ratio_low <= M.GATE
  end
  return e
end

function M.judge(kernel, certificate)
  local e, why = M.measure(kernel)
  certificate.performance = e
  if not e then
    certificate.passed, certificate.failure = false, "performance: " .. why
  elseif not e.passed then
    certificate.passed = false
    certificate.failure = ("performance: %.2f times libtorch's time (%.2f in its best rounds), at most %.2f is allowed")
      :format(e.ratio, e.ratio_low, M.GATE)
  end
  return certificate
end

return M
