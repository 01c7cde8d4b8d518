--- Recipe: rotary position embedding. A tile is TOKENS tokens: the table of their angles is made once and turns the pairs of
-- every batch and head.
--
-- Angles are whole turns in fixed point, one integer of the element's width: pair i turns by f[i] = base^(-2i/d) / (2 pi)
-- turns a token. The tile's first angle comes from a product in double precision, the others by adding f[i], which
-- wraps exactly; TOKENS additions of half a unit each are 2^-28 turns (f32), below an ulp of the cosine.

local vecmath = require "esper.vecmath"

local TOKENS = 16
local PAIRS = 64 -- of a pass: tables of at most 16 KiB

-- f[i] for pairs first .. first + n - 1. words: n, first, scale (one f64: -2 ln(base) / d), f
local function turns_block(b)
  local n, f, scale = b:arg(0), b:arg(3), b:bcast(b:arg(2))
  local at = b:cvt_f(b:iadd(b:splatg(b:arg(1)), b:iota())) -- numbers of the pairs
  b:each(n, { f }, function(mask)
    b:store(f, b:mul(vecmath.exp(b, b:mul(at, scale)), b:splat(1 / (2 * math.pi))), 0, mask)
    b:set(at, b:add(at, b:splat(b.lanes)))
  end)
end

-- words: n, tokens, angle of the first token, angle a token (integers), cos, sin: tables [tokens][n]
local function table_block(b)
  local n, tokens, first, more, cos, sin = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5)
  local unit = b:splat(2 ^ (-8 * b.bytes))
  local quarter = b:isplat(-2 ^ (8 * b.bytes - 2))
  local row = b:g_mulk(n, b.bytes)
  b:each(n, { first, more, cos, sin }, function(mask)
    local angle, step, c, s = b:isplat(0), b:iload(more, 0, mask), b:copy(cos), b:copy(sin)
    b:set(angle, b:iload(first, 0, mask))
    b:loop(tokens, function()
      b:store(c, vecmath.cos_turns(b, b:mul(b:cvt_f(angle), unit)), 0, mask)
      b:store(s, vecmath.cos_turns(b, b:mul(b:cvt_f(b:iadd(angle, quarter)), unit)), 0, mask)
      b:set(angle, b:iadd(angle, step))
      b:g_set(c, b:g_add(c, row))
      b:g_set(s, b:g_add(s, row))
    end)
  end)
end

-- Turns n pairs of each token. words: tokens, n, x, token step of x, from a pair's first half to its second, step along
-- the halves, cos, sin, out, token step of out, from the first half to the second there. Steps in bytes.
local function turn_block(contiguous)
  return function(b)
    local n, x, far, step, out, out_far = b:arg(1), b:arg(2), b:arg(4), b:arg(5), b:arg(8), b:arg(10)
    local cos, sin = b:arg(6), b:arg(7)
    local row = b:g_mulk(n, b.bytes)
    local along = b:arg(3)
    local out_along = b:arg(9)
    b:loop(b:arg(0), function()
      local p, u, c, s = b:copy(x), b:copy(out), b:copy(cos), b:copy(sin)
      local q, v = b:g_add(x, far), b:g_add(out, out_far)
      local function moving(g) return contiguous and g or { g, step = step } end
      local function load(g, mask) return contiguous and b:load(g, 0, mask) or b:loads(g, step, 0, mask) end
      b:each(n, { moving(p), moving(q), c, s, u, v }, function(mask)
        local first, second = load(p, mask), load(q, mask)
        local cosine, sine = b:load(c, 0, mask), b:load(s, 0, mask)
        b:store(u, b:sub(b:mul(first, cosine), b:mul(second, sine)), 0, mask)
        b:store(v, b:fma(second, cosine, b:mul(first, sine)), 0, mask)
      end)
      b:g_set(x, b:g_add(x, along))
      b:g_set(out, b:g_add(out, out_along))
      b:g_set(cos, b:g_add(cos, row))
      b:g_set(sin, b:g_add(sin, row))
    end)
  end
end

