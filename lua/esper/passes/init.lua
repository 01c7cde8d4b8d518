--- The passes: which there are, in which order they run, and the runner. Between the graph and grouping.
--
-- A pass is { name=, version=1, doc=, modes={"eval"} or nil, run=fn(src, ctx) -> graph, changed count }. It reads `src`
-- and returns a new graph of the same meaning, or `src` itself when there was nothing to do.
-- Invariant: after every pass the graph passes es_graph_check; a pass that breaks it is named and stops the compile.
--
--   list = passes.default()                          array of passes
--   list = passes.user(list, text, name) | nil, message     applies a user's pass file to a list
--   passes.signature(list)                           "canonical@1 fold@1 ...": part of the key
--   graph, report = passes.run(graph, list, ctx) | nil, message, status
--   ctx = { mode="eval"|"train", show=bool }         show: keep before and after of every pass as text in the report
--   report = { { name=, changed=, nodes=, ms=, before=, after= }, ... }
-- A user's pass file returns one pass, which is appended before `dead`, or { passes = function(list) return list end },
-- which may add, replace, reorder and drop. A user's pass takes the content hash of its file as its version.
local native = require "esper.native"
local rebuild = require "esper.passes.rebuild"
local C = native.C
local M = {}

local ORDER = { "canonical", "fold", "algebra", "batchnorm_conv", "cse", "layout", "dead", "roots" }

local function copy(t)
  local out = {}
  for k, v in pairs(t) do out[k] = type(v) == "table" and k == "modes" and copy(v) or v end
  return out
end

--- Every pass of the library, in the order they run.
function M.default()
  local list = {}
  for i, name in ipairs(ORDER) do list[i] = copy(require("esper.passes." .. name)) end
  return list
end

local function digest(text)
  local hash, hex = native.new("es_hash"), native.new("char[65]")
  C.es_hash_of(text, #text, hash)
  C.es_hash_hex(hash, hex)
  return native.string(hex)
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for k, v in pairs(a) do if not same(v, b[k]) then return false end end
  for k in pairs(b) do if a[k] == nil then return false end end
  return true
end

-- Is it a pass of the library, untouched?
local function own(pass)
  for _, name in ipairs(ORDER) do
    if name == pass.name then return same(pass, require("esper.passes." .. name)) end
  end
  return false
end

-- The user's passes of a list are marked with the hash of the file they come from.
local function stamp(list, text, name)
  if type(list) ~= "table" then return nil, name .. ": passes() returned a " .. type(list) .. ", wanted the list" end
  local version = digest(text):sub(1, 16)
  for i, pass in ipairs(list) do
    if type(pass) ~= "table" or type(pass.name) ~= "string" or type(pass.run) ~= "function" then
      return nil, ("%s: entry %d of the pass list is no pass; wanted { name=, run=function(graph, ctx) }"):format(name, i)
    end
    if not pass.name:match("^[%w_%-]+$") then
      return nil, ("%s: pass name '%s'; wanted letters, digits, _ and -"):format(name, pass.name)
    end
    if not own(pass) and not pass.stamped then
      list[i] = copy(pass)
      list[i].version, list[i].stamped = version, true
    end
  end
  return list
end

local function before(list, name, pass)
  local at = #list + 1
  for i, p in ipairs(list) do if p.name == name then at = i end end
  table.insert(list, at, pass)
  return list
end

function M.user(list, text, name)
  if text:byte(1) == 27 then return nil, name .. ": compiled Lua is not accepted; give the source" end
  local chunk, why = loadstring(text, "=" .. name)
  if not chunk then return nil, why end
  local ok, made = pcall(chunk)
  if not ok then return nil, tostring(made) end
  if type(made) ~= "table" then
    return nil, name .. ": returned a " .. type(made) .. "; wanted a pass or { passes = function(list) ... end }"
  end
  local mine = {}
  for i, pass in ipairs(list) do mine[i] = pass end
  if made.passes then
    local ran, result = pcall(made.passes, mine)
    if not ran then return nil, tostring(result) end
    return stamp(result, text, name)
  end
  return stamp(before(mine, "dead", made), text, name)
end

function M.signature(list)
  local parts = {}
  for i, pass in ipairs(list) do parts[i] = pass.name .. "@" .. (pass.version or 1) end
  return table.concat(parts, " ")
end

local function wanted(pass, mode)
  if not pass.modes then return true end
  for _, m in ipairs(pass.modes) do if m == mode then return true end end
  return false
end

-- What a graph is to its users: roots and inputs with dtype and shape, as text.
local function interface(graph)
  local D, lines = graph:dims(), {}
  local function add(what, name, id)
    local shape = graph:shape(id)
    for k, d in ipairs(shape) do shape[k] = D:text(d) end
    lines[#lines + 1] = ("%s '%s' %s[%s]"):format(what, name, graph:dtype(id), table.concat(shape, ", "))
  end
  for id = 0, graph:count() - 1 do
    if graph:op(id) == "input" then add("input", graph:label(id), id) end
  end
  for _, root in ipairs(graph:roots()) do add(root.kind, root.name, root.node) end
  table.sort(lines)
  return lines
end

-- nil, or what a user's pass did to inputs and roots.
local function changed_interface(before, after)
  local was, is = interface(before), interface(after)
  for i = 1, math.max(#was, #is) do
    if was[i] ~= is[i] then return ("has %s where there was %s"):format(is[i] or "nothing", was[i] or "nothing") end
  end
end

-- One pass, judged: new graph, changed | nil, message, status.
local function step(pass, graph, ctx)
  local ok, result, changed = pcall(pass.run, graph, ctx)
  if not ok then
    local e = result
    if type(e) == "table" then return nil, ("pass '%s': %s"):format(pass.name, e.message), e.status end
    return nil, ("pass '%s' failed: %s"):format(pass.name, tostring(e)), "EINTERNAL"
  end
  if type(result) ~= "table" or not result.check then
    return nil, ("pass '%s' returned %s, wanted a graph"):format(pass.name, type(result)), "EINTERNAL"
  end
  if result ~= graph then
    local sound, why = result:check()
    why = sound and pass.stamped and changed_interface(graph, result) or why
    if not sound or why then return nil, ("pass '%s' broke the graph: %s"):format(pass.name, why), "EINTERNAL" end
  end
  return result, changed or 0
end

function M.run(graph, list, ctx)
  ctx = setmetatable(copy(ctx), { __index = { rebuild = rebuild.run } })
  local report = {}
  for _, pass in ipairs(list) do
    if wanted(pass, ctx.mode) then
      local entry = { name = pass.name, before = ctx.show and graph:text(true) or nil }
      local start = C.es_clock_ms()
      local result, changed, status = step(pass, graph, ctx)
      if not result then return nil, changed, status end
      graph = result
      entry.ms, entry.changed, entry.nodes = C.es_clock_ms() - start, changed, graph:count()
      entry.after = ctx.show and graph:text(true) or nil
      report[#report + 1] = entry
    end
  end
  return graph, report
end

return M
