--- How attributes lie in a node: one reader and one writer per type letter of ops.def. Used by graph.lua alone.

local native = require "esper.native"
local dtype_index, dtypename, floor = native.dtype, native.dtypename, math.floor

-- type letter -> value from a node
local read = {
  i = function(node, a) return tonumber(node.i[a.slot]) end,
  f = function(node, a) return node.f[a.slot] end,
  d = function(node, a) return node.d[a.slot] end,
  t = function(node, a) return dtypename[tonumber(node.i[a.slot])] end,
  ["2"] = function(node, a) return { tonumber(node.i[a.slot]), tonumber(node.i[a.slot + 1]) } end,
  m = function(node, a)
    local mask, list = tonumber(node.i[a.slot]), {}
    for axis = 0, native.rank_max - 1 do
      if mask % 2 == 1 then list[#list + 1] = axis end
      mask = floor(mask / 2)
    end
    return list
  end,
  p = function(node, a)
    local list = {}
    for k = 1, node.rank do list[k] = tonumber(node.i[a.slot + k - 1]) end
    return list
  end,
  D = function(node)
    local list = {}
    for k = 1, node.nd do list[k] = node.d[k - 1] end
    return list
  end,
}
read.b, read.s = read.i, read.i

local function whole(v) return type(v) == "number" and v == floor(v) and v >= -2^53 and v <= 2^53 end

local function whole_list(v, count)
  if type(v) ~= "table" or #v > native.rank_max or count and #v ~= count then return false end
  for _, x in ipairs(v) do if not whole(x) then return false end end
  return true
end

-- attribute type letter -> function(node, a, value, rank of input 0) storing it, or returning what was wanted
local write = {}
function write.i(node, a, v)
  if not whole(v) then return "an integer" end
  node.i[a.slot] = v
end
write.s = write.i
function write.b(node, a, v)
  if v ~= true and v ~= false and v ~= 0 and v ~= 1 then return "true or false" end
  node.i[a.slot] = (v == true or v == 1) and 1 or 0
end
function write.f(node, a, v)
  if type(v) ~= "number" or v ~= v then return "a number" end
  node.f[a.slot] = v
end
write["2"] = function(node, a, v)
  if whole(v) then v = { v, v } end
  if not whole_list(v, 2) then return "an integer or two of them" end
  node.i[a.slot], node.i[a.slot + 1] = v[1], v[2]
end
function write.p(node, a, v)
  if not whole_list(v) then return "a list of axes" end
  for k = 1, #v do node.i[a.slot + k - 1] = v[k] end
end
function write.m(node, a, v, rank)
  if type(v) == "number" then v = { v } end
  if not whole_list(v) then return "an axis or a list of axes" end
  local mask, seen = 0, {}
  for _, axis in ipairs(v) do
    local at = axis < 0 and axis + rank or axis
    if at < 0 or at >= rank then return string.format("axes from %d to %d", -rank, rank - 1) end
    if seen[at] then return "each axis once" end
    seen[at], mask = true, mask + 2 ^ at
  end
  node.i[a.slot] = mask
end
function write.t(node, a, v)
  if not dtype_index[v] then return "a dtype (f32 f64 i32 i64 bool ...)" end
  node.i[a.slot] = dtype_index[v]
end
function write.d(node, a, v)
  if not whole(v) then return "a dimension" end
  node.d[a.slot] = v
  if node.nd <= a.slot then node.nd = a.slot + 1 end
end
function write.D(node, _, v)
  if not whole_list(v) then return string.format("a list of at most %d dimensions", native.rank_max) end
  for k = 1, #v do node.d[k - 1] = v[k] end
  node.nd = #v
end

--- Stores the default of an attribute that has one.
local function default(node, a)
  if a.type == "2" then
    node.i[a.slot], node.i[a.slot + 1] = a.default[1], a.default[2]
  elseif a.type == "f" then
    node.f[a.slot] = a.default
  else
    node.i[a.slot] = a.default
  end
end

return { read = read, write = write, default = default, whole = whole }
