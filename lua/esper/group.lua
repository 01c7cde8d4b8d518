--- Grouping: which nodes become one kernel function, and in which order the functions run.
-- Between the passes and the recipes; the form of a group is in docs/architecture.md.
--
-- Invariant: every group has a position; a node's operands lie in groups of smaller positions, or in its own group and
-- then at the very same element. Every move below is made only when it keeps this, so running the groups by position
-- is right and there are no cycles. group_form.lua writes the finished groups down and checks them by replaying.
--
-- Nodes are placed in graph order. An anchor opens a group. A pointwise node joins the group of its latest operand
-- when it reads that operand element for element; groups of pointwise work move to where they can be fused:
--   into an earlier group, when all they read is ready before it;
--   into a later group, when nothing placed in between reads them.
local facts = require "esper.facts"
local form = require "esper.group_form"
local views = require "esper.views"
local M = { verify = form.verify, fixed = form.fixed }

-- Limits of one group: they bound registers, operands and stack buffers of a generated function.
local MAX_NODES, MAX_OPERANDS = 40, 24
local MAX_READERS = 64 -- of a node, to look at before its group is moved: keeps grouping linear
local SMALL = 65536 -- elements up to which unrelated pointwise work of one shape is run together

local kind_of = facts.kind_of
local takes_prologue = { reduce = true, norm = true }
local random = { dropout = true, noise = true }
local fusable = { f32 = true, f64 = true } -- wider and narrower types get a group per node

local Builder = {}
Builder.__index = Builder

-- ---- reading ----

