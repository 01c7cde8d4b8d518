--- One case on both sides of a comparison: Esper's kernel and the same graph as libtorch calls, over the same data.
-- Between the suite and the duel (duel.lua). Everything but the work itself is prepared here, outside the timing.
--
--   sides.esper(case, options) -> side | nil, message, status       options = { pool = es_pool *, isa =, kernel =, given =,
--       tuning = choices, or store = where tuned ones are looked up, cpu = processor time of the thread is clocked }
--   sides.torch(side of esper, threads, cpu) -> side | nil, message, status
--   side = { name =, case =, run = function(reps, ns) (nanoseconds of each into a C array of doubles),
--            results = function() -> { [root] = tensor } }      of the last run
--   The Esper side also has compiled, graph, data, values (symbols by name), work (for peak.bound), naive, workspace
--   (bytes), compile_ms, group_work = array of work, one per group (naive and group_work of a fresh compile only).

local compile = require "esper.compile"
local cost = require "esper.cost"
local draw = require "esper.draw"
local kernel = require "esper.kernel"
local native = require "esper.native"
local suite = require "esper.bench.suite"
local tensor = require "esper.tensor"
local tuning = require "esper.tuning"
local validate = require "esper.validate"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}

local SEED = 1
local COMPILES = 3 -- the median is reported

local function text_of(problem) return type(problem) == "table" and table.concat(problem, "\n") or tostring(problem) end

-- What the autotuner kept in the store for this graph at these sizes, if anything.
local function tuned(source, compiling, store)
  compiling.store = store and store.ptr
  local r = store and compile.key(source, compiling)
  compiling.store = nil
  return r and r.tuning and tuning.decode(r.tuning)
end

