--- The vector blocks of attention (kernels/attention.lua, their only user). Lanes run along query rows: a tile is R = NV *
-- lanes query rows, stored with the row number innermost, so elements of keys and values are broadcast straight from
-- memory, whatever their strides, and maxima and sums over keys need no work across lanes.
--
-- Arrays of a tile, all contiguous: qt [depth][R] queries, s [keys][R] scores and then weights, o [width][R] sums of
-- weighted values, state [3][R]: the running maximum, the sum of weights, the factor by which earlier sums shrink.
-- Invariant: a block reads and writes only what its counts name; lanes of rows that do not exist hold finite or NaN
-- values that reach no other lane.

local M = {}

-- 2^r = 1 + r (c[1] + c[2] r + ...) for |r| <= 1/2; found by the Remez exchange with the constant fixed, so that weight 1
-- is exact. Relative error 2^-28.5 and 2^-55.6. From `none` on, 2^-t rounds to 0.
local POWER = {
  f32 = { none = 160, bias = 127, mantissa = 23, c = { 0.6931472149680279, 0.24022652782887737, 0.055503105510137972,
    0.0096176929729930623, 0.0013406643902351759, 0.00015594678161326619 } },
  f64 = { none = 1100, bias = 1023, mantissa = 52, c = { 0.6931471805599457, 0.24022650695910098, 0.055504108664790395,
    0.0096181291076070024, 0.0013333558153439965, 0.0001540353044157213, 1.5252727385193868e-05, 1.3215442675329822e-06,
    1.0180647659234139e-07, 7.0725704128144235e-09, 4.0780719295883367e-10 } },
}

