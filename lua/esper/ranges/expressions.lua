--- Expressions of step functions in the range proof: what is known of their values, and what follows from a condition. Methods of
-- the executor (steps.lua), over c_text.lua's trees.
--
-- A value is a polynomial or false (unknown), with its C type. An address is the atom of its buffer plus bytes. Reading memory
-- gives a fresh atom without facts, so what is loaded may be anything, and a check of it in the text (an index in range) is a
-- fact like any other.

require("jit").off(true, true) -- see poly.lua
local M = {}

local SIZE = { char = 1, ["unsigned char"] = 1, int = 4, unsigned = 4, float = 4, long = 8, double = 8, ["unsigned long"] = 8 }
local WHOLE = { char = true, int = true, long = true, ["unsigned long"] = true, unsigned = true, ["unsigned char"] = true }
local WAYS = 4 -- alternatives of a condition that are told apart

--- What is known of a value of one type that is stored as another: narrower ones are cut off, so only their own are kept.
function M.converted(v, from, to)
  local wide = to == "long" or to == "unsigned long" or to:sub(-1) == "*"
  return (from == to or wide and (WHOLE[from] or from:sub(-1) == "*") and from ~= "unsigned") and v
end

function M.install(Exec)
  local evaluate, combine = {}, {}

  --- Value and type of an expression; effects on names and memory take place.
  function Exec:eval(x)
    local f = evaluate[x[1]] or error("C text: no meaning for " .. x[1], 0)
    return f(self, x)
  end

  local function target(type) return type:sub(1, -2) end
  local function is_pointer(type) return type:sub(-1) == "*" end
  M.is_pointer = is_pointer

  -- Address and element type of a place in memory, or nil and the name of a variable.
  function Exec:place(x)
    if x[1] == "name" then return nil, x[2] end
    if x[1] == "un" and x[2] == "*" then
      local v, t = self:eval(x[3])
      return v, target(t)
    end
    if x[1] ~= "index" then error("C text: no place to store to", 0) end
    local word = self:word_name(x)
    if word then return nil, word end
    local v, t = self:eval(x[2])
    local i = self:eval(x[3])
    local size = SIZE[target(t)] or error("C text: pointer to " .. t, 0)
    return v and i and self.space:plus(v, i, size), target(t)
  end

  --- "w_0[3]" when x is a word of an array of words, which are kept as names.
  function Exec:word_name(x)
    local name = x[1] == "index" and x[2][1] == "name" and x[2][2]
    if not name or not self.arrays[name] then return nil end
    if x[3][1] ~= "num" then error("C text: array of words at a variable place", 0) end
    if x[3][2] >= self.arrays[name] then error("C text: word past the end of " .. name, 0) end
    return name .. "[" .. x[3][2] .. "]"
  end

  function Exec:load(x)
    local v, t = self:place(x)
    self:touch(v, SIZE[t], x)
    return WHOLE[t] and self.space:var(self.space:atom(self.level)), t
  end

  function evaluate.num(self, x) return self.space:number(x[2]), "long" end
  function evaluate.real() return false, "double" end

  function evaluate.name(self, x)
    local known = self.env[x[2]] or error("C text: unknown name " .. x[2], 0)
    return known.v, known.t
  end

  function evaluate.field(self, x)
    local place = self:argument(x[3])
    return self.space:var(place), x[3] == "key" and "unsigned*" or "long*"
  end

  function evaluate.index(self, x)
    local field = x[2][1] == "field" and x[2][3]
    if field == "p" then return self.space:var(self:operand(x[3][2])), "char*" end
    if field == "d" then return self:dimension(x[3][2]), "long" end
    local word = self:word_name(x)
    if word then return self.env[word].v, "long" end
    return self:load(x)
  end

  function evaluate.un(self, x)
    if x[2] == "*" then return self:load(x) end
    if x[2] == "!" then return self:truth(x) end
    local v, t = self:eval(x[3])
    if x[2] == "-" and v and WHOLE[t] then return self.space:scaled(v, -1), "long" end
    return false, t
  end

  function evaluate.cast(self, x)
    local v, t = self:eval(x[3])
    if is_pointer(x[2]) or x[2] == "long" or x[2] == "unsigned long" then
      return (is_pointer(t) or WHOLE[t]) and t ~= "unsigned" and v, x[2]
    end
    return false, x[2]
  end

  function evaluate.call(self, x)
    local words = self.env[x[3][1][2]]
    if not self.programs[x[2]] or not words then error("C text: no block " .. x[2], 0) end
    self:block(x[2], x[3][1][2], x)
    return false, "long"
  end

  function evaluate.set(self, x)
    local v, t
    if x[2] == "=" then v, t = self:eval(x[4]) else v, t = self:eval { "bin", x[2]:sub(1, -2), x[3], x[4] } end
    local address, name = self:place(x[3])
    if address == nil and self.env[name] then
      self.env[name] = { v = M.converted(v, t, self.env[name].t), t = self.env[name].t }
    else
      self:touch(address, SIZE[name], x)
    end
    return v, t
  end

  function evaluate.step(self, x) return self:eval { "set", x[2] .. "=", x[3], { "num", 1 } } end

  -- ---- operators ----

  combine["+"] = function(s, a, b) return s:plus(a, b) end
  combine["-"] = function(s, a, b) return s:minus(a, b) end
  combine["*"] = function(s, a, b) return s:mul(a, b) end
  combine["/"] = function(s, a, b) return s:quotient(a, b) or false end
  combine["%"] = function(s, a, b)
    local q = s:quotient(a, b)
    return q and s:minus(a, s:mul(b, q))
  end
  combine["&"] = function(s, a, b) -- with minus a power of two: a rounded down
    local n = s:value(b)
    if not n or n >= 0 or math.log(-n, 2) % 1 ~= 0 then return false end
    local x = s:atom(s:level_of(a))
    local r = s:var(x)
    s.vague[x] = true -- the place of an array on the stack is not known
    s:assume(r)
    s:assume(s:minus(s:number(-n - 1), r))
    return s:minus(a, r)
  end

  local function arithmetic(self, op, x)
    local a, ta = self:eval(x[3])
    local b, tb = self:eval(x[4])
    local s, f = self.space, combine[op]
    if is_pointer(ta) and is_pointer(tb) then
      local size = SIZE[target(ta)]
      return op == "-" and a and b and s:quotient(s:minus(a, b), s:number(size)) or false, "long"
    end
    if is_pointer(tb) then a, ta, b, tb = b, tb, a, ta end
    if is_pointer(ta) then
      if op ~= "+" and op ~= "-" then return false, ta end
      return a and b and s:plus(a, b, (op == "+" and 1 or -1) * SIZE[target(ta)]), ta
    end
    if not (WHOLE[ta] and WHOLE[tb]) then return false, "double" end
    if ta:find "unsigned" or tb:find "unsigned" then return false, "unsigned long" end
    return a and b and f and f(s, a, b) or false, "long"
  end

  local COMPARE = { ["<"] = true, [">"] = true, ["<="] = true, [">="] = true, ["=="] = true, ["!="] = true, ["&&"] = true,
    ["||"] = true }

  function evaluate.bin(self, x)
    if COMPARE[x[2]] then return self:truth(x) end
    return arithmetic(self, x[2], x)
  end

  --- The value of a condition: 1 or 0.
  function Exec:truth(x)
    local s = self.space
    local v = self:either(self:ways(x, true), self:ways(x, false), s:number(1), s:number(0), true)
    return v, "long"
  end

  -- The value that is `yes` in the ways of one list and `no` in those of the other.
  function Exec:either(true_ways, false_ways, yes, no, plain)
    local cases, values = {}, {}
    for _, way in ipairs(true_ways) do cases[#cases + 1], values[#values + 1] = { facts = way }, yes end
    for _, way in ipairs(false_ways) do cases[#cases + 1], values[#values + 1] = { facts = way }, no end
    if #cases == 0 then return yes end -- never reached
    return self.space:choice(self.space:split(cases), values, plain)
  end

  -- One arm of a conditional expression, in each of the ways that lead there.
  local function arm(self, ways, x, cases, values)
    local s, type = self.space, nil
    for _, way in ipairs(ways) do
      s:open()
      local mark = #s.given
      for _, p in ipairs(way) do s:suppose(p) end
      local v
      v, type = self:eval(x)
      cases[#cases + 1] = { facts = s:since(mark) }
      values[#values + 1] = v
      s:close()
    end
    return type
  end

  function evaluate.cond(self, x)
    local cases, values, s = {}, {}, self.space
    local yes = arm(self, self:ways(x[2], true), x[3], cases, values)
    local no = arm(self, self:ways(x[2], false), x[4], cases, values)
    local type = yes or no or "long"
    if not yes and not no then return false, type end -- never reached
    if yes and no and is_pointer(no) then type = no end
    for i = 1, #cases do if not values[i] then return false, type end end
    return s:choice(s:split(cases), values, not is_pointer(type)), type
  end

  -- ---- conditions ----

  local function product(a, b)
    local out = {}
    for _, x in ipairs(a) do
      for _, y in ipairs(b) do
        local way = {}
        for _, p in ipairs(x) do way[#way + 1] = p end
        for _, p in ipairs(y) do way[#way + 1] = p end
        out[#out + 1] = way
      end
    end
    return out
  end

  local function union(a, b)
    local out = {}
    for _, x in ipairs(a) do out[#out + 1] = x end
    for _, x in ipairs(b) do out[#out + 1] = x end
    return out
  end

  -- Is p >= 0 disproved?
  local function never(s, p)
    local n = s:value(p)
    if n then return n < 0 end
    return s:prove(s:minus(s:number(-1), p), 40)
  end

  -- Without the ways that cannot be; more than there may be are one way without facts.
  local function possible(self, list)
    local out = {}
    for _, way in ipairs(list) do
      local ok = true
      for _, p in ipairs(way) do
        if never(self.space, p) then
          ok = false
          break
        end
      end
      if ok then out[#out + 1] = way end
    end
    return #out <= WAYS and out or { {} }
  end

  -- d is not 0.
  local function differs(self, d)
    local s = self.space
    local above, below = s:plus(d, s:number(-1)), s:minus(s:number(-1), d)
    if s:prove(d, 60) then return { { above } } end
    if s:prove(s:scaled(d, -1), 60) then return { { below } } end
    return { { above }, { below } }
  end

  -- The cases of a choice between numbers that leave it 0, or not 0: their facts when there is one.
  function Exec:decided(v, truth)
    local s = self.space
    local x = s:newest(v)
    local split = x and s.splits[x]
    if not split or s:key(v) ~= s:key(s:var(x)) then return {} end
    local found
    for _, case in ipairs(split.cases) do
      local n = case.values[x] and s:value(case.values[x])
      if not n or (n ~= 0) == truth then
        if found then return {} end
        found = case.facts
      end
    end
    return found or {}
  end

  local function number_ways(self, x, truth)
    local v, t = self:eval(x)
    local s = self.space
    if not v or not (WHOLE[t] or is_pointer(t)) then return { {} } end
    if truth then return product(differs(self, v), { self:decided(v, true) }) end
    return product({ { v, s:scaled(v, -1) } }, { self:decided(v, false) })
  end

  local NEGATED = { ["<"] = ">=", [">="] = "<", [">"] = "<=", ["<="] = ">", ["=="] = "!=", ["!="] = "==" }

  local function compared(self, x, truth)
    local a, ta = self:eval(x[3])
    local b, tb = self:eval(x[4])
    local s, op = self.space, truth and x[2] or NEGATED[x[2]]
    local addresses = is_pointer(ta) and is_pointer(tb)
    if not a or not b or not (addresses or WHOLE[ta] and WHOLE[tb]) then return { {} } end
    if not addresses and (ta:find "unsigned" or tb:find "unsigned") then
      if op == "<" and s:prove(b) then return { { a, s:plus(s:minus(b, a), s:number(-1)) } } end
      return { {} }
    end
    local d, one = s:minus(a, b), s:number(-1)
    if op == ">=" then return { { d } } end
    if op == ">" then return { { s:plus(d, one) } } end
    if op == "<=" then return { { s:scaled(d, -1) } } end
    if op == "<" then return { { s:minus(one, d) } } end
    if op == "==" then return { { d, s:scaled(d, -1) } } end
    return differs(self, d)
  end

  --- What a condition that is true (or false) allows: a list of ways, each a list of polynomials that are >= 0.
  function Exec:ways(x, truth)
    local op = x[1] == "bin" and x[2] or x[1] == "un" and x[2]
    local list
    if op == "!" then
      return self:ways(x[3], not truth)
    elseif op == "&&" or op == "||" then
      local a, b = self:ways(x[3], truth), self:ways(x[4], truth)
      list = (op == "&&") == truth and product(a, b) or union(a, b)
    elseif NEGATED[op] then
      list = compared(self, x, truth)
    else
      list = number_ways(self, x, truth)
    end
    return possible(self, list)
  end
end

return M
