-- Frozen parameters: what a kernel makes of weights is made once for a token, anew for another, never without one.
local compile = require "esper.compile"
local esper = require "esper"
local graph_module = require "esper.graph"
local kernel = require "esper.kernel"
local native = require "esper.native"
local tensor = require "esper.tensor"
local validate = require "esper.validate"
local C = native.C

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
local function runner()
  local k, graph = made()
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

describe("frozen parameters", function()
  it("are read once per token, by every shape that needs them", function()
    local run, one, two = runner(), C.es_frozen_token(), C.es_frozen_token()
    assert.equal(64, run(32, 1, one))
    assert.equal(64, run(32, 2, one))   -- the promise was broken, so the old weights answer: they were kept
    assert.equal(64, run(40, 2, one))   -- another shape, the same panels
    assert.equal(128, run(32, 2, two))  -- another token
    assert.equal(192, run(32, 3, nil))  -- no promise
    assert.equal(192, run(1, 3, two))   -- few rows read the weights as they lie
    assert.equal(128, run(32, 3, two))  -- and leave what was kept alone
    assert.equal(256, run(32, 4, one))  -- an earlier token is not remembered
  end)

  it("take memory of their own, outside the workspace, and only in eval mode", function()
    local k = made()
    assert.is_true(tonumber(k.kept) >= 48 * 64 * 4)
    assert.equal("0", k.workspace)
    local train = assert(compile.compile("transformer/mlp", { mode = "train", set = { dim = 16 } }))
    assert.equal("0", train.kept)
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
