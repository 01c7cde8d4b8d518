--- Artifacts: compiled kernels as store records and back. Between compile.lua and src/store.
-- A record holds the canonical graph, the unit's C text, the object, the plan and, once proved, the certificate; its key
-- is over everything that decides what the kernel does: graph, hyper-parameters, mode, dtype, target, passes, build.
-- The index finds it by its source: what the graph comes from, in place of the graph and the hyper-parameters. It leads to
-- any record of that graph; which one is wanted, the choices tuned here say.
-- What a stored kernel need not have to run (graph, unit, object) stays in the record until it is asked for: M.part.
local native = require "esper.native"
local dims = require "esper.dims"
local pack = require "esper.pack"
local tuning = require "esper.tuning"
local C = native.C
local M = {}

--- Hyper-parameters as one line, sorted: "dim=384 expand=4". Text that cannot be read back is quoted.
function M.hyper(hyper)
  local names, parts = {}, {}
  for name in pairs(hyper or {}) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local v = hyper[name]
    parts[i] = name .. "=" .. (type(v) == "number" and ("%.17g"):format(v) or tostring(v))
  end
  return table.concat(parts, " ")
end

-- Hash of the program. Scripts read from a directory may be edited while we run, embedded ones may not.
local known
local function build()
  if native.dir then return native.build() end
  known = known or native.build()
  return known
end

local function target_of(r)
  return "cpu/" .. r.isa .. (r.tuning and " tuned " .. tuning.digest(r.tuning) or "")
end

-- es_key of a result, for a target; the second value keeps its strings alive.
local function key_of(r, target)
  local hash = native.new("es_hash")
  if C.es_graph_hash(r.graph.ptr, hash, native.fresh()) ~= 0 then return native.failure() end
  local anchors = { r.name, r.hyper, r.mode, r.dtype, target, r.passes, build() }
  local key = native.new("es_key")
  key.graph = hash
  key.name, key.hyper, key.mode, key.dtype, key.target, key.passes, key.build =
    anchors[1], anchors[2], anchors[3], anchors[4], anchors[5], anchors[6], anchors[7]
  return key, anchors
end

--- Key of a result (name, graph, hyper, mode, dtype, isa, passes) as hex; keeps it in C form for load and save.
function M.key(r)
  local key, anchors, status = key_of(r, target_of(r))
  if not key then return nil, anchors, status end
  local hash, hex = native.new("es_hash"), native.new("char[65]")
  C.es_key_hash(key, hash)
  C.es_hash_hex(hash, hex)
  r.c_key, r.c_anchors, r.c_hash = key, anchors, hash
  return native.string(hex)
end

-- What the processor can do decides how libm computes, and so perhaps a number in a blueprint.
local abilities
local function host()
  if not abilities then
    abilities = {}
    for isa = 0, 7 do abilities[isa + 1] = C.es_isa_supported(isa) and "1" or "0" end
    abilities = table.concat(abilities)
  end
  return abilities
end

