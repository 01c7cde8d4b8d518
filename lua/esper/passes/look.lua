--- Questions passes ask about a node of a growing graph. Pure reading.
local native = require "esper.native"
local C = native.C
local M = {}

function M.same_list(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do if a[i] ~= b[i] then return false end end
  return true
end

function M.input(g, id, k) return g:node(id)["in"][k - 1] end
function M.inputs(g, id) return g:node(id).nin end

function M.same_shape(g, a, b)
  local x, y = g:node(a), g:node(b)
  if x.rank ~= y.rank then return false end
  for i = 0, x.rank - 1 do if x.shape[i] ~= y.shape[i] then return false end end
  return true
end

local carries = { reshape = true, permute = true, expand = true, slice = true } -- a constant stays one under these

--- The number a node is filled with, or nil.
function M.constant(g, id)
  while carries[g:op(id)] do id = M.input(g, id, 1) end
  if g:op(id) == "const" then return g:attr(id, "value") end
end

--- Does the permutation list leave everything in place?
function M.is_identity(perm)
  for i = 1, #perm do if perm[i] ~= i - 1 then return false end end
  return true
end

--- The permutation that does `inner` and then `outer`.
function M.compose(outer, inner)
  local out = {}
  for i = 1, #outer do out[i] = inner[outer[i] + 1] end
  return out
end

--- Swaps the last two axes and nothing else?
function M.swaps_last(perm)
  local n = #perm
  if n < 2 or perm[n] ~= n - 2 or perm[n - 1] ~= n - 1 then return false end
  for i = 1, n - 2 do if perm[i] ~= i - 1 then return false end end
  return true
end

local bytes = native.new("uint8_t[?]", native.attribute_bytes)

--- The attributes of an es_node as a text of fixed length, equal exactly when they are (nodes of one op and one graph). skip:
-- slot of an integer attribute to leave out.
function M.attributes(node, skip)
  C.es_node_attributes(node, skip or -1, bytes)
  return native.string(bytes, native.attribute_bytes)
end

return M
