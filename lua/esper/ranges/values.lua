--- Values that are no polynomials, as atoms with facts: quotients, and choices that depend on a condition. Methods of the space
-- (space.lua); required once by init.lua.
--
-- A quotient q = e / c with c >= 1 has c*q <= e <= c*q + c - 1 when rounded down; C rounds towards zero, which is the same for
-- e >= 0. Where an upper bound U of e is found in terms of symbols alone, U divided by c bounds q too: U <= K*c - 1 gives
-- q <= K - 1. That step uses that q is whole, which the search alone would see too late.
-- A choice is one of several values; the cases of one condition belong together, so they make one split.

require("jit").off(true, true) -- see poly.lua
local poly = require "esper.ranges.poly"
local Space = require("esper.ranges.space").Space

local FEW, BRIEF = 80, 40 -- steps of proofs that may well fail, and of those that mostly do

--- U, s with s * e <= U, U in base atoms alone, s >= 1; nil when there is no simple one.
function Space:upper(e)
  local low, scale = self:scaled(e, -1), self:number(1)
  for _ = 1, 32 do
    local x = nil
    for y in pairs(self:atoms(low)) do
      if not self.base[y] and (not x or y > x) then x = y end
    end
    if not x then return self:scaled(low, -1), scale end
    local A = self:around(low, x)
    local best, facts = nil, self.facts[x] or {}
    for i = #facts, 1, -1 do
      local f = facts[i]
      if f.newest == x then
        local q, r = self:divide(A, f.a)
        if next(r) == nil and self:prove(q, FEW) then
          best = self:minus(low, self:mul(q, f.p))
          break
        end
        local n, an = f.number, self:value(A)
        if n and an and n * an > 0 then
          local mult = math.abs(n)
          scale = self:scaled(scale, mult)
          best = self:plus(self:scaled(low, mult), f.p, -math.abs(an))
          break
        end
      end
    end
    if not best then return nil end
    low = best
  end
end

-- x * c <= e, c >= 1: a bound on x alone where e has one.
local function bound_above(self, x, e, c)
  local U, scale = self:upper(e)
  if not U then return end
  local by = self:mul(scale, c)
  local K, R = self:divide(U, by)
  local rn, bn = self:value(R), self:value(by)
  if rn and bn then
    self:assume(self:minus(self:plus(K, self:number(math.floor(rn / bn))), self:var(x)))
  elseif self:prove(self:minus(self:number(-1), R), FEW) then
    self:assume(self:plus(self:minus(K, self:var(x)), self:number(-1)))
  elseif self:prove(self:plus(self:minus(by, R), self:number(-1)), FEW) then
    self:assume(self:minus(K, self:var(x)))
  end
end

