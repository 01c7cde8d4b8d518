-- One random graph through the whole pipeline, on every instruction set of this processor, held against the oracle and,
-- where present, libtorch.
local compile = require "esper.compile"
local draw = require "esper.draw"
local kernel = require "esper.kernel"
local native = require "esper.native"
local validate = require "esper.validate"
local C = native.C

local M = {}
M.torch = C.es_torch_load(native.fresh()) ~= nil

M.isas = {}
for _, isa in ipairs { "avx512", "avx2", "scalar" } do
  if C.es_isa_supported(C.es_isa_named(isa)) then M.isas[#M.isas + 1] = isa end
end

-- What the kernel for one instruction set makes of the graph: nil, or what disagreed.
local function on_isa(isa, graph, seed, draws, oracle, sums, options)
  local mode = options.mode or "train"
  local function build() return graph, { name = "spec/random", mode = mode, dtype = "f32", hyper = {} } end
  local made, why = compile.compile("spec/random", { build = build, mode = mode, passes = options.passes, isa = isa })
  if not made then return "compile: " .. tostring(type(why) == "table" and table.concat(why, "; ") or why) end
  local k = kernel.wrap(made)
  local frozen = seed % 4 > 1 and C.es_frozen_token() or nil
  local run, results, keep = validate.execution(k, draws.values, draws.data, seed, 3, frozen)
  local result = native.new("es_guard_result")
  if C.es_guard_run(k.kernel, run, seed % 2 == 0, 30, result, native.fresh()) ~= 0 then
    return "guard: " .. native.string(native.err.text)
  end
  return validate.judge(graph, oracle, results, sums.kernel, "kernel"), keep
end

--- nil, or what disagreed. sums: { kernel = , torch = } collect the comparison figures.
function M.graph(graph, seed, sums, options)
  options = options or {}
  local index = options.index or (4 + seed % 9)
  local values, value = draw.symbols(graph, index, seed)
  if not values then return "no shape fits" end
  local data = validate.leaves(graph, value, index, seed)
  local oracle, problem = validate.evaluate(graph, validate.symbol_array(graph:dims(), values), data, seed, 3)
  if not oracle then return "oracle: " .. problem end
  for _, isa in ipairs(options.isas or M.isas) do
    problem = on_isa(isa, graph, seed, { values = values, data = data }, oracle, sums, options)
    if problem then return isa .. ": " .. problem end
  end
  if M.torch then
    local peer, cannot = validate.torch_run(graph, values, data, seed, 3)
    if not peer then return "libtorch: " .. cannot end
    problem = validate.judge(graph, oracle, peer, sums.torch, "libtorch")
  end
  return problem
end

return M