--- Hash of a source, given its identity (sandbox.identity) and a result that has mode, dtype, isa and passes.
function M.source(r, identity)
  local all = pack.pack { identity, r.mode, r.dtype, "cpu/" .. r.isa, r.passes, build(), host() }
  local hash = native.new("es_hash")
  C.es_hash_of(all, #all, hash)
  return hash
end

-- A section's bytes where they lie in the record, and their number; nil when it is empty.
local function view(record, name)
  local k = native.section[name]
  if record.bytes[k] == nil then return nil end
  return record.bytes[k], tonumber(record.length[k])
end

local function section(record, name)
  local bytes, length = view(record, name)
  return bytes and native.string(bytes, length)
end

local PARTS = {
  graph_text = function(record) return section(record, "graph") end,
  unit = function(record) return section(record, "c") end,
  object = function(record) return section(record, "object") end,
  graph = function(record, r)
    local graph, why = require("esper.graph").parse(r.graph_text or "")
    if not graph then error(("stored graph of %s: %s; remove the record %s"):format(r.name, why, r.key), 0) end
    return graph
  end,
}

--- A part of a stored result that was not needed so far; kept from then on. nil for what is no part.
function M.part(r, name)
  local make, record = PARTS[name], rawget(r, "record")
  local value = make and record and make(record, r)
  if value ~= nil then rawset(r, name, value) end
  return value
end

-- The record under a key, or nil: nothing there, or nothing usable there (then it is compiled anew).
local function record_of(store, hash)
  local record = native.new("es_record")
  if C.es_store_get(store, hash, record, native.fresh()) ~= 0 then return nil end
  return native.gc(record, C.es_record_free)
end

--- { record=, plan=, object=, length=, certificate= } under the result's key, or nil.
function M.load(store, r)
  local record = record_of(store, r.c_hash)
  local object, length
  if record then object, length = view(record, "object") end
  local bytes, size = nil, nil
  if object then bytes, size = view(record, "plan") end
  local plan = bytes and C.es_plan_decode(bytes, size, native.fresh())
  if plan == nil then return nil end
  return { record = record, plan = native.gc(plan, C.es_plan_release), object = object, length = length,
    certificate = section(record, "certificate") }
end

local name_buffer = native.new("char[?]", native.source_name_max + 1)

-- Hash of a key with another target.
local function hash_with(key, target)
  local copy, hash = native.new("es_key", key), native.new("es_hash")
  copy.target = target
  C.es_key_hash(copy, hash)
  return hash
end

local function tuning_target(r) return ("tuning/%s/%s"):format(r.isa, tuning.model()) end

-- What a tuning record holds.
local function tuned(store, hash)
  local record = record_of(store, hash)
  local text = record and section(record, "tuning")
  return text and #text > 0 and text or nil
end

--- Sets r.tuning, the choices of a tuning record (text or nil) for the sizes asked for: true | nil, message.
function M.choose(r, symbols, name, record)
  local sizes, why = tuning.sizes(symbols, r.size, name)
  if not sizes then return nil, why end
  local text = record and tuning.nearest(record, sizes)
  r.tuning = text and #text > 0 and text or nil
  return true
end

--- Asks the index: the same as load, and name, key, hyper and tuning into the result; nil when the index does not lead there.
function M.find(store, r)
  local hash = native.new("es_hash")
  if C.es_store_find(store, r.c_source, hash, name_buffer, native.fresh()) ~= 0 then return nil end
  local name, hex = native.string(name_buffer), native.new("char[65]")
  r.c_hash = hash
  local stored = M.load(store, r)
  if not stored then return nil end
  local symbols = dims.wrap(C.es_dims_retain(C.es_plan_dims(stored.plan))):symbols()
  if not M.choose(r, symbols, name, tuned(store, hash_with(stored.record.key, tuning_target(r)))) then return nil end
  local target = target_of(r)
  if native.string(stored.record.key.target) ~= target then
    r.c_hash = hash_with(stored.record.key, target)
    stored = M.load(store, r)
    if not stored then return nil end
  end
  C.es_hash_hex(r.c_hash, hex)
  r.name, r.key, r.c_key = name, native.string(hex), stored.record.key
  r.hyper = native.string(r.c_key.hyper)
  return stored
end

-- es_source of a result, nil when it has none; the second value keeps its strings alive.
local function source_of(r)
  if not r.c_source then return nil end
  local source = native.new("es_source")
  source.hash, source.name = r.c_source, r.name
  return source, r.name
end

--- Lets the index lead from the result's source to a record that was found by its graph. Best effort: a store that cannot
-- be written serves as before.
function M.note(store, r)
  local source = source_of(r)
  if source then C.es_store_index(store, source, r.c_hash, native.fresh()) end
end

--- Puts a result, with its certificate when there is one, into the store. On disk when it returns true.
function M.save(store, r, certificate)
  local record, source = native.new("es_record"), source_of(r)
  record.key = r.c_key
  record.created = os.time()
  local held = { graph = r.graph_text or r.graph:text(false), c = r.unit, object = r.object,
    plan = native.text(C.es_plan_encode, r.plan), certificate = certificate }
  for name, bytes in pairs(held) do
    local k = native.section[name]
    record.bytes[k] = native.cast("const char *", bytes)
    record.length[k] = #bytes
  end
  if C.es_store_put(store, record, source, native.fresh()) ~= 0 then return native.failure() end
  return held and true -- `held` keeps the bytes alive during the put
end

-- Hash of the record with the choices tuned for a result's graph on this processor; nil, message, status.
local function tuning_hash(r)
  local key, anchors, status = key_of(r, tuning_target(r))
  if not key then return nil, anchors, status end
  local hash = native.new "es_hash"
  C.es_key_hash(key, hash)
  return hash, anchors
end

--- Text of the record with the choices tuned for a result's graph on this processor, of all classes of sizes; nil: none.
function M.tuning(store, r)
  local hash = tuning_hash(r)
  return hash and tuned(store, hash)
end

local function drop_tuning(store, r)
  local hash, why, status = tuning_hash(r)
  if not hash then return nil, why, status end
  local code = C.es_store_delete(store, hash, native.fresh())
  if code ~= 0 and code ~= native.status.ENOTFOUND then return native.failure() end
  return true
end

--- Puts that text into the store, or takes the record out when it is "": true | nil, message, status.
function M.save_tuning(store, r, text)
  if text == "" then return drop_tuning(store, r) end
  local key, anchors, status = key_of(r, tuning_target(r))
  if not key then return nil, anchors, status end
  local record = native.new "es_record"
  record.key, record.created = key, os.time()
  local k = native.section.tuning
  record.bytes[k], record.length[k] = native.cast("const char *", text), #text
  if C.es_store_put(store, record, nil, native.fresh()) ~= 0 then return native.failure() end
  return anchors and true -- kept alive during the put, as `text` is
end

-- Bytes of a plan's slots as text: the sum over slots of the largest size each must hold. The workspace, or what is kept.
local function slots_text(plan, kept)
  local own, D = C.es_plan_dims(plan), assert(dims.new()) -- the plan's own table takes no new handles
  local order, sizes = {}, {}
  for i = 0, C.es_plan_size_count(plan) - 1 do
    local s = C.es_plan_size_get(plan, i)
    if C.es_plan_slot_kept(plan, s.slot) == kept then
      if not sizes[s.slot] then
        sizes[s.slot] = {}
        order[#order + 1] = s.slot
      end
      table.insert(sizes[s.slot], C.es_dim_copy(D.ptr, own, s.bytes))
    end
  end
  local total, parts = D:const(0), {}
  for _, slot in ipairs(order) do
    local list = sizes[slot]
    if #list == 1 then
      total = D:add(total, list[1])
    else
      for i, d in ipairs(list) do list[i] = D:text(d) end
      parts[#parts + 1] = "max(" .. table.concat(list, ", ") .. ")"
    end
  end
  if D:value(total) ~= 0 or #parts == 0 then table.insert(parts, 1, D:text(total)) end
  return table.concat(parts, " + ")
end

-- "batch, tokens from 131072 bytes on": how the plan is cut into rounds; "" when it never is.
local function rounds_text(plan, D)
  local rounds, symbols, names = C.es_plan_rounds(plan), D:symbols(), {}
  for i = 1, rounds.count do names[i] = symbols[rounds.symbols[i - 1] + 1].name end
  return #names > 0 and ("%s from %d bytes on"):format(table.concat(names, ", "), tonumber(rounds.bytes)) or ""
end

--- What a plan says about itself, into the result: flops, bytes, workspace, rounds (text) and the number of steps.
function M.describe(r)
  local D = dims.wrap(C.es_dims_retain(C.es_plan_dims(r.plan)))
  r.flops, r.bytes = D:text(C.es_plan_flops(r.plan)), D:text(C.es_plan_bytes(r.plan))
  r.workspace, r.kept, r.kernels = slots_text(r.plan, false), slots_text(r.plan, true), C.es_plan_step_count(r.plan)
  r.rounds = rounds_text(r.plan, D)
end

return M
