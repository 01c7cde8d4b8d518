--- State of one blueprint being built: graph, names, collected errors, and the checks all ops share.
-- Between the ops a blueprint calls (ops.lua) and the graph. Every entry point runs under `Builder:entry`, which records a
-- failure with the blueprint's line and gives poison instead of raising, so that one run finds all mistakes.

local graph = require "esper.graph"
local native = require "esper.native"
local nearest = require("esper.text").nearest
local value = require "esper.ops.value"

local getinfo, format, gsub, find, concat = debug.getinfo, string.format, string.gsub, string.find, table.concat
local hidden, poison = value.hidden, value.poison

local M = {}
local Builder = {}
Builder.__index = Builder
M.methods = Builder

-- FAILURE is the metatable of raised errors; SILENT means poison was met; STOP ends the build, its reason is recorded.
local FAILURE, SILENT, STOP = {}, { "poison met" }, { "build stopped" }
M.STOP = STOP
local ERRORS_MAX = 100
local ELEMENTS_MAX = 2 ^ 33 -- of one parameter

-- ---- errors ----

local sources = setmetatable({}, { __mode = "k" }) -- function -> chunk it comes from

-- Line of the innermost frame that belongs to the blueprint; 0 when there is none (its tail calls leave no frame).
local function where(source)
  for level = 3, 250 do
    local info = getinfo(level, "fl")
    if not info then return 0 end
    local from = sources[info.func]
    if not from then
      from = getinfo(info.func, "S").source
      sources[info.func] = from
    end
    if from == source then return info.currentline end
  end
  return 0
end

