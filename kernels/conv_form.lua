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

-- Drops loops that run once; makes one of two neighbours that step through memory as one.
local function simplify(D, loops)
  local out = {}
  for _, loop in ipairs(loops) do
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

-- Columns are strided: a plane per tap column, or per phase (even, odd columns), in every tap row's plane of the rows
-- that it reads (all rows once where rows are not strided).
local function strided(k, c)
  local D, taps = k.dims, c.tap
  local phases = c.stride[2] == 2 and c.dilation[2] == 1
  local planes = phases and math.min(2, taps[2]) or taps[2]
  local pitch = phases and D:add(c.out[2], D:const(math.floor((taps[2] - 1) / 2))) or c.out[2]
  local split = c.stride[1] > 1
  local rows = split and c.out[1] or D:add(c.size[1], D:const(2 * c.pad[1]))
  local plane = D:mul(rows, pitch)
  local per_row = D:mul(plane, D:const(planes))
  local channel = split and D:mul(per_row, D:const(taps[1])) or per_row
  local columns = { n = taps[2], step = plane }
  if phases and planes == 2 then columns = { n = 2, step = plane, phases = taps[2] } end
  return {
    channel = channel, pitch = pitch, row = pitch, plane = plane, planes = planes, paired = phases, split = split,
    loops = {
      columns,
      { n = taps[1], step = split and per_row or D:mul(pitch, D:const(c.dilation[1])) },
      { n = c.depth, step = channel },
    },
  }
end

--- Where the taps lie: { channel, pitch = dims; loops = { { n, step = dim }, ... } innermost first, address = fn(sample,
-- channel) -> C expression, flat = rows follow each other pitch apart without overlap }; loop.phases = number of taps
-- of a row whose even ones come first, then, loop.step later, the odd ones. In a copy also what conv_copy.lua writes,
-- and `temp`.
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
  l.loops = simplify(D, l.loops)
  l.flat = D:value(c.out[1]) ~= 1 and D:ge(l.pitch, c.out[2])
  return l
end

return M
