--- Constants: pointwise ops whose operands are all known become constants.
-- After `canonical`. Exact: a result is folded only where IEEE arithmetic fixes it, which is for the ops below:
-- each is computed in double and rounded once to the dtype. For f32 that equals the f32 operation, because 53 bits
-- are at least 2 * 24 + 2 (Figueroa, "When is double rounding innocuous?", 1995) and sqrt in double is correctly
-- rounded. exp, tanh and their kind are left to the kernels, and so are integers.
local look = require "esper.passes.look"
local native = require "esper.native"

local function nan(x) return x ~= x end
local box = native.new("float[1]")

local ROUND = {
  f64 = function(x) return x end,
  f32 = function(x) box[0] = x return box[0] end,
}

local HUGE = 2^52
local function to_even(x)
  if math.abs(x) >= HUGE or x == 0 then return x end
  local y = (x + 1.5 * HUGE) - 1.5 * HUGE
  return (y == 0 and x < 0) and -0.0 or y
end

-- value of the node, from attributes and operand values
local RULES = {
  neg     = function(_, a) return -a end,
  abs     = function(_, a) return math.abs(a) end,
  sqrt    = function(_, a) return a >= 0 and math.sqrt(a) or 0 / 0 end,
  round   = function(_, a) return to_even(a) end,
  relu    = function(_, a) return (a > 0 or nan(a)) and a or 0 end,
  clamp   = function(at, a) return nan(a) and a or math.min(math.max(a, at.lo), at.hi) end,
  cast    = function(_, a) return a end,
  add     = function(_, a, b) return a + b end,
  sub     = function(_, a, b) return a - b end,
  mul     = function(_, a, b) return a * b end,
  div     = function(_, a, b) return a / b end,
  maximum = function(_, a, b) return (nan(a) or a > b) and a or b end,
  minimum = function(_, a, b) return (nan(a) or a < b) and a or b end,
}

-- The operands as numbers, or nil when one is not known or not a float.
local function values(g, b, id)
  local node, out = b.src:node(id), {}
  for k = 1, node.nin do
    local input = b:input(id, k)
    local value = ROUND[g:dtype(input)] and look.constant(g, input)
    if not value then return nil end
    out[k] = value
  end
  return out
end

local function rule(b, id)
  local src = b.src
  local compute = RULES[b.op[id]]
  local round = compute and ROUND[src:dtype(id)]
  if not round then return nil end
  local v = values(b.graph, b, id)
  if not v then return nil end
  local x = round(compute(src:attrs(id), v[1], v[2]))
  if nan(x) then return nil end -- a constant is a number; the kernel makes the NaN
  local made = b:add { op = "const", attrs = { value = x }, dtype = src:dtype(id) }
  if src:rank(id) == 0 then return made end
  return b:add { op = "expand", inputs = { made }, attrs = { shape = src:shape(id) } }
end

return {
  name = "fold", version = 1,
  doc = "exactly rounded arithmetic on constants is done now",
  run = function(src, ctx) return ctx:rebuild(src, rule) end,
}
