--- Pooling over regions of planes, one region per output: adaptive average pooling, global average pooling, and windows too
-- large for window.lua. Lanes run along a region's columns and meet at its end.
--
-- The sum of a region is taken in 4 x lanes parts, so its error is far below that of adding in sequence.

local planes = require "kernels.planes"
local vecmath = require "esper.vecmath"

local M = {}

local PLANES = 8        -- of a tile of whole planes
local CHUNK = 512       -- columns of a tile of single regions
local WIDEST = 128      -- output columns, and ...
local LONGEST = 2 ^ 24  -- ... input columns for which the division below is exact in 63 bits

-- ---- one region ----

local function lanes_max(b, v)
  if b.lanes == 1 then return v end
  local nans = b:hadd(b:select(b:ne(v, v), b:splat(1), b:splat(0))) -- hmax does not keep NaN
  return b:select(b:lt(b:splat(0), nans), b:splat(0 / 0), b:hmax(v))
end

local OP = {
  max = { first = -math.huge, join = function(b, x, acc) return vecmath.maximum(b, x, acc) end, lanes = lanes_max },
  sum = { first = 0, join = function(b, x, acc) return b:add(acc, x) end, lanes = function(b, v) return b:hadd(v) end },
}

-- What `rows` rows of `n` columns from x on amount to, in every lane. step: bytes between columns, nil where they lie side
-- by side.
local function region(b, op, rows, n, x, row_step, step)
  local acc, move = {}, step and b:g_mulk(step, b.lanes)
  for i = 1, 4 do acc[i] = b:splat(op.first) end
  local line, wide = b:copy(x), b:g_shrk(n, math.log(4 * b.lanes, 2))
  local rest = b:g_sub(n, b:g_mulk(wide, 4 * b.lanes))
  local function load(at, mask) return step and b:loads(at, step, 0, mask) or b:load(at, 0, mask) end
  b:loop(rows, function()
    local at = b:copy(line)
    b:loop(wide, function()
      for i = 1, 4 do
        b:set(acc[i], op.join(b, load(at), acc[i]))
        b:g_set(at, move and b:g_add(at, move) or b:g_addk(at, b.lanes * b.bytes))
      end
    end)
    b:each(rest, { step and { at, step = step } or at }, function(mask)
      local joined = op.join(b, load(at, mask), acc[1])
      b:set(acc[1], mask and b:select(mask, joined, acc[1]) or joined)
    end)
    b:g_set(line, b:g_add(line, row_step))
  end)
  return op.lanes(b, op.join(b, op.join(b, acc[4], acc[3]), op.join(b, acc[2], acc[1])))
end

local function number(b, g) return b:cvt_f(b:splatg(g)) end

-- C: the byte stride of x along an axis.
local function stride_of(k, p, axis) return ("%s * %dL"):format(k:dim(p.xs[axis]), k:bytes(p.dtype)) end

-- ---- whole planes ----

-- Constants of floor(a / d) = a * factor >> shift for 0 <= a <= d * LONGEST.
local function division(d)
  local shift = 25
  while 2 ^ shift <= d * d * LONGEST do shift = shift + 1 end
  return math.ceil(2 ^ shift / d), shift
end

-- A row of outputs in every plane; words: planes, rows, columns of x, x, row step, step, plane step of x, out, plane step of
-- out. Region i is columns floor(i W / out) .. ceil((i + 1) W / out).
local function planes_block(k, outputs, unit)
  local factor, shift = division(outputs)
  return function(b)
    local rows, width, row_step, step = b:arg(1), b:arg(2), b:arg(4), b:arg(5)
    local x, out = b:copy(b:arg(3)), b:copy(b:arg(7))
    k:note(b, k.group.anchor)
    local function at_column(start, column)
      if unit then return b:g_add(start, b:g_mulk(column, b.bytes)) end
      local at = b:copy(start)
      b:loop(column, function() b:g_set(at, b:g_add(at, step)) end)
      return at
    end
    b:loop(b:arg(0), function()
      local product, to = b:copy(b:const(0)), b:copy(out)
      b:loop(b:const(outputs), function()
        local first = b:g_shrk(b:g_mulk(product, factor), shift)
        b:g_set(product, b:g_add(product, width))
        local past = b:g_shrk(b:g_mulk(b:g_addk(product, outputs - 1), factor), shift)
        local n = b:g_sub(past, first)
        local sum = region(b, OP.sum, rows, n, at_column(x, first), row_step, not unit and step or nil)
        b:store1(to, b:div(sum, b:mul(number(b, rows), number(b, n))))
        b:g_set(to, b:g_addk(to, b.bytes))
      end)
      b:g_set(x, b:g_add(x, b:arg(6)))
      b:g_set(out, b:g_add(out, b:arg(8)))
    end)
  end
end