-- The tables for pairs first .. first + n - 1 of tokens t0 .. t0 + tokens - 1. Gives the names of cos and sin.
local function tables(k, r)
  local f, start, step = k:buffer("f64", PAIRS), k:buffer(r.integer, PAIRS), k:buffer(r.integer, PAIRS)
  local cos, sin = k:buffer(r.dtype, TOKENS * PAIRS), k:buffer(r.dtype, TOKENS * PAIRS)
  k:line("double scale[1]; scale[0] = %.17g / %s;", -2 * math.log(k.graph:attr(r.id, "base")), k:dim(r.width))
  k:call(k:block(turns_block, "f64", "rope turns"), { "n", "first", "scale", f })
  k:open("for (long i = 0; i < n; i++)")
  local unit, T = ("%.17g"):format(2 ^ (8 * r.bytes)), k:ctype(r.integer)
  k:line("double at = %s[i] * t0, more = %s[i];", f, f)
  k:line("at -= (long)(at + 0.5); more -= (long)(more + 0.5);") -- half a turn at most either way; angles are not negative
  k:line("%s[i] = (%s)(long)(at * %s);", start, T, unit)
  k:line("%s[i] = (%s)(long)(more * %s);", step, T, unit)
  k:close()
  k:call(k:block(table_block, r.dtype, "rope table"), { "n", "tokens", start, step, cos, sin })
  return cos, sin
end

local function emit(k, group)
  local id, D = group.anchor, k.dims
  local arg, shape, dtype = group.args[id][1], k.graph:shape(id), k.graph:dtype(id)
  local rank, bytes = #shape, k:bytes(dtype)
  local count, width = shape[rank - 1], shape[rank]
  local r = { id = id, dtype = dtype, integer = dtype == "f32" and "i32" or "i64", bytes = bytes, width = width }
  local lead, lead_strides = {}, {}
  for axis = 1, rank - 2 do lead[axis], lead_strides[axis] = shape[axis], arg.strides[axis] end
  local inner = arg.strides[rank]
  local contiguous = D:value(inner) == 1
  local turn = k:block(turn_block(contiguous), dtype, "rope turn " .. tostring(contiguous))
  local temp = not k.stored and k:temp(D:mul(k:product(shape), D:const(bytes)))
  k:step { tiles = D:ceildiv(count, TOKENS) }
  local base, half = temp and k:ptr(temp) or k:write(id), k:dim(D:floordiv(width, 2))
  k:tiles(function(t)
    k:line("const long t0 = %s * %dL, tokens = %s - t0 < %dL ? %s - t0 : %dL;", t, TOKENS, k:dim(count), TOKENS, k:dim(count), TOKENS)
    k:open("for (long first = 0; first < %s; first += %dL)", half, PAIRS)
    k:line("const long n = %s - first < %dL ? %s - first : %dL;", half, PAIRS, half, PAIRS)
    local cos, sin = tables(k, r)
    k:walk { extents = lead, start = "0L", n = k:dim(k:product(lead)),
      operands = { { at = k:read(arg), offset = arg.offset, strides = lead_strides, bytes = bytes } },
      body = function(w)
        k:open("for (long j = 0; j < %s; j++)", w.n)
        k:line("char *x = %s + (j * %s + t0 * %s + first * %s) * %dL;", w[1].ptr, k:dim(w[1].step), k:dim(arg.strides[rank - 1]),
          k:dim(inner), bytes)
        k:line("char *to = %s + (((%s + j) * %s + t0) * %s + first) * %dL;", base, w.pos, k:dim(count), k:dim(width), bytes)
        local function size(d) return ("%s * %dL"):format(d, bytes) end
        k:call(turn, { "tokens", "n", "x", size(k:dim(arg.strides[rank - 1])), size(half .. " * " .. k:dim(inner)), size(k:dim(inner)),
          cos, sin, "to", size(k:dim(width)), size(half) })
        k:close()
      end }
    k:close()
    -- Every head's rows of these tokens are whole now and, a row being contiguous, one run.
    if #group.epilogue > 0 then
      k:open("for (long j = 0; j < %s; j++)", k:dim(k:product(lead)))
      k:line("const long start = (j * %s + t0) * %s;", k:dim(count), k:dim(width))
      k:epilogue { start = "start", n = "tokens * " .. k:dim(width), from = temp and ("%s + start * %dL"):format(base, bytes) or nil }
      k:close()
    end
  end)
end

return { name = "rope", emit = emit }
