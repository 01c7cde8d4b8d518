--- Graphs as Lua objects over es_graph. Between native.lua and everything that reads or builds graphs.
--
-- Nodes and dimensions are plain numbers (node ids count from 0). A graph only grows; passes build new ones.
--   graph.new(name, dims?)   graph.wrap(pointer, dims?) takes ownership   graph.parse(text)   graph.dims() new Dims
--   g:count() g:node(id) (cdata, lives as long as the graph) g:op(id) g:inputs(id) g:shape(id) g:rank(id) g:dtype(id)
--   g:attr(id, name)   number; array for lists (2 p D) and sets of axes (m); dtype name (t)
--   g:attrs(id)        all attributes by name, fit for g:add
--   g:label(id) g:line(id) g:roots() g:users() g:text(labels) g:hash() g:canonical() g:check() g:name()
--   g:dims()           the Dims object (dims.lua)
--   g:add{ op=, inputs=, attrs=, dtype=, name=, line= } -> id
--   g:copy(src, id, map) -> id             map[old id] = new id, a table or an es_id array
--   g:root(kind, name, id) -> true         kind "output" or "update"
-- What can fail gives nil, message, status name.

local attributes = require "esper.attributes"
local dims = require "esper.dims"
local native = require "esper.native"
local C, opinfo, opname, op_index = native.C, native.opinfo, native.opname, native.op
local dtype_index, dtypename, failure, fresh = native.dtype, native.dtypename, native.failure, native.fresh
local new, cstring = native.new, native.string
local read, write, whole = attributes.read, attributes.write, attributes.whole

local M = { dims = dims.new }

local Graph = {}
Graph.__index = Graph

--- Takes ownership of an es_graph *. D: the Dims object when the caller knows it already.
function M.wrap(pointer, D)
  local g = setmetatable({ ptr = native.gc(pointer, C.es_graph_free), nodes = {} }, Graph)
  g.D = D or dims.wrap(C.es_dims_retain(C.es_graph_dims(pointer)))
  return g
end

function M.new(name, D)
  local pointer = C.es_graph_new(name, D and D.ptr or nil)
  if pointer == nil then return nil, "out of memory", "ENOMEM" end
  return M.wrap(pointer, D)
end

