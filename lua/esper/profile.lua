--- `esper profile`: what every kernel of a plan takes, moves and reaches of the machine's measured best.
-- Over the benchmark's Esper side (bench/sides.lua) and peaks (bench/peak.lua); the run time notes the clock per step.
--
--   profile.run(case, { threads = n, given = fn(kernel) -> tensors or nil, runs =, store = }) -> report | nil, message
--   profile.text(report) -> text      profile.points(report) -> for roofline.lua
--   report = { name =, mode =, dtype =, isa =, threads =, sizes = {}, peaks =, runs =, total_us =, compile_ms =,
--     kernels = { { kind =, nodes = text, steps = { { label =, us =, tiles = }, ... }, us =, time_share =, flops =, read =,
--                   written = (bytes), gflops =, gbs =, share =, bound = or "kept", cycles =, instructions =, cache_misses = }, ... },
--     memory = { passes =, passes_node_by_node =, copies =, copied_bytes =, workspace =, naive_workspace =, weights = },
--     counters = "available" or why not }
-- A kernel is a group; its steps are function calls with a barrier between. Medians over the runs; counters are means.

local bench = require "esper.bench"
local facts = require "esper.facts"
local native = require "esper.native"
local peak = require "esper.bench.peak"
local report_text = require "esper.bench.report"
local sides = require "esper.bench.sides"
local text = require "esper.text"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}

local TIME = 150 -- ms of runs unless their number is given
local RUNS_MIN, RUNS_MAX = 20, 2000
local COUNTS = { "cycles", "instructions", "cache_misses" } -- in the order of counters.h
local VIEW = { reshape = true, permute = true, slice = true, expand = true }
local UNCOUNTED = { param = true, buffer = true, const = true }

-- ---- measuring ----

local function median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

-- Per step the nanoseconds of every run, and sums of the counters; then whole runs without any notes.
local function clock(side, steps, runs, counters)
  local profile = native.new "es_profile"
  local ns, counts = native.new("double[?]", steps + 1), native.new("int64_t[?]", 3 * steps + 3)
  profile.ns, profile.counts, profile.counters = ns, counts, counters
  local times, sums, whole = {}, {}, {}
  for s = 1, steps do times[s], sums[s] = {}, { 0, 0, 0 } end
  local one, warm = native.new "double[1]", 2
  for r = 1 - warm, runs do
    side.es_run.profile = profile
    local ok, why = side.run(1, one)
    side.es_run.profile = nil
    if not ok then return nil, why end
    for s = 1, r > 0 and steps or 0 do
      times[s][r] = ns[s - 1]
      for c = 1, 3 do sums[s][c] = sums[s][c] + tonumber(counts[3 * (s - 1) + c - 1]) end
    end
    ok, why = side.run(1, one)
    if not ok then return nil, why end
    if r > 0 then whole[r] = one[0] end
  end
  for s = 1, steps do
    times[s] = median(times[s])
    for c = 1, 3 do sums[s][c] = sums[s][c] / runs end
  end
  return times, sums, median(whole)
end

local function runs_for(side)
  local one = native.new "double[2]"
  local ok, why = side.run(2, one)
  if not ok then return nil, why end
  return math.max(RUNS_MIN, math.min(RUNS_MAX, math.floor(TIME * 1e6 / (2 * math.max(one[1], 1)))))
end

-- ---- what a plan does with memory ----

-- Whole activations read and written: by the groups, and by a program that calls one function per node.
local function passes(f, groups)
  local fused, single = 0, 0
  for _, group in ipairs(groups) do
    local seen = {}
    fused = fused + #group.outputs
    for _, args in pairs(group.args) do
      for _, arg in ipairs(args) do
        if arg.base and not UNCOUNTED[f.op[arg.base]] and not seen[arg.base] then
          seen[arg.base], fused = true, fused + 1
        end
      end
    end
  end
  for id = 0, f.n - 1 do
    local op = f.op[id]
    if not facts.leaf[op] and op ~= "const" and not VIEW[op] then
      single = single + 1
      for _, from in ipairs(f.ins[id]) do
        if not UNCOUNTED[f.op[from]] then single = single + 1 end
      end
    end
  end
  return fused, single
end

local function memory(side)
  local groups = side.compiled.groups
  local m = { workspace = side.workspace, naive_workspace = side.naive, copies = 0, copied_bytes = 0, weights = 0 }
  m.passes, m.passes_node_by_node = passes(groups.facts, groups.groups)
  for n, work in ipairs(side.group_work) do
    local group = groups.groups[n]
    local moves = work.flops == 0 and (group.kind == "pointwise" or group.kind == "concat")
    if moves then m.copies, m.copied_bytes = m.copies + 1, m.copied_bytes + work.write end
  end
  for _, l in pairs(side.data) do
    if UNCOUNTED[side.graph:op(l.id)] then m.weights = m.weights + l.tensor.bytes end
  end
  return m
end

-- ---- the report ----

local function plan_step(side, i) return C.es_plan_step_get(side.compiled.plan, i) end

-- "%3 linear + %4 gelu": the nodes; what follows in parentheses belongs to the step.
local function split(label)
  local nodes, own = label:match "^(.-) %(([^()]*)%)$"
  return nodes or label, own or ""
end

