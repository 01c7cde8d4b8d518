-- Rounds (es_rounds, run/plan.h): rows done some at a time give what the oracle gives, the same bits on any number of threads.
local bench = require "esper.bench"
local compile = require "esper.compile"
local draw = require "esper.draw"
local graph_module = require "esper.graph"
local kernel = require "esper.kernel"
local native = require "esper.native"
local random_graph = require "support.random_graph"
local validate = require "esper.validate"
local C = native.C

local COUNT = math.min(500, tonumber(os.getenv "ESPER_SPEC_GRAPHS" or 2000))

local function made_of(graph)
  local function build() return graph, { name = "spec/rounds", mode = "eval", dtype = "f32", hyper = {} } end
  return kernel.wrap(assert(compile.compile("spec/rounds", { build = build, mode = "eval" })))
end

-- Names of the leading symbols of a blueprint's kernel.
local function leading(name)
  local made = assert(compile.compile(name))
  local rounds, names = C.es_plan_rounds(made.plan), {}
  local symbols = made.graph:dims():symbols()
  for i = 1, rounds.count do names[i] = symbols[rounds.symbols[i - 1] + 1].name end
  return table.concat(names, " ")
end

-- What disagrees when the kernel runs on this draw in rounds from so many bytes on, with 1, 2 and 4 threads.
local function disagreement(k, graph, values, data, oracle, round_bytes, pools)
  local before
  for _, threads in ipairs { 1, 2, 4 } do
    local run, results, keep = validate.execution(k, values, data, 1, 3)
    run.round_bytes, run.pool = round_bytes, pools[threads]
    if C.es_kernel_run(k.kernel, run, native.fresh()) ~= 0 then return select(2, native.failure()), keep end
    local why = validate.judge(graph, oracle, results, validate.new_sum(), "kernel")
    local bits = {}
    for name, t in pairs(results) do bits[#bits + 1] = name .. t:raw() end
    table.sort(bits)
    bits = table.concat(bits)
    if why or before and bits ~= before then return why or threads .. " threads give other bits" end
    before = bits
  end
end

describe("rounds", function()
  it("go over the leading axes that nothing mixes", function()
    local wanted = { ["first/attn_std"] = "batch", ["first/attn_split_qk"] = "batch", ["first/router_top2"] = "batch tokens",
      ["first/router_moe_aux"] = "batch tokens", ["first/mlp_gelu"] = "batch tokens", ["cnn/depthwise"] = "batch",
      ["transformer/attention"] = "batch" }
    for name, symbols in pairs(wanted) do assert.equal(symbols, leading(name), name) end
  end)

  it("are not taken where rows meet", function()
    for what, body in pairs {
      ["softmax over rows"] = "%1 = softmax %0 axis=0", ["a concatenation of rows"] = "%1 = concat %0 %0 axis=0",
      ["a mean that rows read"] = "%1 = reduce_mean %0 axes=0 keepdim=1\n%2 = sub %0 %1",
      ["rows in another place"] = "%1 = permute %0 perm=1,0", ["random numbers"] = "%1 = noise %0 std=1 stream=0",
    } do
      local graph = assert(graph_module.parse('graph "spec/rounds"\nsymbol n 0 100\n%0 = input "x" f32[n, 4]\n' .. body .. '\noutput "y" %' .. (body:find "%%2" and 2 or 1)))
      assert.equal(0, C.es_plan_rounds(made_of(graph).plan).count, what)
    end
  end)

  -- Every row count of the list from several sizes on: the oracle's results, and the same bits on 1, 2 and 4 threads.
  local function hold(text, counts, sizes)
    local graph = assert(graph_module.parse('graph "spec/rounds"\nsymbol n 0 2000\n' .. text))
    local k, pools = made_of(graph), { [2] = assert(bench.pool(2)), [4] = assert(bench.pool(4)) }
    assert.equal(1, C.es_plan_rounds(k.plan).count)
    for _, n in ipairs(counts) do
      local data = validate.leaves(graph, assert(draw.evaluate(graph, { n = n })), 1, 1)
      local oracle = assert(validate.evaluate(graph, validate.symbol_array(graph:dims(), { n = n }), data, 1, 3))
      for _, bytes in ipairs(sizes) do
        assert.is_nil(disagreement(k, graph, { n = n }, data, oracle, bytes, pools), n .. " rows from " .. bytes .. " bytes on")
      end
    end
    return k
  end

  it("gather what is made of all rows, or are not taken where their pieces do not fit", function()
    local k = hold('%0 = input "x" f32[n, 256]\n%1 = input "w" f32[256, 256]\n%2 = linear %0 %1\n%3 = softmax %2 axis=1\n'
      .. '%4 = reduce_mean %3 axes=0\n%5 = topk %2 k=2 axis=1\noutput "usage" %4\noutput "best" %5', { 7, 64, 100, 512, 520 }, { 1, 70000, 300000 })
    local last = 0
    for i = 0, C.es_plan_step_count(k.plan) - 1 do
      if C.es_plan_step_get(k.plan, i).when == native.when.last then last = last + 1 end
    end
    assert.equal(1, last)
    local symbols, round = native.new("int64_t[1]", { 512 }), native.new "int64_t[1]"
    assert.equal(0, tonumber(C.es_kernel_round(k.kernel, symbols, round, native.fresh())))
    assert.is_true(round[0] < 512 and round[0] % 64 == 0, tostring(round[0]))
  end)

  it("overlap without harm to what lies in outputs", function()
    local text = { '%0 = input "x" f32[n, 256]', '%1 = input "w" f32[256, 256]' }
    for i = 1, 4 do
      text[#text + 1] = ("%%%d = linear %%%d %%1"):format(2 * i, i == 1 and 0 or 2 * i - 1)
      text[#text + 1] = ("%%%d = softmax %%%d axis=1"):format(2 * i + 1, 2 * i)
    end
    text[#text + 1] = 'output "y" %9'
    local sizes = {}
    for i = 1, 20 do sizes[i] = 2048 end
    hold(table.concat(text, "\n"), { 33, 49 }, sizes)
  end)

  it("end with EINDEX where an index is out of range in one of them, whoever does it", function()
    local graph = assert(graph_module.parse('graph "spec/rounds"\nsymbol n 0 100\n%0 = input "i" i64[n]\n%1 = input "w" f32[5, 8]\n'
      .. '%2 = input "v" f32[2, 8]\n%3 = embedding %1 %0\n%4 = linear %3 %2\noutput "y" %4'))
    local k, values = made_of(graph), { n = 64 }
    assert.equal(1, C.es_plan_rounds(k.plan).count)
    for _, threads in ipairs { 1, 2, 4 } do
      for _, bad in ipairs { -1, 0, 37, 63 } do
        local data = validate.leaves(graph, assert(draw.evaluate(graph, values)), 1, 1)
        for i = 0, 63 do data.i.tensor.data[i] = i == bad and 5 or i % 5 end
        local run, _, keep = validate.execution(k, values, data, 1, 3)
        run.round_bytes, run.pool = 1, threads > 1 and assert(bench.pool(threads)) or nil
        local status = C.es_kernel_run(k.kernel, run, native.fresh())
        assert.equal(bad >= 0 and native.status.EINDEX or 0, tonumber(status), keep and bad)
      end
    end
  end)

  it("of another size are refused in a workspace of the caller's", function()
    local graph = assert(graph_module.parse 'graph "spec/rounds"\n%0 = input "x" f32[4]\n%1 = exp %0\noutput "y" %1')
    local k, room = made_of(graph), native.new "char[64]"
    local run, _, keep = validate.execution(k, {}, validate.leaves(graph, assert(draw.evaluate(graph, {})), 1, 1), 1, 3)
    run.workspace, run.round_bytes = room, 1
    assert.equal(native.status.EARG, tonumber(C.es_kernel_run(k.kernel, run, native.fresh())), keep and "")
  end)

  it("give what the oracle gives, and the same bits on any number of threads", function()
    local pools, problems, with = { [2] = assert(bench.pool(2)), [4] = assert(bench.pool(4)) }, {}, 0
    for seed = 1, COUNT do
      local graph = random_graph.make(seed, nil, true)
      local k = graph and made_of(graph)
      local values, value
      if k and C.es_plan_rounds(k.plan).count > 0 then values, value = draw.symbols(graph, 4 + seed % 9, seed) end
      if values then
        with = with + 1
        local data = validate.leaves(graph, value, 4 + seed % 9, seed)
        local oracle = assert(validate.evaluate(graph, validate.symbol_array(graph:dims(), values), data, 1, 3))
        for _, bytes in ipairs { 1, 64 + seed } do
          local why = disagreement(k, graph, values, data, oracle, bytes, pools)
          if why then problems[#problems + 1] = ("seed %d, from %d bytes: %s"):format(seed, bytes, why) end
        end
      end
      if seed % 64 == 0 then collectgarbage() end
    end
    print(("rounds 1 %d %d of them %d in rounds"):format(COUNT, #problems, with))
    assert.same({}, problems)
    assert.is_true(with > COUNT / 20, "about a tenth has a workspace to cut")
  end)
end)
