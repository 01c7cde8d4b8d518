--- Chains of pointwise nodes over runs of a space: every node of a stage lives in registers of one vector block.
-- Used by emit.lua (k:epilogue), emit_fold.lua and the recipes.
--
-- A chain is given as
--   nodes   { id, ... } in evaluation order
--   custom  { [id] = { inputs = { arg, ... }, compute = fn(b, values...) -> register } }   a node computed by the recipe
--   given   { [id] = arg }        a value that is in memory already
--   stores  { id, ... }           what is written to the group's outputs
--   out     { offset=, strides= } where in the outputs the space lies; nil: the space is the whole output, row-major
--   view    fn(arg) -> arg        how the space differs from group.space: applied to the group's own args; nil: not at all
-- with args as in architecture.md, or local ones: { at = char * expression, strides = dims of the space, minus = C
-- expression subtracted from the element offset or nil, dtype = }.
-- Nodes are cut into stages: a run of float nodes of one type is one vector block; casts, integer nodes and random draws are
-- plain C loops (emit_scalar.lua). Values that cross stages pass through stack buffers, so runs are short then.
-- Invariant: one stage reads all it needs of an element before it stores that element.

local nodes = require "esper.vecnode"
local scalar = require "esper.emit_scalar"

local M = {}
local Plan = {}
Plan.__index = Plan

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
  local plan = setmetatable({
    k = k, nodes = spec.nodes, given = spec.given or {}, custom = spec.custom or {},
    sources = {}, source_keys = {}, stages = {}, inputs = {}, stage_of = {},
    crosses = {}, random = {}, stored = {}, view = spec.view,
  }, Plan)
  for _, id in ipairs(spec.stores) do plan.stored[id] = true end
  for _, id in ipairs(spec.nodes) do
    local inputs = {}
    local custom = plan.custom[id]
    for i, arg in ipairs(custom and custom.inputs or k.group.args[id]) do inputs[i] = resolve(plan, arg, not custom) end
    plan.inputs[id] = inputs
    if not custom and nodes.random[k.graph:op(id)] then
      plan.random[id] = true
      add_stage(plan, "random", id)
    end
    add_stage(plan, kind_of(plan, id, inputs), id)
  end
  find_crossings(plan)
  local buffers = count_buffers(plan)
  if buffers > 0 then plan.piece = math.max(8, math.min(LONGEST, math.floor(BUFFERS / (8 * buffers) / 8) * 8)) end
  plan.simple = #plan.stages == 0 or #plan.stages == 1 and plan.stages[1].kind == "vector"
  return plan
end

-- ---- reading operands inside a block ----

