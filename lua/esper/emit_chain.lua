--- Chains of pointwise nodes over runs of a space: every node of a stage lives in registers of one
-- vector block. Used by emit.lua (k:epilogue), emit_fold.lua and the recipes.
--
-- A chain is given as
--   nodes   { id, ... } in evaluation order
--   custom  { [id] = { inputs = { arg, ... }, compute = fn(b, values...) -> register } }
--                                 a node that the recipe computes; without compute: its first input
--   given   { [id] = arg }        a value that is in memory already
--   stores  { id, ... }           what is written to the group's outputs
--   out     { offset=, strides= } where in the outputs the space lies; nil: it is all of them, row-major
--   view    fn(arg) -> arg        applied to the group's own args where the space is not group.space
-- with args as in architecture.md, or local ones: { at = char * expression, strides = dims of the
-- space, minus = C expression subtracted from the element offset or nil, dtype = }.
-- Nodes are cut into stages: a run of float nodes of one type is one vector block; casts, integer
-- nodes and random draws are plain C loops (emit_scalar.lua). Values that cross stages pass through
-- stack buffers, so runs are short then.
-- Invariant: one stage reads all it needs of an element before it stores that element.

local nodes = require "esper.vecmath_nodes"
local stages = require "esper.emit_stage"

local M = {}

local BUFFERS = 16 * 1024 -- bytes of stack the buffers of one chain may take
local LONGEST = 256       -- elements of a run that passes through buffers

