--- Batch norm after a convolution or linear layer, in eval mode, where its statistics are parameters and buffers.
-- After `algebra`. With a = w / sqrt(var + eps) and s = b + (conv bias - mean) * a, both one value per channel,
--     batch_norm(conv(x) + bias) = conv(x) * a + s
-- so the convolution's epilogue is one multiply-add. The usual alternative scales the weights by a: weights are run
-- time values here, so that would rewrite O * I * k * k of them in every call to save one multiplication per output
-- element, which a convolution hides behind its I * k * k; and it would round every weight once more.
-- Rounding: x * a + s cancels where x is near the mean, with an error of a few u |x a|. The output x of the contraction
-- carries at least that error already, so the result stays within the bound of the unfused form. For a batch norm of
-- anything else (x exact) it would not, and those are left alone.
local look = require "esper.passes.look"

-- Rank of the output when a batch norm's channel axis 1 is the op's output channel.
local function channels_second(g, x)
  local op = g:op(x)
  return op == "conv1d" or op == "conv2d" or (op == "linear" and g:rank(x) == 2)
end

local function stored(g, id)
  local op = g:op(id)
  return op == "param" or op == "buffer"
end

-- A channel vector shaped to broadcast over the axes after the channels.
local function over_channels(b, v, rank)
  if rank == 2 then return v end
  local g, one = b.graph, b.graph:dims():const(1)
  local shape = { g:shape(v)[1] }
  for _ = 3, rank do shape[#shape + 1] = one end
  return b:add { op = "reshape", inputs = { v }, attrs = { shape = shape } }
end

local function rule(b, id)
  if b.op[id] ~= "batch_norm" then return nil end
  local g, src = b.graph, b.src
  local x = b:input(id, 1)
  if not channels_second(g, x) then return nil end
  local count = look.inputs(src, id)
  for k = 2, count do
    if not stored(g, b:input(id, k)) then return nil end
  end
  local function op(name, ...) return b:add { op = name, inputs = { ... } } end
  local mean, var, w, bias = b:input(id, 2), b:input(id, 3), count >= 4 and b:input(id, 4), count >= 5 and b:input(id, 5)
  local a = op("rsqrt", b:add { op = "scale", inputs = { var }, attrs = { mul = 1, add = src:attr(id, "eps") } })
  if w then a = op("mul", a, w) end
  local inputs, shift = g:inputs(x), nil
  if inputs[3] and b:sole(x) then -- the convolution's own bias moves into the shift
    shift = op("sub", table.remove(inputs), mean)
  else
    shift = op("neg", mean)
  end
  shift = op("mul", shift, a)
  if bias then shift = op("add", shift, bias) end
  -- after what its epilogue reads, so that it is one: grouping keeps the order
  if b:sole(x) then x = b:add { op = g:op(x), inputs = inputs, attrs = g:attrs(x) } end
  local rank = b.graph:rank(x)
  return op("add", op("mul", x, over_channels(b, a, rank)), over_channels(b, shift, rank))
end

return {
  name = "batchnorm_conv", version = 1, modes = { "eval" },
  doc = "batch norm after a convolution or linear becomes one multiply-add per element",
  run = function(src, ctx) return ctx:rebuild(src, rule) end,
}
