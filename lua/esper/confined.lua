--- The Lua half of the sandbox: what a blueprint sees, and the build inside the sandbox's state. Loaded there by
-- src/bind/sandbox.c only, as trusted code; blueprint text reaches it through closures alone.
-- The environment is fresh for every blueprint: nothing one blueprint changes is seen by the next. It has no way to files,
-- modules, code loading, other environments, metatables, threads, clocks, addresses or random numbers, and `pairs` and `next` go
-- in a fixed order, so one text with the same options always gives one graph: the store's index relies on it. (What Lua itself
-- leaves open, the length of a list with holes, is open here too.)

local blueprint = require "esper.blueprint"
local builder = require "esper.ops.builder"
local native = require "esper.native"
local pack = require "esper.pack"
local value = require "esper.ops.value"

local format, rep, find, concat, sort = string.format, string.rep, string.find, table.concat, table.sort
local hidden = value.hidden

local M = {}
local TEXT_MAX, FORMAT_MAX, SORT_MAX = 1024 * 1024, 4096, 100000

-- ---- functions that replace dangerous or indefinite ones ----

local safe = {}

-- No addresses: they differ from run to run.
function safe.tostring(v)
  local t = type(v)
  if t == "table" or t == "function" or t == "userdata" and not hidden[v] then return t end
  return tostring(v)
end

-- LuaJIT's own pcall underneath: it takes no C stack, which LuaJIT does not limit.
local function caught(ok, ...)
  if not ok and builder.uncatchable((...)) then error((...), 0) end
  return ok, ...
end
function safe.pcall(f, ...) return caught(pcall(f, ...)) end

function safe.rep(s, n, separator)
  if type(s) ~= "string" or type(n) ~= "number" or separator ~= nil and type(separator) ~= "string" then
    error("rep wants a text, a number and perhaps a separator", 2)
  end
  if n > 0 and n * (#s + #(separator or "")) > TEXT_MAX then error("rep: result longer than 1 MiB", 2) end
  return rep(s, n, separator or "")
end

function safe.format(fmt, ...)
  if type(fmt) ~= "string" or #fmt > FORMAT_MAX then error("format wants a text of at most 4096 bytes", 2) end
  if find(fmt, "%%[^%a%%]*p") then error("format: %p is not available in a blueprint", 2) end
  local args, n = { ... }, select("#", ...)
  for i = 1, n do
    if type(args[i]) ~= "number" and type(args[i]) ~= "string" then args[i] = safe.tostring(args[i]) end
  end
  return format(fmt, unpack(args, 1, n))
end

-- Not from inside its own comparison: sort nests on the C stack, which has no limit of its own.
local sorting = false
function safe.sort(t, before)
  if type(t) ~= "table" or #t > SORT_MAX then error("sort wants a table of at most 100000 entries", 2) end
  if sorting then error("sort inside a sort's comparison", 2) end
  sorting = true
  local ok, message = pcall(sort, t, before)
  sorting = false
  if not ok then error(message, 0) end
end

-- Order of keys: numbers, texts, booleans, each ascending, then one other key at most: where two tables or functions come
-- depends on their addresses.
local RANK = { number = 1, string = 2, boolean = 3 }
local function rank(k) return RANK[type(k)] or 4 end

local function precedes(a, b)
  local first, second = rank(a), rank(b)
  if first ~= second then return first < second end
  if first == 3 then return b and not a end
  return first < 3 and a < b
end

local function refuse_order(who)
  error(who .. ": several keys are neither numbers, texts nor booleans, so they have no order; keep them in a list", 3)
end

-- Entries removed on the way are skipped.
function safe.pairs(t)
  if type(t) ~= "table" then error("pairs wants a table, got " .. value.describe(t), 2) end
  local keys, others = {}, 0
  for k in pairs(t) do
    keys[#keys + 1] = k
    if rank(k) == 4 then others = others + 1 end
  end
  if others > 1 then refuse_order "pairs" end
  sort(keys, precedes)
  local at = 0
  return function()
    local k, v
    repeat
      at = at + 1
      k = keys[at]
      if k == nil then return nil end
      v = t[k]
    until v ~= nil
    return k, v
  end
end

-- The least key after `last`.
function safe.next(t, last)
  if type(t) ~= "table" then error("next wants a table, got " .. value.describe(t), 2) end
  local least, others
  for k in pairs(t) do
    if rank(k) == 4 then
      if others ~= nil then refuse_order "next" end
      others = k
    end
    if (last == nil or precedes(last, k)) and (least == nil or precedes(k, least)) then least = k end
  end
  return least, t[least]
end

-- ---- the environment ----

local function strings()
  return { byte = string.byte, char = string.char, len = string.len, lower = string.lower, upper = string.upper,
           reverse = string.reverse, sub = string.sub, rep = safe.rep, format = safe.format }
end

--- What a blueprint sees; a new one for each.
function M.environment()
  local env = {
    blueprint = blueprint.define, assert = assert, error = error, ipairs = ipairs, next = safe.next, pairs = safe.pairs,
    pcall = safe.pcall, select = select, tonumber = tonumber, tostring = safe.tostring, type = type, unpack = unpack,
    string = strings(), math = {}, table = { concat = concat, insert = table.insert, remove = table.remove, maxn = table.maxn,
                                             sort = safe.sort, unpack = unpack },
  }
  for name, f in pairs(math) do
    if name ~= "random" and name ~= "randomseed" then env.math[name] = f end
  end
  return setmetatable(env, { __metatable = false, __index = function(_, name)
    error(format("'%s' is not available in a blueprint", safe.tostring(name)), 2)
  end })
end

--- Once per state, after all trusted scripts are loaded.
function M.start() getmetatable("").__index = strings() end

--- graph, packed info | nil, errors one a line, status number.
function M.build(text, chunk, options)
  sorting = false
  local d, errors = blueprint.read(text, chunk, M.environment())
  if not d then return nil, concat(errors, "\n"), native.status.EBLUEPRINT end
  local graph, info, status = blueprint.build(d, pack.unpack(options))
  if not graph then return nil, concat(info, "\n"), native.status[status] end
  return graph, pack.pack(info)
end

--- Gives the graph to C: its address.
function M.release(graph) return native.address(graph:release()) end

return M
