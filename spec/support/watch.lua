-- busted helper, for every run: no page of the process or of a program it starts may be writable and executable, at any
-- time. A seccomp filter (watch.c) refuses the calls that could make one and notes them; after each spec the notes and the
-- list of our pages are read, which costs about 0.1 ms, and what is found fails the spec. Where the filter cannot be had the
-- pages alone are read.
if rawget(_G, "esper_watch") then return rawget(_G, "esper_watch") end -- busted drops modules between files
local busted = require "busted"
local ffi = require "ffi"
package.path = "spec/?.lua;" .. package.path
local maps = require "support.maps"
local M = {}

ffi.cdef "int watch_start(const char *file); int watch_try(void);"

-- Builds and starts the filter; the library, or nil and why not. The library stays loaded as long as the process.
local function start(notes)
  local built = os.tmpname()
  local command = "unset LD_PRELOAD; cc -O1 -shared -fPIC -o '%s' spec/support/watch.c 2>/dev/null"
  local ok = os.execute(command:format(built)) == 0
  local loaded, library = pcall(ffi.load, built)
  os.remove(built)
  if not (ok and loaded) then return nil, "watch.c cannot be built" end
  local code = library.watch_start(notes)
  if code ~= 0 then return nil, "the system allows no seccomp filter (errno " .. code .. ")" end
  return library
end

local notes, seen = os.tmpname(), 0
local library, why = start(notes)
if not library then print("# watch: " .. why .. "; pages are looked at after every spec only") end

--- Refusals since the last call.
function M.refusals()
  local file = io.open(notes)
  if not file then return {} end
  local list = {}
  file:seek("set", seen)
  for line in file:lines() do list[#list + 1] = line end
  seen = file:seek "cur"
  file:close()
  return list
end

--- Tries to make such a page in each way there is: how many of 4 were refused, nil without a filter. Takes the notes of it.
function M.try()
  if not library then return nil end
  return library.watch_try(), #M.refusals()
end

busted.subscribe({ "test", "end" }, function(element, parent)
  local found = maps.violations()
  for _, line in ipairs(M.refusals()) do found[#found + 1] = line end
  if #found > 0 then
    print(("not ok - %s: writable and executable at once: %s"):format(element.name, table.concat(found, "; ")))
    busted.publish({ "failure", "it" }, element, parent, "writable and executable at once", {})
  end
  return nil, true
end)

busted.subscribe({ "suite", "end" }, function()
  os.remove(notes)
  return nil, true
end)

rawset(_G, "esper_watch", M)
return M
