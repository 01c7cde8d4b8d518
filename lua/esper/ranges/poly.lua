--- Polynomials with integer coefficients over atoms (integers 1, 2, ...): the arithmetic of the range proof. Under space.lua,
-- which knows what the atoms stand for.
--
-- A polynomial is a table { [monomial] = coefficient }; a monomial is a number that stands for a sorted list of atoms, 1 for the
-- empty one (constants). Monomials are numbered per ring, so equal polynomials have equal keys.
-- Invariant: coefficients are whole, not 0 and at most 2^53 in magnitude, so doubles hold them exactly; what would be larger is
-- the error M.TOO_LARGE.
-- The whole proof runs in LuaJIT's interpreter: compiled by LuaJIT 2.1.0-beta3 its results differed from run to run (seen), and a
-- proof must not rest on that.

require("jit").off(true, true)
local M = {}
M.TOO_LARGE = "a coefficient exceeds 2^53"
local LIMIT, PAIR = 2 ^ 53, 2 ^ 22 -- PAIR: a * PAIR + b tells a pair of monomials from every other
local UNIT = 1

local Ring = {}
M.Ring = Ring

--- Gives `ring` its (empty) table of monomials; its methods are M.Ring's.
function M.init(ring)
  ring.factors, ring.monomials, ring.products, ring.without = { {} }, { [""] = UNIT }, {}, {}
end

local function exact(n)
  if n > LIMIT or n < -LIMIT then error(M.TOO_LARGE, 0) end
  return n
end

-- The monomial of a sorted list of atoms.
local function monomial(ring, atoms)
  local key = table.concat(atoms, " ")
  local id = ring.monomials[key]
  if not id then
    id = #ring.factors + 1
    ring.factors[id], ring.monomials[key] = atoms, id
  end
  return id
end

local function times(ring, a, b)
  if a == UNIT then return b elseif b == UNIT then return a end
  local pair = a * PAIR + b
  local id = ring.products[pair]
  if not id then
    local atoms = {}
    for _, x in ipairs(ring.factors[a]) do atoms[#atoms + 1] = x end
    for _, x in ipairs(ring.factors[b]) do atoms[#atoms + 1] = x end
    table.sort(atoms)
    id = monomial(ring, atoms)
    ring.products[pair] = id
  end
  return id
end

-- The monomial without one factor x; nil when it has none.
local function without(ring, m, x)
  local pair = m * PAIR + x
  local id = ring.without[pair]
  if id == nil then
    local atoms, found = {}, false
    for _, y in ipairs(ring.factors[m]) do
      if y == x and not found then found = true else atoms[#atoms + 1] = y end
    end
    id = found and monomial(ring, atoms)
    ring.without[pair] = id
  end
  return id or nil
end

function Ring:number(n) return n == 0 and {} or { [UNIT] = exact(n) } end
function Ring:var(x) return { [monomial(self, { x })] = 1 } end

--- p + k * q for a number k (1 unless given).
function Ring:plus(p, q, k)
  local out = {}
  k = k or 1
  for m, c in pairs(p) do out[m] = c end
  for m, c in pairs(q) do
    local sum = exact((out[m] or 0) + exact(k * c))
    out[m] = sum ~= 0 and sum or nil
  end
  return out
end

function Ring:minus(p, q) return self:plus(p, q, -1) end
function Ring:scaled(p, k) return self:plus({}, p, k) end

function Ring:mul(p, q)
  local out = {}
  for a, c in pairs(p) do
    for b, d in pairs(q) do
      local m = times(self, a, b)
      local sum = exact((out[m] or 0) + exact(c * d))
      out[m] = sum ~= 0 and sum or nil
    end
  end
  return out
end

--- The number that p is, or nil.
function Ring:value(p)
  local m = next(p)
  if m == nil then return 0 end
  if m == UNIT and next(p, m) == nil then return p[UNIT] end
end

--- p = a * x + b, b without x: a, b, and whether a is without x too.
function Ring:around(p, x)
  local a, b, linear = {}, {}, true
  for m, c in pairs(p) do
    local rest = without(self, m, x)
    if rest then
      a[rest] = c
      if without(self, rest, x) then linear = false end
    else
      b[m] = c
    end
  end
  return a, b, linear
end

--- p with the polynomial `by` in place of x.
function Ring:put(p, x, by)
  local a, b, linear = self:around(p, x)
  if next(a) == nil then return p end
  if not linear then a = self:put(a, x, by) end
  return self:plus(b, self:mul(a, by))
end

--- The largest atom of p, nil for a number.
function Ring:newest(p)
  local top = 0
  for m in pairs(p) do
    local atoms = self.factors[m]
    local x = atoms[#atoms]
    if x and x > top then top = x end
  end
  return top > 0 and top or nil
end

--- The atoms of p as a set.
function Ring:atoms(p)
  local set = {}
  for m in pairs(p) do
    for _, x in ipairs(self.factors[m]) do set[x] = true end
  end
  return set
end

--- The atoms of p, the largest first.
function Ring:newest_first(p)
  local list = {}
  for x in pairs(self:atoms(p)) do list[#list + 1] = x end
  table.sort(list, function(a, b) return a > b end)
  return list
end

--- Text that equal polynomials share and others do not.
function Ring:key(p)
  local list = {}
  for m in pairs(p) do list[#list + 1] = m end
  table.sort(list)
  for i, m in ipairs(list) do list[i] = m .. "*" .. ("%.0f"):format(p[m]) end
  return table.concat(list, "+")
end

local function gcd(a, b)
  while b ~= 0 do a, b = b, a % b end
  return a
end

--- A polynomial that is >= 0 exactly where p is, for whole values: common factors gone, the constant rounded down.
function Ring:tight(p)
  local g = 0
  for m, c in pairs(p) do
    if m ~= UNIT then
      g = gcd(math.abs(c), g)
      if g == 1 then return p end
    end
  end
  if g == 0 then return p end
  local out = {}
  for m, c in pairs(p) do out[m] = c / g end
  local k = p[UNIT] and math.floor(p[UNIT] / g)
  out[UNIT] = k ~= 0 and k or nil
  return out
end

-- The quotient of monomials m / by; nil when it is none.
local function ratio(ring, m, by)
  for _, x in ipairs(ring.factors[by]) do
    m = without(ring, m, x)
    if not m then return nil end
  end
  return m
end

--- Quotient and remainder of p / by: p = q * by + r, terms of p divided by the leading term of `by` as long as one can be.
function Ring:divide(p, by)
  local lead, degree = nil, -1
  for m in pairs(by) do
    local d = #self.factors[m]
    if d > degree or (d == degree and m > lead) then lead, degree = m, d end
  end
  local q, r, steps = {}, p, 0
  local again = lead ~= nil
  while again and steps < 32 do
    again = false
    for m, c in pairs(r) do
      local part = ratio(self, m, lead)
      if part and c % by[lead] == 0 then
        local term = { [part] = c / by[lead] }
        q, r = self:plus(q, term), self:minus(r, self:mul(term, by))
        again, steps = true, steps + 1
        break
      end
    end
  end
  return q, r
end

M.gcd = gcd
return M
