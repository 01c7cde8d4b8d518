--- Blueprints: declaration, lookup, and the way from a declaration to a canonical graph. First stage of the pipeline.
--
--   return blueprint "family/name" {
--     doc   = "what it computes",
--     hyper = { dim = 384, act = "gelu", p = { 0.1, min = 0, max = 1 } },   default, or { default, min, max, choices, doc };
--                                                                           whole default = whole numbers only
--     input = { x = { "batch", "tokens", "dim" }, idx = { "batch", dtype = "i64" } },
--              an extent is a number, a hyper-parameter's name, any other name (a symbolic dimension), an expression of
--              those ("2*dim"), or function(h) giving one of them; dtype "float" (default) follows the build's dtype
--     sizes = { tokens = { 1, 256 } },          range of a symbolic dimension; numbers or hyper expressions
--     check = function(h) return nil or "what is wrong" end,
--     build = function(g, x, h) return { y = x } end,   one input: the tensor; several: a table of them by name
--   }
--
--   blueprint.load(name or path) -> declaration | nil, errors      runs the file in this state, trusted
--   blueprint.build(declaration, name or path; { set =, mode = "eval" | "train", dtype = "f32" | "f64" })
--       -> graph (canonical), { name, doc, hyper, mode, dtype, file } | nil, errors, status name
--       set: { dim = 64 } or "dim=64 expand=2". errors: array of "file:line: op: message", all of them
--   blueprint.find(name or path) -> text, chunk name, origin ("catalogue" | "file") | nil, message, status name
--   blueprint.catalogue() -> sorted names      blueprint.params(graph) -> { { name, shape, count, init }, ... }, total
-- Names are looked up in $ESPER_BLUEPRINTS, then among Esper's own.

local hyper = require "esper.hyper"
local native = require "esper.native"
local builder = require "esper.ops.builder"
local ops = require "esper.ops"
local nearest = require("esper.text").nearest
local value = require "esper.ops.value"

local find, format, sub, match, getinfo = string.find, string.format, string.sub, string.match, debug.getinfo
local describe, fail = value.describe, builder.fail

local M = {}
local declared = setmetatable({}, { __mode = "k" }) -- declarations made by `define`
local TEXT_MAX = 1024 * 1024
local NAMES_MAX = 256 -- inputs, outputs
local FIELDS = { doc = "string", hyper = "table", input = "table", sizes = "table", build = "function", check = "function" }

-- ---- declaring ----

--- blueprint "family/name" { ... } -> declaration. Its fields are checked when it is built.
function M.define(name)
  local source = getinfo(2, "S").source
  return function(body)
    local d = { name = name, source = source, body = body, doc = type(body) == "table" and body.doc or nil }
    declared[d] = true
    return d
  end
end

-- ---- finding ----

