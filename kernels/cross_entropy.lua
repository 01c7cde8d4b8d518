--- Cross-entropy: mean over rows of log sum exp(x - max) - (x[target] - max), rows whose target is `ignore` left out.
-- Two steps: one loss per row (a tile is ROWS rows) into a temporary, then their sum in one tile, in row order, so the
-- result does not depend on threads. A target outside 0 .. C-1 reports a fault.

local math_ = require "esper.vecmath"

local ROWS = 16

-- words: n, row, step (bytes), out: [0] = max, [1] = log sum exp(x - max)
local function row_block(k, id)
  return function(b)
    local n, x, step, out = b:arg(0), b:arg(1), b:arg(2), b:arg(3)
    k:note(b, id)
    local start = b:copy(x)
    local low = b:splat(-math.huge)
    local top = b:splat(-math.huge)
    b:each(n, { { x, step = step } }, function(mask)
      local v = b:loads(x, step, 0, mask)
      if mask then v = b:select(mask, v, low) end
      b:set(top, b:select(b:lt(v, top), top, v)) -- NaN is taken over and, compared again, only replaced by a number
    end)
    local max = b:hmax(top)
    local sum = b:splat(0)
    b:each(n, { { start, step = step } }, function(mask)
      local e = math_.exp(b, b:sub(b:loads(start, step, 0, mask), max))
      if mask then e = b:select(mask, e, b:splat(0)) end
      b:set(sum, b:add(sum, e))
    end)
    b:store1(out, max, 0)
    b:store1(out, math_.log(b, b:hadd(sum)), b.bytes)
  end
end

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local x, target = unpack(group.args[id])
  local inputs = k.graph:inputs(id)
  local shape, rows_shape = k.graph:shape(inputs[1]), k.graph:shape(inputs[2])
  local dtype, classes = k.graph:dtype(id), shape[#shape]
  local bytes, T = k:bytes(dtype), k:ctype(dtype)
  local ignore = k.graph:attr(id, "ignore")
  local rows = k:product(rows_shape)
  local block = k:block(row_block(k, id), dtype)
  local loss = k:temp(D:mul(rows, D:const(bytes)))
  local counted = k:temp(rows) -- one byte a row: does it count
  local lead = { unpack(x.strides, 1, #x.strides - 1) }
  k:step { tiles = D:ceildiv(rows, ROWS), label = "rows" }
  k:line("%s top[2];", T)
  k:tiles(function(t)
    local first, count = k:range(t, ROWS, rows)
    k:walk {
      extents = rows_shape, start = first, n = count, piece = 1,
      operands = {
        { at = k:read(target), offset = target.offset, strides = target.strides, bytes = k:bytes(target.dtype) },
        { at = k:read(x), offset = x.offset, strides = lead, bytes = bytes },
      },
      body = function(v)
        local step = k:dim(x.strides[#x.strides])
        k:line("long c = *%s;", k:raw(v[1].ptr, target.dtype))
        k:line("%s[%s] = c != %dL;", k:raw(k:ptr(counted), "bool"), v.pos, ignore)
        k:line("%s[%s] = 0;", k:raw(k:ptr(loss), dtype), v.pos)
        k:open("if (c != %dL && (c < 0 || c >= %s))", ignore, k:dim(classes))
        k:line("%s", k:fault(target))
        k:close()
        k:open("else if (c != %dL)", ignore)
        k:call(block, { k:dim(classes), v[2].ptr, ("%s * %dL"):format(step, bytes), "top" })
        k:line("%s[%s] = top[1] - (%s[c * %s] - top[0]);", k:raw(k:ptr(loss), dtype), v.pos, k:raw(v[2].ptr, dtype), step)
        k:close()
      end,
    }
  end)
  k:step { tiles = D:const(1), label = "mean" }
  k:line("double sum = 0, used = 0;")
  k:open("for (long i = 0; i < %s; i++)", k:dim(rows))
  k:line("if (%s[i]) { sum += %s[i]; used += 1; }", k:raw(k:ptr(counted), "bool"), k:raw(k:ptr(loss), dtype))
  k:close()
  k:line("%s mean = sum / used;", T)
  if k.stored then k:line("*%s = mean;", k:raw(k:write(id), dtype)) end
  k:epilogue { start = "0", n = "1", from = not k.stored and "(char *)&mean" or nil }
end

return { name = "cross_entropy", emit = emit }
