--- Runs the recipes, once for groups that differ only in which nodes they are: the layers of a transformer cost what one
-- costs. Between compile.lua and emit.lua.
-- Invariant: two groups share when everything a recipe can ask about them is equal: kind, ops, attributes, dtypes, shapes
-- of nodes and inputs, strides and offsets of operands, which operands are the same value, what is stored. Then the
-- functions are equal too, and the steps are the earlier ones with the values, streams and labels of this group.
local look = require "esper.passes.look"
local native = require "esper.native"
local tuning = require "esper.tuning"
local M = {}

local Reuse = {}
Reuse.__index = Reuse

function M.new(unit, facts) return setmetatable({ unit = unit, f = facts, known = {} }, Reuse) end

local function nodes_of(group)
  local list = {}
  for _, id in ipairs(group.prologue) do list[#list + 1] = id end
  list[#list + 1] = group.anchor
  for _, id in ipairs(group.epilogue) do list[#list + 1] = id end
  return list
end

-- Text of everything about the group but its names; the ids in the order they are met; streams in node order.
local function signature(f, group, fixed)
  local parts, ids, number, streams = { group.kind, group.anchor and #group.prologue + 1 or 0 }, {}, {}, {}
  local function put(x) parts[#parts + 1] = x end
  local function name(id)
    if not number[id] then
      ids[#ids + 1] = id
      number[id] = #ids
    end
    return number[id]
  end
  for _, id in ipairs(nodes_of(group)) do name(id) end
  for _, id in ipairs(nodes_of(group)) do
    local node = f.graph:node(id)
    local stream = native.opinfo[f.op[id]].attr.stream
    if stream then streams[#streams + 1] = tonumber(node.i[stream.slot]) end
    put(f.op[id]) put(f.dtype[id]) put(f.key[id])
    put(look.attributes(node, stream and stream.slot))
    for i, input in ipairs(f.ins[id]) do
      put("in") put(f.dtype[input]) put(f.key[input])
      local arg = group.args[id][i]
      if arg and arg.node then
        put(name(arg.node))
      elseif arg and arg.const then
        put(("const %.17g"):format(arg.const))
      elseif arg then
        put("base") put(name(arg.base)) put(fixed[arg.base] and "fixed" or f.op[arg.base])
        put(arg.offset) put(table.concat(arg.strides, ","))
      end
    end
  end
  for _, id in ipairs(group.outputs) do put("out" .. number[id]) end
  if group.layout then put("layout " .. table.concat(group.layout, ",")) end
  return table.concat(parts, " "), ids, streams
end

local function mapped(from, to)
  local map = {}
  for i = 1, #from do
    if map[from[i]] ~= nil and map[from[i]] ~= to[i] then return nil end
    map[from[i]] = to[i]
  end
  return map
end

-- Tells the unit that one more group runs this function, for the comment above it.
local function credit(unit, fn, label)
  for _, entry in ipairs(unit.fns) do
    if entry.name == fn then entry.labels[#entry.labels + 1] = label end
  end
end

local function renamed(unit, step, ids, streams)
  local out = { fn = step.fn, tiles = step.tiles, when = step.when, joins = step.joins, dims = step.dims, operands = {}, streams = {} }
  out.label = step.label:gsub("%%(%d+)", function(id) return "%" .. (ids[tonumber(id)] or id) end)
  for i, operand in ipairs(step.operands) do
    out.operands[i] = operand.temp and operand or { value = ids[operand.value], write = operand.write }
  end
  for i, stream in ipairs(step.streams) do out.streams[i] = streams[stream] end
  credit(unit, step.fn, out.label)
  return out
end

--- Steps and temporaries of a group, as unit:group gives them, and its signature: what tuned choices are kept under.
function Reuse:group(group)
  local key, ids, streams = signature(self.f, group, self.unit.fixed)
  local first = self.known[key]
  local to, stream_to
  if first then to, stream_to = mapped(first.ids, ids), mapped(first.streams, streams) end
  if not (to and stream_to) then
    local present = tuning.digest(key)
    self.unit.present = present
    local steps, temps = self.unit:group(group)
    self.known[key] = first or { ids = ids, streams = streams, steps = steps, temps = temps, signature = present }
    return steps, temps, present
  end
  local steps = {}
  for i, step in ipairs(first.steps) do steps[i] = renamed(self.unit, step, to, stream_to) end
  return steps, first.temps, first.signature
end

return M
