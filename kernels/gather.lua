--- Gather: out[.., i, ..] = x[.., idx[.., i, ..], ..] along one axis; a bad index reports a fault and gives 0.
-- Where one index serves a whole contiguous row of the output (it was expanded), rows are copied (row_blocks.lua) and a
-- tile is ROWS of them; else one element at a time through both strides, a tile being CHUNK consecutive output elements.

local rows = require "kernels.row_blocks"

local CHUNK = 1024
local ROWS = 16

-- The axes behind `axis` as one row: its width and x's stride along it (dims); nil where they are not one axis, or the
-- index changes within.
local function row_of(k, x, index, out, axis)
  local extents, along, result = {}, {}, {}
  local strides = k:contiguous(out)
  for a = axis + 1, #out do
    if k.dims:value(index.strides[a]) ~= 0 then return nil end
    extents[#extents + 1], along[#along + 1], result[#result + 1] = out[a], x.strides[a], strides[a]
  end
  if #extents == 0 then return nil end
  local one, lists = k:collapse(extents, { along, result })
  if #one == 1 and k.dims:value(one[1]) ~= 1 then return one[1], lists[1][1] end
end

local function by_rows(k, group, x, index, axis, width, step)
  local D, id = k.dims, group.anchor
  local out, bytes = k.graph:shape(id), k:bytes(x.dtype)
  local positions, along, at = {}, {}, {}
  for a = 1, axis do
    positions[a], at[a], along[a] = out[a], index.strides[a], a == axis and D:const(0) or x.strides[a]
  end
  local total = k:product(positions)
  local temp = not k.stored and k:temp(D:mul(k:product(out), D:const(bytes)))
  k:step { tiles = D:ceildiv(total, ROWS) }
  local base, n = temp and k:ptr(temp) or k:write(id), k:dim(width)
  k:tiles(function(t)
    local first, count = k:range(t, ROWS, total)
    rows.copy_rows(k, { positions = positions, index = index, index_strides = at, x = x, x_strides = along,
      axis_stride = x.strides[axis], axis_extent = k.graph:shape(k.graph:inputs(id)[1])[axis], width = width, step = step,
      to = base }, first, count)
    k:epilogue { start = ("%s * %s"):format(first, n), n = ("%s * %s"):format(count, n),
      from = temp and ("%s + %s * %s * %dL"):format(base, first, n, bytes) or nil }
  end)
end

-- A run of elements through C, four a step where steps are known: `v` is the walk's, `out` the address of its first element.
local function run(k, x, index, axis, extent, v, out)
  local I, T, D = k:ctype(index.dtype), k:ctype(x.dtype), k.dims
  k:line("const %s *at = (const %s *)%s;", I, I, v[1].ptr)
  k:line("const %s *from = (const %s *)%s;", T, T, v[2].ptr)
  k:line("%s *to = (%s *)(%s), *const end = to + %s;", T, T, out, v.n)
  k:line("const unsigned long limit = %s;", k:dim(extent))
  local stride = D:value(x.strides[axis]) == 1 and "" or " * " .. k:dim(x.strides[axis])
  local steps = { D:value(v[1].step), D:value(v[2].step) }
  local function steps_of(wide)
    for u = 0, wide - 1 do
      k:line("i = at[%d];", u * (steps[1] or 0))
      k:line("if ((unsigned long)i < limit) to[%d] = from[i%s + %d];", u, stride, u * (steps[2] or 0))
      k:line("else { to[%d] = 0; %s }", u, k:fault(index))
    end
    k:line("to += %dL; at += %s * %dL; from += %s * %dL;", wide, k:dim(v[1].step), wide, k:dim(v[2].step), wide)
    k:close()
  end
  k:line("long i;")
  if steps[1] and steps[2] then
    k:open("while (end - to >= 4)")
    steps_of(4)
  end
  k:open("while (to != end)")
  steps_of(1)
end

local function by_elements(k, group, x, index, axis)
  local D, id = k.dims, group.anchor
  local out, dtype = k.graph:shape(id), k.graph:dtype(id)
  local extent = k.graph:shape(k.graph:inputs(id)[1])[axis]
  local total, bytes = k:product(out), k:bytes(dtype)
  k:step { tiles = D:ceildiv(total, CHUNK) }
  local raw = not k.stored and k:buffer(dtype, CHUNK)
  local off = {} -- x's strides without the indexed axis
  for a, stride in ipairs(x.strides) do off[a] = a == axis and D:const(0) or stride end
  k:tiles(function(t)
    local first, count = k:range(t, CHUNK, total)
    k:walk {
      extents = out, start = first, n = count,
      operands = {
        { at = k:read(index), offset = index.offset, strides = index.strides, bytes = k:bytes(index.dtype) },
        { at = k:read(x), offset = x.offset, strides = off, bytes = bytes },
      },
      body = function(v)
        run(k, x, index, axis, extent, v, raw and ("%s + (%s - %s)"):format(raw, v.pos, first)
          or ("%s + %s * %dL"):format(k:write(id), v.pos, bytes))
      end,
    }
    k:epilogue { start = first, n = count, from = raw or nil }
  end)
end

local function emit(k, group)
  local id = group.anchor
  local x, index = unpack(group.args[id])
  local axis = k.graph:attr(id, "axis") + 1
  local width, step = row_of(k, x, index, k.graph:shape(id), axis)
  if width and (x.dtype == "f32" or x.dtype == "f64") then return by_rows(k, group, x, index, axis, width, step) end
  by_elements(k, group, x, index, axis)
end

return { name = "gather", emit = emit }
