--- Scaled dot-product attention in one pass over the keys; the score matrix never exists in memory.
--
-- A tile is one query row. Keys come in pieces of KEYS: scores to a stack buffer, mask applied, then the running softmax
-- (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018): with m the maximum so far and l the
-- sum of exp(s - m), a new maximum rescales l and the accumulated values by exp(m_old - m_new). Values accumulate in the
-- output row (or a temporary), divided by l at the end; a row without a visible key is 0.

local math_ = require "esper.vecmath"

local KEYS = 64

-- words: keys, depth, q, q step, k, k step along depth, k step along keys, scores; score = scale * dot
local function score_block(k, id, scale)
  return function(b)
    local keys, depth, q, qs, key, ks, kn, out =
      b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5), b:arg(6), b:arg(7)
    k:note(b, id)
    local factor = b:splat(scale)
    b:loop(keys, function()
      local acc, x, y = b:splat(0), b:copy(q), b:copy(key)
      b:each(depth, { { x, step = qs }, { y, step = ks } }, function(mask)
        b:set(acc, b:fma(b:loads(x, qs, 0, mask), b:loads(y, ks, 0, mask), acc))
      end)
      b:store1(out, b:mul(b:hadd(acc), factor), 0)
      b:g_set(out, b:g_addk(out, b.bytes))
      b:g_set(key, b:g_add(key, kn))
    end)
  end
end

-- words: keys, scores (become exp(s - m)), state {m, l, factor by which earlier sums shrink}
local function softmax_block(k, id)
  return function(b)
    local keys, s, state = b:arg(0), b:arg(1), b:arg(2)
    k:note(b, id)
    local low = b:splat(-math.huge)
    local old, top = b:bcast(state, 0), b:splat(-math.huge)
    local p = b:copy(s)
    b:each(keys, { p }, function(mask)
      local v = b:load(p, 0, mask)
      if mask then v = b:select(mask, v, low) end
      b:set(top, b:max(v, top))
    end)
    local max = b:max(b:hmax(top), old)
    local nothing = b:eq(max, low)
    local sum = b:splat(0)
    b:each(keys, { s }, function(mask)
      local v = b:load(s, 0, mask)
      local e = math_.exp(b, b:sub(v, max))
      e = b:select(b:eq(v, low), b:splat(0), e) -- hidden, also while nothing else was seen; NaN stays NaN
      b:store(s, e, 0, mask)
      if mask then e = b:select(mask, e, b:splat(0)) end
      b:set(sum, b:add(sum, e))
    end)
    local factor = b:select(nothing, b:splat(1), math_.exp(b, b:sub(old, max)))
    b:store1(state, max, 0)
    b:store1(state, b:fma(b:bcast(state, b.bytes), factor, b:hadd(sum)), b.bytes)
    b:store1(state, factor, 2 * b.bytes)
  end
end

-- words: width, row, state, keys, weights, v, v step along width, v step along keys
local function value_block(k, id)
  return function(b)
    local width, row, state, keys, p, v, vs, vn = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5), b:arg(6), b:arg(7)
    k:note(b, id)
    local factor = b:bcast(state, 2 * b.bytes)
    b:each(width, { row, { v, step = vs } }, function(mask)
      local acc = b:mul(b:load(row, 0, mask), factor)
      local w, y = b:copy(p), b:copy(v)
      b:loop(keys, function()
        b:set(acc, b:fma(b:bcast(w, 0), b:loads(y, vs, 0, mask), acc))
        b:g_set(w, b:g_addk(w, b.bytes))
        b:g_set(y, b:g_add(y, vn))
      end)
      b:store(row, acc, 0, mask)
    end)
  end
end

-- words: width, row, state: row / l, or 0 where l is 0
local function divide_block(k, id)
  return function(b)
    local width, row, state = b:arg(0), b:arg(1), b:arg(2)
    k:note(b, id)
    local l, zero = b:bcast(state, b.bytes), b:splat(0)
    local empty = b:eq(l, zero)
    b:each(width, { row }, function(mask)
      b:store(row, b:select(empty, zero, b:div(b:load(row, 0, mask), l)), 0, mask)
    end)
  end
end

local function zero_block()
  return function(b)
    local n, out = b:arg(0), b:arg(1)
    b:each(n, { out }, function(mask) b:store(out, b:splat(0), 0, mask) end)
  end
end

