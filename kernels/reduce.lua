--- Recipe: sum, mean, maximum, variance over a set of axes. Pointwise work in front is computed at every load, work behind
-- on finished runs of outputs.
--
-- A tile is a run of outputs. Where that would leave few tiles, or columns too narrow for the caches, the reduced axes are
-- cut into pieces as well: one step folds every piece into a temporary, a second one the pieces. The variance of pieces
-- with n_p elements, means m_p and squared distances Q_p is that of sum Q_p + n_p (m_p - m)^2 (Chan, Golub, LeVeque, 1983).
local chain = require "esper.emit_chain"
local fold = require "esper.emit_fold"

local WORK = 16384                 -- elements read per tile, about
local LONGEST, UNKNOWN = 1024, 32  -- outputs per tile: at most, and when the terms of one are a symbol
local PIECE = 65536                -- elements of a piece with all outputs of its tile, about
local ROWS = 64                    -- and at most so many terms for outputs side by side: rounds (run/plan.h) are made of pieces
local FEW = 8                      -- tiles that are worth cutting for

local function plain(_, x) return x end
local function distance(b, x, centre) return b:sub(x, centre) end

-- Q_p + n_p (m_p - m)^2 of x = { m_p, Q_p, n_p }.
local function together(b, x, m)
  local d = b:sub(x[1], m)
  return b:fma(b:mul(d, d), x[3], x[2])
end

-- NaN where the degrees of freedom are none.
local function variance(correction)
  return function(b, sum, count)
    local freedom = b:sub(count.vector, b:splat(correction))
    return b:div(sum, b:select(b:lt(b:splat(0), freedom), freedom, b:splat(0 / 0)))
  end
end

