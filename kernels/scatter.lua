--- Scatter-add: out = x, then out[.., idx[.., i, ..], ..] += src[.., i, ..] along one axis, in index order.
-- A tile is one line along the axis (all other coordinates fixed), so no two tiles touch one element and the order of
-- additions is the order of indices. Two steps: lines into the output (or a temporary), then the epilogue.

local function drop(list, axis)
  local out = {}
  for i, v in ipairs(list) do if i ~= axis then out[#out + 1] = v end end
  return out
end

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local x, index, src = unpack(group.args[id])
  local shape, dtype = k.graph:shape(id), k.graph:dtype(id)
  local axis = k.graph:attr(id, "axis") + 1
  local index_shape = k.graph:shape(k.graph:inputs(id)[2])
  local bytes, strides = k:bytes(dtype), k:contiguous(shape)
  local temp = not k.stored and k:temp(D:mul(k:product(shape), D:const(bytes)))
  local lines = drop(shape, axis)
  k:step { tiles = k:product(lines), label = "lines" }
  local base = temp and k:ptr(temp) or k:write(id)
  k:tiles(function(t)
    local at = k:unravel(lines, t)
    local full, inside = {}, {}
    for a = 1, #shape do
      full[a] = a == axis and 0 or at[a < axis and a or a - 1]
      if a ~= axis then inside[#inside + 1] = ("%s < %s"):format(full[a], k:dim(index_shape[a])) end
    end
    k:line("char *line = %s + (%s) * %dL;", base, k:offset(nil, strides, full), bytes)
    k:line("char *from = %s;", k:at(x, full))
    k:line("const long step = %s;", k:dim(strides[axis]))
    k:line("for (long j = 0; j < %s; j++) %s[j * step] = %s[j * %s];", k:dim(shape[axis]), k:raw("line", dtype),
      k:raw("from", dtype), k:dim(x.strides[axis]))
    k:open("if (%s)", #inside > 0 and table.concat(inside, " && ") or "1")
    k:line("char *which = %s, *add = %s;", k:at(index, full), k:at(src, full))
    k:open("for (long j = 0; j < %s; j++)", k:dim(index_shape[axis]))
    k:line("long to = %s[j * %s];", k:raw("which", index.dtype), k:dim(index.strides[axis]))
    k:line("if (to >= 0 && to < %s) %s[to * step] += %s[j * %s];", k:dim(shape[axis]), k:raw("line", dtype),
      k:raw("add", dtype), k:dim(src.strides[axis]))
    k:line("else { %s }", k:fault(index))
    k:close()
    k:close()
  end)
  k:epilogue_step(temp)
end

return { name = "scatter", emit = emit }
