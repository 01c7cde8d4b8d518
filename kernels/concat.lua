--- Recipe: concatenation. Every input is one step that copies it, through the epilogue, to its
-- region of the outputs.
local chain = require "esper.emit_chain"

local TILE = 16384

-- The epilogue's operands are given over the whole output; the region begins `from` elements along
-- `axis`.
local function shifted(D, axis, from)
  return function(arg)
    local moved = {}
    for key, value in pairs(arg) do moved[key] = value end
    moved.offset = D:add(arg.offset, D:mul(from, arg.strides[axis]))
    return moved
  end
end

return {
  name = "concat",
  emit = function(k, group)
    local D, id = k.dims, group.anchor
    local axis, strides = k.graph:attr(id, "axis") + 1, k:contiguous(group.space)
    local from = D:const(0)
    for i, input in ipairs(k.graph:inputs(id)) do
      local shape, arg = k.graph:shape(input), group.args[id][i]
      local spec = {
        nodes = {}, stores = group.outputs, given = {}, custom = {},
        view = shifted(D, axis, from), out = { offset = D:mul(from, strides[axis]), strides = strides },
      }
      if k.stored then
        spec.nodes[1], spec.custom[id] = id, { inputs = { arg } }
      else
        spec.given[id] = arg
      end
      for _, node in ipairs(group.epilogue) do spec.nodes[#spec.nodes + 1] = node end
      local count = k:product(shape)
      k:step{ tiles = k:ceildiv(count, TILE), label = "input " .. i }
      k:tiles(function(t)
        local start, n = k:range(t, TILE, count)
        chain.eval(k, shape, start, n, spec)
      end)
      from = D:add(from, shape[axis])
    end
  end,
}
