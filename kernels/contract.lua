--- Contractions: linear and matmul, any strides, broadcast batch axes, bias and pointwise epilogue fused.
--
-- out[batch, m, n] = bias[n] + sum_k a[batch, m, k] b[batch, k, n]. The axes of the output but the last become one axis m,
-- along which b does not change, and the batch axes before it. Raw sums go to a stack buffer; the epilogue finishes
-- them from there, bias included. Two forms, each a step of its own (blocks: contract_blocks.lua):
--   dots   inner products; a's and b's k steps are 1. For few rows, where it reads b once, as it lies and at the speed of
--          memory, and for few columns. Packs nothing.
--   tiles  register tiles; reads a as it lies when its k step is 1, b when its n step is 1, and packs into stack buffers
--          otherwise: K_PIECE deep, b into panels as wide as a register tile, used by all rows of the tile while in L1.
-- Invariant: form and tiles follow from the shape alone; when that is known at run time only, the step of the other form has
-- no tiles. A sum is taken in the order of its form, wherever it stands in a tile.

local blocks = require "kernels.contract_blocks"

local K_PIECE = 512       -- bytes along k that are packed at a time
local FEW_ROWS = 16       -- up to here rows are done as dots
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
  if depth and depth < 2 * DEEP then return FEW_ROWS / 4 end
  return FEW_ROWS
end

-- 1 when m > rows, else 0, as a dim.
local function more_than(D, m, rows)
  if rows == 0 then return D:const(1) end
  if rows == NEVER then return D:const(0) end
  return D:ceildiv(D:floordiv(m, rows + 1), NEVER)
end

local function bytes_of(k, o, stride) return ("%s * %dL"):format(k:dim(stride), o.bytes) end

