--- The vector blocks of contractions: inner products of rows, register tiles, and the packing they need. Built here,
-- called by kernels/contract.lua, which says when each is used.
--
-- All steps and strides are in bytes, all counts in elements unless said otherwise; no block depends on an extent or a
-- stride, so one copy of each serves every contraction of a unit. With L lanes:
--   tile  MR x NV*L sums in registers; a element by element, b a vector at a time, k outermost
--   dots  R x C inner products at a time: lanes run along k, which is contiguous in both operands
--   dot   one row of a against one row of w after the other: each row of w is read as one stream
--   turn  out[j][i] = in[i][j], through registers    copy  out[i][j] = in[i][j], any stride along j
-- Rows that a block steps through are addressed as base + {1, 2, 4} * {1, 3, 5, 7} strides, eight rows to a base.

local M = {}

--- Rows and vectors of columns of `tile`: as many sums as keep the multipliers busy and leave registers for operands.
function M.tile_shape(lanes, dtype)
  if lanes == 1 then return 4, 4 end
  local wide = lanes * (dtype == "f32" and 4 or 8) == 64
  return wide and 8 or 6, 2
end

--- Rows and columns of `dots`.
function M.dots_shape(lanes, dtype) return 4, lanes * (dtype == "f32" and 4 or 8) == 64 and 4 or 2 end

-- Addresses of rows first, first + step, ...: at(row, k) gives base, index and scale for loadx and bcastx.
local ODD = { [0] = { 0, 1 }, { 1, 1 }, { 1, 2 }, { 3, 1 }, { 1, 4 }, { 5, 1 }, { 3, 2 }, { 7, 1 } }

local Rows = {}
Rows.__index = Rows

-- Multiples of a stride that rows 0 .. count - 1 need.
local function multiples(b, step, count)
  local list = { [1] = step }
  for _, odd in ipairs { 3, 5, 7 } do
    if count > odd then list[odd] = b:g_mulk(step, odd) end
  end
  return list
end

-- `count` rows from `first` on; `steps` from multiples(). The bases move with advance().
local function rows_at(b, first, steps, count)
  local bases = {}
  for group = 0, math.ceil(count / 8) - 1 do
    bases[group] = group == 0 and b:copy(first) or b:g_add(bases[group - 1], b:g_mulk(steps[1], 8))
  end
  return setmetatable({ b = b, bases = bases, steps = steps }, Rows)
end

function Rows:parts(row)
  local odd = ODD[row % 8]
  return self.bases[math.floor(row / 8)], self.steps[odd[1]], odd[2]
end

function Rows:load(row, mask)
  local b = self.b
  local base, step, scale = self:parts(row)
  if not step then return b:load(base, 0, mask) end
  if not mask then return b:loadx(base, step, scale) end
  return b:load(b:g_add(base, scale == 1 and step or b:g_mulk(step, scale)), 0, mask)
end

function Rows:bcast(row)
  local base, step, scale = self:parts(row)
  return step and self.b:bcastx(base, step, scale) or self.b:bcast(base)
end

function Rows:advance(bytes)
  for group = 0, #self.bases do self.b:g_set(self.bases[group], self.b:g_addk(self.bases[group], bytes)) end
end

--- (depth, a, a row step, tiles, b, b k step, b panel step, panels, out, out row step, again): out[m][n] = sum over depth of
-- a[m][k] b[k][n] for tiles * MR rows and NV * L columns; a's k is contiguous. again = 1 adds to what out holds, 0 starts anew.
--   how.ending   fn(b) of k:ending, in place of `out` and what follows; sums start anew
--   how.deep     a tile takes long enough for what the ending needs to come from far
--   how.across   `panels` tiles beside each other before the next rows; with an ending
--   how.twin     half of the columns lie in the next panel
--   how.next     the next panel comes near meanwhile: else the first tile would wait for memory, and the others leave it idle
function M.tile(mr, nv, how)
  return function(b)
    local depth, a, b_first, b_step = b:arg(0), b:copy(b:arg(1)), b:arg(4), b:arg(5)
    local steps, line = multiples(b, b:arg(2), mr), b.lanes * b.bytes
    local folds = line == 64 and mr > nv -- AVX-512 multiplies by an element in memory
    local ending, panel, out, out_step, again = how.ending and how.ending(b), b:arg(6), nil, nil, nil
    if not ending then out, out_step, again = b:copy(b:arg(8)), b:arg(9), b:arg(10) end
    local function column_at(column, j)
      if how.twin and j > nv / 2 then return b:loadx(column, panel, 1, (j - 1 - nv / 2) * line) end
      return b:load(column, (j - 1) * line)
    end
    local function each_sum(acc, body)
      local row = b:copy(out)
      for i = 1, mr do
        for j = 1, nv do body(row, acc[i][j], (j - 1) * line) end
        b:g_set(row, b:g_add(row, out_step))
      end
      return row
    end
    local function one(first)
      local acc = {}
      for i = 1, mr do
        acc[i] = {}
        for j = 1, nv do acc[i][j] = b:splat(0) end
      end
      if not ending then
        b:loop(again, function()
          each_sum(acc, function(row, sum, at) b:set(sum, b:load(row, at)) end)
        end)
      elseif how.deep then
        ending.ask(mr, nv * line)
      end
      local rows, column = rows_at(b, a, steps, mr), b:copy(first)
      b:loop(depth, function()
        local v = {}
        for j = 1, nv do v[j] = column_at(column, j) end
        for i = 1, mr do
          local x = not folds and rows:bcast(i - 1)
          for j = 1, nv do b:set(acc[i][j], b:fma(x or rows:bcast(i - 1), v[j], acc[i][j])) end
        end
        if how.next then
          local there = b:g_add(column, panel)
          for at = 0, nv * line - 1, 64 do b:prefetch(there, at) end
        end
        rows:advance(b.bytes)
        b:g_set(column, b:g_add(column, b_step))
      end)
      if not ending then return b:g_set(out, each_sum(acc, function(row, sum, at) b:store(row, sum, at) end)) end
      local values = {} -- of all rows before the first is stored: what is read may lie a multiple of 4 KiB from there
      for i = 1, mr do values[i] = ending.compute(acc[i]) end
      for i = 1, mr do ending.store(values[i]) end
    end
    b:loop(b:arg(3), function()
      if how.across then
        local first, panels = b:copy(b_first), b:arg(7)
        b:loop(panels, function()
          one(first)
          b:g_set(first, b:g_add(first, panel))
          ending.move(-mr, nv * line)
        end)
        ending.move(mr, -nv * line, panels)
      else
        one(b_first)
      end
      b:g_set(a, b:g_add(a, b:g_mulk(steps[1], mr)))
    end)
  end
