--- JSON for machines that drive the command. Written here, because lua-cjson keeps 14 digits and no key order; read by
-- lua-cjson. Nothing is ever hashed or stored through JSON.

local M = {}

local ESCAPE = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quote(s)
  return '"' .. s:gsub('[%c"\\\127]', function(c) return ESCAPE[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function number(n)
  if n ~= n or n == math.huge or n == -math.huge then return quote(tostring(n)) end
  if n == math.floor(n) and math.abs(n) < 2 ^ 53 then return ("%.0f"):format(n) end
  local short = ("%.15g"):format(n)
  return tonumber(short) == n and short or ("%.17g"):format(n)
end

M.array = setmetatable({}, { __call = function(mt, t) return setmetatable(t, mt) end })
M.null = {}

local encode

local function array(t, indent)
  if #t == 0 then return "[]" end
  local items, plain = {}, true
  for i, v in ipairs(t) do
    items[i] = encode(v, indent .. "  ")
    plain = plain and type(v) ~= "table"
  end
  if plain then return "[" .. table.concat(items, ", ") .. "]" end
  return "[\n" .. indent .. "  " .. table.concat(items, ",\n" .. indent .. "  ") .. "\n" .. indent .. "]"
end

local function object(t, indent)
  local keys, items = {}, {}
  for k in pairs(t) do keys[#keys + 1] = tostring(k) end
  table.sort(keys)
  for i, k in ipairs(keys) do items[i] = quote(k) .. ": " .. encode(t[k], indent .. "  ") end
  if #items == 0 then return "{}" end
  return "{\n" .. indent .. "  " .. table.concat(items, ",\n" .. indent .. "  ") .. "\n" .. indent .. "}"
end

function encode(v, indent)
  local kind = type(v)
  if v == M.null or v == nil then return "null" end
  if kind == "table" then
    return (getmetatable(v) == M.array or #v > 0) and array(v, indent) or object(v, indent)
  end
  return kind == "number" and number(v) or kind == "boolean" and tostring(v) or quote(tostring(v))
end

--- Pretty JSON, keys sorted, numbers exact (shortest of 15 or 17 digits; NaN and infinities as strings).
function M.encode(v) return encode(v, "") end

--- Table from JSON text through lua-cjson, or nil and a message.
function M.decode(text)
  local found, cjson = pcall(require, "cjson.safe")
  if not found then return nil, "reading JSON needs lua-cjson (Debian: lua-cjson)" end
  return cjson.decode(text)
end

return M
