--- Questions about trees of C text (c_text.lua) that the executors of the range proof ask.
require("jit").off(true, true) -- see poly.lua
local M = {}

--- Names assigned in a tree, words of arrays among them.
function M.assigned(exec, x, names)
  if type(x) ~= "table" then return end
  if x[1] == "set" or x[1] == "step" then
    local place = x[3]
    local name = place[1] == "name" and place[2] or exec:word_name(place)
    if name and exec.env[name] then names[name] = true end
  end
  for i = 1, #x do M.assigned(exec, x[i], names) end
  if x.value then M.assigned(exec, x.value, names) end
end

--- Does a node of one of these kinds stand in the tree? An operator counts as the kind of its node.
function M.has(x, kinds)
  if type(x) ~= "table" then return false end
  if kinds[x[1]] or x[1] == "bin" and kinds[x[2]] then return true end
  for i = 1, #x do if M.has(x[i], kinds) then return true end end
  return false
end

--- The members of a set, in order.
function M.sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

--- Does a break or continue of this loop stand in the tree?
function M.leaves(x)
  if type(x) ~= "table" then return false end
  if x[1] == "break" or x[1] == "continue" then return true end
  if x[1] == "for" then return false end
  for i = 1, #x do if M.leaves(x[i]) then return true end end
  return false
end

local PARTS = { ["if"] = { 3, 4 }, ["for"] = { 2, 4, 5 } } -- statements inside of statements

--- How many statements of the tree are neither read nor skipped, by the notes of an executor.
function M.unread(x, notes)
  if notes[x] ~= "read" then return notes[x] and 0 or 1 end
  local n = 0
  for _, part in ipairs(x[1] == "block" and x[2] or {}) do n = n + M.unread(part, notes) end
  for _, i in ipairs(PARTS[x[1]] or {}) do n = n + M.unread(x[i], notes) end
  return n
end

return M
