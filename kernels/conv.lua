--- Convolution: conv1d and conv2d with stride, zero padding, dilation and groups; bias and pointwise epilogue fused.
--
-- A tile is one output row (sample, output channel, output line), cut into pieces of CHUNK columns. The row is a sum of
-- scaled input rows: for every input channel of the group and every tap (kh, kw) the vector block adds
-- w * x[.., ow * stride + kw * dilation - pad] over the columns where the input exists, so padding is never read.

local CHUNK = 512

-- words: n, accumulator, x, x's step (bytes), weight address
local function tap_block(k, id)
  return function(b)
    local n, acc, x, step, weight = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4)
    k:note(b, id)
    local w = b:bcast(weight, 0)
    b:each(n, { acc, { x, step = step } }, function(mask)
      b:store(acc, b:fma(w, b:loads(x, step, 0, mask), b:load(acc, 0, mask)), 0, mask)
    end)
  end
end

-- words: n, accumulator, address of the start value or 0
local function start_block(k, id, has_bias)
  return function(b)
    local n, acc, bias = b:arg(0), b:arg(1), b:arg(2)
    k:note(b, id)
    local v = has_bias and b:bcast(bias, 0) or b:splat(0)
    b:each(n, { acc }, function(mask) b:store(acc, v, 0, mask) end)
  end
end

-- The anchor in 2-d terms: a conv1d is a conv2d of height 1.
local function describe(k, group)
  local D, id = k.dims, group.anchor
  local x, w, bias = unpack(group.args[id])
  local inputs, out = k.graph:inputs(id), k.graph:shape(id)
  local xs, ws = k.graph:shape(inputs[1]), k.graph:shape(inputs[2])
  local one, zero = D:const(1), D:const(0)
  local c = { x = x, w = w, bias = bias, groups = k.graph:attr(id, "groups"), samples = out[1], channels = out[2],
    depth = ws[2] }
  local stride, pad, dilation = k.graph:attr(id, "stride"), k.graph:attr(id, "pad"), k.graph:attr(id, "dilation")
  if #out == 4 then
    c.out, c.size, c.tap = { out[3], out[4] }, { xs[3], xs[4] }, { ws[3], ws[4] }
    c.stride, c.pad, c.dilation, c.xs, c.ws = stride, pad, dilation, x.strides, w.strides
  else
    c.out, c.size, c.tap = { one, out[3] }, { one, xs[3] }, { one, ws[3] }
    c.stride, c.pad, c.dilation = { 1, stride }, { 0, pad }, { 1, dilation }
    c.xs = { x.strides[1], x.strides[2], zero, x.strides[3] }
    c.ws = { w.strides[1], w.strides[2], zero, w.strides[3] }
  end
  return c
end

-- C: adds all taps of one piece (columns c0 .. c0 + n) of the row (sample, o, line) to `acc`.
local function taps(k, c, block, acc, bytes)
  local function at(arg, strides, index) return ("%s + (%s) * %dL"):format(k:read(arg), k:offset(arg.offset, strides, index), bytes) end
  k:open("for (long ci = 0; ci < %s; ci++)", k:dim(c.depth))
  k:open("for (long kh = 0; kh < %s; kh++)", k:dim(c.tap[1]))
  k:line("long ih = line * %dL + kh * %dL - %dL;", c.stride[1], c.dilation[1], c.pad[1])
  k:line("if (ih < 0 || ih >= %s) continue;", k:dim(c.size[1]))
  k:line("char *row = %s;", at(c.x, c.xs, { "sample", "first_channel + ci", "ih" }))
  k:line("char *weight = %s;", at(c.w, c.ws, { "o", "ci", "kh" }))
  k:open("for (long kw = 0; kw < %s; kw++)", k:dim(c.tap[2]))
  local s, shift = c.stride[2], ("(kw * %dL - %dL)"):format(c.dilation[2], c.pad[2])
  k:line("long shift = %s, low = shift < 0 ? (-shift + %dL) / %dL : 0;", shift, s - 1, s)
  k:line("long room = %s - 1 - shift, high = room < 0 ? 0 : room / %dL + 1;", k:dim(c.size[2]), s)
  k:line("if (low < c0) low = c0;")
  k:line("if (high > c0 + n) high = c0 + n;")
  k:open("if (high > low)")
  local step = k:dim(c.xs[4])
  k:call(block, { "high - low", ("(char *)(%s) + (low - c0) * %dL"):format(acc, bytes),
    ("row + (low * %dL + shift) * %s * %dL"):format(s, step, bytes), ("%s * %dL"):format(step, s * bytes),
    ("weight + kw * %s * %dL"):format(k:dim(c.ws[4]), bytes) })
  k:close()
  k:close()
  k:close()
  k:close()
end

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local c, dtype = describe(k, group), k.graph:dtype(id)
  local bytes = k:bytes(dtype)
  local tap, start = k:block(tap_block(k, id), dtype), k:block(start_block(k, id, c.bias), dtype)
  local pieces = D:ceildiv(c.out[2], CHUNK)
  k:step { tiles = k:product { c.samples, c.channels, c.out[1], pieces } }
  local raw = not k.stored and k:buffer(dtype, CHUNK)
  k:tiles(function(t)
    k:line("long c0 = %s %% %s * %dL, rest = %s / %s, row_index = rest;", t, k:dim(pieces), CHUNK, t, k:dim(pieces))
    k:line("long line = rest %% %s; rest /= %s;", k:dim(c.out[1]), k:dim(c.out[1]))
    k:line("long o = rest %% %s, sample = rest / %s;", k:dim(c.channels), k:dim(c.channels))
    k:line("long n = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(c.out[2]), CHUNK, k:dim(c.out[2]), CHUNK)
    k:line("long first_channel = o / %s * %s;", k:dim(D:floordiv(c.channels, c.groups)), k:dim(c.depth))
    k:line("long start = row_index * %s + c0;", k:dim(c.out[2]))
    local acc = raw or ("(%s + start * %dL)"):format(k:write(id), bytes)
    k:call(start, { "n", acc, c.bias and k:at(c.bias, { "o" }) or "0" })
    taps(k, c, tap, acc, bytes)
    k:epilogue { start = "start", n = "n", from = raw or nil }
  end)
end

return { name = "conv", emit = emit }
