--- topk and topk_index: the k largest along one axis, descending, by insertion into a sorted list of k. NaN counts as
-- largest, equal values keep index order.
--
-- Up to SMALL values a lane of a vector is a line: every element passes down the k registers of the list and what it
-- displaces goes on in its place. A tile is LINES lines. Those that lie along the axis are turned, and taken as finite numbers,
-- which one comparison orders; when some are not, a second time. Beyond, a tile is one line and its list lies where results go
-- (values also in a temporary when only positions are wanted), so k has no limit but the axis.

local contract = require "kernels.contract_blocks"

local SMALL = 8
local LINES = 32
local TURNED = 32 * 1024 -- bytes of a tile of lines that are turned, at most

local function drop(list, axis)
  local out = {}
  for i, v in ipairs(list) do if i ~= axis then out[#out + 1] = v end end
  return out
end

-- One element of every lane into the sorted lists v (and p: positions, none of them yet < 0). At equal values the element
-- is the later one, so it stays behind; what is displaced goes before all that follows. finite: they all are.
local function insert(b, v, p, e, at, finite)
  local nan, taken, none = not finite and b:ne(e, e), nil, b:isplat(0)
  for m = 1, #v do
    local before = b:lt(v[m], e)
    if not finite then before = b:m_or(before, b:m_and(nan, b:eq(v[m], v[m]))) end
    if p and not finite then before = b:m_or(before, b:ilt(p[m], none)) end
    taken = taken and b:m_or(taken, before) or before
    local here, on = b:select(taken, e, v[m]), b:select(taken, v[m], e)
    b:set(v[m], here)
    e = on
    if p then
      local where, left = b:select(taken, at, p[m]), b:select(taken, p[m], at)
      b:set(p[m], where)
      at = left
    end
  end
end

-- words: lines, extent of the axis, x, x step from line to line, x step along the axis, out, out step from line to line,
-- out step along the axis (bytes). Results: values to out, or positions to out as integers of the element's width.
-- finite: one word more, of an element that becomes 0 when all were, else NaN and the results are worth nothing.
local function lanes_block(keep, positions, unit, finite)
  return function(b)
    local zeros = finite and b:splat(0)
    local extent, x, step, along, out = b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5)
    local out_step, out_along = b:arg(6), b:arg(7)
    b:each(b:arg(0), { { x, step = step }, { out, step = out_step } }, function(mask)
      local v, p, at, from, to = {}, positions and {}, nil, b:copy(x), b:copy(out)
      for m = 1, keep do
        v[m] = b:splat(-math.huge)
        if p then p[m] = b:isplat(-1) end
      end
      if p then at = b:isplat(0) end
      b:loop(extent, function()
        local e = unit and b:load(from, 0, mask) or b:loads(from, step, 0, mask)
        insert(b, v, p, e, at, finite)
        if finite then b:set(zeros, b:fma(e, b:splat(0), zeros)) end
        b:g_set(from, b:g_add(from, along))
        if p then b:set(at, b:iadd(at, b:isplat(1))) end
      end)
      for m = 1, keep do
        if p then b:istores(to, out_step, p[m], 0, mask) else b:stores(to, out_step, v[m], 0, mask) end
        if m < keep then b:g_set(to, b:g_add(to, out_along)) end
      end
    end)
    if finite then b:store1(b:arg(8), b:hadd(zeros)) end
  end
end

local function describe(k, group)
  local D, id = k.dims, group.anchor
  local x = group.args[id][1]
  local t = { id = id, x = x, positions = k.graph:op(id) == "topk_index", axis = k.graph:attr(id, "axis") + 1,
    keep = k.graph:attr(id, "k"), shape = k.graph:shape(k.graph:inputs(id)[1]), dtype = k.graph:dtype(id) }
  local out = k.graph:shape(id)
  t.lines, t.strides, t.extent = drop(t.shape, t.axis), k:contiguous(out), t.shape[t.axis]
  function t.temporary(dtype) return k:temp(D:mul(k:product(out), D:const(k:bytes(dtype)))) end
  t.temp = not k.stored and t.temporary(t.dtype)
  return t
end

