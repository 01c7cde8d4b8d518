--- Loops inside one vector block: passes over a space of a few axes, of which the last is taken in vectors. Used by
-- emit_chain.lua, emit_fold.lua and the recipe norm, so that C glue is left at the edges of a tile only.
--
--   s = sweep.new(k, b)          in the function that builds block b; s.words: the C expressions for k:call afterwards
--   s:g(amount)                  a scalar that holds it
--   s:pointer(expr)              a scalar of its own that holds this address
--   s:move(p, amount)            p += amount, in place
--   pass = s:pass{ extents = { amount, ... }, operands = { ... }, unroll =, straight =, multiple =, before =, body = fn(v) }
--                                outside all loops. multiple: the last extent is known to be a multiple of the lanes
--   pass()                       emits the loops; operands' addresses are afterwards what they were
--     operand = { at = p, strides = { amount in bytes, one per extent }, bytes = of an element, written = bool,
--                 once = register of an element that serves the whole block, whole = true for integers in a block of floats,
--                 load = fn(operand, ahead, mask) when it is no plain read,
--                 stream = true: stored past the caches, when whole vectors lie on their own bounds }
--     v.get(i)   register of operand i here    v.put(i, x)   stores to operand i; with operands.where, number where[i]
--     v.more     another vector follows in the same loop
--     v.mask     mask of the tail, or nil      v.part        which of `unroll` independent accumulators to use, from 1
--     before = fn(get)   is called in front of the loop over the last extent, with registers of what that does not move
--     pass.straight   the pass is up to `straight` vectors without a loop: v.ahead numbers them from 0, the same in every
--                     such pass, and what one of them computed is good in the next pass
--   s:across{ count = amount, operands =, unroll =, body = fn(width, mask) }      columns in strips of `width` vectors
--     s:down({ extents =, operands =, body = fn(v) }, width, mask) in its body visits the strip at every position of
--     `extents`, one v per vector (v.part counts them); strides as above, the last one along the strip
-- Amounts: emit_amount.lua; numbers make shorter blocks.
-- Invariant: a pass visits every element once, rows in order; it touches nothing beyond them.

local amount = require "esper.emit_amount"
local mul, sub, floordiv, mod = amount.mul, amount.sub, amount.floordiv, amount.mod

local M = {}
local Sweep = {}
Sweep.__index = Sweep

-- ---- words and addresses ----

function M.new(k, b) return setmetatable({ k = k, b = b, words = {}, index = {}, masks = {} }, Sweep) end

function Sweep:word(expr)
  local at = self.index[expr]
  if not at then
    at = #self.words
    self.words[at + 1], self.index[expr] = expr, at
  end
  return self.b:arg(at)
end

function Sweep:g(x) return type(x) == "number" and self.b:const(x) or self:word(x) end

function Sweep:pointer(expr) return self.b:copy(self:word(expr)) end

function Sweep:move(p, x)
  if x == 0 then return end
  local b = self.b
  b:g_set(p, type(x) == "number" and b:g_addk(p, x) or b:g_add(p, self:word(x)))
end

-- The mask of the first `rest` lanes, made where it is asked for first: outside all loops.
function Sweep:mask(rest)
  self.masks[rest] = self.masks[rest] or self.b:m_tail(self:g(rest))
  return self.masks[rest]
end

-- ---- passes ----

-- How `count` elements are taken: vectors in groups of `unroll`, single vectors, a masked rest. A few known vectors need no
-- loop. `net`: elements the addresses have moved on afterwards.
local function columns(s, count, p, strided)
  local unroll = p.unroll
  local lanes = s.b.lanes
  local vectors, rest = floordiv(count, lanes), p.multiple and 0 or mod(count, lanes)
  local c = { rest = rest, mask = rest ~= 0 and s:mask(rest) or nil }
  local known = type(vectors) == "number"
  if known and not strided and vectors <= (p.straight or unroll) then
    c.singles, c.net = vectors, 0
    return c
  end
  c.groups, c.singles = floordiv(vectors, unroll), mod(vectors, unroll)
  local looped = not known or strided
  c.net = mul(looped and vectors or c.groups * unroll, lanes)
  c.looped = looped
  c.group_count = s:g(c.groups)
  if looped then c.single_count = c.singles ~= 0 and s:g(c.singles) end
  if looped and rest ~= 0 then c.rest_count = s:g(type(rest) == "number" and 1 or rest .. " != 0") end
  return c
