--- Certificates: proves one compiled kernel right (functional) and in bounds (memory), and keeps the evidence.
-- Between a kernel (compile.lua) and the store. The judge is the oracle over the graph as authored, before any pass.
--
-- For every drawn shape (draw.lua) the kernel runs in a forked child on guard-paged copies, its results are compared with
-- the oracle's under the oracle's own error bounds, then it runs in this process with all threads and must give
-- the same bits. Where libtorch is present the same graph runs through it and is held to the same bounds.
--
--   certificate = validate.certify(compiled, { shapes = 20, seed = 1, torch = true, ranges = true, progress = fn(i, n),
--     pool = or pools = {} })
--   certificate = { passed = bool, seed =, functional = {...}, memory = {...}, torch = {...}, failure = text or nil }
-- At last the ranges of all accesses are proved for all shapes (ranges): memory.proved of them, memory.data at addresses made of
-- loaded data, memory.unproved. An access that leaves its buffer at a shape that was not drawn fails the certificate.
--   validate.encode(certificate) -> text   validate.decode(text) -> certificate
-- A certificate that judged nothing does not pass.

local draw = require "esper.draw"
local native = require "esper.native"
local tensor = require "esper.tensor"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}

local UNIT = 2 ^ -53 -- every node is judged in its own dtype, none coarser
local KEPT_FROM = 4096 -- elements
local NARROW = 1 -- bytes of workspace from which rounds are taken: one row each, where they can be
local SECONDS = 60 -- of one guarded run; a kernel that hangs is killed then
local leaf = { input = true, param = true, buffer = true }

-- Extents of a node or value for this draw.
local function extents(shape, value)
  local out = {}
  for i, d in ipairs(shape) do out[i] = value(d) end
  return out
end

local function count(shape)
  local n = 1
  for _, e in ipairs(shape) do n = n * e end
  return n
end

-- Data of one leaf for a draw; seed decides the numbers.
local function leaf_data(graph, id, kind, value, seed)
  local dtype, shape = graph:dtype(id), extents(graph:shape(id), value)
  if kind == "birth" then
    local t = tensor.new(dtype, shape)
    if C.es_graph_init_fill(graph.ptr, id, seed, t.data, fresh()) == 0 then return t end
    return failure()
  end
  if dtype == "f32" or dtype == "f64" then return tensor.sample(kind, dtype, shape, seed, id) end
  local bound = math.max(1, draw.index_bound(graph, id, value))
  return tensor.sample(dtype == "bool" and "coin" or "index", dtype, shape, seed, id, 0, bound)
end

-- Data for every leaf, by name. kept: a table in which large parameters of each kind stay from draw to draw; few numbers are
-- drawn anew, since one of them may decide which way a kernel goes.
local function leaves(graph, value, index, seed, kept)
  local data = {}
  for id = 0, graph:count() - 1 do
    local op = graph:op(id)
    if leaf[op] then
      local kind = draw.kind(graph, id, index)
      local key = op == "param" and kept and count(extents(graph:shape(id), value)) > KEPT_FROM and id .. kind
      local t, why = key and kept[key], nil
      if not t then t, why = leaf_data(graph, id, kind, value, key and seed or seed + index) end
      if not t then error(why, 0) end
      if key then kept[key] = t end
      data[graph:label(id)] = { id = id, tensor = t }
    end
  end
  return data
end

