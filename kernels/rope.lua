--- Recipe: rotary position embedding. A tile is one token: the table of its angles is made once, in
-- double precision, and turns the pairs of every batch and head.
local vecmath = require "esper.vecmath"

local CHUNK = 128 -- pairs a pass: a table of 2 KiB

-- c[i], s[i] = cos, sin of token * e^(scale (first + i)), scale = -2 ln(base) / d; angles up to
-- 1.5e6 (vecmath.lua).
local function angles(b)
  local n, c, s = b:arg(0), b:arg(3), b:arg(4)
  local scale, token = b:bcast(b:arg(2)), b:bcast(b:arg(2), 8)
  local at = b:cvt_f(b:iadd(b:splatg(b:arg(1)), b:iota())) -- numbers of the pairs
  b:each(n, { c, s }, function(mask)
    local angle = b:mul(token, vecmath.exp(b, b:mul(at, scale)))
    b:store(c, vecmath.cos(b, angle), 0, mask)
    b:store(s, vecmath.sin(b, angle), 0, mask)
    b:set(at, b:add(at, b:splat(b.lanes)))
  end)
end

-- The table for pairs first .. first + n - 1 of token t, as two arrays of the element type.
local function table_of(k, dtype, t, first, n, scale)
  local wide = { k:buffer("f64", CHUNK), k:buffer("f64", CHUNK) }
  local set = k:name("set")
  k:line("double %s[2]; %s[0] = %s; %s[1] = %s;", set, set, scale, set, t)
  k:call(k:block(angles, "f64"), { n, first, set, wide[1], wide[2] })
  if dtype == "f64" then return wide end
  local narrow, i = { k:buffer(dtype, CHUNK), k:buffer(dtype, CHUNK) }, k:name("i")
  k:open("for (long %s = 0; %s < %s; %s++)", i, i, n, i)
  for part = 1, 2 do k:line("%s[%s] = %s[%s];", narrow[part], i, wide[part], i) end
  k:close()
  return narrow
end

-- Words: n, x of the first halves, x of the second halves, byte stride of x, cos, sin, two results
-- (contiguous).
local function turn(b)
  local n, x, y, step, c, s, u, v = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5), b:arg(6), b:arg(7)
  b:each(n, { { x, step = step }, { y, step = step }, c, s, u, v }, function(mask)
    local p, q = b:loads(x, step, 0, mask), b:loads(y, step, 0, mask)
    local cos, sin = b:load(c, 0, mask), b:load(s, 0, mask)
    b:store(u, b:sub(b:mul(p, cos), b:mul(q, sin)), 0, mask)
    b:store(v, b:add(b:mul(q, cos), b:mul(p, sin)), 0, mask)
  end)
end

local function emit(k, group)
  local id, D = group.anchor, k.dims
  local arg, shape, dtype = group.args[id][1], k.graph:shape(id), k.graph:dtype(id)
  local rank, bytes = #shape, k:bytes(dtype)
  local tokens, width = shape[rank - 1], shape[rank]
  local half, lead, lead_strides = D:floordiv(width, 2), {}, {}
  for axis = 1, rank - 2 do lead[axis], lead_strides[axis] = shape[axis], arg.strides[axis] end
  k:step{ tiles = tokens }
  k:tiles(function(t)
    local first, n, h = k:name("first"), k:name("n"), k:dim(half)
    local u, v = k:buffer(dtype, CHUNK), k:buffer(dtype, CHUNK)
    k:open("for (long %s = 0; %s < %s; %s += %dL)", first, first, h, first, CHUNK)
    k:line("long %s = %s - %s;", n, h, first)
    k:line("if (%s > %dL) %s = %dL;", n, CHUNK, n, CHUNK)
    local scale = ("%.17g / %s"):format(-2 * math.log(k.graph:attr(id, "base")), k:dim(width))
    local cs = table_of(k, dtype, t, first, n, scale)
    k:walk{ extents = lead, start = "0L", n = k:dim(k:product(lead)),
            operands = { { at = k:read(arg), offset = arg.offset, strides = lead_strides, bytes = bytes } },
            body = function(w)
      local j, x, to = k:name("j"), k:name("x"), k:name("to")
      local step = k:dim(arg.strides[rank])
      k:open("for (long %s = 0; %s < %s; %s++)", j, j, w.n, j)
      k:line("char *%s = %s + (%s * %s + %s * %s + %s * %s) * %dL;", x, w[1].ptr, j, k:dim(w[1].step), t,
        k:dim(arg.strides[rank - 1]), first, step, bytes)
      k:line("long %s = ((%s + %s) * %s + %s) * %s + %s;", to, w.pos, j, k:dim(tokens), t, k:dim(width), first)
      local far = ("%s + %s * %s * %dL"):format(x, h, step, bytes)
      k:call(k:block(turn), { n, x, far, ("%s * %dL"):format(step, bytes), cs[1], cs[2], u, v })
      k:epilogue{ start = to, n = n, from = "(char *)" .. u }
      k:epilogue{ start = ("%s + %s"):format(to, h), n = n, from = "(char *)" .. v }
      k:close()
    end }
    k:close()
  end)
end

return { name = "rope", emit = emit }
