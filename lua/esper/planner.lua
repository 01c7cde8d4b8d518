--- The memory plan: which value lives where, and the steps over them, handed to C as an es_plan (run/plan.h).
-- After grouping and recipes, before the kernel. Temporaries take turns in workspace slots.
--
-- Invariant: two temporaries share a slot only when their lives, counted in groups, do not touch: a life spans from the
-- group that stores the value to the last group that reads it, both included, so no group's output overlaps
-- anything the group reads. An output's memory is such a slot too, until the group that stores the output. New values of
-- buffers live to the end, where the run time copies them over.
--
--   planner.build{ groups = group.build's result, source = graph before the passes, code = { { steps=, temps= }, ... } }
--     -> { plan = es_plan *, naive = text, slots = n } | nil, message, status
--   planner.part{ groups =, source =, group = n, steps =, temps = } -> { plan =, values = { [node] = value index } }
--     group n alone: what it reads and writes besides leaves, which keep their numbers, is for the caller to place
--   naive: bytes of all intermediate values, each computed into memory of its own, as a node by node execution would; the
--   plan's workspace is what is left of them after fusion, taking turns
local cost = require "esper.cost"
local native = require "esper.native"
local rows = require "esper.rows"
local C = native.C
local M = {}

local given = { input = true, param = true, buffer = true }

local Planner = {}
Planner.__index = Planner

local ROUND = 131072 -- bytes of workspace from which on rows are done in rounds
local PASSES = 4     -- the same, as a part of the parameters
local MANY = 200 -- lives; beyond so many one order of serving them has to do

local function fail(message, status) error({ message = message, status = status }, 0) end

local function check(index)
  if index < 0 then
    local _, message, status = native.failure()
    fail(message, status)
  end
  return index
end

-- ---- values ----

local function fill_shape(value, shape)
  value.rank = #shape
  for k = 1, #shape do value.shape[k - 1] = shape[k] end
end

local new_value, new_step = native.typeof("es_value"), native.typeof("es_step")
local ints, dims, words = native.typeof("int32_t[?]"), native.typeof("es_dim[?]"), native.typeof("uint32_t[?]")

function Planner:value(spec)
  local value = new_value()
  value.role, value.dtype = native.role[spec.role], native.dtype[spec.dtype]
  value.slot, value.buffer = spec.slot or -1, spec.buffer or -1
  fill_shape(value, spec.shape)
  local name = spec.name or "" -- anchored while C copies it
  value.name = name
  return check(C.es_plan_value(self.plan, value, native.fresh()))
end

-- The leaves of the graph before the passes are the signature, in its order, whether or not a pass left them a reader.
function Planner:signature(source)
  local f = self.f
  local of = ints(f.n + 1)
  if C.es_plan_leaves(self.plan, source.ptr, f.graph.ptr, of, native.fresh()) ~= 0 then
    local _, message, status = native.failure()
    fail(message, status)
  end
  for id = 0, f.n - 1 do
    if given[f.op[id]] and of[id] >= 0 then self.index[id] = of[id] end
  end
end

-- ---- lives and slots ----

-- Every temporary as { bytes=dim, first=, last=, node= or group=, temp= }, groups counted from 1.
function Planner:lives(code)
  local f, D, list, of = self.f, self.f.D, {}, {}
  local groups = self.groups.groups
  for n, group in ipairs(groups) do
    for _, id in ipairs(group.outputs) do
      if not self.output[id] then
        local life = { node = id, first = n, last = self.update[id] and #groups or n, kept = self.fixed[n],
          gathers = self.late[n] or self.joined[n] ~= nil,
          bytes = D:mul(f:numel(id), D:const(native.dtypebytes[f.dtype[id]])) }
        list[#list + 1], of[id] = life, life
      end
    end
    for _, args in pairs(group.args) do
      for _, arg in ipairs(args) do
        local life = arg.base and of[arg.base]
        if life and life.last < n then life.last = n end
      end
    end
    for i, temp in ipairs(code[n].temps) do
      list[#list + 1] = { group = n, temp = i, first = n, last = n, bytes = temp.bytes, kept = temp.kept or self.fixed[n],
        gathers = self.late[n] or self.joined[n] and self.joined[n][i] }
    end
  end
  return list
end

-- A size in bytes to compare lives by: at the middle of what the symbols may be, at most 64. A guess that decides only
-- who shares with whom; the run time takes the true largest of a slot.
local function typical(D)
  local values = {}
  for _, s in ipairs(D:symbols()) do values[s.name] = math.max(s.min, math.min(s.max, 64)) end
  local size = D:eval(values)
  return function(d) return size and size[d] or 0 end
end

local function overlaps(slot, life)
  for n = life.first, life.last do
    if slot.busy[n] then return true end
  end
  return false
end

-- The outputs as slots: taken from the group on that stores them.
function Planner:output_slots(size)
  local f, D, slots, groups = self.f, self.f.D, {}, self.groups.groups
  for n, group in ipairs(groups) do
    for _, id in ipairs(group.outputs) do
      if self.output[id] and not (self.late[n] or self.joined[n]) then
        local bytes = D:mul(f:numel(id), D:const(native.dtypebytes[f.dtype[id]]))
        local slot = { output = self.index[id], busy = {}, size = size(bytes), bytes = bytes, dtype = f.dtype[id] }
        for later = n, #groups do slot.busy[later] = true end
        slots[#slots + 1] = slot
      end
    end
  end
  return slots
end

-- May `life` be in this slot? In an output when it is a value of no wider type, surely not larger.
function Planner:suits(slot, life)
  if overlaps(slot, life) then return false end
  if not slot.output then return true end
  local dtype = life.node and self.f.dtype[life.node]
  return dtype and not self.update[life.node] and native.dtypebytes[dtype] <= native.dtypebytes[slot.dtype]
    and (life.bytes == slot.bytes or self.f.D:ge(slot.bytes, life.bytes))
end

-- Slots for all lives: { [life] = slot } and the bytes they take. What is kept or gathered gets a slot of its own. The rest: largest
-- first, each into the free slot it fits best: the same size, else the smallest that is larger, else the largest. Of equal
-- ones the earliest first, or the latest.
function Planner:assign(list, size, latest)
  local slots, chosen, total, sorted = self:output_slots(size), {}, 0, { unpack(list) }
  table.sort(sorted, function(a, b)
    if a.size ~= b.size then return a.size > b.size end
    return (a.order < b.order) ~= latest and a.order ~= b.order
  end)
  for _, life in ipairs(sorted) do
    local best, waste
    local alone = life.kept or life.gathers
    for _, slot in ipairs(alone and {} or slots) do
      if self:suits(slot, life) then
        local w = slot.bytes == life.bytes and -1 or slot.size - life.size
        if not best or w < waste then best, waste = slot, w end
      end
    end
    if not best then
      best = { busy = {}, size = life.size, bytes = life.bytes, kept = life.kept, gathers = life.gathers }
      if not alone then slots[#slots + 1], total = best, total + life.size end
    end
    for n = life.first, life.last do best.busy[n] = true end
    chosen[life] = best
  end
  return chosen, total
end

-- Gives every life its slot, or its output: they are free early on, so that it may be best to serve the latest lives first.
function Planner:share(list)
  local size, count = typical(self.f.D), 0
  for i, life in ipairs(list) do life.size, life.order = size(life.bytes), i end
  local chosen, total = self:assign(list, size, false)
  if total > 0 and #list <= MANY then
    local other, less = self:assign(list, size, true)
    chosen = less < total and other or chosen
  end
  for _, life in ipairs(list) do
    local slot = chosen[life]
    if not slot.output and not slot.index then
      slot.index, slot.given = C.es_plan_slot(self.plan), {}
      if slot.index < 0 then fail("plan: no memory for a slot", "ENOMEM") end
      if slot.kept then C.es_plan_slot_keep(self.plan, slot.index) else count = count + 1 end
      if slot.gathers and not slot.kept then C.es_plan_slot_gather(self.plan, slot.index) end
    end
    life.slot, life.output = slot.index, slot.output
    if slot.index and not slot.given[life.bytes] then
      slot.given[life.bytes] = true
      if C.es_plan_slot_size(self.plan, slot.index, life.bytes) ~= 0 then fail("plan: no memory for a slot", "ENOMEM") end
    end
  end
  return count
end

-- The value of the buffer an update is for: es_graph_root saw to it that the graph has one.
function Planner:buffer_of(name) return self.index[C.es_graph_find(self.f.graph.ptr, name)] or -1 end

function Planner:place(list)
  local f = self.f
  for _, life in ipairs(list) do
    if life.temp then
      self.temps[life.group] = self.temps[life.group] or {}
      self.temps[life.group][life.temp] = self:value { role = "temp", dtype = "u8", shape = { life.bytes }, slot = life.slot }
    elseif self.update[life.node] then
      local root = self.update[life.node]
      self.index[life.node] = self:value { role = "update", name = root.name, dtype = f.dtype[root.node],
        shape = f.shape[root.node], slot = life.slot, buffer = self:buffer_of(root.name) }
    else
      self.index[life.node] = self:value { role = "temp", dtype = f.dtype[life.node], shape = f.shape[life.node],
        slot = life.slot, buffer = life.output }
    end
  end
end

-- ---- steps ----

local function array(of, list)
  local block = of(#list + 1)
  for i = 1, #list do block[i - 1] = list[i] end
  return block
end

function Planner:step(n, step)
  local operands = {}
  for i, operand in ipairs(step.operands) do
    local index
    if operand.temp then index = self.temps[n][operand.temp] else index = self.index[operand.value] end
    if not index then
      fail(("plan: step '%s' uses %%%s, which has no storage"):format(step.label, tostring(operand.value)), "EINTERNAL")
    end
    operands[i] = index
  end
  local row = new_step()
  local o, d, s = array(ints, operands), array(dims, step.dims), array(words, step.streams)
  row.fn, row.label, row.tiles = step.fn, step.label, step.tiles
  local last = self.late[n] or self.joined[n] and step.joins
  row.when = native.when[step.when ~= "always" and step.when or self.fixed[n] and "prepare" or last and "last" or "always"]
  row.operand_count, row.dim_count, row.stream_count = #operands, #step.dims, #step.streams
  row.operands, row.dims, row.streams = o, d, s
  check(C.es_plan_step(self.plan, row, native.fresh()))
end

-- Which stored nodes belong to a root; a root that is an alias gives its base the role.
function Planner:roots()
  for _, root in ipairs(self.f.roots) do
    local base = self.groups.views.at[root.node].base
    self[root.kind][base] = root
  end
end

-- Groups whose results are kept while parameters are frozen: those that compute what groups.fixed names.
function Planner:find_fixed()
  local fixed = self.groups.fixed or {}
  for n, group in ipairs(self.groups.groups) do
    local all = true
    for id in pairs(group.args) do all = all and fixed[id] end
    self.fixed[n] = all or nil
  end
end

-- Values computed on the way: of every node of every group that is neither output nor made of parameters alone.
function Planner:intermediates()
  local f, fixed, sum = self.f, self.groups.fixed or {}, self.f.D:const(0)
  for _, group in ipairs(self.groups.groups) do
    for id in pairs(group.args) do
      if not self.output[id] and not fixed[id] then
        sum = f.D:add(sum, f.D:mul(f:numel(id), f.D:const(native.dtypebytes[f.dtype[id]])))
      end
    end
  end
  return sum
end

-- Is all that the group stores late? Other work of the same shape may share a group with it.
function Planner:only_late(group, late)
  for _, id in ipairs(group.outputs) do
    if not late[id] then return false end
  end
  return true
end

-- Sets late[n], whether a group waits for all rows, and joined[n], the temporaries of one that makes something of all rows from
-- pieces: { [temp] = true }. False when some group does neither.
function Planner:find_late(code, late)
  for n, group in ipairs(self.groups.groups) do
    local some, all = false, true
    for id, args in pairs(group.args) do
      some, all = some or late[id], all and late[id]
      for _, arg in ipairs(args) do all = all and (not arg.base or late[arg.base] or given[self.f.op[arg.base]]) end
    end
    self.late[n] = all or nil
    if some and not all then self.joined[n] = {} end
    if some and not self:only_late(group, late) then return false end
    local pieces = not self.joined[n]
    for _, step in ipairs(code[n].steps) do
      if all and step.when ~= "always" then return false end
      pieces = pieces or step.joins
      for _, operand in ipairs(self.joined[n] and step.joins and step.operands or {}) do
        if operand.temp then self.joined[n][operand.temp] = true end
      end
    end
    if not pieces then return false end
  end
  return true
end

-- Rounds where rows are apart: an es_rounds. Every round reads all parameters again, which must not take long beside its work.
function Planner:rounds(code, naive)
  local f, parameters = self.f, 0
  local symbols, late = rows.leading(f)
  if not self:find_late(code, late) then symbols = {} end
  if #symbols == 0 then self.late, self.joined = {}, {} end
  for id = 0, f.n - 1 do
    if f.live[id] and f.op[id] == "param" then
      parameters = parameters + (f.D:value(f:numel(id)) or 0) * native.dtypebytes[f.dtype[id]]
    end
  end
  local rounds = native.new "es_rounds"
  rounds.count, rounds.bytes = #symbols, math.max(ROUND, math.floor(parameters / PASSES))
  rounds.most = self.f.D:floordiv(naive, 2)
  for i, symbol in ipairs(symbols) do rounds.symbols[i - 1] = symbol end
  return rounds
end

local function build(p, options)
  local f = p.f
  p:roots()
  p:signature(options.source)
  for _, root in ipairs(f.roots) do
    if root.kind == "output" then
      p.index[p.groups.views.at[root.node].base] = p:value { role = "output", name = root.name,
        dtype = f.dtype[root.node], shape = f.shape[root.node] }
    end
  end
  p:find_fixed()
  local naive = p:intermediates()
  local rounds = p:rounds(options.code, naive)
  local list = p:lives(options.code)
  local slots = p:share(list)
  if slots > 0 then C.es_plan_rounds_set(p.plan, rounds) end -- without a workspace there is nothing to cut
  p:place(list)
  for n, code in ipairs(options.code) do
    for _, step in ipairs(code.steps) do p:step(n, step) end
  end
  local flops, bytes = cost.of(p.groups)
  if C.es_plan_finish(p.plan, flops, bytes, native.fresh()) ~= 0 then
    local _, message, status = native.failure()
    fail(message, status)
  end
  return { plan = p.plan, naive = f.D:text(naive), slots = slots }
end

-- Every stored value the group touches, in node order.
function Planner:touched(group)
  local list, known = {}, {}
  local function add(id)
    if not self.index[id] and not known[id] then list[#list + 1], known[id] = id, true end
  end
  for _, id in ipairs(group.outputs) do add(id) end
  for _, args in pairs(group.args) do
    for _, arg in ipairs(args) do
      if arg.base then add(arg.base) end
    end
  end
  table.sort(list)
  return list
end

local function part(p, options)
  local f, n, values, lives = p.f, options.group, {}, {}
  p:signature(options.source)
  for _, id in ipairs(p:touched(p.groups.groups[n])) do
    local role = p.groups.fixed[id] and "param" or "output" -- what outlasts a run may be read by steps that run once
    p.index[id] = p:value { role = role, name = "%" .. id, dtype = f.dtype[id], shape = f.shape[id] }
    values[id] = p.index[id]
  end
  for i, temp in ipairs(options.temps) do
    lives[i] = { group = n, temp = i, first = n, last = n, bytes = temp.bytes, kept = temp.kept }
  end
  p:share(lives)
  p:place(lives)
  for _, step in ipairs(options.steps) do p:step(n, step) end
  local none = f.D:const(0)
  if C.es_plan_finish(p.plan, none, none, native.fresh()) ~= 0 then
    local _, message, status = native.failure()
    fail(message, status)
  end
  return { plan = p.plan, values = values }
end

local function planned(how, options)
  local groups = options.groups
  local plan = C.es_plan_new(groups.facts.D.ptr)
  if plan == nil then fail("plan: out of memory", "ENOMEM") end
  local p = setmetatable({ f = groups.facts, groups = groups, plan = native.gc(plan, C.es_plan_release),
    index = {}, temps = {}, output = {}, update = {}, fixed = {}, late = {}, joined = {} }, Planner)
  return how(p, options)
end

function M.build(options) return planned(build, options) end
function M.part(options) return planned(part, options) end

return M
