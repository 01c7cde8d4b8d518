--- Reports of benchmarks as tables for people: losing cases on top.
--   report.text(report) -> text      report = bench.run's (init.lua)
--   report.peaks(peaks) -> text      report.time(us) -> "12.3 us"     report.slowest_first(rows)     report.summary(s)

local text = require "esper.text"

local M = {}

function M.time(us)
  if not us then return "" end
  if us >= 1e6 then return ("%.2f s"):format(us / 1e6) end
  if us >= 1e3 then return ("%.2f ms"):format(us / 1e3) end
  return (us >= 100 and "%.0f us" or us >= 10 and "%.1f us" or "%.2f us"):format(us)
end

local function spread(t)
  return t and ("-%.0f +%.0f%%"):format(100 * (1 - t.low / t.median), 100 * (t.high / t.median - 1)) or ""
end

local function rate(v) return v >= 1e9 and ("%.1f G"):format(v / 1e9) or ("%.1f M"):format(v / 1e6) end

function M.peaks(p)
  local levels = {}
  for i, l in ipairs(p.levels) do levels[i] = ("%s %s/%s"):format(l.name, rate(l.read), rate(l.copy)) end
  return ("peak of %d thread%s, %s: fma f32 %sFLOP/s, f64 %sFLOP/s; bytes/s reading/copying: %s"):format(p.threads,
    p.threads == 1 and "" or "s", p.isa, rate(p.fma.f32), rate(p.fma.f64), table.concat(levels, ", "))
end

--- Rows with an error first, then by ratio, the worst first; without ratios by share of the peak, the lowest first.
function M.slowest_first(rows)
  local sorted = { unpack(rows) }
  local function rank(r) return r.error and math.huge or r.ratio or r.share and -r.share or 0 end
  table.sort(sorted, function(a, b)
    if rank(a) ~= rank(b) then return rank(a) > rank(b) end
    if a.name ~= b.name then return a.name < b.name end
    return a.threads < b.threads
  end)
  return sorted
end

local HEAD = { "case", "thr", "esper", "spread", "torch", "spread", "ratio", "noise", "of peak", "bound", "GFLOP/s", "GB/s",
  "compile" }

local function line(r)
  local esper, torch = r.esper and r.esper.median, r.torch and r.torch.median
  return { r.name, r.threads, M.time(esper), spread(r.esper), M.time(torch), spread(r.torch),
    r.ratio and ("%.2f"):format(r.ratio) or "", r.ratio and ("%.2f-%.2f"):format(r.ratio_low, r.ratio_high) or "",
    r.share and ("%.0f%%"):format(100 * r.share) or "", r.bound or "", r.gflops and ("%.1f"):format(r.gflops) or "",
    r.gbs and ("%.1f"):format(r.gbs) or "", r.compile_ms and ("%.1f ms"):format(r.compile_ms) or "" }
end

function M.machine(m)
  local lines = { ("%s; caches %s; Esper %s (%s), %s"):format(m.processor, m.caches, m.esper, m.build, m.isa) }
  if m.torch then lines[2] = ("libtorch %s, BLAS: %s"):format(m.torch, m.blas or "unknown") end
  return table.concat(lines, "\n")
end

--- One line of bench.summary's.
function M.summary(s)
  return ("%s, %d thread%s: geometric mean %.2f over %d cases, worst %.2f, %d above 1"):format(s.group, s.threads,
    s.threads == 1 and "" or "s", s.geomean, s.cases, s.worst, s.above)
end

function M.text(report)
  local rows, failed = { HEAD }, {}
  for _, r in ipairs(M.slowest_first(report.cases)) do
    if r.esper then rows[#rows + 1] = line(r) end
    if r.error then failed[#failed + 1] = ("%s, %d threads: %s"):format(r.name, r.threads, r.error) end
  end
  local out = { M.machine(report.machine) }
  for _, p in ipairs(report.peaks) do out[#out + 1] = M.peaks(p) end
  out[#out + 1] = text.columns(rows, "lrrrrrrrrlrrr")
  for _, s in ipairs(report.summary) do
    out[#out + 1] = M.summary(s)
  end
  for _, f in ipairs(failed) do out[#out + 1] = "FAILED " .. f end
  return table.concat(out, "\n")
end

return M
