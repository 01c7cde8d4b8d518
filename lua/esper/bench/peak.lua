--- What this machine can do at best: multiply-adds a second and bytes a second at every level of its memory, measured here
-- and now by vector blocks of Esper's own. Under benchmarks and profiles, which give shares of it.
--
--   peak.measure{ threads =, pool = es_pool * or nil, isa = } -> {
--     threads =, isa =, fma = { f32 = flop/s, f64 = flop/s },
--     levels = { { name = "L1", room = bytes, read = bytes/s, copy = bytes/s }, ... "memory" last } }
--   peak.bound(peaks, work) -> seconds, "fma" or the level's name     what `work` takes at least:
--     work = { flops =, read =, write = bytes, set = bytes touched, dtype = "f32" | "f64" }
-- copy counts bytes read and bytes written. The fastest of many repetitions counts: interference only ever slows down.
-- A working set belongs to the smallest level with room for it; caches of one core count once per thread.

local emit = require "esper.emit"
local native = require "esper.native"
local vec = require "esper.vec"
local C = native.C

local M = {}

local ACCUMULATORS = { scalar = 6, avx2 = 12, avx512 = 12 } -- over 4 cycles of latency times 2 units
local CHUNKS = 4       -- tiles per thread
local BUDGET = 6e6     -- nanoseconds spent on one number in one pass
local PASSES = 3
local REPS = 20        -- at least
local TURNS = 20000    -- of an fma block; 40 times fewer where a turn is 40 times slower
local LINE = 64 * 1024 -- bytes: an unrolled turn of a bandwidth block divides it

-- ---- vector blocks ----

local function fma(b) -- words: turns, address of one vector
  local accumulators, turns, from = {}, b:arg(0), b:arg(1)
  local x = b:load(from)
  for i = 1, ACCUMULATORS[b.isa] or 12 do accumulators[i] = b:load(from) end
  b:loop(turns, function()
    for _, a in ipairs(accumulators) do b:set(a, b:fma(x, x, a)) end
  end)
  for _, a in ipairs(accumulators) do b:store(from, b:mul(a, b:splat(0))) end
end

local UNROLL = 4

local function read(b) -- words: turns, address, address of one vector for the sum
  local turns, from, sums = b:arg(0), b:arg(1), {}
  for i = 1, UNROLL do sums[i] = b:load(b:arg(2)) end
  local at = b:copy(from)
  b:loop(turns, function()
    for i = 1, UNROLL do b:set(sums[i], b:add(sums[i], b:load(at, (i - 1) * b.bytes * b.lanes))) end
    b:g_set(at, b:g_addk(at, UNROLL * b.bytes * b.lanes))
  end)
  for i = 2, UNROLL do b:set(sums[1], b:add(sums[1], sums[i])) end
  b:store(b:arg(2), b:mul(sums[1], b:splat(0)))
end

local function copy(b) -- words: turns, from, to
  local turns, from, to = b:arg(0), b:copy(b:arg(1)), b:copy(b:arg(2))
  b:loop(turns, function()
    for i = 1, UNROLL do b:store(to, b:load(from, (i - 1) * b.bytes * b.lanes), (i - 1) * b.bytes * b.lanes) end
    b:g_set(from, b:g_addk(from, UNROLL * b.bytes * b.lanes))
    b:g_set(to, b:g_addk(to, UNROLL * b.bytes * b.lanes))
  end)
end

-- ---- from blocks to functions ----

-- C glue of each: operands p[], sizes d[]; a tile is a piece of its own of every buffer. d: bytes of a piece, passes.
local BODY = {
  fma = [[
  for (long t = lo; t < hi; t++) {
    long w[2]; w[0] = a->d[0]; w[1] = (long)(a->p[0] + t * 128);
    %s(w);
  }
]],
  read = [[
  for (long t = lo; t < hi; t++)
    for (long k = 0; k < a->d[1]; k++) {
      long w[3]; w[0] = a->d[0] / %d; w[1] = (long)(a->p[0] + t * a->d[0]); w[2] = (long)(a->p[2] + t * 128);
      %s(w);
    }
]],
  copy = [[
  for (long t = lo; t < hi; t++)
    for (long k = 0; k < a->d[1]; k++) {
      long w[3]; w[0] = a->d[0] / %d; w[1] = (long)(a->p[0] + t * a->d[0]); w[2] = (long)(a->p[1] + t * a->d[0]);
      %s(w);
    }
]] }

