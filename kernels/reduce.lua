--- Recipe: sum, mean, maximum, variance over a set of axes. A tile is a run of outputs, kept in a
-- stack array while the reduced axes pass by; pointwise work in front is computed at every load,
-- work behind on the finished run.
local fold = require "esper.emit_fold"

local function plain(_, x) return x end
local function squared_distance(b, x, mean)
  local d = b:sub(x, mean)
  return b:mul(d, d)
end

-- The kept and the reduced axes of the input, from 1.
local function split_axes(k, id, rank)
  local gone, kept, reduced = {}, {}, {}
  for _, axis in ipairs(k.graph:attr(id, "axes")) do gone[axis + 1] = true end
  for axis = 1, rank do table.insert(gone[axis] and reduced or kept, axis) end
  return kept, reduced
end

local function emit(k, group)
  local id = group.anchor
  local op, space, dtype = k.graph:op(id), k.graph:shape(k.graph:inputs(id)[1]), k.graph:dtype(id)
  local kept, reduced = split_axes(k, id, #space)
  local gone = {}
  for i, axis in ipairs(reduced) do gone[i] = space[axis] end
  local terms, outputs = k:product(gone), k:product(group.space)
  local size = fold.outputs_per_tile(k, terms)
  k:step{ tiles = k:ceildiv(outputs, size) }
  k:tiles(function(t)
    local start, n = k:range(t, size, outputs)
    local result = k:buffer(dtype, size)
    local spec = {
      space = space, kept = kept, reduced = reduced, nodes = group.prologue, inputs = { group.args[id][1] },
      kind = op == "reduce_max" and "max" or "sum", element = plain, start = start, n = n, into = result,
    }
    fold.clear(k, spec.kind, result, n)
    if op == "reduce_var" then
      local mean = k:buffer(dtype, size)
      fold.clear(k, "sum", mean, n)
      spec.into = mean
      fold.run(k, spec)
      fold.divide(k, mean, n, k:dim(terms), dtype)
      spec.into, spec.element = result, squared_distance
      spec.inputs[2] = { at = mean, strides = fold.over_kept(k, space, kept), minus = start, dtype = dtype }
    end
    fold.run(k, spec)
    if op == "reduce_mean" then fold.divide(k, result, n, k:dim(terms), dtype) end
    if op == "reduce_var" then
      local freedom = ("(%s - %dL)"):format(k:dim(terms), k.graph:attr(id, "correction"))
      fold.divide(k, result, n, freedom, dtype)
    end
    k:epilogue{ start = start, n = n, from = "(char *)" .. result }
  end)
end

return { name = "reduce", emit = emit }