-- Symbol values as a C array in a dims table's order.
local function symbol_array(D, values)
  local symbols = D:symbols()
  local out = native.new("int64_t[?]", #symbols + 1)
  for i, s in ipairs(symbols) do out[i - 1] = values[s.name] or 1 end
  return out
end

local function evaluate(graph, symbols, data, seed, step)
  local oracle = C.es_oracle_new(graph.ptr, symbols, UNIT, seed, step, fresh())
  if oracle == nil then return failure() end
  native.gc(oracle, C.es_oracle_free)
  for _, l in pairs(data) do
    if C.es_oracle_give(oracle, l.id, l.tensor.data, fresh()) ~= 0 then return failure() end
  end
  if C.es_oracle_run(oracle, fresh()) ~= 0 then return failure() end
  return oracle
end

-- One execution prepared: es_run with a pointer per plan value, and the tensors that take the results by root name. frozen:
-- a token of es_frozen_token, nil when the parameters may change.
local function execution(compiled, values, data, seed, step, frozen)
  local plan, results = compiled.plan, {}
  local count = C.es_plan_value_count(plan)
  local pointers = native.new("void *[?]", count + 1)
  local D = compiled.plan_dims
  local symbols = symbol_array(D, values)
  local all = D:eval(values)
  for i = 0, count - 1 do
    local v = C.es_plan_value_get(plan, i)
    local role, name = native.rolename[v.role], native.string(v.name)
    if data[name] and (role == "input" or role == "param" or role == "buffer") then
      pointers[i] = data[name].tensor.data
    elseif role == "output" or role == "update" then
      local shape = {}
      for a = 1, v.rank do shape[a] = all[v.shape[a - 1]] end
      local t = tensor.new(native.dtypename[v.dtype], shape)
      results[role .. " " .. (role == "update" and native.string(C.es_plan_value_get(plan, v.buffer).name) or name)] = t
      pointers[i] = t.data
    end
  end
  local run = native.new("es_run")
  run.symbols, run.data, run.seed, run.step, run.frozen = symbols, pointers, seed, step, frozen or 0
  return run, results, { symbols, pointers, data }
end
M.execution = execution

local function picture(values)
  local parts = {}
  for name, v in pairs(values) do parts[#parts + 1] = name .. "=" .. v end
  table.sort(parts)
  return table.concat(parts, " ")
end

-- Position of linear element i in a tensor of this shape, "[1, 0, 7]".
local function position(shape, i)
  local at = {}
  for axis = #shape, 1, -1 do
    at[axis] = i % shape[axis]
    i = math.floor(i / shape[axis])
  end
  return "[" .. table.concat(at, ", ") .. "]"
end

-- Compares results with the oracle; adds to `sum`; returns nil or what failed.
local function judge(graph, oracle, results, sum, who)
  local problem
  for _, root in ipairs(graph:roots()) do
    local got, want = results[root.kind .. " " .. root.name], C.es_oracle_get(oracle, root.node)
    if not got then return ("%s gave no %s '%s'"):format(who, root.kind, root.name) end
    local c = native.new("es_comparison")
    C.es_compare(want, got.data, native.dtype[got.dtype], 1, c)
    sum.elements = sum.elements + tonumber(c.count)
    sum.judged = sum.judged + tonumber(c.judged)
    sum.statistical = sum.statistical + tonumber(c.statistical)
    sum.max_ulp = math.max(sum.max_ulp, c.max_ulp)
    sum.max_rel = math.max(sum.max_rel, c.max_rel)
    sum.max_abs = math.max(sum.max_abs, c.max_abs)
    sum.max_share = math.max(sum.max_share, c.max_share)
    if c.bad > 0 and not problem then
      problem = ("%s '%s'%s: %s gave %.9g, expected %.9g within %.3g (%.0f of %.0f elements wrong)"):format(root.kind, root.name,
        position(got.shape, tonumber(c.first_bad)), who, c.got, c.want, c.allowed, tonumber(c.bad), tonumber(c.count))
    end
  end
  return problem
end

local function guarded(compiled, run, at_end, memory)
  local result = native.new("es_guard_result")
  memory.runs = memory.runs + 1
  if C.es_guard_run(compiled.kernel, run, at_end, SECONDS, result, fresh()) ~= 0 then
    local _, why = failure()
    return why
  end
end

local function same_bits(results, again)
  for name, t in pairs(results) do
    if t:raw() ~= again[name]:raw() then return name .. " differs between two runs" end
  end
end

-- New values of buffers arrive in the buffers themselves.
local function take_updates(results, data)
  for name, l in pairs(data) do
    if results["update " .. name] then results["update " .. name] = l.tensor end
  end
end

-- Buffers are written by a run in training: give each run its own copies.
local function copies(graph, data)
  local out = {}
  for name, l in pairs(data) do
    out[name] = l
    if graph:op(l.id) == "buffer" then
      local t = tensor.new(l.tensor.dtype, l.tensor.shape)
      native.copy(t.data, l.tensor.data, l.tensor.bytes)
      out[name] = { id = l.id, tensor = t }
    end
  end
  return out
end

local function torch_run(graph, values, data, seed, step)
  local results, count = {}, graph:count()
  local given, out = native.new("void *[?]", count + 1), native.new("void *[?]", #graph:roots() + 1)
  local all = graph:dims():eval(values)
  for _, l in pairs(data) do given[l.id] = l.tensor.data end
  for i, root in ipairs(graph:roots()) do
    local shape = {}
    for a, d in ipairs(graph:shape(root.node)) do shape[a] = all[d] end
    local t = tensor.new(graph:dtype(root.node), shape)
    results[root.kind .. " " .. root.name], out[i - 1] = t, t.data
  end
  if C.es_torch_run(graph.ptr, symbol_array(graph:dims(), values), given, out, seed, step, 1, fresh()) ~= 0 then return failure() end
  return results
end
M.torch_run, M.leaves, M.evaluate, M.judge, M.symbol_array = torch_run, leaves, evaluate, judge, symbol_array

local function new_sum()
  return { shapes = 0, elements = 0, judged = 0, statistical = 0, max_ulp = 0, max_rel = 0, max_abs = 0, max_share = 0 }
end
M.new_sum = new_sum

-- The same run in this process, with every number of threads asked for: the bits must be those of `results`. Under a token
-- the first makes what is kept and the later ones use it.
local function repeated(compiled, values, results, data, step, options, first)
  for n = 1, math.max(1, #options.pools) do
    local own = copies(compiled.graph, data)
    local run, again, keep = execution(compiled, values, own, options.seed, step, tonumber(first.frozen))
    run.pool, run.round_bytes = options.pools[n], first.round_bytes
    if C.es_kernel_run(compiled.kernel, run, fresh()) ~= 0 then return select(2, failure()), keep end
    take_updates(again, own)
    local why = same_bits(results, again)
    if why then return ("%s, the second with %d threads"):format(why, C.es_pool_threads(run.pool)) end
  end
end

-- The runs of one draw { values =, data =, oracle =, round_bytes = }; returns nil or what failed.
local function tried(compiled, c, index, options, d)
  local own = copies(compiled.graph, d.data)
  local frozen = index % 4 > 1 and C.es_frozen_token() or nil -- with either alignment, and without
  local run, results, keep = execution(compiled, d.values, own, options.seed, index, frozen)
  run.round_bytes = d.round_bytes or 0
  local why = guarded(compiled, run, index % 2 == 1, c.memory)
  c.memory.passed = not why
  if why then return why end
  take_updates(results, own)
  why = judge(compiled.graph, d.oracle, results, c.functional, "kernel")
    or repeated(compiled, d.values, results, d.data, index, options, run)
  c.functional.passed = not why
  return why, keep
end

-- One draw; returns nil or the failure.
local function one(compiled, c, index, options)
  local graph, seed, step = compiled.graph, options.seed, index
  local values, value = draw.symbols(graph, index, seed)
  if not values then return "no shape fits the declared ranges" end
  local place = ("draw %d (%s): "):format(index, picture(values))
  local data = leaves(graph, value, index, seed, options.kept)
  local oracle, why = evaluate(graph, symbol_array(graph:dims(), values), data, seed, step)
  if not oracle then return place .. "oracle: " .. why end
  c.functional.shapes = c.functional.shapes + 1
  why = tried(compiled, c, index, options, { values = values, data = data, oracle = oracle })
  if not why and index % 3 == 0 and C.es_plan_rounds(compiled.plan).count > 0 then
    why = tried(compiled, c, index, options, { values = values, data = data, oracle = oracle, round_bytes = NARROW })
    if why then why = "in rounds: " .. why end
  end
  if why then return place .. why end
  if c.torch then
    local peer, problem = torch_run(graph, values, data, seed, step)
    if not peer then c.torch.passed = false return place .. "libtorch: " .. problem end
    c.torch.shapes = c.torch.shapes + 1
    why = judge(graph, oracle, peer, c.torch, "libtorch")
    if why then c.torch.passed = false return place .. why end
  end
end

-- What the range proof says of a kernel whose draws passed; returns what failed.
local function ranges(compiled, memory)
  local programs, unread = require("esper.compile").programs(compiled)
  local proof = require("esper.ranges").prove(compiled, programs)
  memory.unread = unread -- why no block could be read: all they touch counts as unproved
  for _, count in ipairs { "proved", "data", "unproved", "violated" } do memory[count] = proof[count] end
  if not proof.failure then return nil end
  memory.passed = false
  return "memory: " .. proof.failure
end

function M.certify(compiled, options)
  options = setmetatable(options or {}, { __index = { shapes = 20, seed = 1, torch = true, ranges = true } })
  local c = { seed = options.seed, functional = new_sum(), memory = { runs = 0, passed = true } }
  c.functional.passed = true
  if options.torch and C.es_torch_load(fresh()) ~= nil then
    c.torch = new_sum()
    c.torch.passed = true
  end
  options.kept, options.pools = {}, options.pools or { options.pool }
  for i = 1, options.shapes do
    if options.progress then options.progress(i, options.shapes) end
    local ok, problem = pcall(one, compiled, c, i, options)
    if not ok then problem = ("draw %d: %s"):format(i, tostring(problem)) end
    c.failure = problem
    if problem then break end
    if i % 4 == 0 then collectgarbage() end
  end
  if not c.failure and options.ranges then c.failure = ranges(compiled, c.memory) end
  if not c.failure and c.functional.judged == 0 then c.failure = "no element could be judged" end
  c.passed = c.failure == nil
  return c
end

-- ---- stored form: one "path value" line each, sorted ----

function M.encode(certificate)
  local lines = {}
  local function walk(prefix, t)
    for k, v in pairs(t) do
      if type(v) == "table" then walk(prefix .. k .. ".", v)
      else lines[#lines + 1] = prefix .. k .. " " .. (type(v) == "number" and ("%.17g"):format(v) or tostring(v):gsub("\n", "; ")) end
    end
  end
  walk("", certificate)
  table.sort(lines)
  return table.concat(lines, "\n")
end

function M.decode(text)
  local out = {}
  for line in text:gmatch("[^\n]+") do
    local path, value = line:match("^(%S+) (.*)$")
    local at, last = out, path and path:match("[^.]+$")
    if path then
      for part in path:gmatch("([^.]+)%.") do
        at[part] = at[part] or {}
        at = at[part]
      end
      if value == "true" or value == "false" then value = value == "true" end
      at[last] = last ~= "failure" and tonumber(value) or value
    end
  end
  return out
end

return M
