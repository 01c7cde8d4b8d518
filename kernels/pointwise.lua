--- Recipe: groups of pointwise nodes only, copies and casts included. One pass over the space, all
-- values in registers.
local chain = require "esper.emit_chain"
local turn = require "esper.emit_turn"

local TILE = 16384 -- elements of a tile, about: some 64 KiB an operand, small beside a second-level cache

-- The last axes that a tile takes whole, as a number of elements: 1 when the last extent is a symbol or large.
local function whole_rows(k, space)
  local unit = 1
  for axis = #space, 1, -1 do
    local extent = k.dims:value(space[axis])
    if not extent or unit * extent > TILE or extent == 0 then break end
    unit = unit * extent
  end
  return unit
end

return {
  name = "pointwise",
  emit = function(k, group)
    if turn.emit(k, group) then return end
    local count, unit = k:product(group.space), whole_rows(k, group.space)
    local tile = math.floor(TILE / unit) * unit
    k:step{ tiles = k:ceildiv(count, tile) }
    k:tiles(function(t)
      local start, n = k:range(t, tile, count)
      chain.eval(k, group.space, start, n, { nodes = group.epilogue, stores = group.outputs, unit = unit })
    end)
  end,
}
