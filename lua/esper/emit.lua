--- The unit: the C text of all functions of one plan. Between groups and libtcc; the recipes write
-- through emit_writer.lua.
--
-- A unit collects the functions and vector blocks of its groups; equal text is kept once. The text
-- holds only what libtcc compiles right (no VLAs, statics, includes, bit-fields, structs by value)
-- and no string of a user.
-- Invariant: function text never holds node ids, so equal groups share one function; the nodes
-- stand in the comment above.
--
--   unit = emit.unit(graph, isa)        isa: "scalar" ...
--   unit:group(group) -> steps, temps   runs kernels/<group.kind>.lua
--       steps  { { fn=, label=, tiles=dim, operands={ {value=id, write=bool} | {temp=index}, ... },
--                  dims={dim, ...}, streams={stream, ...} }, ... }
--       temps  { { bytes=dim }, ... }   workspace of this group only; operands name them by index from 1
--   unit.fixed = { [node] = true }   made of parameters alone (group.fixed)
--   unit.tuning, unit.present   tuned choices (tuning.lua), signature of the group being written
--   unit:text() -> C text      unit:extract(steps) -> C text of these alone, the steps renamed

local vec = require "esper.vec"
local writer = require "esper.emit_writer"

local find, sub = string.find, string.sub
local M = {}

local PLACEHOLDER = "es_this" -- stands for a function's own name until that is known
local PRELUDE = [[
typedef struct args { char *const *p; const long *d; const unsigned *key; long *fault; } args;
]]

local Unit = {}
Unit.__index = Unit

function M.unit(graph, isa)
  return setmetatable({ graph = graph, isa = isa, blocks = {}, fns = {}, helpers = {}, known = {}, keyed = {}, atoms = {},
    choices = {}, fixed = {} }, Unit)
end

-- Keeps `text`, which defines es_NAME with the name written as PLACEHOLDER, once in `list`; gives
-- its name.
local function share(unit, list, prefix, text)
  local entry = unit.known[prefix .. text]
  if not entry then
    entry = { name = ("es_%s%d"):format(prefix, #list + 1), text = text, labels = {} }
    unit.known[prefix .. text] = entry
    list[#list + 1] = entry
  end
  return entry
end

--- A C helper function shared by the whole unit: `text` defines it under the name written as
-- PLACEHOLDER.
function Unit:helper(text) return share(self, self.helpers, "h", text).name end

--- A vector block; one with the instructions of an earlier one is that one, and is not lowered again.
function Unit:block(build, dtype, isa)
  local b = vec.block(isa or self.isa, dtype)
  build(b)
  local key = b:digest()
  local name = self.keyed[key]
  if not name then
    name = ("es_v%d"):format(#self.blocks + 1)
    self.blocks[#self.blocks + 1], self.keyed[key] = b:lower(name), name
  end
  return name
end

--- One of the candidates: the tuned one of the group that is being written, else the first. unit.choices keeps what there was to
-- choose: { [group signature] = { [name] = { candidates=, value=, label= } } }.
function Unit:choice(name, candidates, label)
  local of = self.present or "0"
  local tuned, value = self.tuning and self.tuning[of] and self.tuning[of][name], candidates[1]
  for _, candidate in ipairs(candidates) do
    if candidate == tuned then value = tuned end
  end
  self.choices[of] = self.choices[of] or {}
  self.choices[of][name] = { candidates = candidates, value = value, label = label }
  return value
end

function Unit:fn(body, label)
  local text = ("void %s(const args *a, long lo, long hi)\n{\n%s}\n"):format(PLACEHOLDER, body)
  local entry = share(self, self.fns, "k", text)
  entry.labels[#entry.labels + 1] = label
  return entry.name
end

-- Position of every node in the group, and the group for people.
local function describe(graph, group)
  local ordinal, label = {}, {}
  for _, list in ipairs { group.prologue or {}, { group.anchor }, group.epilogue or {} } do
    for _, id in ipairs(list) do
      label[#label + 1] = ("%%%d %s"):format(id, graph:op(id))
      ordinal[id] = #label
    end
  end
  return ordinal, label
end

--- Names of a group's nodes ("%7 linear"), by the ordinal that vector blocks know them by, and the anchor's ordinal or nil.
function M.labels(graph, group)
  local ordinal, label = describe(graph, group)
  return label, group.anchor and ordinal[group.anchor]
end

function Unit:group(group)
  local ordinal, label = describe(self.graph, group)
  local k = writer.new(self, group, ordinal, table.concat(label, " + "))
  require("kernels." .. group.kind).emit(k, group)
  k:finish()
  return k.steps, k.temps
end

-- Appends text with PLACEHOLDER replaced; gsub would match it byte by byte.
local function named(out, text, name)
  local at = 1
  while true do
    local from, to = find(text, PLACEHOLDER, at, true)
    if not from then break end
    out[#out + 1] = sub(text, at, from - 1)
    out[#out + 1] = name
    at = to + 1
  end
  out[#out + 1] = sub(text, at)
end

--- C text of what these steps need and no more, numbered anew, so that equal work is equal text; and the steps, renamed.
function Unit:extract(steps)
  local lists, list, number = { h = self.helpers, k = self.fns, v = self.blocks }, { PRELUDE }, {}
  local function take(name)
    if number[name] then return end
    number[name] = name -- itself, while those it calls are taken
    local kind, n = name:match "_(%a)(%d+)$"
    local entry = lists[kind][tonumber(n)]
    if kind ~= "v" then
      local out = {}
      named(out, entry.text, name)
      entry = table.concat(out)
      for other in entry:gmatch "es_[hkv]%d+" do take(other) end
    end
    number[name] = ("es_%s%d"):format(kind, #list)
    list[#list + 1] = entry
  end
  local renamed = {}
  for i, step in ipairs(steps) do
    take(step.fn)
    renamed[i] = setmetatable({ fn = number[step.fn] }, { __index = step })
  end
  return (table.concat(list):gsub("es_[hkv]%d+", number)), renamed
end

function Unit:text()
  local out = { PRELUDE }
  local function add(entry)
    for _, label in ipairs(entry.labels) do out[#out + 1] = "/* " .. label .. " */\n" end
    named(out, entry.text, entry.name)
  end
  for _, entry in ipairs(self.helpers) do add(entry) end
  for _, text in ipairs(self.blocks) do out[#out + 1] = text end
  for _, entry in ipairs(self.fns) do add(entry) end
  return table.concat(out)
end

return M