-- Operands of a node as { base=, direct= }: direct = the same element of a value with the node's own shape. What is stored in
-- the order of a permute is never that, so nothing is fused behind it.
function Builder:operands(id)
  local found = self.reads[id]
  if found then return found end
  local f, v = self.f, self.v
  found = {}
  local function add(at, shape_key)
    if not at.const then
      local direct = at.whole and not v.layout[at.base] and f.key[at.base] == f.key[id] and shape_key == f.key[id]
      found[#found + 1] = { base = at.base, direct = direct }
    end
  end
  if v.copies[id] then
    add(v.copies[id], f.key[id])
  else
    for _, input in ipairs(f.ins[id]) do add(v.at[input], f.key[input]) end
  end
  self.reads[id] = found
  return found
end

-- Real nodes that read the storage of `base`, and how often.
function Builder:count_readers()
  for id = 0, self.f.n - 1 do
    if self:is_real(id) then
      for _, operand in ipairs(self:operands(id)) do
        local list = self.readers[operand.base]
        if not list then
          list = {}
          self.readers[operand.base] = list
        end
        list[#list + 1] = id
      end
    end
  end
  for _, root in ipairs(self.f.roots) do self.wanted[self.v.at[root.node].base] = true end
end

function Builder:is_real(id)
  local f, op = self.f, self.f.op[id]
  return f.live[id] and not facts.leaf[op] and (self.v.copies[id] ~= nil or not (facts.view[op] or facts.identity[op]))
end

function Builder:position(base)
  local group = self.home[base]
  return group and group.pos or 0 -- leaves are ready from the start
end

-- Anchors read memory, so a constant that one of them takes is written out first.
function Builder:settle_constants()
  local f, v = self.f, self.v
  for id = 0, f.n - 1 do
    if f.live[id] and kind_of[f.op[id]] then
      for _, input in ipairs(f.ins[id]) do
        if v.at[input].const and f.op[input] ~= "const" then views.force(f, v, input) end
      end
    end
  end
end

-- ---- groups ----

function Builder:open(kind, id)
  local f = self.f
  local anchor = kind ~= "pointwise" and id or nil
  local group = { kind = kind, pos = #self.list + 1, nodes = { id }, anchor = anchor, prologue = {},
    key = f.key[id], dtype = f.dtype[id], -- of all its nodes
    bases = {}, operands = 0,             -- values it reads from memory
    early = {} }                          -- nodes that run before the epilogue
  if anchor then group.early[anchor] = true end
  self.list[group.pos] = group
  self.home[id] = group
  self:note_operands(group, id)
  return group
end

function Builder:note_operands(group, id)
  for _, operand in ipairs(self:operands(id)) do
    if not group.bases[operand.base] and self.home[operand.base] ~= group then
      group.bases[operand.base] = true
      group.operands = group.operands + 1
    end
  end
end

function Builder:join(group, id)
  group.nodes[#group.nodes + 1] = id
  self.home[id] = group
  self:note_operands(group, id)
end

-- All dtypes of a node that may share a vector function: its own and those it reads.
function Builder:one_dtype(id)
  local f, dtype = self.f, self.f.dtype[id]
  if not fusable[dtype] then return false end
  for _, input in ipairs(f.ins[id]) do
    if f.dtype[input] ~= dtype then return false end
  end
  return true
end

function Builder:fits(group, id)
  return group.key == self.f.key[id] and group.dtype == self.f.dtype[id] and fusable[group.dtype] and not group.alone
    and #group.nodes < MAX_NODES and group.operands + #self.f.ins[id] <= MAX_OPERANDS and self:one_dtype(id)
end

-- One of two ways to group, the first unless tuned; self.choices keeps what was asked, as Unit:choice does.
function Builder:choice(name, candidates)
  local known = self.choices[name]
  if not known then
    local value = self.tuning[name] == candidates[2] and candidates[2] or candidates[1]
    known = { candidates = candidates, value = value, label = "whole kernel" }
    self.choices[name] = known
  end
  return known.value
end

-- Does pointwise work behind an anchor of this kind run with it?
function Builder:fuses(group)
  return not group.anchor or self:choice(group.kind .. "_epilogue", { "fused", "apart" }) == "fused"
end

-- Can everything `group` reads from outside be had at position `pos` of group `target`?
function Builder:ready_before(group, target)
  for _, id in ipairs(group.nodes) do
    for _, operand in ipairs(self:operands(id)) do
      local home = self.home[operand.base]
      if home and home ~= group then
        if home.pos > target.pos or (home == target and not operand.direct) then return false end
      end
    end
  end
  return true
end

-- Does nothing placed before `target` read `group` from outside, and `target` itself only in its epilogue, directly?
function Builder:unread_before(group, target)
  for _, id in ipairs(group.nodes) do
    local readers = self.readers[id] or {}
    if #readers > MAX_READERS then return false end
    for _, reader in ipairs(readers) do
      local home = self.home[reader]
      if home and home ~= group then
        if home.pos < target.pos then return false end
        if home == target then
          for _, operand in ipairs(self:operands(reader)) do
            if operand.base == id and not (operand.direct and not target.early[reader]) then return false end
          end
        end
      end
    end
  end
  return true
end

-- Moves pointwise group `from` into `into` when that keeps the invariant. True when moved.
function Builder:merge(from, into)
  if from == into then return true end
  if from.kind ~= "pointwise" or from.key ~= into.key or from.dtype ~= into.dtype then return false end
  if from.alone or into.alone then return false end
  if #from.nodes + #into.nodes > MAX_NODES or from.operands + into.operands > MAX_OPERANDS then return false end
  local allowed = from.pos > into.pos and self:ready_before(from, into) or
                  from.pos < into.pos and self:unread_before(from, into)
  if not allowed then return false end
  if not self:fuses(into) then return false end
  for _, id in ipairs(from.nodes) do self:join(into, id) end
  from.gone = true
  return true
end

-- ---- placing ----

-- The groups whose elements `id` reads directly, latest first, and the latest position it must wait for.
function Builder:sources(id)
  local list, latest, latest_direct = {}, 0, true
  for _, operand in ipairs(self:operands(id)) do
    local group = self.home[operand.base]
    if group then
      if group.pos > latest then latest, latest_direct = group.pos, true end
      if operand.direct then list[#list + 1] = group end
      if group.pos == latest and not operand.direct then latest_direct = false end
    end
  end
  table.sort(list, function(a, b) return a.pos > b.pos end)
  return list, latest, latest_direct
end

-- A group of unrelated pointwise work that may take `id` along: same shape, after everything `id` reads.
function Builder:companion(id, latest)
  local group = self.last_of[self.f.key[id]]
  if not group or group.gone or group.pos <= latest or not self:fits(group, id) then return nil end
  for _, operand in ipairs(self:operands(id)) do
    if group.bases[operand.base] then return group end -- reads something anyway
  end
  local count = self.f.D:value(self.f:numel(id))
  return count and count <= SMALL and group or nil
end

function Builder:place_pointwise(id)
  local sources, latest, direct = self:sources(id)
  local into = sources[1]
  if not (into and direct and into.pos == latest and self:fits(into, id) and self:fuses(into)) then
    into = self:companion(id, latest)
    if into then return self:join(into, id) end
    into = self:open("pointwise", id)
    into.alone = not self:one_dtype(id)
    self.last_of[into.key] = into
    return
  end
  self:join(into, id)
  for i = 2, #sources do
    local other = sources[i]
    if not other.gone and other ~= into then
      if not self:merge(other, into) and self:merge(into, other) then into = other end
    end
  end
end

-- Moves the pointwise work that only feeds input 0 of the anchor in front of it.
function Builder:absorb(group)
  local f, anchor = self.f, group.anchor
  local first, uses = self:operands(anchor)[1], 0
  local at = self.v.at[f.ins[anchor][1]]
  if at.const or not at.whole or f.key[at.base] ~= f.key[f.ins[anchor][1]] then return end
  local source = self.home[first.base]
  if not source or source.kind ~= "pointwise" or source.dtype ~= f.dtype[anchor] or source.alone then return end
  for _, operand in ipairs(self:operands(anchor)) do uses = uses + (operand.base == first.base and 1 or 0) end
  if uses > 1 then return end
  local moved = { [anchor] = true }
  local function only_here(id)
    for _, reader in ipairs(self.readers[id] or {}) do
      if not moved[reader] or (reader == anchor and id ~= first.base) then return false end
    end
    return not self.wanted[id] and not random[f.op[id]]
  end
  if only_here(first.base) and self:choice(group.kind .. "_prologue", { "fused", "apart" }) == "apart" then return end
  table.sort(source.nodes)
  local kept = {}
  for i = #source.nodes, 1, -1 do
    local id = source.nodes[i]
    local last = id == first.base
    if (last or next(group.prologue)) and only_here(id) then
      moved[id] = true
      table.insert(group.prologue, 1, id)
    else
      table.insert(kept, 1, id)
    end
  end
  self:take_prologue(group, source, kept)
end

function Builder:take_prologue(group, source, kept)
  for _, id in ipairs(group.prologue) do
    self.home[id], group.early[id] = group, true
    self:note_operands(group, id)
  end
  source.nodes, source.bases, source.operands = kept, {}, 0
  for _, id in ipairs(kept) do self:note_operands(source, id) end
  source.gone = #kept == 0
end

function Builder:place(id)
  local kind = kind_of[self.f.op[id]]
  if not kind then return self:place_pointwise(id) end
  local group = self:open(kind, id)
  if takes_prologue[kind] then self:absorb(group) end
end

-- Names the root, if any, that has no storage of its own to be given; the pass `roots` cures all of them.
local function bad_root(f)
  local seen = {}
  for _, root in ipairs(f.roots) do
    if facts.leaf[f.op[root.node]] or seen[root.node] then return root end
    seen[root.node] = true
  end
end

local half = { f16 = true, bf16 = true }

-- Refuses dtypes that no recipe takes, naming the first node that has one.
local function check_dtypes(f)
  for id = 0, f.n - 1 do
    if f.live[id] and half[f.dtype[id]] then
      local name = f.graph:label(id)
      return ("%s%s is %s; kernels compute f32 and f64 and move i32 i64 u8 bool: convert it outside")
        :format(f.op[id], name and " '" .. name .. "'" or " %" .. id, f.dtype[id])
    end
  end
end

--- Groups of a graph in execution order: { groups = {...}, alias = {...}, facts = f, views = v, choices = what may be tuned }
-- | nil, message, status. tuning: { [choice] = value }, or nil.
function M.build(graph, tuning)
  local f = facts.read(graph)
  local wrong = check_dtypes(f)
  if wrong then return nil, wrong, "EDTYPE" end
  local root = bad_root(f)
  if root then
    return nil, ("group: %s '%s' is a leaf or the same node as another root; run the pass 'roots' before grouping")
      :format(root.kind, root.name), "EINTERNAL"
  end
  local b = setmetatable({ f = f, v = views.of(f), list = {}, -- groups by position
    home = {}, reads = {}, readers = {}, wanted = {},         -- by node: its group, operands, readers, root or not
    last_of = {}, choices = {}, tuning = tuning or {} }, Builder) -- by shape: the latest group without anchor
  b:settle_constants()
  b:count_readers()
  for id = 0, f.n - 1 do
    if b:is_real(id) then b:place(id) end
  end
  local groups = {}
  for _, group in ipairs(b.list) do
    if not group.gone then groups[#groups + 1] = form.finish(b, group) end
  end
  return { groups = groups, alias = b.v.alias, facts = f, views = b.v, choices = b.choices }
end

return M
