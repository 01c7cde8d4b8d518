--- Folding over the reduced axes of a space: sums and maxima of a value computed at every element,
-- into an array that holds one element per kept position. Used by the recipes reduce and norm.
--
--   fold.run(k, { space=, kept={axes}, reduced={axes},   axes count from 1
--     nodes={ids}, view=,         pointwise nodes in front (emit_chain.lua)
--     inputs={ args of the space }, element=fn(b, values of inputs) -> register
--     kind="sum"|"max", start=, n=, into= })
-- For kept positions start .. start + n - 1 (row-major over the kept axes; C expressions) it adds
-- to, or takes the maximum with, what the array `into` (C name, element type of the anchor) holds:
-- element 0 belongs to position `start`.
-- Invariant: every partial result covers at most PIECE terms in sequence before it joins the array,
-- so the error of a sum of n terms is that of about PIECE + n / PIECE additions; the order depends
-- on extents alone.
--
-- Where neighbouring kept positions lie side by side in memory, vectors run along them ("across");
-- else along the reduced axes.

local chain = require "esper.emit_chain"
local stages = require "esper.emit_stage"
local vecmath = require "esper.vecmath"

local M = {}
local PIECE = 512
local WORK = 16384                -- elements read per tile
local LONGEST, UNKNOWN = 256, 32  -- kept positions per tile: at most, and when an extent is a symbol

local function lane_max(b, v)
  if b.lanes == 1 then return v end
  local zero, one = b:splat(0), b:splat(1)
  local nans = b:hadd(b:select(b:ne(v, v), one, zero)) -- hmax does not keep NaN
  return b:select(b:lt(zero, nans), b:splat(0 / 0), b:hmax(v))
end

local KIND = {
  sum = {
    first = 0, join = function(b, x, y) return b:add(x, y) end, lanes = function(b, v) return b:hadd(v) end,
  },
  max = { first = -math.huge, join = vecmath.maximum, lanes = lane_max },
}

local function pick(list, axes)
  local out = {}
  for i, axis in ipairs(axes) do out[i] = list[axis] end
  return out
end

-- Sources of the plan as walk operands over `axes`; at(i) gives the base where it is not the
-- source's own.
local function operands_over(k, plan, axes, at)
  local list = {}
  for i in ipairs(plan.sources) do
    local operand = chain.operand(k, plan, i)
    operand.strides = pick(operand.strides, axes)
    if at then operand.at, operand.offset, operand.minus = at(i), nil, nil end
    list[i] = operand
  end
  return list
end