end

local Pass = {}
Pass.__index = Pass

-- Access to the vector `ahead` vectors behind the addresses, along a last axis with these operands.
local function vector(s, operands, fixed, ahead, mask, later)
  local b, loaded, where = s.b, {}, operands.where
  local function place(operand) return ahead * b.lanes * operand.strides[#operand.strides] end
  local function read(operand)
    if operand.load then return operand.load(operand, ahead, mask) end
    if operand.gap then return (operand.whole and b.iloads or b.loads)(b, operand.at, operand.gap, 0, mask) end
    return (operand.whole and b.iload or b.load)(b, operand.at, place(operand), mask)
  end
  return {
    mask = mask, ahead = ahead,
    get = function(i)
      i = where and where[i] or i
      local operand = operands[i]
      if operand.once or fixed[i] then return operand.once or fixed[i] end
      loaded[i] = loaded[i] or read(operand)
      return loaded[i]
    end,
    put = function(i, x, now)
      if later and not now then
        later[#later + 1] = { i, x }
        return
      end
      local operand = operands[where and where[i] or i]
      if operand.gap then return b:stores(operand.at, operand.gap, x, 0, mask) end
      if operand.stream and not mask then return b:storent(operand.at, x, place(operand)) end
      return b:store(operand.at, x, place(operand), mask)
    end,
  }
end

--- The element at p in every lane; whole: of integers, in a block of floats.
function M.one(b, p, whole) return (whole and b.ibcast or b.bcast)(b, p) end

-- Registers of the operands that the last axis does not move.
local function fixed_of(s, operands)
  local fixed = {}
  for i, operand in ipairs(operands) do
    if operand.strides[#operand.strides] == 0 and not (operand.once or operand.load or operand.written) then
      fixed[i] = M.one(s.b, operand.at, operand.whole)
    end
  end
  return fixed
end

function Pass:vector(ahead, mask, more, later)
  local v = vector(self.s, self.operands, self.fixed, ahead, mask, later)
  v.part, v.more = ahead % self.unroll + 1, more
  self.body(v)
  return v
end

-- Some vectors one after the other. What they store comes last, the last one first: a load close behind a store is held up
-- when the last 12 bits of their addresses say that they overlap, as those of an output just behind its input do.
function Pass:group(count)
  local all, later = {}, {}
  for u = 0, count - 1 do
    later[u] = {}
    all[u] = self:vector(u, nil, u + 1 < count, later[u])
  end
  for u = count - 1, 0, -1 do
    for _, put in ipairs(later[u]) do all[u].put(put[1], put[2], true) end
  end
end

-- Moves every address by `elements` along axis `level`, less what it has moved inside.
function Pass:step(level, elements, inside)
  for _, operand in ipairs(self.operands) do
    local stride = mul(operand.strides[level], elements)
    self.s:move(operand.at, inside and sub(stride, inside(operand)) or stride)
  end
end

function Pass:columns()
  local b, c, lanes = self.s.b, self.c, self.s.b.lanes
  local last = #self.extents
  if c.groups and c.groups ~= 0 then
    b:loop(c.group_count, function()
      self:group(self.unroll)
      self:step(last, self.unroll * lanes)
    end)
  end
  if not c.looped then
    self:group(c.singles)
    if c.mask then self:vector(c.singles, c.mask) end
    return
  end
  if c.single_count and self.unroll > 1 then
    b:loop(c.single_count, function()
      self:vector(0)
      self:step(last, lanes)
    end)
  end
  if c.rest_count then b:loop(c.rest_count, function() self:vector(0, c.mask) end) end
end

-- What an address has moved after axis `level` and all inside it.
function Pass:net(operand, level)
  return mul(operand.strides[level], level == #self.extents and self.c.net or self.extents[level])
end

function Pass:level(level)
  if level == #self.extents then
    self.fixed = fixed_of(self.s, self.operands)
    if self.before then self.before(function(i) return self.operands[i].once or self.fixed[i] end) end
    return self:columns()
  end
  self.s.b:loop(self.counts[level], function()
    self:level(level + 1)
    self:step(level, 1, function(operand) return self:net(operand, level + 1) end)
  end)
end

function Pass:__call()
  self:level(1)
  for _, operand in ipairs(self.operands) do
    self.s:move(operand.at, sub(0, self:net(operand, 1)))
  end
end

-- Elements apart along the last axis are gathered; true then.
function Sweep:spread(operand)
  local stride = operand.strides[#operand.strides]
  if stride == 0 or stride == operand.bytes then return false end
  operand.gap = operand.gap or self:g(stride)
  return true
end

--- See the top. Everything that needs to be ready before the loops is made here.
function Sweep:pass(p)
  local pass = setmetatable({ s = self, extents = p.extents, operands = p.operands, body = p.body, before = p.before,
                              unroll = p.unroll or 1, counts = {} }, Pass)
  local strided = false
  for _, operand in ipairs(p.operands) do strided = self:spread(operand) or strided end
  if strided then pass.unroll = 1 end
  for level = 1, #p.extents - 1 do pass.counts[level] = self:g(p.extents[level]) end
  local how = { unroll = pass.unroll, straight = p.straight, multiple = p.multiple }
  pass.c = columns(self, p.extents[#p.extents], how, strided)
  pass.straight = #p.extents == 1 and not pass.c.groups
  return pass
end

-- ---- strips ----

function Sweep:across(p)
  local b, strided = self.b, false
  for _, operand in ipairs(p.operands) do strided = self:spread(operand) or strided end
  local unroll = strided and 1 or p.unroll
  local c = columns(self, p.count, { unroll = unroll }, strided)
  local function step(vectors)
    for _, operand in ipairs(p.operands) do
      self:move(operand.at, mul(operand.strides[#operand.strides], vectors * b.lanes))
    end
  end
  local function strip(count, width)
    if count == 0 then return end
    b:loop(self:g(count), function()
      p.body(width)
      step(width)
    end)
  end
  strip(c.groups or 0, unroll)
  if c.looped then
    if unroll > 1 then strip(c.singles, 1) end
    if c.rest_count then b:loop(c.rest_count, function() p.body(1, c.mask) end) end
    return
  end
  if c.singles > 0 then p.body(c.singles) end
  if not c.mask then return end
  step(c.singles)
  p.body(1, c.mask)
end

function Sweep:down(p, width, mask)
  local depth = #p.extents
  for _, operand in ipairs(p.operands) do self:spread(operand) end
  local function level(at)
    if at > depth then
      local fixed = fixed_of(self, p.operands)
      for u = 0, width - 1 do
        local v = vector(self, p.operands, fixed, u, mask)
        v.part = u + 1
        p.body(v)
      end
      return
    end
    self.b:loop(self:g(p.extents[at]), function()
      level(at + 1)
      for _, operand in ipairs(p.operands) do
        local inner = at < depth and mul(operand.strides[at + 1], p.extents[at + 1]) or 0
        self:move(operand.at, sub(operand.strides[at], inner))
      end
    end)
  end
  level(1)
  for _, operand in ipairs(p.operands) do self:move(operand.at, sub(0, mul(operand.strides[1], p.extents[1]))) end
end

return M
