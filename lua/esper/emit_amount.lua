--- Amounts: a number, or a C expression (string) of a long where the number is not known. What blocks are told in words or
-- constants: counts, byte strides. Used by emit_sweep.lua and those who use it.
--
--   mul(x, y)  sub(x, y)  floordiv(x, n)  mod(x, n)  of amounts, n a number     of(k, dim, factor)  a dim times a number

local M = {}

local function atom(x)
  if type(x) == "number" then return x < 0 and ("(%dL)"):format(x) or ("%dL"):format(x) end
  return x:find "^[%w_]+$" and x or "(" .. x .. ")"
end

function M.mul(x, y)
  if type(x) == "number" and type(y) == "number" then return x * y end
  if x == 0 or y == 0 then return 0 end
  if x == 1 then return y end
  return y == 1 and x or atom(x) .. " * " .. atom(y)
end

function M.sub(x, y)
  if type(x) == "number" and type(y) == "number" then return x - y end
  if x == y then return 0 end
  return y == 0 and x or atom(x) .. " - " .. atom(y)
end

function M.floordiv(x, n)
  if n == 1 then return x end
  return type(x) == "number" and math.floor(x / n) or ("%s / %dL"):format(atom(x), n)
end

function M.mod(x, n)
  if n == 1 then return 0 end
  return type(x) == "number" and x % n or ("%s %% %dL"):format(atom(x), n)
end

--- Dim d times `factor` (1 when left out) as an amount.
function M.of(k, d, factor)
  local value = k.dims:value(d)
  return value and value * (factor or 1) or M.mul(k:dim(d), factor or 1)
end

return M
