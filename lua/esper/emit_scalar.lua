--- Plain C loops for what vector blocks (one element width) do not do: casts, copies of integers,
-- random draws. Used by emit_stage.lua on one run.

local M = {}

local INTEGER = { -- largest and smallest value as C literals, and as floats just outside the range
  i32 = { max = "2147483647", min = "(-2147483647 - 1)", above = "2147483648.0", below = "-2147483648.0" },
  i64 = { max = "9223372036854775807L", min = "(-9223372036854775807L - 1)",
          above = "9223372036854775808.0", below = "-9223372036854775808.0" },
  u8 = { max = "255", min = "0", above = "256.0", below = "0.0" },
}

-- Expression of `v` (of dtype `from`) as dtype `to`: see cast in ops.def. To bool: 1 where v != 0,
-- NaN included.
local function convert(k, v, from, to)
  local range = INTEGER[to]
  if to == from then return v end
  if to == "bool" then return v .. " != 0" end
  if not range or from == "bool" then return ("(%s)%s"):format(k:ctype(to), v) end
  if from == "f32" or from == "f64" then
    return ("%s != %s ? 0 : %s >= %s ? %s : %s <= %s ? %s : (%s)%s"):format(
      v, v, v, range.above, range.max, v, range.below, range.min, k:ctype(to), v)
  end
  return ("(long)%s > %s ? %s : (long)%s < %s ? %s : (%s)%s"):format(
    v, range.max, range.max, v, range.min, range.min, k:ctype(to), v)
end

-- Declares double v = value; infinities and NaN have no literal.
local function constant(k, v, value)
  if value - value == 0 then return k:line("double %s = %.17g;", v, value) end
  local text = value ~= value and "%s / %s" or (value > 0 and "1 / %s" or "-1 / %s")
  k:line("double %s = 0; %s = %s;", v, v, (text:gsub("%%s", v)))
end

--- y[i] = x[i], converted, for i in 0 .. n - 1; y and x are { ptr=, step=dim, dtype= }, or x is {
-- const= }.
function M.copy(k, x, y, n)
  local from, to, i, v = x.dtype or "f64", y.dtype, k:name("i"), k:name("v")
  k:open("for (long %s = 0; %s < %s; %s++)", i, i, n, i)
  if x.const then
    constant(k, v, x.const)
  else
    local value = ("((%s *)(%s))[%s * %s]"):format(k:ctype(from), x.ptr, i, k:dim(x.step))
    k:line("%s %s = %s%s;", k:ctype(from), v, value, from == "bool" and " != 0" or "")
  end
  k:line("((%s *)(%s))[%s * %s] = %s;", k:ctype(to), y.ptr, i, k:dim(y.step), convert(k, v, from, to))
  k:close()
end

return M
