--- Tuned choices: sizes and variants of recipes that were measured to be the best for one blueprint at one class of sizes, on
-- one processor model. Written by tune.lua, read by compile.lua; a record of the store beside the kernels, found by the
-- blueprint's graph.
-- Invariant: the choices that went into a kernel are part of its key, so a tuned and an untuned kernel never mix.
--
-- A kernel serves all sizes, but is made for some: those a compile names (size=), and usual ones of the dimensions it does not
-- name. Sizes are of one class when they round to the same powers of two. A compile takes the choices of the nearest class
-- that was tuned, when all its dimensions together are within a factor of FAR; else the defaults.
--
--   tuning = { [group signature] = { [choice name] = value } }     values are whole numbers or words
--       tuning[PLAN]: the choices of the whole kernel, which are about fusion (group.lua)
--   tuning.encode(t) -> text       one line per group, sorted: "SIGNATURE name=value name=value"
--   tuning.decode(text) -> t | nil          tuning.digest(text) -> 16 hex digits
--   tuning.sizes(symbols, given, who) -> { [symbol] = extent } | nil, message      symbols as D:symbols() has them
--   tuning.nearest(record, sizes) -> text of the choices, "" when the defaults are best there | nil when no class is near
--   tuning.with(record or "", sizes, text) -> record with the choices of that class replaced; "" when no class has any
--   tuning.model() -> "AMD EPYC"            the processor, as a part of the record's key
-- A record is "class batch=8 tokens=128\n" and the text of its choices, for every class.
local native = require "esper.native"
local C = native.C
local M = { PLAN = "0" }

local USUAL = { batch = 8, tokens = 128, context_tokens = 128, h = 32, w = 32 }
local OTHER = 32 -- any other symbolic dimension
local FAR = 4

local function sorted(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  return names
end

function M.encode(t)
  local lines = {}
  for _, signature in ipairs(sorted(t)) do
    local parts = { signature }
    for _, name in ipairs(sorted(t[signature])) do
      parts[#parts + 1] = ("%s=%s"):format(name, tostring(t[signature][name]))
    end
    if #parts > 1 then lines[#lines + 1] = table.concat(parts, " ") .. "\n" end
  end
  return table.concat(lines)
end

function M.decode(text)
  local t = {}
  for line in text:gmatch "([^\n]*)\n" do
    local signature, rest = line:match "^(%x+)(.*)$"
    if not signature then return nil end
    t[signature] = {}
    for name, value in rest:gmatch " ([%w_]+)=([%w_%-]+)" do t[signature][name] = tonumber(value) or value end
  end
  return t
end

function M.digest(text)
  local hash, hex = native.new "es_hash", native.new "char[65]"
  C.es_hash_of(text, #text, hash)
  C.es_hash_hex(hash, hex)
  return native.string(hex):sub(1, 16)
end

-- ---- classes of sizes ----

function M.sizes(symbols, given, who)
  local sizes, asked, names = {}, {}, {}
  if given ~= nil and type(given) ~= "table" then
    return nil, ("size is %s, wanted extents by the names of dimensions"):format(type(given))
  end
  for name in pairs(given or {}) do asked[tostring(name)] = true end
  for i, s in ipairs(symbols) do
    local n = given and given[s.name]
    if n and (type(n) ~= "number" or n % 1 ~= 0 or n < s.min or n > s.max) then
      return nil, ("size %s=%s: %s takes %.0f to %.0f"):format(s.name, tostring(n), who, s.min, s.max)
    end
    sizes[s.name] = n or math.max(s.min, math.min(s.max, USUAL[s.name] or OTHER))
    asked[s.name], names[i] = nil, s.name
  end
  local unknown = next(asked)
  if not unknown then return sizes end
  return nil, ("no symbolic dimension '%s' in %s; it has %s"):format(unknown, who, #names > 0 and table.concat(names, ", ") or "none")
end

local function class_of(sizes)
  local parts = { "class" }
  for _, name in ipairs(sorted(sizes)) do
    parts[#parts + 1] = ("%s=%.0f"):format(name, 2 ^ math.floor(math.log(math.max(sizes[name], 1)) / math.log(2) + 0.5))
  end
  return table.concat(parts, " ")
end

-- The classes of a record: { { head = first line, text = choices }, ... }.
local function classes(record)
  local list = {}
  for line in record:gmatch "[^\n]*\n" do
    if line:find "^class" then
      list[#list + 1] = { head = line:sub(1, -2), text = "" }
    elseif list[1] then
      list[#list].text = list[#list].text .. line
    end
  end
  return list
end

-- Powers of two between sizes and a class, over all dimensions; nil when it is of others.
local function distance(sizes, head)
  local sum = 0
  for name, n in pairs(sizes) do
    local other = tonumber(head:match(" " .. name .. "=(%d+)"))
    if not other or other < 1 then return nil end
    sum = sum + math.abs(math.log(math.max(n, 1) / other))
  end
  return sum / math.log(2)
end

function M.nearest(record, sizes)
  local best, least = nil, math.log(FAR) / math.log(2)
  for _, class in ipairs(classes(record)) do
    local far = distance(sizes, class.head)
    if far and far <= least then best, least = class.text, far end
  end
  return best
end

function M.with(record, sizes, text)
  local mine, out, any = class_of(sizes), {}, text ~= ""
  for _, class in ipairs(classes(record)) do
    if class.head ~= mine then
      out[#out + 1] = class.head .. "\n" .. class.text
      any = any or class.text ~= ""
    end
  end
  return any and mine .. "\n" .. text .. table.concat(out) or ""
end

local model
function M.model()
  if model then return model end
  model = "unknown processor"
  local file = io.open "/proc/cpuinfo"
  for line in file and file:lines() or function() end do
    local name = line:match "^model name%s*:%s*(.+)$"
    if name then
      model = name:gsub("%c", " ")
      break
    end
  end
  if file then file:close() end
  return model
end

return M
