--- Embedding: out[i..., :] = w[idx[i...], :]. A tile is up to ROWS positions; each row is one copy (row_blocks.lua).
-- An index outside 0 .. V-1 reports a fault and gives a row of zeros: nothing outside w is read.

local rows = require "kernels.row_blocks"

local ROWS = 32

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local w, index = unpack(group.args[id])
  local out, inputs = k.graph:shape(id), k.graph:inputs(id)
  local bytes = k:bytes(k.graph:dtype(id))
  local shape, positions = k.graph:shape(inputs[1]), k.graph:shape(inputs[2])
  local total, fixed = k:product(positions), {}
  for axis = 1, #positions do fixed[axis] = D:const(0) end
  local temp = not k.stored and k:temp(D:mul(k:product(out), D:const(bytes)))
  k:step { tiles = D:ceildiv(total, ROWS) }
  local base, width = temp and k:ptr(temp) or k:write(id), k:dim(shape[2])
  k:tiles(function(t)
    local first, count = k:range(t, ROWS, total)
    rows.copy_rows(k, { positions = positions, index = index, index_strides = index.strides, x = w, x_strides = fixed,
      axis_stride = w.strides[1], axis_extent = shape[1], width = shape[2], step = w.strides[2], to = base }, first, count)
    k:epilogue { start = ("%s * %s"):format(first, width), n = ("%s * %s"):format(count, width),
      from = temp and ("%s + %s * %s * %dL"):format(base, first, width, bytes) or nil }
  end)
end

return { name = "embedding", emit = emit }
