--- Sample points of the range proof: a few values of the symbols, and for each what every atom is there. Methods of the space.
--
-- A polynomial that is negative at a point where all facts hold cannot be proved, so the search gives it up at once; and where it
-- is an access's distance to the end of its buffer, the point is a shape at which the access leaves it. Points only guide and
-- refute; no proof rests on them.
-- An atom's value is worked out when it is first asked for: of a quotient and of a choice from what it is made of, of any other
-- from the facts about it: a loop's first turn at one point, its last at the next, one in between at the third.

require("jit").off(true, true) -- see poly.lua
local Space = require("esper.ranges.space").Space

local COUNT = 18
local EXTENTS = { 1, 2, 3, 5, 8, 16, 17, 31, 33, 47, 64, 100, 127, 129, 200, 257, 300, 513 }
local NONE = 0 / 0 -- of what has no value (yet): a counter whose end is not known, loaded data

--- Values of the symbols at the points: the i-th symbol's range.
function Space:sample_symbol(x, min, max)
  self.points, self.values_at = self.points or {}, self.values_at or {}
  for s = 1, COUNT do
    self.points[s], self.values_at[s] = self.points[s] or {}, self.values_at[s] or {}
    local n = EXTENTS[(s * (2 * x - 1) + x * (x - 1)) % #EXTENTS + 1]
    if s <= 4 then n = EXTENTS[s + (x % 2)] end
    self.points[s][x] = math.max(min, math.min(max, n))
    self.alive[s] = true
  end
end

--- What the atom x is at every point.
function Space:sample(x, p)
  for s = 1, self.points and COUNT or 0 do
    local v = self:at(p, s)
    if v == v then self.points[s][x] = v end
  end
end

local function chosen(self, x, s)
  if self.vague[x] then return nil end
  local low, high
  for _, f in ipairs(self.facts[x] or {}) do
    if f.newest == x then
      local a = self:at(f.a, s)
      local rest = self:at(self:minus(f.p, self:mul(f.a, self:var(x))), s)
      if a > 0 then
        local limit = math.ceil(-rest / a)
        low = low and math.max(low, limit) or limit
      elseif a < 0 then
        local limit = math.floor(rest / -a)
        high = high and math.min(high, limit) or limit
      end
    end
  end
  if not low or not high then return nil end
  local way = s % 3
  return way == 0 and low or way == 1 and high or math.floor((low + high) / 2)
end

local function of_choice(self, split, x, s)
  for _, case in ipairs(split.cases) do
    local holds = true
    for _, p in ipairs(case.facts) do
      if not (self:at(p, s) >= 0) then holds = false break end
    end
    if holds then return case.values[x] and self:at(case.values[x], s) end
  end
end

local function worked_out(self, x, s)
  local made = self.makes[x]
  if made then
    local e, c = self:at(made[1], s), self:at(made[2], s)
    local q = math.floor(e / c)
    if made.towards_zero and e < 0 and q * c ~= e then q = q + 1 end
    return q == q and c ~= 0 and q or nil
  end
  local split = self.splits[x]
  if split then return of_choice(self, split, x, s) end
  return chosen(self, x, s)
end

-- The value of a monomial at point s.
local function monomial_at(self, m, s)
  local point, value, atoms = self.points[s], 1, self.factors[m]
  for i = 1, #atoms do
    local x = atoms[i]
    local v = point[x]
    if not v then
      v = worked_out(self, x, s)
      if not v or v ~= v then return nil end
      point[x] = v
    end
    value = value * v
  end
  return value
end

--- The value of polynomial p at point s; not a number where it has none.
function Space:at(p, s)
  local values, sum = self.values_at[s], 0
  for m, c in next, p do
    local v = values[m]
    if not v then
      v = monomial_at(self, m, s)
      if not v then return NONE end
      values[m] = v
    end
    sum = sum + c * v
  end
  return sum
end

-- Takes the points where p < 0 out of the scope; true when p has a value at all the others.
local function hold(self, p)
  local known = true
  for s = 1, COUNT do
    if self.alive[s] then
      local v = self:at(p, s)
      if v < 0 then self:scoped(self.alive, s, false) elseif v ~= v then known = false end
    end
  end
  return known
end

-- The points where the facts hold, as far as they have values.
local function settle(self)
  for _, p in ipairs(self.later) do hold(self, p) end
  for i = self.seen + 1, #self.given do
    if not hold(self, self.given[i]) then self:append(self.later, self.given[i]) end
  end
  if self.seen < #self.given then self:scoped(self, "seen", #self.given) end
end

--- A point (of number `from` or more) where all facts hold and p is negative, or nil.
function Space:refuted(p, from)
  if not self.points then return nil end
  settle(self)
  for s = from or 1, COUNT do
    if self.alive[s] and self:at(p, s) < 0 then return s end
  end
end

--- A point where all facts hold, as far as can be told all of them, and p is negative: what p stands for happens there.
function Space:witness(p)
  local s = self:refuted(p)
  while s do
    local certain = true
    for _, fact in ipairs(self.given) do
      if not (self:at(fact, s) >= 0) then certain = false break end
    end
    if certain then return s end
    s = self:refuted(p, s + 1)
  end
end

--- Is there no point where all facts hold?
function Space:lifeless()
  settle(self)
  for s = 1, COUNT do if self.alive[s] then return false end end
  return true
end

return Space
