--- topk and topk_index: the k largest along one axis, descending, by insertion into a sorted list of k. NaN counts as
-- largest, equal values keep index order. A tile is one line; lists live where results go (values also in a
-- temporary when only positions are wanted), so k has no limit but the axis.

local function drop(list, axis)
  local out = {}
  for i, v in ipairs(list) do if i ~= axis then out[#out + 1] = v end end
  return out
end

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local x = group.args[id][1]
  local wants_index = k.graph:op(id) == "topk_index"
  local axis, keep = k.graph:attr(id, "axis") + 1, k.graph:attr(id, "k")
  local shape, out = k.graph:shape(k.graph:inputs(id)[1]), k.graph:shape(id)
  local lines, strides = drop(shape, axis), k:contiguous(out)
  local total = k:product(out)
  local function temporary(dtype) return k:temp(D:mul(total, D:const(k:bytes(dtype)))) end
  local result_type = k.graph:dtype(id)
  local temp = not k.stored and temporary(result_type)
  local values = wants_index and temporary(x.dtype)
  k:step { tiles = k:product(lines), label = "lines" }
  local result = temp and k:ptr(temp) or k:write(id)
  local T = k:ctype(x.dtype)
  k:tiles(function(t)
    local at = {}
    for a, name in ipairs(k:unravel(lines, t)) do at[a < axis and a or a + 1] = name end
    at[axis] = 0
    k:line("const long step = %s, offset = %s;", k:dim(strides[axis]), k:offset(nil, strides, at))
    k:line("%s *v = %s + offset;", T, k:raw(wants_index and k:ptr(values) or result, x.dtype))
    if wants_index then k:line("%s *p = %s + offset;", k:ctype(result_type), k:raw(result, result_type)) end
    k:line("char *from = %s;", k:at(x, at))
    k:line("long have = 0;")
    k:open("for (long j = 0; j < %s; j++)", k:dim(shape[axis]))
    k:line("%s e = %s[j * %s];", T, k:raw("from", x.dtype), k:dim(x.strides[axis]))
    k:line("long m = have;")
    k:open("while (m > 0)")
    k:line("%s before = v[(m - 1) * step];", T)
    k:line("if (!(e > before || (e != e && before == before))) break;")
    k:line("if (m < %dL) { v[m * step] = before; %s}", keep, wants_index and "p[m * step] = p[(m - 1) * step]; " or "")
    k:line("m--;")
    k:close()
    k:line("if (m < %dL) { v[m * step] = e; %s}", keep, wants_index and "p[m * step] = j; " or "")
    k:line("if (have < %dL) have++;", keep)
    k:close()
  end)
  k:epilogue_step(temp)
end

return { name = "topk", emit = emit }
