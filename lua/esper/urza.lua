--- Urza, the artifact store, for scripts and `esper store`. Over src/store (LMDB, keyed MACs).
--
--   store = urza.open(path) | nil, message, status
--   store.path  store.ptr (es_store *)   store:list() -> { { key=, name=, hyper=, mode=, dtype=, target=, passes=, build=, created=,
--   certified=, bytes= }, ... }   store:count()   store:remove(key)   store:get(key) -> fields with sections as strings
--   store:why(fields) -> text: which field of the key differs from what is stored, and whether the index leads there
-- A record that fails its MAC is a miss, counted by verify, never an error of a compile.

local native = require "esper.native"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}
local Store = {}
Store.__index = Store

function M.open(path)
  local out = native.new("es_store *[1]")
  if C.es_store_open(path, out, fresh()) ~= 0 then return failure() end
  return setmetatable({ path = path, ptr = native.gc(out[0], C.es_store_close) }, Store)
end

local function hash_of(hex)
  if not hex:match("^%x+$") or #hex ~= 64 then return nil end
  local hash = native.new("es_hash")
  for i = 0, 31 do hash.bytes[i] = tonumber(hex:sub(2 * i + 1, 2 * i + 2), 16) end
  return hash
end

local function hex_of(hash)
  local hex = native.new("char[65]")
  C.es_hash_hex(hash, hex)
  return native.string(hex)
end

-- A record's fields as a table; sections only when asked.
local function fields(record, hash, sections)
  local k = record.key
  local out = { key = hash and hex_of(hash), graph = hex_of(k.graph), created = tonumber(record.created), bytes = 0 }
  for _, name in ipairs { "name", "hyper", "mode", "dtype", "target", "passes", "build" } do out[name] = native.string(k[name]) or "" end
  for name, i in pairs(native.section) do
    local n = tonumber(record.length[i])
    out.bytes = out.bytes + n
    if name == "certificate" then out.certified = n > 0 end
    if sections and n > 0 then out["section_" .. name] = native.string(record.bytes[i], n) end
  end
  return out
end

function Store:get(key)
  local hash = hash_of(key)
  if not hash then return nil, ("'%s' is no key; a key has 64 hexadecimal digits"):format(key), "EARG" end
  local record = native.new("es_record")
  if C.es_store_get(self.ptr, hash, record, fresh()) ~= 0 then return failure() end
  local out = fields(record, hash, true)
  C.es_record_free(record)
  return out
end

--- Full key for the first digits of one; nil, message when none or several fit.
function Store:complete(prefix)
  local found = {}
  for _, row in ipairs(self:list()) do
    if row.key:sub(1, #prefix) == prefix then found[#found + 1] = row.key end
  end
  if #found == 1 then return found[1] end
  return nil, #found == 0 and ("no kernel has a key that begins with '%s'"):format(prefix)
    or ("%d kernels have keys that begin with '%s'; give more digits"):format(#found, prefix)
end

local COLUMNS = { "key", "created", "bytes", "name", "hyper", "mode", "dtype", "target", "passes", "build", "graph", "certified" }

--- Fields of every authentic record, in key order.
function Store:list()
  local out = native.new("es_text")
  if C.es_store_list(self.ptr, out, fresh()) ~= 0 then return failure() end
  local lines, list = native.string(out.bytes, out.length) or "", {}
  C.es_text_clear(out)
  for line in lines:gmatch("[^\n]+") do
    local row, i = {}, 0
    for cell in (line .. "\t"):gmatch("([^\t]*)\t") do
      i = i + 1
      if COLUMNS[i] then row[COLUMNS[i]] = cell end
    end
    row.created, row.bytes, row.certified = tonumber(row.created), tonumber(row.bytes), row.certified == "certified"
    list[#list + 1] = row
  end
  return list
end

function Store:count() return #self:list() end

function Store:remove(key)
  local hash = hash_of(key)
  if not hash then return nil, "no key", "EARG" end
  if C.es_store_delete(self.ptr, hash, fresh()) ~= 0 then return failure() end
  return true
end

local FIELDS = { "graph", "hyper", "mode", "dtype", "target", "passes", "build" }

-- What the index says of a source (es_hash, nil when it can have no entry) whose record has this key.
local function by_source(self, source, key)
  if not source then return "its source is not indexed: it is built each time, then found by its graph" end
  local hash, name = native.new("es_hash"), native.new("char[?]", native.source_name_max + 1)
  if C.es_store_find(self.ptr, source, hash, name, fresh()) ~= 0 then
    return "its source is not in the index yet: the next compile builds it once more"
  end
  return hex_of(hash) == key and "its source is in the index: a compile builds nothing"
    or "its source leads to another record, " .. hex_of(hash)
end

--- Why the key of `wanted` (fields by name, and source) is or is not found.
function Store:why(wanted)
  local same, best, best_same = nil, nil, -1
  for _, row in ipairs(self:list()) do
    local equal = 0
    for _, f in ipairs(FIELDS) do if row[f] == wanted[f] then equal = equal + 1 end end
    if equal == #FIELDS then same = row end
    local score = equal + (row.name == wanted.name and 100 or 0)
    if score > best_same and not row.target:find "^tuning/" then best, best_same = row, score end
  end
  if same then
    local proved = same.certified and "certified" or "not certified"
    return ("found: %s, stored %s, %s\n  %s"):format(same.key, os.date("%Y-%m-%d %H:%M:%S", same.created), proved,
      by_source(self, wanted.source, same.key))
  end
  if not best or best.name ~= wanted.name then return ("not found: no kernel of '%s' is stored"):format(wanted.name) end
  local lines = { ("not found: the nearest stored kernel is %s"):format(best.key) }
  for _, f in ipairs(FIELDS) do
    if best[f] ~= wanted[f] then lines[#lines + 1] = ("  %-7s differs: stored %s, wanted %s"):format(f, best[f], wanted[f]) end
  end
  return table.concat(lines, "\n")
end

M.hash_of = hash_of

return M