-- Starts a step whose tiles are `height` rows by `width` columns; body() is the code of one, with C names a, b (char *: first
-- elements of the tile's operands), row (of the output), m, n (extents of the tile).
local function step(k, o, active, label, height, width, body)
  local D = k.dims
  local across, down = D:ceildiv(o.n, width), D:ceildiv(o.m, height)
  k:step { tiles = D:mul(active, D:mul(k:product(o.batch), D:mul(down, across))), label = label }
  k:tiles(function(t)
    k:line("long c0 = %s %% %s * %dL, rest = %s / %s;", t, k:dim(across), width, t, k:dim(across))
    k:line("long m0 = rest %% %s * %dL, batch = rest / %s;", k:dim(down), height, k:dim(down))
    k:line("long m = %s - m0 < %dL ? %s - m0 : %dL;", k:dim(o.m), height, k:dim(o.m), height)
    k:line("long n = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(o.n), width, k:dim(o.n), width)
    k:line("long row = batch * %s + m0;", k:dim(o.m))
    local at = #o.batch > 0 and k:unravel(o.batch, "batch") or {}
    local function first(arg, strides, stride, start)
      local index, all = { unpack(at) }, { unpack(strides) }
      index[#index + 1], all[#all + 1] = start, stride
      return ("%s + (%s) * %dL"):format(k:read(arg), k:offset(arg.offset, all, index), o.bytes)
    end
    k:line("char *a_at = (char *)%s;", first(o.a, o.batch_a, o.am, "m0"))
    k:line("char *b_at = (char *)%s;", first(o.b, o.batch_b, o.bn, "c0"))
    body()
  end)
end

local function finish(k, o, raw, line)
  k:epilogue_rows { row = "row", rows = "m", column = "c0", n = "n", from = ("(char *)%s"):format(raw),
    from_step = ("%dL"):format(line * o.bytes), plus = o.plus }
end

local function emit_dots(k, o, active, narrow)
  local rows, columns = blocks.dots_shape(o.lanes)
  local height, width = FEW_ROWS, k:choice("contract_dots", { 128, 64, 256 })
  if narrow then height, width = 128, 32 end
  if o.bytes == 8 then width = width / 2 end
  local line = width + o.lanes
  local tag = o.whole and "whole" or "any"
  local dots = k:block(blocks.dots(rows, columns, o.whole), o.dtype, "contract dots " .. tag)
  local dot = k:block(blocks.dot(o.whole), o.dtype, "contract dot " .. tag)
  step(k, o, active, "dots", height, width, function()
    local raw, scratch = k:buffer(o.dtype, height * line), k:buffer(o.dtype, o.lanes * o.lanes)
    local am, bn, out = bytes_of(k, o, o.am), bytes_of(k, o, o.bn), line * o.bytes .. "L"
    local depth = k:dim(o.k)
    local function rest(from_row, count, from_column, groups, group)
      k:call(dot, { depth, ("a_at + %s * %s"):format(from_row, am), am, count, ("b_at + %s * %s"):format(from_column, bn), bn,
        groups, group, ("(char *)%s + (%s * %dL + %s) * %dL"):format(raw, from_row, line, from_column, o.bytes), out, scratch })
    end
    k:line("long rows = m / %dL, columns = n / %dL;", rows, columns)
    k:open("if (rows > 0)")
    k:call(dots, { depth, "a_at", am, "rows", "b_at", bn, "columns", raw, out })
    k:line("long done = columns * %dL;", columns)
    k:open("if (done < n)")
    rest("0", ("rows * %dL"):format(rows), "done", "1", "n - done")
    k:close()
    k:close()
    k:line("rows *= %dL;", rows)
    k:open("if (rows < m)")
    k:line("long done = n / %dL * %dL;", o.lanes, o.lanes)
    rest("rows", "m - rows", "0", ("n / %dL"):format(o.lanes), o.lanes)
    k:line("if (done < n)")
    rest("rows", "m - rows", "done", "1", "n - done")
    k:close()
    finish(k, o, raw, line)
  end)
end

-- Register tile and tile, rows and columns. What is packed is packed once per tile, so the tile is long across it; all
-- buffers together stay in 56 KiB.
local function tile_sizes(o, uneven_n)
  local mr, nv = blocks.tile_shape(o.lanes, o.dtype)
  local nr = nv * o.lanes
  local panel = math.max(nr, 128 / o.bytes)
  local height, width = 256, panel
  if o.a_along_k and o.b_along_n then height, width = 64, 4 * panel end
  if not o.a_along_k then height, width = 32, (o.b_along_n and not uneven_n and 8 or 4) * panel end
  return mr, nv, nr, math.floor(height / mr) * mr, width
end

local function emit_tiles(k, o, active)
  local D = k.dims
  local uneven_n = (D:value(o.n) or 1) % (4 * o.lanes) ~= 0
  local mr, nv, nr, height, width = tile_sizes(o, uneven_n)
  local piece = K_PIECE / o.bytes
  local tile = k:block(blocks.tile(mr, nv), o.dtype, ("contract tile %d %d"):format(mr, nv))
  local function packing(along)
    return along and k:block(blocks.turn(), o.dtype, "contract turn") or k:block(blocks.copy(), o.dtype, "contract copy")
  end
  local uneven_m = (D:value(o.m) or 1) % mr ~= 0
  local a_line = piece + 64 / o.bytes -- elements from row to row of packed a
  step(k, o, active, "tiles", height, width, function()
    local raw = k:buffer(o.dtype, height * width)
    local panel = (not o.b_along_n or uneven_n) and k:buffer(o.dtype, piece * nr)
    local a_rows = not o.a_along_k and math.ceil(height / o.lanes) * o.lanes or uneven_m and mr
    local packed = a_rows and k:buffer(o.dtype, a_rows * a_line)
    local ak, am, bk, bn = bytes_of(k, o, o.ak), bytes_of(k, o, o.am), bytes_of(k, o, o.bk), bytes_of(k, o, o.bn)
    local line, out = a_line * o.bytes .. "L", width * o.bytes .. "L"
    k:open("for (long k0 = 0; k0 == 0 || k0 < %s; k0 += %dL)", k:dim(o.k), piece)
    k:line("long depth = %s - k0 < %dL ? %s - k0 : %dL, full = m / %dL;", k:dim(o.k), piece, k:dim(o.k), piece, mr)
    k:line("char *a_k = a_at + k0 * %s, *b_k = b_at + k0 * %s;", ak, bk)
    if o.a_along_k then
      if uneven_m then
        k:line("if (full * %dL < m)", mr)
        k:call(packing(false), { ("m - full * %dL"):format(mr), "depth", ("a_k + full * %dL * %s"):format(mr, am), am, ak, packed,
          line })
      end
    elseif o.a_along_m then
      k:call(packing(true), { "depth", "m", "a_k", ak, packed, line })
    else
      k:call(packing(false), { "m", "depth", "a_k", am, ak, packed, line })
    end
    k:open("for (long j = 0; j < n; j += %dL)", nr)
    k:line("char *b_j = b_k + j * %s, *to = (char *)%s + j * %dL;", bn, raw, o.bytes)
    k:line("long b_step = %s;", o.b_along_n and bk or nr * o.bytes .. "L")
    if not o.b_along_n then
      k:line("long wide = n - j < %dL ? n - j : %dL;", nr, nr)
      k:call(packing(o.b_along_k), o.b_along_k and { "wide", "depth", "b_j", bn, panel, nr * o.bytes .. "L" }
        or { "depth", "wide", "b_j", bk, bn, panel, nr * o.bytes .. "L" })
      k:line("b_j = (char *)%s;", panel)
    elseif uneven_n then
      k:open("if (n - j < %dL)", nr)
      k:call(packing(false), { "depth", "n - j", "b_j", bk, bn, panel, nr * o.bytes .. "L" })
      k:line("b_j = (char *)%s; b_step = %dL;", panel, nr * o.bytes)
      k:close()
    end
    local tiles = o.a_along_k and "full" or ("(m + %dL) / %dL"):format(mr - 1, mr)
    k:call(tile, { "depth", o.a_along_k and "a_k" or packed, o.a_along_k and am or line, tiles, "b_j", "b_step", "to", out, "k0 > 0" })
    if o.a_along_k and uneven_m then
      k:line("if (full * %dL < m)", mr)
      k:call(tile, { "depth", packed, line, "1", "b_j", "b_step", ("to + full * %dL * %s"):format(mr, out), out, "k0 > 0" })
    end
    k:close()
    k:close()
    finish(k, o, raw, width)
  end)
end

local function emit(k, group)
  local D, o = k.dims, describe(k, group)
  local few = few_rows(k, o)
  local many = more_than(D, o.m, few)
  if D:value(many) ~= 1 then emit_dots(k, o, D:sub(D:const(1), many), few == NEVER) end
  if D:value(many) ~= 0 then emit_tiles(k, o, many) end
end

return { name = "contract", emit = emit }
