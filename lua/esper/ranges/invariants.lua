--- Invariants of loops whose variables do not move evenly: walks over the coordinates of a strided space, where a coordinate that
-- reaches its extent starts again at 0 and the next one moves on. Used by steps.lua.
--
-- Such a variable is a fresh value at the start of any turn. What is known of it are candidates that hold at the first turn and
-- that a turn keeps: v >= 0; v <= e - 1 where the body asks v >= e; and that a position has moved as far, in whole units, as the
-- coordinates say together: `if (c0 >= e) { c0 = 0; c1++; if (c1 >= f) ... }` makes them the number c0 + e * (c1 + f * c2).
-- Invariant: a candidate is assumed only after all that are assumed together were proved to survive a turn (induction).

require("jit").off(true, true) -- see poly.lua

local trees = require "esper.ranges.trees"

local M = {}

local ROUNDS, STEPS = 4, 120

-- Calls visit(node) for every node of a tree.
local function each(x, visit)
  if type(x) ~= "table" then return end
  visit(x)
  for i = 2, #x do each(x[i], visit) end
end

-- What a carry moves on: the name of x in `x++` inside the body of `if (c >= e)`, and not in an if inside that.
local function carried(body)
  for _, statement in ipairs(body[1] == "block" and body[2] or { body }) do
    local step = statement[1] == "do" and statement[2]
    if step and step[1] == "step" and step[3][1] == "name" then return step[3][2] end
  end
end

-- The coordinates of a walk: { [name] = { extent = expression, next = name } }, the names that others carry into, and the numbers
-- in `position += 96 * rows`, which may be its unit.
local function coordinates(body)
  local of, into, units = {}, {}, { 1 }
  each(body, function(x)
    if x[1] == "if" and x[2][1] == "bin" and x[2][2] == ">=" and x[2][3][1] == "name" then
      local following = carried(x[3])
      of[x[2][3][2]] = { extent = x[2][4], next = following }
      if following then into[following] = true end
    elseif x[1] == "set" and x[2] == "+=" then
      each(x[4], function(y) if y[1] == "num" and y[2] > 1 then units[#units + 1] = y[2] end end)
    end
  end)
  return of, into, units
end

-- The number that coordinates from `name` on make, with value(name) for each; nil when one is not known.
local function joined(exec, of, name, value)
  local s, c = exec.space, of[name]
  local v = value(name)
  if not v or not c or not c.next then return v end
  local e, rest = exec:eval(c.extent), joined(exec, of, c.next, value)
  return e and rest and s:plus(v, s:mul(e, rest))
end

--- The fresh values of coordinates without an extent: what bounds them is known when the loop's condition is.
function M.outermost(x, known)
  local of, into = coordinates(x[5])
  local list = {}
  for name in pairs(into) do if not of[name] and known[name] then list[#list + 1] = known[name] end end
  return list
end

local function candidates(exec, x, names, fresh)
  local s, list = exec.space, {}
  local of, into, units = coordinates(x[5])
  local function start(name) return exec.env[name] and exec.env[name].v end
  local function now(name) return fresh[name] or start(name) end
  local function add(p, first) if s:prove(first, STEPS) then list[#list + 1] = p end end
  for _, name in ipairs(names) do
    add(fresh[name], start(name))
    local c = of[name]
    local e = c and exec:eval(c.extent)
    local limit = e and s:plus(e, s:number(-1))
    if limit then add(s:minus(limit, fresh[name]), s:minus(limit, start(name))) end
  end
  for _, first in ipairs(names) do
    local moved = of[first] and not into[first] and joined(exec, of, first, now)
    moved = moved and s:minus(moved, joined(exec, of, first, start))
    for _, position in ipairs(moved and names or {}) do
      for _, unit in ipairs(not of[position] and not into[position] and units or {}) do
        local e = s:minus(s:minus(fresh[position], start(position)), s:scaled(moved, unit))
        list[#list + 1] = e
        list[#list + 1] = s:scaled(e, -1)
      end
    end
  end
  return list
end

-- The candidates that a turn keeps when all of `list` hold at its start.
local function kept(exec, x, names, fresh, list)
  local s, outer, out = exec.space, exec.env, {}
  s:open()
  exec.exploring = exec.exploring + 1
  exec.env = setmetatable({}, { __index = outer })
  for _, name in ipairs(names) do exec.env[name] = { v = fresh[name], t = outer[name].t } end
  for _, p in ipairs(list) do s:suppose(p) end
  local ways = exec:ways(x[3], true)
  if #ways == 1 then for _, p in ipairs(ways[1]) do s:suppose(p) end end
  exec:exec(x[5])
  exec:exec(x[4])
  for _, p in ipairs(list) do
    local after, known = p, true
    for _, name in ipairs(names) do
      local v, x0 = exec.env[name].v, s:newest(fresh[name])
      if v then after = s:put(after, x0, v) elseif next((s:around(p, x0))) then known = false end
    end
    if known and s:prove(after, STEPS) then out[#out + 1] = p end
  end
  exec.env, exec.exploring = outer, exec.exploring - 1
  s:close()
  return out
end

--- Gives the variables of loop x that change unevenly fresh values (in `known`) and assumes what holds for them at any turn.
function M.hold(exec, x, names, changes, known)
  local s, uneven = exec.space, {}
  for _, name in ipairs(names) do
    local one = exec.env[name]
    if changes[name] == false and one.v and one.t == "long" then uneven[#uneven + 1] = name end
  end
  if #uneven == 0 or trees.leaves(x[5]) then return end
  for _, name in ipairs(uneven) do
    local atom = s:atom(exec.level)
    s:sample(atom, exec.env[name].v) -- the first turn is as good as any
    known[name] = s:var(atom)
  end
  local list, before = candidates(exec, x, uneven, known), -1
  for _ = 1, ROUNDS do
    before, list = #list, kept(exec, x, uneven, known, list)
    if #list == before then
      for _, p in ipairs(list) do s:suppose(p) end
      return
    end
  end
end

return M
