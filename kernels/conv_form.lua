--- The anchor of a convolution in one form, and where its taps lie. First stage of the convolution recipes: conv.lua
-- chooses by the form, conv_copy.lua writes the padded copy, conv_direct.lua and conv_depthwise.lua compute.
--
-- A conv1d is a conv2d of height 1; a 1x1 convolution over rows that follow each other is one over a single long row.
-- Invariant: in a layout, tap (ci, kh, kw) of output (row, column) is element
--   row * pitch + column + (sum of the loops' steps up to that tap)
-- of the plane of the group's first channel, so neighbouring outputs read neighbouring elements whatever stride,
-- padding and dilation are.

local M = {}

--- { x, w, bias = args; groups, depth = channels in per group, each = channels out per group, tap, stride, pad,
-- dilation = pairs of numbers; samples, out, size = dims; xs = strides of sample, channel, row, column; ws likewise }
function M.of(k, group)
  local D, id = k.dims, group.anchor
  local x, w, bias = unpack(group.args[id])
  local inputs, out = k.graph:inputs(id), k.graph:shape(id)
  local xs, ws = k.graph:shape(inputs[1]), k.graph:shape(inputs[2])
  local one, zero = D:const(1), D:const(0)
  local c = { x = x, w = w, bias = bias, groups = k.graph:attr(id, "groups"), samples = out[1], depth = D:value(ws[2]),
    dtype = k.graph:dtype(id) }
  c.each = D:value(out[2]) / c.groups
  local stride, pad, dilation = k.graph:attr(id, "stride"), k.graph:attr(id, "pad"), k.graph:attr(id, "dilation")
  if #out == 4 then
    c.out, c.size, c.tap = { out[3], out[4] }, { xs[3], xs[4] }, { D:value(ws[3]), D:value(ws[4]) }
    c.stride, c.pad, c.dilation, c.xs, c.ws = stride, pad, dilation, { unpack(x.strides) }, w.strides
  else
    c.out, c.size, c.tap = { one, out[3] }, { one, xs[3] }, { 1, D:value(ws[3]) }
    c.stride, c.pad, c.dilation = { 1, stride }, { 0, pad }, { 1, dilation }
    c.xs = { x.strides[1], x.strides[2], zero, x.strides[3] }
    c.ws = { w.strides[1], w.strides[2], zero, w.strides[3] }
  end
  local point = c.tap[1] * c.tap[2] * c.stride[1] * c.stride[2] == 1 and c.pad[1] + c.pad[2] == 0
  if point and c.xs[3] == D:mul(c.xs[4], c.size[2]) then
    c.size = { one, D:mul(c.size[1], c.size[2]) }
    c.out, c.xs[3] = c.size, zero
  end
  return c
end

-- Drops loops that run once; makes one of two neighbours that step through memory as one. loop.taps: how many taps, as the
-- weights have them, lie between its steps.
local function simplify(D, loops, tap)
  local out = {}
  for i, loop in ipairs(loops) do
    loop.taps = i == 1 and 1 or i == 2 and tap[2] or tap[1] * tap[2]
    local inner = out[#out]
    if inner and not inner.phases and not loop.phases and loop.step == D:mul(inner.step, D:const(inner.n)) then
      inner.n = inner.n * loop.n
    elseif loop.n > 1 or loop.phases then
      out[#out + 1] = loop
    end
  end
  return out
end

-- x as it lies in memory.
local function in_place(k, c)
  local D = k.dims
  local function times(d, n) return D:mul(d, D:const(n)) end
  return {
    channel = c.xs[2], pitch = times(c.xs[3], c.stride[1]),
    loops = {
      { n = c.tap[2], step = times(c.xs[4], c.dilation[2]) },
      { n = c.tap[1], step = times(c.xs[3], c.dilation[1]) },
      { n = c.depth, step = c.xs[2] },
    },
    address = function(sample, channel) return k:at(c.x, { sample, channel }) end,
  }
end

-- One padded plane per channel. Right padding of a row is left padding of the next where they are the same zeros.
local function padded(k, c)
  local D, pad, sweep = k.dims, c.pad[2], (c.tap[2] - 1) * c.dilation[2]
  local pitch = D:add(c.size[2], D:const(pad <= sweep and pad or 2 * pad))
  local rows = D:add(c.size[1], D:const(2 * c.pad[1]))
  local channel = D:add(D:mul(rows, pitch), D:const(pad))
  return {
    channel = channel, pitch = D:mul(pitch, D:const(c.stride[1])), row = pitch,
    loops = {
      { n = c.tap[2], step = D:const(c.dilation[2]) },
      { n = c.tap[1], step = D:mul(pitch, D:const(c.dilation[1])) },
      { n = c.depth, step = channel },
    },
  }
end

-- How the taps of one axis that are `stride` apart from output to output are brought side by side: a plane per phase (even
-- and odd ones) where the stride is 2, one per tap where it is more, all in one where it is 1. planes, extent of one;
-- the distance in x from one plane to the next and within one; loop(step within, step from plane to plane).
local function split(D, taps, stride, dilation, out, whole)
  local function loop(inside, between)
    if stride == 2 and dilation == 1 and taps > 1 then return { n = 2, phases = taps, step = inside, jump = between } end
    return { n = taps, step = stride == 1 and D:mul(inside, D:const(dilation)) or between }
  end
  if stride == 1 then return { planes = 1, extent = whole, shift = 0, stride = 1, loop = loop } end
  if stride == 2 and dilation == 1 then
    local extent = D:add(out, D:const(math.floor((taps - 1) / 2)))
    return { planes = math.min(2, taps), extent = extent, shift = 1, stride = 2, loop = loop, paired = true }
  end
  return { planes = taps, extent = out, shift = dilation, stride = stride, loop = loop }
end

-- Columns are strided, and rows perhaps: planes of rows, each of planes of columns.
local function strided(k, c)
  local D = k.dims
  local rows = split(D, c.tap[1], c.stride[1], c.dilation[1], c.out[1], D:add(c.size[1], D:const(2 * c.pad[1])))
  local columns = split(D, c.tap[2], c.stride[2], c.dilation[2], c.out[2])
  local plane = D:mul(rows.extent, columns.extent)
  local per_row = D:mul(plane, D:const(columns.planes))
  local channel = D:mul(per_row, D:const(rows.planes))
  return {
    channel = channel, pitch = columns.extent, row = columns.extent, plane = plane, planes = columns.planes,
    paired = columns.paired, rows = rows.extent, row_planes = rows.planes, row_shift = rows.shift, row_stride = rows.stride,
    loops = { columns.loop(D:const(1), plane), rows.loop(columns.extent, per_row), { n = c.depth, step = channel } },
  }
end

--- Where the taps lie: { channel, pitch = dims; loops = { { n, step = dim }, ... } innermost first, address = fn(sample,
-- channel) -> C expression, flat = rows follow each other pitch apart without overlap }. A loop with `phases` taps takes the
-- even ones, step apart, then those that start `jump` after, the odd ones; loop.taps = number of taps between its steps. In a
-- copy also what conv_copy.lua writes, and `temp`.
function M.layout(k, c)
  local D, unit = k.dims, c.stride[2] == 1
  local plain = unit and c.pad[1] + c.pad[2] == 0 and D:value(c.xs[4]) == 1
  local l = plain and in_place(k, c) or unit and padded(k, c) or strided(k, c)
  if not plain then
    local channels = c.groups * c.depth
    local bytes = D:mul(l.channel, D:const(channels * k:bytes(c.dtype)))
    l.temp = k:temp(D:mul(bytes, c.samples))
    l.channels = channels
    function l.address(sample, channel)
      return ("(%s + (%s * %dL + %s) * %s * %dL)"):format(k:ptr(l.temp), k:atom(sample), channels, k:atom(channel),
        k:dim(l.channel), k:bytes(c.dtype))
    end
  end
  l.loops = simplify(D, l.loops, c.tap)
  l.flat = D:value(c.out[1]) ~= 1 and D:ge(l.pitch, c.out[2])
  return l
end

return M
