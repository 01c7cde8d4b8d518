--- Scatter-add: out = x, then out[.., idx[.., i, ..], ..] += src[.., i, ..] along one axis, in index order.
-- No two tiles touch one element, and within a tile additions go in the order of indices. Two steps: the sums, into the
-- output or a temporary, then the epilogue. A tile of the first is
--   slab   where the axes behind the indexed one are one axis for all operands: COLUMNS of these columns, all along the
--          indexed axis, so memory is walked in rows; a row that one index serves is added as vectors
--   lines  else: LINES lines along the indexed axis, one after the other.

local rows = require "kernels.row_blocks"

local COLUMNS = 256
local LINES = 16

-- All that the emitters share. a.at: where the indexed axis is.
local function describe(k, group)
  local D, id = k.dims, group.anchor
  local x, index, src = unpack(group.args[id])
  local a = { id = id, x = x, index = index, src = src, shape = k.graph:shape(id), at = k.graph:attr(id, "axis") + 1,
    dtype = k.graph:dtype(id), index_shape = k.graph:shape(k.graph:inputs(id)[2]) }
  a.bytes, a.strides = k:bytes(a.dtype), k:contiguous(a.shape)
  a.temp = not k.stored and k:temp(D:mul(k:product(a.shape), D:const(a.bytes)))
  a.float = a.dtype == "f32" or a.dtype == "f64"
  return a
end

