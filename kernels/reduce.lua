--- Recipe: sum, mean, maximum, variance over a set of axes. A tile is a run of outputs; pointwise work in front is computed
-- at every load, work behind on the finished run.
local chain = require "esper.emit_chain"
local fold = require "esper.emit_fold"

local WORK = 16384                 -- elements read per tile, about
local LONGEST, UNKNOWN = 1024, 32  -- outputs per tile: at most, and when the terms of one are a symbol

local function plain(_, x) return x end
local function mean(b, sum, count) return b:div(sum, count) end

local function squared_distance(b, x, centre)
  local d = b:sub(x, centre)
  return b:mul(d, d)
end

-- NaN where the degrees of freedom are none.
local function variance(correction)
  return function(b, sum, count)
    local freedom = b:sub(count, b:splat(correction))
    return b:div(sum, b:select(b:lt(b:splat(0), freedom), freedom, b:splat(0 / 0)))
  end
end

local OP = {
  reduce_sum = function() return { { kind = "sum", value = plain } } end,
  reduce_max = function() return { { kind = "max", value = plain } } end,
  reduce_mean = function() return { { kind = "sum", value = plain, finish = mean } } end,
  reduce_var = function(k)
    return { { kind = "sum", value = plain, finish = mean },
             { kind = "sum", value = squared_distance, finish = variance(k.graph:attr(k.group.anchor, "correction")) } }
  end,
}

-- The kept and the reduced axes of the input, from 1.
local function split_axes(k, id, rank)
  local gone, kept, reduced = {}, {}, {}
  for _, axis in ipairs(k.graph:attr(id, "axes")) do gone[axis + 1] = true end
  for axis = 1, rank do table.insert(gone[axis] and reduced or kept, axis) end
  return kept, reduced
end

-- Do neighbouring kept positions lie side by side, in more operands than neighbouring reduced ones do?
local function sideways(k, plan, space, kept, reduced)
  local balance = 0
  for _, vote in ipairs { { kept, 1 }, { reduced, -1 } } do
    local lists = {}
    for i, source in ipairs(plan.sources) do lists[i] = fold.pick(source.strides, vote[1]) end
    local _, collapsed = k:collapse(fold.pick(space, vote[1]), lists)
    for i in ipairs(plan.sources) do
      if k.dims:value(collapsed[i][#collapsed[i]]) == 1 then balance = balance + vote[2] end
    end
  end
  return balance > 0
end

local function emit(k, group)
  local id = group.anchor
  local op, space, dtype = k.graph:op(id), k.graph:shape(k.graph:inputs(id)[1]), k.graph:dtype(id)
  local kept, reduced = split_axes(k, id, #space)
  local terms, outputs = k:product(fold.pick(space, reduced)), k:product(group.space)
  local known = k.dims:value(terms)
  local size = known and math.max(1, math.min(LONGEST, math.floor(WORK / math.max(known, 1)))) or UNKNOWN
  k:step{ tiles = k:ceildiv(outputs, size) }
  k:tiles(function(t)
    local start, n = k:range(t, size, outputs)
    local nodes = { unpack(group.prologue) }
    nodes[#nodes + 1] = id
    local plan = chain.plan(k, { nodes = nodes, custom = { [id] = { inputs = { group.args[id][1] } } } })
    local result = k:buffer(dtype, size)
    fold.run(k, {
      space = space, kept = kept, reduced = reduced, sideways = sideways(k, plan, space, kept, reduced), start = start, n = n,
      plan = plan, front = group.prologue, input = plan.inputs[id][1], terms = terms, stats = OP[op](k), into = result,
    })
    k:epilogue{ start = start, n = n, from = "(char *)" .. result }
  end)
end

return { name = "reduce", emit = emit }
