--- Common subexpressions: nodes with the same op, attributes, dtype and inputs are computed once. After the rewriting
-- passes. Random ops differ by their stream, so two of them are one only when they would draw the same numbers; probes
-- are kept apart, each is observed under its own name.
local look = require "esper.passes.look"

local keep = { input = true, param = true, buffer = true, telemetry_probe = true }
local commutes = { add = true, mul = true, maximum = true, minimum = true }

-- Text that is equal exactly for equal nodes (inputs named by their new ids).
local function key_of(b, id, op)
  local node = b.src:node(id)
  local parts = { op, node.dtype }
  for k = 0, node.nin - 1 do parts[k + 3] = b.to[node["in"][k]] end
  if commutes[op] and parts[4] < parts[3] then parts[3], parts[4] = parts[4], parts[3] end
  parts[#parts + 1] = look.attributes(node)
  return table.concat(parts, " ")
end

return {
  name = "cse", version = 1,
  doc = "equal nodes are computed once",
  run = function(src, ctx)
    local seen = {}
    return ctx:rebuild(src, function(b, id)
      local op = b.op[id]
      if keep[op] then return nil end
      local key = key_of(b, id, op)
      if seen[key] then return seen[key] end
      local new = b:copy(id)
      seen[key] = new
      return new, true
    end)
  end,
}
