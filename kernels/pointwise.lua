--- Recipe: groups of pointwise nodes only, copies and casts included. One pass over the space, all
-- values in registers.
local chain = require "esper.emit_chain"

local TILE = 16384 -- elements of a tile: some 64 KiB an operand, small beside a second-level cache

return {
  name = "pointwise",
  emit = function(k, group)
    local count = k:product(group.space)
    k:step{ tiles = k:ceildiv(count, TILE) }
    k:tiles(function(t)
      local start, n = k:range(t, TILE, count)
      chain.eval(k, group.space, start, n, { nodes = group.epilogue, stores = group.outputs })
    end)
  end,
}