local function functions(isa)
  local unit, names = emit.unit(nil, isa), {}
  local function add(name, build, dtype)
    local block, turn = unit:block(build, dtype), UNROLL * vec.lanes(isa, dtype) * native.dtypebytes[dtype]
    local body = build == fma and BODY.fma:format(block) or (build == read and BODY.read or BODY.copy):format(turn, block)
    names[name] = unit:fn(body, name)
  end
  add("f32", fma, "f32")
  add("f64", fma, "f64")
  add("read", read, "f32")
  add("copy", copy, "f32")
  local object = native.gc(native.new "es_text", C.es_text_clear)
  local code = native.new "es_code *[1]"
  assert(C.es_jit_compile(unit:text(), object, native.fresh()) == 0 or nil, "peak: the unit does not compile")
  local bytes = native.string(object.bytes, object.length)
  assert(C.es_code_load(bytes, #bytes, code, native.fresh()) == 0 or nil, "peak: the object does not load")
  local fns = { held = native.gc(code[0], C.es_code_release) }
  for name, symbol in pairs(names) do fns[name] = native.cast("es_kernel_fn", C.es_code_symbol(fns.held, symbol)) end
  return fns
end

-- ---- measuring ----

-- Fastest nanoseconds of fn over `tiles`; d: its sizes.
local function fastest(run, fn, tiles, d, p)
  local args = native.new "es_args"
  args.p, args.d = p, d
  local ns = native.new("double[?]", 1000)
  C.es_measure_tiles(run.pool, tiles, fn, args, 2, ns)
  local reps = math.max(REPS, math.min(1000, math.floor(BUDGET / math.max(ns[1], 1))))
  C.es_measure_tiles(run.pool, tiles, fn, args, reps, ns)
  local best = ns[0]
  for i = 1, reps - 1 do best = math.min(best, ns[i]) end
  return best
end

local function block(bytes)
  local memory = C.es_alloc(bytes + 64)
  if memory == nil then error(("no memory for a benchmark of %.0f bytes"):format(bytes), 0) end
  memory = native.gc(memory, C.es_free)
  native.clear(memory, bytes + 64)
  return native.cast("char *", memory) + -native.address(memory) % 64, memory
end

local function caches()
  local found = {}
  for i = 0, 9 do
    local function fact(name)
      local f = io.open(("/sys/devices/system/cpu/cpu0/cache/index%d/%s"):format(i, name))
      local line = f and f:read "*l"
      if f then f:close() end
      return line
    end
    local size = tonumber((fact "size" or ""):match "^(%d+)K$")
    if size and fact "type" ~= "Instruction" then found[tonumber(fact "level")] = size * 1024 end
  end
  return { found[1] or 32 * 1024, found[2] or 512 * 1024, found[3] or 8 * 1024 * 1024 }
end

-- Bandwidth of one level with `each` bytes touched per thread in all.
local function level(run, fns, name, room, bytes, buffers)
  local piece = math.max(1, math.floor(bytes / run.threads / CHUNKS / 2 / 4096)) * 4096 -- of each of two buffers, per tile
  local tiles, one, d = run.threads * CHUNKS, name ~= "memory", native.new "int64_t[2]"
  if one then piece, tiles = piece * CHUNKS, run.threads end -- a thread stays on its own piece
  d[0], d[1] = piece, math.max(1, math.floor(2 ^ 20 / piece))
  local copied = 2 * piece * tiles * tonumber(d[1]) / fastest(run, fns.copy, tiles, d, buffers) * 1e9
  local seen = piece * tiles * tonumber(d[1]) / fastest(run, fns.read, tiles, d, buffers) * 1e9
  return { name = name, room = room, copy = copied, read = seen }
end

-- Everything once. `one`: turns of an fma block.
local function pass(run, fns, size, buffers, one)
  local out = { fma = {}, levels = {} }
  for _, dtype in ipairs { "f32", "f64" } do
    local flops = 2 * (ACCUMULATORS[run.isa] or 12) * vec.lanes(run.isa, dtype) * tonumber(one[0]) * run.threads * CHUNKS
    out.fma[dtype] = flops / fastest(run, fns[dtype], run.threads * CHUNKS, one, buffers) * 1e9
  end
  local whole = { size[1] * run.threads, size[2] * run.threads, size[3] }
  for i, name in ipairs { "L1", "L2", "L3" } do
    out.levels[i] = level(run, fns, name, whole[i], (i == 3 and 0.25 or 0.5) * whole[i], buffers)
  end
  out.levels[4] = level(run, fns, "memory", math.huge, size.far, buffers)
  return out
end

function M.measure(options)
  local run = { pool = options.pool, threads = options.threads or 1, isa = options.isa or vec.best() }
  local fns, size = functions(run.isa), caches()
  size.far = math.max(4 * size[3], 64 * 1024 * 1024)
  local a, held_a = block(size.far / 2 + LINE)
  local b, held_b = block(size.far / 2 + LINE)
  local sums, held_sums = block(128 * run.threads * CHUNKS)
  local buffers, one = native.new "char *[3]", native.new "int64_t[2]"
  buffers[0], buffers[1], buffers[2] = a, b, sums
  one[0] = vec.lanes(run.isa, "f32") == 1 and TURNS / 40 or TURNS
  local out
  for _ = 1, PASSES do -- apart in time: a neighbour that is busy for some ms spoils one of them
    local seen = pass(run, fns, size, buffers, one)
    out = out or seen
    for dtype, v in pairs(seen.fma) do out.fma[dtype] = math.max(out.fma[dtype], v) end
    for i, l in ipairs(seen.levels) do
      out.levels[i].read, out.levels[i].copy = math.max(out.levels[i].read, l.read), math.max(out.levels[i].copy, l.copy)
    end
  end
  out.threads, out.isa = run.threads, run.isa
  return out, held_a, held_b, held_sums
end

-- ---- bounds ----

--- The level a working set lives in.
function M.level(peaks, bytes)
  for _, l in ipairs(peaks.levels) do
    if bytes <= l.room then return l end
  end
  return peaks.levels[#peaks.levels]
end

--- Seconds that moving takes: reads at the level's read rate, writes at what copying leaves for them.
function M.moving(l, read_bytes, write_bytes)
  local each_read = 1 / l.read
  local each_write = math.max(2 / l.copy - each_read, 0)
  return read_bytes * each_read + write_bytes * each_write
end

function M.bound(peaks, work)
  local l = M.level(peaks, work.set)
  local arithmetic = work.flops / peaks.fma[work.dtype or "f32"]
  local moving = M.moving(l, work.read, work.write)
  if arithmetic >= moving then return arithmetic, "fma" end
  return moving, l.name
end

return M
