--- Urza, the artifact store, for scripts and `esper store`. Over src/store (LMDB, keyed MACs).
--
--   store = urza.open(path) | nil, message, status
--   store.path  store.ptr (es_store *)   store:list() -> { { key=, name=, hyper=, mode=, dtype=, target=, passes=, build=, created=,
--   certified=, bytes= }, ... }   store:count()   store:remove(key)   store:get(key) -> fields with sections as strings
--   store:why(fields) -> text: which field of the key differs from what is stored
-- A record that fails its MAC is a miss, counted by verify, never an error of a compile.

local native = require "esper.native"
local text = require "esper.text"
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

--- Why the key of `wanted` (fields by name) is or is not found.
function Store:why(wanted)
  local same, best, best_same = nil, nil, -1
  for _, row in ipairs(self:list()) do
    local equal = 0
    for _, f in ipairs(FIELDS) do if row[f] == wanted[f] then equal = equal + 1 end end
    if equal == #FIELDS then same = row end
    local score = equal + (row.name == wanted.name and 100 or 0)
    if score > best_same then best, best_same = row, score end
  end
  if same then return ("found: %s, stored %s%s"):format(same.key, os.date("%Y-%m-%d %H:%M:%S", same.created), same.certified and ", certified" or ", not certified") end
  if not best or best.name ~= wanted.name then return ("not found: no kernel of '%s' is stored"):format(wanted.name) end
  local lines = { ("not found: the nearest stored kernel is %s"):format(best.key) }
  for _, f in ipairs(FIELDS) do
    if best[f] ~= wanted[f] then lines[#lines + 1] = ("  %-7s differs: stored %s, wanted %s"):format(f, best[f], wanted[f]) end
  end
  return table.concat(lines, "\n")
end

-- ---- esper store ... ----

local function opened()
  local store, why = require("esper").store()
  if store then return store end
  return nil, why or "no store: set ESPER_STORE to a directory"
end

local function with(fn)
  return function(args)
    local store, why = opened()
    if not store then return nil, why end
    return fn(store, args)
  end
end

local function size(n) return n < 10240 and ("%d B"):format(n) or ("%.1f kB"):format(n / 1024) end

M.command = {}

M.command.ls = with(function(store, args)
  local list = store:list()
  if args.json then return true, require("esper.json").array(list) end
  local rows = { { "key", "blueprint", "mode", "dtype", "target", "bytes", "certified", "hyper" } }
  for _, r in ipairs(list) do
    rows[#rows + 1] = { r.key:sub(1, 12), r.name, r.mode, r.dtype, r.target, size(r.bytes), r.certified and "yes" or "no", r.hyper }
  end
  print(text.columns(rows, "lllllrll"))
  return true
end)

M.command.show = with(function(store, args)
  local key, why = store:complete(args[2])
  if not key then return nil, why end
  local r, problem = store:get(key)
  if not r then return nil, problem end
  if args.json then return true, r end
  for _, f in ipairs { "key", "name", "hyper", "mode", "dtype", "target", "passes", "build", "graph" } do print(("%-8s %s"):format(f, r[f])) end
  print("created  " .. os.date("%Y-%m-%d %H:%M:%S", r.created))
  for _, name in ipairs(text.keys(native.section)) do
    local s = r["section_" .. name]
    if s then print(("section  %-12s %s"):format(name, size(#s))) end
  end
  if r.section_graph then print("\n" .. r.section_graph) end
  if r.section_certificate then print(r.section_certificate) end
  return true
end)

M.command.why = with(function(store, args)
  local options, problem = require("esper.cli.options").compile(args)
  if not options then return nil, problem, "usage" end
  local wanted, why = require("esper").key_fields(args[2], options)
  if not wanted then return nil, why end
  print(store:why(wanted))
  return true
end)

M.command.verify = with(function(store, args)
  local report = native.new("es_store_report")
  if C.es_store_verify(store.ptr, report, fresh()) ~= 0 then
    local _, why = failure()
    return nil, why
  end
  local r = {}
  for _, f in ipairs { "records", "bytes", "bad", "quarantined", "file_bytes" } do r[f] = tonumber(report[f]) end
  if args.json then print(require("esper.json").encode(r))
  else print(("%d records, %s, %d bad, %d quarantined, file %s"):format(r.records, size(r.bytes), r.bad, r.quarantined, size(r.file_bytes))) end
  if r.bad > 0 then return nil, ("%d records fail their check; they will be compiled anew when needed"):format(r.bad) end
  return true
end)

M.command.gc = with(function(store, args)
  local days, bytes = tonumber(args.older or -1), tonumber(args.bytes or -1)
  if not days or not bytes then return nil, "--older wants days, --bytes wants a number", "usage" end
  local deleted = native.new("int64_t[1]")
  if C.es_store_gc(store.ptr, days >= 0 and math.floor(days * 86400) or -1, bytes, deleted, fresh()) ~= 0 then
    local _, why = failure()
    return nil, why
  end
  print(("%d records deleted"):format(tonumber(deleted[0])))
  return true
end)

M.command.export = with(function(store, args)
  local hash
  if args[3] then
    local key, why = store:complete(args[3])
    if not key then return nil, why end
    hash = hash_of(key)
  end
  local count = native.new("int64_t[1]")
  if C.es_store_export(store.ptr, hash, args[2], count, fresh()) ~= 0 then
    local _, why = failure()
    return nil, why
  end
  print(("%d records -> %s"):format(tonumber(count[0]), args[2]))
  return true
end)

M.command["import"] = with(function(store, args)
  local count = native.new("int64_t[1]")
  if C.es_store_import(store.ptr, args[2], count, fresh()) ~= 0 then
    local _, why = failure()
    return nil, why
  end
  print(("%d records from %s"):format(tonumber(count[0]), args[2]))
  return true
end)

M.command.rm = with(function(store, args)
  local key, why = store:complete(args[2])
  if not key then return nil, why end
  local ok, problem = store:remove(key)
  if not ok then return nil, problem end
  print("deleted " .. key)
  return true
end)

M.fields, M.hash_of = fields, hash_of
M.Store = Store
return M