end

-- Runs body(mask) along k: `whole` says that the depth is a multiple of the lanes.
local function along(b, depth, advance, whole, body)
  if not whole or b.lanes == 1 then return b:each(depth, advance, body) end
  b:loop(b:g_shrk(depth, math.log(b.lanes, 2)), function()
    body(nil)
    for _, p in ipairs(advance) do b:g_set(p, b:g_addk(p, b.lanes * b.bytes)) end
  end)
end

-- Writes the sums of acc[row * columns + column] (from 0) to out, rows out_step apart.
local function store_sums(b, acc, columns, rows, out, out_step, windows)
  local row = b:copy(out)
  local per = b.lanes / columns -- rows in a vector of sums
  for r = 0, rows - 1 do
    if b.lanes == 1 then
      for c = 0, columns - 1 do b:store1(row, acc[r * columns + c + 1], c * b.bytes) end
    else
      if r % per == 0 then acc.sums = b:hadd_all { unpack(acc, r * columns + 1, (r + per) * columns) } end
      b:store(row, acc.sums, -(r % per) * columns * b.bytes, windows[r % per + 1])
    end
    b:g_set(row, b:g_add(row, out_step))
  end
end

-- Masks of the lanes [i * columns, (i + 1) * columns).
local function make_windows(b, columns)
  local windows, below = {}, nil
  for i = 1, b.lanes / columns do
    local up_to = b:m_tail(b:const(i * columns))
    windows[i] = below and b:m_and(up_to, b:m_not(below)) or up_to
    below = up_to
  end
  return windows
end

--- (depth, a, a row step, rows / R, w, w row step, columns / C, out, out row step): out[m][n] = sum of a[m][k] w[n][k].
function M.dots(r, c, whole)
  return function(b)
    local depth, a, w, out, out_step = b:arg(0), b:arg(1), b:copy(b:arg(4)), b:copy(b:arg(7)), b:arg(8)
    local a_steps, w_steps = multiples(b, b:arg(2), r), multiples(b, b:arg(5), c)
    local windows = b.lanes > 1 and make_windows(b, c)
    b:loop(b:arg(6), function()
      local row, target = b:copy(a), b:copy(out)
      b:loop(b:arg(3), function()
        local acc = {}
        for i = 1, r * c do acc[i] = b:splat(0) end
        local x, y = rows_at(b, row, a_steps, r), rows_at(b, w, w_steps, c)
        along(b, depth, { x.bases[0], y.bases[0] }, whole, function(mask)
          local v = {}
          for i = 1, r do v[i] = x:load(i - 1, mask) end
          for j = 1, c do
            local u = y:load(j - 1, mask)
            for i = 1, r do b:set(acc[(i - 1) * c + j], b:fma(v[i], u, acc[(i - 1) * c + j])) end
          end
        end)
        store_sums(b, acc, c, r, target, out_step, windows)
        b:g_set(row, b:g_add(row, b:g_mulk(a_steps[1], r)))
        b:g_set(target, b:g_add(target, b:g_mulk(out_step, r)))
      end)
      b:g_set(w, b:g_add(w, b:g_mulk(w_steps[1], c)))
      b:g_set(out, b:g_addk(out, c * b.bytes))
    end)
  end
