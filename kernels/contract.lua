--- Contractions: linear and matmul, any strides, broadcast batch axes, bias and pointwise epilogue fused.
--
-- out[batch, m, n] = bias[n] + sum_k a[batch, m, k] b[batch, k, n]. The axes of the output but the last become one axis m,
-- along which b does not change, and the batch axes before it. A short epilogue, bias included, finishes sums in registers, any
-- other from a stack buffer. Two forms, written by contract_forms.lua, each a step of its own:
--   dots   inner products; a's and b's k steps are 1. For few rows, where it reads b once, as it lies and at the speed of
--          memory, and for few columns. Packs nothing.
--   tiles  register tiles, one row high for very few rows; reads a as it lies when its k step is 1, b when its n step is
--          1. What lies otherwise is packed: b into panels as wide as a register tile, a piece of k at a time, for all rows
--          of the tile while it is in L1.
-- While parameters are frozen, tiles read b from panels that a step of its own packed once, for any number of rows.
-- Invariant: form and tiles follow from the shape alone; when that is known at run time only, the step of the other form has
-- no tiles. A sum is taken in the order of its form, wherever it stands in a tile.

local forms = require "kernels.contract_forms"

-- Rows up to which dots are used with registers enough for 4 x 4 sums and operands, and with fewer; at least 4, and no more than
-- one per so many bytes of a row: tiles pay for packing, dots for adding up lanes.
local FEW = { wide = { rows = 48, bytes = 32 }, narrow = { rows = 16, bytes = 64 } }
local NARROW, DEEP = 24, 64 -- up to so many columns, from so much depth on, dots waste less than tiles
local NEVER = 2 ^ 40      -- more rows than there can be

