--- Stages of a chain as code: the vector block of a run of float nodes, with its operands; the
-- loops of the others. Used by emit_chain.lua, which plans the stages, and by emit_fold.lua, which
-- has loops of its own around them.
--
-- An operand is { ptr = C expression, step = dim, dtype = }: an address and its stride along the
-- run, in elements. A step of 0 is read once, 1 loaded whole, any other gathered by a byte stride
-- that is passed along.

local scalar = require "esper.emit_scalar"
local nodes = require "esper.vecmath_nodes"

local M = {}

-- ---- reading operands inside a block ----

--- Words of a call for operands { ptr=, step=dim, dtype= }: addresses, and byte strides where
-- neither 0 nor 1.
function M.words(k, operands, words)
  for _, operand in ipairs(operands) do
    words[#words + 1] = operand.ptr -- nil: only the step is wanted
    local step = k.dims:value(operand.step)
    if step ~= 0 and step ~= 1 then
      words[#words + 1] = ("%s * %dL"):format(k:dim(operand.step), k:bytes(operand.dtype))
    end
  end
  return words
end

--- The same operands inside block b, from word `first` on: { ptr=, step=nil|g, fixed=bool, advance=
-- }, next word.
function M.bind(k, b, operands, first)
  local bound = {}
  for i, operand in ipairs(operands) do
    local step, ptr = k.dims:value(operand.step), nil
    if operand.ptr then
      ptr = b:arg(first)
      first = first + 1
    end
    bound[i] = { ptr = ptr, fixed = step == 0, advance = ptr }
    if step ~= 0 and step ~= 1 then
      bound[i].step = b:arg(first)
      bound[i].advance = { ptr, step = bound[i].step }
      first = first + 1
    end
  end
  return bound, first
end

--- Loads one bound operand at `ptr` (its own address unless given).
function M.load(b, operand, mask, ptr)
  ptr = ptr or operand.ptr
  if operand.fixed then return b:bcast(ptr) end
  if operand.step then return b:loads(ptr, operand.step, 0, mask) end
  return b:load(ptr, 0, mask)
end

--- Stores to one bound operand; one that does not move holds a single element.
function M.store(b, operand, value, mask)
  if operand.step then return b:stores(operand.ptr, operand.step, value, 0, mask) end
  return b:store(operand.ptr, value, 0, mask)
end

--- Computes the nodes of a vector stage; fetch(input) gives the register of an input that is not a
-- node of the stage. Returns { [id] = register }.
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
      if plan.random[id] then
        for part = 1, nodes.random[k.graph:op(id)] do regs[#regs + 1] = fetch { random = id, part = part } end
      end
      value[id] = nodes.node(b, k.graph, id, regs)
    end
  end
  return value
end

-- ---- running a chain over one run ----

local function input_key(arg)
  if arg.source then return "s" .. arg.source end
  return arg.node and "n" .. arg.node or "r" .. arg.random .. ":" .. arg.part
end

-- What the nodes of a stage read from memory, each once, in order; and its number by input_key.
local function memory_inputs(plan, stage)
  local list, seen = {}, {}
  local function need(arg)
    local key = input_key(arg)
    if not seen[key] then
      seen[key] = #list + 1
      list[#list + 1] = arg
    end
  end
  for _, id in ipairs(stage.nodes) do
    for _, arg in ipairs(plan.inputs[id]) do
      if arg.source or arg.node and plan.stage_of[arg.node] ~= stage then need(arg) end
    end
    if plan.random[id] then
      for part = 1, nodes.random[plan.k.graph:op(id)] do
        need { random = id, part = part }
      end
    end
  end
  return list, seen
end

-- Where `arg` lies during this run: { ptr=, step=, dtype= }.
local function located(plan, run, arg)
  if arg.source then
    local source = run[arg.source]
    return { ptr = source.ptr, step = source.step, dtype = plan.sources[arg.source].dtype }
  end
  return plan.place[arg.node or arg.random .. ":" .. arg.part]
end

-- Nodes of the stage whose value goes to memory.
local function kept(plan, stage)
  local list = {}
  for _, id in ipairs(stage.nodes) do
    if plan.place[id] then list[#list + 1] = id end
  end
  return list
end

local function run_vector(plan, stage, run)
  local k = plan.k
  local inputs, seen = memory_inputs(plan, stage)
  local outputs, operands = kept(plan, stage), {}
  for i, arg in ipairs(inputs) do operands[i] = located(plan, run, arg) end
  local targets = {}
  for i, id in ipairs(outputs) do targets[i] = plan.place[id] end
  local words = M.words(k, targets, M.words(k, operands, { run.n }))
  k:call(k:block(function(b)
    local bound, first = M.bind(k, b, operands, 1)
    local out, advance, hoisted = M.bind(k, b, targets, first), {}, {}
    for i, operand in ipairs(bound) do
      if operand.fixed then hoisted[i] = b:bcast(operand.ptr) else advance[#advance + 1] = operand.advance end
    end
    for i in ipairs(out) do advance[#advance + 1] = out[i].advance end
    b:each(b:arg(0), advance, function(mask)
      local loaded = {}
      local value = M.compute(plan, b, stage, function(arg)
        local i = seen[input_key(arg)]
        loaded[i] = hoisted[i] or loaded[i] or M.load(b, bound[i], mask)
        return loaded[i]
      end)
      for i, id in ipairs(outputs) do M.store(b, out[i], value[id], mask) end
    end)
  end, stage.dtype), words)
end

-- Casts and copies: whatever else reaches here has types that nothing computes.
local function run_scalar(plan, stage, run)
  local k, id = plan.k, stage.nodes[1]
  local op, arg = k.graph:op(id), plan.inputs[id][1]
  if not plan.custom[id] and not nodes.copies[op] then
    error(("no kernel for op %s on %s: cast its inputs to f32 or f64 first"):format(op, k.graph:dtype(id)), 0)
  end
  scalar.copy(k, arg.const and arg or located(plan, run, arg), plan.place[id], run.n)
end

local function run_random(plan, stage, run)
  local id = stage.nodes[1]
  local u, v = plan.place[id .. ":1"], plan.place[id .. ":2"]
  scalar.uniform(plan.k, id, run, u.ptr, v and v.ptr)
end

local RUN = { vector = run_vector, scalar = run_scalar, random = run_random }

local function buffer(plan, id)
  local k = plan.k
  local dtype = k.graph:dtype(id)
  return { ptr = k:buffer(dtype, plan.piece), step = k.dims:const(1), dtype = dtype }
end

--- Emits the chain for one run: run.n elements; run[i] = { ptr=, step= } of source i; run.pos,
-- run.pos_step = linear index in the output of the first element and its step (C expressions), for
-- random nodes; stores[id] = { ptr=, step=, dtype= }.
function M.run(plan, run, stores)
  plan.place = {}
  for _, id in ipairs(plan.nodes) do
    plan.place[id] = stores[id] or plan.crosses[id] and buffer(plan, id) or nil
    for part = 1, plan.random[id] and nodes.random[plan.k.graph:op(id)] or 0 do
      plan.place[id .. ":" .. part] = buffer(plan, id)
    end
  end
  for _, stage in ipairs(plan.stages) do RUN[stage.kind](plan, stage, run) end
end

return M