local function kernel_row(side, n, first, times, sums, total, peaks, available)
  local work, row = side.group_work[n], { kind = side.compiled.groups.groups[n].kind, steps = {}, us = 0 }
  for k = 1, #side.compiled.code[n].steps do
    local at = first + k
    local step = plan_step(side, at - 1)
    local nodes, own = split(native.string(step.label))
    row.nodes = row.nodes or nodes
    row.steps[k] = { label = own, us = times[at] / 1e3, fn = native.string(step.fn) }
    row.us = row.us + times[at] / 1e3
    for c, name in ipairs(COUNTS) do
      if available[name] then row[name] = (row[name] or 0) + sums[at][c] end
    end
  end
  if row.us == 0 then -- no step runs: what it makes of parameters alone was kept from the first run
    row.flops, row.read, row.written, row.time_share, row.gflops, row.gbs, row.share, row.bound = 0, 0, 0, 0, 0, 0, 0, "kept"
    return row
  end
  local seconds = row.us / 1e6
  local least, bound = peak.bound(peaks, work)
  row.flops, row.read, row.written, row.time_share = work.flops, work.read, work.write, row.us / total
  row.gflops, row.gbs = work.flops / seconds / 1e9, (work.read + work.write) / seconds / 1e9
  row.share, row.bound = least / seconds, bound
  return row
end

local function counters_open()
  local counters, available = C.es_counters_open(), {}
  if counters == nil then return nil, available end
  counters = native.gc(counters, C.es_counters_close)
  for c, name in ipairs(COUNTS) do available[name] = C.es_counters_has(counters, c - 1) end
  return counters, available
end

function M.run(case, options)
  local counters, available = counters_open() -- before the pool: its threads are counted too
  local pool, threads = bench.pool(options.threads)
  if not pool then return nil, threads end
  local side, why = sides.esper(case, { pool = pool, given = options.given, compiles = 1, store = options.store })
  if not side then return nil, why end
  local runs, problem = options.runs, nil
  if not runs then runs, problem = runs_for(side) end
  if not runs then return nil, problem end
  local steps = C.es_plan_step_count(side.compiled.plan)
  local times, sums, whole = clock(side, steps, runs, counters)
  if not times then return nil, sums end
  local total = 0
  for s = 1, steps do total = total + times[s] / 1e3 end
  local peaks = peak.measure { threads = threads, pool = pool }
  local made = side.compiled
  local report = { name = made.name, mode = made.mode, dtype = made.dtype, isa = made.isa, threads = threads, sizes = side.values,
    peaks = peaks, runs = runs, total_us = whole / 1e3, compile_ms = side.compile_ms, kernels = {}, memory = memory(side),
    counters = counters and "available" or "unavailable: the system offers none to this process" }
  local first = 0
  for n in ipairs(side.group_work) do
    report.kernels[n] = kernel_row(side, n, first, times, sums, total, peaks, available)
    first = first + #side.compiled.code[n].steps
  end
  bench.rate(report, side, peaks, whole)
  return report
end

-- ---- for people ----

function M.points(report)
  local out = {}
  for n, k in ipairs(report.kernels) do
    out[n] = { name = k.nodes, flops = k.flops, bytes = k.read + k.written, seconds = k.us / 1e6 }
  end
  return { title = ("%s, %d threads, %s"):format(report.name, report.threads, report.isa), peaks = report.peaks, points = out }
end

local function bytes(n)
  if n >= 2 ^ 20 then return ("%.1f MiB"):format(n / 2 ^ 20) end
  return n >= 1024 and ("%.1f KiB"):format(n / 1024) or ("%d B"):format(n)
end

local function short(s, room) return #s <= room and s or s:sub(1, room - 3) .. "..." end

local function rows_of(report)
  local rows = { { "#", "kernel", "nodes", "time", "share", "GFLOP/s", "GB/s", "of peak", "bound", "flops/byte" } }
  local counted = report.kernels[1] and report.kernels[1].cycles
  if counted then for _, name in ipairs { "instr/cycle", "LLC misses" } do table.insert(rows[1], name) end end
  for n, k in ipairs(report.kernels) do
    local moved = k.read + k.written
    local row = { n, k.kind, short(k.nodes or "", 48), report_text.time(k.us), ("%.0f%%"):format(100 * k.time_share),
      ("%.1f"):format(k.gflops), ("%.1f"):format(k.gbs), ("%.0f%%"):format(100 * k.share), k.bound,
      moved > 0 and ("%.2f"):format(k.flops / moved) or "" }
    if counted then
      table.insert(row, k.instructions and k.cycles > 0 and ("%.2f"):format(k.instructions / k.cycles) or "")
      table.insert(row, k.cache_misses and ("%.0f"):format(k.cache_misses) or "unavailable")
    end
    rows[#rows + 1] = row
    for _, step in ipairs(#k.steps > 1 and k.steps or {}) do
      local name = step.label ~= "" and step.label or step.fn
      if step.us > 0 then rows[#rows + 1] = { "", "", "  step " .. name, report_text.time(step.us) } end -- 0: no tiles here
    end
  end
  return rows
end

function M.text(report)
  local sizes, m = {}, report.memory
  for _, name in ipairs(text.keys(report.sizes)) do sizes[#sizes + 1] = name .. "=" .. report.sizes[name] end
  local out = {
    ("%s (%s, %s, %s, %s)"):format(report.name, report.mode, report.dtype, report.isa, table.concat(sizes, " ")),
    report_text.peaks(report.peaks), text.columns(rows_of(report), "rllrrrrrlrrr"),
    ("whole run %s, median of %d; %.1f GFLOP/s, %.1f GB/s, %.0f%% of the peak (%s); compiled in %.1f ms"):format(
      report_text.time(report.total_us), report.runs, report.gflops, report.gbs, 100 * report.share, report.bound, report.compile_ms),
    ("memory passes %d (node by node %d), copies %d (%s); workspace %s of %s of intermediates; weights %s"):format(m.passes,
      m.passes_node_by_node, m.copies, bytes(m.copied_bytes), bytes(m.workspace), bytes(m.naive_workspace), bytes(m.weights)),
    "hardware counters " .. report.counters, "", require("esper.bench.roofline").text(M.points(report)) }
  return table.concat(out, "\n")
end

return M
