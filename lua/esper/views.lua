--- Views: values read in place through an offset and strides instead of being copied.
-- Between the passes and grouping. For every live node `views.of` finds where its elements lie: in storage of its own
-- ("real"), or in the storage of an earlier node, element (i0, i1, ...) at base[offset + sum i_k * strides[k]].
-- Invariant: a view's base is a leaf or a real node with a smaller id, never another view.
--
--   v = views.of(facts)
--   v.at[id]      { base=, offset=dim, strides={dim...}, dtype=, whole=bool } or { const=number, dtype= }
--                 whole: exactly the base's elements, in the order of memory (only the shape may differ)
--   v.copies[id]  the same for a view node that must be copied into storage of its own (it is real; at[id] is itself)
--   v.alias[id]   base whose bytes are exactly this node's: the whole views
--   v.layout[id]  strides in which a real node is stored when these are not row-major: those of at[id], which is not whole then
local facts = require "esper.facts"
local M = {}

--- Row-major strides of a shape.
function M.contiguous(D, shape)
  local strides, step = {}, D:const(1)
  for i = #shape, 1, -1 do
    strides[i] = step
    if i > 1 then step = D:mul(step, shape[i]) end
  end
  return strides
end

local function is_contiguous(D, shape, strides, row_major)
  for i = 1, #shape do
    if strides[i] ~= row_major[i] and D:value(shape[i]) ~= 1 then return false end
  end
  return true
end

-- The run of old axes ending at `last` that memory walks as one axis: first axis, elements, step of the innermost.
local function chunk_before(D, shape, strides, last)
  local count, step, first = shape[last], strides[last], last
  while first > 1 do
    local above = first - 1
    if D:value(shape[above]) ~= 1 then
      if strides[above] ~= D:mul(count, step) then break end
      count = D:mul(count, shape[above])
    end
    first = above
  end
  return first, count, step
end

--- Strides under a new shape of the same elements in the same order, or nil when no strides can say it. Old axes are
-- cut into runs that memory walks as one; each run must be a product of new axes. Products are compared as dims, so the
-- answer holds for every value of the symbols.
function M.reshape(D, shape, strides, to)
  local out, axis, one = {}, #to, D:const(1)
  local last = #shape
  while last >= 1 do
    if D:value(shape[last]) == 1 then
      last = last - 1
    else
      local first, count, step = chunk_before(D, shape, strides, last)
      local covered = one
      while covered ~= count do
        if axis < 1 then return nil end
        out[axis] = D:mul(step, covered)
        covered = D:mul(covered, to[axis])
        axis = axis - 1
      end
      last = first - 1
    end
  end
  for i = axis, 1, -1 do
    if D:value(to[i]) ~= 1 then return nil end
    out[i] = one
  end
  return out
end

-- How each view op moves offset and strides. in_shape: shape under which `v` stands. nil = cannot be a view.
local move = {}

function move.permute(f, id, v)
  local perm, strides = f.graph:attr(id, "perm"), {}
  for i = 1, #f.shape[id] do strides[i] = v.strides[perm[i] + 1] end
  return v.offset, strides
end

function move.slice(f, id, v)
  local D, graph, strides = f.D, f.graph, {}
  local axis = graph:attr(id, "axis") + 1
  for i = 1, #v.strides do strides[i] = v.strides[i] end
  local offset = D:add(v.offset, D:mul(graph:attr(id, "start"), strides[axis]))
  strides[axis] = D:mul(strides[axis], D:const(graph:attr(id, "step")))
  return offset, strides
end

function move.expand(f, id, v, in_shape)
  return v.offset, M.broadcast(f.D, in_shape, v.strides, f.shape[id])
end

function move.reshape(f, id, v, in_shape)
  local D, to = f.D, f.shape[id]
  if is_contiguous(D, in_shape, v.strides, M.contiguous(D, in_shape)) then return v.offset, M.contiguous(D, to) end
  return v.offset, M.reshape(D, in_shape, v.strides, to)
end

