--- Finished groups: what of a group is stored, where each operand is read, and the check that they run in order.
-- And what of it may be kept from run to run. Used by group.lua; the form is in docs/architecture.md.
local facts = require "esper.facts"
local views = require "esper.views"
local M = {}

local vector_axis = { -- inputs (from this one on) that are vectors along one axis of the node
  bias_add = function(f, id) return 2, f.graph:attr(id, "axis") + 1 end,
  batch_norm = function() return 2, 2 end,
}

-- Strides of input i of a pointwise node in its iteration space.
local function in_space(f, id, i, at, shape)
  local from, axis
  if vector_axis[f.op[id]] then from, axis = vector_axis[f.op[id]](f, id) end
  if not from or i < from then return views.broadcast(f.D, shape, at.strides, f.shape[id]) end
  local strides = {}
  for k = 1, #f.shape[id] do strides[k] = k == axis and at.strides[1] or f.D:const(0) end
  return strides
end

local function arg_of(at, strides)
  if at.const then return { const = at.const, dtype = at.dtype } end
  return { base = at.base, offset = at.offset, strides = strides, dtype = at.dtype }
end

local function args_of(b, group, id)
  local f, v, out = b.f, b.v, {}
  local function add(i, at, shape)
    local operand = not at.const and b.home[at.base] == group
    if operand then
      out[i] = { node = at.base }
    elseif at.const or id == group.anchor then
      out[i] = arg_of(at, at.strides)
    else
      out[i] = arg_of(at, in_space(f, id, i, at, shape))
    end
  end
  if v.copies[id] then
    add(1, v.copies[id], f.shape[id])
  else
    for i, input in ipairs(f.ins[id]) do add(i, v.at[input], f.shape[input]) end
  end
  return out
end

local function numeric(a, b) return a < b end

--- The group as recipes get it. b: the builder with facts f, views v, home[id] = group, readers[id], wanted[id].
function M.finish(b, group)
  local f = b.f
  local out = { kind = group.kind, anchor = group.anchor, prologue = group.prologue, epilogue = {}, outputs = {},
    args = {}, layout = b.v.layout[group.anchor] }
  table.sort(group.nodes, numeric)
  for _, id in ipairs(group.nodes) do
    if id ~= group.anchor then out.epilogue[#out.epilogue + 1] = id end
    out.space = f.shape[id]
    local stored = b.wanted[id]
    for _, reader in ipairs(b.readers[id] or {}) do stored = stored or b.home[reader] ~= group end
    if stored then out.outputs[#out.outputs + 1] = id end
    out.args[id] = args_of(b, group, id)
  end
  for _, id in ipairs(group.prologue) do out.args[id] = args_of(b, group, id) end
  return out
end

--- Replays the groups: every operand read must be stored before, every root stored once. true | nil, message.
function M.verify(result)
  local f, ready = result.facts, {}
  for id = 0, f.n - 1 do ready[id] = facts.leaf[f.op[id]] or nil end
  for n, group in ipairs(result.groups) do
    local inside = {}
    local function check(id)
      for i, arg in ipairs(group.args[id]) do
        if arg.base and not ready[arg.base] or arg.node and not inside[arg.node] then
          return nil, ("group %d (%s): input %d of %%%d %s reads %%%d, which nothing stored before")
            :format(n, group.kind, i, id, f.op[id], arg.base or arg.node)
        end
      end
      inside[id] = true
      return true
    end
    for _, list in ipairs { group.prologue, { group.anchor }, group.epilogue } do
      for _, id in ipairs(list) do
        local ok, why = check(id)
        if not ok then return nil, why end
      end
    end
    if group.layout and (#group.outputs ~= 1 or group.outputs[1] ~= group.anchor) then
      return nil, ("group %d (%s) has a layout, but stores more than its anchor"):format(n, group.kind)
    end
    for _, id in ipairs(group.outputs) do
      if ready[id] then return nil, ("group %d stores %%%d a second time"):format(n, id) end
      ready[id] = true
    end
  end
  for _, root in ipairs(f.roots) do
    if not ready[result.views.at[root.node].base] then return nil, ("root '%s' is never stored"):format(root.name) end
  end
  return true
end

-- Does a group compute fixed values alone (facts.fixed), of operands that are kept, and store no output of the kernel?
local function keeps(group, values, kept, root)
  for id, args in pairs(group.args) do
    if not values[id] then return false end
    for _, arg in ipairs(args) do
      if arg.base and not kept[arg.base] then return false end
    end
  end
  for _, id in ipairs(group.outputs) do
    if root[id] then return false end
  end
  return true
end

--- { [id] = true } for parameters, buffers and what groups compute from them alone: what a kernel for inference may keep while
-- they are frozen. A value that shares its group with others, or is an output of the kernel, lies where it cannot stay.
function M.fixed(result)
  local f, kept, root = result.facts, {}, {}
  local values = facts.fixed(f)
  for id = 0, f.n - 1 do kept[id] = facts.leaf[f.op[id]] and values[id] or nil end
  for _, r in ipairs(f.roots) do root[result.views.at[r.node].base] = true end
  for _, group in ipairs(result.groups) do
    if keeps(group, values, kept, root) then
      for id in pairs(group.args) do kept[id] = true end
    end
  end
  return kept
end

return M
