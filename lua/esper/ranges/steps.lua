--- Statements of step functions in the range proof: one function is read once for all shapes and all tiles. Over expressions.lua
-- and block.lua, under init.lua.
--
-- A step runs for tiles lo .. hi - 1, 0 <= lo < hi <= tiles. An if is read once per way through it; what its ways leave
-- different becomes a choice. A loop's variables are what they were plus a turn times their change, as in block.lua; those that
-- change otherwise hold what the invariants found for them say (invariants.lua), else anything.
-- Every access to memory ends in Exec:bytes: start >= 0 and end <= size of the buffer are proved there, or not.

require("jit").off(true, true) -- see poly.lua
local block = require "esper.ranges.block"
local expressions = require "esper.ranges.expressions"
local invariants = require "esper.ranges.invariants"

local M = {}
local Exec = {}
Exec.__index = Exec
expressions.install(Exec)

local STEPS = 4000 -- of all searches for one function; after them only the obvious is proved
local FORKS = 3 -- ifs whose ways are followed to the end, inside each other
local TOUCHING = { call = true, ["for"] = true, declare = true, index = true, ["break"] = true, ["continue"] = true }
local SIZE = { float = 4, double = 8, int = 4, ["unsigned char"] = 1, char = 1, unsigned = 4 }

-- ---- accesses ----

-- The buffer of an address: its atom and the offset; nil when it has none, or more than one may be meant.
function Exec:buffer_of(address)
  local s, found = self.space, nil
  for x in pairs(s:atoms(address)) do
    if self.buffers[x] then
      if found then return nil end
      found = x
    end
  end
  if not found then return nil end
  local a, offset = s:around(address, found)
  if s:value(a) == 1 then return found, offset end
end

function Exec:inside(address, from, to)
  local s = self.space
  local buffer, offset = self:buffer_of(address)
  if not buffer then return self:inside_cases(address, from, to) end
  local low = s:plus(offset, s:number(from))
  local high = s:minus(s:minus(self.buffers[buffer].bytes, offset), s:number(to))
  if s:lifeless() and s:impossible() then return "proved", buffer end -- this access never takes place
  if s:prove(low) and s:prove(high) then return "proved", buffer end
  return "unproved", buffer, low, high
end

-- An address that is one of several: in each case.
function Exec:inside_cases(address, from, to)
  local s = self.space
  for _, x in ipairs(s:newest_first(address)) do
    local split = s.splits[x]
    if split then
      local buffer
      for _, case in ipairs(split.cases) do
        s:open()
        for _, p in ipairs(case.facts) do s:assume(p) end
        local at = address
        for y, v in pairs(case.values) do at = s:put(at, y, v) end
        local status
        status, buffer = self:inside(at, from, to)
        s:close()
        if status ~= "proved" then return status, buffer end
      end
      return "proved", buffer
    end
  end
  return "data"
end

local RANK = { proved = 1, data = 2, unproved = 3, violated = 4 }

