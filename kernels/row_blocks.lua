--- Rows moved by index: the vector blocks that copy, add and clear one row, and the loop that copies rows an index names.
-- Used by embedding.lua, gather.lua and scatter.lua.
-- Invariant: a row whose index is out of range is never read or written; it reports a fault.

local M = {}

local WIDE = 4 -- vectors of a step where rows are contiguous

--- words: n, out: n elements become 0
function M.zero(b)
  local n, out = b:arg(0), b:arg(1)
  b:each(n, { out }, function(mask) b:store(out, b:splat(0), 0, mask) end)
end

-- out[i] = make(mask, x[i], k): WIDE vectors at a time, then the rest.
local function contiguous(b, n, x, out, make)
  local size, left = b.lanes * b.bytes, b:copy(n)
  b:loop(b:g_shrk(n, math.log(WIDE * b.lanes, 2)), function()
    local v = {}
    for i = 1, WIDE do v[i] = make(nil, b:load(x, (i - 1) * size), (i - 1) * size) end
    for i = 1, WIDE do b:store(out, v[i], (i - 1) * size) end
    for _, p in ipairs { x, out } do b:g_set(p, b:g_addk(p, WIDE * size)) end
    b:g_set(left, b:g_addk(left, -WIDE * b.lanes))
  end)
  b:each(left, { x, out }, function(mask) b:store(out, make(mask, b:load(x, 0, mask), 0), 0, mask) end)
end

--- words: n, x, x step (bytes), out: a contiguous row out = x, or out += x with `adding`. unit: x is contiguous too.
function M.move(unit, adding)
  return function(b)
    local n, x, step, out = b:arg(0), b:arg(1), b:arg(2), b:arg(3)
    local function make(mask, v, k) return adding and b:add(b:load(out, k, mask), v) or v end
    if unit then return contiguous(b, n, x, out, make) end
    b:each(n, { { x, step = step }, out }, function(mask) b:store(out, make(mask, b:loads(x, step, 0, mask), 0), 0, mask) end)
  end
end

--- The C name of the block of move for operands of stride `stride` (dim, elements).
function M.mover(k, dtype, stride, adding)
  local unit = k.dims:value(stride) == 1
  return k:block(M.move(unit, adding), dtype, ("row %s %s"):format(adding and "add" or "copy", tostring(unit)))
end

--- Copies rows first .. first + count - 1 (C expressions) of the row-major space o.positions to `to`: the row that o.index
-- names at each position.
--   o  positions = extents; index = arg, index_strides; x = arg, x_strides: along the positions; axis_stride, axis_extent:
--      of what the index counts; width, step: elements of a row and their stride (dims); to = char * of row 0
function M.copy_rows(k, o, first, count)
  local D, bytes, T = k.dims, k:bytes(o.x.dtype), k:ctype(o.index.dtype)
  local copy = M.mover(k, o.x.dtype, o.step)
  local zero = k:block(M.zero, o.x.dtype, "row zero")
  local width = k:dim(o.width)
  local w = k:name("words")
  k:line("long %s[4]; %s[0] = %s; %s[2] = %s * %dL;", w, w, width, w, k:dim(o.step), bytes)
  k:walk {
    extents = o.positions, start = first, n = count,
    operands = {
      { at = k:read(o.index), offset = o.index.offset, strides = o.index_strides, bytes = k:bytes(o.index.dtype) },
      { at = k:read(o.x), offset = o.x.offset, strides = o.x_strides, bytes = bytes },
    },
    body = function(v)
      k:line("const %s *at = (const %s *)%s;", T, T, v[1].ptr)
      k:line("char *from = %s, *to = %s + %s * %s * %dL;", v[2].ptr, o.to, v.pos, width, bytes)
      k:line("const long axis = %s * %dL, limit = %s;", k:dim(o.axis_stride), bytes, k:dim(o.axis_extent))
      k:open("for (long left = %s; left > 0; left--)", v.n)
      k:line("const long row = *at;")
      k:open("if (row >= 0 && row < limit)")
      k:line("%s[1] = (long)(from + row * axis); %s[3] = (long)to;", w, w)
      k:line("%s(%s);", copy, w)
      k:close(" else {")
      k:line("  %s", k:fault(o.index))
      k:call(zero, { width, "to" })
      k:line("}")
      k:line("at += %s; to += %s * %dL;", k:dim(v[1].step), width, bytes)
      if D:value(v[2].step) ~= 0 then k:line("from += %s * %dL;", k:dim(v[2].step), bytes) end
      k:close()
    end,
  }
end

return M
