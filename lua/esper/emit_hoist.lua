--- Work that does not change in a loop, taken out of it. Used by emit_stage.lua, which computes a chain twice with the same
-- builder calls: once in front of the loop, where operands that change in it are hoist.changing, then inside.
--
--   h = hoist.new(b)
--   h.before    a builder that emits what depends on registers that stay, and gives `changing` for all else
--   h:inside()  a builder for one run of the same calls: those made before give their register, all else is emitted
-- Invariant: both runs make the same calls in the same order (checked).

local M = {}

M.changing = {}
local constant = { splat = true, isplat = true, splati = true, iota = true } -- cost nothing where they are used

-- Registers and constants are both plain numbers; a delayed constant is a table until something that stays uses it.
local function settle(b, arg)
  if type(arg) ~= "table" then return arg end
  return b[arg[1]](b, arg[2])
end

local function record(b, made, count, name)
  return function(_, x, y, z)
    count[1] = count[1] + 1
    made[-count[1]] = name
    if name == "note" then return nil end
    if constant[name] then return { name, x } end
    if x == M.changing or y == M.changing or z == M.changing then return M.changing end
    if type(x) == "table" and (y == nil or type(y) ~= "number") and type(z) ~= "number" then return M.changing end
    local register = b[name](b, settle(b, x), settle(b, y), settle(b, z))
    made[count[1]] = register
    return register
  end
end

local function replay(b, made, count, name)
  return function(_, ...)
    count[1] = count[1] + 1
    if made[-count[1]] ~= name then error("a chain asks for other instructions the second time: " .. name) end
    return made[count[1]] or b[name](b, ...)
  end
end

local function face(b, made, how)
  local count, methods = { 0 }, {}
  return setmetatable({}, { __index = function(_, name)
    local value = b[name]
    if type(value) ~= "function" then return value end
    methods[name] = methods[name] or how(b, made, count, name)
    return methods[name]
  end })
end

local Hoist = {}
Hoist.__index = Hoist

function M.new(b)
  local h = setmetatable({ b = b, made = {} }, Hoist)
  h.before = face(b, h.made, record)
  return h
end

function Hoist:inside() return face(self.b, self.made, replay) end

return M
