--- Common subexpressions: nodes with the same op, attributes, dtype and inputs are computed once. After the rewriting
-- passes. Random ops differ by their stream, so two of them are one only when they would draw the same numbers; probes
-- are kept apart, each is observed under its own name.
local keep = { input = true, param = true, buffer = true, telemetry_probe = true }
local commutes = { add = true, mul = true, maximum = true, minimum = true }

local parts = {}

-- Text that is equal exactly for equal nodes (inputs named by their new ids). Zero attributes take no room.
local function key_of(b, id, op)
  local node = b.src:node(id)
  local n = 2
  parts[1], parts[2] = op, node.dtype
  local function put(tag, value)
    n = n + 1
    parts[n] = tag .. value
  end
  local first, second
  for k = 0, node.nin - 1 do
    local new = b.to[node["in"][k]]
    if k == 0 then first = new elseif k == 1 then second = new end
    put("%", new)
  end
  if commutes[op] and second < first then parts[3], parts[4] = "%" .. second, "%" .. first end
  for k = 0, 7 do
    if node.i[k] ~= 0 then put("i" .. k .. "=", tostring(node.i[k])) end
  end
  for k = 0, 1 do
    local x = node.f[k]
    if x ~= 0 or 1 / x < 0 then put("f" .. k .. "=", ("%.17g"):format(x)) end
  end
  for k = 0, node.nd - 1 do put("d", node.d[k]) end
  return table.concat(parts, " ", 1, n)
end

return {
  name = "cse", version = 1,
  doc = "equal nodes are computed once",
  run = function(src, ctx)
    local seen = {}
    return ctx:rebuild(src, function(b, id)
      local op = src:op(id)
      if keep[op] then return nil end
      local key = key_of(b, id, op)
      if seen[key] then return seen[key] end
      local new = b:copy(id)
      seen[key] = new
      return new, true
    end)
  end,
}
