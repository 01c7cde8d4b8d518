--- Gather: out[.., i, ..] = x[.., idx[.., i, ..], ..] along one axis. One element at a time through both strides; a bad index
-- reports a fault and gives 0. A tile is up to CHUNK consecutive output elements.

local CHUNK = 1024

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local x, index = unpack(group.args[id])
  local out, axis = k.graph:shape(id), k.graph:attr(id, "axis") + 1
  local dtype = k.graph:dtype(id)
  local extent = k.graph:shape(k.graph:inputs(id)[1])[axis]
  local total = k:product(out)
  k:step { tiles = D:ceildiv(total, CHUNK) }
  local raw = not k.stored and k:buffer(dtype, CHUNK)
  local off = {} -- x's strides without the indexed axis
  for a, stride in ipairs(x.strides) do off[a] = a == axis and D:const(0) or stride end
  k:tiles(function(t)
    local first, count = k:range(t, CHUNK, total)
    local to = raw or ("%s + %s * %dL"):format(k:write(id), first, k:bytes(dtype))
    k:line("char *out = (char *)(%s);", to)
    k:walk {
      extents = out, start = first, n = count,
      operands = {
        { at = k:read(index), offset = index.offset, strides = index.strides, bytes = k:bytes(index.dtype) },
        { at = k:read(x), offset = x.offset, strides = off, bytes = k:bytes(x.dtype) },
      },
      body = function(v)
        k:open("for (long j = 0; j < %s; j++)", v.n)
        k:line("long at = *%s;", k:raw(("%s + j * %s * %dL"):format(v[1].ptr, k:dim(v[1].step), k:bytes(index.dtype)), index.dtype))
        k:line("char *from = %s + (j * %s + at * %s) * %dL;", v[2].ptr, k:dim(v[2].step), k:dim(x.strides[axis]), k:bytes(dtype))
        k:line("if (at >= 0 && at < %s) %s[%s - %s + j] = *%s;", k:dim(extent), k:raw("out", dtype), v.pos, first,
          k:raw("from", dtype))
        k:line("else { %s[%s - %s + j] = 0; %s }", k:raw("out", dtype), v.pos, first, k:fault(index))
        k:close()
      end,
    }
    k:epilogue { start = first, n = count, from = raw or nil }
  end)
end

return { name = "gather", emit = emit }
