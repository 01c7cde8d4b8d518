-- busted helper, for every run: after each spec no page of the process may be writable and executable; one that is fails
-- the spec. The list of pages is read from the kernel, about 0.1 ms a spec.
local busted = require "busted"
package.path = "spec/?.lua;" .. package.path
local maps = require "support.maps"

busted.subscribe({ "test", "end" }, function(element, parent)
  local found = maps.violations()
  if #found > 0 then
    print(("not ok - %s: writable and executable at once: %s"):format(element.name, table.concat(found, "; ")))
    busted.publish({ "failure", "it" }, element, parent, "writable and executable at once", {})
  end
  return nil, true
end)
