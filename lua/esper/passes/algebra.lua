--- Algebra: rules that replace a node by a simpler one of the same value. After `fold`.
-- Invariant: every rule is exact in IEEE arithmetic: the same bits for every input, NaN payloads and the sign of a zero
-- that `maximum` may choose aside. `scale` with add = 0 means x * mul, with no addition; x + (+0) is left alone because
-- it turns -0 into +0. Reassociations (a + b) + c and x * c1 * c2 are not done.
-- A rule is { op, meaning, fn(g, n, b) -> id or nil }: n is a node of the graph being built.
local look = require "esper.passes.look"
local input, constant, same_shape, same_list = look.input, look.constant, look.same_shape, look.same_list

local EVAL, ROUNDS = { stop_grad = true, checkpoint = true }, 16

local function is_zero(x, sign) return x == 0 and 1 / x == sign * math.huge end
local function power_of_two(x) -- with a normal reciprocal in f32
  local m, e = math.frexp(x)
  return math.abs(m) == 0.5 and e > -120 and e < 120
end

-- A scale node takes finite numbers only; with others the rule does not apply.
local function scale(b, x, mul, add)
  if mul - mul ~= 0 or add - add ~= 0 then return nil end
  return b:add { op = "scale", inputs = { x }, attrs = { mul = mul, add = add } }
end

-- The operand that is not constant and the constant, when that operand already has the result's shape.
local function with_constant(g, n, k)
  local x, c = input(g, n, 3 - k), constant(g, input(g, n, k))
  if c and same_shape(g, x, n) and g:dtype(n):sub(1, 1) == "f" and not constant(g, x) then return x, c end
end

local function same_op(g, n) -- input 1 when it is the same op as n
  local x = input(g, n, 1)
  return g:op(x) == g:op(n) and x or nil
end

local function drop_expand(g, n, b)
  local list, changed = g:inputs(n), false
  for k, x in ipairs(list) do
    if g:op(x) == "expand" then
      for other, y in ipairs(list) do
        if other ~= k and same_shape(g, y, n) then
          list[k], changed = input(g, x, 1), true
          break
        end
      end
    end
  end
  return changed and b:add { op = g:op(n), inputs = list } or nil
end

local function flip(g, n, b, k, flag)
  local x = input(g, n, k)
  if g:op(x) ~= "permute" or not look.swaps_last(g:attr(x, "perm")) then return nil end
  local inputs, attrs = g:inputs(n), g:attrs(n)
  inputs[k], attrs[flag] = input(g, x, 1), 1 - attrs[flag]
  return b:add { op = "matmul", inputs = inputs, attrs = attrs }
end

local function is_weight(g, w)
  local D, shape = g:dims(), g:shape(w)
  return #shape == 2 and D:value(shape[1]) and D:value(shape[2])
end

local function take_bias(g, n, b, axis)
  local x = input(g, n, 1)
  local op = g:op(x)
  local wanted = op == "linear" and g:rank(x) - 1 or (op == "conv1d" or op == "conv2d") and 1
  if axis ~= wanted or look.inputs(g, x) ~= 2 or not b:sole(x) then return nil end
  local inputs = g:inputs(x)
  inputs[3] = input(g, n, 2)
  return b:add { op = op, inputs = inputs, attrs = g:attrs(x) }
end

