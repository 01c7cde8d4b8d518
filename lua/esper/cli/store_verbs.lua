--- What `esper store VERB` does, one function per verb: function(args) -> true | nil, message. Over esper.urza.
local json = require "esper.json"
local native = require "esper.native"
local options = require "esper.cli.options"
local text = require "esper.text"
local urza = require "esper.urza"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}

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

M.ls = with(function(store, args)
  local list = store:list()
  if args.json then return true, json.array(list) end
  local rows = { { "key", "blueprint", "mode", "dtype", "target", "bytes", "certified", "hyper" } }
  for _, r in ipairs(list) do
    local proved = r.certified and "yes" or r.target:find "^tuning/" and "-" or "no"
    rows[#rows + 1] = { r.key:sub(1, 12), r.name, r.mode, r.dtype, r.target, size(r.bytes), proved, r.hyper }
  end
  print(text.columns(rows, "lllllrll"))
  return true
end)

M.show = with(function(store, args)
  local key, why = store:complete(args[2])
  if not key then return nil, why end
  local r, problem = store:get(key)
  if not r then return nil, problem end
  if args.json then return true, r end
  for _, f in ipairs { "key", "name", "hyper", "mode", "dtype", "target", "passes", "build", "graph" } do
    print(("%-8s %s"):format(f, r[f]))
  end
  print("created  " .. os.date("%Y-%m-%d %H:%M:%S", r.created))
  for _, name in ipairs(text.keys(native.section)) do
    local s = r["section_" .. name]
    if s then print(("section  %-12s %s"):format(name, size(#s))) end
  end
  if r.section_graph then print("\n" .. r.section_graph) end
  if r.section_certificate then print(r.section_certificate) end
  if r.section_tuning then print("\n" .. r.section_tuning) end
  return true
end)

M.why = with(function(store, args)
  local options, problem = options.compile(args)
  if not options then return nil, problem, "usage" end
  local wanted, why = require("esper").key_fields(args[2], options)
  if not wanted then return nil, why end
  print(store:why(wanted))
  return true
end)

M.verify = with(function(store, args)
  local report = native.new("es_store_report")
  if C.es_store_verify(store.ptr, report, fresh()) ~= 0 then
    local _, why = failure()
    return nil, why
  end
  local r = {}
  for _, f in ipairs { "records", "bytes", "bad", "quarantined", "file_bytes", "indexed", "orphans", "index_bad" } do
    r[f] = tonumber(report[f])
  end
  if args.json then
    print(json.encode(r))
  else
    print(("%d records, %s, %d bad, %d quarantined, %d in the index (%d without a record, %d bad), file %s"):format(r.records,
      size(r.bytes), r.bad, r.quarantined, r.indexed, r.orphans, r.index_bad, size(r.file_bytes)))
  end
  if r.bad > 0 then return nil, ("%d records fail their check; they will be compiled anew when needed"):format(r.bad) end
  if r.index_bad > 0 then return nil, ("%d index entries fail their check; they count for nothing, gc removes them"):format(r.index_bad) end
  return true
end)

M.gc = with(function(store, args)
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

M.export = with(function(store, args)
  local hash
  if args[3] then
    local key, why = store:complete(args[3])
    if not key then return nil, why end
    hash = urza.hash_of(key)
  end
  local count = native.new("int64_t[1]")
  if C.es_store_export(store.ptr, hash, args[2], count, fresh()) ~= 0 then
    local _, why = failure()
    return nil, why
  end
  print(("%d records -> %s"):format(tonumber(count[0]), args[2]))
  return true
end)

M["import"] = with(function(store, args)
  local count = native.new("int64_t[1]")
  if C.es_store_import(store.ptr, args[2], count, fresh()) ~= 0 then
    local _, why = failure()
    return nil, why
  end
  print(("%d records from %s"):format(tonumber(count[0]), args[2]))
  return true
end)

M.rm = with(function(store, args)
  local key, why = store:complete(args[2])
  if not key then return nil, why end
  local ok, problem = store:remove(key)
  if not ok then return nil, problem end
  print("deleted " .. key)
  return true
end)

return M
