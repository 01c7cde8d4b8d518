--- Pooling over [N, C, H, W]: max, average (padding counts as 0, the divisor is the whole window), adaptive average.
-- A tile is one output row; the window of each element is walked in C, clipped to the input. NaN wins a maximum.

local CHUNK = 512

-- C lines that set h0, h1 (or w0, w1): the input range of output coordinate `at`.
local function window(k, id, which, at, size, out)
  local op, s = k.graph:op(id), which == 1 and "h" or "w"
  if op == "adaptive_avg_pool2d" then
    k:line("long %s0 = %s * %s / %s, %s1 = ((%s + 1) * %s + %s - 1) / %s;", s, at, size, out, s, at, size, out, out)
    return
  end
  local kernel, stride, pad = k.graph:attr(id, "kernel")[which], k.graph:attr(id, "stride")[which], k.graph:attr(id, "pad")[which]
  k:line("long %s0 = %s * %dL - %dL, %s1 = %s0 + %dL;", s, at, stride, pad, s, s, kernel)
  k:line("if (%s0 < 0) %s0 = 0;", s, s)
  k:line("if (%s1 > %s) %s1 = %s;", s, size, s, size)
end

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local x = group.args[id][1]
  local op, dtype = k.graph:op(id), k.graph:dtype(id)
  local out, size = k.graph:shape(id), k.graph:shape(k.graph:inputs(id)[1])
  local T, bytes = k:ctype(dtype), k:bytes(dtype)
  local pieces = D:ceildiv(out[4], CHUNK)
  local infinity = k.unit:helper(dtype == "f32"
    and "static float es_this(void) { union { unsigned u; float f; } v; v.u = 0xff800000u; return v.f; }\n"
    or "static double es_this(void) { union { unsigned long u; double f; } v; v.u = 0xfff0000000000000ul; return v.f; }\n")
  k:step { tiles = k:product { out[1], out[2], out[3], pieces } }
  local raw = not k.stored and k:buffer(dtype, CHUNK)
  k:tiles(function(t)
    k:line("long c0 = %s %% %s * %dL, rest = %s / %s, start = rest * %s + c0;", t, k:dim(pieces), CHUNK, t, k:dim(pieces), k:dim(out[4]))
    k:line("long oh = rest %% %s; rest /= %s;", k:dim(out[3]), k:dim(out[3]))
    k:line("long n = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(out[4]), CHUNK, k:dim(out[4]), CHUNK)
    k:line("%s *to = %s;", T, raw or k:raw(("%s + start * %dL"):format(k:write(id), bytes), dtype))
    k:line("char *plane = %s;", k:at(x, { ("rest / %s"):format(k:dim(out[2])), ("rest %% %s"):format(k:dim(out[2])) }))
    window(k, id, 1, "oh", k:dim(size[3]), k:dim(out[3]))
    k:open("for (long j = 0; j < n; j++)")
    k:line("long ow = c0 + j;")
    window(k, id, 2, "ow", k:dim(size[4]), k:dim(out[4]))
    k:line("%s acc = %s;", T, op == "max_pool2d" and infinity .. "()" or "0")
    k:open("for (long h = h0; h < h1; h++)")
    k:open("for (long w = w0; w < w1; w++)")
    k:line("%s v = %s[h * %s + w * %s];", T, k:raw("plane", dtype), k:dim(x.strides[3]), k:dim(x.strides[4]))
    if op == "max_pool2d" then k:line("if (v > acc || v != v) acc = v;") else k:line("acc += v;") end
    k:close()
    k:close()
    if op == "avg_pool2d" then
      local kernel = k.graph:attr(id, "kernel")
      k:line("to[j] = acc / %d;", kernel[1] * kernel[2])
    elseif op == "adaptive_avg_pool2d" then
      k:line("to[j] = acc / (%s)((h1 - h0) * (w1 - w0));", T)
    else
      k:line("to[j] = acc;")
    end
    k:close()
    k:epilogue { start = "start", n = "n", from = raw and ("(char *)%s"):format(raw) or nil }
  end)
end

return { name = "pool", emit = emit }