function Exec:record(site, status, detail)
  local old = self.sites[site]
  if not old then
    self.order[#self.order + 1] = site
    self.sites[site] = { status = status, detail = detail }
  elseif RANK[status] > RANK[old.status] then
    old.status, old.detail = status, detail
  end
end

-- A load or store of the C text.
function Exec:touch(address, size, site)
  if self.exploring > 0 then return end
  if not address then return self:record(site, "data", { text = "C text" }) end
  self:verdict(site, address, 0, size, "C text")
end

-- Of an access that was not proved: the shape at which it leaves its buffer and by how many bytes, when a point shows it.
function Exec:refute(low, high)
  local s = self.space
  for side, distance in pairs { before = low, past = high } do
    local point = s:witness(distance)
    if point then return { point = point, side = side, bytes = -s:at(distance, point) } end
  end
end

function Exec:verdict(site, address, from, to, text)
  local status, buffer, low, high = self:inside(address, from, to)
  local found = status == "unproved" and low and self:refute(low, high)
  self:record(site, found and "violated" or status, { text = text, buffer = buffer and self.buffers[buffer].name, found = found or nil })
end

-- Callbacks of block.lua. A site is a call with an instruction.
function Exec:bytes(c, address, from, to) self:verdict(self:site(c), address, from, to, c.text) end
function Exec:all(group, address)
  local status, buffer = self:inside(address, group.from, group.to)
  if status ~= "proved" then return false end
  for _, one in ipairs(group.list) do self:record(self:site(one.c), "proved", { buffer = self.buffers[buffer].name }) end
  return true
end
function Exec:unknown(c) self:record(self:site(c), "data", { text = c.text }) end

function Exec:site(c)
  local sites = self.calls[self.call]
  if not sites then
    sites = {}
    self.calls[self.call] = sites
  end
  sites[c] = sites[c] or { self.call }
  return sites[c]
end

function Exec:positive(p)
  local s = self.space
  if s:prove(p, 60) then return p end
  local key = s:key(p)
  local v = self.kept[key]
  if not v then
    local cases = { { facts = { p } }, { facts = { s:minus(s:number(-1), p) } } }
    v = s:choice(s:split(cases), { p, {} }, true)
    s:scoped(self.kept, key, v)
  end
  return v
end

function Exec:at_least_one(p)
  for _, fact in ipairs(self:decided(p, true)) do self.space:assume(fact) end
end

function Exec:block(name, array, x)
  if self.exploring > 0 then return end
  local words = {}
  for i = 0, self.arrays[array] - 1 do
    local word = self.env[array .. "[" .. i .. "]"]
    words[i] = word and word.v
  end
  self.call = x
  local program = self.programs[name]
  if program.unread then
    self.space:open()
    self:record(x, "unproved", { text = program.unread })
    self.space:close()
    return
  end
  self.space:open()
  block.call(self.space, program, words, self, self.level)
  self.space:close()
end

-- ---- trees ----

-- Names assigned in a tree, words of arrays among them.
local function assigned(self, x, names)
  if type(x) ~= "table" then return end
  if x[1] == "set" or x[1] == "step" then
    local place = x[1] == "set" and x[3] or x[3]
    local name = place[1] == "name" and place[2] or self:word_name(place)
    if name and self.env[name] then names[name] = true end
  end
  for i = 1, #x do assigned(self, x[i], names) end
  if x.value then assigned(self, x.value, names) end
end

-- Does a node of one of these kinds stand in the tree? An operator counts as the kind of its node.
local function has(x, kinds)
  if type(x) ~= "table" then return false end
  if kinds[x[1]] or x[1] == "bin" and kinds[x[2]] then return true end
  for i = 2, #x do if has(x[i], kinds) then return true end end
  return false
end

-- ---- statements ----

local run = {}

--- Executes a statement; "left" when a break or continue ends this way through the loop body.
function Exec:exec(x, rest)
  local f = run[x[1]] or error("C text: no meaning for statement " .. x[1], 0)
  local left = f(self, x, rest)
  if rest and x[1] ~= "block" and left ~= "left" then return rest() end
  return left
end

-- Is this an if whose ways are better followed to the end of the loop body than joined? One that chooses how the rest is done: it
-- touches no memory, and asks a flag or for several things at once, or sets several variables.
function Exec:chooses(x)
  if x[1] ~= "if" or self.exploring > 0 or self.closed > 0 or self.forks >= FORKS then return false end
  local names, count = {}, 0
  if has(x, TOUCHING) or has(x[2], { ["||"] = true }) then return false end
  assigned(self, x, names)
  for _ in pairs(names) do count = count + 1 end
  return count > 1 or count == 1 and (x[2][1] ~= "bin" or x[2][2] == "&&")
end

-- Follows each way through an if with what comes after it.
function Exec:fork(x, rest)
  local s, outer = self.space, self.env
  self.forks = self.forks + 1
  for i, truth in ipairs { true, false } do
    for _, way in ipairs(self:ways(x[2], truth)) do
      s:open()
      for _, p in ipairs(way) do s:suppose(p) end
      self.env = setmetatable({}, { __index = outer })
      if not s.absurd then self:exec(x[2 + i], rest) end
      self.env = outer
      s:close()
    end
  end
  self.forks = self.forks - 1
  return "left"
end

-- rest: what follows the block, where that is known.
function run.block(self, x, rest)
  for i, statement in ipairs(x[2]) do
    local function following()
      local after = { "block", { unpack(x[2], i + 1) } }
      return self:exec(after, rest)
    end
    if self:chooses(statement) then return self:fork(statement, following) end
    if self:exec(statement) == "left" then return "left" end
  end
  return rest and rest()
end

run["do"] = function(self, x) self:eval(x[2]) end
run["break"] = function() return "left" end
run["continue"] = run["break"]

function run.declare(self, x)
  for _, d in ipairs(x[2]) do
    if d.count then
      local n = d.count[1] == "num" and d.count[2] or error("C text: array of a variable size", 0)
      if d.type == "long" then
        self.arrays[d.name] = n
        for i = 0, n - 1 do self.env[d.name .. "[" .. i .. "]"] = { v = false, t = "long" } end
        self.env[d.name] = { v = false, t = "long*" }
      else
        self.env[d.name] = { v = self.space:var(self:stack(d.name, n * SIZE[d.type])), t = d.type .. "*" }
      end
    else
      local v = false
      if d.value then v = self:eval(d.value) end
      if not self.whole[d.type] and not expressions.is_pointer(d.type) then v = false end
      self.env[d.name] = { v = v, t = d.type }
    end
  end
end
Exec.whole = { long = true, ["unsigned long"] = true, int = true }

-- One way through a statement: its environment and what it may assume.
function Exec:way(facts, body, states)
  local s, outer = self.space, self.env
  s:open()
  local mark = #s.given
  for _, p in ipairs(facts) do s:suppose(p) end
  self.env = setmetatable({}, { __index = outer })
  self.closed = self.closed + 1
  local left = s.absurd and "left" or self:exec(body)
  self.closed = self.closed - 1
  if not left then states[#states + 1] = { facts = s:since(mark), env = self.env } end
  s:close()
  self.env = outer
end

-- Gives every variable that the ways leave different a choice of what they leave.
function Exec:join(states)
  local s, names = self.space, {}
  if #states == 0 then return "left" end
  if #states == 1 then for _, p in ipairs(states[1].facts) do s:assume(p) end end
  for _, state in ipairs(states) do
    for name in pairs(state.env) do if self.env[name] then names[#names + 1] = name end end
  end
  table.sort(names)
  local split = s:split(states)
  for i, name in ipairs(names) do
    if name ~= names[i - 1] then
      local values, type, known = {}, self.env[name].t, true
      for j, state in ipairs(states) do
        values[j] = state.env[name].v
        known = known and values[j]
      end
      local plain = not expressions.is_pointer(type) and not name:find "%["
      self.env[name] = { v = known and s:choice(split, values, plain), t = type }
    end
  end
end

run["if"] = function(self, x)
  local yes, no = self:ways(x[2], true), self:ways(x[2], false)
  if #no == 0 then return self:exec(x[3]) end
  if #yes == 0 then return self:exec(x[4]) end
  local states = {}
  for _, way in ipairs(yes) do self:way(way, x[3], states) end
  for _, way in ipairs(no) do self:way(way, x[4], states) end
  return self:join(states)
end

-- ---- loops ----

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- Does a break or continue of this loop stand in the tree?
local function leaves(x)
  if type(x) ~= "table" then return false end
  if x[1] == "break" or x[1] == "continue" then return true end
  if x[1] == "for" then return false end
  for i = 2, #x do if leaves(x[i]) then return true end end
  return false
end

function Exec:leaves(x) return leaves(x) end

-- What each name changes by in one turn, false where that differs from turn to turn.
function Exec:changes(x, names)
  local s, start, marks, out = self.space, self.env, {}, {}
  self.level, self.exploring = self.level + 1, self.exploring + 1
  s:open()
  self.env = setmetatable({}, { __index = start })
  for _, name in ipairs(names) do
    marks[name] = s:atom(self.level)
    self.env[name] = { v = s:var(marks[name]), t = start[name].t }
  end
  local ways = self:ways(x[3], true)
  if #ways == 1 then for _, p in ipairs(ways[1]) do s:assume(p) end end
  if self:exec(x[5]) ~= "left" then self:exec(x[4]) end
  for name, mark in pairs(marks) do
    local v = self.env[name].v
    local change = v and s:minus(v, s:var(mark))
    out[name] = not leaves(x[5]) and change and s:level_of(change) < self.level and change or false
  end
  s:close()
  self.env, self.level, self.exploring = start, self.level - 1, self.exploring - 1
  return out
end

-- The state at the start of some turn: variables by turn number k, or as a fresh value when they change otherwise.
function Exec:some_turn(x, names, changes, k, known)
  local s = self.space
  for _, name in ipairs(names) do
    local old, change = self.env[name], changes[name]
    local v = known[name]
    if not v and old.v and change then v = next(change) == nil and old.v or k and s:plus(old.v, s:mul(k, change)) end
    self.env[name] = { v = v or false, t = old.t }
  end
end

function Exec:body(x, outermost)
  local s = self.space
  for _, way in ipairs(self:ways(x[3], true)) do
    s:open()
    for _, p in ipairs(way) do s:suppose(p) end
    for _, p in ipairs(way) do s:met(p) end
    for _, v in ipairs(outermost) do s:bound(s:newest(v)) end
    local outer = self.env
    self.env = setmetatable({}, { __index = outer })
    local closed = self.closed
    self.closed = 0
    if not s.absurd then self:exec(x[5]) end
    self.closed = closed
    self.env = outer
    s:close()
  end
end

-- The number of a turn, as a polynomial: a counter that goes up by one stands for it itself.
function Exec:turn(names, changes)
  local s = self.space
  local v = s:var(s:atom(self.level))
  for _, name in ipairs(names) do
    local from = self.env[name].v
    if from and changes[name] and s:value(changes[name]) == 1 then
      local positive = s:prove(from, 60)
      s:assume(s:minus(v, from))
      if positive then s:assume(v) end
      return s:minus(v, from)
    end
  end
  s:assume(v)
  return v
end

run["for"] = function(self, x)
  local s, outer, names = self.space, self.env, {}
  self:exec(x[2])
  assigned(self, x[4], names)
  assigned(self, x[5], names)
  names = sorted(names)
  local changes = self:changes(x, names)
  if self.exploring == 0 then
    s:open()
    self.env = setmetatable({}, { __index = outer })
    local known = {}
    local k = self:turn(names, changes)
    invariants.hold(self, x, names, changes, known)
    self:some_turn(x, names, changes, k, known)
    self:body(x, invariants.outermost(x, known))
    s:close()
    self.env = outer
  end
  local turns = s:var(s:atom(self.level))
  s:assume(turns)
  self:some_turn(x, names, changes, turns, {})
  local after = self:ways(x[3], false)
  if #after == 1 and not leaves(x[5]) then for _, p in ipairs(after[1]) do s:assume(p) end end
end

-- ---- a function ----

function Exec:stack(name, bytes)
  local x = self.space:atom(0)
  self.buffers[x] = { name = name, bytes = self.space:number(bytes) }
  return x
end

--- Reads a step. options: space, programs (by name), tree, operands (array of { name=, bytes= }), dims (array of polynomials),
-- tiles (polynomial), streams (number). Returns sites in order: { status=, detail= }.
function M.read(options)
  local s = options.space
  local exec = setmetatable({ space = s, programs = options.programs, options = options, env = {}, arrays = {}, buffers = {},
    places = {}, sites = {}, order = {}, calls = {}, kept = {}, level = 0, exploring = 0, closed = 0, forks = 0 }, Exec)
  s:open()
  s.limit = s.total + STEPS
  local first, last = s:atom(0), s:atom(0)
  local lo, hi = s:var(first), s:var(last)
  s:sample(first, s:number(0))
  s:sample(last, options.tiles)
  s:assume(lo)
  s:assume(s:plus(s:minus(hi, lo), s:number(-1)))
  s:assume(s:minus(options.tiles, hi))
  exec.env.lo, exec.env.hi = { v = lo, t = "long" }, { v = hi, t = "long" }
  local ok, why = pcall(exec.exec, exec, options.tree)
  while s.scopes > options.scopes do s:close() end
  s.limit = math.huge
  if not ok then return nil, why end
  local out = {}
  for i, site in ipairs(exec.order) do out[i] = exec.sites[site] end
  return out
end

function Exec:operand(i)
  local o = self.options.operands[i + 1] or error("C text: operand " .. i .. " is not in the plan", 0)
  if not self.places[i] then
    self.places[i] = self.space:atom(0)
    self.buffers[self.places[i]] = o
  end
  return self.places[i]
end

function Exec:argument(field)
  local s = self.space
  local bytes = field == "key" and 8 * self.options.streams or field == "fault" and 8 or error("C text: a->" .. field, 0)
  if not self.places[field] then
    self.places[field] = s:atom(0)
    self.buffers[self.places[field]] = { name = field, bytes = s:number(bytes) }
  end
  return self.places[field]
end

function Exec:dimension(i) return self.options.dims[i + 1] or error("C text: dimension " .. i .. " is not in the plan", 0) end

M.Exec = Exec
return M