-- What a piece gives, and how pieces make the whole: statistics of emit_fold.lua. `whole` without pieces; `part`, then
-- `join` with pieces, whose elements are the statistics of `part` and the piece's number of elements.
local OP = {
  reduce_sum = function()
    local sum = { { kind = "sum", value = plain } }
    return { whole = sum, part = sum, join = sum }
  end,
  reduce_max = function()
    local max = { { kind = "max", value = plain } }
    return { whole = max, part = max, join = max }
  end,
  reduce_mean = function()
    local whole = { { kind = "sum", value = plain, finish = fold.mean } }
    return { whole = whole, part = { { kind = "sum", value = plain } }, join = whole }
  end,
  reduce_var = function(k)
    local finish = variance(k.graph:attr(k.group.anchor, "correction"))
    local first = { kind = "sum", value = plain, finish = fold.mean }
    return {
      whole = { first, { kind = "squares", value = distance, finish = finish } },
      part = { first, { kind = "squares", value = distance } },
      join = {
        { kind = "sum", value = function(b, x) return b:mul(x[1], x[3]) end, finish = fold.mean },
        { kind = "sum", value = together, finish = finish },
      },
    }
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
local function sideways(k, plan, r)
  local balance = 0
  for _, vote in ipairs { { r.kept, 1 }, { r.reduced, -1 } } do
    local _, strides = fold.collapsed(k, plan, r.space, vote[1])
    for i in ipairs(plan.sources) do
      if k.dims:value(strides[i][#strides[i]]) == 1 then balance = balance + vote[2] end
    end
  end
  return balance > 0
end

local function plan_of(k, group)
  local id, nodes = group.anchor, { unpack(group.prologue) }
  nodes[#nodes + 1] = id
  return chain.plan(k, { nodes = nodes, custom = { [id] = { inputs = { group.args[id][1] } } } })
end

-- ---- without pieces ----

local function emit_whole(k, group, r)
  local size = r.sideways and LONGEST or UNKNOWN
  local work = k:choice("reduce_tile", r.sideways and { PIECE, PIECE / 4 } or { WORK, WORK / 4, 4 * WORK })
  if r.known then size = math.max(1, math.min(LONGEST, math.floor(work / math.max(r.known, 1)))) end
  k:step{ tiles = k:ceildiv(r.outputs, size) }
  k:tiles(function(t)
    local start, n = k:range(t, size, r.outputs)
    local plan, result = plan_of(k, group), k:buffer(r.dtype, size)
    fold.run(k, {
      space = r.space, kept = r.kept, reduced = r.reduced, sideways = r.sideways, start = start, n = n, plan = plan,
      front = group.prologue, inputs = { plan.inputs[group.anchor][1] }, terms = r.terms, stats = r.op.whole,
      into = { { stat = #r.op.whole, at = "(char *)" .. result, minus = start } },
    })
    k:epilogue{ start = start, n = n, from = "(char *)" .. result }
  end)
end

-- ---- with pieces ----

-- How the work is cut, or nil: the first collapsed reduced axis into pieces of `length`, outputs into chunks.
local function cut(k, r, plan)
  local outputs, terms = k.dims:value(r.outputs), r.known
  if not outputs then return nil end
  local chunk = r.sideways and math.min(math.max(outputs, 1), LONGEST) or 1
  if terms and terms * chunk <= 2 * PIECE or outputs / chunk >= FEW and (r.sideways or r.op.whole == r.op.part) then return nil end
  if outputs / chunk >= FEW and not terms then return nil end
  local extents = fold.collapsed(k, plan, r.space, r.reduced)
  local inner = k.dims:value(k:product { unpack(extents, 2) })
  if not inner then return nil end
  local length = math.max(1, math.floor(PIECE / chunk / math.max(inner, 1)))
  if r.sideways then length = math.min(length, ROWS) end
  return { chunk = chunk, length = length, inner = inner, extent = extents[1], pieces = k:ceildiv(extents[1], length) }
end

-- First step: every piece of every chunk of outputs. Temporaries hold [piece][output] of each statistic and [piece] counts.
local function emit_parts(k, group, r, c)
  local chunks, bytes = k:ceildiv(r.outputs, c.chunk), k:bytes(r.dtype)
  local each = k.dims:mul(k.dims:mul(c.pieces, r.outputs), k.dims:const(bytes))
  local temps = {}
  for i = 1, #r.op.part do temps[i] = k:temp(each) end
  local counts = #temps > 1 and k:temp(k.dims:mul(c.pieces, k.dims:const(bytes)))
  k:step{ tiles = k.dims:mul(c.pieces, chunks), label = "pieces" }
  k:tiles(function(t)
    local p, at = k:name "piece", k:name "chunk"
    k:line("long %s = %s / %s, %s = %s %% %s;", p, t, k:dim(chunks), at, t, k:dim(chunks))
    local start, n = k:range(at, c.chunk, r.outputs)
    local first, length = k:range(p, c.length, c.extent)
    local terms = ("%s * %dL"):format(length, c.inner)
    if counts then k:line("%s[%s] = %s;", k:raw(k:ptr(counts), r.dtype), p, terms) end
    local plan, into = plan_of(k, group), {}
    for i, temp in ipairs(temps) do
      into[i] = { stat = i, at = ("(%s + %s * %s * %dL)"):format(k:ptr(temp), p, k:dim(r.outputs), bytes) }
    end
    fold.run(k, {
      space = r.space, kept = r.kept, reduced = r.reduced, sideways = r.sideways, start = start, n = n, plan = plan,
      piece = { start = first, n = length }, front = group.prologue, inputs = { plan.inputs[group.anchor][1] }, terms = terms,
      stats = r.op.part, into = into,
    })
  end)
  temps[#temps + 1] = counts or nil
  return temps
end

-- Second step: a small space of [piece, output].
local function emit_join(k, group, r, c, temps)
  local one, zero = k.dims:const(1), k.dims:const(0)
  k:step{ tiles = k:ceildiv(r.outputs, LONGEST), label = "pieces together", joins = true }
  k:tiles(function(t)
    local start, n = k:range(t, LONGEST, r.outputs)
    local inputs = {}
    for i, temp in ipairs(temps) do
      local count = i > #r.op.part
      inputs[i] = { at = k:ptr(temp), strides = count and { one, zero } or { r.outputs, one }, dtype = r.dtype }
    end
    local plan = chain.plan(k, { nodes = { group.anchor }, custom = { [group.anchor] = { inputs = inputs } } })
    local result = k:buffer(r.dtype, LONGEST)
    fold.run(k, {
      space = { c.pieces, r.outputs }, kept = { 2 }, reduced = { 1 }, sideways = true, start = start, n = n, plan = plan,
      front = {}, inputs = plan.inputs[group.anchor], terms = r.terms, stats = r.op.join,
      into = { { stat = #r.op.join, at = "(char *)" .. result, minus = start } },
    })
    k:epilogue{ start = start, n = n, from = "(char *)" .. result }
  end)
end

return {
  name = "reduce",
  emit = function(k, group)
    local id = group.anchor
    local r = { space = k.graph:shape(k.graph:inputs(id)[1]), dtype = k.graph:dtype(id), outputs = k:product(group.space),
                op = OP[k.graph:op(id)](k) }
    r.kept, r.reduced = split_axes(k, id, #r.space)
    r.terms = k:product(fold.pick(r.space, r.reduced))
    r.known = k.dims:value(r.terms)
    local plan = plan_of(k, group)
    r.sideways = sideways(k, plan, r)
    local c = cut(k, r, plan)
    if not c then return emit_whole(k, group, r) end
    emit_join(k, group, r, c, emit_parts(k, group, r, c))
  end,
}
