--- Recipe: softmax, log_softmax, layer_norm, rms_norm, group_norm. A row is the set of elements that share statistics; rows
-- are numbered by their kept axes. A block takes some rows, one after the other while each is in the first-level cache:
-- statistics in registers, then the row is written, affine weights and epilogue included. Pointwise work in front is
-- recomputed in every pass. Where the reduced axis is not the last one, neighbouring rows are taken side by side.
local chain = require "esper.emit_chain"
local fold = require "esper.emit_fold"
local stream = require "esper.emit_stream"
local vecmath = require "esper.vecmath"

-- ---- the five ops: statistics and formula ----

local function plain(_, x) return x end
local function above(b, x, y) return vecmath.weight(b, b:sub(x, y)) end
local function distance(b, x, mean) return b:sub(x, mean) end
local function reciprocal(b, sum) return b:div(b:splat(1), sum) end
local function logarithm(b, sum) return vecmath.log(b, b:mul(sum, b:splat(vecmath.weight_unit(b)))) end

local function spread(eps)
  return function(b, sum, count) return vecmath.rsqrt(b, b:add(fold.mean(b, sum, count), b:splat(eps))) end
end

local function affine(b, y, weight, bias)
  if weight and bias then return b:fma(y, weight, bias) end
  return weight and b:mul(y, weight) or y
end

local function centred(b, stats, x, weight, bias) return affine(b, b:mul(b:sub(x, stats[1]), stats[2]), weight, bias) end

local EXP = 15 -- instructions of an exp, about

-- op -> statistics (see emit_fold.lua), write(b, statistics, x, weight, bias). A peak that loses NaN is right in a softmax:
-- the sum then is NaN.
local OP = {
  softmax = function()
    return { { kind = "peak", value = plain }, { kind = "sum", value = above, keep = true, finish = reciprocal, price = EXP } },
      function(b, stats, x) return b:mul(x, stats[2]) end
  end,
  log_softmax = function()
    return { { kind = "peak", value = plain }, { kind = "sum", value = above, finish = logarithm, price = EXP } },
      function(b, stats, x) return b:sub(b:sub(x, stats[1]), stats[2]) end
  end,
  layer_norm = function(eps)
    return { { kind = "sum", value = plain, finish = fold.mean }, { kind = "squares", value = distance, finish = spread(eps) } },
      centred
  end,
  rms_norm = function(eps)
    return { { kind = "squares", value = plain, finish = spread(eps) } },
      function(b, stats, x, weight) return affine(b, b:mul(x, stats[1]), weight) end
  end,
}
OP.group_norm = OP.layer_norm

-- ---- the space ----

-- The channel axis of group_norm becomes two: group and channel within.
local function split_channels(k, groups, shape)
  local per = k.dims:floordiv(shape[2], groups)
  local function split(list, first, second)
    local out = { list[1], first, second }
    for axis = 3, #list do out[#out + 1] = list[axis] end
    return out
  end
  local function view(arg)
    if not arg.base then return arg end
    local out = {}
    for key, value in pairs(arg) do out[key] = value end
    out.strides = split(arg.strides, k.dims:mul(arg.strides[2], per), arg.strides[2])
    return out
  end
  return split(shape, k.dims:const(groups), per), view
end

