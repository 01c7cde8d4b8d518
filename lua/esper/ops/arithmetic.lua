--- Operators and their op forms, with numbers on either side, and arithmetic of dimensions. Part of ops.lua.
-- A float tensor with a number becomes one `scale` node where that is exact; division only by powers of two.

local builder = require "esper.ops.builder"
local value = require "esper.ops.value"
local hidden, describe, fail, Builder = value.hidden, value.describe, builder.fail, builder.methods
local frexp = math.frexp

local FLOAT = { f32 = true, f64 = true }
local SYMBOL = { add = "+", sub = "-", mul = "*", div = "/", mod = "%", pow = "^", concatenate = ".." }

local function power_of_two(c) -- and its inverse is one in f32 as well
  local size = math.abs(c)
  return size < 2 ^ 100 and size > 2 ^ -100 and frexp(size) == 0.5
end

-- tensor OP number as { mul, add } of a scale node, or nil
local right = {
  add = function(c) return 1, c end,
  sub = function(c) return 1, -c end,
  mul = function(c) return c, 0 end,
  div = function(c) if power_of_two(c) then return 1 / c, 0 end end,
}
-- number OP tensor
local left = { add = right.add, mul = right.mul, sub = function(c) return -1, c end }

local function finite(c)
  if c ~= c or c == math.huge or c == -math.huge then
    fail("a number is %s, wanted a finite one", tostring(c))
  end
  return c
end

local function scaled(b, rules, op, x, c)
  local id = b:id(x)
  if not FLOAT[b.graph:dtype(id)] or not rules[op] then return nil end
  local mul, add = rules[op](finite(c))
  if mul then return b:tensor(b:node("scale", { id }, { mul = mul, add = add })) end
end

-- ---- dimensions: + - * with whole numbers and dimensions, / when exact ----

local function dim_divided(b, x, y)
  if type(y) ~= "number" or y % 1 ~= 0 or y < 1 then
    fail("dimension / %s: wanted an integer of at least 1", describe(y))
  end
  local d = b:dim(x)
  local quotient = b.D:floordiv(d, y)
  if b.D:mul(quotient, b.D:const(y)) ~= d then
    fail("'%s' may not be divisible by %g; use :floordiv(%g) or :ceildiv(%g)", b.D:text(d), y, y, y)
  end
  return quotient
end

local function dim_arithmetic(b, op, x, y)
  if op == "div" then return b:public_dim(dim_divided(b, x, y)) end
  if op == "neg" then return b:public_dim(b.D:sub(b.D:const(0), b:dim(x))) end
  if op ~= "add" and op ~= "sub" and op ~= "mul" then
    fail("dimensions know + - * / and :floordiv :ceildiv, got %s", SYMBOL[op] or op)
  end
  return b:public_dim(b.D[op](b.D, b:signed_dim(x), b:signed_dim(y)))
end

--- As dim, but numbers may be negative: terms of a sum.
function Builder:signed_dim(v)
  if type(v) == "number" and v % 1 == 0 and v > -2 ^ 40 and v < 0 then return self.D:const(v) end
  return self:dim(v, "a dimension's operand")
end

return function(plain)
  local M = {}
  for _, op in ipairs { "add", "sub", "mul", "div" } do
    M[op] = function(b, x, y, ...)
      if select("#", ...) == 0 then
        local found
        if type(y) == "number" then found = scaled(b, right, op, x, y)
        elseif type(x) == "number" then found = scaled(b, left, op, y, x) end
        if found then return found end
      end
      return plain[op](b, x, y, ...)
    end
  end

  local function tensor_arithmetic(b, op, x, y)
    if op == "neg" then return plain.neg(b, x) end
    if not M[op] then fail("tensors know + - * / and unary -, got %s; see the ops", SYMBOL[op]) end
    for side, v in pairs { left = x, right = y } do
      local record = hidden[v]
      if record and record.kind == "dim" or not record and type(v) ~= "number" then
        fail("%s side of %s is %s, wanted a tensor or a number", side, SYMBOL[op], describe(v))
      end
    end
    return M[op](b, x, y)
  end

  --- Runs an operator for value.lua.
  function Builder:operate(op, x, y)
    local rx, ry = hidden[x], hidden[y]
    if x == value.poison or y == value.poison then return value.poison end
    local tensors = rx and rx.kind == "tensor" or ry and ry.kind == "tensor"
    return self:entry(op, tensors and tensor_arithmetic or dim_arithmetic)(op, x, y)
  end
  return M
end
