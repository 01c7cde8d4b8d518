--- Plain C loops for what vector blocks (one element width) do not do: casts, integer nodes, random draws.
-- Used by emit_chain.lua, on one contiguous run of at most a few hundred elements or a whole copied row.

local M = {}

local INTEGER = { -- largest and smallest value as C literals, and as floats just outside the range
  i32 = { max = "2147483647", min = "(-2147483647 - 1)", above = "2147483648.0", below = "-2147483648.0" },
  i64 = { max = "9223372036854775807L", min = "(-9223372036854775807L - 1)",
          above = "9223372036854775808.0", below = "-9223372036854775808.0" },
  u8 = { max = "255", min = "0", above = "256.0", below = "0.0" },
}

-- Expression of `v` (of dtype `from`) as dtype `to`: see cast in ops.def. To bool: 1 where v != 0, NaN included.
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

-- Integer nodes; sums wrap.
local BINARY = {
  add = "(long)((unsigned long)%s + (unsigned long)%s)",
  sub = "(long)((unsigned long)%s - (unsigned long)%s)",
  mul = "(long)((unsigned long)%s * (unsigned long)%s)",
  maximum = "(%s > %s ? {1} : {2})",
  minimum = "(%s < %s ? {1} : {2})",
}
BINARY.bias_add = BINARY.add

local UNARY = {
  neg = "(long)(0UL - (unsigned long)%s)",
  abs = "(%s < 0 ? (long)(0UL - (unsigned long)%s) : (long)%s)",
  relu = "(%s > 0 ? %s : 0)",
}

local COPY = {
  stop_grad = true, checkpoint = true, telemetry_probe = true, reshape = true, permute = true, slice = true,
  expand = true,
}

local function expression(k, id, dtype, v, types)
  local op = k.graph:op(id)
  if op == "cast" then return convert(k, v[1], types[1], dtype) end
  if COPY[op] then return v[1] end
  local text = BINARY[op]
  if text and INTEGER[dtype] then
    text = text:format(v[1], v[2]):gsub("{(%d)}", function(i) return v[tonumber(i)] end)
    return ("(%s)%s"):format(k:ctype(dtype), text)
  end
  text = UNARY[op]
  if text and INTEGER[dtype] then return ("(%s)%s"):format(k:ctype(dtype), (text:gsub("%%s", v[1]))) end
  error(("no kernel for op %s on %s: cast its inputs to f32 or f64 first"):format(op, dtype), 0)
end

--- y[i] = node(x0[i], x1[i]...) for i in 0 .. n - 1; y and operands { ptr=, step=dim, dtype= }, or operand { const= }.
-- copy: the value of the first operand as it is.
function M.node(k, id, operands, y, n, copy)
  local dtype, v, types = k.graph:dtype(id), {}, {}
  local out, i = k:name("y"), k:name("i")
  k:open("")
  k:line("%s *%s = (%s *)%s;", k:ctype(dtype), out, k:ctype(dtype), y.ptr)
  k:open("for (long %s = 0; %s < %s; %s++)", i, i, n, i)
  for at, operand in ipairs(operands) do
    if operand.const then
      v[at], types[at] = ("%.0fL"):format(operand.const), "i64"
    else
      local ctype = k:ctype(operand.dtype)
      v[at], types[at] = k:name("x"), operand.dtype
      k:line("%s %s = ((%s *)%s)[%s * %s]%s;", ctype, v[at], ctype, operand.ptr, i, k:dim(operand.step),
        operand.dtype == "bool" and " != 0" or "")
    end
  end
  k:line("%s[%s * %s] = %s;", out, i, k:dim(y.step), copy and v[1] or expression(k, id, dtype, v, types))
  k:close()
  k:close()
end

-- Threefry-2x32-20 of counter (index low, index high), as src/base/random.h; u[i], and v[i] when v is given, are the top 24 bits
-- of its words as numbers in [0, 1): exact in float.
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

--- The uniform numbers of random node `id` for one run; run.pos, run.pos_step: linear index and its step.
function M.uniform(k, id, run, u, v)
  local ctype = k:ctype(k.graph:dtype(id))
  local fn = k.unit:helper(threefry(ctype))
  k:line("%s(%s, %s, %s, %s, %s, %s);", fn, k:key(k.graph:attr(id, "stream")), run.pos, run.pos_step, run.n, u,
    v or "0")
end

return M
