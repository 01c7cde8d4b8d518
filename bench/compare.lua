-- Who is fastest? Esper against PyTorch eager, torch.compile and ONNX Runtime from a virtual environment (and libtorch through
-- the shim), in one run: every peer is a process kept alive, and all take turns case by case, round by round.
--
--   luajit bench/compare.lua --venv DIR [--threads 1,2] [--group suite|kernels|catalogue] [--case TEXT]
--                            [--peers eager,compile,frozen,onnx,libtorch] [--rounds N] [--quick]
--                            [--clock wall|cpu] [--json FILE] [--svg FILE]
-- --clock cpu: with one thread, processor time instead of the clock on the wall: for a machine that others use too.
-- docs/performance.md tells how to make DIR. With one thread everything is pinned to one core. A case's line names the best
-- peer; the losing cases stand on top. `make bench PEERS=DIR` runs this.
package.path = "lua/?.lua;lua/?/init.lua;?.lua;" .. package.path
package.cpath = "build/?.so;" .. package.cpath
jit.off() -- as the embedded searcher does for Esper's own modules (src/bind/state.c)
local bench = require "esper.bench"
local chart = require "esper.bench.chart"
local duel = require "esper.bench.duel"
local export = require "bench.export"
local json = require "esper.json"
local native = require "esper.native"
local peak = require "esper.bench.peak"
local report_text = require "esper.bench.report"
local sides = require "esper.bench.sides"
local suite = require "esper.bench.suite"
local text = require "esper.text"

local function die(message)
  io.stderr:write("compare: ", message, "\n")
  os.exit(2)
end

-- ---- arguments ----

local VALUE = { venv = true, threads = true, group = true, case = true, peers = true, rounds = true, clock = true, json = true, svg = true,
  inner = true }

local function arguments(list)
  local out, i = {}, 1
  while i <= #list do
    local name = list[i]:match "^%-%-(%l+)$" or list[i]
    if name == "quick" then out.quick = true
    elseif VALUE[name] and list[i + 1] then
      out[name], i = list[i + 1], i + 1
    else die("unknown option or missing value: " .. list[i] .. "; the top of bench/compare.lua lists them") end
    i = i + 1
  end
  return out
end

local function quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

