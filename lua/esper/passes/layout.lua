--- Layout: moves pointwise work across permutes and reshapes so that fewer values are copied. After `cse`.
-- Values are row-major and views are read through strides, but for attention that is stored in a permute's order (views.lua);
-- a copy is made only for a reshape of elements that are not in order in memory. Two rules, both of them exact because the
-- same operation meets the same elements:
--   hoist   f(view(x)) -> view(f(x))                f joins the group that computes x instead of a pass of its own
--   sink    f(reshape(permute(x))) -> reshape(f(permute(x)))    the pass that f makes is the copy the reshape needs
-- f has one input, or (sink) a second one of the same shape. Random ops stay: they count elements in row-major order.
local look = require "esper.passes.look"
local views = require "esper.views"

local one = {
  neg = true, abs = true, sqrt = true, rsqrt = true, exp = true, log = true, round = true, relu = true,
  gelu = true, silu = true, tanh = true, sigmoid = true, scale = true, clamp = true,
}
local two = { add = true, sub = true, mul = true, div = true, maximum = true, minimum = true }
local moves = { permute = true, reshape = true }
local leaf = { input = true, param = true, buffer = true, const = true }

local function again(b, view, x)
  local g = b.graph
  return b:add { op = g:op(view), inputs = { x }, attrs = g:attrs(view) }
end

-- The views between node id's input and the value it comes from, outermost first; nil unless f may be moved up there.
local function chain_to_source(b, x)
  local g, chain = b.graph, {}
  while moves[g:op(x)] do
    if not b:sole(x) then return nil end
    chain[#chain + 1] = x
    x = look.input(g, x, 1)
  end
  local op = g:op(x)
  if #chain == 0 or leaf[op] or op == "slice" or op == "expand" or not b:sole(x) then return nil end
  return x, chain
end

local function hoist(b, id)
  local src = b.src
  local x, chain = chain_to_source(b, b:input(id, 1))
  if not x then return nil end
  local y = b:add { op = src:op(id), inputs = { x }, attrs = src:attrs(id) }
  for i = #chain, 1, -1 do y = again(b, chain[i], y) end
  return y
end

-- Would `x`, a reshape, have to be copied? Its permute is the last op before it.
local function copies(b, x)
  local g = b.graph
  if g:op(x) ~= "reshape" or not b:sole(x) then return false end
  local p = look.input(g, x, 1)
  if g:op(p) ~= "permute" or not b:sole(p) then return false end
  local D, inner, perm, strides = g:dims(), g:shape(look.input(g, p, 1)), g:attr(p, "perm"), {}
  local row_major = views.contiguous(D, inner)
  for i = 1, #perm do strides[i] = row_major[perm[i] + 1] end
  return views.reshape(D, g:shape(p), strides, g:shape(x)) == nil
end

local function sink(b, id)
  local g, src, inputs = b.graph, b.src, {}
  local count = look.inputs(src, id)
  for k = 1, count do inputs[k] = b:input(id, k) end
  local at = copies(b, inputs[1]) and 1 or count == 2 and copies(b, inputs[2]) and 2
  if not at then return nil end
  local x = inputs[at]
  if count == 2 and not (look.same_shape(g, inputs[1], inputs[2])) then return nil end
  local p = look.input(g, x, 1)
  local shape = g:shape(p)
  inputs[at] = p
  if count == 2 then
    inputs[3 - at] = b:add { op = "reshape", inputs = { inputs[3 - at] }, attrs = { shape = shape } }
  end
  local y = b:add { op = src:op(id), inputs = inputs, attrs = src:attrs(id) }
  return again(b, x, y)
end

return {
  name = "layout", version = 1,
  doc = "pointwise work moves across permutes and reshapes where that saves a copy",
  run = function(src, ctx)
    return ctx:rebuild(src, function(b, id)
      local op = b.op[id]
      if one[op] then return hoist(b, id) or sink(b, id) end
      if two[op] then return sink(b, id) end
    end)
  end,
}