--- Bounds on x alone from what bounds several of it.
function Space:bound(x)
  local found = {}
  for _, f in ipairs(self.facts[x] or {}) do
    local c = self:scaled(f.a, -1)
    if self:plain(c) and self:prove(self:plus(c, self:number(-1)), FEW) then
      found[#found + 1] = { self:plus(f.p, self:mul(c, self:var(x))), c }
    end
  end
  for _, one in ipairs(found) do bound_above(self, x, one[1], one[2]) end
end

-- Facts about older atoms that follow from p and the facts about its newest atom x that bound it from the other side.
local function resolve(self, p, x, n)
  local found = {}
  for _, f in ipairs(self.facts[x]) do
    if f.newest == x and f.number and f.number * n < 0 then
      local g = poly.gcd(math.abs(f.number), math.abs(n))
      found[#found + 1] = self:plus(self:scaled(p, math.abs(f.number) / g), f.p, math.abs(n) / g)
    end
  end
  for _, q in ipairs(found) do if not self:plain(q) then self:assume(q) end end
end

--- assume(p) of a condition, and what it says together with the facts about its newest atom: where it bounds several of it, a
-- bound on one; where it meets a bound from the other side, a fact about older atoms.
function Space:suppose(p)
  self:assume(p)
  local x = self:newest(p)
  if not x then return end
  local a, e = self:around(p, x)
  local n = self:value(a)
  if n and n < -1 then bound_above(self, x, e, self:number(-n)) end
  if n then resolve(self, p, x, n) end
end

-- A product that is at least 1 has no factor 0: facts from T >= 1.
local function factors(self, T)
  if self:value(T) then return end
  local shared
  for m in pairs(T) do
    local set = {}
    for _, x in ipairs(self.factors[m]) do if self.nonneg[x] and (not shared or shared[x]) then set[x] = true end end
    shared = set
  end
  for x in pairs(shared) do
    self:assume(self:plus(self:var(x), self:number(-1)))
    local made = self.makes[x]
    if made and not made.towards_zero then -- x >= 1 where x = e / c: e >= c
      local left = self:minus(made[1], made[2])
      self:assume(left)
      factors(self, self:plus(left, self:number(1)))
    end
  end
end

--- What follows from p >= 0 having been met at all, p having an upper bound in base atoms.
function Space:met(p)
  local U, scale = self:upper(p)
  if U and self:value(scale) then factors(self, self:plus(U, scale)) end
end

-- Facts of q = e / c rounded down, c >= 1.
local function quotient_facts(self, q, e, c, positive)
  local Q = self:var(q)
  if positive then self:assume(Q) end
  local rest = self:minus(e, self:mul(c, Q))
  self:assume(rest)
  self:assume(self:plus(self:minus(c, rest), self:number(-1)))
  bound_above(self, q, e, c)
  local U, scale = self:upper(self:scaled(e, -1))
  local un, by = U and self:value(U), U and self:value(self:mul(scale, c))
  if un and by and -un >= by then self:assume(self:minus(Q, self:number(math.floor(-un / by)))) end
end

-- An atom of that key and whether its facts hold in the present scope already.
local function interned(self, key, level)
  local x = self.interned[key]
  if not x then
    x = self:atom(level)
    self.interned[key] = x
  end
  if self.made[x] then return x, true end
  self:scoped(self.made, x, true)
  return x, false
end

-- The largest value of a polynomial over symbols and floors that are not negative, nil when it is not that or large.
local function most(self, p)
  local sum = 0
  for m, c in pairs(p) do
    for _, x in ipairs(self.factors[m]) do
      if not self.nonneg[x] or not self.most[x] then return nil end
      c = c > 0 and c * self.most[x] or 0
    end
    sum = sum + c
  end
  return sum < 2 ^ 52 and sum or nil
end

local function number_quotient(e, c, floor)
  local q = (e - e % c) / c
  return not floor and e < 0 and e % c ~= 0 and q + 1 or q
end

--- e / c, rounded down (floor) or towards zero; nil when c >= 1 is not proved.
function Space:quotient(e, c, floor)
  local en, cn = self:value(e), self:value(c)
  if cn and cn < 1 then return nil end
  if en and cn then return self:number(number_quotient(en, cn, floor)) end
  local whole, rest = self:divide(e, c)
  if next(rest) == nil then return whole end
  if not cn and not self:prove(self:plus(c, self:number(-1))) then return nil end
  local level = math.max(self:level_of(e), self:level_of(c))
  if not floor and not self:prove(e) then
    if not cn then return nil end
    return self:var(self:towards_zero(e, c, level))
  end
  local rn = self:value(rest)
  if cn and rn then return self:plus(whole, self:number(math.floor(rn / cn))) end
  local q, made = interned(self, self:key(rest) .. "/" .. self:key(c), level)
  self.makes[q] = { rest, c }
  if not made then
    self:scoped(self.base, q, floor and self:based(rest) or nil)
    quotient_facts(self, q, rest, c, self:prove(rest))
    local limit = floor and cn and most(self, rest)
    if limit then
      self.most[q] = math.floor(limit / cn)
      self:assume(self:minus(self:number(self.most[q]), self:var(q)))
    end
  end
  return self:plus(whole, self:var(q))
end

--- Is p made of base atoms alone?
function Space:based(p)
  for x in pairs(self:atoms(p)) do if not self.base[x] then return false end end
  return true
end

-- q = e / c for e of either sign and a number c >= 1.
function Space:towards_zero(e, c, level)
  local q, made = interned(self, self:key(e) .. "//" .. self:key(c), level)
  self.makes[q] = { e, c, towards_zero = true }
  if made then return q end
  local Q, one = self:var(q), self:number(1)
  local rest = self:minus(e, self:mul(c, Q))
  local least = self:minus(self:minus(rest, one), self:scaled(c, -1))  -- rest > -c
  local most = self:minus(self:minus(c, one), rest)
  self:assume(least)
  self:assume(most)
  self.splits[q] = { cases = {
    { facts = { e, rest, Q }, values = {} },
    { facts = { self:minus(self:scaled(e, -1), one), self:scaled(rest, -1), self:scaled(Q, -1) }, values = {} },
  } }
  return q
end

-- ---- choices ----

-- Does `holds(value of case i)` hold in every case?
local function in_all(self, split, values, test)
  for i, case in ipairs(split.cases) do
    self:open()
    for _, p in ipairs(case.facts) do self:assume(p) end
    local ok = self:prove(test(values[i]), BRIEF, 0)
    self:close()
    if not ok then return false end
  end
  return true
end

-- Bounds of a choice by its own values, and by 0 and 1, where they hold in every case.
local function bound(self, split, values, X)
  if self.coarse then return end -- a change in a loop is found without (loops.lua)
  local low = false
  for _, limit in ipairs(values) do
    if in_all(self, split, values, function(v) return self:minus(limit, v) end) then self:assume(self:minus(limit, X)) end
    if in_all(self, split, values, function(v) return self:minus(v, limit) end) then
      self:assume(self:minus(X, limit))
      low = true
    end
  end
  for _, n in ipairs(low and { 0 } or { 1, 0 }) do
    local limit = self:number(n)
    if in_all(self, split, values, function(v) return self:minus(v, limit) end) then
      self:assume(self:minus(X, limit))
      break
    end
  end
end

--- A split of the values that follow: cases = { { facts = { polynomial, ... } }, ... }, of which one holds.
function Space:split(cases)
  for _, case in ipairs(cases) do case.values = {} end
  return { cases = cases }
end

--- The value that is values[i] in case i. plain: a number, not an address.
function Space:choice(split, values, plain)
  local same, level = true, 0
  for i, v in ipairs(values) do
    same, level = same and self:key(v) == self:key(values[1]), math.max(level, self:level_of(v))
    for _, p in ipairs(split.cases[i].facts) do level = math.max(level, self:level_of(p)) end
  end
  if same then return values[1] end
  local x = self:atom(level)
  self.splits[x] = split
  for i, v in ipairs(values) do split.cases[i].values[x] = v end
  if plain then bound(self, split, values, self:var(x)) end
  return self:var(x)
end

return Space