-- { space=, view=, reduced={axes}, kept={axes} } of a norm node; affine = the axis its weights'
-- first axis lies on.
local function layout(k, id)
  local op, shape = k.graph:op(id), k.graph:shape(id)
  local l = { space = shape, view = function(arg) return arg end, reduced = {}, kept = {}, affine = #shape }
  local first, last = #shape, nil
  if op == "softmax" or op == "log_softmax" then
    first = k.graph:attr(id, "axis") + 1
    last = first
  elseif op == "layer_norm" then
    first = #shape - k.graph:attr(id, "dims") + 1
    l.affine = first
  elseif op == "group_norm" then
    l.space, l.view = split_channels(k, k.graph:attr(id, "groups"), shape)
    first, l.affine = 3, 2 -- weights are given over the channels, before the split
  end
  for axis = 1, #l.space do
    table.insert(axis >= first and axis <= (last or #l.space) and l.reduced or l.kept, axis)
  end
  l.behind = k:product { unpack(l.space, l.reduced[#l.reduced] + 1) } -- elements behind the reduced axes
  return l
end

-- An affine vector (or layer_norm's block) as an argument of the split space.
local function over_space(k, l, arg, rank)
  if not arg or arg.const then return arg end
  local out = {}
  for key, value in pairs(arg) do out[key] = value end
  out.strides = {}
  for axis = 1, rank do out.strides[axis] = k.dims:const(0) end
  for i, stride in ipairs(arg.strides) do out.strides[l.affine + i - 1] = stride end
  return l.view(out)
end

-- ---- emission ----

local function append(list, more)
  for _, x in ipairs(more) do list[#list + 1] = x end
  return list
end

-- The group as a fold over kept positions start .. start + n - 1.
local function emit(k, l, start, n, far)
  local group, id = k.group, k.group.anchor
  local args, rank, op = group.args[id], #k.graph:shape(id), k.graph:op(id)
  local stats, formula = OP[op](op:find "norm" and k.graph:attr(id, "eps"))
  local inputs = { l.view(args[1]), over_space(k, l, args[2], rank), over_space(k, l, args[3], rank) }
  local custom = { inputs = inputs }
  local plan = chain.plan(k, {
    nodes = append(append({ unpack(group.prologue) }, { id }), group.epilogue), stores = group.outputs, view = l.view,
    custom = { [id] = custom },
  })
  local input = plan.inputs[id][1]
  plan.inputs[id] = { unpack(plan.inputs[id], 2) } -- the value comes from the fold
  fold.run(k, {
    space = l.space, kept = l.kept, reduced = l.reduced, far = far, sideways = k.dims:value(l.behind) ~= 1, start = start, n = n,
    plan = plan, front = group.prologue, inputs = { input }, terms = k:product(fold.pick(l.space, l.reduced)), stats = stats,
    nodes = append({ id }, group.epilogue), stores = group.outputs,
    write = function(found, x)
      function custom.compute(b, ...) return formula(b, found, x, ...) end
    end,
  })
end

local WORK = 16384                 -- elements of a tile, about
local LONG = 2048                  -- elements of a row that may go past the caches: its write is a loop of its own
local LONGEST, UNKNOWN = 1024, 32  -- rows of a tile: at most, and when their length is a symbol

local function rows_per_tile(k, length)
  local known, work = k.dims:value(length), k:choice("norm_tile", { WORK, WORK / 4, 4 * WORK })
  return known and math.max(1, math.min(LONGEST, math.floor(work / math.max(known, 1)))) or UNKNOWN
end

-- Rows in their order.
local function emit_rows(k, l)
  local rows = k:product(fold.pick(l.space, l.kept))
  local length = k:product(fold.pick(l.space, l.reduced))
  local size, known = rows_per_tile(k, length), k.dims:value(length)
  k:step{ tiles = k:ceildiv(rows, size) }
  local far = known and known >= LONG and stream.flag(k, k.dims:mul(rows, length), known) or nil
  k:tiles(function(t)
    local start, n = k:range(t, size, rows)
    emit(k, l, start, n, far)
  end)
end

-- Rows that lie side by side: a tile is some neighbours at one position of the axes in front.
local function emit_columns(k, l)
  local outer = k:product { unpack(l.space, 1, l.reduced[1] - 1) }
  local lanes = 16 -- keeps tiles on the bounds of vectors
  local size = math.ceil(rows_per_tile(k, k:product(fold.pick(l.space, l.reduced))) / lanes) * lanes
  local per_outer = k:ceildiv(l.behind, size)
  k:step{ tiles = k.dims:mul(outer, per_outer) }
  k:tiles(function(t)
    local at, first = k:name "column", k:name "first"
    k:line("long %s = %s %% %s;", at, t, k:dim(per_outer))
    local column, n = k:range(at, size, l.behind)
    k:line("long %s = %s / %s * %s + %s;", first, t, k:dim(per_outer), k:dim(l.behind), column)
    emit(k, l, first, n)
  end)
end

return {
  name = "norm",
  emit = function(k, group)
    local l = layout(k, group.anchor)
    if k.dims:value(l.behind) == 1 then emit_rows(k, l) else emit_columns(k, l) end
  end,
}
