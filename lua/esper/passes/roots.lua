--- Roots: gives every output and update a node of its own that is computed, and every anchor operands in memory.
-- Last of the passes: an output that is an input, or two outputs that are one node, would share storage the caller
-- thinks is separate; a reshape to the same shape, which grouping turns into a copy, keeps them apart.
local facts = require "esper.facts"

local function identity(b, x)
  return b:add { op = "reshape", inputs = { x }, attrs = { shape = b.graph:shape(x) } }
end

-- An anchor that reads a bare constant reads a written-out copy of it.
local function rule(b, id)
  if not facts.kind_of[b.op[id]] then return nil end
  local g, inputs, changed = b.graph, {}, false
  for k = 1, b.src:node(id).nin do
    inputs[k] = b:input(id, k)
    if g:op(inputs[k]) == "const" then inputs[k], changed = identity(b, inputs[k]), true end
  end
  return changed and b:add { op = b.src:op(id), inputs = inputs, attrs = b.src:attrs(id) } or nil
end

-- Root nodes that need a copy, by root index.
local function shared(src)
  local seen, list, any = {}, {}, false
  for i, root in ipairs(src:roots()) do
    list[i] = facts.leaf[src:op(root.node)] or seen[root.node] or false
    any = any or list[i]
    seen[root.node] = true
  end
  return any and list
end

return {
  name = "roots", version = 1,
  doc = "every output and update is a computed node of its own",
  run = function(src, ctx)
    return ctx:rebuild(src, rule, function(b, list)
      local copies = shared(src)
      if not copies then return 0 end
      local count = 0
      for i, root in ipairs(list) do
        if copies[i] then root.new, count = identity(b, root.new), count + 1 end
      end
      return count
    end)
  end,
}
