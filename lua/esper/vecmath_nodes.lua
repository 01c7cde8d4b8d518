--- Pointwise nodes on vector registers: the lowering of every pointwise and random op of ops.def.
-- Used by emit_chain.lua.
--
--   node(b, graph, id, v) -> register   v = registers of the node's inputs, and of a random op's uniform numbers
--   random[op] = how many uniform numbers the op draws     cost(op) = about how many instructions it is

local vm = require "esper.vecmath"

local M = { random = { dropout = 1, noise = 2 } }

local function same(_, x) return x end

--- Ops whose value is their input's, perhaps in another dtype; the operand's strides do the rest.
M.copies = {}
for op in ("cast stop_grad checkpoint telemetry_probe reshape permute slice expand"):gmatch "%S+" do
  M.copies[op] = same
end

-- p as the nearest float: the oracle and every kernel compare the 24-bit uniform number with that.
local function to_float(p)
  if p == 0 then return 0 end
  local m, e = math.frexp(p)
  local scaled = m * 2 ^ 24
  local low = math.floor(scaled)
  local rest = scaled - low
  if rest > 0.5 or rest == 0.5 and low % 2 == 1 then low = low + 1 end
  return math.ldexp(low, e - 24)
end

local UNIT = { tanh = true, sigmoid = true, softmax = true }
local KEEPS = { neg = true, abs = true, mul = true, round = true, maximum = true, minimum = true }

-- Are all values of node `id` within -1 .. 1 (or NaN), whatever it reads? Looks at `depth` nodes in a row at most.
local function small(graph, id, depth)
  local op = graph:op(id)
  if UNIT[op] then return true end
  if depth == 1 or not (KEEPS[op] or M.copies[op] and op ~= "cast") then return false end
  for _, input in ipairs(graph:inputs(id)) do
    if not small(graph, input, depth - 1) then return false end
  end
  return true
end

local OP = {
  neg = function(b, x) return b:neg(x) end,
  abs = function(b, x) return b:abs(x) end,
  sqrt = function(b, x) return b:sqrt(x) end,
  round = function(b, x) return b:rint(x) end,
  rsqrt = vm.rsqrt, exp = vm.exp, log = vm.log, silu = vm.silu, tanh = vm.tanh, sigmoid = vm.sigmoid,
  relu = function(b, x) return b:max(b:splat(0), x) end, -- max gives its second operand for NaN
  add = function(b, x, y) return b:add(x, y) end,
  sub = function(b, x, y) return b:sub(x, y) end,
  mul = function(b, x, y) return b:mul(x, y) end,
  div = function(b, x, y) return b:div(x, y) end,
  bias_add = function(b, x, y) return b:add(x, y) end,
  maximum = vm.maximum, minimum = vm.minimum,
}

local ATTR = {} -- the same with attributes: (b, attr(name), inputs...)

function ATTR.gelu(b, attr, x)
  local tanh = attr "tanh"
  return tanh ~= 0 and vm.gelu_tanh(b, x) or vm.gelu(b, x)
end

function ATTR.scale(b, attr, x)
  local mul, add = attr "mul", attr "add"
  if mul ~= 1 then x = b:mul(x, b:splat(mul)) end
  if add ~= 0 then x = b:add(x, b:splat(add)) end
  return x
end

function ATTR.clamp(b, attr, x)
  return b:min(b:splat(attr "hi"), b:max(b:splat(attr "lo"), x))
end

-- The ends are exact for any a and b, infinite ones too.
function ATTR.lerp(b, _, x, y, w)
  local v = b:fma(w, b:sub(y, x), x)
  v = b:select(b:eq(w, b:splat(1)), y, v)
  return b:select(b:eq(w, b:splat(0)), x, v)
end

function ATTR.batch_norm(b, attr, x, mean, var, weight, bias)
  local y = b:mul(b:sub(x, mean), vm.rsqrt(b, b:add(var, b:splat(attr "eps"))))
  if weight and bias then return b:fma(y, weight, bias) end
  return weight and b:mul(y, weight) or y
end

function ATTR.dropout(b, attr, x, uniform)
  local p = attr "p"
  local kept = b:div(x, b:splat(1 - p))
  return b:select(b:lt(uniform, b:splat(to_float(p))), b:splat(0), kept)
end

-- Box-Muller; uniform + 2^-24 is exact, in (0, 1].
function ATTR.noise(b, attr, x, u, v)
  local radius = b:sqrt(b:mul(b:splat(-2), vm.log(b, b:add(u, b:splat(2 ^ -24)))))
  return b:fma(b:splat(attr "std"), b:mul(radius, vm.cos_turns(b, v)), x)
end

local COST = { exp = 15, log = 30, silu = 25, tanh = 30, sigmoid = 20, gelu = 40, noise = 99, dropout = 99, div = 4, sqrt = 4, rsqrt = 8,
  lerp = 6, batch_norm = 12 }

-- i32 -> f32 rounds once. f32 -> i32 truncates, saturates and makes NaN 0.
local CAST = {
  ["i32 f32"] = function(b, x) return b:cvt_f(x) end,
  ["f32 i32"] = function(b, x)
    local low, high = b:splat(-2 ^ 31), b:splat(2 ^ 31)
    local whole = b:cvtt_i(b:select(b:lt(x, high), b:max(low, x), b:splat(0)))
    return b:iselect(b:le(high, x), b:isplat(2 ^ 31 - 1), whole)
  end,
}

--- How node `id` casts between types of one width in a block of f32; nil when it does no such thing.
function M.casts(graph, id)
  if graph:op(id) ~= "cast" then return nil end
  return CAST[graph:dtype(graph:inputs(id)[1]) .. " " .. graph:dtype(id)]
end

--- Instructions of an op, about.
function M.cost(op) return COST[op] or M.copies[op] and 0 or 1 end

function M.node(b, graph, id, v)
  local op = graph:op(id)
  local near = vm[op .. "_near"]
  if near and not (op == "gelu" and graph:attr(id, "tanh") ~= 0) and small(graph, graph:inputs(id)[1], 4) then return near(b, v[1]) end
  local plain = OP[op] or op == "cast" and M.casts(graph, id) or M.copies[op] -- another cast that comes here keeps the dtype
  if plain then return plain(b, unpack(v, 1, 5)) end
  local with = ATTR[op] or error("no vector lowering for op " .. op)
  return with(b, function(name) return graph:attr(id, name) end, unpack(v, 1, 5))
end

return M