--- Strides of an operand of `shape` in the iteration space `to` (broadcast from the right): 0 where it is repeated.
function M.broadcast(D, shape, strides, to)
  local out, missing = {}, #to - #shape
  for i = 1, #to do
    local k = i - missing
    out[i] = (k >= 1 and shape[k] == to[i]) and strides[k] or D:const(0)
  end
  return out
end

-- Row-major strides of a node's shape, made once per shape.
local function row_major(f, id)
  local key = f.key[id]
  local strides = f.row_major[key]
  if not strides then
    strides = M.contiguous(f.D, f.shape[id])
    f.row_major[key] = strides
  end
  return strides
end

local function own(f, id, layout)
  return { base = id, offset = f.D:const(0), strides = layout or row_major(f, id), dtype = f.dtype[id], whole = not layout }
end

-- Where node id's elements lie if it is not copied. A reshape of elements that no strides can order makes its input real.
local function through(f, v, id)
  local input = f.ins[id][1]
  local from = v.at[input]
  if from.const or facts.identity[f.op[id]] then return from end
  local offset, strides = move[f.op[id]](f, id, from, f.shape[input])
  if not strides then
    M.force(f, v, input)
    from = v.at[input]
    offset, strides = move.reshape(f, id, from, f.shape[input])
  end
  local whole = f:numel(id) == f:numel(from.base) and offset == f.D:const(0)
    and is_contiguous(f.D, f.shape[id], strides, row_major(f, id))
  return { base = from.base, offset = offset, strides = strides, dtype = from.dtype, whole = whole }
end

--- Gives view node `id` storage of its own: a copying group will fill it. Views made before keep reading the old base.
function M.force(f, v, id)
  if v.copies[id] or v.at[id].base == id then return end
  v.copies[id] = v.at[id]
  v.at[id] = own(f, id)
  v.alias[id] = nil
end

-- A root needs bytes nobody else's root has: it keeps the base's when it is the only one to ask, else it is copied.
local function settle_roots(f, v)
  local taken = {}
  for _, root in ipairs(f.roots) do
    local at = v.at[root.node]
    if at.base == root.node then taken[root.node] = true end
  end
  for _, root in ipairs(f.roots) do
    local at = v.at[root.node]
    if at.const or at.base ~= root.node then
      if at.const or not at.whole or taken[at.base] or facts.leaf[f.op[at.base]] then
        M.force(f, v, root.node)
      else
        taken[at.base] = true
      end
    end
  end
end

-- The strides of x under which a permute of it is row-major. nil when these are x's own, or tear its rows apart.
local function order_of(f, permute, x)
  local perm, rows, out = f.graph:attr(permute, "perm"), row_major(f, permute), {}
  for i, stride in ipairs(rows) do out[perm[i] + 1] = stride end
  if perm[#perm] + 1 ~= #perm or is_contiguous(f.D, f.shape[x], out, row_major(f, x)) then return nil end
  return out
end

-- Nodes that are stored in the order of a permute, their only reader: { [id] = strides }. The permute is a whole view then.
local function layouts(f)
  local readers, out = {}, {}
  for _, root in ipairs(f.roots) do readers[root.node] = 1 end
  for id = 0, f.n - 1 do
    for _, input in ipairs(f.live[id] and f.ins[id] or {}) do readers[input] = (readers[input] or 0) + 1 end
  end
  for id = 0, f.n - 1 do
    local x = f.ins[id][1]
    if f.live[id] and f.op[id] == "permute" and facts.any_rows[f.op[x]] and readers[x] == 1 then out[x] = order_of(f, id, x) end
  end
  return out
end

function M.of(f)
  local v = { at = {}, copies = {}, alias = {}, layout = layouts(f) }
  for id = 0, f.n - 1 do
    if f.live[id] then
      local op = f.op[id]
      if op == "const" then
        v.at[id] = { const = f.graph:attr(id, "value"), dtype = f.dtype[id] }
      elseif facts.view[op] or facts.identity[op] then
        v.at[id] = through(f, v, id)
        if v.at[id].whole then v.alias[id] = v.at[id].base end
      else
        v.at[id] = own(f, id, v.layout[id])
      end
    end
  end
  settle_roots(f, v)
  return v
end

return M