--- Words of a call for operands { ptr=, step=dim, dtype= }: addresses, and byte strides where neither 0 nor 1.
function M.words(k, operands, words)
  for _, operand in ipairs(operands) do
    words[#words + 1] = operand.ptr
    local step = k.dims:value(operand.step)
    if step ~= 0 and step ~= 1 then
      words[#words + 1] = ("%s * %dL"):format(k:dim(operand.step), k:bytes(operand.dtype))
    end
  end
  return words
end

--- The same operands inside block b, from word `first` on: { ptr=, step=nil|g, fixed=bool, advance= }, next word.
function M.bind(k, b, operands, first)
  local bound = {}
  for i, operand in ipairs(operands) do
    local step, ptr = k.dims:value(operand.step), b:arg(first)
    first = first + 1
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

--- Computes the nodes of a vector stage; fetch(input) gives the register of an input that is not a node of the stage.
-- Returns { [id] = register }.
function Plan:compute(b, stage, fetch)
  local k, value = self.k, {}
  for _, id in ipairs(stage.nodes) do
    local regs = {}
    for i, arg in ipairs(self.inputs[id]) do
      regs[i] = arg.const and b:splat(arg.const) or arg.node and value[arg.node] or fetch(arg)
    end
    k:note(b, id)
    local custom = self.custom[id]
    if custom then
      value[id] = custom.compute and custom.compute(b, unpack(regs)) or regs[1]
    else
      if self.random[id] then
        regs[#regs + 1], regs[#regs + 2] = fetch({ random = id, part = 1 }), fetch({ random = id, part = 2 })
      end
      value[id] = nodes.node(b, k.graph, id, regs)
    end
  end
  return value
end

-- ---- running a chain over one run ----

-- What stage nodes read from memory, each once, in order: { { key=, arg= }, ... }.
local function memory_inputs(plan, stage)
  local list, seen = {}, {}
  local function need(arg, key)
    if not seen[key] then
      seen[key] = #list + 1
      list[#list + 1] = arg
    end
  end
  for _, id in ipairs(stage.nodes) do
    for _, arg in ipairs(plan.inputs[id]) do
      if arg.source then need(arg, "s" .. arg.source) end
      if arg.node and plan.stage_of[arg.node] ~= stage then need(arg, "n" .. arg.node) end
    end
    if plan.random[id] then
      for part = 1, nodes.random[plan.k.graph:op(id)] do
        need({ random = id, part = part }, "r" .. id .. ":" .. part)
      end
    end
  end
  return list, seen
end

local function input_key(arg)
  return arg.source and "s" .. arg.source or arg.node and "n" .. arg.node or "r" .. arg.random .. ":" .. arg.part
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
      local value = plan:compute(b, stage, function(arg)
        local i = seen[input_key(arg)]
        if not i then return nil end -- a second random number that the op does not draw
        loaded[i] = hoisted[i] or loaded[i] or M.load(b, bound[i], mask)
        return loaded[i]
      end)
      for i, id in ipairs(outputs) do M.store(b, out[i], value[id], mask) end
    end)
  end, stage.dtype), words)
end

local function run_scalar(plan, stage, run)
  local id = stage.nodes[1]
  local operands = {}
  for i, arg in ipairs(plan.inputs[id]) do
    operands[i] = arg.const and { const = arg.const } or located(plan, run, arg)
  end
  scalar.node(plan.k, id, operands, plan.place[id], run.n, plan.custom[id] ~= nil)
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

--- Emits the chain for one run: run.n elements; run[i] = { ptr=, step= } of source i; run.pos, run.pos_step = linear
-- index in the output of the first element and its step (C expressions), for random nodes; stores[id] = { ptr=, step=, dtype= }.
function Plan:run(run, stores)
  local k = self.k
  self.place = {}
  for _, id in ipairs(self.nodes) do
    self.place[id] = stores[id] or self.crosses[id] and buffer(self, id) or nil
    for part = 1, self.random[id] and nodes.random[k.graph:op(id)] or 0 do
      self.place[id .. ":" .. part] = buffer(self, id)
    end
  end
  for _, stage in ipairs(self.stages) do RUN[stage.kind](self, stage, run) end
end

--- Source i of the plan as an operand of k:walk.
function Plan:operand(i)
  local arg = self.sources[i]
  return { at = arg.at or self.k:read(arg), offset = arg.offset, minus = arg.minus, strides = arg.strides,
           bytes = self.k:bytes(arg.dtype) }
end

--- Walks elements start .. start + n - 1 of `space` and evaluates the chain there.
function M.eval(k, space, start, n, spec)
  local plan = M.plan(k, spec)
  local operands, out = {}, spec.out or { strides = k:contiguous(space) }
  for i in ipairs(plan.sources) do operands[i] = plan:operand(i) end
  for _, id in ipairs(spec.stores) do
    operands[#operands + 1] = { at = k:write(id), offset = out.offset, strides = out.strides,
                                bytes = k:bytes(k.graph:dtype(id)) }
  end
  local random = next(plan.random) ~= nil
  if random then operands[#operands + 1] = { index = true, offset = out.offset, strides = out.strides } end
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
    plan:run(w, stores)
  end }
end

--- See k:epilogue in emit.lua.
function M.epilogue(k, options)
  local group = k.group
  local spec = { nodes = {}, stores = {}, given = {}, custom = {} }
  local raw = { at = options.from, strides = k:contiguous(group.space), minus = options.start,
                dtype = k.graph:dtype(group.anchor) }
  if not options.from then
    if not k.stored then error("recipe " .. group.kind .. ": the anchor is no output, epilogue needs `from`", 2) end
    raw.at, raw.minus = k:write(group.anchor), nil
  end
  if options.from and k.stored then
    spec.nodes[1] = group.anchor
    spec.custom[group.anchor] = { inputs = { raw } }
  else
    spec.given[group.anchor] = raw
  end
  for _, id in ipairs(group.epilogue or {}) do spec.nodes[#spec.nodes + 1] = id end
  for _, id in ipairs(group.outputs) do
    if options.from or id ~= group.anchor then spec.stores[#spec.stores + 1] = id end
  end
  if #spec.nodes > 0 then M.eval(k, group.space, options.start, options.n, spec) end
end

return M