-- 2^t for t <= 0, 0 at -inf; NaN stays NaN.
local function power(b, t)
  local P = POWER[b.ftype]
  t = b:max(b:splat(-P.none), t)
  local n = b:rint(t)
  local r = b:sub(t, n)
  local p = b:splat(P.c[#P.c])
  for i = #P.c - 1, 1, -1 do p = b:fma(p, r, b:splat(P.c[i])) end
  p = b:fma(p, r, b:splat(1))
  if b.isa == "avx512" then return b:scalef(p, n) end
  local function two(i) return b:bits(b:shl(b:iadd(i, b:isplat(P.bias)), P.mantissa)) end
  local i = b:cvtt_i(n)
  local half = b:sar(i, 1) -- in two steps, so that a denormal rounds once
  return b:mul(b:mul(p, two(half)), two(b:isub(i, half)))
end

local function vectors(b, nv, p, k)
  local out = {}
  for v = 1, nv do out[v] = b:load(p, (k or 0) + (v - 1) * b.lanes * b.bytes) end
  return out
end

local function move(b, p, bytes) b:g_set(p, b:g_addk(p, bytes)) end

-- Elements at p + i * stride bytes, i < n <= 16, in every lane. `constant`: the stride when it is known, else it is in g
-- register `stride` and few registers hold its multiples. Gives fn(p, n) -> at(i), on(step): step moves p along.
local function lines(b, stride, constant, most)
  local odd, eight = {}, nil
  if not constant then
    for i = 1, math.min(most, 8) - 1, 2 do odd[i] = i == 1 and stride or b:g_mulk(stride, i) end
    eight = most > 8 and b:g_mulk(stride, 8)
  end
  return function(p, n)
    local second = eight and n > 8 and b:g_add(p, eight)
    local function at(i)
      if constant then return b:bcast(p, i * constant) end
      local from, scale = p, 1
      if i >= 8 then from, i = second, i - 8 end
      if i == 0 then return b:bcast(from, 0) end
      while i % 2 == 0 do i, scale = i / 2, scale * 2 end
      return b:bcastx(from, odd[i], scale, 0)
    end
    local function on(step)
      b:g_set(p, b:g_add(p, step))
      if second then b:g_set(second, b:g_add(second, step)) end
    end
    return at, on
  end
end

-- Outer product: acc[i * nv + v] += line i of p * vector v of q, over `count` steps of p (step bytes) and rows of q.
local function accumulate(b, acc, nv, count, p, step, q, line)
  local n = #acc / nv
  local at, on = line(p, n)
  b:loop(count, function()
    local x = vectors(b, nv, q)
    for i = 0, n - 1 do
      local y = at(i)
      for v = 1, nv do
        local sum = acc[i * nv + v]
        b:set(sum, b:fma(y, x[v], sum))
      end
    end
    on(step)
    move(b, q, nv * b.lanes * b.bytes)
  end)
end

local function store_all(b, vs, p, scale)
  local size = b.lanes * b.bytes
  for i, v in ipairs(vs) do b:store(p, scale == 1 and v or b:mul(v, b:splat(scale)), (i - 1) * size) end
  move(b, p, #vs * size)
end

--- words: n, o, state: n vectors of o become 0, nothing seen yet
function M.begin(nv)
  return function(b)
    local n, o, state = b:arg(0), b:arg(1), b:arg(2)
    local zero, size = b:splat(0), b.lanes * b.bytes
    for v = 0, nv - 1 do
      b:store(state, b:splat(-math.huge), v * size)
      b:store(state, zero, (nv + v) * size)
    end
    b:loop(n, function()
      b:store(o, zero, 0)
      move(b, o, size)
    end)
  end
end

--- Transposes rows of x to out [columns][R]. words: chunks, rows, rest, x, x row step, x column step, out, empty.
-- First `empty` vectors of out become 0; then `chunks` times `lanes` columns of all R rows (column step: one element), then
-- `rest` further columns of `rows` rows, element by element.
function M.pack(nv)
  return function(b)
    local chunks, rows, rest, x, step, column, out, empty = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5), b:arg(6), b:arg(7)
    local size = b.lanes * b.bytes
    local row = nv * size -- bytes of a column of out
    local zero, p = b:splat(0), b:copy(out)
    b:loop(empty, function()
      b:store(p, zero, 0)
      move(b, p, size)
    end)
    b:loop(chunks, function()
      local from = b:copy(x)
      for v = 0, nv - 1 do
        local r = {}
        for i = 1, b.lanes do
          r[i] = b:load(from, 0)
          b:g_set(from, b:g_add(from, step))
        end
        for i, c in ipairs(b:transpose(r)) do b:store(out, c, (i - 1) * row + v * size) end
      end
      move(b, x, size)
      move(b, out, b.lanes * row)
    end)
    b:loop(rows, function()
      local from, to = b:copy(x), b:copy(out)
      b:loop(rest, function()
        b:store1(to, b:bcast(from, 0), 0)
        b:g_set(from, b:g_add(from, column))
        move(b, to, row)
      end)
      b:g_set(x, b:g_add(x, step))
      move(b, out, b.bytes)
    end)
  end
end

--- s[j][...] = scale * sum over d of k[j][d] qt[d][...]. words: depth, k, k row step, k column step, qt, s, then how often
-- each of `groups` (numbers of keys at once, most first) runs
function M.score(nv, groups, scale)
  return function(b)
    local depth, k, step, column, qt, s = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5)
    local line = lines(b, step, nil, groups[1])
    for i, n in ipairs(groups) do
      b:loop(b:arg(5 + i), function()
        local acc = {}
        for j = 1, n * nv do acc[j] = b:splat(0) end
        accumulate(b, acc, nv, depth, b:copy(k), column, b:copy(qt), line)
        store_all(b, acc, s, scale)
        b:g_set(k, b:g_add(k, n == 1 and step or b:g_mulk(step, n)))
      end)
    end
  end
end

-- The body runs over `keys` rows of s: body(v, offset in bytes) for each vector of a row.
local function each_score(b, nv, keys, s, body, after)
  local size = b.lanes * b.bytes
  b:loop(keys, function()
    for v = 1, nv do body(v, (v - 1) * size) end
    move(b, s, nv * size)
    if after then after() end
  end)
end

--- Hides keys from the queries before them. words: keys, s, the first key's number less the first query's
function M.hide(nv)
  return function(b)
    local keys, s = b:arg(0), b:arg(1)
    local key, low, lane = b:splatg(b:arg(2)), b:splat(-math.huge), {}
    for v = 1, nv do lane[v] = b:iadd(b:iota(), b:isplat((v - 1) * b.lanes)) end
    each_score(b, nv, keys, s, function(v, k)
      b:store(s, b:select(b:ilt(lane[v], key), low, b:load(s, k)), k)
    end, function() b:set(key, b:iadd(key, b:isplat(1))) end)
  end
end

--- s += m for m [keys][R], or, with `line`, m [keys]. words: keys, s, m
function M.add(nv, line)
  return function(b)
    local keys, s, m = b:arg(0), b:arg(1), b:arg(2)
    local one
    each_score(b, nv, keys, s, function(v, k)
      if line and v == 1 then one = b:bcast(m, 0) end
      b:store(s, b:add(b:load(s, k), line and one or b:load(m, k)), k)
    end, function() move(b, m, line and b.bytes or nv * b.lanes * b.bytes) end)
  end
end

--- Hides keys whose byte is 0. words: units, s, m [units][R]: an element of m holds the bytes of b.bytes keys
function M.bytes(nv)
  return function(b)
    local units, s, m = b:arg(0), b:arg(1), b:arg(2)
    local row, low, none = nv * b.lanes * b.bytes, b:splat(-math.huge), b:isplat(0)
    b:loop(units, function()
      for v = 0, nv - 1 do
        local at = v * b.lanes * b.bytes
        local w = b:iload(m, at)
        for i = 0, b.bytes - 1 do
          local byte = b:and_(w, b:isplat((i == b.bytes - 1 and -1 or 255) * 2 ^ (8 * i)))
          b:store(s, b:select(b:ieq(byte, none), low, b:load(s, i * row + at)), i * row + at)
        end
      end
      move(b, s, b.bytes * row)
      move(b, m, row)
    end)
  end
end

--- Scores to weights 2^(factor (s - max)), and the state moved on. words: keys, s, state
function M.weigh(nv, factor)
  return function(b)
    local keys, s, state = b:arg(0), b:arg(1), b:arg(2)
    local size, low = b.lanes * b.bytes, b:splat(-math.huge)
    local old, top, sum, base = vectors(b, nv, state), {}, {}, {}
    for v = 1, nv do
      top[v] = b:splat(-math.huge)
      b:set(top[v], old[v])
    end
    local p = b:copy(s)
    each_score(b, nv, keys, p, function(v, k) b:set(top[v], b:max(b:load(p, k), top[v])) end)
    local function weight(x, v) return power(b, b:mul(b:sub(x, base[v]), b:splat(factor))) end
    for v = 1, nv do
      base[v] = b:select(b:eq(top[v], low), b:splat(0), top[v]) -- nothing visible yet: weights 0, not NaN
      b:store(state, top[v], (v - 1) * size)
      local shrink = weight(old[v], v)
      b:store(state, shrink, (2 * nv + v - 1) * size)
      sum[v] = b:mul(b:load(state, (nv + v - 1) * size), shrink)
    end
    each_score(b, nv, keys, s, function(v, k)
      local e = weight(b:load(s, k), v)
      b:store(s, e, k)
      b:set(sum[v], b:add(sum[v], e))
    end)
    for v = 1, nv do b:store(state, sum[v], (nv + v - 1) * size) end
  end
end

--- o[c][...] = o[c][...] * shrink + sum over keys of v[j][c] s[j][...]. words: keys, v, v row step, v column step, s, o,
-- state, then how often each of `groups` (numbers of columns at once) runs. constant: the column step if known, else nil
function M.value(nv, groups, constant)
  return function(b)
    local keys, v, step, s, o = b:arg(0), b:arg(1), b:arg(2), b:arg(4), b:arg(5)
    local column = not constant and b:arg(3)
    local line = lines(b, column, constant, groups[1])
    local size = b.lanes * b.bytes
    local shrink = vectors(b, nv, b:arg(6), 2 * nv * size)
    for i, n in ipairs(groups) do
      b:loop(b:arg(6 + i), function()
        local acc = {}
        for j = 1, n * nv do acc[j] = b:mul(b:load(o, (j - 1) * size), shrink[(j - 1) % nv + 1]) end
        accumulate(b, acc, nv, keys, b:copy(v), step, b:copy(s), line)
        store_all(b, acc, o, 1)
        b:g_set(v, constant and b:g_addk(v, n * constant) or b:g_add(v, b:g_mulk(column, n)))
      end)
    end
  end
end

--- Sums over weights, turned back to rows of the output. words: chunks, rows, rest, o, state, out, out row step (bytes).
-- `chunks` times `lanes` columns of all R rows, then `rest` columns of `rows` rows, as in pack.
function M.finish(nv)
  return function(b)
    local chunks, rows, rest, o, state, out, step = b:arg(0), b:arg(1), b:arg(2), b:arg(3), b:arg(4), b:arg(5), b:arg(6)
    local size, zero, part = b.lanes * b.bytes, b:splat(0), {}
    local row = nv * size
    for v = 1, nv do
      local sum = b:load(state, row + (v - 1) * size)
      part[v] = b:select(b:eq(sum, zero), zero, b:div(b:splat(1), sum))
      b:store(state, part[v], row + (v - 1) * size)
    end
    b:loop(chunks, function()
      local to = b:copy(out)
      for v = 1, nv do
        local c = {}
        for i = 1, b.lanes do c[i] = b:mul(b:load(o, (i - 1) * row + (v - 1) * size), part[v]) end
        for _, r in ipairs(b:transpose(c)) do
          b:store(to, r, 0)
          b:g_set(to, b:g_add(to, step))
        end
      end
      move(b, o, b.lanes * row)
      move(b, out, size)
    end)
    b:loop(rows, function()
      local from, to = b:copy(o), b:copy(out)
      b:loop(rest, function()
        b:store1(to, b:mul(b:bcast(from, 0), b:bcast(state, row)), 0)
        move(b, from, row)
        move(b, to, b.bytes)
      end)
      move(b, o, b.bytes)
      move(b, state, b.bytes)
      b:g_set(out, b:g_add(out, step))
    end)
  end
end

return M
