--- Recipe: groups of pointwise nodes only, copies and casts included. One pass over the space, all
-- values in registers. Only a long chain of costly functions of one value is taken link by link, over a tile that stays in the
-- first-level cache: its instructions wait for each other, and a processor does not look far enough ahead to begin
-- the next vector meanwhile.
local chain = require "esper.emit_chain"
local nodes = require "esper.vecmath_nodes"
local stream = require "esper.emit_stream"
local turn = require "esper.emit_turn"

local TILE = 16384 -- elements of a tile, about: some 64 KiB an operand, small beside a second-level cache
local NEAR = 2048  -- the same where a tile is visited again: source and result within 32 KiB
local LONG = 60    -- instructions of a chain from which on it is cut
local LINK = 15    -- of a link, at least
local CHEAP = 40   -- up to which the memory is what a chain waits for

-- The last axes that a tile takes whole, as a number of elements: 1 when the last extent is a symbol or large.
local function whole_rows(k, space, most)
  local unit = 1
  for axis = #space, 1, -1 do
    local extent = k.dims:value(space[axis])
    if not extent or unit * extent > most or extent == 0 then break end
    unit = unit * extent
  end
  return unit
end

-- The links of a group that is a long chain: lists of nodes, each a function of the one before; nil for other groups.
local function links(k, group)
  local list, sum, price, before = { {} }, 0, 0, nil
  for _, id in ipairs(group.epilogue) do
    local args, dtype = group.args[id], k.graph:dtype(id)
    local follows = #args == 1 and (before == nil and args[1].base or args[1].node == before)
    if not follows or nodes.random[k.graph:op(id)] or dtype ~= "f32" and dtype ~= "f64" then return nil end
    if before == nil and args[1].dtype ~= dtype then return nil end
    if price >= LINK then list[#list + 1], price = {}, 0 end
    table.insert(list[#list], id)
    price, sum, before = price + nodes.cost(k.graph:op(id)), sum + nodes.cost(k.graph:op(id)), id
  end
  local one = #group.outputs == 1 and group.outputs[1] == before
  return one and sum >= LONG and #list > 1 and list or nil
end

-- One link over a tile: the first reads the source, the others what the last one left in the output.
local function emit_link(k, group, link, first, start, n, unit)
  local out = group.outputs[1]
  local from = first and group.args[link[1]][1]
    or { at = k:write(out), strides = k:contiguous(group.space), dtype = k.graph:dtype(out) }
  local function compute(b, x)
    for _, id in ipairs(link) do x = nodes.node(b, k.graph, id, { x }) end
    return x
  end
  chain.eval(k, group.space, start, n, { nodes = { out }, stores = { out }, unit = unit,
    custom = { [out] = { inputs = { from }, compute = compute } } })
end

local function price(k, group)
  local sum = 0
  for _, id in ipairs(group.epilogue) do sum = sum + nodes.cost(k.graph:op(id)) end
  return sum
end

return {
  name = "pointwise",
  emit = function(k, group)
    if turn.emit(k, group) then return end
    local list = links(k, group)
    if list and k:choice("pointwise_chain", { "linked", "whole" }) == "whole" then list = nil end
    local most = k:choice("pointwise_tile", list and { NEAR, NEAR / 2, 2 * NEAR } or { TILE, TILE / 4, 4 * TILE })
    local count, unit = k:product(group.space), whole_rows(k, group.space, most)
    local tile = math.floor(most / unit) * unit
    k:step{ tiles = k:ceildiv(count, tile) }
    local far = not list and price(k, group) <= CHEAP and stream.flag(k, count, tile) or nil
    k:tiles(function(t)
      local start, n = k:range(t, tile, count)
      for i, link in ipairs(list or {}) do emit_link(k, group, link, i == 1, start, n, unit) end
      if not list then
        chain.eval(k, group.space, start, n, { nodes = group.epilogue, stores = group.outputs, unit = unit, far = far })
      end
    end)
  end,
}
