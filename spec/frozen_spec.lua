-- Frozen parameters: what a kernel makes of weights is made once for a token, anew for another, never without one.
local compile = require "esper.compile"
local draw = require "esper.draw"
local esper = require "esper"
local graph_module = require "esper.graph"
local kernel = require "esper.kernel"
local native = require "esper.native"
local process = require "support.process"
local random_graph = require "support.random_graph"
local tensor = require "esper.tensor"
local urza = require "esper.urza"
local validate = require "esper.validate"
local vec_case = require "support.vec_case"
local C = native.C

local COUNT = math.ceil((tonumber(os.getenv "ESPER_SPEC_GRAPHS") or 2000) / 25)
local FIRST = tonumber(os.getenv "ESPER_SPEC_SEED" or 1)

local TEXT = [[
graph "spec/frozen"
symbol rows 0 4096
%0 = input "x" f32[rows, 64]
%1 = param "w" f32[48, 64] init=zeros
%2 = linear %0 %1 : f32[rows, 48]
output "y" %2
]]

local function made()
  local graph = assert(graph_module.parse(TEXT))
  local function build() return graph, { name = "spec/frozen", mode = "eval", dtype = "f32", hyper = {} } end
  return kernel.wrap(assert(compile.compile("spec/frozen", { build = build }))), graph
end

-- y[0] of a run over `rows` rows of ones; all weights are `weight`.
local function runner(k, graph)
  if not k then k, graph = made() end
  local w = tensor.new("f32", { 48, 64 })
  return function(rows, weight, token)
    local x = tensor.new("f32", { rows, 64 })
    for i = 0, x.count - 1 do x.data[i] = 1 end
    for i = 0, w.count - 1 do w.data[i] = weight end
    local data = { x = { id = 0, tensor = x }, w = { id = 1, tensor = w } }
    local run, results = validate.execution(k, { rows = rows }, data, 0, 0, token)
    assert.equal(0, tonumber(C.es_kernel_run(k.kernel, run, native.fresh())))
    local y = results["output y"]
    for i = 1, y.count - 1 do assert.equal(y.data[0], y.data[i]) end
    assert(graph)
    return y.data[0]
  end
end

-- Runs a kernel over `runs` = { { symbols, seed of the parameters, token }, ... }; every result is held against the oracle.
local function holds(text, runs, isa)
  local graph = assert(graph_module.parse(text))
  local function build() return graph, { name = "spec/frozen", mode = "eval", dtype = "f32", hyper = {} } end
  local k = kernel.wrap(assert(compile.compile("spec/frozen", { build = build, isa = isa })))
  local symbols = { a = 0, b = 0, c = 0 }
  for n, given in ipairs(runs) do
    for name in pairs(symbols) do symbols[name] = given[1][name] or 1 end
    local data, all = {}, graph:dims():eval(symbols)
    for id = 0, graph:count() - 1 do
      local op, shape = graph:op(id), {}
      if op == "input" or op == "param" or op == "buffer" then
        for a, d in ipairs(graph:shape(id)) do shape[a] = all[d] end
        local t = assert(tensor.sample(graph:dtype(id) == "f32" and "normal" or "index", graph:dtype(id), shape,
          op == "input" and n or given[2], id, 0, 3))
        data[graph:label(id)] = { id = id, tensor = t }
      end
    end
    local run, results, keep = validate.execution(k, symbols, data, 0, 0, given[3])
    assert.equal(0, tonumber(C.es_kernel_run(k.kernel, run, native.fresh())))
    local oracle = assert(validate.evaluate(graph, validate.symbol_array(graph:dims(), symbols), data, 0, 0))
    assert.is_nil(validate.judge(graph, oracle, results, validate.new_sum(), "run " .. n), keep and text)
  end
  return k
end

