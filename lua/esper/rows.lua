--- Which graphs can be done in rounds, some rows at a time: those where row i of every output is made of row i of the inputs
-- alone, but for outputs made of a reduction over all rows. Between grouping and the plan, which says what rounds are (es_rounds,
-- run/plan.h).
--
--   rows.leading(facts) -> symbols (indices), late { [id] = true }
--     the leading axes of inputs and outputs that nothing in the graph mixes: the first, the first two, or none; what is made
--     of all rows together
--
-- Every live node is of one of three kinds: it has rows (its axis `at` is the symbol, no other axis depends on it), or is made
-- of parameters and constants and has none, or is late: a reduction over the rows, or made of such, parameters and constants. A
-- rule per op says when it keeps rows apart; other ops mix them.
local native = require "esper.native"
local C = native.C
local M = {}

local Rows = {}
Rows.__index = Rows

local order, count = native.new("int32_t[32]"), native.new("int32_t[1]")

function Rows:depends(d)
  count[0] = 0
  C.es_dim_symbols(self.f.D.ptr, d, order, count)
  for i = 0, count[0] - 1 do
    if order[i] == self.symbol then return true end
  end
  return false
end

-- Is the symbol axis `at` of that node and nowhere else (true), nowhere (false), or elsewhere (nil)?
function Rows:lies(id)
  local shape, leads = self.f.shape[id], false
  for i, d in ipairs(shape) do
    if i - 1 == self.at and self.f.D:symbol_index(d) == self.symbol then leads = true
    elseif self:depends(d) then return nil end
  end
  return leads
end

function Rows:attr(id, name) return self.f.graph:attr(id, name) end
function Rows:rank(id) return #self.f.shape[id] end

-- ---- rules: rule(r, id, inputs) -> rows stay apart; inputs with rows and without are in their places ----

-- All inputs with rows have the result's rank: axes align.
local function aligned(r, id, inputs)
  for _, input in ipairs(inputs) do
    if r.has[input] and r:rank(input) ~= r:rank(id) then return false end
  end
  return true
end

-- Only the first input has rows.
local function first_only(r, inputs)
  for i = 2, #inputs do
    if r.has[inputs[i]] then return false end
  end
  return true
end

local function other_axis(r, id, inputs)
  return aligned(r, id, inputs) and r:attr(id, "axis") ~= r.at
end

-- The last n axes are of one row each.
local function before_last(n)
  return function(r, id, inputs) return aligned(r, id, inputs) and r.at < r:rank(id) - n end
end

local function sample(r, id, inputs) return r.at == 0 and first_only(r, inputs) end

local function row_of_weights(r, id, inputs) return first_only(r, inputs) and r.at < r:rank(id) - 1 end

local rule = {
  softmax = other_axis, log_softmax = other_axis, rms_norm = row_of_weights,
  group_norm = sample, batch_norm = sample, conv1d = sample, conv2d = sample,
  max_pool2d = sample, avg_pool2d = sample, adaptive_avg_pool2d = sample,
  linear = row_of_weights, sdpa = before_last(2), rope = before_last(2),
  expand = aligned, topk = other_axis, topk_index = other_axis,
}

-- A batch of products, or one product whose left side has the rows.
function rule.matmul(r, id, inputs)
  if not aligned(r, id, inputs) or r.at == r:rank(id) - 1 then return false end
  return r.at < r:rank(id) - 2 or first_only(r, inputs) and r:attr(id, "ta") == 0
end

function rule.layer_norm(r, id, inputs) return first_only(r, inputs) and r.at < r:rank(id) - r:attr(id, "dims") end
function rule.bias_add(r, id, inputs) return first_only(r, inputs) and r:attr(id, "axis") ~= r.at end
function rule.embedding(r, _, inputs) return not r.has[inputs[1]] end
function rule.permute(r, id) return r:attr(id, "perm")[r.at + 1] == r.at end

-- Axes up to the rows' stay what they are.
function rule.reshape(r, id, inputs)
  local from, to = r.f.shape[inputs[1]], r.f.shape[id]
  for i = 1, r.at + 1 do
    if from[i] ~= to[i] then return false end
  end
  return true
end

function rule.reduce(r, id)
  local keep = r:attr(id, "keepdim") == 1
  for _, axis in ipairs(r:attr(id, "axes")) do
    if axis == r.at or axis < r.at and not keep then return false end
  end
  return true
end

local function all_rows(r, id, inputs)
  for _, input in ipairs(inputs) do
    if not r.has[input] then return false end
  end
  return other_axis(r, id, inputs)
end
rule.concat, rule.gather, rule.scatter_add, rule.slice = all_rows, all_rows, all_rows, all_rows

local function rule_of(op)
  local class = native.opinfo[op].class
  if rule[op] then return rule[op] end
  if class == "pointwise" then return aligned end
  return class == "reduce" and rule.reduce or nil
end

-- ---- the whole graph ----

-- A reduction over the rows, or what follows from late values; what is neither given nor late may be gone by then.
function Rows:late_node(id, any_late)
  local f = self.f
  if not any_late then return native.opinfo[f.op[id]].class == "reduce" end
  for _, input in ipairs(f.ins[id]) do
    local op = f.op[input]
    if not (self.late[input] or op == "param" or op == "buffer" or op == "const") then return false end
  end
  return true
end

-- Random numbers belong to places in the whole value, and a slice may begin at a place that the number of rows decides.
function Rows:whole(id)
  local op = self.f.op[id]
  return native.opinfo[op].class == "random" or op == "slice" and self:depends(self:attr(id, "start"))
end

function Rows:node(id)
  local f, lies = self.f, self:lies(id)
  local op, inputs = f.op[id], f.ins[id]
  if lies == nil or self:whole(id) then return false end
  self.has[id] = lies
  local any, any_late = false, false
  for _, input in ipairs(inputs) do any, any_late = any or self.has[input], any_late or self.late[input] end
  if op == "input" or not (any or any_late or lies) then return true end
  if not lies then
    self.late[id] = true
    return self:late_node(id, any_late)
  end
  local keeps = rule_of(op)
  return not any_late and keeps ~= nil and keeps(self, id, inputs)
end

-- Does nothing mix the rows of that symbol, which is axis `at`? Then what has rows and what comes late, else nil.
local function apart(f, symbol, at)
  local r = setmetatable({ f = f, symbol = symbol, at = at, has = {}, late = {} }, Rows)
  for id = 0, f.n - 1 do
    -- also an input that nobody reads: it is part of the signature
    if (f.live[id] or f.op[id] == "input") and not r:node(id) then return nil end
  end
  for _, root in ipairs(f.roots) do
    if root.kind ~= "output" or not (r.has[root.node] or r.late[root.node]) then return nil end
  end
  return r
end

-- Do two symbols lead the same inputs, and the same nodes come late for both?
local function same(f, a, b)
  for id = 0, f.n - 1 do
    if f.op[id] == "input" and a.has[id] ~= b.has[id] or a.late[id] ~= b.late[id] then return false end
  end
  return true
end

-- The output with the most axes shows where rows may lie.
local function widest(f)
  local best
  for _, root in ipairs(f.roots) do
    local shape = f.shape[root.node]
    if not best or #shape > #best then best = shape end
  end
  return best or {}
end

function M.leading(f)
  local symbols, shape, first = {}, widest(f), nil
  for at = 0, math.min(#shape, 2) - 1 do
    local symbol = f.D:symbol_index(shape[at + 1])
    local found = symbol and apart(f, symbol, at)
    if not found or first and not same(f, first, found) then break end
    symbols[at + 1], first = symbol, first or found
  end
  return symbols, first and first.late or {}
end

return M
