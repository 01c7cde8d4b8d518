-- Memory maps of a process: which pages are writable and executable at once. There must never be one.
local M = {}

--- Is this line of a maps file a writable and executable page?
function M.violates(line)
  local rights = line:match("^%x+%-%x+ (%S+)")
  return rights ~= nil and rights:find("w", 1, true) ~= nil and rights:find("x", 1, true) ~= nil
end

--- Lines of /proc/PID/maps with both w and x; `pid` defaults to this process.
function M.violations(pid)
  local list, seen = {}, 0
  local file = assert(io.open(("/proc/%s/maps"):format(pid or "self")))
  for line in file:lines() do
    seen = seen + 1
    if M.violates(line) then list[#list + 1] = line end
  end
  file:close()
  return list, seen
end

return M
