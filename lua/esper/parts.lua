--- One group of a kernel alone, the autotuner's unit of work: tune.lua times its variants.
--
--   parts.new(side, pool) -> parts    side of sides.esper, of a fresh compile: its data and sizes
--   parts.list = { { n = index of the group, signature =, count = groups alike, took = nanoseconds of all these, roughly,
--       choices = of Unit:choice }, ... }
--       of every group that runs each time and offers choices
--   parts:make(entry, { [choice] = value }) -> part, or false when one that does the same work was made before
--   parts.workspace(holder, kernel, symbols, pool) -> memory for its workspace
--   part = { run = fn(reps, ns), once = its first run does more than those after, results = fn() -> tensors by name, free = fn() }
-- Failures are thrown, as compile.lua's stages do: { message =, status = }.
-- A part has the steps that run at the side's sizes (of one round: es_rounds in run/plan.h) and no others, so it takes about a
-- millisecond to compile. Every value that groups store lies in a tensor here, as the whole kernel computes it, so a part runs
-- on true data; results that it writes there differ from those by rounding alone, or it loses.
local compile = require "esper.compile"
local emit = require "esper.emit"
local native = require "esper.native"
local planner = require "esper.planner"
local tensor = require "esper.tensor"
local C, fresh, failure = native.C, native.fresh, native.failure
local M = {}

local Parts = {}
Parts.__index = Parts

-- The steps of a group that run at these sizes, and what tells their work apart: their dims' values.
function Parts:running(steps)
  local D, list, numbers = self.f.D, {}, {}
  local all = assert(D:eval(self.values_of_round)) -- only now: recipes make dims
  local skipped = self.frozen and { fluid = true } or { pack = true, frozen = true }
  for _, step in ipairs(steps) do
    if not skipped[step.when] and all[step.tiles] > 0 then
      list[#list + 1] = step
      numbers[#numbers + 1] = all[step.tiles]
      for _, d in ipairs(step.dims) do numbers[#numbers + 1] = all[d] end
    end
  end
  return list, table.concat(numbers, " "), all
end

--- Memory for the workspace of a kernel, at one place for all that are compared: where buffers lie decides more than many a
-- choice. holder.memory keeps it.
function M.workspace(holder, kernel, symbols, pool)
  local bytes = native.new "int64_t[1]"
  if C.es_kernel_workspace(kernel, symbols, pool, bytes, fresh()) ~= 0 then
    local _, message, status = failure()
    error({ message = message, status = status }, 0)
  end
  local need = tonumber(bytes[0])
  if not holder.memory or holder.memory.bytes < need then holder.memory = tensor.new("u8", { 2 * need + 2 ^ 16 }) end
  return holder.memory.data
end

-- A tensor for a stored value, made when first met.
function Parts:place(id, all)
  local shape = {}
  for axis, d in ipairs(self.f.shape[id]) do shape[axis] = all[d] end
  self.values[id] = self.values[id] or tensor.new(self.f.dtype[id], shape)
  return self.values[id]
end

-- A plan's part with its operands bound; code: C text or an object.
function Parts:bound(n, steps, temps, code, all)
  local r, side = self.side.compiled, self.side
  local made = planner.part { groups = r.groups, source = r.graph, group = n, steps = steps, temps = temps }
  local kernel = compile.link(made.plan, code)
  local data, run, outputs = native.new("void *[?]", C.es_plan_value_count(made.plan) + 1), native.new "es_run", {}
  for i = 0, self.leaves - 1 do data[i] = side.es_run.data[i] end
  for id, index in pairs(made.values) do data[index] = self:place(id, all).data end
  for _, id in ipairs(r.groups.groups[n].outputs) do outputs["output %" .. id] = self.values[id] end
  run.symbols, run.data, run.seed, run.frozen, run.pool = self.symbols, data, side.es_run.seed, side.es_run.frozen, self.pool
  run.workspace = M.workspace(self, kernel, run.symbols, self.pool)
  local part = { keep = { side, data, self.pool, self.memory }, once = false }
  for _, step in ipairs(steps) do part.once = part.once or step.when == "pack" or step.when == "prepare" end
  function part.run(reps, ns)
    if C.es_measure_kernel(kernel, run, reps, self.pool == nil, ns, fresh()) ~= 0 then return failure() end
    return true
  end
  function part.results() return outputs end
  function part.free() C.es_kernel_release(native.gc(kernel, nil)) end -- holds memory that the collector does not see
  return part
end

function Parts:make(entry, choices)
  local unit, groups = self.unit, self.side.compiled.groups
  unit.fixed, unit.present, unit.tuning = groups.fixed, entry.signature, { [entry.signature] = choices }
  local steps, temps = unit:group(groups.groups[entry.n])
  local running, numbers, all = self:running(steps)
  local text, renamed = unit:extract(running)
  local key = numbers .. text
  if entry.seen[key] then return false end
  entry.seen[key] = true
  return self:bound(entry.n, renamed, temps, text, all)
end

-- Are all nodes of a group made of parameters alone? Then it runs once, as long as these stay.
local function once(groups, group)
  for id in pairs(group.args) do
    if not groups.fixed[id] then return false end
  end
  return true
end

-- Runs every group once, in order, and lists those with choices.
local function fill(self)
  local r, known, one = self.side.compiled, {}, native.new "double[1]"
  for n, group in ipairs(r.groups.groups) do
    local code = r.code[n]
    local running, _, all = self:running(code.steps)
    local part = self:bound(n, running, code.temps, r.object, all)
    local _, why, status = part.run(1, one)
    if why then error({ message = why, status = status }, 0) end
    part.free()
    local choices, entry = r.choices[code.signature], known[code.signature]
    if entry then
      entry.count, entry.took = entry.count + 1, entry.took + one[0]
    elseif choices and not once(r.groups, group) then
      entry = { n = n, signature = code.signature, count = 1, took = one[0], choices = choices, seen = {} }
      known[code.signature], self.list[#self.list + 1] = entry, entry
    end
  end
  return self
end

-- The sizes that the steps see: those of one round, where the kernel takes rounds.
local function sizes_of_round(self)
  local r, D = self.side.compiled, self.side.compiled.plan_dims
  self.symbols, self.values_of_round = native.new("int64_t[?]", #D:symbols() + 1), {}
  if C.es_kernel_round(r.kernel, self.side.es_run.symbols, self.symbols, fresh()) ~= 0 then
    local _, message, status = failure()
    error({ message = message, status = status }, 0)
  end
  for i, s in ipairs(D:symbols()) do self.values_of_round[s.name] = tonumber(self.symbols[i - 1]) end
  return self
end

function M.new(side, pool)
  local r = side.compiled
  local leaves = 0
  for _, role in ipairs { "input", "param", "buffer" } do leaves = leaves + C.es_plan_role_count(r.plan, native.role[role]) end
  return fill(sizes_of_round(setmetatable({ side = side, pool = pool, f = r.groups.facts, leaves = leaves,
    frozen = tonumber(side.es_run.frozen) ~= 0, unit = emit.unit(r.groups.facts.graph, r.isa), -- one for all: blocks are built once
    values = {}, list = {} }, Parts)))
end

return M
