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

-- Threefry-2x32-20 of counter (index low, index high), as src/base/random.h; u[i], and v[i] when v
-- is given, are the top 24 bits of its words as numbers in [0, 1): exact in float.
local ROTATION = { 13, 15, 26, 6, 17, 29, 16, 24 }

local function threefry(ctype)
  local text = { ([[
static void es_this(const unsigned *key, long index, long step, long n, %s *u, %s *v)
{
  unsigned k0 = key[0], k1 = key[1], k2 = 0x1BD11BDAU ^ k0 ^ k1;
  for (long i = 0; i < n; i++, index += step) {
    unsigned x0 = (unsigned)index + k0, x1 = (unsigned)((unsigned long)index >> 32) + k1;
]]):format(ctype, ctype) }
  for round = 0, 19 do
    local by = ROTATION[round % 8 + 1]
    text[#text + 1] = ("    x0 += x1; x1 = (x1 << %d | x1 >> %d) ^ x0;\n"):format(by, 32 - by)
    if round % 4 == 3 then
      local injection = (round + 1) / 4
      text[#text + 1] = ("    x0 += k%d; x1 += k%d + %dU;\n"):format(injection % 3, (injection + 1) % 3, injection)
    end
  end
  text[#text + 1] = ([[
    u[i] = (%s)(int)(x0 >> 8) * (%s)5.9604644775390625e-08;
    if (v) v[i] = (%s)(int)(x1 >> 8) * (%s)5.9604644775390625e-08;
  }
}
]]):format(ctype, ctype, ctype, ctype)
  return table.concat(text)
end

--- The uniform numbers of random node `id` for one run; run.pos, run.pos_step: linear index and its
-- step.
function M.uniform(k, id, run, u, v)
  local ctype = k:ctype(k.graph:dtype(id))
  local fn = k.unit:helper(threefry(ctype))
  k:line("%s(%s, %s, %s, %s, %s, %s);", fn, k:key(k.graph:attr(id, "stream")), run.pos, run.pos_step, run.n, u,
    v or "0")
end

return M