function M.parse(text)
  local pointer = C.es_graph_parse(text, #text, fresh())
  if pointer == nil then return failure() end
  return M.wrap(pointer)
end

--- Gives up ownership: the pointer, which the caller must free or wrap.
function Graph:release()
  local pointer = native.gc(self.ptr, nil)
  self.ptr, self.nodes = nil, nil
  return pointer
end

function Graph:dims() return self.D end
function Graph:name() return cstring(C.es_graph_name(self.ptr)) end
function Graph:count() return C.es_graph_count(self.ptr) end

function Graph:node(id)
  local node = self.nodes[id]
  if not node then
    node = C.es_graph_node(self.ptr, id)
    if node == nil then error("no node " .. tostring(id), 2) end
    self.nodes[id] = node
  end
  return node
end

function Graph:op(id) return opname[self:node(id).op] end
function Graph:rank(id) return self:node(id).rank end
function Graph:dtype(id) return dtypename[self:node(id).dtype] end
function Graph:label(id) return cstring(self:node(id).name) end
function Graph:line(id) return self:node(id).line end

function Graph:inputs(id)
  local node, list = self:node(id), {}
  for i = 1, node.nin do list[i] = node["in"][i - 1] end
  return list
end

function Graph:shape(id)
  local node, list = self:node(id), {}
  for i = 1, node.rank do list[i] = node.shape[i - 1] end
  return list
end

function Graph:attr(id, name)
  local node = self:node(id)
  local a = opinfo[opname[node.op]].attr[name]
  if not a then error("op " .. opname[node.op] .. " has no attribute '" .. tostring(name) .. "'", 2) end
  return read[a.type](node, a)
end

function Graph:attrs(id)
  local node, all = self:node(id), {}
  for _, a in ipairs(opinfo[opname[node.op]].attrs) do all[a.name] = read[a.type](node, a) end
  return all
end

function Graph:roots()
  local list = {}
  for i = 1, C.es_graph_root_count(self.ptr) do
    local r = C.es_graph_root_get(self.ptr, i - 1)
    list[i] = { name = cstring(r.name), node = r.node, kind = native.rootname[r.kind] }
  end
  return list
end

--- users[id] = ids of the nodes that read it, ascending, once per use; roots do not count.
function Graph:users()
  local users, count = {}, self:count()
  for id = 0, count - 1 do users[id] = {} end
  for id = 0, count - 1 do
    local node = self:node(id)
    for k = 0, node.nin - 1 do
      local list = users[node["in"][k]]
      list[#list + 1] = id
    end
  end
  return users
end

function Graph:text(labels) return native.text(C.es_graph_print, self.ptr, labels and true or false) end

function Graph:hash()
  local hash, hex = new("es_hash"), new("char[65]")
  if C.es_graph_hash(self.ptr, hash, fresh()) ~= 0 then return failure() end
  C.es_hash_hex(hash, hex)
  return cstring(hex)
end

function Graph:canonical()
  local pointer = C.es_graph_canonical(self.ptr, fresh())
  if pointer == nil then return failure() end
  return M.wrap(pointer)
end

function Graph:check()
  if C.es_graph_check(self.ptr, fresh()) ~= 0 then return failure() end
  return true
end

-- ---- adding nodes ----

local function refuse(spec, status, fmt, ...)
  return nil, string.format("%s: " .. fmt, tostring(spec.op), ...), status
end

local function show(v)
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  for i, x in ipairs(v) do parts[i] = tostring(x) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function fill_attrs(self, node, info, spec)
  local given = spec.attrs or {}
  local rank = node.nin > 0 and self:node(node["in"][0]).rank or 0
  for _, a in ipairs(info.attrs) do
    local v = given[a.name]
    if v ~= nil then
      local wanted = write[a.type](node, a, v, rank)
      if wanted then return refuse(spec, "EATTR", "attribute '%s' is %s, wanted %s", a.name, show(v), wanted) end
    elseif a.default ~= nil then
      attributes.default(node, a)
    elseif a.type ~= "D" or info.class ~= "leaf" then -- a leaf without shape is a scalar
      return refuse(spec, "EATTR", "attribute '%s' is missing", a.name)
    end
  end
  for name in pairs(given) do
    if not info.attr[name] then return refuse(spec, "EATTR", "unknown attribute '%s'", tostring(name)) end
  end
  return true
end

local scratch = new("es_node") -- filled for one add at a time

function Graph:add(spec)
  local info = opinfo[spec.op]
  if not info then return refuse(spec, "EOP", "no such op") end
  local inputs, count = spec.inputs or {}, self:count()
  if #inputs > native.inputs_max then
    return refuse(spec, "EOP", "%d inputs, at most %d are possible", #inputs, native.inputs_max)
  end
  local node = scratch
  native.clear(node)
  node.op, node.nin, node.line = op_index[spec.op], #inputs, spec.line or 0
  for k, id in ipairs(inputs) do
    if not whole(id) or id < 0 or id >= count then
      return refuse(spec, "EARG", "input %d is %s, not a node of this graph", k, tostring(id))
    end
    node["in"][k - 1] = id
  end
  local dtype = dtype_index[spec.dtype or "f32"]
  if not dtype then return refuse(spec, "EDTYPE", "no dtype '%s'", tostring(spec.dtype)) end
  node.dtype = dtype
  local ok, message, status = fill_attrs(self, node, info, spec)
  if not ok then return nil, message, status end
  local name = spec.name -- anchored here while C copies it
  if name then node.name = name end
  local id = C.es_graph_add(self.ptr, node, fresh())
  if id < 0 then return failure() end
  return id
end

function Graph:copy(src, id, map)
  if type(map) == "table" then
    local count = src:count()
    local list = new("es_id[?]", count)
    for i = 0, count - 1 do list[i] = map[i] or -1 end
    map = list
  end
  local made = C.es_graph_copy_node(self.ptr, src.ptr, id, map, fresh())
  if made < 0 then return failure() end
  return made
end

function Graph:root(kind, name, id)
  if C.es_graph_root(self.ptr, native.root[kind], name, id, fresh()) ~= 0 then return failure() end
  return true
end

return M
