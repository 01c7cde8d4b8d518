--- What is known about the atoms of polynomials, and proofs that a polynomial is never negative. Under the executors of the
-- range proof (steps.lua, block.lua), over poly.lua.
--
-- An atom stands for a whole number: a symbol of the blueprint, a loop counter, a quotient, a value that depends on a condition.
-- A fact is a polynomial that is >= 0. Facts are scoped: what holds inside an if or a loop is taken back with the scope.
--
-- The proof of E >= 0: take the newest atom x of E = A*x + B and a fact P = a*x + r >= 0 in which it has the same sign. Then
-- M = A/a >= 0, and E >= 0 follows from E - M*P >= 0, where x is gone: the multipliers of all such steps and a polynomial without
-- negative terms are the certificate that E = sum M_i * P_i + rest. Where A is no multiple of a, |a| * E takes the place
-- of E; as E is whole, |a| * E >= 1 - |a| is enough. Newer atoms are bounded by older ones, so this ends; alternatives are tried in
-- turn, a value that depends on a condition is at last split into its cases, and a count of steps ends every search.
-- Invariant: `prove` may fail to see what is true; it never says true of what is false for some values that the facts allow.

require("jit").off(true, true) -- see poly.lua
local poly = require "esper.ranges.poly"

local M = {}
local STEPS, DEPTH, DETOURS, TERMS = 300, 40, 2, 48 -- limits of one search: steps, nesting, facts about newer atoms, terms
local CONDITIONS, RECENT = 3, 3 -- facts that are looked at for a contradiction: of a case, of a path

local Space = setmetatable({}, { __index = poly.Ring })
Space.__index = Space

function M.new()
  local s = setmetatable({
    count = 0, level = {}, base = {}, nonneg = {}, most = {},          -- atoms
    facts = {}, splits = {}, makes = {}, interned = {}, made = {},      -- what is known of them
    given = {}, undo = {}, proved = {}, failed = {}, taken = {}, scopes = 0, -- the present scope
    vague = {}, alive = {}, later = {}, seen = 0,                       -- sample points (samples.lua)
    steps = 0, total = 0, limit = math.huge,
  }, Space)
  poly.init(s)
  s:open()
  return s
end

--- A fresh atom. level: how many loops under exploration its value depends on (steps.lua); base: one that upper() may leave.
function Space:atom(level, base)
  self.count = self.count + 1
  self.level[self.count], self.base[self.count] = level or 0, base
  return self.count
end

--- Deepest level among the atoms of p.
function Space:level_of(p)
  local level = 0
  for m in pairs(p) do
    for _, x in ipairs(self.factors[m]) do level = math.max(level, self.level[x]) end
  end
  return level
end

-- ---- scopes ----