-- The operands of the anchor in one form: row axes (extents, strides of a and b), n and k strides, all dims.
local function operands(k, group)
  local D, id = k.dims, group.anchor
  local args, inputs = group.args[id], k.graph:inputs(id)
  local a, b = args[1], args[2]
  local out, shape_a = k.graph:shape(id), k.graph:shape(inputs[1])
  local linear = k.graph:op(id) == "linear"
  local ta = not linear and k.graph:attr(id, "ta") == 1
  local tb = linear or k.graph:attr(id, "tb") == 1
  local ra, rb = #a.strides, #b.strides
  local function batch(arg, rank, input, from_end)
    local at = rank - from_end + 1
    local extent = at >= 1 and k.graph:shape(input)[at]
    return extent and extent == out[#out - from_end + 1] and arg.strides[at] or D:const(0)
  end
  local rows, sa, sb = {}, {}, {}
  for axis = 1, #out - 1 do
    local from_end = #out - axis + 1 -- 2 is the m axis
    rows[axis] = out[axis]
    if linear then
      sa[axis], sb[axis] = a.strides[axis], D:const(0)
    elseif from_end == 2 then
      sa[axis], sb[axis] = a.strides[ta and ra or ra - 1], D:const(0)
    else
      sa[axis], sb[axis] = batch(a, ra, inputs[1], from_end), batch(b, rb, inputs[2], from_end)
    end
  end
  return {
    a = a, b = b, bias = args[3], rows = rows, sa = sa, sb = sb, n = out[#out],
    k = ta and shape_a[#shape_a - 1] or shape_a[#shape_a],
    ak = a.strides[ta and ra - 1 or ra],
    bk = b.strides[tb and rb or rb - 1], bn = b.strides[tb and rb - 1 or rb],
  }
end

-- Adds to o: batch axes, m and a's stride along it, and how the operands lie.
local function describe(k, group)
  local D, o = k.dims, operands(k, group)
  o.id, o.dtype = group.anchor, k.graph:dtype(group.anchor)
  o.bytes, o.lanes = k:bytes(o.dtype), k:lanes(o.dtype)
  local extents, lists = k:collapse(o.rows, { o.sa, o.sb })
  o.batch, o.batch_a, o.batch_b = extents, lists[1], lists[2]
  o.m, o.am = D:const(1), D:const(0)
  if D:value(lists[2][#extents]) == 0 then
    o.m, o.am = table.remove(extents), table.remove(lists[1])
    table.remove(lists[2])
  end
  local function one(stride, extent) return D:value(stride) == 1 or D:value(extent) == 1 end
  o.a_along_k, o.a_along_m = one(o.ak, o.k), one(o.am, o.m)
  o.b_along_k, o.b_along_n = one(o.bk, o.k), one(o.bn, o.n)
  o.whole = (D:value(o.k) or 1) % (2 * o.lanes) == 0
  if o.bias then -- as an operand over the output
    local strides = {}
    for axis = 1, #group.space do strides[axis] = D:const(0) end
    strides[#strides] = o.bias.strides[1]
    o.plus = { base = o.bias.base, offset = o.bias.offset, strides = strides, dtype = o.bias.dtype }
  end
  return o
end

-- Rows up to which dots are used; 0: never, NEVER: always.
local function few_rows(k, o)
  local D = k.dims
  if not (o.a_along_k and o.b_along_k) then return 0 end
  local n, depth = D:value(o.n), D:value(o.k)
  if n and n <= NARROW and (not depth or depth >= DEEP) then return NEVER end
  local few = FEW[o.lanes * o.bytes == 64 and "wide" or "narrow"]
  return math.max(4, math.min(few.rows, math.floor((depth or NEVER) * o.bytes / few.bytes)))
end

-- 1 when m > rows, else 0, as a dim.
local function more_than(D, m, rows)
  if rows == 0 then return D:const(1) end
  if rows == NEVER then return D:const(0) end
  return D:ceildiv(D:floordiv(m, rows + 1), NEVER)
end

-- Is b a parameter that panels are worth keeping of?
local function keeps(k, o, few)
  return k:constant(o.b) and #o.batch == 0 and few ~= NEVER and not o.b_along_n
end

-- The same as out' = b' a': rows and columns change places.
local function transposed(o)
  local t = {}
  for key, value in pairs(o) do t[key] = value end
  t.a, t.am, t.ak, t.batch_a, t.a_along_k, t.a_along_m = o.b, o.bn, o.bk, o.batch_b, o.b_along_k, o.b_along_n
  t.b, t.bn, t.bk, t.batch_b, t.b_along_k, t.b_along_n = o.a, o.am, o.ak, o.batch_a, o.a_along_k, o.a_along_m
  t.m, t.n = o.n, o.m
  return t
end

local function emit_many(k, o, active, when)
  local n = k.dims:value(o.n)
  if n and n <= forms.TURNED and not o.b_along_k then
    return forms.tiles(k, transposed(o), active, forms.turned_form(o), "turned tiles", when)
  end
  forms.tiles(k, o, active, forms.tile_form(k, o, (n or 1) % (4 * o.lanes) ~= 0), "tiles", when)
end

local function emit(k, group)
  local D, o = k.dims, describe(k, group)
  local few, when = few_rows(k, o), nil
  if few > 0 and few < NEVER then few = k:choice("contract_few", { few, math.floor(few / 2), 2 * few }) end
  if keeps(k, o, few) then
    local form = forms.tile_form(k, o, false, true)
    forms.tiles(k, o, D:const(1), form, "panel tiles", "frozen", forms.panels(k, o, form))
    when = "fluid"
  end
  local many = more_than(D, o.m, few)
  if D:value(many) ~= 1 then forms.dots(k, o, D:sub(D:const(1), many), few == NEVER, when) end
  if D:value(many) == 0 then return end
  if few == 0 and o.b_along_n then
    many = more_than(D, o.m, forms.SINGLE_ROWS)
    if D:value(many) ~= 1 then forms.tiles(k, o, D:sub(D:const(1), many), forms.single_rows(o), "rows", when) end
  end
  if D:value(many) ~= 0 then emit_many(k, o, many, when) end
end

return { name = "contract", emit = emit }
