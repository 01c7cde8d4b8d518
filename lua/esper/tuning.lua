--- Tuned choices: sizes and variants of recipes that were measured to be the best for one blueprint on one processor model.
-- Written by tune.lua, read by compile.lua; a record of the store beside the kernels, found by the blueprint's graph.
-- Invariant: the choices that went into a kernel are part of its key, so a tuned and an untuned kernel never mix.
--
--   tuning = { [group signature] = { [choice name] = value } }     values are whole numbers or words
--   tuning.encode(t) -> text       one line per group, sorted: "SIGNATURE name=value name=value"
--   tuning.decode(text) -> t | nil          tuning.digest(text) -> 16 hex digits
--   tuning.model() -> "AMD EPYC"            the processor, as a part of the record's key
local native = require "esper.native"
local C = native.C
local M = {}

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
