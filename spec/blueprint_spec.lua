-- Authoring: what a blueprint can say, and how its mistakes are reported.
local blueprint = require "esper.blueprint"
local compile = require "esper.compile"
local files = require "support.files"
local kernel = require "esper.kernel"
local sandbox = require "esper.sandbox"
local tensor = require "esper.tensor"

local function build(body, opts) return blueprint.build(blueprint.define "t/x"(body), opts or {}) end
local function compiled(body, opts)
  return kernel.wrap(assert(compile.compile(blueprint.define "t/x"(body), opts or {})))
end

local TEN = [[
return blueprint "t/ten" {
  hyper = { dim = 8 },
  input = { x = { "batch", "dim" } },
  build = function(g, x, h)
    local a = g.lineer(x, 4)
    local b = g.linear(x, -3)
    local c = x:reshape { "batch", 3 }
    local d = g.softmax(x, 5)
    local e = g.linear(x, h.dimm)
    local f = g.clamp(x, 0 / 0, 1)
    local i = g.relu(x, x)
    local j = g.dropout(x, 2)
    local k = g.cast(x, "f99")
    local l = g.linear(x, 4, { nme = "z" })
    return { y = a + b }
  end,
}
]]

describe("blueprint", function()
  it("with ten mistakes reports ten, each with file and line, in one go", function()
    local path = files.write("ten.lua", TEN)
    for _, trusted in ipairs { false, true } do
      local graph, errors, status = sandbox.build(path, { trusted = trusted })
      assert.is_nil(graph)
      assert.equal("EBLUEPRINT", status)
      assert.equal(10, #errors, table.concat(errors, "\n"))
      for i, message in ipairs(errors) do assert.equal(path .. ":" .. (4 + i) .. ":", message:match "^(.-:%d+:) ", message) end
      assert.truthy(errors[1]:find("linear", 1, true) and errors[5]:find("dim", 1, true))
    end
  end)

  it("refuses wrong hyper-parameters, naming them and what is near", function()
    local body = { hyper = { dim = 8, p = { 0.1, min = 0, max = 1 }, act = { "gelu", choices = { "gelu", "relu" } } },
      input = { x = { "batch", "dim" } }, build = function(g, x) return { y = x } end }
    for _, row in ipairs { { { dmi = 4 }, "did you mean 'dim'" }, { { dim = 0 / 0 }, "nan" }, { { dim = 2.5 }, "whole" }, { { dim = 1e300 }, "2^31" },
        { { p = 2 }, "at most 1" }, { { act = "silu" }, "one of gelu, relu" }, { { dim = "abc" }, "'abc'" }, { "dim", "name=value" }, { { dim = true }, "true" } } do
      local graph, errors, status = build(body, { set = row[1] })
      assert.is_nil(graph)
      assert.equal("EATTR", status)
      assert.truthy(#errors == 1 and errors[1]:lower():find(row[2], 1, true), errors[1])
    end
    assert.equal(16, select(2, assert(build(body, { set = "dim=16 act=relu" }))).hyper.dim)
  end)

  it("refuses missing, duplicate and wrong names", function()
    local function one(input, fn, fragment)
      local graph, errors = build { input = input, build = fn }
      assert.is_nil(graph, fragment)
      assert.truthy(#errors == 1 and errors[1]:find(fragment, 1, true), table.concat(errors, "\n"))
    end
    local x = { x = { "batch", 8 } }
    one(x, function() end, "returned nil")
    one(x, function() return {} end, "no outputs")
    one(x, function(g, t) return { ["a b"] = t, y = t } end, "'a b'")
    one(x, function(g, t) return { y = g.linear(t, 4, { name = "f" }) + g.linear(t, 4, { name = "f" }) } end, "is taken by line")
    one(x, function(g, t) g.param("w", { 2 }, g.zeros) g.param("w", { 2 }, g.ones) return { y = t } end, "is taken by line")
    one(x, function(g, t) local b = g.buffer("b", { 2 }) g.param("b", { 2 }, g.zeros) return { y = t } end, "is taken by line")
    one({ x = { "batch", 8 }, ["1 2"] = { 2 } }, function(g, t) return { y = t } end, "name is '1 2'")
    local graph, errors = build { inputs = x, build = function() end }
    assert.truthy(not graph and table.concat(errors, "\n"):find("did you mean 'input'", 1, true))
  end)

  it("has several inputs and outputs, scopes, inits, and shapes over hyper-parameters", function()
    local g = assert(build({ hyper = { d = 4 },
      input = { x = { "batch", "2*d" }, i = { "batch", dtype = "i64" } }, sizes = { batch = { 1, 64 } },
      build = function(g, t, h)
        local e = g.embedding(t.i, 10, 2 * h.d, { name = "e" })
        local y = g.scope("block", function() return g.linear(t.x + e, h.d, { name = "fc", weight = g.normal(0, 0.5), bias = g.ones }) end)
        return { y = y, z = y:sum(1) }
      end }, { set = { d = 3 } }))
    local params, total = blueprint.params(g)
    assert.equal(10 * 6 + 3 * 6 + 3, total)
    local by_name = {}
    for _, p in ipairs(params) do by_name[p.name] = p end
    assert.equal("3, 6", by_name["block.fc.weight"].shape)
    assert.equal("normal", by_name["block.fc.weight"].init)
    assert.equal("ones", by_name["block.fc.bias"].init)
    assert.equal(2, #g:roots())
  end)

  it("keeps dropout and noise out of evaluation and repeats them by seed and step", function()
    local body = { input = { x = { "batch", 64 } }, build = function(g, x) return { y = g.noise(g.dropout(x, 0.5), 0.1) } end }
    local x = tensor.randn({ 16, 64 }, 1)
    local function run(mode, seed, step) return assert(compiled(body, { mode = mode }):run({ x = x }, { seed = seed, step = step, unproved = true })).y end
    assert.is_true(run("eval", 1, 0) == x)
    local first = run("train", 1, 0)
    assert.is_false(first == x)
    assert.is_true(first == run("train", 1, 0))
    assert.is_false(first == run("train", 1, 1))
    assert.is_false(first == run("train", 2, 0))
  end)

  it("updates buffers in training and reads them in evaluation", function()
    local body = { input = { x = { "batch", 4 } }, build = function(g, x)
      local b = g.buffer("count", { 4 })
      g.update(b, b + 1)
      return { y = x + b }
    end }
    local x = tensor.from { { 1, 2, 3, 4 } }
    local train = compiled(body, { mode = "train" })
    local params = train:params(0)
    for step = 0, 2 do
      assert.equal(1 + step, assert(train:run({ x = x }, { params = params, unproved = true })).y:get(1, 1))
      assert.equal(step + 1, params.count:get(1))
    end
    assert.equal(4, assert(compiled(body, { mode = "eval" }):run({ x = x }, { params = params, unproved = true })).y:get(1, 1))
    assert.equal(3, params.count:get(1))
  end)

  it("runs on nothing but tensors of the right name, dtype and shape", function()
    local k = compiled({ input = { x = { "batch", 4 } }, build = function(g, x) return { y = x + g.buffer("count", { 4 }) } end }, {})
    local x, wide = tensor.randn { 2, 4 }, tensor.randn { 2, 4, 4 }
    local function refused(status, words, given, options)
      if type(options) == "table" then options.unproved = true end
      local out, why, code = k:run(given, options)
      assert.is_nil(out)
      assert.equal(status, code)
      assert.truthy(why:find(words, 1, true), why)
    end
    refused("EARG", "inputs are missing", nil, {})
    refused("EARG", "options are number", { x = x }, 3)
    refused("ENAME", "input 'x' is missing", {}, {})
    refused("ENAME", "no input 'z'", { x = x, z = x }, {})
    refused("EDTYPE", "input 'x' is f64", { x = tensor.randn({ 2, 4 }, 1, "f64") }, {})
    refused("ESHAPE", "expected 2 axes", { x = wide }, {})
    refused("EARG", "params is number", { x = x }, { params = 7 })
    refused("ENAME", "buffer 'count' of", { x = x }, { params = {} })
    refused("EDTYPE", "but buffer 'count'", { x = x }, { params = { count = tensor.randn({ 4 }, 1, "f64") } })
    refused("ESHAPE", "f32[3], but buffer 'count'", { x = x }, { params = { count = tensor.randn { 3 } } })
    assert.truthy(k:run({ x = x }, { params = { count = tensor.randn { 4 } }, unproved = true }))
    for _, shape in ipairs { false, -1, 0.5, 0 / 0 } do
      assert.has_error(function() tensor.new("f32", shape and { 2, shape }) end)
    end
    assert.equal("EARG", select(3, tensor.load(5)))
  end)

  it("is compiled for sizes that are whole numbers within a dimension's range, and nothing else", function()
    local esper = require "esper"
    for _, bad in ipairs { 3, "8", { batch = 0.5 }, { batch = -1 }, { batch = "many" }, { batch = 2 ^ 50 }, { q = 1 }, { 7 } } do
      local k, why = esper.compile("cnn/noop", { size = bad })
      assert.is_nil(k)
      assert.truthy(why:find "^size " or why:find "^no symbolic dimension", why)
    end
    for _, call in ipairs { esper.compile, esper.tune, esper.dump, esper.certify } do
      local _, why = pcall(call, "cnn/noop", call == esper.dump and "graph" or 3, 3)
      assert.truthy(tostring(why):find "options are number", tostring(why))
    end
    assert.truthy(esper.compile("cnn/noop", { size = { batch = 4 } }))
  end)

  it("draws parameters from seed and name alone", function()
    local body = { input = { x = { "batch", 8 } }, build = function(g, x) return { y = g.linear(g.linear(x, 8, { name = "a" }), 8, { name = "b" }) } end }
    local k = compiled(body)
    local one, again, other = k:params(5), k:params(5), k:params(6)
    assert.is_true(one["a.weight"] == again["a.weight"])
    assert.is_false(one["a.weight"] == one["b.weight"])
    assert.is_false(one["a.weight"] == other["a.weight"])
  end)
end)