--- Errors of the blueprint with that chunk name: "file:line: op: message", each once, in E.list. After 100 the build stops.
--   E.add(line, op, message)   E.report(op, message) at the line being run
function M.errors(source)
  local file, list, seen = string.sub(source, 2), {}, {}
  local E = { list = list }
  function E.add(line, op, message)
    if string.sub(message, 1, #file + 1) ~= file .. ":" then -- Lua's own messages name the place already
      if string.sub(message, 1, #op + 1) ~= op .. ":" then message = op .. ": " .. message end
      message = (line and line > 0 and format("%s:%d: ", file, line) or file .. ": ") .. message
    end
    message = string.sub(message, 1, 1000)
    if seen[message] then return end
    seen[message] = true
    list[#list + 1] = message
    if #list == ERRORS_MAX then list[#list + 1] = file .. ": too many errors; stopped here" end
    if #list > ERRORS_MAX then error(STOP, 0) end
  end
  function E.report(op, message) E.add(where(source), op, message) end
  return E
end

--- Raises a failure of the op being called; `entry` records it.
function M.fail(fmt, ...) error(setmetatable({ message = format(fmt, ...) }, FAILURE), 0) end
local fail = M.fail

function M.silent() error(SILENT, 0) end

--- Records an error at the blueprint's current line.
function Builder:report(op, fmt, ...) self.errors.add(where(self.source), op, format(fmt, ...)) end

--- Must this error end the build? Catching it could go on for ever: where the Lua stack is full no budget hook runs.
function M.uncatchable(failure)
  return failure == STOP or type(failure) == "string" and (find(failure, "stack overflow", 1, true)
    or find(failure, "not enough memory", 1, true) or find(failure, "error in error handling", 1, true)
    or find(failure, "stopped by the sandbox", 1, true)) ~= nil
end

--- Running out of memory is no mistake of the blueprint: it ends the build, as in Lua itself.
function M.starved(status)
  if status == "ENOMEM" then error("not enough memory", 0) end
end

--- Text of an error value that came from running a blueprint. Running out of memory goes on upwards.
function M.reason(failure)
  if type(failure) ~= "string" then return "stopped by error(" .. value.describe(failure) .. ")" end
  if find(failure, "not enough memory", 1, true) then error(failure, 0) end
  return (gsub(failure, "^[^:]*lua/esper/[^:]*:%d+: ", "")) -- a place inside the frontend helps nobody
end

function Builder:settle(op, line, many, ok, ...)
  self.line, self.op = line, op
  if ok then return ... end
  local failure = ...
  if getmetatable(failure) == FAILURE then
    self.errors.add(line, op, failure.message)
  elseif failure ~= SILENT then
    if M.uncatchable(failure) then error(failure, 0) end
    self.errors.add(line, op, M.reason(failure))
  end
  if many then return poison() end
  return poison
end

--- What a blueprint sees as g.op: runs fn(builder, ...); `many` when it returns several values.
function Builder:entry(op, fn, many)
  return function(...)
    local line = where(self.source)
    self.line, self.op = line, op
    return self:settle(op, line, many, pcall(fn, self, ...))
  end
end

--- A name nobody knows: reports it with the nearest known one.
function Builder:unknown(what, key, known)
  local name = type(key) == "string" and #key <= 64 and key or value.describe(key)
  table.sort(known)
  local near = nearest(name, known)
  self:report(what .. name, near and "unknown name; did you mean '%s'?" or "unknown name", near)
  return poison
end

-- ---- nodes ----

--- Adds a node; fails with C's message. label: name of the node.
function Builder:node(op, inputs, attrs, label, dtype)
  local id, message, status = self.graph:add {
    op = op, inputs = inputs, attrs = attrs, name = label, dtype = dtype, line = self.line,
  }
  M.starved(status)
  if not id and self.graph:count() >= native.nodes_max then
    self.errors.add(self.line, op, message)
    error(STOP, 0)
  end
  if not id then fail("%s", message) end
  return id
end

function Builder:tensor(id) return value.tensor(self, id) end

--- Scalar constant of a dtype, one node per value.
function Builder:const(number, dtype)
  if number ~= number then fail("a constant is NaN, wanted a number") end
  local key = format("%s %.17g", dtype, number)
  local id = self.consts[key]
  if not id then
    id = self:node("const", {}, { value = number }, nil, dtype)
    self.consts[key] = id
  end
  return id
end

--- Node id of a tensor argument; `what` names the argument in the message.
function Builder:id(v, what)
  local record = hidden[v]
  if not record or record.kind ~= "tensor" then
    if record and record.kind == "poison" then M.silent() end
    fail("%s is %s, wanted a tensor", what or "input", value.describe(v))
  end
  if record.builder ~= self then fail("%s belongs to another blueprint", what or "input") end
  return record.id
end

function Builder:is_tensor(v)
  local record = hidden[v]
  if record and record.kind == "poison" then M.silent() end
  return record ~= nil and record.kind == "tensor"
end

function Builder:shape_text(shape)
  local parts = {}
  for i, d in ipairs(shape) do parts[i] = self.D:text(d) end
  return "[" .. concat(parts, ", ") .. "]"
end

function Builder:describe(id) return self.graph:dtype(id) .. self:shape_text(self.graph:shape(id)) end

--- Axis as 0..rank-1.
function Builder:axis(id, axis)
  local rank = self.graph:rank(id)
  if type(axis) ~= "number" or axis % 1 ~= 0 or axis < -rank or axis >= rank then
    fail("axis is %s, wanted an integer from %d to %d for %s", value.describe(axis), -rank, rank - 1, self:describe(id))
  end
  return axis < 0 and axis + rank or axis
end

--- Extent of an axis as dimension handle.
function Builder:extent(id, axis) return self.graph:shape(id)[self:axis(id, axis) + 1] end

--- Extent of an axis as a number; parameters cannot have symbolic extents.
function Builder:known_extent(id, axis)
  local d = self:extent(id, axis)
  local n = self.D:value(d)
  if not n then
    fail("axis %d of %s is '%s', wanted a constant: a parameter's shape depends on it", axis, self:describe(id), self.D:text(d))
  end
  return n
end

-- ---- dimensions ----

-- Replaces names of hyper-parameters in a dimension expression by their numbers.
function Builder:expand_names(text)
  return (gsub(text, "[%a_][%w_]*", function(name)
    local v = self.hyper[name]
    if v == nil then
      if not self.declaring and not self.symbols[name] then
        fail("'%s' is neither a hyper-parameter nor a dimension of an input", name)
      end
      self.symbols[name] = true
      return name
    end
    if type(v) ~= "number" or v % 1 ~= 0 then
      fail("hyper-parameter '%s' is %s, wanted an integer extent", name, value.describe(v))
    end
    return format("%.0f", v)
  end))
end

--- Dimension handle of what a blueprint gives as an extent: number, "name", "expression" or dimension.
function Builder:dim(v, what)
  if type(v) == "number" then
    if v % 1 ~= 0 or v < 0 or v > 2 ^ 40 then
      fail("%s is %s, wanted an integer from 0 to 2^40", what or "an extent", tostring(v))
    end
    return self.D:const(v)
  elseif type(v) == "string" then
    if #v > 200 then fail("%s is a long string, wanted a dimension", what or "an extent") end
    local d, message, status = self.D:parse(self:expand_names(v))
    M.starved(status)
    if not d then fail("%s '%s': %s", what or "extent", v, message) end
    return d
  end
  local record = hidden[v]
  if record and record.kind == "poison" then M.silent() end
  if not record or record.kind ~= "dim" then
    fail("%s is %s, wanted a number, a name or a dimension", what or "an extent", value.describe(v))
  end
  if record.builder ~= self then fail("%s belongs to another blueprint", what or "an extent") end
  return record.dim
end

--- What x:size(axis) gives: a number where the extent is constant, else a dimension.
function Builder:public_dim(d)
  if d < 0 then fail("a dimension is too large or too complex") end
  return self.D:value(d) or value.dim(self, d)
end

function Builder:shape(list, what)
  if type(list) ~= "table" then
    fail("%s is %s, wanted a list of extents", what or "shape", value.describe(list))
  end
  if #list > native.rank_max then
    fail("%s has %d axes, at most %d are possible", what or "shape", #list, native.rank_max)
  end
  local dims = {}
  for i = 1, #list do dims[i] = self:dim(list[i], (what or "shape") .. " axis " .. (i - 1)) end
  return dims
end

-- ---- parameters ----

--- Full name of a layer: given or counted ("linear1"), inside the current scope.
function Builder:layer_name(kind, given)
  if given == nil then
    local key = self.prefix .. kind
    repeat
      self.counters[key] = (self.counters[key] or 0) + 1
    until not self.layers[key .. self.counters[key]]
    given = kind .. self.counters[key]
  end
  if type(given) ~= "string" or #given > 100 or not find(given, "^[%a_][%w_]*$") then
    fail("name is %s, wanted letters, digits and _", value.describe(given))
  end
  local name = self.prefix .. given
  if self.layers[name] then fail("name '%s' is taken by line %d", name, self.layers[name]) end
  self.layers[name] = self.line
  return name
end

--- Init spec as given: a spec, a number, or nil for `default` (itself a spec).
function Builder:init(v, default)
  if v == nil then v = default end
  if type(v) == "number" then
    if v ~= v or v == math.huge or v == -math.huge then
      fail("init is %s, wanted a finite number", tostring(v))
    end
    return { init = "const", f0 = v, f1 = 0 }
  end
  local record = hidden[v]
  if record and record.kind == "poison" then M.silent() end
  if not record or record.kind ~= "init" then
    fail("init is %s, wanted a number or a spec such as g.zeros", value.describe(v))
  end
  return record
end

--- Adds a param or buffer node. shape: list of extents. init: record of `init`.
function Builder:leaf(op, name, shape, init)
  local dims, count = self:shape(shape, "shape of '" .. name .. "'"), 1
  for i, d in ipairs(dims) do
    local n = self.D:value(d)
    if not n then fail("shape of '%s': axis %d is '%s', wanted a constant", name, i - 1, self.D:text(d)) end
    count = count * n
  end
  if count > ELEMENTS_MAX then fail("'%s' has %.3g elements, at most 2^33 are possible", name, count) end
  if self.leaves[name] then fail("name '%s' is taken by line %d", name, self.leaves[name]) end
  local attrs = { shape = dims, init = native.init[init.init], f0 = init.f0, f1 = init.f1 }
  local id = self:node(op, {}, attrs, name, self.dtype)
  self.leaves[name] = self.line
  return id
end

--- opts: graph name, source (chunk name), errors, hyper, mode, dtype.
function M.new(opts)
  local g, message = graph.new(opts.name)
  if not g then error(message, 0) end
  return setmetatable({
    graph = g, D = g:dims(), errors = opts.errors, source = opts.source, hyper = opts.hyper, training = opts.mode == "train",
    dtype = opts.dtype, line = 0, prefix = "", counters = {}, layers = {}, leaves = {}, consts = {}, symbols = {}, updated = {},
  }, Builder)
end

return M
