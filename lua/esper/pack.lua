--- Flat data between Lua states: tables of strings, numbers, booleans and such tables <-> a string that holds no code.
-- s<length>:<bytes>  n<number>;  T  F  { key value ... }   Keys are sorted, so equal data packs equally.

local M = {}
local format, sub, find, concat = string.format, string.sub, string.find, table.concat

local function put(v, out)
  local t = type(v)
  if t == "string" then out[#out + 1] = format("s%d:%s", #v, v)
  elseif t == "number" then out[#out + 1] = format("n%.17g;", v)
  elseif t == "boolean" then out[#out + 1] = v and "T" or "F"
  elseif t == "table" then
    local keys = {}
    for k in pairs(v) do keys[#keys + 1] = k end
    table.sort(keys, function(a, b)
      if type(a) ~= type(b) then return type(a) < type(b) end
      return a < b
    end)
    out[#out + 1] = "{"
    for _, k in ipairs(keys) do
      put(k, out)
      put(v[k], out)
    end
    out[#out + 1] = "}"
  else
    error("cannot pack a " .. t, 0)
  end
end

--- Keys must be strings or numbers.
function M.pack(v)
  local out = {}
  put(v, out)
  return concat(out)
end

local function get(s, at)
  local kind = sub(s, at, at)
  if kind == "T" or kind == "F" then return kind == "T", at + 1 end
  if kind == "n" then
    local stop = assert(find(s, ";", at, true), "packed number has no end")
    return assert(tonumber(sub(s, at + 1, stop - 1)), "bad packed number"), stop + 1
  elseif kind == "s" then
    local colon = assert(find(s, ":", at, true), "packed text has no length")
    local length = assert(tonumber(sub(s, at + 1, colon - 1)), "bad packed length")
    assert(length >= 0 and colon + length <= #s, "packed text is cut short")
    return sub(s, colon + 1, colon + length), colon + length + 1
  elseif kind == "{" then
    local t = {}
    at = at + 1
    while sub(s, at, at) ~= "}" do
      local k, v
      k, at = get(s, at)
      v, at = get(s, at)
      t[k] = v
    end
    return t, at + 1
  end
  error("bad packed data at byte " .. at, 0)
end

function M.unpack(s) return (get(s, 1)) end

return M