-- Fresh compiles, only tuned choices from the store: the last one and the median time.
local function compiled(case, options)
  local build = type(case.source) == "string" and require("esper.sandbox").build or nil
  local compiling = { set = case.set, mode = case.mode, dtype = case.dtype, size = case.size, build = build,
    isa = options.isa }
  local times, made, problem, status = {}, nil, nil, nil
  compiling.tuning = options.tuning or tuned(case.source, compiling, options.store)
  for i = 1, options.compiles or COMPILES do
    made, problem, status = compile.compile(case.source, compiling)
    if not made then return nil, text_of(problem), status end
    times[i] = made.ms.total
  end
  table.sort(times)
  return kernel.wrap(made), times[math.ceil(#times / 2)]
end

-- Operations and traffic of every group at these sizes, and their sum.
local function works(made, values, dtype)
  local rows, out, total = {}, {}, { flops = 0, read = 0, write = 0, dtype = dtype }
  local f = made.groups.facts
  for n, group in ipairs(made.groups.groups) do rows[n] = { cost.group(f, group) } end
  local all = assert(f.D:eval(values)) -- only now: the costs are dims made just above
  for n, row in ipairs(rows) do
    out[n] = { flops = all[row[1]], read = all[row[2]], write = all[row[3]], dtype = dtype }
    out[n].set = out[n].read + out[n].write
    for _, key in ipairs { "flops", "read", "write" } do total[key] = total[key] + out[n][key] end
  end
  return out, total
end

-- Bytes of everything a run touches: leaves, outputs, workspace.
local function touched(data, results, workspace)
  local bytes = workspace
  for _, l in pairs(data) do bytes = bytes + l.tensor.bytes end
  for _, t in pairs(results) do bytes = bytes + t.bytes end
  return bytes
end

-- The same for a kernel from the store, whose groups are gone: from its plan, as a whole.
local function plan_work(made, values, dtype)
  local all, written = assert(made.plan_dims:eval(values)), 0
  for i = 0, C.es_plan_value_count(made.plan) - 1 do
    local v = C.es_plan_value_get(made.plan, i)
    local role, bytes = native.rolename[v.role], native.dtypebytes[native.dtypename[v.dtype]]
    if role == "output" or role == "update" or role == "temp" then
      for a = 0, v.rank - 1 do bytes = bytes * all[v.shape[a]] end
      written = written + bytes
    end
  end
  local moved = all[C.es_plan_bytes(made.plan)]
  written = math.min(written, moved)
  return { flops = all[C.es_plan_flops(made.plan)], read = moved - written, write = written, dtype = dtype }
end

local function dim_at(D, values, text)
  local d = text and D:parse(text)
  local all = d and D:eval(values)
  return all and all[d] or 0
end

-- Values of the symbols by name: from the tensors given, else from the case.
local function sizes(made, case, given)
  if not given then return suite.sizes(made.graph, case) end
  local checked, why, status = made:check_inputs(given)
  if not checked then return nil, why, status end
  local symbols, problem, code = made:solve(checked, given)
  if not symbols then return nil, problem, code end
  local values = {}
  for i, s in ipairs(made.plan_dims:symbols()) do values[s.name] = tonumber(symbols[i - 1]) end
  return values
end

-- Data of all leaves at these sizes; nil when some tensor would be empty or impossible.
local function leaves(graph, values)
  local value = draw.evaluate(graph, values)
  for id = 0, value and graph:count() - 1 or -1 do
    for _, d in ipairs(graph:shape(id)) do
      if value(d) < 1 then return nil end
    end
  end
  return value and validate.leaves(graph, value, 1, SEED)
end

--- options.given: function(kernel) -> tensors by input name, instead of drawn ones; their extents give the sizes.
-- options.kernel: the kernel to time, instead of compiling the case. options.leaves: a side whose data this one is to read.
function M.esper(case, options)
  local made, ms, status = options.kernel, nil, nil
  if not made then made, ms, status = compiled(case, options) end
  if not made then return nil, ms, status end
  local graph, given, values, why = made.graph, nil, nil, nil
  if options.given then
    given, why, status = options.given(made)
    if not given then return nil, why, status end
  end
  values, why, status = sizes(made, case, given)
  if not values then return nil, why, status or "EARG" end
  local data = options.leaves and options.leaves.data or leaves(graph, values)
  if not data then return nil, case.name .. ": these sizes give an empty or impossible tensor", "ESHAPE" end
  for name, t in pairs(given or {}) do data[name].tensor = t end
  local frozen = made.mode == "eval" and not options.fluid and C.es_frozen_token() or nil -- as peers see constant weights
  local run, results, keep = validate.execution(made, values, data, SEED, 0, frozen)
  run.pool = options.pool
  local need = native.new "int64_t[1]"
  if C.es_kernel_workspace(made.kernel, run.symbols, run.pool, need, fresh()) ~= 0 then return failure() end
  local side = { name = "esper", case = case, compiled = made, graph = graph, values = values, data = data, compile_ms = ms,
    es_run = run, workspace = tonumber(need[0]), keep = keep }
  if made.groups then
    side.naive = dim_at(made.groups.facts.D, values, made.naive)
    side.group_work, side.work = works(made, values, made.dtype)
  else
    side.work = plan_work(made, values, made.dtype)
  end
  side.work.set = touched(data, results, side.workspace)
  function side.run(reps, ns)
    if C.es_measure_kernel(made.kernel, run, reps, options.cpu or false, ns, fresh()) ~= 0 then return failure() end
    return true
  end
  function side.results() return results end
  return side
end

function M.torch(esper, threads, cpu)
  local graph = esper.graph
  local given, symbols = native.new("void *[?]", graph:count() + 1), validate.symbol_array(graph:dims(), esper.values)
  for _, l in pairs(esper.data) do given[l.id] = l.tensor.data end
  local out = native.new "es_torch_program *[1]"
  if C.es_torch_prepare(graph.ptr, symbols, given, out, fresh()) ~= 0 then return failure() end
  local program = native.gc(out[0], C.es_torch_release)
  local side = { name = "torch", case = esper.case, keep = { given, symbols, graph, esper.data } }
  function side.run(reps, ns)
    if C.es_torch_replay(program, reps, threads, cpu or false, ns, nil, fresh()) ~= 0 then return failure() end
    return true
  end
  function side.results()
    local pointers, results = native.new("void *[?]", #graph:roots() + 1), {}
    local all = draw.evaluate(graph, esper.values)
    for i, root in ipairs(graph:roots()) do
      local shape = {}
      for a, d in ipairs(graph:shape(root.node)) do shape[a] = all(d) end
      local t = tensor.new(graph:dtype(root.node), shape)
      results[root.kind .. " " .. root.name], pointers[i - 1] = t, t.data
    end
    local ns = native.new "double[1]"
    if C.es_torch_replay(program, 1, threads, false, ns, pointers, fresh()) ~= 0 then return failure() end
    return results
  end
  return side
end

--- Largest difference between two sides' float outputs, as a share of the largest value: both must compute the same.
function M.difference(a, b)
  local mine, theirs = a.results(), b.results()
  local worst = 0
  for name, t in pairs(mine) do
    local u = theirs and theirs[name]
    if u and t.dtype == u.dtype and (t.dtype == "f32" or t.dtype == "f64") and name:find "^output" then
      local top, apart = 0, 0
      local step = math.max(1, math.floor(t.count / 20000)) -- a sample is enough to see two different computations
      for i = 0, t.count - 1, step do
        local x, y = tonumber(t.data[i]), tonumber(u.data[i])
        top, apart = math.max(top, math.abs(y)), math.max(apart, math.abs(x - y))
        if x ~= x or y ~= y then apart = math.huge end
      end
      worst = math.max(worst, top > 0 and apart / top or apart)
    end
  end
  return worst
end

return M