-- Do neighbouring kept positions lie side by side, in more operands than neighbouring reduced ones
-- do?
local function across(k, plan, spec)
  local balance = 0
  for _, vote in ipairs { { spec.kept, 1 }, { spec.reduced, -1 } } do
    local lists = {}
    for i, source in ipairs(plan.sources) do lists[i] = pick(source.strides, vote[1]) end
    local _, collapsed = k:collapse(pick(spec.space, vote[1]), lists)
    for i, source in ipairs(plan.sources) do
      local list = collapsed[i]
      if source.base and k.dims:value(list[#list]) == 1 then balance = balance + vote[2] end
    end
  end
  return balance > 0
end

-- Words and block for one kept position: `run` elements along the reduced axes join *into.
local function call_along(k, plan, spec, run, into)
  local kind, operands = KIND[spec.kind], {}
  for i, source in ipairs(plan.sources) do
    operands[i] = { ptr = run[i].ptr, step = run[i].step, dtype = source.dtype }
  end
  k:call(k:block(function(b)
    local bound, advance, fixed = stages.bind(k, b, operands, 2), {}, {}
    for i, operand in ipairs(bound) do
      if operand.fixed then fixed[i] = b:bcast(operand.ptr) else advance[#advance + 1] = operand.advance end
    end
    local part = b:splat(kind.first)
    b:each(b:arg(0), advance, function(mask)
      local loaded = {}
      local value = stages.compute(plan, b, plan.stages[1], function(arg)
        local i = arg.source
        loaded[i] = fixed[i] or loaded[i] or stages.load(b, bound[i], mask)
        return loaded[i]
      end)[k.group.anchor]
      local joined = kind.join(b, value, part)
      b:set(part, mask and b:select(mask, joined, part) or joined)
    end)
    b:store1(b:arg(1), kind.join(b, kind.lanes(b, part), b:bcast(b:arg(1))))
  end), stages.words(k, operands, { run.n, into }))
end

-- Every source as an operand along the kept run; then its steps along the reduced run, without
-- address.
local function two_steps(plan, kept, reduced)
  local list = {}
  for i, source in ipairs(plan.sources) do
    list[i] = { ptr = reduced[i].ptr, step = kept[i].step, dtype = source.dtype }
    list[#plan.sources + i] = { step = reduced[i].step, dtype = source.dtype }
  end
  return list
end

-- Moves an address along the reduced axis.
local function step_reduced(b, at, operand)
  if operand.fixed then return end
  b:g_set(at, operand.step and b:g_add(at, operand.step) or b:g_addk(at, b.bytes))
end

-- Words and block for `kept.n` neighbouring positions: `reduced.n` rows of them join into[0 ..
-- kept.n - 1].
local function call_across(k, plan, spec, kept, reduced, into)
  local kind, count = KIND[spec.kind], #plan.sources
  local operands = two_steps(plan, kept, reduced)
  k:call(k:block(function(b)
    local bound = stages.bind(k, b, operands, 3)
    local acc, advance = b:arg(2), {}
    for i = 1, count do
      if not bound[i].fixed then advance[#advance + 1] = bound[i].advance end
    end
    advance[#advance + 1] = acc
    b:each(b:arg(0), advance, function(mask)
      local at, part = {}, b:splat(kind.first)
      for i = 1, count do at[i] = b:copy(bound[i].ptr) end
      b:loop(b:arg(1), function()
        local loaded = {}
        local value = stages.compute(plan, b, plan.stages[1], function(arg)
          local i = arg.source
          loaded[i] = loaded[i] or stages.load(b, bound[i], mask, at[i])
          return loaded[i]
        end)[k.group.anchor]
        b:set(part, kind.join(b, value, part))
        for i = 1, count do step_reduced(b, at[i], bound[count + i]) end
      end)
      b:store(acc, kind.join(b, part, b:load(acc, 0, mask)), 0, mask)
    end)
  end), stages.words(k, operands, { kept.n, reduced.n, into }))
end

-- Walks the reduced axes from the addresses ptr(i), in pieces.
local function walk_reduced(k, plan, spec, ptr, body)
  local extents = pick(spec.space, spec.reduced)
  k:walk{ extents = extents, start = "0L", n = k:dim(k:product(extents)), piece = PIECE,
          operands = operands_over(k, plan, spec.reduced, ptr), body = body }
end

-- One walk of the reduced axes for each of the run's kept positions.
local function along(k, plan, spec, kept, into)
  local j = k:name("j")
  k:open("for (long %s = 0; %s < %s; %s++)", j, j, kept.n, j)
  local function ptr(i)
    if k.dims:value(kept[i].step) == 0 then return kept[i].ptr end
    return ("%s + %s * %s * %dL"):format(kept[i].ptr, j, k:dim(kept[i].step), k:bytes(plan.sources[i].dtype))
  end
  walk_reduced(k, plan, spec, ptr, function(run)
    call_along(k, plan, spec, run, ("%s + %s"):format(into, j))
  end)
  k:close()
end

function M.run(k, spec)
  local nodes = {}
  for i, id in ipairs(spec.nodes) do nodes[i] = id end
  nodes[#nodes + 1] = k.group.anchor
  local plan = chain.plan(k, {
    nodes = nodes, stores = {}, view = spec.view,
    custom = { [k.group.anchor] = { inputs = spec.inputs, compute = spec.element } },
  })
  assert(plan.simple, "a prologue of a fold is of one float type")
  local sideways = across(k, plan, spec)
  k:walk{ extents = pick(spec.space, spec.kept), start = spec.start, n = spec.n,
          operands = operands_over(k, plan, spec.kept), body = function(kept)
    local into = ("%s + (%s - %s)"):format(spec.into, kept.pos, spec.start)
    if sideways then
      walk_reduced(k, plan, spec, function(i) return kept[i].ptr end, function(run)
        call_across(k, plan, spec, kept, run, into)
      end)
    else
      along(k, plan, spec, kept, into)
    end
  end }
end

--- Sets n elements of array `into` to the neutral element.
function M.clear(k, kind, into, n)
  local i = k:name("i")
  if kind == "max" then
    local zero = k:name("zero")
    k:line("double %s = 0;", zero)
    k:line("for (long %s = 0; %s < %s; %s++) %s[%s] = -1 / %s;", i, i, n, i, into, i, zero)
  else
    k:line("for (long %s = 0; %s < %s; %s++) %s[%s] = 0;", i, i, n, i, into, i)
  end
end

--- Divides n elements of `array` by `count` (C expression, long); NaN when count <= 0.
function M.divide(k, array, n, count, dtype)
  local i, by = k:name("i"), k:name("by")
  k:line("%s %s = %s > 0 ? %s : 0;", k:ctype(dtype), by, count, count)
  k:line("for (long %s = 0; %s < %s; %s++) %s[%s] = %s > 0 ? %s[%s] / %s : 0 / %s;",
    i, i, n, i, array, i, by, array, i, by, by)
end

--- Strides, in `space`, of an array over the kept positions.
function M.over_kept(k, space, kept)
  local strides, packed = {}, k:contiguous(pick(space, kept))
  for axis = 1, #space do strides[axis] = k.dims:const(0) end
  for i, axis in ipairs(kept) do strides[axis] = packed[i] end
  return strides
end

--- How many kept positions a tile takes when each folds `terms` (dim) elements: a constant, by
-- shape alone.
function M.outputs_per_tile(k, terms)
  local known = k.dims:value(terms)
  return known and math.max(1, math.min(LONGEST, math.floor(WORK / math.max(known, 1)))) or UNKNOWN
end

return M
