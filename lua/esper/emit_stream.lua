--- Stores past the caches, for results so large that nothing of them is still there when they are read. A plain store first
-- reads the line it writes to, and drives from the caches what could have stayed. Used by the recipes pointwise and norm.
-- Invariant: the condition is about sizes and addresses alone, and both ways store the same bits.
local M = {}

local LARGE = 32 * 1024 * 1024 -- bytes: about a last-level cache
local LINE = 64

--- Declares a C flag: are all outputs of the group, `count` elements each (a dim), to be stored past the caches? nil where
-- that is never so. `unit`: elements between the places where a block may begin to store.
function M.flag(k, count, unit)
  local outputs, bytes, all, at = k.group.outputs, 0, k.dims:value(count), {}
  for i, id in ipairs(outputs) do
    bytes, at[i] = k:bytes(k.graph:dtype(id)), "(long)" .. k:write(id)
    if unit * bytes % LINE ~= 0 then return nil end
  end
  if k:lanes(k.graph:dtype(outputs[1])) == 1 or all and all * bytes * #outputs < LARGE then return nil end
  k:line("const long far = %s * %dL >= %dL && ((%s) & %d) == 0;", k:dim(count), bytes * #outputs, LARGE, table.concat(at, " | "), LINE - 1)
  return "far"
end

--- Runs body(true) under the flag, else body(false); without a flag body(false) alone.
function M.either(k, flag, body)
  if not flag then return body(false) end
  k:open("if (%s)", flag)
  body(true)
  k:close " else {"
  k.depth = k.depth + 1
  body(false)
  k:close()
end

return M
