--- Recognises groups that differ in nothing but node ids, so that a recipe runs once for all of them: the layers of a
-- transformer, say. Used by emit.lua.
-- Invariant: a fingerprint holds everything a recipe may look at (ops, attributes, dtypes, dims, strides, constants, who feeds
-- whom), with ids as numbers in order of first appearance; equal fingerprints give equal functions.

local M = {}

local function text_of(value)
  if type(value) == "table" then
    local parts = {}
    for i, v in ipairs(value) do parts[i] = text_of(v) end
    return "{" .. table.concat(parts, ",") .. "}"
  end
  return type(value) == "number" and ("%.17g"):format(value) or tostring(value)
end

local function attributes(graph, id)
  local parts = {}
  for name, value in pairs(graph:attrs(id)) do parts[#parts + 1] = name .. "=" .. text_of(value) end
  table.sort(parts)
  return table.concat(parts, " ")
end

--- Nodes of a group in evaluation order.
function M.nodes(group)
  local ids = {}
  for _, list in ipairs { group.prologue or {}, { group.anchor }, group.epilogue or {} } do
    for _, id in ipairs(list) do ids[#ids + 1] = id end
  end
  return ids
end

--- The fingerprint, and the ids it numbers: ids[number] = node id.
function M.fingerprint(graph, group)
  local numbers, ids, parts = {}, {}, { group.kind, text_of(group.space) }
  local function put(...)
    for _, part in ipairs { ... } do parts[#parts + 1] = part end
  end
  local function number(id)
    if not numbers[id] then
      ids[#ids + 1] = id
      numbers[id] = #ids
    end
    return numbers[id]
  end
  for _, id in ipairs(M.nodes(group)) do
    put(id == group.anchor and "anchor" or "node", number(id), graph:op(id), graph:dtype(id),
      text_of(graph:shape(id)), attributes(graph, id))
    for _, input in ipairs(graph:inputs(id)) do
      put("of", graph:dtype(input), text_of(graph:shape(input)))
    end
    for _, arg in ipairs(group.args[id]) do
      if arg.const then put("const", text_of(arg.const), arg.dtype)
      elseif arg.node then put("value", number(arg.node))
      else put("base", number(arg.base), arg.offset, text_of(arg.strides), arg.dtype) end
    end
  end
  for _, id in ipairs(group.outputs) do put("out", number(id)) end
  return table.concat(parts, " "), ids
end

--- Steps of a group with fingerprint ids `from` as steps of an equal group with ids `to`.
function M.renamed(steps, from, to)
  local new, list = {}, {}
  for i, id in ipairs(from) do new[id] = to[i] end
  for i, step in ipairs(steps) do
    local copy, operands = {}, {}
    for key, value in pairs(step) do copy[key] = value end
    for o, operand in ipairs(step.operands) do
      operands[o] = operand.value and { value = new[operand.value], write = operand.write } or operand
    end
    copy.operands = operands
    list[i] = copy
  end
  return list
end

return M
