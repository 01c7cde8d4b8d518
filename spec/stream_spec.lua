-- Large results, which are stored past the caches where they lie on the bounds of vectors: the same bits as those that don't.
local blueprint = require "esper.blueprint"
local compile = require "esper.compile"
local kernel = require "esper.kernel"
local native = require "esper.native"
local tensor = require "esper.tensor"
local validate = require "esper.validate"
local C = native.C

local BYTES = 32 * 1024 * 1024 -- from here on (emit_stream.lua)

local CASES = {
  copy = { 2064, function(_, x) return { y = x } end },
  affine = { 48, function(g, x) return { y = g.relu(x * g.param("scale", { "dim" }, g.ones) + 1), z = -x } end },
  softmax = { 2064, function(g, x) return { y = g.softmax(x, -1) } end },
  ["layer norm"] = { 2064, function(g, x) return { y = g.relu(g.layer_norm(g.silu(x), { name = "norm" })) } end },
}

local function made(name, dtype)
  local dim, build = unpack(CASES[name])
  local source = blueprint.define("spec/" .. name:gsub(" ", "_")) { doc = name, hyper = { dim = dim },
    input = { x = { "rows", "dim" } }, build = build }
  return kernel.wrap(assert(compile.compile(source, { mode = "eval", dtype = dtype }))), dim
end

-- Bytes of all outputs of a run whose outputs begin `off` bytes behind the bound of a line.
local function run(k, rows, data, off)
  local run, results, keep = validate.execution(k, { rows = rows }, data, 0, 0)
  local got = {}
  for i = 0, C.es_plan_value_count(k.plan) - 1 do
    local v = C.es_plan_value_get(k.plan, i)
    if native.rolename[v.role] == "output" then
      local bytes = results["output " .. native.string(v.name)].bytes
      local memory = native.new("char[?]", bytes + 128)
      local at = native.cast("char *", memory) + -native.address(memory) % 64 + off
      keep[2][i] = at
      got[#got + 1] = { at, bytes, memory }
    end
  end
  assert.equal(0, tonumber(C.es_kernel_run(k.kernel, run, native.fresh())))
  for i, one in ipairs(got) do got[i] = native.string(one[1], one[2]) end
  return table.concat(got)
end

describe("results past the caches", function()
  for name in pairs(CASES) do
    for _, dtype in ipairs { "f32", "f64" } do
      it(("have the same bits: %s, %s"):format(name, dtype), function()
        local k, dim = made(name, dtype)
        assert.equal(k.isa ~= "scalar", k.unit:find("if (far)", 1, true) ~= nil)
        local rows = math.ceil(BYTES / native.dtypebytes[dtype] / dim) + 5
        local one = tensor.new(dtype, { dim })
        for i = 0, dim - 1 do one.data[i] = i % 7 / 4 end
        local data = { x = { tensor = tensor.randn({ rows, dim }, 1, dtype) }, scale = { tensor = one },
          ["norm.weight"] = { tensor = one }, ["norm.bias"] = { tensor = one } }
        assert.is_true(run(k, rows, data, 0) == run(k, rows, data, 8))
      end)
    end
  end
end)
