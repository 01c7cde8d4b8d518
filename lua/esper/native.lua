--- The C side of Esper as Lua sees it: functions, enums and the op table. The only file that uses ffi.
-- Stands under everything else in lua/. `require "esper_native"` (src/bind/state.c) hands over the address of the function
-- table and the text that declares it, so nothing C knows is repeated here.
--
--   native.C.es_graph_add(...)           every row of src/bind/native.def
--   native.op.linear == 20, native.opname[20] == "linear", native.opinfo.linear = { name, class, doc, min, max,
--       rule, attrs = { { name, type, slot, default }, ... } in order, attr = the same by name }
--   native.dtype.f32, dtypename[0], dtypebytes.f32; init / initname; role / rolename; when; status / statusname;
--   native.root.output, rootname[0]      names are those of the .def files
--   native.failure()                     nil, message, status name: what the last call left in native.err
--   native.text(fn, ...)                 Lua string written by a C function whose last argument is es_text *
-- Safe to require again in one state (test runners drop package.loaded).

local ffi = require "ffi"
local host = require "esper_native"

if not pcall(ffi.typeof, "es_native") then ffi.cdef(host.cdef) end

local M = {}

-- A Lua table: asking the struct makes a search through its fields and a new object, at every call.
local C, functions = {}, ffi.cast("const es_native *", host.table)
for name in string.gmatch(string.match(host.cdef, "struct es_native (%b{})"), "%(%*([%w_]+)%)") do C[name] = functions[name] end

M.C = C
M.source = host.source -- path in the tree ("blueprints/cnn/norm.lua") -> text or nil
M.names = host.names   -- -> array of paths that are embedded
M.build = host.build   -- -> hash of the program, part of every key
M.dir = host.dir       -- directory scripts are read from, nil = embedded copy

M.new, M.cast, M.gc, M.typeof, M.sizeof, M.copy = ffi.new, ffi.cast, ffi.gc, ffi.typeof, ffi.sizeof, ffi.copy

--- Zeroes a cdata block.
function M.clear(block, bytes) ffi.fill(block, bytes or ffi.sizeof(block)) end

--- `length` bytes at a pointer, or up to its terminating 0; nil for NULL.
function M.string(pointer, length)
  if pointer == nil then return nil end
  if length then return ffi.string(pointer, length) end
  return ffi.string(pointer)
end

--- Address as a number, for lightuserdata crossings done in C (user addresses have 47 bits, a double holds 53).
function M.address(pointer) return tonumber(ffi.cast("intptr_t", pointer)) end

--- The pointer of ctype (`es_graph *`) at an address or lightuserdata.
function M.pointer(ctype, address)
  if type(address) == "number" then address = ffi.cast("intptr_t", address) end
  return ffi.cast(ctype, address)
end

-- ---- errors and text ----

M.err = ffi.new("es_error") -- one per Lua state: passed to every fallible call, read at once by failure()

--- Readies native.err for a call: err.status would otherwise survive an earlier failure.
function M.fresh()
  M.err.status = 0
  return M.err
end

--- nil, message, status name.
function M.failure()
  local status = M.err.status
  return nil, ffi.string(M.err.text), M.statusname[status] or "EINTERNAL"
end

local scratch = ffi.gc(ffi.new("es_text"), C.es_text_clear)

--- Calls fn(..., es_text *) and returns what it wrote.
function M.text(fn, a, b, c)
  C.es_text_clear(scratch)
  if c ~= nil then fn(a, b, c, scratch) elseif b ~= nil then fn(a, b, scratch) else fn(a, scratch) end
  if scratch.failed then error("out of memory while writing text", 2) end
  local text = scratch.length > 0 and ffi.string(scratch.bytes, scratch.length) or ""
  C.es_text_clear(scratch)
  return text
end

-- ---- enums: C names are read back from the declarations C was compiled with ----

-- The text from the first name with that prefix to the end of its declaration; a pattern over all the text takes 0.5 ms.
local function declared(prefix)
  local from = string.find(host.cdef, prefix, 1, true)
  return string.sub(host.cdef, from, (string.find(host.cdef, "}", from, true)))
end

local function enum(prefix)
  local byname, byvalue = {}, {}
  for name in string.gmatch(declared(prefix), "%f[%w_]" .. prefix .. "([%w_]+)") do
    local known, value = pcall(function() return ffi.C[prefix .. name] end)
    if known and name ~= "COUNT" then byname[name], byvalue[tonumber(value)] = tonumber(value), name end
  end
  return byname, byvalue
end

M.role, M.rolename = enum "ES_ROLE_"
M.when = enum "ES_WHEN_"
M.root, M.rootname = enum "ES_ROOT_"
M.section, M.sectionname = enum "ES_SECTION_"
M.sample = enum "ES_SAMPLE_"
M.dtype, M.dtypename, M.dtypebytes = {}, {}, {}
for i = 0, ffi.C.ES_DTYPE_COUNT - 1 do
  local name = ffi.string(C.es_dtype_name(i))
  M.dtype[name], M.dtypename[i], M.dtypebytes[name] = i, name, C.es_dtype_bytes(i)
end
M.init, M.initname = {}, {}
for i = 0, ffi.C.ES_INIT_COUNT - 1 do
  local name = ffi.string(C.es_init_name(i))
  M.init[name], M.initname[i] = i, name
end
M.status, M.statusname = {}, {}
for name, value in string.gmatch(declared "ESPER_OK", "%f[%w_]ESPER_(%u+)%s*=%s*(%d+)") do
  M.status[name], M.statusname[tonumber(value)] = tonumber(value), name
end

M.rank_max, M.inputs_max = tonumber(ffi.C.ES_RANK_MAX), tonumber(ffi.C.ES_IN_MAX)
M.attribute_bytes = tonumber(ffi.C.ES_ATTRIBUTE_BYTES)
M.nodes_max, M.source_name_max = tonumber(ffi.C.ES_NODES_MAX), tonumber(ffi.C.ES_SOURCE_NAME_MAX)

-- ---- ops ----

local function attribute(row)
  local kind, default = string.char(row.type), nil
  if row.has_default then
    default = kind == "2" and { row.def[0], row.def[1] } or row.def[0]
  end
  return { name = ffi.string(row.name), type = kind, slot = row.slot, default = default }
end

M.op, M.opname, M.opinfo = {}, {}, {}
for i = 0, ffi.C.ES_OP_COUNT - 1 do
  local row = C.es_op_get(i)
  local info = { name = ffi.string(row.name), class = ffi.string(row.class_name), doc = ffi.string(row.doc),
                 rule = ffi.string(row.shape_rule), min = row.min_in, max = row.max_in, index = i, attrs = {}, attr = {} }
  for k = 0, row.attr_count - 1 do
    local a = attribute(row.attrs[k])
    info.attrs[k + 1], info.attr[a.name] = a, a
  end
  M.op[info.name], M.opname[i], M.opinfo[info.name] = i, info.name, info
end

--- Nearest known op name, or nil.
function M.suggest(name) return M.string(C.es_op_suggest(name)) end

return M
