-- Measuring: what benchmarks, profiles and the performance certificate say, never how fast anything is. Timings here are
-- made up or only looked at for being there.
local chart = require "esper.bench.chart"
local duel = require "esper.bench.duel"
local native = require "esper.native"
local one = require "support.one_graph"
local peak = require "esper.bench.peak"
local roofline = require "esper.bench.roofline"
local sides = require "esper.bench.sides"
local suite = require "esper.bench.suite"
local C = native.C

local torch = C.es_torch_load(native.fresh()) ~= nil

-- A side that takes ns(round) every time and keeps the order of calls.
local function fake(name, log, ns)
  local calls = 0
  return { name = name, run = function(reps, buffer)
    calls = calls + 1
    log[#log + 1] = name
    for i = 0, reps - 1 do buffer[i] = ns(calls) end
    return true
  end }
end

describe("interleaved timing", function()
  it("gives every side as many turns, and who begins changes", function()
    local log = {}
    local stats = assert(duel.run({ fake("a", log, function() return 3e6 end), fake("b", log, function() return 2e6 end) },
      { rounds = 4, turn = 6 }))
    local turns, first = { a = 0, b = 0 }, {}
    for i = 3, #log, 2 do turns[log[i]] = turns[log[i]] + 1 end
    for i = 3, #log, 4 do first[log[i]] = true end
    assert.same({ a = 4, b = 4 }, turns)
    assert.same({ a = true, b = true }, first)
    assert.same({ 3e6, 4 * 2 }, { stats.a.median, stats.a.count })
    assert.same({ 2e6, 4 * 3 }, { stats.b.median, stats.b.count })
    assert.equal(1.5, (duel.ratio(stats.a, stats.b)))
  end)

  it("says how far rounds are apart, and passes failures on", function()
    local stats = assert(duel.run({ fake("a", {}, function(n) return n * 1e6 end), fake("b", {}, function() return 1e6 end) },
      { rounds = 10, turn = 1 }))
    local middle, low, high = duel.ratio(stats.a, stats.b)
    assert.truthy(low < middle and middle < high)
    local broken = { name = "x", run = function() return nil, "out of order", "EINTERNAL" end }
    assert.same({ nil, "out of order", "EINTERNAL" }, { duel.run({ broken }, { rounds = 1 }) })
  end)
end)

local PEAKS = { threads = 1, isa = "none", fma = { f32 = 100e9, f64 = 50e9 }, levels = {
  { name = "L1", room = 1000, read = 100e9, copy = 100e9 }, { name = "memory", room = math.huge, read = 10e9, copy = 10e9 } } }

describe("peaks of the machine", function()
  it("bind by arithmetic or by the level the data fits", function()
    local function bound(flops, bytes, set, dtype)
      local seconds, name = peak.bound(PEAKS, { flops = flops, read = bytes, write = 0, set = set, dtype = dtype or "f32" })
      return { ("%.3g"):format(seconds), name }
    end
    assert.same({ "1", "fma" }, bound(100e9, 1, 1))
    assert.same({ "2", "fma" }, bound(100e9, 1, 1, "f64"))
    assert.same({ "0.1", "L1" }, bound(1, 10e9, 1000))
    assert.same({ "1", "memory" }, bound(1, 10e9, 1001))
  end)

  it("count a copy as reading and writing", function()
    local l = { read = 10e9, copy = 8e9 } -- 4 GB read and 4 GB written take a second
    assert.truthy(math.abs(peak.moving(l, 4e9, 4e9) - 1) < 1e-9)
    assert.truthy(math.abs(peak.moving(l, 10e9, 0) - 1) < 1e-9)
  end)

  it("are measured, finite and positive", function()
    local p = peak.measure { threads = 1, isa = "scalar" }
    for _, v in pairs(p.fma) do assert.truthy(v > 0 and v < 1e15) end
    assert.equal(4, #p.levels)
    for _, l in ipairs(p.levels) do assert.truthy(l.read > 0 and l.copy > 0 and l.read < 1e15) end
  end)
end)

describe("the suite", function()
  it("has distinct names and cases that compile at their sizes", function()
    local seen, groups = {}, {}
    for _, case in ipairs(suite.cases()) do
      assert.falsy(seen[case.name], case.name)
      seen[case.name], groups[case.group] = true, (groups[case.group] or 0) + 1
    end
    assert.truthy(groups.suite >= 18 and groups.kernels >= 10 and groups.catalogue == #require("esper.blueprint").catalogue())
    for _, name in ipairs { "mlp 64x128 b1", "adapter 512 r8", "top-2 router 8x128x256" } do
      local side = assert(sides.esper(suite.find(name), { compiles = 1 }))
      local plan = side.compiled.plan
      local all = assert(side.compiled.plan_dims:eval(side.values))
      assert.equal(all[C.es_plan_flops(plan)], side.work.flops)
      assert.equal(all[C.es_plan_bytes(plan)], side.work.read + side.work.write)
      assert.truthy(side.run(1, native.new "double[1]"))
    end
  end)

  it("has cases whose workspace is at most half of all intermediate values", function()
    for _, group in ipairs { "suite", "catalogue" } do
      for _, case in ipairs(suite.cases(group)) do
        local side = assert(sides.esper(case, { compiles = 1 }))
        assert.is_true(side.workspace <= 0.5 * side.naive, case.name)
      end
    end
  end)

  it("refuses sizes that do not exist", function()
    local case = suite.case("transformer/mlp", { size = { widht = 3 } })
    local side, why = sides.esper(case, { compiles = 1 })
    assert.is_nil(side)
    assert.truthy(why:find("'widht'", 1, true), why)
  end)
end)

-- Graphs whose nodes libtorch's own composite calls compute in a benchmark: inputs x float, i indices below 5, m a mask.
local GRAPHS = {
  layer_norm = '%0 = input "x" f32[3, 4, 8]\n%1 = input "w" f32[4, 8]\n%2 = layer_norm %0 %1 %1 dims=2\noutput "y" %2',
  group_norm = '%0 = input "x" f32[2, 6, 5]\n%1 = input "w" f32[6]\n%2 = group_norm %0 %1 %1 groups=3\noutput "y" %2',
  batch_norm = '%0 = input "x" f32[2, 6, 5]\n%1 = input "w" f32[6]\n%2 = scale %1 mul=0 add=0.5\n%3 = batch_norm %0 %1 %2 %1 %2\noutput "y" %3',
  rms_norm = '%0 = input "x" f32[3, 8]\n%1 = input "w" f32[8]\n%2 = rms_norm %0 %1\noutput "y" %2',
  pointwise = '%0 = input "x" f32[3, 8]\n%1 = scale %0 mul=2 add=1\n%2 = lerp %0 %1 %0\n%3 = cast %2 to=f64\noutput "y" %2\noutput "z" %3',
  attention = '%0 = input "x" f32[2, 2, 5, 4]\n%1 = sdpa %0 %0 %0 causal=1\n%2 = sdpa %0 %0 %1 scale=0.25\noutput "y" %2',
  masked = '%0 = input "x" f32[2, 5, 4]\n%1 = input "m" bool[5, 5]\n%2 = sdpa %0 %0 %0 %1\noutput "y" %2',
  rope = '%0 = input "x" f32[2, 5, 6]\n%1 = rope %0\noutput "y" %1',
  indices = '%0 = input "x" f32[5, 4]\n%1 = input "i" i32[3, 4]\n%2 = embedding %0 %1\n%3 = gather %0 %1 axis=0\n'
    .. '%4 = scatter_add %0 %1 %3 axis=0\noutput "y" %2\noutput "z" %4',
  top = '%0 = input "x" f32[3, 9]\n%1 = topk %0 k=2\n%2 = topk_index %0 k=2\noutput "y" %1\noutput "i" %2',
  index_first = '%0 = input "x" f32[3, 9]\n%1 = topk_index %0 k=2\n%2 = topk %0 k=2\noutput "i" %1\noutput "y" %2',
  loss = '%0 = input "x" f32[6, 5]\n%1 = input "i" i64[6]\n%2 = cross_entropy %0 %1\noutput "y" %2',
  nothing = '%0 = input "x" f32[6, 5]\noutput "y" %0',
}

local function element(name, i)
  if name == "i" then return i % 5 end
  if name == "m" then return i % 6 == 0 and 1 or i % 2 end -- the diagonal of a 5 x 5 is visible
  return math.sin(i * 1.7 + 0.3)
end

describe("libtorch as its users write it", function()
  for name, text in pairs(GRAPHS) do
    it("computes what the kernel computes: " .. name, function()
      if not torch then return pending "libtorch is absent" end
      local t = assert(one.compile(text .. "\n")):give(element)
      local want = assert(t:run())
      local side = assert(sides.torch({ graph = t.graph, values = t.values, data = t.data, case = {} }, 1))
      assert.truthy(side.run(2, native.new "double[2]")) -- what one run keeps for the next must not change the next
      local got = assert(side.results())
      for root, w in pairs(want) do
        for i = 0, w.count - 1 do
          local a, b = tonumber(w.data[i]), tonumber(got[root].data[i])
          assert.truthy(math.abs(a - b) <= 1e-5 * (1 + math.abs(a)), ("%s %s[%d]: %g, libtorch %g"):format(name, root, i, a, b))
        end
      end
    end)
  end

  it("refuses what cannot be timed", function()
    if not torch then return pending "libtorch is absent" end
    local t = assert(one.compile('symbol n 0 9\n%0 = input "x" f32[n]\n%1 = exp %0\noutput "y" %1\n', { n = 0 })):give(element)
    local side, why, status = sides.torch({ graph = t.graph, values = t.values, data = t.data, case = {} }, 1)
    assert.is_nil(side)
    assert.truthy(status == "ESHAPE" and why:find("empty", 1, true), why)
  end)
end)

-- Every element opened is closed, and nothing from outside opens one.
local function well_formed(text)
  local open = {}
  for slash, name, rest in text:gmatch "<(/?)(%a+)([^>]*)>" do
    if slash == "/" then assert.equal(table.remove(open), name)
    elseif rest:sub(-1) ~= "/" then open[#open + 1] = name end
  end
  assert.equal(0, #open)
  assert.falsy(text:find "nan" or text:find "inf", text)
end

describe("charts", function()
  local points = { { name = "a < b & c", flops = 1e9, bytes = 1e6, seconds = 0.1 }, { name = "copy", flops = 0, bytes = 1e6, seconds = 1 } }

  it("of ratios are well formed", function()
    local svg = chart.bars { title = "x", rows = { { name = "a<b>", ratio = 0.5, peers = { onnx = 2 } }, { name = "c", ratio = 1e6 } } }
    well_formed(svg)
    assert.truthy(svg:find("a&lt;b&gt;", 1, true) and svg:find("1000000.00", 1, true))
    well_formed(chart.bars { title = "none", rows = {} })
  end)

  it("of rooflines are well formed and fit a terminal", function()
    well_formed(roofline.svg { title = "t", peaks = PEAKS, points = points })
    local text = roofline.text { title = "t", peaks = PEAKS, points = points }
    assert.truthy(text:find "1" and text:find("%-%-%-"))
    for line in text:gmatch "[^\n]+" do assert.truthy(#line <= 79, line) end
  end)
end)

describe("counters of the processor", function()
  it("are there or unavailable, never made up", function()
    local counters = C.es_counters_open()
    if counters == nil then return assert.is_false(C.es_counters_has(nil, 0)) end
    local counts = native.new "int64_t[3]"
    C.es_counters_read(counters, counts)
    for i = 0, 2 do assert.truthy(C.es_counters_has(counters, i) or counts[i] == 0) end
    C.es_counters_close(counters)
  end)
end)