--- Adaptive average over planes, where an output can take the results. p: x, xs, out, size as in pool.lua.
local function emit_planes(k, p, target)
  local D, bytes = k.dims, k:bytes(p.dtype)
  local rows, outputs = D:value(p.out[1]), D:value(p.out[2])
  local unit = D:value(p.xs[4]) == 1
  local block = k:block(planes_block(k, outputs, unit), p.dtype)
  local parts = k:ceildiv(p.channels, PLANES)
  local plane = D:const(rows * outputs)
  k:step { tiles = D:mul(p.samples, parts) }
  k:tiles(function(t)
    k:line("long sample = %s / %s, first = %s %% %s * %dL;", t, k:dim(parts), t, k:dim(parts), PLANES)
    k:line("long planes = %s - first;", k:dim(p.channels))
    k:line("if (planes > %dL) planes = %dL;", PLANES, PLANES)
    k:line("char *x = %s;", k:at(p.x, { "sample", "first" }))
    k:line("long start = (sample * %s + first) * %dL;", k:dim(p.channels), rows * outputs)
    k:open("for (long i = 0; i < %dL; i++)", rows)
    k:line("long h0 = i * %s / %dL, h1 = ((i + 1) * %s + %dL) / %dL;", k:dim(p.size[1]), rows, k:dim(p.size[1]), rows - 1, rows)
    k:call(block, { "planes", "h1 - h0", k:dim(p.size[2]), ("x + h0 * %s"):format(stride_of(k, p, 3)), stride_of(k, p, 3),
      stride_of(k, p, 4), stride_of(k, p, 2), ("%s + (start + i * %dL) * %dL"):format(k:write(target), outputs, bytes),
      ("%dL"):format(rows * outputs * bytes) })
    k:close()
    k:line("long lines = %dL, columns = %dL;", rows, outputs)
    planes.finish(k, { target = target, start = "start", planes = "planes", lines = "lines", columns = "columns",
      width = p.out[2], plane = plane })
  end)
end

-- ---- single regions ----

-- words: rows, columns, x, row step, step, out, divisor of a sum
local function single_block(k, op, unit)
  return function(b)
    k:note(b, k.group.anchor)
    local v = region(b, OP[op], b:arg(0), b:arg(1), b:arg(2), b:arg(3), not unit and b:arg(4) or nil)
    if op == "sum" then v = b:div(v, number(b, b:arg(6))) end
    b:store1(b:arg(5), v)
  end
end

-- C lines that set h0, h1 (or w0, w1): the input range of output coordinate `at`.
local function bounds(k, p, which, at)
  local s, size, out = which == 1 and "h" or "w", k:dim(p.size[which]), k:dim(p.out[which])
  if p.adaptive then
    k:line("long %s0 = %s * %s / %s, %s1 = ((%s + 1) * %s + %s - 1) / %s;", s, at, size, out, s, at, size, out, out)
    return
  end
  k:line("long %s0 = %s * %dL - %dL, %s1 = %s0 + %dL;", s, at, p.stride[which], p.pad[which], s, s, p.tap[which])
  k:line("if (%s0 < 0) %s0 = 0;", s, s)
  k:line("if (%s1 > %s) %s1 = %s;", s, size, s, size)
end

local function emit_single(k, p)
  local D, id, bytes = k.dims, k.group.anchor, k:bytes(p.dtype)
  local unit = D:value(p.xs[4]) == 1
  local block = k:block(single_block(k, p.max and "max" or "sum", unit), p.dtype)
  local parts = k:ceildiv(p.out[2], CHUNK)
  k:step { tiles = k:product { p.samples, p.channels, p.out[1], parts } }
  local raw = not k.stored and k:buffer(p.dtype, CHUNK)
  k:tiles(function(t)
    k:line("long c0 = %s %% %s * %dL, rest = %s / %s;", t, k:dim(parts), CHUNK, t, k:dim(parts))
    k:line("long start = rest * %s + c0;", k:dim(p.out[2]))
    k:line("long oh = rest %% %s; rest /= %s;", k:dim(p.out[1]), k:dim(p.out[1]))
    k:line("long n = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(p.out[2]), CHUNK, k:dim(p.out[2]), CHUNK)
    k:line("char *to = %s;", raw and ("(char *)%s"):format(raw) or ("%s + start * %dL"):format(k:write(id), bytes))
    k:line("char *plane = %s;", k:at(p.x, { ("rest / %s"):format(k:dim(p.channels)), ("rest %% %s"):format(k:dim(p.channels)) }))
    bounds(k, p, 1, "oh")
    k:open("for (long j = 0; j < n; j++)")
    k:line("long ow = c0 + j;")
    bounds(k, p, 2, "ow")
    local divisor = p.adaptive and "(h1 - h0) * (w1 - w0)" or ("%dL"):format(p.tap and p.tap[1] * p.tap[2] or 1)
    k:call(block, { "h1 - h0", "w1 - w0", ("plane + (h0 * %s + w0 * %s) * %dL"):format(k:dim(p.xs[3]), k:dim(p.xs[4]), bytes),
      stride_of(k, p, 3), stride_of(k, p, 4), ("to + j * %dL"):format(bytes), divisor })
    k:close()
    k:epilogue { start = "start", n = "n", from = raw and ("(char *)%s"):format(raw) or nil }
  end)
end

--- p: x, dtype, samples, channels, xs, size, out; adaptive, or tap, stride, pad, and max.
function M.emit(k, p)
  local target, _, widest = planes.target(k), k.dims:bounds(p.size[2])
  local columns = k.dims:value(p.out[2])
  if p.adaptive and target and columns <= WIDEST and widest <= LONGEST then return emit_planes(k, p, target) end
  emit_single(k, p)
end

return M