-- The axes behind the indexed one as one axis: its extent and the strides of x, index and src along it (dims).
local function columns_of(k, a)
  local extents, lists = {}, { {}, {}, {}, {} }
  for axis = a.at + 1, #a.shape do
    if a.index_shape[axis] ~= a.shape[axis] then return nil end
    extents[#extents + 1] = a.shape[axis]
    for i, strides in ipairs { a.x.strides, a.index.strides, a.src.strides, a.strides } do
      lists[i][#extents] = strides[axis]
    end
  end
  local one, along = k:collapse(extents, lists)
  if #one ~= 1 or k.dims:value(one[1]) == 1 then return nil end
  return { count = one[1], x = along[1][1], index = along[2][1], src = along[3][1] }
end

-- Coordinates `at` of the axes before the indexed one are inside the index, which may be smaller than x there.
local function inside(k, a, at)
  local tests = {}
  for axis, c in pairs(at) do
    if axis ~= a.at and a.index_shape[axis] ~= a.shape[axis] then tests[#tests + 1] = ("%s < %s"):format(c, k:dim(a.index_shape[axis])) end
  end
  table.sort(tests)
  return #tests > 0 and table.concat(tests, " && ") or "1"
end

local function size(k, a, d) return ("%s * %dL"):format(k:dim(d), a.bytes) end

local function pointer(k, type, name, expr)
  local T = k:ctype(type)
  k:line("%s *%s = (%s *)(%s);", T, name, T, expr)
end

-- to[which[c] * stride of the axis (+ c, with `across`)] += add[c] for c < count (C expression), four a step where the
-- strides of which and add (dims) are known.
local function add_elements(k, a, count, index_stride, src_stride, across)
  local D = k.dims
  local row = D:value(a.strides[a.at]) == 1 and "row" or "row * " .. k:dim(a.strides[a.at])
  k:line("long c = 0, row;")
  for _, wide in ipairs(D:value(index_stride) and D:value(src_stride) and { 4, 1 } or { 1 }) do
    k:open("for (; c + %dL <= %s; c += %dL)", wide, count, wide)
    for u = 0, wide - 1 do
      local function place(stride)
        return "c * " .. k:dim(stride) .. (u > 0 and (" + %d"):format(u * D:value(stride)) or "")
      end
      k:line("row = which[%s];", place(index_stride))
      k:line("if ((unsigned long)row < limit) to[%s%s] += add[%s];", row, across and (" + c + %d"):format(u) or "", place(src_stride))
      k:line("else { %s }", k:fault(a.index))
    end
    k:close()
  end
end

-- Adds src rows 0 .. to the rows of the slab that begins at `slab`; `which` and `add` point to column c0.
local function add_rows(k, a, columns)
  local one_index = k.dims:value(columns.index) == 0
  local adder = one_index and a.float and rows.mover(k, a.dtype, columns.src, true)
  k:open("for (long j = 0; j < %s; j++)", k:dim(a.index_shape[a.at]))
  if adder then
    k:line("const long row = *which;")
    k:open("if ((unsigned long)row < limit)")
    k:call(adder, { "n", "(char *)add", size(k, a, columns.src), ("slab + row * %s"):format(size(k, a, a.strides[a.at])) })
    k:close((" else { %s }"):format(k:fault(a.index)))
  else
    pointer(k, a.dtype, "to", "slab")
    add_elements(k, a, "n", columns.index, columns.src, true)
  end
  k:line("which += %s; add += %s;", k:dim(a.index.strides[a.at]), k:dim(a.src.strides[a.at]))
  k:close()
end

local function by_slabs(k, a, columns)
  local D, outer = k.dims, {}
  for axis = 1, a.at - 1 do outer[axis] = a.shape[axis] end
  local mover = a.float and rows.mover(k, a.dtype, columns.x)
  local cuts = D:ceildiv(columns.count, COLUMNS)
  k:step { tiles = D:mul(k:product(outer), cuts), label = "slabs" }
  local base = a.temp and k:ptr(a.temp) or k:write(a.id)
  k:tiles(function(t)
    k:line("const long c0 = %s %% %s * %dL;", t, k:dim(cuts), COLUMNS)
    k:line("const long n = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(columns.count), COLUMNS, k:dim(columns.count), COLUMNS)
    local at = k:unravel(outer, ("%s / %s"):format(t, k:dim(cuts)))
    if #outer == 0 then at = {} end
    k:line("char *const slab = %s + (%s + c0) * %dL;", base, k:offset(nil, a.strides, at), a.bytes)
    k:line("char *from = %s + c0 * %s;", k:at(a.x, at), size(k, a, columns.x))
    k:open("for (long i = 0; i < %s; i++)", k:dim(a.shape[a.at]))
    if mover then
      k:call(mover, { "n", ("from + i * %s"):format(size(k, a, a.x.strides[a.at])), size(k, a, columns.x),
        ("slab + i * %s"):format(size(k, a, a.strides[a.at])) })
    else
      k:line("for (long c = 0; c < n; c++) %s[i * %s + c] = %s[i * %s + c * %s];", k:raw("slab", a.dtype), k:dim(a.strides[a.at]),
        k:raw("from", a.dtype), k:dim(a.x.strides[a.at]), k:dim(columns.x))
    end
    k:close()
    k:open("if (%s)", inside(k, a, at))
    k:line("const unsigned long limit = %s;", k:dim(a.shape[a.at]))
    pointer(k, a.index.dtype, "which", ("%s + c0 * %s * %dL"):format(k:at(a.index, at), k:dim(columns.index), k:bytes(a.index.dtype)))
    pointer(k, a.dtype, "add", ("%s + c0 * %s"):format(k:at(a.src, at), size(k, a, columns.src)))
    add_rows(k, a, columns)
    k:close()
  end)
end

-- The line along the indexed axis at the coordinates `at` of the others.
local function one_line(k, a, mover, at)
  local stride, D = a.strides[a.at], k.dims
  pointer(k, a.dtype, "to", ("%s + (%s) * %dL"):format(a.base, k:offset(nil, a.strides, at), a.bytes))
  if not a.whole then pointer(k, a.dtype, "from", k:at(a.x, at)) end
  local extent, along = k:dim(a.shape[a.at]), k:dim(a.x.strides[a.at])
  if not a.whole and mover and D:value(stride) == 1 then
    k:call(mover, { extent, "from", size(k, a, a.x.strides[a.at]), "to" })
  elseif not a.whole then
    k:line("for (long j = 0; j < %s; j++) to[j * %s] = from[j * %s];", extent, k:dim(stride), along)
  end
  k:open("if (%s)", inside(k, a, at))
  pointer(k, a.index.dtype, "which", k:at(a.index, at))
  pointer(k, a.dtype, "add", k:at(a.src, at))
  k:line("const unsigned long limit = %s;", extent)
  add_elements(k, a, k:dim(a.index_shape[a.at]), a.index.strides[a.at], a.src.strides[a.at], false)
  k:close()
end

local function by_lines(k, a)
  local D, lines = k.dims, {}
  for axis, e in ipairs(a.shape) do if axis ~= a.at then lines[#lines + 1] = e end end
  local total = k:product(lines)
  local mover = a.float and rows.mover(k, a.dtype, a.x.strides[a.at])
  k:step { tiles = D:ceildiv(total, LINES), label = "lines" }
  a.base = a.temp and k:ptr(a.temp) or k:write(a.id)
  local _, lists = k:collapse(a.shape, { a.x.strides, a.strides })
  a.whole = mover and a.at == #a.shape and #lists[1] == 1 and D:value(lists[1][1]) == 1 -- x lies as the output does
  k:tiles(function(t)
    local first, count = k:range(t, LINES, total)
    if a.whole then
      local extent = k:dim(a.shape[a.at])
      local skip = ("%s * %s * %dL"):format(first, extent, a.bytes)
      k:call(mover, { ("%s * %s"):format(count, extent), ("%s + %s"):format(k:at(a.x, {}), skip), a.bytes .. "L",
        ("%s + %s"):format(a.base, skip) })
    end
    k:open("for (long number = %s; number < %s + %s; number++)", first, first, count)
    local at = {}
    for i, name in ipairs(k:unravel(lines, "number")) do
      if lines[i] then at[i < a.at and i or i + 1] = name end
    end
    at[a.at] = 0
    one_line(k, a, mover, at)
    k:close()
  end)
end

local function emit(k, group)
  local a = describe(k, group)
  local columns = columns_of(k, a)
  if columns then by_slabs(k, a, columns) else by_lines(k, a) end
  k:epilogue_step(a.temp)
end

return { name = "scatter", emit = emit }
