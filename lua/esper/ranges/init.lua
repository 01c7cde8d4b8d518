--- Range proof: for all shapes that a kernel declares, every load and store of its steps stays inside its buffer. The symbolic half
-- of the memory certificate; validate.lua asks for it, the guard pages (src/run/guard.c) hold the machine code of drawn shapes.
--
-- What is read is what runs: the C text of the step functions, and the programs of the vector blocks, each accepted only when its
-- lowering stands in the unit word for word. That programs and machine code agree is tested elsewhere (vec_spec, vec_fuzz).
-- The claim is over the symbol ranges of the plan, with every shape free of negative extents, which the run time checks
-- before a step runs, and over whole numbers of any size: it also refuses shapes whose sizes pass 2^62.
--
--   ranges.prove(compiled, programs) -> { proved =, data =, unproved =, violated =, steps = n, notes = { text, ... }, failure = text }
--       programs   { { text = listing, lowered = C text, name = }, ... } of compile.programs
--       proved     accesses inside their buffers for all shapes
--       data       accesses at addresses made of loaded data or otherwise outside polynomials
--       unproved   accesses that the proof did not manage; notes says where
--       failure    an access that leaves its buffer at a shape, when one was found

require("jit").off(true, true) -- see poly.lua
local block = require "esper.ranges.block"
local c_text = require "esper.ranges.c_text"
local native = require "esper.native"
local space = require "esper.ranges.space"
local steps = require "esper.ranges.steps"
require "esper.ranges.values"
require "esper.ranges.samples"
local C = native.C

local M = {}

local Proof = {}
Proof.__index = Proof

-- ---- dimensions ----

local OPERATORS = {
  ["+"] = function(s, a, b) return s:plus(a, b) end,
  ["-"] = function(s, a, b) return s:minus(a, b) end,
  ["*"] = function(s, a, b) return s:mul(a, b) end,
  ["/"] = function(s, a, b) return s:quotient(a, b, true) end,
}

local function evaluate(p, x)
  if x[1] == "num" then return p.space:number(x[2]) end
  if x[1] == "name" then return p.symbols[x[2]] end
  if x[1] == "un" then return p.space:scaled(evaluate(p, x[3]), -1) end
  return OPERATORS[x[2]](p.space, evaluate(p, x[3]), evaluate(p, x[4]))
end

-- The polynomial of a dimension.
function Proof:dim(d)
  local known = self.dims[d]
  if not known then
    known = evaluate(self, c_text.dimension(self.D:text(d)))
    self.dims[d] = known
  end
  return known
end

function Proof:declare_symbols()
  local s = self.space
  for _, symbol in ipairs(self.D:symbols()) do
    local atom = s:atom(0, true)
    local x = s:var(atom)
    s:sample_symbol(atom, symbol.min, symbol.max)
    self.symbols[symbol.name] = x
    s.most[atom] = symbol.max
    s:assume(s:minus(x, s:number(symbol.min)))
    if symbol.max < 2 ^ 53 then s:assume(s:minus(s:number(symbol.max), x)) end
  end
end

-- ---- values ----

-- Name and bytes of every value of the plan; no extent is negative.
function Proof:values()
  local s, list = self.space, {}
  for i = 0, C.es_plan_value_count(self.plan) - 1 do
    local v = C.es_plan_value_get(self.plan, i)
    local bytes = s:number(native.dtypebytes[native.dtypename[v.dtype]])
    for a = 0, v.rank - 1 do
      local extent = self:dim(v.shape[a])
      if not s:plain(extent) then s:assume(extent) end
      bytes = s:mul(bytes, extent)
    end
    local name = native.string(v.name)
    list[i] = { bytes = bytes, name = ("%s '%s' [%s]"):format(native.rolename[v.role], name ~= "" and name or "#" .. i,
      native.string(C.es_plan_shape_text(self.plan, i))) }
  end
  return list
end

-- ---- steps ----

function Proof:function_tree(name)
  local tree = self.trees[name]
  if tree == nil then
    local body = self.functions[name]
    local why
    tree, why = c_text.parse(body or "")
    self.trees[name] = tree or false
    self.unread[name] = why
  end
  return tree
end

-- Operands and dimensions of a step, and a key that steps with the same proof share.
function Proof:interface(step, values)
  local s, operands, dims = self.space, {}, {}
  local key = { native.string(step.fn), step.stream_count, s:key(self:dim(step.tiles)) }
  for i = 1, step.operand_count do
    operands[i] = values[step.operands[i - 1]]
    key[#key + 1] = s:key(operands[i].bytes)
  end
  for i = 1, step.dim_count do
    dims[i] = self:dim(step.dims[i - 1])
    key[#key + 1] = s:key(dims[i])
  end
  return operands, dims, table.concat(key, ";")
end

function Proof:step(index, values)
  local s, step = self.space, C.es_plan_step_get(self.plan, index)
  local operands, dims, key = self:interface(step, values)
  local sites = self.known[key]
  if sites then return sites end
  local name = native.string(step.fn)
  local tree, why = self:function_tree(name), nil
  if tree then
    sites, why = steps.read { space = s, programs = self.programs, tree = tree, operands = operands, dims = dims,
      tiles = self:dim(step.tiles), streams = step.stream_count, scopes = s.scopes }
  else
    why = self.unread[name]
  end
  sites = sites or { { status = "unproved", detail = { text = why } } }
  self.known[key] = sites
  return sites
end

local function programs_of(unit, programs)
  local out = {}
  for _, p in ipairs(programs) do
    if unit:find(p.lowered, 1, true) then
      local ok, program = pcall(block.read, p.text)
      out[p.name] = ok and program or { unread = program }
    else
      out[p.name] = { unread = "block " .. p.name .. " is not the one in the unit" }
    end
  end
  return out
end

local function new(compiled, programs)
  local p = setmetatable({ space = space.new(), plan = compiled.plan, D = compiled.plan_dims, symbols = {}, dims = {}, trees = {},
    unread = {}, known = {}, functions = c_text.functions(compiled.unit), programs = programs_of(compiled.unit, programs) }, Proof)
  p:declare_symbols()
  return p
end

-- The symbols' values at a point, as text.
function Proof:shape(point)
  local out = {}
  for _, symbol in ipairs(self.D:symbols()) do
    out[#out + 1] = ("%s=%d"):format(symbol.name, self.space:at(self.symbols[symbol.name], point))
  end
  return table.concat(out, " ")
end

function Proof:describe(index, site)
  local d, label = site.detail, native.string(C.es_plan_step_get(self.plan, index).label)
  local where = ("step %d %s: %s"):format(index, label, d.text)
  if not d.found then return ("%s: %s%s"):format(site.status, where, d.buffer and " in " .. d.buffer or "") end
  return ("%s reaches %d bytes %s %s at %s"):format(where, d.found.bytes, d.found.side == "past" and "past the end of"
    or "before the start of", d.buffer, self:shape(d.found.point))
end

function M.prove(compiled, programs)
  local p = new(compiled, programs)
  local out = { proved = 0, data = 0, unproved = 0, violated = 0, steps = C.es_plan_step_count(p.plan), notes = {} }
  local values = p:values()
  for i = 0, out.steps - 1 do
    for _, site in ipairs(p:step(i, values)) do
      out[site.status] = out[site.status] + 1
      if site.status ~= "proved" then out.notes[#out.notes + 1] = p:describe(i, site) end
      if site.status == "violated" then out.failure = out.failure or p:describe(i, site) end
    end
  end
  out.searches = p.space.total
  return out
end

return M