-- A random graph, most of its inputs made parameters and more of its values outputs; nil when that is no graph.
local function random(seed)
  local graph = random_graph.make(seed)
  if not graph then return nil end
  local state = seed * 7919 % 2147483646 + 1
  local function one_in(n)
    state = state * 48271 % 2147483647
    return state % n == 0
  end
  local text = graph:text(true):gsub('(%%%d+) = input ("[^"]+") f32(%b[])', function(id, name, shape)
    if not shape:find "%a" and not one_in(5) then return ("%s = param %s f32%s init=zeros"):format(id, name, shape) end
  end)
  local more = {}
  for id in text:gmatch "\n(%%%d+) = " do
    if one_in(3) then more[#more + 1] = ('output "more%d" %s\n'):format(#more, id) end
  end
  return (graph_module.parse(text .. table.concat(more)))
end

-- nil, or what was wrong in runs over several shapes, with two sets of parameters that are frozen and some that are not.
local function alternate(graph, seed)
  local function build() return graph, { name = "spec/frozen", mode = "eval", dtype = "f32", hyper = {} } end
  local r, why = compile.compile("spec/frozen", { build = build })
  if not r then return tostring(type(why) == "table" and table.concat(why, "; ") or why) end
  local k, tokens, sets = kernel.wrap(r), { tonumber(C.es_frozen_token()), tonumber(C.es_frozen_token()) }, { {}, {} }
  for n = 1, 9 do
    local values, value = draw.symbols(graph, n % 4 + 1, seed)
    local which, data = (seed + n * n) % 3 + 1, values and validate.leaves(graph, value, n % 4 + 1, seed + n) or {}
    for name, leaf in pairs(sets[which] and data or {}) do
      if graph:op(leaf.id) == "param" then
        sets[which][name] = sets[which][name] or leaf
        data[name] = sets[which][name]
      end
    end
    local oracle = values and validate.evaluate(graph, validate.symbol_array(graph:dims(), values), data, 1, n)
    if oracle then
      local run, results, keep = validate.execution(k, values, data, 1, n, tokens[which])
      if C.es_kernel_run(k.kernel, run, native.fresh()) ~= 0 then return select(2, native.failure()) end
      why = validate.judge(graph, oracle, results, validate.new_sum(), "run " .. n)
      if why and keep then return why end
    end
  end
end

local HEAD = 'graph "spec/frozen"\nsymbol a 0 4096\nsymbol b 0 40\n%0 = input "x" f32[a, 64]\n%1 = input "told" f32[b]\n'
  .. '%2 = param "w" f32[96, 64] init=zeros\n'

-- What a kernel makes of parameters may depend on more than them: where it is put, and what symbols it was cut by.
local SHAPES = {
  ["panels of a part of the weights"] = HEAD .. [[
%3 = slice %2 axis=0 start=[b] stop=[b + 48] step=1 : f32[48, 64]
%4 = linear %0 %3 : f32[a, 48]
output "y" %4
]],
  ["panels of what a part of the weights was made into"] = HEAD .. [[
%3 = slice %2 axis=0 start=[b] stop=[b + 48] step=1 : f32[48, 64]
%4 = exp %3 : f32[48, 64]
%5 = linear %0 %4 : f32[a, 48]
output "y" %5
]],
  ["panels as wide as a symbol"] = HEAD .. [[
%3 = slice %2 axis=0 start=[0] stop=[b] step=1 : f32[b, 64]
%4 = matmul %0 %3 ta=0 tb=1 : f32[a, b]
output "y" %4
]],
  ["panels as deep as a symbol"] = HEAD .. [[
%3 = slice %2 axis=1 start=[0] stop=[b] step=1 : f32[96, b]
%4 = slice %0 axis=1 start=[0] stop=[b] step=1 : f32[a, b]
%5 = matmul %4 %3 ta=0 tb=1 : f32[a, 96]
output "y" %5
]],
  ["weights of a convolution"] = [[
graph "spec/frozen"
symbol a 0 4096
symbol b 0 40
%0 = input "x" f32[a, 8, 12, 12]
%1 = input "told" f32[b]
%2 = param "w" f32[64, 8, 3, 3] init=zeros
%3 = slice %2 axis=0 start=[b] stop=[b + 16] step=1 : f32[16, 8, 3, 3]
%4 = conv2d %0 %3 stride=1,1 pad=1,1 dilation=1,1 groups=1 : f32[a, 16, 12, 12]
output "y" %4
]],
  ["two values beside each other"] = HEAD .. [[
%3 = slice %2 axis=0 start=[b] stop=[b + 48] step=1 : f32[48, 64]
%4 = slice %2 axis=0 start=[0] stop=[48] step=1 : f32[48, 64]
%5 = softmax %3 axis=1 : f32[48, 64]
%6 = softmax %4 axis=0 : f32[48, 64]
%7 = add %5 %6 : f32[48, 64]
%8 = linear %0 %7 : f32[a, 48]
output "y" %8
]],
}

-- Values made of parameters alone that lie where nothing can be kept.
local ELSEWHERE = {
  ["an output that is read again"] = [[
%3 = exp %2 : f32[96, 64]
%4 = linear %0 %3 : f32[a, 96]
output "y" %4
output "z" %3
]],
  ["an output that others are made of"] = [[
%3 = exp %2 : f32[96, 64]
%4 = softmax %3 axis=1 : f32[96, 64]
%5 = linear %0 %4 : f32[a, 96]
output "y" %5
output "z" %3
]],
  ["a value that shares its group with another"] = [[
%3 = input "v" f32[96, 64]
%4 = exp %2 : f32[96, 64]
%5 = add %4 %3 : f32[96, 64]
%6 = linear %0 %4 : f32[a, 96]
output "y" %6
output "z" %5
]],
  ["outputs of parameters alone"] = [[
%3 = exp %2 : f32[96, 64]
output "y" %0
output "z" %3
output "w2" %2
]],
}

describe("frozen parameters", function()
  for _, isa in ipairs(vec_case.isas()) do
    for name, text in pairs(SHAPES) do
      it("are cut anew for another shape: " .. name .. " on " .. isa, function()
        local one, two, runs = tonumber(C.es_frozen_token()), tonumber(C.es_frozen_token()), {}
        for i, b in ipairs { 20, 31, 12, 32, 33, 33, 40, 20, 20 } do
          runs[i] = { { a = i % 3 == 0 and 2 or 40, b = b }, i > 7 and 2 or 1, i == 6 and 0 or i > 7 and two or one }
        end
        holds(text, runs, isa)
      end)
    end
    for name, text in pairs(ELSEWHERE) do
      it("leave alone " .. name .. " on " .. isa, function()
        local one, two = tonumber(C.es_frozen_token()), tonumber(C.es_frozen_token())
        local at = { a = 40 }
        holds(HEAD .. text, { { at, 1, one }, { at, 1, one }, { at, 2, two }, { at, 3, 0 }, { at, 2, two }, { at, 1, one } }, isa)
      end)
    end
  end

  it("are read once per token, by every shape that needs them", function()
    local run, one, two = runner(), C.es_frozen_token(), C.es_frozen_token()
    assert.equal(64, run(32, 1, one))
    assert.equal(64, run(32, 2, one))   -- the promise was broken, so the old weights answer: they were kept
    assert.equal(64, run(40, 2, one))   -- another shape, the same panels
    assert.equal(128, run(32, 2, two))  -- another token
    assert.equal(192, run(32, 3, nil))  -- no promise
    assert.equal(128, run(1, 3, two))   -- few rows read them too
    assert.equal(256, run(32, 4, one))  -- an earlier token is not remembered
  end)

  it(("stand for what they are in %d random graphs"):format(COUNT), function()
    local done, seed, failures = 0, FIRST - 1, {}
    while done < COUNT do
      seed = seed + 1
      local graph = random(seed)
      if graph then
        done = done + 1
        local problem = alternate(graph, seed)
        if problem then failures[#failures + 1] = ("seed %d: %s"):format(seed, problem) end
      end
      if seed % 32 == 0 then collectgarbage() end
    end
    assert.same({}, failures)
  end)

  it("take memory of their own, outside the workspace, and only in eval mode", function()
    local k = made()
    assert.is_true(tonumber(k.kept) >= 48 * 64 * 4)
    assert.equal("0", k.workspace)
    local train = assert(compile.compile("transformer/mlp", { mode = "train", set = { dim = 16 } }))
    assert.equal("0", train.kept)
  end)

  it("are kept alike by a kernel from the store", function()
    local directory = process.directory()
    finally(function() process.remove(directory) end)
    local store, graph = assert(urza.open(directory)), assert(graph_module.parse(TEXT))
    local function build() return graph, { name = "spec/frozen", mode = "eval", dtype = "f32", hyper = {} } end
    local encoded = {}
    for i, status in ipairs { "SUCCESS", "CACHED" } do
      local k = kernel.wrap(assert(compile.compile("spec/frozen", { build = build, store = store.ptr })))
      assert.equal(status, k.status)
      assert.is_true(tonumber(k.kept) > 0)
      encoded[i] = native.text(C.es_plan_encode, k.plan)
      local run, one = runner(k, graph), tonumber(C.es_frozen_token())
      assert.same({ 64, 64, 192 }, { run(32, 1, one), run(32, 2, one), run(32, 3, nil) })
    end
    assert.equal(encoded[1], encoded[2])
  end)

  it("can be frozen and thawed from scripts", function()
    local k = assert(esper.compile("transformer/mlp", { set = { dim = 32, expand = 2 } }))
    local params = k:params(3)
    for i = 0, params["fc2.weight"].count - 1 do params["fc2.weight"].data[i] = 0.01 * (i % 7) end
    local x = esper.randn({ 2, 10, 32 }, 1)
    local function run() return assert(k:run({ x = x }, { params = params, unproved = true })).y end
    local before = run()
    local frozen = { params:freeze() and run(), run() }
    assert.equal(frozen[1]:raw(), frozen[2]:raw())
    for i = 0, before.count - 1 do assert.is_true(math.abs(before.data[i] - frozen[1].data[i]) < 1e-4) end
    params:thaw()
    for i = 0, params["fc2.weight"].count - 1 do params["fc2.weight"].data[i] = 0 end
    local after = run()
    for i = 0, after.count - 1 do assert.is_true(math.abs(after.data[i] - x.data[i]) < 1e-6) end
  end)

  it("refuse plans whose once-only steps read what changes", function()
    local plan = native.gc(C.es_plan_new(C.es_dims_new()), C.es_plan_release)
    local dims = C.es_plan_dims(plan)
    local value, step = native.new "es_value", native.new "es_step"
    local operands = native.new("int32_t[1]", 0)
    value.role, value.dtype, value.rank, value.slot, value.buffer, value.name = native.role.input, native.dtype.f32, 0, -1, -1, "x"
    assert.equal(0, C.es_plan_value(plan, value, native.fresh()))
    step.fn, step.label, step.tiles, step.when, step.operand_count, step.operands = "f", "", C.es_dim_const(dims, 1), native.when.pack, 1,
      operands
    assert.equal(0, C.es_plan_step(plan, step, native.fresh()))
    assert.is_true(C.es_plan_finish(plan, C.es_dim_const(dims, 0), C.es_dim_const(dims, 0), native.fresh()) ~= 0)
    assert.truthy(select(2, native.failure()):find "runs once, but its operand 0 is input")
  end)
end)
