--- The nodes of a chain as code: one vector block over a run and its rows, or, for what no block does, a plain C loop.
-- Used by emit_chain.lua, which plans chains, by emit_fold.lua and the recipe norm, whose passes are not plain walks.

local amount = require "esper.emit_amount"
local hoist = require "esper.emit_hoist"
local nodes = require "esper.vecmath_nodes"
local random = require "esper.vecrandom"
local scalar = require "esper.emit_scalar"
local stream = require "esper.emit_stream"
local sweep = require "esper.emit_sweep"

local M = {}

-- ---- values ----

--- Computes nodes of a plan; fetch(input) gives the register of an input that is not among them: { source = i }, or
-- { random = id, part = 1 | 2 } for a uniform number. Returns { [id] = register }.
function M.compute(plan, b, stage, fetch)
  local k, value = plan.k, {}
  for _, id in ipairs(stage.nodes) do
    local regs = {}
    for i, arg in ipairs(plan.inputs[id]) do
      regs[i] = arg.const and b:splat(arg.const) or arg.node and value[arg.node] or fetch(arg)
    end
    k:note(b, id)
    local custom = plan.custom[id]
    if custom then
      value[id] = custom.compute and custom.compute(b, unpack(regs)) or regs[1]
    else
      for part = 1, plan.random[id] or 0 do regs[#regs + 1] = fetch { random = id, part = part } end
      value[id] = nodes.node(b, k.graph, id, regs)
    end
  end
  return value
end

--- The random numbers of a plan in the block of sweep s: fn(arg, v) for M.compute's fetch, inside pass p, whose operand
-- `index` is the linear index in the output. Made outside all loops.
function M.draws(plan, s, index)
  local keys, next_made = {}, {}
  for _, id in ipairs(plan.nodes) do
    if plan.random[id] then
      local stream = plan.k:key(plan.k.graph:attr(id, "stream"))
      keys[id] = random.key(s.b, function(i) return s:g((random.words[i + 1]:gsub("%%s", stream))) end)
    end
  end
  return function(arg, v)
    local id = arg.random
    if not v[id] then
      v[id], next_made[id] = next_made[id], nil
      if not v[id] then -- and for the vector that follows, where there is one
        local at = v.get(index)
        v[id], next_made[id] = unpack(random.uniform(s.b, keys[id], { at, v.more and s.b:g_addk(at, s.b.lanes) or nil }))
      end
    end
    return v[id][arg.part]
  end
end

-- ---- running a chain over one run ----

--- Source or store `w` of a walk (ptr, step, row or row_bytes) as an operand of a pass over { rows, columns } or { columns }.
function M.operand(k, s, w, dtype)
  local bytes = k:bytes(dtype)
  local column = amount.of(k, w.step, bytes)
  local strides = { column }
  if w.rows then strides = { w.row_bytes or amount.of(k, w.row, bytes), column } end
  local operand = { strides = strides, bytes = bytes, whole = dtype == "i32" and s.b.type == "f32" }
  if column == 0 and (not w.rows or strides[1] == 0) and not w.written then
    operand.once = sweep.one(s.b, s:word(w.ptr), operand.whole)
    return operand
  end
  operand.at, operand.written = s:pointer(w.ptr), w.written
  return operand
end

-- The linear index as an operand: its "address" counts elements, its values are scalars.
local function index_operand(s, w)
  local strides = w.rows and { amount.of(s.k, w.row), 1 } or { 1 }
  local operand = { at = s:pointer(w.ptr), strides = strides, bytes = 1 }
  function operand.load(_, ahead) return s.b:g_addk(operand.at, ahead * s.b.lanes) end
  return operand
end

local function with_rows(run, w, written)
  return { ptr = w.ptr, step = w.step, row = w.row, row_bytes = w.row_bytes, rows = run.rows, written = written }
end

local function cost(plan)
  local sum = 0
  for _, id in ipairs(plan.nodes) do sum = sum + nodes.cost(plan.k.graph:op(id)) end
  return sum
end

-- More vectors at once where an element costs little beside the loop around it.
local function unroll(plan)
  if next(plan.random) then return 2 end
  local price = cost(plan)
  return plan.k:choice("chain_unroll", price <= 6 and { 4, 2 } or price <= 12 and { 2, 1, 4 } or price <= 32 and { 2, 1 } or { 1, 2 })
end

-- Copies and the like wait for memory whatever the vectors' length, and 64 bytes at once wait longer: a load close behind a
-- store is held up when the last 12 bits of their addresses say that they overlap. Rows with a masked rest stay as they are.
local function narrow(plan, run, past)
  local k = plan.k
  local rest = run.rows and not (run.extent and run.extent % k:lanes(plan.stages[1].dtype) == 0)
  return k.isa == "avx512" and k.group.kind == "pointwise" and not (past or rest) and cost(plan) <= 2 and "avx2" or nil
end

-- Is there work in the loop over columns that reads only what stays the same in it?
local function worth_hoisting(plan, operands)
  for _, id in ipairs(plan.nodes) do
    if not plan.custom[id] and nodes.cost(plan.k.graph:op(id)) >= 4 then
      for _, arg in ipairs(plan.inputs[id]) do
        local strides = arg.source and operands[arg.source].strides
        if strides and strides[#strides] == 0 then return true end
      end
    end
  end
end

local function run_vector(plan, run, stores, multiple, past)
  local k, s = plan.k, nil
  local stage = plan.stages[1]
  local block = k:block(function(b)
    s = sweep.new(k, b)
    local operands = {}
    for i, source in ipairs(plan.sources) do operands[i] = M.operand(k, s, with_rows(run, run[i]), source.dtype) end
    local first = #operands
    for i, id in ipairs(stores) do
      operands[first + i] = M.operand(k, s, with_rows(run, run[first + i], true), k.graph:dtype(id))
      operands[first + i].stream = past
    end
    local draw
    if next(plan.random) then
      operands[#operands + 1] = index_operand(s, with_rows(run, run[#operands + 1]))
      draw = M.draws(plan, s, #operands)
    end
    local columns = run.aligned and run.extent or run.n
    local pass = { extents = run.rows and { run.rows, columns } or { columns }, operands = operands, unroll = unroll(plan),
                   multiple = multiple }
    if type(columns) == "number" and columns % (2 * b.lanes) == 0 then pass.unroll = math.max(2, pass.unroll) end
    local h
    if worth_hoisting(plan, operands) then
      function pass.before(get)
        h = hoist.new(b)
        M.compute(plan, h.before, stage, function(arg) return arg.source and get(arg.source) or hoist.changing end)
      end
    end
    function pass.body(v)
      local value = M.compute(plan, h and h:inside() or b, stage, function(arg)
        return arg.source and v.get(arg.source) or draw(arg, v)
      end)
      for i, id in ipairs(stores) do v.put(first + i, value[id]) end
    end
    s:pass(pass)()
  end, stage.dtype, nil, narrow(plan, run, past))
  k:call(block, s.words)
end

-- Casts and copies of types that no vector holds.
local function run_scalar(plan, run, stores)
  local k, id = plan.k, plan.stages[1].nodes[1]
  local op, arg = k.graph:op(id), plan.inputs[id][1]
  if not plan.custom[id] and not nodes.copies[op] then
    error(("no kernel for op %s on %s: cast its inputs to f32 or f64 first"):format(op, k.graph:dtype(id)), 0)
  end
  local from = arg
  if arg.source then from = { ptr = run[arg.source].ptr, step = run[arg.source].step, dtype = plan.sources[arg.source].dtype } end
  local to = run[#plan.sources + 1]
  assert(#stores == 1 and stores[1] == id)
  scalar.copy(k, from, { ptr = to.ptr, step = to.step, dtype = k.graph:dtype(id) }, run.n)
end

--- Emits the chain for one run of a walk: run.n elements (run.rows times, with run.aligned run.extent of them); run[i] = {
-- ptr=, step=, row= } of source i, then of the stores, then of the linear index. `multiple`: n is a multiple of the lanes.
-- far: a C flag, or nil (emit_stream.lua).
function M.run(plan, run, stores, multiple, far)
  local stage = plan.stages[1]
  if stage.kind == "scalar" then return run_scalar(plan, run, stores) end
  local whole = not run.rows or run.aligned and run.extent % plan.k:lanes(stage.dtype) == 0
  stream.either(plan.k, whole and far, function(past) run_vector(plan, run, stores, multiple, past) end)
end

return M
