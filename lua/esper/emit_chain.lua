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
-- A chain is one vector block when all its nodes are of one type that vectors hold, as the nodes of a group are; else it
-- is a single cast or copy, and a plain C loop (emit_scalar.lua).
-- Invariant: all that is read of an element is read before that element is stored.

local nodes = require "esper.vecmath_nodes"
local stages = require "esper.emit_stage"

local M = {}

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

local FLOAT = { f32 = true, f64 = true }
local WHOLE = { i32 = true, i64 = true } -- vectors move these, and nothing else

-- "vector" when node `id` and all it reads are of one type that vectors hold, or when it casts within one width; else
-- "scalar". And the type of its block.
local function kind_of(plan, id, inputs)
  local graph, dtype = plan.k.graph, plan.k.graph:dtype(id)
  local custom = plan.custom[id]
  local moves = custom and not custom.compute or not custom and nodes.copies[graph:op(id)]
  if not custom and nodes.casts(graph, id) then return "vector", "f32" end
  if not (FLOAT[dtype] or WHOLE[dtype] and moves) then return "scalar" end
  for _, arg in ipairs(inputs) do
    local from = arg.dtype or (arg.node and graph:dtype(arg.node)) or dtype
    if from ~= dtype or arg.const and WHOLE[dtype] then return "scalar" end
  end
  return "vector", dtype
end

local function add_node(plan, id, kind, dtype)
  local stage = plan.stages[1]
  if not stage then
    stage = { kind = kind, dtype = dtype, nodes = {} }
    plan.stages[1] = stage
  end
  assert(stage.kind == kind and stage.dtype == dtype and (kind == "vector" or #stage.nodes == 0), "a chain is of one type")
  stage.nodes[#stage.nodes + 1] = id
end

--- The sources and the stage (none without nodes) of a chain. plan.random[id]: how many uniform numbers node id draws.
function M.plan(k, spec)
  local plan = {
    k = k, nodes = spec.nodes, given = spec.given or {}, custom = spec.custom or {}, view = spec.view,
    sources = {}, source_keys = {}, stages = {}, inputs = {}, random = {},
  }
  for _, id in ipairs(spec.nodes) do
    local inputs, custom = {}, plan.custom[id]
    for i, arg in ipairs(custom and custom.inputs or k.group.args[id]) do
      inputs[i] = resolve(plan, arg, not custom)
    end
    plan.inputs[id] = inputs
    if not custom then plan.random[id] = nodes.random[k.graph:op(id)] end
    add_node(plan, id, kind_of(plan, id, inputs))
  end
  plan.simple = next(plan.random) == nil and (#plan.stages == 0 or plan.stages[1].kind == "vector")
  return plan
end

--- Source i of the plan as an operand of k:walk.
function M.operand(k, plan, i)
  local arg = plan.sources[i]
  return { at = arg.at or k:read(arg), offset = arg.offset, minus = arg.minus, strides = arg.strides,
           bytes = k:bytes(arg.dtype) }
end

--- Walks elements start .. start + n - 1 of `space` and evaluates the chain there. spec.unit: start and n are multiples of
-- it (1 when left out). spec.far: a C flag for stores past the caches; start then lies on the bounds of vectors.
function M.eval(k, space, start, n, spec)
  local plan = M.plan(k, spec)
  local operands, out = {}, spec.out or { strides = k:contiguous(space) }
  for i in ipairs(plan.sources) do operands[i] = M.operand(k, plan, i) end
  for _, id in ipairs(spec.stores) do
    operands[#operands + 1] = { at = k:write(id), offset = out.offset, strides = out.strides,
                                bytes = k:bytes(k.graph:dtype(id)) }
  end
  if next(plan.random) then operands[#operands + 1] = { index = true, offset = out.offset, strides = out.strides } end
  local vector = plan.stages[1].kind == "vector"
  local unit = spec.unit or 1
  k:walk{ extents = space, start = start, n = n, operands = operands, rows = vector, unit = unit, body = function(w)
    stages.run(plan, w, spec.stores, vector and not w.rows and unit % k:lanes(plan.stages[1].dtype) == 0, spec.far)
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