local function by_lanes(k, t)
  local D, dtype, axis = k.dims, t.x.dtype, t.axis
  local bytes, integer = k:bytes(dtype), dtype == "f32" and "i32" or "i64"
  local along, out_lead = drop(t.x.strides, axis), drop(t.strides, axis)
  local _, lists = k:collapse(t.lines, { along, out_lead })
  local unit = D:value(lists[1][#lists[1]]) == 1
  local depth, lanes = D:value(t.extent), k:lanes(dtype)
  local turned = not unit and lanes > 1 and D:value(t.x.strides[axis]) == 1 and depth and depth * LINES * bytes <= TURNED
  local function block(direct, finite)
    local name = ("topk %d %s %s %s"):format(t.keep, tostring(t.positions), tostring(direct), tostring(finite))
    return k:block(lanes_block(t.keep, t.positions, direct, finite), dtype, name)
  end
  local total = k:product(t.lines)
  k:step { tiles = D:ceildiv(total, LINES), label = "lines" }
  local result = t.temp and k:ptr(t.temp) or k:write(t.id)
  local narrow = t.positions and k:buffer(integer, LINES * t.keep) -- [line][keep]
  local across = turned and k:buffer(dtype, math.ceil(depth / lanes) * lanes * LINES) -- [along the axis][line]
  local finite = turned and k:buffer(dtype, 1)
  k:tiles(function(tile)
    local first, count = k:range(tile, LINES, total)
    k:walk {
      extents = t.lines, start = first, n = count,
      operands = {
        { at = k:read(t.x), offset = t.x.offset, strides = along, bytes = bytes },
        { at = result, strides = out_lead, bytes = k:bytes(t.dtype) },
      },
      body = function(w)
        local function size(d) return ("%s * %dL"):format(k:dim(d), bytes) end
        local function sort(name, from, step, along)
          k:call(name, { w.n, k:dim(t.extent), from, step, along, narrow or w[2].ptr,
            narrow and t.keep * bytes or size(w[2].step), narrow and bytes or size(t.strides[axis]), finite or "0" })
        end
        if turned then
          local turn = k:block(contract.turn(), dtype, "contract turn")
          k:call(turn, { w.n, k:dim(t.extent), w[1].ptr, size(w[1].step), across, LINES * bytes })
          sort(block(true, true), across, bytes, LINES * bytes)
          k:line("if (%s[0] != 0)", finite)
          sort(block(true, false), across, bytes, LINES * bytes)
        else
          sort(block(unit, false), w[1].ptr, size(w[1].step), size(t.x.strides[axis]))
        end
        if not narrow then return end
        k:open("for (long i = 0; i < %s; i++)", w.n)
        k:line("%s *to = %s + i * %s;", k:ctype(t.dtype), k:raw(w[2].ptr, t.dtype), k:dim(w[2].step))
        k:line("for (long m = 0; m < %dL; m++) to[m * %s] = %s[i * %dL + m];", t.keep, k:dim(t.strides[axis]), narrow, t.keep)
        k:close()
      end,
    }
  end)
end

-- The list v (and p) of one line, through C. A full list refuses most elements by its last value.
local function insert_line(k, t)
  local D, T, step = k.dims, k:ctype(t.x.dtype), k:dim(t.strides[t.axis])
  local unit = D:value(t.strides[t.axis]) == 1
  local function times(index) return unit and index or ("(%s) * %s"):format(index, step) end
  local function not_above(v) return ("e <= %s || (!(e > %s) && !(e != e && %s == %s))"):format(v, v, v, v) end
  k:line("%s *const last = v + %s;", T, times(t.keep - 1 .. "L"))
  k:open("for (long j = 0; j < %s; j++, from += %s)", k:dim(t.extent), k:dim(t.x.strides[t.axis]))
  k:line("const %s e = *from;", T)
  k:line("if (have == %dL && (%s)) continue;", t.keep, not_above "*last")
  k:line("%s *to = have < %dL ? v + %s : last;", T, t.keep, times "have")
  if t.positions then k:line("%s *at = p + (to - v);", k:ctype(t.dtype)) end
  k:line("if (have < %dL) have++;", t.keep)
  k:open("while (to != v)")
  k:line("const %s before = to[-%s];", T, step)
  k:line("if (%s) break;", not_above "before")
  k:line("*to = before; to -= %s;%s", step, t.positions and (" *at = at[-%s]; at -= %s;"):format(step, step) or "")
  k:close()
  k:line("*to = e;%s", t.positions and " *at = j;" or "")
  k:close()
end

local function by_lines(k, t)
  local axis = t.axis
  local values = t.positions and t.temporary(t.x.dtype)
  k:step { tiles = k:product(t.lines), label = "lines" }
  local result, T = t.temp and k:ptr(t.temp) or k:write(t.id), k:ctype(t.x.dtype)
  k:tiles(function(tile)
    local at = {}
    for a, name in ipairs(k:unravel(t.lines, tile)) do at[a < axis and a or a + 1] = name end
    at[axis] = 0
    k:line("const long offset = %s;", k:offset(nil, t.strides, at))
    k:line("%s *v = %s + offset;", T, k:raw(values and k:ptr(values) or result, t.x.dtype))
    if t.positions then k:line("%s *p = %s + offset;", k:ctype(t.dtype), k:raw(result, t.dtype)) end
    k:line("const %s *from = (const %s *)%s;", T, T, k:at(t.x, at))
    k:line("long have = 0;")
    insert_line(k, t)
  end)
end

local function emit(k, group)
  local t = describe(k, group)
  local lanes = t.keep <= SMALL and (t.x.dtype == "f32" or t.x.dtype == "f64")
  if lanes then by_lanes(k, t) else by_lines(k, t) end
  k:epilogue_step(t.temp)
end

return { name = "topk", emit = emit }