local function words(s)
  local out = {}
  for w in s:gmatch "[^,]+" do out[#out + 1] = w end
  return out
end

-- ---- one peer process ----

local Peer = {}
Peer.__index = Peer

-- As bench.settle() for Esper's process: fresh pages in every run would be the allocator's time, not the library's.
local MEMORY = "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647"

local function start(kind, options, directory)
  local replies = ("%s/%s.replies"):format(directory, kind)
  if os.execute("mkfifo " .. quote(replies)) ~= 0 then die("cannot make " .. replies) end
  local to = io.popen(("%s exec %s bench/peers/peer.py %s %d > %s 2> %s"):format(MEMORY, quote(options.venv .. "/bin/python"), kind,
    options.inner, quote(replies), quote(directory .. "/" .. kind .. ".log")), "w")
  return setmetatable({ name = kind, to = to, from = io.open(replies, "r") }, Peer)
end

function Peer:ask(line)
  if not self.to then return nil, self.name .. " has ended" end
  self.to:write(line, "\n")
  self.to:flush()
  local reply = self.from:read "*l"
  if not reply then
    self.to:close()
    self.to = nil
    return nil, self.name .. " has ended; see its log"
  end
  local verb, rest = reply:match "^(%S+) ?(.*)$"
  if verb == "error" then return nil, rest end
  return rest
end

function Peer:load(directory)
  local version, why = self:ask("load " .. directory)
  self.version = version or self.version
  return version, why
end

function Peer:side(case, cpu)
  return { name = self.name, case = case, run = function(reps, ns)
    local reply, why = self:ask("run " .. reps .. (cpu and " cpu" or ""))
    if not reply then return nil, why end
    local i = 0
    for t in reply:gmatch "%d+" do
      ns[i] = tonumber(t)
      i = i + 1
    end
    return i == reps or nil, "short reply"
  end }
end

-- ---- one case ----

local function times(s) return { median = s.median / 1e3, low = s.low / 1e3, high = s.high / 1e3, runs = s.count } end

-- The peer with the least median, and what its column is called.
local function best_of(stats)
  local best
  for name, s in pairs(stats) do
    if name ~= "esper" and (not best or s.median < stats[best].median) then best = name end
  end
  return best
end

local function measure(case, peers, options, context)
  local row = { name = case.name, group = case.group, threads = options.inner, peers = {}, failed = {} }
  local cpu = options.clock == "cpu" and options.inner == 1
  local esper, why = sides.esper(case, { pool = context.pool, store = context.store, cpu = cpu })
  if not esper then row.error = why return row end
  local ready, problem = esper.run(1, context.one)
  if not ready then row.error = problem return row end
  local directory = context.directory .. "/case"
  os.execute(("rm -rf %s; mkdir %s"):format(quote(directory), quote(directory)))
  export.case(esper, directory)
  local list = { esper }
  for _, peer in ipairs(peers) do
    local version
    version, why = peer:load(directory)
    if version then list[#list + 1] = peer:side(case, cpu) else row.failed[peer.name] = why end
  end
  if context.libtorch then
    local torch
    torch, why = sides.torch(esper, options.inner, cpu)
    if torch then
      torch.name = "libtorch"
      list[#list + 1] = torch
    else row.failed.libtorch = why end
  end
  local stats
  stats, problem = duel.run(list, { rounds = options.rounds, turn = options.turn, threads = options.inner })
  if not stats then row.error = problem return row end
  row.esper = times(stats.esper)
  bench.rate(row, esper, context.peaks, stats.esper.median)
  for name, s in pairs(stats) do if name ~= "esper" then row.peers[name] = times(s) end end
  row.best = best_of(stats)
  if row.best then row.ratio, row.ratio_low, row.ratio_high = duel.ratio(stats.esper, stats[row.best]) end
  return row
end

-- ---- one thread count: the process that is pinned ----

local function cases_of(options)
  local out = {}
  for _, case in ipairs(suite.cases(options.group)) do
    if not options.case or case.name:find(options.case, 1, true) then out[#out + 1] = case end
  end
  if #out == 0 then die "no case of the suite is asked for" end
  return out
end

local function inner(options)
  options.inner = tonumber(options.inner)
  bench.settle()
  local pipe = io.popen "mktemp -d"
  local context = { directory = pipe:read "*l", pool = bench.pool(options.inner), one = native.new "double[1]" }
  pipe:close()
  context.store = require("esper").store() -- tuned choices
  local peers = {}
  for _, kind in ipairs(words(options.peers)) do
    if kind == "libtorch" then context.libtorch = true else peers[#peers + 1] = start(kind, options, context.directory) end
  end
  context.peaks = peak.measure { threads = options.inner, pool = context.pool }
  local shown = native.C.es_terminal(2)
  local report, list = { threads = options.inner, peaks = context.peaks, cases = {} }, cases_of(options)
  for i, case in ipairs(list) do
    if shown then io.stderr:write(("\r\27[K%d threads, %d/%d %s"):format(options.inner, i, #list, case.name)) end
    report.cases[i] = measure(case, peers, options, context)
    collectgarbage()
  end
  if shown then io.stderr:write "\r\27[K" end
  report.machine, report.versions = bench.machine(context.libtorch), {}
  for _, peer in ipairs(peers) do
    peer:ask "quit"
    report.versions[peer.name] = peer.version or "never loaded"
  end
  local file = assert(io.open(options.json, "wb"))
  file:write(json.encode(report))
  file:close()
  os.execute("rm -rf " .. quote(context.directory))
end

-- ---- the whole: one pinned process per thread count, then one table ----

local function verdict(r)
  return { r.best or "", r.ratio and ("%.2f"):format(r.ratio) or "",
    r.ratio and ("%.2f-%.2f"):format(r.ratio_low, r.ratio_high) or "", r.share and ("%.0f%%"):format(100 * r.share) or "",
    r.bound or "" }
end

local function table_of(rows, kinds)
  local head = { "case", "thr", "esper" }
  for _, kind in ipairs(kinds) do head[#head + 1] = kind end
  for _, name in ipairs { "best peer", "ratio", "noise", "of peak", "bound" } do head[#head + 1] = name end
  local out = { head }
  for _, r in ipairs(report_text.slowest_first(rows)) do
    local row = { r.name, r.threads, report_text.time(r.esper and r.esper.median) }
    for _, kind in ipairs(kinds) do row[#row + 1] = r.peers[kind] and report_text.time(r.peers[kind].median) or "failed" end
    for _, cell in ipairs(verdict(r)) do row[#row + 1] = cell end
    out[#out + 1] = row
  end
  return text.columns(out, "lrr" .. ("r"):rep(#kinds) .. "lrrrl")
end

local function failures(rows)
  local out = {}
  for _, r in ipairs(rows) do
    if r.error then out[#out + 1] = ("FAILED %s, %d threads: %s"):format(r.name, r.threads, r.error) end
    for kind, why in pairs(r.failed) do out[#out + 1] = ("%s, %d threads: %s cannot: %s"):format(r.name, r.threads, kind, why) end
  end
  return out
end

local function show(all, kinds)
  print(report_text.machine(all.machine))
  for kind, version in pairs(all.versions) do print(("%s: %s"):format(kind, version)) end
  for _, p in ipairs(all.peaks) do print(report_text.peaks(p)) end
  print(table_of(all.cases, kinds))
  for _, s in ipairs(all.summary) do
    print(report_text.summary(s) .. " (the best peer of each case)")
  end
  for _, line in ipairs(failures(all.cases)) do print(line) end
end

local function bars(all)
  local rows = {}
  for _, r in ipairs(report_text.slowest_first(all.cases)) do
    if r.ratio then
      local peers = {}
      for name, t in pairs(r.peers) do
        if name ~= r.best then peers[name] = t.median / r.peers[r.best].median end
      end
      rows[#rows + 1] = { name = r.name .. ", " .. r.threads .. " thr", ratio = r.ratio, peers = peers }
    end
  end
  return chart.bars { rows = rows,
    title = ("Esper %s against the best of its peers, %s"):format(all.machine.esper, all.machine.processor) }
end

local function write(path, body)
  local file, why = io.open(path, "wb")
  if not file then die("cannot write " .. why) end
  file:write(body)
  file:close()
end

local function command_of(options, threads, path)
  local pipe = io.popen "nproc --all"
  local cores = tonumber(pipe:read "*l")
  pipe:close()
  local parts = { threads == 1 and ("taskset -c %d"):format(cores - 1) or "", "luajit bench/compare.lua --inner", threads,
    "--json", quote(path) }
  for _, name in ipairs { "venv", "group", "case", "peers", "rounds", "clock" } do
    if options[name] then parts[#parts + 1] = ("--%s %s"):format(name, quote(tostring(options[name]))) end
  end
  if options.quick then parts[#parts + 1] = "--quick" end
  return table.concat(parts, " ")
end

local function outer(options)
  local all = { peaks = {}, cases = {} }
  for i, threads in ipairs(words(options.threads or table.concat(bench.thread_counts(), ","))) do
    local path = os.tmpname()
    if os.execute(command_of(options, tonumber(threads) or die "--threads wants numbers", path)) ~= 0 then os.exit(1) end
    local file = assert(io.open(path, "rb"))
    local part = assert(json.decode(file:read "*a"))
    file:close()
    os.remove(path)
    all.peaks[i], all.machine, all.versions = part.peaks, part.machine, part.versions
    for _, row in ipairs(part.cases) do all.cases[#all.cases + 1] = row end
  end
  all.summary = bench.summary(all.cases)
  show(all, words(options.peers))
  if options.json then write(options.json, json.encode(all) .. "\n") end
  if options.svg then write(options.svg, bars(all)) end
end

local options = arguments(arg)
if not options.venv then die "wanted: --venv DIR, a virtual environment with torch and onnxruntime (docs/performance.md)" end
options.peers = options.peers or "eager,compile,onnx"
options.rounds = tonumber(options.rounds) or (options.quick and 4 or 10)
options.turn = options.quick and 4 or 8
if options.inner then inner(options) else outer(options) end
