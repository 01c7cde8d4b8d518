--- Embedding: out[i..., :] = w[idx[i...], :]. A tile is up to ROWS positions; each row is one strided copy.
-- An index outside 0 .. V-1 reports a fault and gives a row of zeros: nothing outside w is read.

local ROWS = 16

-- words: n, source, source step (bytes), destination
local function copy_block(k, id)
  return function(b)
    local n, source, step, out = b:arg(0), b:arg(1), b:arg(2), b:arg(3)
    k:note(b, id)
    b:each(n, { { source, step = step }, out }, function(mask) b:store(out, b:loads(source, step, 0, mask), 0, mask) end)
  end
end

local function zero_block()
  return function(b)
    local n, out = b:arg(0), b:arg(1)
    b:each(n, { out }, function(mask) b:store(out, b:splat(0), 0, mask) end)
  end
end

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local w, index = unpack(group.args[id])
  local out, inputs = k.graph:shape(id), k.graph:inputs(id)
  local dtype = k.graph:dtype(id)
  local table_shape, positions = k.graph:shape(inputs[1]), k.graph:shape(inputs[2])
  local width = table_shape[2]
  local copy, zero = k:block(copy_block(k, id), dtype), k:block(zero_block(), dtype)
  local total = k:product(positions)
  k:step { tiles = D:ceildiv(total, ROWS) }
  local temp = not k.stored and k:temp(D:mul(k:product(out), D:const(k:bytes(dtype))))
  local base = temp and k:ptr(temp) or k:write(id)
  k:tiles(function(t)
    local first, count = k:range(t, ROWS, total)
    k:walk {
      extents = positions, start = first, n = count, piece = 1,
      operands = { { at = k:read(index), offset = index.offset, strides = index.strides, bytes = k:bytes(index.dtype) } },
      body = function(v)
        k:line("long row = *%s;", k:raw(v[1].ptr, index.dtype))
        k:line("char *to = %s + %s * %s * %dL;", base, v.pos, k:dim(width), k:bytes(dtype))
        k:open("if (row >= 0 && row < %s)", k:dim(table_shape[1]))
        k:call(copy, { k:dim(width), k:at(w, { "row" }), k:dim(w.strides[2]) .. " * " .. k:bytes(dtype) .. "L", "to" })
        k:close(" else {")
        k:line("  %s", k:fault(index))
        k:call(zero, { k:dim(width), "to" })
        k:line("}")
      end,
    }
    k:epilogue { start = ("%s * %s"):format(first, k:dim(width)), n = ("%s * %s"):format(count, k:dim(width)),
      from = temp and ("%s + %s * %s * %dL"):format(base, first, k:dim(width), k:bytes(dtype)) or nil }
  end)
end

return { name = "embedding", emit = emit }
