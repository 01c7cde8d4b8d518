--- Cross-entropy: mean over rows of log sum exp(x - max) - (x[target] - max), rows whose target is `ignore` left out.
-- Two steps: the losses of up to ROWS rows a tile, as one sum and how many count, into a temporary; then their sum in one
-- tile, in tile order, so the result does not depend on threads. A target outside 0 .. C-1 reports a fault.

local math_ = require "esper.vecmath"

local ROWS = 32
local WIDE = 4 -- accumulators of a row

-- body(v, mask, i) for every vector of n elements from x on, i = 1 .. WIDE telling accumulators apart; x is moved along.
local function each_vector(b, n, x, step, unit, body)
  local size, left = b.lanes * b.bytes, b:copy(n)
  if unit then
    b:loop(b:g_shrk(n, math.log(WIDE * b.lanes, 2)), function()
      for i = 1, WIDE do body(b:load(x, (i - 1) * size), nil, i) end
      b:g_set(x, b:g_addk(x, WIDE * size))
      b:g_set(left, b:g_addk(left, -WIDE * b.lanes))
    end)
  end
  b:each(left, { unit and x or { x, step = step } }, function(mask)
    body(unit and b:load(x, 0, mask) or b:loads(x, step, 0, mask), mask, 1)
  end)
end

local function joined(b, v, join)
  local all = v[1]
  for i = 2, #v do all = join(b, all, v[i]) end
  return all
end

-- words: rows, n, x, row step, step along a row (bytes), max [rows], sum [rows] of exp(x - max)
local function row_block(unit)
  return function(b)
    local rows, n, x, row_step, step, out_max, out_sum = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5), b:arg(6)
    local low = b:splat(-math.huge)
    b:loop(rows, function()
      local top, sum = {}, {}
      for i = 1, unit and WIDE or 1 do top[i], sum[i] = b:splat(-math.huge), b:splat(0) end
      each_vector(b, n, b:copy(x), step, unit, function(v, mask, i)
        b:set(top[i], b:max(mask and b:select(mask, v, low) or v, top[i])) -- passes NaN over; the sum has it
      end)
      local max = b:hmax(joined(b, top, b.max))
      each_vector(b, n, b:copy(x), step, unit, function(v, mask, i)
        local e = math_.exp(b, b:sub(v, max))
        b:set(sum[i], b:add(sum[i], mask and b:select(mask, e, b:splat(0)) or e))
      end)
      b:store1(out_max, max, 0)
      b:store1(out_sum, b:hadd(joined(b, sum, b.add)), 0)
      for _, p in ipairs { out_max, out_sum } do b:g_set(p, b:g_addk(p, b.bytes)) end
      b:g_set(x, b:g_add(x, row_step))
    end)
  end
end

-- words: n, x: x = log x
local function log_block(b)
  local n, x = b:arg(0), b:arg(1)
  b:each(n, { x }, function(mask) b:store(x, math_.log(b, b:load(x, 0, mask)), 0, mask) end)
end

-- Adds the losses of a run of rows to `sum` and `used`. c: what describe gives; v: the walk's.
local function run(k, c, v, top, sums)
  local T, I = k:ctype(c.dtype), k:ctype(c.target.dtype)
  local step = c.x.strides[#c.x.strides]
  local function size(d) return ("%s * %dL"):format(k:dim(d), k:bytes(c.dtype)) end
  k:call(c.block, { v.n, k:dim(c.classes), v[2].ptr, size(v[2].step), size(step), top, sums })
  k:call(c.log, { v.n, sums })
  k:line("const %s *at = (const %s *)%s;", I, I, v[1].ptr)
  k:line("const %s *row = (const %s *)%s;", T, T, v[2].ptr)
  k:open("for (long i = 0; i < %s; i++)", v.n)
  k:line("const long t = *at;")
  k:open("if (t != %dL)", c.ignore)
  k:line("if (t < 0 || t >= %s) %s", k:dim(c.classes), k:fault(c.target))
  k:line("else { const %s loss = %s[i] - (row[t * %s] - %s[i]); sum += loss; used += 1; }", T, sums, k:dim(step), top)
  k:close()
  k:line("at += %s; row += %s;", k:dim(v[1].step), k:dim(v[2].step))
  k:close()
end

local function describe(k, group)
  local id = group.anchor
  local inputs = k.graph:inputs(id)
  local shape = k.graph:shape(inputs[1])
  local c = { x = group.args[id][1], target = group.args[id][2], rows = k.graph:shape(inputs[2]), classes = shape[#shape],
    dtype = k.graph:dtype(id), ignore = k.graph:attr(id, "ignore") }
  local unit = k.dims:value(c.x.strides[#shape]) == 1
  c.block = k:block(row_block(unit), c.dtype, "cross entropy " .. tostring(unit))
  c.log = k:block(log_block, c.dtype, "cross entropy log")
  return c
end

local function emit(k, group)
  local D, c = k.dims, describe(k, group)
  local rows = k:product(c.rows)
  local tiles = D:ceildiv(rows, ROWS)
  local parts = k:temp(D:mul(tiles, D:const(16))) -- sum and count of a tile
  local lead = { unpack(c.x.strides, 1, #c.x.strides - 1) }
  k:step { tiles = tiles, label = "rows" }
  local top, sums = k:buffer(c.dtype, ROWS), k:buffer(c.dtype, ROWS)
  k:tiles(function(t)
    local first, count = k:range(t, ROWS, rows)
    k:line("double sum = 0, used = 0;")
    k:walk {
      extents = c.rows, start = first, n = count, piece = ROWS,
      operands = {
        { at = k:read(c.target), offset = c.target.offset, strides = c.target.strides, bytes = k:bytes(c.target.dtype) },
        { at = k:read(c.x), offset = c.x.offset, strides = lead, bytes = k:bytes(c.dtype) },
      },
      body = function(v) run(k, c, v, top, sums) end,
    }
    k:line("double *part = %s + %s * 2;", k:raw(k:ptr(parts), "f64"), t)
    k:line("part[0] = sum; part[1] = used;")
  end)
  k:step { tiles = D:const(1), label = "mean" }
  k:line("double sum = 0, used = 0;")
  k:line("const double *part = %s;", k:raw(k:ptr(parts), "f64"))
  k:line("for (long i = 0; i < %s; i++) { sum += part[i * 2]; used += part[i * 2 + 1]; }", k:dim(tiles))
  k:line("%s mean = sum / used;", k:ctype(c.dtype))
  if k.stored then k:line("*%s = mean;", k:raw(k:write(group.anchor), c.dtype)) end
  k:epilogue { start = "0", n = "1", from = not k.stored and "(char *)&mean" or nil }
end

return { name = "cross_entropy", emit = emit }
