--- Writes one benchmark case for processes that know nothing of Esper: graph.json with every shape as numbers, NAME.npy per
-- leaf, and Esper's results as want.NAME.npy. Read by bench/peers/model.py. Used by bench/compare.lua.
--   export.case(side of esper that has run, directory)      see lua/esper/bench/sides.lua
local json = require "esper.json"
local native = require "esper.native"

local M = {}

local function node_of(graph, id, all)
  local node = { id = id, op = graph:op(id), dtype = graph:dtype(id), name = graph:label(id) or "", inputs = json.array {},
    shape = json.array {}, attrs = {} }
  for k, from in ipairs(graph:inputs(id)) do node.inputs[k] = from end
  for k, d in ipairs(graph:shape(id)) do node.shape[k] = all[d] end
  for name, value in pairs(graph:attrs(id)) do
    local kind = native.opinfo[node.op].attr[name] and native.opinfo[node.op].attr[name].type
    if kind == "d" then value = all[value] end
    if kind == "D" then
      local list = json.array {}
      for k, d in ipairs(value) do list[k] = all[d] end
      value = list
    end
    node.attrs[name] = type(value) == "table" and json.array(value) or value
  end
  return node
end

function M.case(side, directory)
  local graph, nodes, roots = side.graph, json.array {}, json.array {}
  local all = assert(graph:dims():eval(side.values))
  for id = 0, graph:count() - 1 do nodes[id + 1] = node_of(graph, id, all) end
  for i, root in ipairs(graph:roots()) do roots[i] = { name = root.name, node = root.node, kind = root.kind } end
  local file = assert(io.open(directory .. "/graph.json", "wb"))
  file:write(json.encode { name = side.case.name, mode = side.compiled.mode, nodes = nodes, roots = roots })
  file:close()
  for _, leaf in pairs(side.data) do assert(leaf.tensor:save(("%s/leaf.%d.npy"):format(directory, leaf.id))) end
  for name, t in pairs(side.results()) do
    local output = name:match "^output (.*)$"
    if output then assert(t:save(("%s/want.%s.npy"):format(directory, output))) end
  end
end

return M