-- The number of the source that `arg` reads, shared by equal reads.
local function source_index(plan, arg)
  local parts = { arg.base or arg.at, arg.offset or "", arg.minus or "" }
  for _, stride in ipairs(arg.strides) do parts[#parts + 1] = stride end
  local key = table.concat(parts, ":")
  local index = plan.source_keys[key]
  if not index then
    index = #plan.sources + 1
    plan.sources[index] = arg
    plan.source_keys[key] = index
  end
  return index
end

-- One input of a node: { const= } | { source=index, dtype= } | { node=id }.
local function resolve(plan, arg, own)
  local given = arg.node and plan.given[arg.node]
  if given then arg = given elseif own and arg.base and plan.view then arg = plan.view(arg) end
  if arg.const or arg.node then return arg end
  return { source = source_index(plan, arg), dtype = arg.dtype }
end

local function is_float(dtype) return dtype == "f32" or dtype == "f64" end

-- "vector" when node `id` and all it reads are floats of one type; else "scalar".
local function kind_of(plan, id, inputs)
  local graph, dtype = plan.k.graph, plan.k.graph:dtype(id)
  if not is_float(dtype) then return "scalar" end
  for _, arg in ipairs(inputs) do
    local from = arg.dtype or (arg.node and graph:dtype(arg.node)) or dtype
    if from ~= dtype then return "scalar" end
  end
  return "vector"
end

-- Random draws depend on no value, so they come first and cut no vector stage in two.
local function add_stage(plan, kind, id)
  local last, dtype = plan.stages[#plan.stages], plan.k.graph:dtype(id)
  if kind == "random" then
    table.insert(plan.stages, 1, { kind = kind, dtype = dtype, nodes = { id } })
    return
  end
  if not (last and kind == "vector" and last.kind == "vector" and last.dtype == dtype) then
    last = { kind = kind, dtype = dtype, nodes = {} }
    plan.stages[#plan.stages + 1] = last
  end
  last.nodes[#last.nodes + 1] = id
  plan.stage_of[id] = last
end

-- Marks computed values that a later stage reads.
local function find_crossings(plan)
  for id, inputs in pairs(plan.inputs) do
    for _, arg in ipairs(inputs) do
      if arg.node and plan.stage_of[arg.node] ~= plan.stage_of[id] then plan.crosses[arg.node] = true end
    end
  end
end

local function count_buffers(plan)
  local count = 0
  for _, id in ipairs(plan.nodes) do
    if plan.crosses[id] and not plan.stored[id] then count = count + 1 end
    if plan.random[id] then count = count + 2 end
  end
  return count
end

--- The stages, sources and buffers of a chain; plan.piece is the longest run it takes, nil = any.
function M.plan(k, spec)
  local plan = {
    k = k, nodes = spec.nodes, given = spec.given or {}, custom = spec.custom or {},
    sources = {}, source_keys = {}, stages = {}, inputs = {}, stage_of = {},
    crosses = {}, random = {}, stored = {}, view = spec.view,
  }
  for _, id in ipairs(spec.stores) do plan.stored[id] = true end
  for _, id in ipairs(spec.nodes) do
    local inputs = {}
    local custom = plan.custom[id]
    for i, arg in ipairs(custom and custom.inputs or k.group.args[id]) do
      inputs[i] = resolve(plan, arg, not custom)
    end
    plan.inputs[id] = inputs
    if not custom and nodes.random[k.graph:op(id)] then
      plan.random[id] = true
      add_stage(plan, "random", id)
    end
    add_stage(plan, kind_of(plan, id, inputs), id)
  end
  find_crossings(plan)
  local buffers = count_buffers(plan)
  if buffers > 0 then
    local most = math.floor(BUFFERS / (8 * buffers)) -- elements of 8 bytes
    plan.piece = math.max(8, math.min(LONGEST, most))
  end
  plan.simple = #plan.stages == 0 or #plan.stages == 1 and plan.stages[1].kind == "vector"
  return plan
end

--- Source i of the plan as an operand of k:walk.
function M.operand(k, plan, i)
  local arg = plan.sources[i]
  return { at = arg.at or k:read(arg), offset = arg.offset, minus = arg.minus, strides = arg.strides,
           bytes = k:bytes(arg.dtype) }
end

--- Walks elements start .. start + n - 1 of `space` and evaluates the chain there.
function M.eval(k, space, start, n, spec)
  local plan = M.plan(k, spec)
  local operands, out = {}, spec.out or { strides = k:contiguous(space) }
  for i in ipairs(plan.sources) do operands[i] = M.operand(k, plan, i) end
  for _, id in ipairs(spec.stores) do
    operands[#operands + 1] = { at = k:write(id), offset = out.offset, strides = out.strides,
                                bytes = k:bytes(k.graph:dtype(id)) }
  end
  local random = next(plan.random) ~= nil
  if random then
    operands[#operands + 1] = { index = true, offset = out.offset, strides = out.strides }
  end
  k:walk{ extents = space, start = start, n = n, piece = plan.piece, operands = operands, body = function(w)
    local stores = {}
    for i, id in ipairs(spec.stores) do
      local target = w[#plan.sources + i]
      stores[id] = { ptr = target.ptr, step = target.step, dtype = k.graph:dtype(id) }
    end
    if random then
      local index = w[#operands]
      w.pos, w.pos_step = index.ptr, k:dim(index.step)
    end
    stages.run(plan, w, stores)
  end }
end

-- The anchor's value: the raw one, with options.plus added to it.
local function anchor_of(raw, plus)
  local inputs = { raw, plus }
  return { inputs = inputs, compute = plus and function(b, x, y) return b:add(x, y) end }
end

--- The chain of the group's epilogue, and the source in it that stands for the raw values. options: see k:epilogue.
function M.epilogue_spec(k, options)
  local group = k.group
  local spec = { nodes = {}, stores = {}, given = {}, custom = {} }
  local raw = { at = options.from, strides = k:contiguous(group.space), minus = options.start,
                dtype = k.graph:dtype(group.anchor) }
  if not options.from then
    if not k.stored then
      error("recipe " .. group.kind .. ": the anchor is no output, so k:epilogue needs `from`", 3)
    end
    raw.at, raw.minus = k:write(group.anchor), nil
  end
  if options.from and (k.stored or options.plus) then
    spec.nodes[1] = group.anchor
    spec.custom[group.anchor] = anchor_of(raw, options.plus)
  else
    spec.given[group.anchor] = raw
  end
  for _, id in ipairs(group.epilogue or {}) do spec.nodes[#spec.nodes + 1] = id end
  for _, id in ipairs(group.outputs) do
    if options.from or id ~= group.anchor then spec.stores[#spec.stores + 1] = id end
  end
  return spec, raw
end

--- See k:epilogue in emit_writer.lua.
function M.epilogue(k, options)
  local spec = M.epilogue_spec(k, options)
  if #spec.nodes > 0 then M.eval(k, k.group.space, options.start, options.n, spec) end
end

return M
