-- One graph given as text, compiled, with leaves of our choosing: what ops_spec.lua and limits_spec.lua run.
--   local t = assert(one.compile(text, { n = 5 }))     text without its first line; values of the symbols; a third argument
--                                                      { mode = "train" unless given, isa = }
--   t:give(function(name, i) ... end)                  element i (from 0) of leaf `name`
--   t:guarded(at_end, frozen)   t:run(pool, seed, step)        results by "output y" | nil, message, status
--   t:oracle(seed, step)   t:judge(oracle, results)    nil, or what disagrees
local compile = require "esper.compile"
local graph_module = require "esper.graph"
local kernel = require "esper.kernel"
local native = require "esper.native"
local tensor = require "esper.tensor"
local validate = require "esper.validate"
local C = native.C

local M = {}
local One = {}
One.__index = One
local leaf = { input = true, param = true, buffer = true }

--- The object | nil, message, status.
function M.of(graph, values, options)
  local mode = options and options.mode or "train"
  local function build() return graph, { name = "spec/one", mode = mode, dtype = "f32", hyper = {} } end
  local made, why, status = compile.compile("spec/one", { build = build, mode = mode, isa = options and options.isa })
  if not made then return nil, type(why) == "table" and table.concat(why, "; ") or why, status end
  return setmetatable({ graph = graph, kernel = kernel.wrap(made), values = values or {} }, One)
end

function M.compile(text, values, options)
  local graph, message, status = graph_module.parse('graph "spec/one"\n' .. text)
  if not graph then return nil, message, status end
  return M.of(graph, values, options)
end

function One:give(element)
  local all = assert(self.graph:dims():eval(self.values))
  self.data = {}
  for id = 0, self.graph:count() - 1 do
    if leaf[self.graph:op(id)] then
      local shape, name = {}, self.graph:label(id)
      for axis, d in ipairs(self.graph:shape(id)) do shape[axis] = all[d] end
      local t = tensor.new(self.graph:dtype(id), shape)
      for i = 0, t.count - 1 do t.data[i] = element(name, i) end
      self.data[name] = { id = id, tensor = t }
    end
  end
  return self
end

-- Each run gets copies of the leaves; a new value of a buffer arrives in the buffer's copy.
local function execution(self, seed, step, frozen)
  local own = {}
  for name, l in pairs(self.data) do
    local t = tensor.new(l.tensor.dtype, l.tensor.shape)
    native.copy(t.data, l.tensor.data, l.tensor.bytes)
    own[name] = { id = l.id, tensor = t }
  end
  local run, results, keep = validate.execution(self.kernel, self.values, own, seed or 1, step or 1, frozen)
  for name, l in pairs(own) do
    if results["update " .. name] then results["update " .. name] = l.tensor end
  end
  return run, results, { keep, own }
end

function One:guarded(at_end, frozen)
  local run, results, keep = execution(self, nil, nil, frozen)
  local verdict = native.new "es_guard_result"
  local failed = C.es_guard_run(self.kernel.kernel, run, at_end, 60, verdict, native.fresh()) ~= 0
  if failed and keep then return native.failure() end
  return results
end

function One:run(pool, seed, step)
  local run, results, keep = execution(self, seed, step)
  run.pool = pool
  local failed = C.es_kernel_run(self.kernel.kernel, run, native.fresh()) ~= 0
  if failed and keep then return native.failure() end -- `keep` holds the leaves until here
  return results
end

function One:oracle(seed, step)
  return validate.evaluate(self.graph, validate.symbol_array(self.graph:dims(), self.values), self.data, seed or 1, step or 1)
end

function One:judge(oracle, results, sum)
  return validate.judge(self.graph, oracle, results, sum or validate.new_sum(), "kernel")
end

return M
