--- Loops of step functions in the range proof. Methods of the executor (steps.lua).
--
-- A variable is what it was before the loop plus the number of the turn times its change, when one reading of the body from unknown
-- values shows that it changes by something that the loop itself does not vary. Others hold what invariants.lua finds, else
-- anything. Then the body is read for any turn: 0 <= turn, and the condition holds.

require("jit").off(true, true) -- see poly.lua
local invariants = require "esper.ranges.invariants"
local trees = require "esper.ranges.trees"

local M = {}

function M.install(Exec)
  -- What each name changes by in one turn, false where that differs from turn to turn.
  function Exec:changes(x, names)
    local s, start, marks, out = self.space, self.env, {}, {}
    self.level, self.exploring = self.level + 1, self.exploring + 1
    s:open()
    s:scoped(s, "coarse", true)
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
      out[name] = not trees.leaves(x[5]) and change and s:level_of(change) < self.level and change or false
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

  function Exec:skip_loop(x)
    self:skip(x[4])
    self:skip(x[5])
  end

  function Exec:body(x, outermost)
    local s, ways = self.space, self:ways(x[3], true)
    local function step() return self:exec(x[4]) end
    if #ways == 0 then self:skip_loop(x) end
    for _, way in ipairs(ways) do
      s:open()
      for _, p in ipairs(way) do s:suppose(p) end
      for _, p in ipairs(way) do s:met(p) end
      for _, v in ipairs(outermost) do s:bound(s:newest(v)) end
      local outer = self.env
      self.env = setmetatable({}, { __index = outer })
      local closed = self.closed
      self.closed = 0
      if s.absurd then self:skip_loop(x) else self:exec(x[5], step) end
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

  -- A loop: its init, its changes, any turn of it, what it leaves.
  function Exec:loop(x)
    local s, outer, names = self.space, self.env, {}
    self:exec(x[2])
    trees.assigned(self, x[4], names)
    trees.assigned(self, x[5], names)
    names = trees.sorted(names)
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
    if #after == 1 and not trees.leaves(x[5]) then for _, p in ipairs(after[1]) do s:assume(p) end end
  end
end

return M
