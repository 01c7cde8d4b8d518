-- Broken graphs: the text of a random valid one (random_graph.lua) with one planted mistake.
--   local text = broken_graph.text(seed)
local random_graph = require "support.random_graph"

local M = {}

local breaks = {
  function(t) return (t:gsub("(%%%d+) : ", "%%99999 : ", 1)) end,                -- no such input
  function(t) return (t:gsub(" = ([%l_]+)( %%)", " = %1x%2", 1)) end,            -- unknown op
  function(t) return (t:gsub("f32%[", "f31[", 1)) end,                           -- unknown dtype
  function(t) return (t:gsub(": f(%d+)%[([^%]]*)%]", ": f%1[%2, 3]", 1)) end,    -- wrong shape
  function(t) return (t:gsub("%d+%]", "-5]", 1)) end,                            -- negative extent
  function(t) return (t:gsub("%d+%]", "99999999999999999999]", 1)) end,          -- overflow
  function(t) return (t:gsub("output \"y1\"[^\n]*", "output \"y1\" %%99999", 1)) end,
  function(t) return (t:gsub("output \"y1\"", "output \"y 1\"", 1)) end,         -- bad name
  function(t) return t:sub(1, math.floor(#t / 2)) .. "\n%" end,                  -- cut short inside a line
  function(t) return (t:gsub("\n", "\n%%0 = input \"x1\" f32[3]\n", 1)) end,     -- numbering, duplicate name
  function(t) return t .. "nonsense\n" end,
  function(t) return (t:gsub("=(%d)", "=q%1", 1)) end,                           -- malformed attribute
}

--- nil where the seed gives no graph.
function M.text(seed)
  local graph = random_graph.make(seed)
  if not graph then return nil end
  local text = graph:text(false)
  for i = 0, #breaks - 1 do
    local changed = breaks[(seed + i) % #breaks + 1](text)
    if changed ~= text then return changed, text end
  end
end

return M