local function read(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message, "ENOTFOUND" end
  local text, problem = file:read(TEXT_MAX + 1)
  file:close()
  if not text and problem then return nil, path .. ": " .. problem, "EIO" end
  if text and #text > TEXT_MAX then
    return nil, path .. ": larger than 1 MiB, too long for a blueprint", "ELIMIT"
  end
  return text or ""
end

function M.catalogue()
  local names = {}
  for _, path in ipairs(native.names()) do names[#names + 1] = match(path, "^blueprints/(.+)%.lua$") end
  table.sort(names)
  return names
end

function M.find(source)
  if type(source) ~= "string" then
    return nil, "blueprint is " .. describe(source) .. ", wanted a name or a path", "EARG"
  end
  if find(source, "%.lua$") or find(source, "^[./]") then
    local text, message, status = read(source)
    if not text then return nil, "blueprint " .. message, status end
    return text, "@" .. source, "file"
  end
  if not find(source, "^[%w_]+/[%w_]+$") then
    return nil, format("blueprint '%s': wanted family/name, or a path that ends in .lua", source), "ENOTFOUND"
  end
  local own = os.getenv "ESPER_BLUEPRINTS"
  if own and own ~= "" then
    local path = own .. "/" .. source .. ".lua"
    local text, message, status = read(path)
    if text then return text, "@" .. path, "file" end
    if status ~= "ENOTFOUND" then return nil, "blueprint " .. message, status end
  end
  local text = native.source("blueprints/" .. source .. ".lua")
  if text then return text, "@blueprints/" .. source .. ".lua", "catalogue" end
  local near = nearest(source, M.catalogue())
  return nil, format("no blueprint '%s'%s", source, near and "; did you mean '" .. near .. "'?" or ""), "ENOTFOUND"
end

--- Runs blueprint text in `env` (default: the globals plus `blueprint`); the declaration it returns, or nil, errors.
function M.read(text, chunk, env)
  local file = sub(chunk, 2)
  if sub(text, 1, 1) == "\27" then return nil, { file .. ": is Lua bytecode, wanted source text" } end
  env = env or setmetatable({ blueprint = M.define }, { __index = _G })
  local run, message = load(text, chunk, "t", env)
  if not run then return nil, { builder.reason(message) } end
  local ok, result = pcall(run)
  if not ok then
    local reason = builder.reason(result)
    return nil, { sub(reason, 1, #file + 1) == file .. ":" and reason or file .. ": " .. reason }
  end
  if not (type(result) == "table" and declared[result]) then
    return nil, { format('%s: returned %s, wanted: return blueprint "family/name" { ... }', file, describe(result)) }
  end
  return result
end

function M.load(source)
  local text, chunk, status = M.find(source)
  if not text then return nil, { chunk }, status end
  local d, errors = M.read(text, chunk)
  return d, errors, not d and "EBLUEPRINT" or nil
end

-- ---- building ----

local function check_fields(d, E)
  if type(d.name) ~= "string" or #d.name > 100 or not find(d.name, "^[%w_]+/[%w_]+$") then
    E.add(nil, "name", format("is %s, wanted \"family/name\"", describe(d.name)))
  end
  local body = d.body
  if type(body) ~= "table" then
    E.add(nil, "blueprint", format("body is %s, wanted { doc =, hyper =, input =, build = }", describe(body)))
    return false
  end
  for _, key in ipairs(hyper.keys(body)) do
    local v, wanted = body[key], FIELDS[key]
    if not wanted then
      local names = { "doc", "hyper", "input", "sizes", "build", "check" }
      local near = type(key) == "string" and #key < 64 and nearest(key, names)
      E.add(nil, "blueprint", format("unknown field %s%s", describe(key), near and "; did you mean '" .. near .. "'?" or ""))
    elseif type(v) ~= wanted then
      E.add(nil, "blueprint", format("field '%s' is %s, wanted a %s", key, describe(v), wanted))
    end
  end
  for _, key in ipairs { "input", "build" } do
    if body[key] == nil then E.add(nil, "blueprint", format("field '%s' is missing", key)) end
  end
  return #E.list == 0
end

-- The names in a table, ascending; what is no name is recorded.
local function sorted(b, op, t)
  local keys = {}
  for k in pairs(t) do
    if type(k) == "string" and #k <= 64 and find(k, "^[%a_][%w_]*$") then keys[#keys + 1] = k
    else b.errors.add(nil, op, "name is " .. describe(k) .. ", wanted letters, digits and _") end
  end
  if #keys > NAMES_MAX then fail("%d names, at most %d are possible", #keys, NAMES_MAX) end
  table.sort(keys)
  return keys
end

-- One declared input -> tensor.
local function input(b, name, spec, h)
  if type(spec) == "function" then spec = spec(h) end
  if type(spec) ~= "table" then fail("'%s' is %s, wanted a list of extents", name, describe(spec)) end
  local shape = {}
  for i, extent in ipairs(spec) do shape[i] = type(extent) == "function" and extent(h) or extent end
  for k in pairs(spec) do
    if k ~= "dtype" and not (type(k) == "number" and shape[k] ~= nil) then
      fail("'%s' has an unknown field %s", name, describe(k))
    end
  end
  local dtype = spec.dtype
  if dtype == nil or dtype == "float" then dtype = b.dtype end
  if not native.dtype[dtype] then
    fail("'%s' has dtype %s, wanted one like f32 or i64", name, describe(dtype))
  end
  return b:tensor(b:node("input", {}, { shape = b:shape(shape, "'" .. name .. "'") }, name, dtype))
end

local function limit(b, name, range)
  if not b.symbols[name] then fail("'%s' is no dimension of an input", name) end
  local bounds = {}
  for i = 1, 2 do
    local v = type(range) == "table" and range[i] or nil
    bounds[i] = v ~= nil and b.D:value(b:dim(v, name))
    if not bounds[i] then fail("'%s' wants { smallest, largest }", name) end
  end
  local ok, message = b.D:range(name, bounds[1], bounds[2])
  if not ok then fail("%s", message) end
end

-- Declares all inputs and ranges; what goes to build() as its second argument.
local function declare(b, body, h)
  local tensors, names, first = {}, {}, value.poison
  local function each(op, list, fn)
    b:entry(op, function()
      for _, name in ipairs(sorted(b, op, list)) do fn(name) end
    end)()
  end
  b.declaring = true
  each("input", body.input, function(name)
    names[#names + 1] = name
    tensors[name] = b:entry("input", input)(name, body.input[name], h)
    first = tensors[name]
  end)
  b.declaring = false
  each("sizes", body.sizes or {}, function(name) b:entry("sizes", limit)(name, body.sizes[name]) end)
  if #names == 1 then return first end
  return value.view(function(key) return tensors[key] or b:unknown("input ", key, names) end,
                    function(key) b:report("input " .. describe(key), "assignment; inputs are read-only") end)
end

local function collect_outputs(b, result)
  if result == value.poison then return end
  if type(result) ~= "table" then
    fail("returned %s, wanted a table of outputs such as { y = x }", describe(result))
  end
  local names = sorted(b, "output", result)
  if #names == 0 then fail("returned no outputs, wanted a table such as { y = x }") end
  for _, name in ipairs(names) do
    b:entry("output '" .. name .. "'", function() b:root("output", name, b:id(result[name], "it")) end)()
  end
end

local function run(b, body, h)
  local x = declare(b, body, h)
  local ok, result = pcall(body.build, ops.face(b), x, h)
  if not ok then
    if result ~= builder.STOP then b.errors.add(nil, "build", builder.reason(result)) end
    return
  end
  b:entry("build", function() collect_outputs(b, result) end)()
end

local MODES, DTYPES = { eval = true, train = true }, { f32 = true, f64 = true }

function M.build(source, opts)
  opts = opts or {}
  local d, errors, status = source, nil, nil
  if not (type(source) == "table" and declared[source]) then d, errors, status = M.load(source) end
  if not d then return nil, errors, status end
  local E = builder.errors(d.source)
  local mode, dtype = opts.mode or "eval", opts.dtype or "f32"
  if not MODES[mode] then E.add(nil, "mode", "is " .. describe(mode) .. ", wanted 'eval' or 'train'") end
  if not DTYPES[dtype] then E.add(nil, "dtype", "is " .. describe(dtype) .. ", wanted 'f32' or 'f64'") end
  if #E.list > 0 then return nil, E.list, "EARG" end
  if not check_fields(d, E) then return nil, E.list, "EBLUEPRINT" end
  local values, view = hyper.resolve(d.body, opts.set, E)
  if not values then return nil, E.list, "EATTR" end
  local b = builder.new { name = d.name, source = d.source, errors = E, hyper = values, mode = mode, dtype = dtype }
  local ok, failure = pcall(run, b, d.body, view)
  if not ok and failure ~= builder.STOP then error(failure, 0) end
  if native.C.es_dims_starved(b.D.ptr) then builder.starved "ENOMEM" end
  if #E.list > 0 then return nil, E.list, "EBLUEPRINT" end
  local made, message, code = b.graph:canonical()
  if not made then return nil, { sub(d.source, 2) .. ": " .. message }, code end
  return made, { name = d.name, doc = d.body.doc or "", hyper = values, mode = mode, dtype = dtype, file = sub(d.source, 2) }
end

--- Parameters of a graph in node order: { name, shape = text, count, init }, and the sum of their counts.
function M.params(g)
  local list, total, D = {}, 0, g:dims()
  for id = 0, g:count() - 1 do
    if g:op(id) == "param" then
      local count, shape = 1, g:shape(id)
      for i, dim in ipairs(shape) do
        count = count * D:value(dim)
        shape[i] = D:text(dim)
      end
      list[#list + 1] = { name = g:label(id), shape = table.concat(shape, ", "), count = count,
                          init = native.initname[g:attr(id, "init")] }
      total = total + count
    end
  end
  return list, total
end

return setmetatable(M, { __call = function(_, name) return M.define(name) end })
