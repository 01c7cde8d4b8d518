--- Statements of step functions in the range proof: one function is read once for all shapes and all tiles. Over expressions.lua,
-- loops.lua and access.lua, under init.lua.
--
-- A step runs for tiles lo .. hi - 1, 0 <= lo < hi <= tiles. An if is read once per way through it; what its ways leave
-- different becomes a choice, unless the if chooses how the rest is done: then the rest is read once per way too.
-- Invariant: every statement is read, or an if or a loop around it was found never to lead there; others count as not proved.

require("jit").off(true, true) -- see poly.lua
local access = require "esper.ranges.access"
local expressions = require "esper.ranges.expressions"
local loops = require "esper.ranges.loops"
local trees = require "esper.ranges.trees"

local M = {}
local Exec = {}
Exec.__index = Exec
access.install(Exec)
expressions.install(Exec)
loops.install(Exec)

local STEPS = 8000 -- of all searches for one function; after them only the obvious is proved
local FORKS = 3 -- ifs whose ways are followed to the end, inside each other
local TOUCHING = { call = true, ["for"] = true, declare = true, index = true, ["break"] = true, ["continue"] = true }
local SIZE = { float = 4, double = 8, int = 4, ["unsigned char"] = 1, char = 1, unsigned = 4 }

-- ---- statements ----

local run = {}

-- Does an if or a loop leave nothing to know? Exploring asks for variables alone.
function Exec:idle(x)
  if self.exploring == 0 or x[1] ~= "if" and x[1] ~= "for" or trees.leaves(x) then return false end
  local names = {}
  for i = 2, #x do trees.assigned(self, x[i], names) end
  return next(names) == nil
end

--- Executes a statement and then what follows it (rest, a function, where that is known); "left" when that is done with: a break or
-- continue ended this way through the loop body, or every way was followed to the end.
function Exec:exec(x, rest)
  local f = run[x[1]] or error("C text: no meaning for statement " .. x[1], 0)
  if self.exploring == 0 then self.read[x] = "read" end
  if self:idle(x) then return rest and rest() end
  if x[1] == "block" or x[1] == "if" then return f(self, x, rest) end
  return f(self, x) or rest and rest()
end

--- Notes that statement x never runs here.
function Exec:skip(x)
  self.read[x] = self.read[x] or "skipped"
  return "left"
end

-- Is this an if whose ways are better followed to the end of the loop body than joined? One that chooses how the rest is done: it
-- touches no memory, and asks a flag or for several things at once, or sets several variables.
function Exec:chooses(x)
  if self.exploring > 0 or self.closed > 0 or self.forks >= FORKS then return false end
  local names, count = {}, 0
  if trees.has(x, TOUCHING) or trees.has(x[2], { ["||"] = true }) then return false end
  trees.assigned(self, x, names)
  for _ in pairs(names) do count = count + 1 end
  return count > 1 or count == 1 and (x[2][1] ~= "bin" or x[2][2] == "&&")
end

-- Follows each way through an if with what comes after it.
function Exec:fork(x, rest)
  local s, outer = self.space, self.env
  self.forks = self.forks + 1
  for i, truth in ipairs { true, false } do
    local ways = self:ways(x[2], truth)
    if #ways == 0 then self:skip(x[2 + i]) end
    for _, way in ipairs(ways) do
      s:open()
      for _, p in ipairs(way) do s:suppose(p) end
      self.env = setmetatable({}, { __index = outer })
      if s.absurd then self:skip(x[2 + i]) else self:exec(x[2 + i], rest) end
      self.env = outer
      s:close()
    end
  end
  self.forks = self.forks - 1
  return "left"
end

function run.block(self, x, rest)
  local function from(i)
    local statement = x[2][i]
    if not statement then return rest and rest() end
    return self:exec(statement, function() return from(i + 1) end)
  end
  return from(1)
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
      local v, t = false, d.type
      if d.value then v, t = self:eval(d.value) end
      self.env[d.name] = { v = expressions.converted(v, t, d.type), t = d.type }
    end
  end
end
-- One way through a statement: its environment and what it may assume.
function Exec:way(facts, body, states)
  local s, outer = self.space, self.env
  s:open()
  local mark = #s.given
  for _, p in ipairs(facts) do s:suppose(p) end
  self.env = setmetatable({}, { __index = outer })
  self.closed = self.closed + 1
  local left = s.absurd and self:skip(body) or self:exec(body)
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

run["if"] = function(self, x, rest)
  if self:chooses(x) then return self:fork(x, rest) end
  local yes, no = self:ways(x[2], true), self:ways(x[2], false)
  if #no == 0 then self:skip(x[4]) return self:exec(x[3], rest) end
  if #yes == 0 then self:skip(x[3]) return self:exec(x[4], rest) end
  local states = {}
  for _, way in ipairs(yes) do self:way(way, x[3], states) end
  for _, way in ipairs(no) do self:way(way, x[4], states) end
  return self:join(states) or rest and rest()
end

run["for"] = Exec.loop

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
    places = {}, sites = {}, order = {}, calls = {}, read = {}, kept = {}, level = 0, exploring = 0, closed = 0, forks = 0,
    failed = 0 }, Exec)
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
  for _ = 1, trees.unread(options.tree, exec.read) do
    out[#out + 1] = { status = "unproved", detail = { text = "C text that was not read" } }
  end
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
