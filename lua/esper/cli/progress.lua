--- A progress line on a terminal's stderr, for what takes over a second; silent elsewhere.
local native = require "esper.native"

local M = {}

--- progress(i, n) for use as a callback; done() clears the line.
function M.new(label)
  local start, shown = native.C.es_clock_ms(), false
  local terminal = native.C.es_terminal(2)
  return function(i, n)
    if not terminal or native.C.es_clock_ms() - start < 1000 then return end
    shown = true
    local width = 24
    local full = math.floor(width * (i - 1) / n)
    io.stderr:write(("\r%s [%s%s] %d/%d "):format(label, ("#"):rep(full), ("."):rep(width - full), i - 1, n))
  end, function()
    if shown then io.stderr:write("\r\27[K") end
  end
end

return M