local RULES = {
  { "permute", "axes in their own order: x", function(g, n)
    return look.is_identity(g:attr(n, "perm")) and input(g, n, 1) end },
  { "permute", "permute of permute: one permute", function(g, n, b)
    local x = same_op(g, n)
    return x and b:add { op = "permute", inputs = { input(g, x, 1) },
      attrs = { perm = look.compose(g:attr(n, "perm"), g:attr(x, "perm")) } } end },
  { "reshape", "to the shape it has: x", function(g, n)
    local x = input(g, n, 1)
    return same_shape(g, x, n) and x end },
  { "reshape", "reshape of reshape: the last one", function(g, n, b)
    local x = same_op(g, n)
    return x and b:add { op = "reshape", inputs = { input(g, x, 1) }, attrs = { shape = g:shape(n) } } end },
  { "expand", "to the shape it has: x", function(g, n)
    local x = input(g, n, 1)
    return same_shape(g, x, n) and x end },
  { "expand", "expand of expand: the last one", function(g, n, b)
    local x = same_op(g, n)
    return x and b:add { op = "expand", inputs = { input(g, x, 1) }, attrs = { shape = g:shape(n) } } end },
  { "slice", "everything along the axis: x", function(g, n)
    local x, axis, D = input(g, n, 1), g:attr(n, "axis"), g:dims()
    return g:attr(n, "step") == 1 and D:value(g:attr(n, "start")) == 0
      and g:attr(n, "stop") == g:shape(x)[axis + 1] and x end },
  { "concat", "of one: x", function(g, n) return look.inputs(g, n) == 1 and input(g, n, 1) end },
  { "cast", "to the dtype it has: x", function(g, n)
    local x = input(g, n, 1)
    return g:dtype(x) == g:dtype(n) and x end },
  { "cast", "f32 to f64 and back: x", function(g, n)
    local x = same_op(g, n)
    local from = x and input(g, x, 1)
    return x and g:dtype(n) == "f32" and g:dtype(x) == "f64" and g:dtype(from) == "f32" and from end },
  { "neg", "-(-x): x", function(g, n)
    local x = same_op(g, n)
    return x and input(g, x, 1) end },
  { "neg", "-(x * m): x * -m", function(g, n, b)
    local x = input(g, n, 1)
    return g:op(x) == "scale" and g:attr(x, "add") == 0 and scale(b, input(g, x, 1), -g:attr(x, "mul"), 0) end },
  { "abs", "|-x| and ||x||: |x|", function(g, n, b)
    local x = input(g, n, 1)
    if g:op(x) == "abs" then return x end
    return g:op(x) == "neg" and b:add { op = "abs", inputs = { input(g, x, 1) } } end },
  { "relu", "relu of relu: relu", function(g, n) return same_op(g, n) end },
  { "scale", "x * 1: x", function(g, n)
    return g:attr(n, "mul") == 1 and g:attr(n, "add") == 0 and input(g, n, 1) end },
  { "scale", "(-x) * m + a: x * -m + a", function(g, n, b)
    local x = input(g, n, 1)
    return g:op(x) == "neg" and scale(b, input(g, x, 1), -g:attr(n, "mul"), g:attr(n, "add")) end },
  { "scale", "(x * m) * -1: x * -m", function(g, n, b)
    local x = same_op(g, n)
    return x and g:attr(n, "mul") == -1 and g:attr(n, "add") == 0 and g:attr(x, "add") == 0
      and scale(b, input(g, x, 1), -g:attr(x, "mul"), 0) end },
  { "clamp", "without bounds: x", function(g, n)
    return g:attr(n, "lo") == -math.huge and g:attr(n, "hi") == math.huge and input(g, n, 1) end },
  { "add", "x + c, c not +0: scale", function(g, n, b)
    for k = 1, 2 do
      local x, c = with_constant(g, n, k)
      if x and is_zero(c, -1) then return x end
      if x and c ~= 0 then return scale(b, x, 1, c) end
    end end },
  { "sub", "x - c: scale; x - 0: x", function(g, n, b)
    local x, c = with_constant(g, n, 2)
    if x and is_zero(c, 1) then return x end
    return x and c ~= 0 and scale(b, x, 1, -c) end },
  { "sub", "c - x, c not 0: scale", function(g, n, b)
    local x, c = with_constant(g, n, 1)
    return x and c ~= 0 and scale(b, x, -1, c) end },
  { "mul", "x * c: scale", function(g, n, b)
    for k = 1, 2 do
      local x, c = with_constant(g, n, k)
      if x then return scale(b, x, c, 0) end
    end end },
  { "div", "x / c, c a power of two: x * (1 / c)", function(g, n, b)
    local x, c = with_constant(g, n, 2)
    return x and power_of_two(c) and scale(b, x, 1 / c, 0) end },
  { "add", "x + -y: x - y", function(g, n, b)
    for k = 1, 2 do
      local x, y = input(g, n, 3 - k), input(g, n, k)
      if g:op(y) == "neg" then return b:add { op = "sub", inputs = { x, input(g, y, 1) } } end
    end end },
  { "sub", "x - -y: x + y", function(g, n, b)
    local y = input(g, n, 2)
    return g:op(y) == "neg" and b:add { op = "add", inputs = { input(g, n, 1), input(g, y, 1) } } end },
  { "maximum", "max(x, 0): relu", function(g, n, b)
    for k = 1, 2 do
      local x, c = with_constant(g, n, k)
      if x and c == 0 then return b:add { op = "relu", inputs = { x } } end
    end end },
  { "lerp", "w = 0: a; w = 1: b", function(g, n)
    local w = constant(g, input(g, n, 3))
    local x = w == 0 and input(g, n, 1) or w == 1 and input(g, n, 2)
    return x and same_shape(g, x, n) and x end },
  { "dropout", "p = 0: x", function(g, n) return g:attr(n, "p") == 0 and input(g, n, 1) end },
  { "stop_grad", "no gradient in eval: x", function(g, n) return input(g, n, 1) end },
  { "checkpoint", "no backward pass in eval: x", function(g, n) return input(g, n, 1) end },
  { "matmul", "a with its last axes swapped: flag ta", function(g, n, b) return flip(g, n, b, 1, "ta") end },
  { "matmul", "b with its last axes swapped: flag tb", function(g, n, b) return flip(g, n, b, 2, "tb") end },
  { "matmul", "a wT with a matrix w of known size: linear", function(g, n, b)
    return g:attr(n, "ta") == 0 and g:attr(n, "tb") == 1 and is_weight(g, input(g, n, 2))
      and b:add { op = "linear", inputs = g:inputs(n) } end },
  { "bias_add", "bias of a linear or convolution that has none: its third input", function(g, n, b)
    return take_bias(g, n, b, g:attr(n, "axis")) end },
  { "add", "vector added to a linear that has no bias: its bias", function(g, n, b)
    local x, v = input(g, n, 1), input(g, n, 2)
    return g:op(x) == "linear" and g:rank(v) == 1 and g:shape(v)[1] == g:shape(x)[g:rank(x)] and same_shape(g, x, n)
      and take_bias(g, n, b, g:rank(x) - 1) end },
}
for _, op in ipairs { "add", "sub", "mul", "div", "maximum", "minimum", "lerp" } do
  RULES[#RULES + 1] = { op, "an operand repeated by expand is repeated by broadcasting", drop_expand }
end

local by_op = {}
for _, row in ipairs(RULES) do
  local list = by_op[row[1]] or {}
  by_op[row[1]] = list
  list[#list + 1] = row
end

-- Applies rules to n until none fires; the new id and whether one did.
local function simplify(b, n, mode)
  local fired = false
  for _ = 1, ROUNDS do
    local g = b.graph
    local op, found = g:op(n), nil
    for _, row in ipairs(by_op[op] or {}) do
      found = not (EVAL[op] and mode ~= "eval") and row[3](g, n, b) or nil
      if found then break end
    end
    if not found then return n, fired end
    n, fired = found, true
  end
  return n, fired
end

return {
  name = "algebra", version = 1, rules = RULES,
  doc = "identities, merged views, constants as scale, transposes as flags, biases inside contractions",
  run = function(src, ctx)
    return ctx:rebuild(src, function(b, id)
      if not by_op[b.op[id]] then return nil end
      local n, fired = simplify(b, b:copy(id), ctx.mode)
      return n, not fired
    end)
  end,
}
