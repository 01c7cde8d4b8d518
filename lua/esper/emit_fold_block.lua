--- The block of a fold (emit_fold.lua): statistics and what is computed from them, for one run of kept positions.
--
--   words = block.build(k, b, spec, w, list, count, past)   spec: see emit_fold.lua; w: the walk's run; list: its operands {
--                  strides over the whole space, bytes, written, index }: sources of the plan, stores, the index of random
--                  numbers, arrays; count(s): the number of terms; past: outputs go past the caches. Gives the words of the call
-- Along: one kept position after the other, vectors along its reduced axes, statistics in every lane. Across: vectors of
-- neighbouring kept positions, statistics per lane.

local amount = require "esper.emit_amount"
local kinds = require "esper.emit_fold_kinds"
local overlap = require "esper.emit_fold_overlap"
local nodes = require "esper.vecmath_nodes"
local stages = require "esper.emit_stage"
local sweep = require "esper.emit_sweep"

local M = {}

local STASH = 4    -- instructions of a value from which on it is computed once
local LONG_ROW = 8192 -- bytes
local STRAIGHT = 4 -- vectors up to which a row stays in registers from pass to pass

local function pick(list, axes)
  local out = {}
  for i, axis in ipairs(axes) do out[i] = list[axis] end
  return out
end
M.pick = pick

-- ---- operands ----

local Fold = {}
Fold.__index = Fold
Fold.STRAIGHT = STRAIGHT

-- All operands: sources, stores, then the index of random numbers and the result; each with its address (`at`, or `once`:
-- the register of an element that never changes), its step along the kept run and its strides over the reduced axes.
local function bind(f, w, list)
  local s, k = f.s, f.k
  f.operands = {}
  for i, given in ipairs(list) do
    local run = w[i]
    local operand = { bytes = given.index and 1 or given.bytes, written = given.written, step = run.step,
      strides = pick(given.strides, f.spec.reduced), index = given.index }
    local still = k.dims:value(run.step) == 0 and not (given.written or given.index)
    for _, stride in ipairs(operand.strides) do still = still and k.dims:value(stride) == 0 end
    if still then operand.once = s.b:bcast(s:word(run.ptr)) else operand.at = s:pointer(run.ptr) end
    f.operands[i] = operand
  end
end