function Space:open()
  self.undo[#self.undo + 1] = { failed = self.failed }
  self.scopes, self.failed = self.scopes + 1, {}
  self.proved[self.scopes] = {}
end

function Space:close()
  local undo = self.undo
  while true do
    local entry = table.remove(undo)
    if entry.failed then
      self.failed = entry.failed
      break
    end
    if entry.list then table.remove(entry.list) else entry.map[entry.key] = entry.old end
  end
  self.proved[self.scopes] = nil
  self.scopes = self.scopes - 1
end

-- map[key] = value, and list[#list + 1] = value, until the present scope closes.
local function set(self, map, key, value)
  self.undo[#self.undo + 1] = { map = map, key = key, old = map[key] }
  map[key] = value
end
Space.scoped = set

local function append(self, list, value)
  list[#list + 1] = value
  self.undo[#self.undo + 1] = { list = list }
end

Space.append = append

local function terms(p)
  local n = 0
  for _ in pairs(p) do n = n + 1 end
  return n
end

local function learn(self, p, x, newest)
  local a, b, linear = self:around(p, x)
  if not linear then return end
  local facts, n = self.facts[x], self:value(a)
  if not facts then
    facts = {}
    self.facts[x] = facts
  end
  append(self, facts, { p = p, a = a, newest = newest, number = n, size = terms(p), order = #self.given })
  if n and n > 0 and x == newest and not self.nonneg[x] and self:plain(self:scaled(b, -1)) then set(self, self.nonneg, x, true) end
end

--- From here to the end of the scope p >= 0 holds.
function Space:assume(p)
  p = self:tight(p)
  local newest = self:newest(p)
  if not newest then
    if self:value(p) < 0 then set(self, self, "absurd", true) end
    return
  end
  append(self, self.given, p)
  if next(self.failed) then self.failed = {} end
  for x in pairs(self:atoms(p)) do learn(self, p, x, newest) end
end

--- The facts assumed since there were `mark` of them (#space.given), for a case that outlives its scope.
function Space:since(mark)
  local list = {}
  for i = mark + 1, #self.given do list[#list + 1] = self.given[i] end
  return list
end

-- ---- the search ----

--- Is p a sum of non-negative terms?
function Space:plain(p)
  local nonneg, factors = self.nonneg, self.factors
  for m, c in pairs(p) do
    if c < 0 then return false end
    for _, x in ipairs(factors[m]) do if not nonneg[x] then return false end end
  end
  return true
end

-- 1 when p >= 0 is proved, -1 when p <= 0 is, 0 when neither.
local function sign(self, p, depth)
  local n = self:value(p)
  if n then return n >= 0 and 1 or -1 end
  local minus = self:scaled(p, -1)
  if self:plain(p) then return 1 elseif self:plain(minus) then return -1 end
  if self:search(p, depth + 1, DETOURS) then return 1 end
  return self:search(minus, depth + 1, DETOURS) and -1 or 0
end

-- What E >= 0 follows from by fact f about x, free of that x. A: coefficient of x in E; s: sign of A and of f.a. nil: not this
-- way. Exactly when A is a multiple of f.a; else (exact is false) with |f.a| * E, where |f.a| >= 1 must be proved.
local function without(self, E, A, f, s, exact, depth)
  local n, an = f.number, self:value(A)
  if n and an then
    local g = poly.gcd(math.abs(an), math.abs(n))
    local mult = math.abs(n) / g
    if n * s < 0 or (mult == 1) ~= exact then return nil end
    local out = self:plus(self:scaled(E, mult), f.p, -math.abs(an) / g)
    return mult == 1 and out or self:plus(out, self:number(mult - 1))
  end
  local q, r = self:divide(A, f.a)
  if exact and next(r) == nil then
    return (self:plain(q) or self:search(q, depth + 1, DETOURS)) and self:minus(E, self:mul(q, f.p))
  end
  local a = self:scaled(f.a, s)
  if exact or next(r) == nil or not self:search(self:plus(a, self:number(-1)), depth + 1, DETOURS) then return nil end
  local out = self:minus(self:mul(a, E), self:mul(self:scaled(A, s), f.p))
  return self:plus(out, self:plus(a, self:number(-1)))
end

-- f(self, ...); nil when it met a coefficient that is too large.
local function guarded(self, f, ...)
  local scopes = self.scopes
  local ok, result = pcall(f, self, ...)
  if ok then return result end
  if result ~= poly.TOO_LARGE then error(result, 0) end
  while self.scopes > scopes do self:close() end
end

-- Facts about x: those of its own, or (away) about newer atoms too, the shortest first: points soon tell when it is too weak.
local function candidates(self, x, away)
  local list = {}
  for _, f in ipairs(self.facts[x]) do
    if (f.newest > x) == away then list[#list + 1] = f end
  end
  table.sort(list, function(f, g)
    if f.size ~= g.size then return f.size < g.size end
    return f.order > g.order
  end)
  return list
end

-- One pass over them: exact eliminations or the others.
local function pass(self, E, x, A, s, depth, detours, away, exact)
  for _, f in ipairs(candidates(self, x, away)) do
    local rest = guarded(self, without, E, A, f, s, exact, depth)
    if rest and terms(rest) <= TERMS and self:search(rest, depth + 1, detours + (away and 1 or 0)) then return true end
  end
  return false
end

-- The terms of p with coefficients of one sign, when there are such of both and all atoms are known not to be negative.
local function parts(self, p)
  local up, down = {}, {}
  for m, c in pairs(p) do
    for _, x in ipairs(self.factors[m]) do if not self.nonneg[x] then return nil end end
    if c > 0 then up[m] = c else down[m] = c end
  end
  if next(up) and next(down) then return up, down end
end

local function by_facts(self, E, x, depth, detours)
  if not self.facts[x] then return false end
  local A = self:around(E, x)
  local s = sign(self, A, depth)
  if s ~= 0 and (pass(self, E, x, A, s, depth, detours, false, true) or pass(self, E, x, A, s, depth, detours, false, false)
    or detours < self.detours and (pass(self, E, x, A, s, depth, detours, true, true)
      or pass(self, E, x, A, s, depth, detours, true, false))) then
    return true
  end
  local up, down = parts(self, A)
  return up and (pass(self, E, x, down, -1, depth, detours, false, true) or pass(self, E, x, up, 1, depth, detours, false, true))
end

-- Does one of the first facts, which are the conditions of the case, contradict what is known?
local function contradicted(self, facts, depth)
  for i = 1, math.min(#facts, CONDITIONS) do
    local p = facts[i]
    if self:search(self:minus(self:number(-1), p), depth + 1, DETOURS) then return true end
  end
  return false
end

local function by_cases(self, E, split, depth, detours)
  for i, case in ipairs(split.cases) do
    self:open()
    set(self, self.taken, split, i)
    for _, p in ipairs(case.facts) do self:assume(p) end
    local ok = self.absurd or self:search(E, depth + 1, detours) or contradicted(self, case.facts, depth)
    self:close()
    if not ok then return false end
  end
  return true
end

-- E with the values of the cases taken in place of the atoms that depend on them.
local function settled(self, E)
  if next(self.taken) == nil then return E end
  for x in pairs(self:atoms(E)) do
    local split = self.splits[x]
    local case = split and self.taken[split]
    local value = case and split.cases[case].values[x]
    if value then return settled(self, self:put(E, x, value)) end
  end
  return E
end

local function known(self, key)
  for scope = self.scopes, 1, -1 do
    if self.proved[scope][key] then return true end
  end
end

function Space:search(E, depth, detours)
  E = self:tight(settled(self, E))
  if self:plain(E) then return true end
  local x = self:newest(E)
  if not x or depth > DEPTH or self.steps <= 0 then return false end
  local key = self:key(E)
  if known(self, key) then return true end
  if (self.failed[key] or DETOURS + 1) <= detours or self:refuted(E) then return false end
  self.steps, self.total, self.failed[key] = self.steps - 1, self.total + 1, detours
  local ok = by_facts(self, E, x, depth, detours)
  if not ok then
    local tried = {}
    for _, y in ipairs(self:newest_first(E)) do
      local split = self.splits[y]
      if split and not self.taken[split] and not tried[split] then
        tried[split] = true
        ok = by_cases(self, E, split, depth, detours)
        if ok then break end
      end
    end
  end
  if ok then self.proved[self.scopes][key] = true end
  return ok
end

--- Is p >= 0 for all values that the facts allow? false: not proved within `steps` and so many detours. First without facts about
-- newer atoms, which lead astray.
function Space:prove(p, steps, detours)
  if self.absurd then return true end
  if self.total > self.limit then return self:plain(p) end
  for most = 0, detours or DETOURS do
    self.detours, self.steps, self.failed = most, steps or STEPS, {}
    if guarded(self, self.search, p, 0, 0) then return true end
    if self:refuted(p) then return false end
  end
  return false
end

--- Do the facts contradict each other, as far as the last few of them show?
function Space:impossible()
  for i = #self.given, math.max(1, #self.given - RECENT), -1 do
    if self.absurd or self:prove(self:minus(self:number(-1), self.given[i]), STEPS / 8) then return true end
  end
  return false
end

M.Space = Space
return M