-- The mask's strides in the axes of the scores: aligned from the right, 0 where it has extent 1.
local function mask_strides(k, arg, shape, scores)
  local strides = {}
  for axis = 1, #scores do
    local at = axis - (#scores - #shape)
    strides[axis] = at >= 1 and shape[at] == scores[axis] and arg.strides[at] or k.dims:const(0)
  end
  return strides
end

local function emit(k, group)
  local D, id = k.dims, group.anchor
  local q, key, v, mask = unpack(group.args[id])
  local inputs, out = k.graph:inputs(id), k.graph:shape(id)
  local rank, dtype = #out, k.graph:dtype(id)
  local qs, ks = k.graph:shape(inputs[1]), k.graph:shape(inputs[2])
  local bytes, T = k:bytes(dtype), k:ctype(dtype)
  local scale = k.graph:attr(id, "scale")
  if scale == 0 then scale = 1 / math.sqrt(assert(D:value(qs[rank]), "head size must be constant")) end
  local rows = {}
  for axis = 1, rank - 1 do rows[axis] = out[axis] end
  local blocks = {
    score = k:block(score_block(k, id, scale), dtype), softmax = k:block(softmax_block(k, id), dtype),
    value = k:block(value_block(k, id), dtype), divide = k:block(divide_block(k, id), dtype),
    zero = k:block(zero_block(), dtype),
  }
  local temp = not k.stored and k:temp(D:mul(k:product(out), D:const(bytes)))
  k:step { tiles = k:product(rows) }
  local base = temp and k:ptr(temp) or k:write(id)
  local scores = k:buffer(dtype, KEYS)
  k:line("%s state[3];", T)
  local function step(d) return ("%s * %dL"):format(k:dim(d), bytes) end
  k:tiles(function(t)
    local at = k:unravel(rows, t)
    local lead = { unpack(at, 1, rank - 2) }
    local function along(index) local all = { unpack(lead) } all[rank - 1] = index return all end
    k:line("char *row = %s + %s * %s * %dL;", base, t, k:dim(out[rank]), bytes)
    k:line("long visible = %s;", k:dim(ks[rank - 1]))
    if k.graph:attr(id, "causal") == 1 then k:line("if (visible > %s + 1) visible = %s + 1;", at[rank - 1], at[rank - 1]) end
    k:line("{ union { %s; %s f; } low; low.u = %s; state[0] = low.f; state[1] = 0; }",
      dtype == "f32" and "unsigned u" or "unsigned long u", T, dtype == "f32" and "0xff800000u" or "0xfff0000000000000ul")
    k:call(blocks.zero, { k:dim(out[rank]), "row" })
    k:open("for (long first = 0; first < visible; first += %dL)", KEYS)
    k:line("long keys = visible - first < %dL ? visible - first : %dL;", KEYS, KEYS)
    k:call(blocks.score, { "keys", k:dim(qs[rank]), k:at(q, at), step(q.strides[rank]), k:at(key, along("first")),
      step(key.strides[rank]), step(key.strides[rank - 1]), scores })
    if mask then
      local scores_shape = { unpack(rows) }
      scores_shape[rank] = ks[rank - 1]
      local strides = mask_strides(k, mask, k.graph:shape(inputs[4]), scores_shape)
      local index = { unpack(at) }
      index[rank] = "first + j"
      k:open("for (long j = 0; j < keys; j++)")
      local address = ("%s + (%s) * %dL"):format(k:read(mask), k:offset(mask.offset, strides, index), k:bytes(mask.dtype))
      if mask.dtype == "bool" then
        k:line("union { %s; %s f; } low; low.u = %s;", dtype == "f32" and "unsigned u" or "unsigned long u", T,
          dtype == "f32" and "0xff800000u" or "0xfff0000000000000ul")
        k:line("if (!*%s) %s[j] = low.f;", k:raw(address, "bool"), scores)
      else
        k:line("%s[j] += *%s;", scores, k:raw(address, dtype))
      end
      k:close()
    end
    k:call(blocks.softmax, { "keys", scores, "state" })
    k:call(blocks.value, { k:dim(out[rank]), "row", "state", "keys", scores, k:at(v, along("first")), step(v.strides[rank]),
      step(v.strides[rank - 1]) })
    k:close()
    k:call(blocks.divide, { k:dim(out[rank]), "row", "state" })
    k:epilogue { start = ("%s * %s"):format(t, k:dim(out[rank])), n = k:dim(out[rank]), from = temp and "row" or nil }
  end)
end

return { name = "attention", emit = emit }