-- The operands `which` over the reduced axes, as few as they can be said in; `last`: with their step along the kept run.
function Fold:over_reduced(which, last)
  local k, lists, out = self.k, {}, { where = {} }
  for n, i in ipairs(which) do lists[n] = self.operands[i].strides end
  local extents, collapsed = k:collapse(pick(self.spec.space, self.spec.reduced), lists)
  for n, i in ipairs(which) do
    local o, strides = self.operands[i], {}
    for level, stride in ipairs(collapsed[n]) do strides[level] = amount.of(k, stride, o.bytes) end
    if last then strides[#strides + 1] = amount.of(k, o.step, o.bytes) end
    local operand = { at = o.at, once = o.once, bytes = o.bytes, written = o.written, strides = strides,
                      stream = o.written and self.past and i < self.index }
    if o.index then
      function operand.load(_, ahead) return self.s.b:g_addk(o.at, ahead * self.s.b.lanes) end
    end
    out[n], out.where[i] = operand, n
  end
  for level, extent in ipairs(extents) do extents[level] = amount.of(k, extent) end
  if self.spec.piece then extents[1] = self.spec.piece.n end
  return extents, out
end

-- Operands that nodes read, and `inputs`.
function Fold:read_by(ids, inputs, also)
  local list, seen = {}, {}
  local function need(i)
    if i and not seen[i] then
      seen[i] = true
      list[#list + 1] = i
    end
  end
  for _, id in ipairs(ids) do
    for _, arg in ipairs(self.spec.plan.inputs[id]) do need(arg.source) end
    if self.spec.plan.random[id] then need(self.index) end
  end
  for _, input in ipairs(inputs or {}) do need(input.source) end
  for _, i in ipairs(also or {}) do need(i) end
  return list
end

function Fold:fetch(v)
  return function(arg)
    if arg.random then return self.draw(arg, v) end
    return v.get(arg.source)
  end
end

-- The element's value at v.
function Fold:value(v)
  local spec = self.spec
  local value = stages.compute(spec.plan, self.s.b, { nodes = spec.front }, self:fetch(v))
  local list = {}
  for i, input in ipairs(spec.inputs) do list[i] = input.node and value[input.node] or self:fetch(v)(input) end
  return #list == 1 and list[1] or list
end

-- The same for the write.
function Fold:element(v)
  if self.keeps or self.stash then return v.get(self.home) end
  return self:value(v)
end

-- Computes and stores what comes behind the statistics; x(v) gives the element's value.
function Fold:write(v, stats, x)
  local spec = self.spec
  spec.write(stats, x)
  local value = stages.compute(spec.plan, self.s.b, { nodes = spec.nodes }, self:fetch(v))
  for i, id in ipairs(spec.stores) do v.put(self.first_store + i - 1, value[id]) end
end

local function cost(k, ids)
  local sum = 0
  for _, id in ipairs(ids) do sum = sum + nodes.cost(k.graph:op(id)) end
  return sum
end

-- Vectors taken at once: independent sums hide the latency of an addition, which matters less the more an element costs.
local function unroll(price) return price <= 6 and 4 or price <= 12 and 2 or 1 end

-- What statistic i reads, and the function that gives the element's value at v. A costly value is left in the first output
-- by the first statistic, where the others find it; one that a statistic keeps takes its place.
function Fold:stat_value(i, stat)
  local spec, home = self.spec, self.home
  if self.stash and i > 1 then return self:read_by({}, nil, { home }), function(v) return v.get(home) end end
  local also = (self.stash or stat.keep) and { home }
  return self:read_by(spec.front, spec.inputs, also), function(v)
    local x = self:value(v)
    if self.stash and not v.straight then v.put(home, x) end
    return x
  end
end

-- What the write reads, besides what it stores.
function Fold:write_reads()
  local spec, also = self.spec, {}
  for i in ipairs(spec.stores) do also[i] = self.first_store + i - 1 end
  if self.keeps or self.stash then
    also[#also + 1] = self.home
    return self:read_by(spec.nodes, nil, also)
  end
  local ids = { unpack(spec.front) }
  for _, id in ipairs(spec.nodes) do ids[#ids + 1] = id end
  return self:read_by(ids, spec.inputs, also)
end

-- ---- along the reduced axes ----

-- The pass of one statistic; what a straight pass computes is remembered for the next ones.
function Fold:stat_pass(i, stat, stats)
  local spec, b = self.spec, self.s.b
  local price = cost(self.k, spec.front) + (stat.price or 1)
  local reads, value = self:stat_value(i, stat)
  local extents, operands = self:over_reduced(reads, false)
  local kind, count, parts, add = kinds[stat.kind], unroll(price), nil, nil
  local pass
  pass = self.s:pass { extents = extents, operands = operands, unroll = count, straight = STRAIGHT, body = function(v)
    local memo = pass.straight and self.memo or {}
    v.straight = pass.straight
    memo[v.ahead] = memo[v.ahead] or value(v)
    local x = stat.value(b, memo[v.ahead], unpack(stats))
    if spec.write and i == #spec.stats then self:ask_ahead(v, extents) end
    if stat.keep then
      if pass.straight then memo[v.ahead] = x else v.put(self.home, x) end
    end
    add(v, x)
  end }
  return function()
    parts, add = kinds.accumulators(b, kind, pass.straight and 1 or count)
    if pass.straight then
      local plain = add
      add = function(v, x)
        v.part = 1
        plain(v, x)
      end
    end
    pass()
    local folded = kind.lanes(b, kinds.joined(b, kind, parts))
    return stat.finish and stat.finish(b, folded, self.count) or folded
  end
end

-- Asks for the next row in the last pass before this one is written: long rows come from memory, where the first pass would
-- wait. Into the second-level cache, for the first one holds this row; not while stores wait for the same buffers.
function Fold:ask_ahead(v, extents)
  local b, row = self.s.b, extents[1]
  if #extents > 1 or type(row) ~= "number" or row * b.bytes < LONG_ROW then return end
  for i in ipairs(self.spec.plan.sources) do
    local operand = self.operands[i]
    local strides = operand.strides
    if operand.at and self.k.dims:value(strides[#strides]) == 1 and #strides == 1 and self.k.dims:value(operand.step) == row then
      b:prefetch(operand.at, (row + v.ahead * b.lanes) * b.bytes)
    end
  end
end

function Fold:write_pass(stats)
  local extents, operands = self:over_reduced(self:write_reads(), false)
  local pass
  pass = self.s:pass { extents = extents, operands = operands, straight = STRAIGHT, unroll = unroll(cost(self.k, self.spec.nodes) + 4),
    body = function(v)
      local x = pass.straight and self.memo[v.ahead] or self:element(v)
      self:write(v, stats, x)
    end }
  return pass
end

function Fold:along(w)
  local s, spec, stats, passes = self.s, self.spec, {}, {}
  local b = s.b
  for i, stat in ipairs(spec.stats) do passes[i] = self:stat_pass(i, stat, stats) end
  local write = spec.write and self:write_pass(stats)
  b:loop(s:g(w.n), function()
    self.memo = {}
    for i in ipairs(stats) do stats[i] = nil end
    for i, pass in ipairs(passes) do stats[i] = pass() end
    if write then write() end
    for i, into in ipairs(spec.into or {}) do b:store1(self.operands[self.first_store + i - 1].at, stats[into.stat]) end
    for _, operand in ipairs(self.operands) do
      if operand.at then s:move(operand.at, amount.of(self.k, operand.step, operand.bytes)) end
    end
  end)
end

-- ---- across kept positions ----

function Fold:stat_down(n, stat, stats, width, mask)
  local b = self.s.b
  local reads, value = self:stat_value(n, stat)
  local extents, operands = self:over_reduced(reads, true)
  local parts, add = kinds.accumulators(b, kinds[stat.kind], width)
  local function earlier(u)
    local list = {}
    for i, statistic in ipairs(stats) do list[i] = statistic[u] end
    return unpack(list)
  end
  self.s:down({ extents = extents, operands = operands, body = function(v)
    local x = stat.value(b, value(v), earlier(v.part))
    if stat.keep then v.put(self.home, x) end
    v.mask = nil -- lanes beyond the last position fold what nobody stores
    add(v, x)
  end }, width, mask)
  for u = 1, width do parts[u] = stat.finish and stat.finish(b, parts[u], self.count) or parts[u] end
  return parts
end

function Fold:strip(width, mask)
  local spec, s, stats = self.spec, self.s, {}
  for i, stat in ipairs(spec.stats) do stats[i] = self:stat_down(i, stat, stats, width, mask) end
  for i, into in ipairs(spec.into or {}) do
    local operand = self.operands[self.first_store + i - 1]
    for u = 1, width do s.b:store(operand.at, stats[into.stat][u], (u - 1) * s.b.lanes * operand.bytes, mask) end
  end
  if not spec.write then return end
  local extents, operands = self:over_reduced(self:write_reads(), true)
  s:down({ extents = extents, operands = operands, body = function(v)
    local mine = {}
    for i, statistic in ipairs(stats) do mine[i] = statistic[v.part] end
    self:write(v, mine, self:element(v))
  end }, width, mask)
end

function Fold:across(w)
  local operands, price = {}, cost(self.k, self.spec.front)
  for i, o in ipairs(self.operands) do
    if o.at then operands[#operands + 1] = { at = o.at, bytes = o.bytes, strides = { amount.of(self.k, o.step, o.bytes) } } end
  end
  for _, stat in ipairs(self.spec.stats) do price = price + (stat.price or 1) end
  self.s:across { count = w.n, operands = operands, unroll = price <= 2 and 8 or unroll(price), body = function(width, mask)
    self:strip(width, mask)
  end }
end

-- ---- in all ----

--- Are values of elements kept from pass to pass: what a statistic says, what the nodes in front give?
function M.keeps(k, spec)
  local keeps = false
  for _, stat in ipairs(spec.stats) do keeps = keeps or stat.keep end
  return keeps, spec.write and cost(k, spec.front) >= STASH
end

function M.build(k, b, spec, w, list, count, past)
  local s = sweep.new(k, b)
  local f = setmetatable({ k = k, s = s, spec = spec, first_store = #spec.plan.sources + 1, past = past }, Fold)
  f.keeps, f.stash = M.keeps(k, spec)
  f.index = f.first_store + #(spec.stores or {})
  f.home = list.home or f.first_store
  bind(f, w, list)
  if next(spec.plan.random) then
    f.draw = stages.draws(spec.plan, s, f.index)
  end
  f.count = count(s)
  if spec.sideways then f:across(w) elseif overlap.possible(f) then overlap.along(f, w) else f:along(w) end
  return s.words
end

return M
