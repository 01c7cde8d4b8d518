--- Recipe: softmax, log_softmax, layer_norm, rms_norm, group_norm. Statistics of a few rows at a
-- time are folded into stack arrays, then the rows are written once, affine weights and epilogue
-- included; pointwise work in front is recomputed in every pass.
--
-- A row is the set of elements that share statistics. Rows are numbered by their kept axes; where
-- the reduced axes are the last ones the rows of a tile are one run of the output, else (softmax
-- along an inner axis) a tile is written slice by slice.
local chain = require "esper.emit_chain"
local fold = require "esper.emit_fold"
local vecmath = require "esper.vecmath"

-- ---- the five ops: statistics and formula ----

local function plain(_, x) return x end
local function square(b, x) return b:mul(x, x) end
local function above(b, x, y) return vecmath.exp(b, b:sub(x, y)) end
local function squared_distance(b, x, mean) return square(b, b:sub(x, mean)) end

local function affine(b, y, weight, bias)
  if weight then y = b:mul(y, weight) end
  return bias and b:add(y, bias) or y
end

local function centred(b, x, mean, scale, weight, bias)
  return affine(b, b:mul(b:sub(x, mean), scale), weight, bias)
end

-- Statistics in order: { fold kind, element fn(b, x, earlier statistics...), finish = what the
-- folded array becomes }. finish: "mean"; "rsqrt" = 1 / sqrt(mean + eps); "log".
local OP = {
  softmax = {
    { "max", plain }, { "sum", above },
    write = function(b, x, max, sum) return b:div(vecmath.exp(b, b:sub(x, max)), sum) end,
  },
  log_softmax = {
    { "max", plain }, { "sum", above, finish = "log" },
    write = function(b, x, max, log) return b:sub(b:sub(x, max), log) end,
  },
  layer_norm = {
    { "sum", plain, finish = "mean" }, { "sum", squared_distance, finish = "rsqrt" }, write = centred,
  },
  rms_norm = {
    { "sum", square, finish = "rsqrt" },
    write = function(b, x, scale, weight) return affine(b, b:mul(x, scale), weight) end,
  },
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

local function product(k, space, axes)
  local dims = {}
  for i, axis in ipairs(axes) do dims[i] = space[axis] end
  return k:product(dims)
end

-- Replaces each of the n sums in `array` by what the formula wants.
local function finish(k, how, array, n, terms)
  local id = k.group.anchor
  local dtype = k.graph:dtype(id)
  if how == "mean" or how == "rsqrt" then fold.divide(k, array, n, k:dim(terms), dtype) end
  if how == "mean" or not how then return end
  local eps = how == "rsqrt" and k.graph:attr(id, "eps")
  k:call(k:block(function(b)
    local at = b:arg(1)
    b:each(b:arg(0), { at }, function(mask)
      local v = b:load(at, 0, mask)
      v = eps and vecmath.rsqrt(b, b:add(v, b:splat(eps))) or vecmath.log(b, v)
      b:store(at, v, 0, mask)
    end)
  end), { n, array })
end

-- Folds the statistics of kept positions start .. start + n - 1; gives them as arguments of the
-- space.
local function statistics(k, l, size, start, n)
  local group, stats = k.group, {}
  local id = group.anchor
  local terms, dtype = product(k, l.space, l.reduced), k.graph:dtype(id)
  for i, stat in ipairs(OP[k.graph:op(id)]) do
    local array = k:buffer(dtype, size)
    fold.clear(k, stat[1], array, n)
    fold.run(k, {
      space = l.space, kept = l.kept, reduced = l.reduced, nodes = group.prologue, view = l.view, kind = stat[1],
      inputs = { l.view(group.args[id][1]), unpack(stats) }, element = stat[2], start = start, n = n, into = array,
    })
    finish(k, stat.finish, array, n, terms)
    stats[i] = { at = array, strides = fold.over_kept(k, l.space, l.kept), minus = start, dtype = dtype }
  end
  return stats
end

-- Writes elements start .. start + n - 1 of the output.
local function write(k, l, stats, start, n)
  local group, id = k.group, k.group.anchor
  local args, rank = group.args[id], #k.graph:shape(id)
  local inputs = { l.view(args[1]) }
  for _, stat in ipairs(stats) do inputs[#inputs + 1] = stat end
  inputs[#inputs + 1] = over_space(k, l, args[2], rank)
  inputs[#inputs + 1] = over_space(k, l, args[3], rank)
  local nodes = {}
  for _, node in ipairs(group.prologue) do nodes[#nodes + 1] = node end
  nodes[#nodes + 1] = id
  for _, node in ipairs(group.epilogue) do nodes[#nodes + 1] = node end
  chain.eval(k, l.space, start, n, {
    nodes = nodes, stores = group.outputs, view = l.view,
    custom = { [id] = { inputs = inputs, compute = OP[k.graph:op(id)].write } },
  })
end

-- Reduced axes last: the rows of a tile follow each other.
local function emit_rows(k, l)
  local rows, row = product(k, l.space, l.kept), product(k, l.space, l.reduced)
  local size = fold.outputs_per_tile(k, row)
  k:step{ tiles = k:ceildiv(rows, size) }
  k:tiles(function(t)
    local first, n = k:range(t, size, rows)
    local stats, length = statistics(k, l, size, first, n), k:dim(row)
    write(k, l, stats, ("%s * %s"):format(first, length), ("%s * %s"):format(n, length))
  end)
end

-- One reduced axis with `inner` elements behind it: a tile is some neighbouring columns of one
-- outer position.
local function emit_columns(k, l, inner)
  local outer = k:product({ unpack(l.space, 1, l.reduced[1] - 1) })
  local extent = l.space[l.reduced[1]]
  local size = fold.outputs_per_tile(k, extent)
  local per_outer = k:ceildiv(inner, size)
  k:step{ tiles = k.dims:mul(outer, per_outer) }
  k:tiles(function(t)
    local o, at = k:name("outer"), k:name("column")
    k:line("long %s = %s / %s, %s = %s %% %s;", o, t, k:dim(per_outer), at, t, k:dim(per_outer))
    local column, n = k:range(at, size, inner)
    local first, r = k:name("first"), k:name("r")
    k:line("long %s = %s * %s + %s;", first, o, k:dim(inner), column)
    local stats = statistics(k, l, size, first, n)
    k:open("for (long %s = 0; %s < %s; %s++)", r, r, k:dim(extent), r)
    write(k, l, stats, ("(%s * %s + %s) * %s + %s"):format(o, k:dim(extent), r, k:dim(inner), column), n)
    k:close()
  end)
end

return {
  name = "norm",
  emit = function(k, group)
    local l = layout(k, group.anchor)
    local behind = { unpack(l.space, l.reduced[#l.reduced] + 1) }
    local inner = k:product(behind)
    if k.dims:value(inner) == 1 then emit_rows(k, l) else emit_columns(k, l, inner) end
  end,
}