end

-- Two sums along k, so that two multiplications are under way; the remainder goes to the first.
local function stream(b, depth, x, y, whole)
  local even, odd = b:splat(0), b:splat(0)
  local line = b.lanes * b.bytes
  b:loop(b:g_shrk(depth, math.log(2 * b.lanes, 2)), function()
    b:set(even, b:fma(b:load(x), b:load(y), even))
    b:set(odd, b:fma(b:load(x, line), b:load(y, line), odd))
    b:g_set(x, b:g_addk(x, 2 * line))
    b:g_set(y, b:g_addk(y, 2 * line))
  end)
  if not whole then
    local pairs_done = b:g_mulk(b:g_shrk(depth, math.log(2 * b.lanes, 2)), 2 * b.lanes)
    b:each(b:g_sub(depth, pairs_done), { x, y }, function(mask)
      b:set(even, b:fma(b:load(x, 0, mask), b:load(y, 0, mask), even))
    end)
  end
  return b:add(even, odd)
end

--- (depth, a, a row step, rows, w, w row step, groups, columns of a group, out, out row step, scratch of L vectors): as
-- dots, groups * columns columns, columns <= L; writes whole vectors, so out has room for L columns in the last group.
function M.dot(whole)
  return function(b)
    local depth, w, columns, out, out_step, scratch = b:arg(0), b:copy(b:arg(4)), b:arg(7), b:copy(b:arg(8)), b:arg(9), b:arg(10)
    local line = b.lanes * b.bytes
    b:loop(b:arg(6), function()
      local row, target, last = b:copy(b:arg(1)), b:copy(out), b:copy(w)
      b:loop(b:arg(3), function()
        local column, slot = b:copy(w), b:copy(scratch)
        b:loop(columns, function()
          local sum = stream(b, depth, b:copy(row), b:copy(column), whole)
          b:store(slot, sum)
          b:g_set(slot, b:g_addk(slot, line))
          b:g_set(column, b:g_add(column, b:arg(5)))
        end)
        local sums = {}
        for i = 1, b.lanes do sums[i] = b:load(scratch, (i - 1) * line) end
        b:store(target, b:hadd_all(sums))
        b:g_set(row, b:g_add(row, b:arg(2)))
        b:g_set(target, b:g_add(target, out_step))
        b:g_set(last, column)
      end)
      b:g_set(w, last)
      b:g_set(out, b:g_addk(out, line))
    end)
  end
end

--- (rows, columns, in, in row step, out, out row step): out[j][i] = in[i][j]; columns are contiguous in `in`, rows in `out`.
-- Writes up to L - 1 rows of out beyond `columns`.
function M.turn()
  return function(b)
    local rows, columns, from, to = b:arg(0), b:arg(1), b:copy(b:arg(2)), b:copy(b:arg(4))
    local step, out_step, line = b:arg(3), b:arg(5), b.lanes * b.bytes
    local steps = multiples(b, step, b.lanes)
    local whole = b:g_shrk(rows, math.log(b.lanes, 2))
    if b.lanes > 1 then
      b:loop(whole, function()
        local x, y = rows_at(b, from, steps, b.lanes), b:copy(to)
        local moves = { { y, step = out_step } }
        for group = 0, #x.bases do moves[group + 2] = x.bases[group] end
        b:each(columns, moves, function(mask)
          local v = {}
          for i = 1, b.lanes do v[i] = x:load(i - 1, mask) end
          local turned, row = b:transpose(v), b:copy(y)
          for j = 1, b.lanes do
            b:store(row, turned[j])
            b:g_set(row, b:g_add(row, out_step))
          end
        end)
        b:g_set(from, b:g_add(from, b:g_mulk(step, b.lanes)))
        b:g_set(to, b:g_addk(to, line))
      end)
    end
    b:loop(b:g_sub(rows, b:g_mulk(whole, b.lanes > 1 and b.lanes or 0)), function()
      local x, y = b:copy(from), b:copy(to)
      b:loop(columns, function()
        b:store1(y, b:bcast(x))
        b:g_set(x, b:g_addk(x, b.bytes))
        b:g_set(y, b:g_add(y, out_step))
      end)
      b:g_set(from, b:g_add(from, step))
      b:g_set(to, b:g_addk(to, b.bytes))
    end)
  end
end

--- (rows, columns, in, in row step, in column step, out, out row step): out[i][j] = in[i][j], columns of out contiguous.
function M.copy()
  return function(b)
    local from, to = b:copy(b:arg(2)), b:copy(b:arg(5))
    b:loop(b:arg(0), function()
      local x, y = b:copy(from), b:copy(to)
      b:each(b:arg(1), { { x, step = b:arg(4) }, y }, function(mask)
        b:store(y, b:loads(x, b:arg(4), 0, mask), 0, mask)
      end)
      b:g_set(from, b:g_add(from, b:arg(3)))
      b:g_set(to, b:g_add(to, b:arg(6)))
    end)
  end
end

return M
