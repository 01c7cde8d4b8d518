-- Random valid graphs over every op: ranks 0 to 5, symbolic dimensions, odd sizes. Pure function of the seed.
--   local graph, used = random_graph.make(seed)     used[op] = times
--   random_graph.make(seed, dtype, true)            symbols only where rows lie, in front: most can be done in rounds
local graph_module = require "esper.graph"
local native = require "esper.native"

local M = {}
local Maker = {}
Maker.__index = Maker

local UNARY = { "neg", "abs", "sqrt", "rsqrt", "exp", "log", "round", "relu", "gelu", "silu", "tanh", "sigmoid", "scale", "clamp",
  "stop_grad", "checkpoint", "telemetry_probe", "dropout", "noise" }
local BINARY = { "add", "sub", "mul", "div", "maximum", "minimum" }
local SIZES = { 1, 2, 3, 4, 5, 7, 8, 9, 13, 17 }

function Maker:int(n) -- 1 .. n
  self.state = self.state * 48271 % 2147483647
  return math.floor(self.state / 2147483647 * n) + 1
end
function Maker:pick(list) return list[self:int(#list)] end
function Maker:chance(p) return self:int(1000) <= p * 1000 end

function Maker:add(op, inputs, attrs, dtype)
  local name
  if op == "input" or op == "param" then
    self.leaves = self.leaves + 1
    name = (op == "input" and "x" or "p") .. self.leaves
  end
  local id, why = self.g:add { op = op, inputs = inputs, attrs = attrs, dtype = dtype, name = name }
  if not id then
    self.refused = ("%s: %s"):format(op, why)
    return nil
  end
  if op ~= "input" and op ~= "param" then self.used[op] = (self.used[op] or 0) + 1 end
  self.pool[#self.pool + 1] = id
  return id
end

function Maker:extent()
  if self:chance(self.lead and 0.04 or 0.45) then return self.D:symbol(self:pick(self.lead and self.lead[1] or { "a", "b", "n" })) end
  return self.D:const(self:pick(SIZES))
end
function Maker:const(n) return self.D:const(n) end

-- What shapes begin with where rows are in front.
local FRONTS = {
  { { "a" }, { "a" }, { "a" }, { "a" }, { "a" }, {} },
  { { "a", "b" }, { "a", "b" }, { "a", "b" }, { "a", "b" }, { "a", "b" }, { "a", "b" }, { "a" }, { "b" }, {} },
}
function Maker:front(rank)
  local out = {}
  for i, name in ipairs(self:pick(self.lead)) do out[i] = i <= rank and self.D:symbol(name) or nil end
  return out
end

-- Does the shape begin as most do?
function Maker:leads(shape)
  for i, name in ipairs(self.lead[1]) do
    if shape[i] ~= self.D:symbol(name) then return false end
  end
  return true
end

function Maker:shape(rank)
  local out = self.lead and self:front(rank) or {}
  for i = #out + 1, rank do out[i] = self:extent() end
  return out
end

local function same(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do if a[i] ~= b[i] then return false end end
  return true
end

-- Values of the pool of this dtype for which ok(shape) holds.
function Maker:find(dtype, ok)
  local found = {}
  for _, id in ipairs(self.pool) do
    if self.g:dtype(id) == dtype and (not ok or ok(self.g:shape(id), id)) then found[#found + 1] = id end
  end
  return #found > 0 and self:pick(found) or nil
end

-- A value of exactly this shape: from the pool, or a new leaf.
function Maker:value(shape, dtype)
  dtype = dtype or self.dtype
  local found = self:chance(0.7) and self:find(dtype, function(s) return same(s, shape) end)
  if found then return found end
  local constant = dtype == self.dtype
  for _, d in ipairs(shape) do constant = constant and self.D:value(d) ~= nil and self.D:value(d) > 0 end
  if constant and self:chance(0.5) then return self:add("param", {}, { shape = shape, init = native.init.normal, f0 = 0, f1 = 0.5 }, dtype) end
  return self:add("input", {}, { shape = shape }, dtype)
end

-- A float value of the pool with rank in lo..hi, or a new one.
function Maker:any(lo, hi, ok)
  local function fits(s, id) return #s >= lo and #s <= hi and (not ok or ok(s, id)) end
  return self:chance(0.85) and self:find(self.dtype, fits) or nil
end

function Maker:tensor(lo, hi)
  return self:any(lo, hi) or self:add("input", {}, { shape = self:shape(lo + self:int(hi - lo + 1) - 1) }, self.dtype)
end

-- A value that broadcasts with `shape`: some leading axes missing, some extents 1.
function Maker:partner(shape)
  local out = {}
  local from = self:chance(0.3) and self:int(#shape + 1) or 1
  for i = from, #shape do out[#out + 1] = self:chance(0.2) and self:const(1) or shape[i] end
  return self:value(out)
end

function Maker:value_of(d) return self.D:value(d) end

local rules = {}

function rules.unary(m)
  local op, x = m:pick(UNARY), m:tensor(0, 5)
  local attrs = {}
  if op == "scale" then attrs = { mul = m:int(7) - 4, add = (m:int(9) - 5) / 4 } end
  if op == "clamp" then attrs = { lo = -m:int(3) / 2, hi = m:int(3) / 2 } end
  if op == "gelu" then attrs = { tanh = m:int(2) - 1 } end
  if op == "dropout" then attrs = { p = m:int(9) / 10 } end
  if op == "noise" then attrs = { std = m:int(5) / 10 } end
  return m:add(op, { x }, attrs)
end

function rules.binary(m)
  local x = m:tensor(0, 5)
  local y = m:partner(m.g:shape(x))
  if not y then return nil end
  return m:add(m:pick(BINARY), m:chance(0.5) and { x, y } or { y, x }, {})
end

function rules.const(m)
  local c = m:add("const", {}, { value = (m:int(17) - 9) / 4 }, m.dtype)
  return m:add(m:pick(BINARY), { m:tensor(0, 5), c }, {})
end

function rules.lerp(m)
  local x = m:tensor(0, 4)
  local shape = m.g:shape(x)
  return m:add("lerp", { x, m:partner(shape), m:partner(shape) }, {})
end

function rules.bias_add(m)
  local x = m:tensor(1, 5)
  local shape = m.g:shape(x)
  local axis = m:int(#shape)
  return m:add("bias_add", { x, m:value { shape[axis] } }, { axis = axis - 1 })
end

function rules.cast(m)
  local x = m:tensor(0, 4)
  local to = m:pick { "i32", "i64", "f32", "f64" }
  local id = m:add("cast", { x }, { to = to })
  return id and m:add("cast", { id }, { to = m.dtype })
end

function rules.reduce(m)
  local x = m:tensor(0, 5)
  local rank, axes = m.g:rank(x), {}
  local share = m.lead and m:pick { 0, 0.5, 1 } or 0.5 -- of leading axes: what is in a row, or all rows
  for axis = 0, rank - 1 do if m:chance(m.lead and axis < #m.lead[1] and share or 0.5) then axes[#axes + 1] = axis end end
  local op = m:pick { "reduce_sum", "reduce_mean", "reduce_max", "reduce_var" }
  local attrs = { axes = axes, keepdim = m:int(2) - 1 }
  if op == "reduce_var" then attrs.correction = m:int(2) - 1 end
  return m:add(op, { x }, attrs)
end

function rules.softmax(m)
  local x = m:tensor(1, 5)
  return m:add(m:pick { "softmax", "log_softmax" }, { x }, { axis = m:int(m.g:rank(x)) - 1 })
end

local function affine(m, shape, most)
  local constant = {}
  for i, d in ipairs(shape) do constant[i] = d end
  local inputs = {}
  for _ = 1, m:int(most + 1) - 1 do inputs[#inputs + 1] = m:value(constant) end
  return inputs
end

function rules.layer_norm(m)
  local x = m:tensor(1, 5)
  local shape, dims = m.g:shape(x), nil
  dims = m:int(#shape)
  local tail = { unpack(shape, #shape - dims + 1) }
  return m:add("layer_norm", { x, unpack(affine(m, tail, 2)) }, { dims = dims, eps = 1e-5 })
end

function rules.rms_norm(m)
  local x = m:tensor(1, 5)
  local shape = m.g:shape(x)
  return m:add("rms_norm", { x, unpack(affine(m, { shape[#shape] }, 1)) }, { eps = 1e-5 })
end

local function channels_first(m, rank, channels)
  local shape = { m.lead and m:front(1)[1] or m:extent(), m:const(channels) }
  for i = 3, rank do shape[i] = m:extent() end
  return m:value(shape), shape
end

function rules.group_norm(m)
  local groups = m:pick { 1, 2, 3 }
  local channels = groups * m:int(3)
  local x = channels_first(m, m:pick { 2, 3, 4, 5 }, channels)
  return m:add("group_norm", { x, unpack(affine(m, { m:const(channels) }, 2)) }, { groups = groups, eps = 1e-5 })
end

function rules.batch_norm(m)
  local x, shape = m:tensor(2, 5), nil
  shape = { m.g:shape(x)[2] }
  local var = m:value(shape)
  local positive = var and m:add("scale", { m:add("abs", { var }, {}) }, { mul = 1, add = 0.5 })
  return positive and m:add("batch_norm", { x, m:value(shape), positive, unpack(affine(m, shape, 2)) }, { eps = 1e-5 })
end

function rules.linear(m)
  local x = m:any(1, 4, function(s) return m.D:value(s[#s]) and m.D:value(s[#s]) > 0 end)
    or m:value { m:shape(1)[1], m:const(m:pick(SIZES)) }
  local shape, out = m.g:shape(x), m:const(m:pick(SIZES))
  local inputs = { x, m:value { out, shape[#shape] } }
  if m:chance(0.6) then inputs[3] = m:value { out } end
  return m:add("linear", inputs, {})
end

function rules.matmul(m)
  local a = m:tensor(2, 4)
  local shape = m.g:shape(a)
  local rank, ta, tb = #shape, m:int(2) - 1, m:int(2) - 1
  local inner, columns = ta == 1 and shape[rank - 1] or shape[rank], m:extent()
  local b = {}
  for i = 1, rank - 2 do b[i] = m:chance(0.25) and m:const(1) or shape[i] end
  if m:chance(0.3) then b = {} end
  b[#b + 1] = tb == 1 and columns or inner
  b[#b + 1] = tb == 1 and inner or columns
  return m:add("matmul", { a, m:value(b) }, { ta = ta, tb = tb })
end

function rules.conv(m)
  local two = m:chance(0.7)
  local groups = m:pick { 1, 1, 2, 3 }
  local per, out = m:int(3), groups * m:int(3)
  local x = channels_first(m, two and 4 or 3, groups * per)
  local kh, kw = m:pick { 1, 2, 3, 5 }, m:pick { 1, 3, 4 }
  local w = { m:const(out), m:const(per), m:const(kw) }
  if two then w = { m:const(out), m:const(per), m:const(kh), m:const(kw) } end
  local dh, dw = m:int(2), m:int(2)
  local ph, pw = dh * (kh - 1), dw * (kw - 1) -- enough for any size of at least 1
  local sh, sw = m:int(3), m:int(2)
  local inputs = { x, m:value(w) }
  if m:chance(0.5) then inputs[3] = m:value { m:const(out) } end
  if two then return m:add("conv2d", inputs, { stride = { sh, sw }, pad = { ph, pw }, dilation = { dh, dw }, groups = groups }) end
  return m:add("conv1d", inputs, { stride = sw, pad = pw, dilation = dw, groups = groups })
end

function rules.pool(m)
  local x = channels_first(m, 4, m:int(4))
  if m:chance(0.3) then return m:add("adaptive_avg_pool2d", { x }, { out = { m:int(3), m:int(3) } }) end
  local kernel = { m:int(3), m:int(3) }
  local pad = { math.floor(kernel[1] / 2), math.floor(kernel[2] / 2) }
  return m:add(m:pick { "max_pool2d", "avg_pool2d" }, { x }, { kernel = kernel, stride = { m:int(3) - 1, m:int(2) }, pad = pad })
end

function rules.reshape(m)
  local x = m:tensor(0, 5)
  local shape, out = m.g:shape(x), {}
  for i, d in ipairs(shape) do out[i] = d end
  if #out >= 2 and m:chance(0.6) then -- merge two neighbours
    local i = m:int(#out - 1)
    out[i] = m.D:mul(out[i], table.remove(out, i + 1))
  elseif #out < 5 then
    table.insert(out, m:int(#out + 1), m:const(1))
  end
  return m:add("reshape", { x }, { shape = out })
end

function rules.permute(m)
  local x = m:tensor(1, 5)
  local perm = {}
  for i = 1, m.g:rank(x) do table.insert(perm, m:int(i), i - 1) end
  return m:add("permute", { x }, { perm = perm })
end

function rules.slice(m)
  local x = m:any(1, 5, function(s)
    for _, d in ipairs(s) do if m.D:value(d) and m.D:value(d) > 0 then return true end end
  end) or m:value { m:extent(), m:const(7), m:const(5) }
  local shape, axis = m.g:shape(x), nil
  repeat axis = m:int(#shape) until m.D:value(shape[axis]) and m.D:value(shape[axis]) > 0
  local n = m.D:value(shape[axis])
  local start = m:int(n) - 1
  local stop = start + m:int(n - start)
  return m:add("slice", { x }, { axis = axis - 1, start = m:const(start), stop = m:const(stop), step = m:int(3) })
end

function rules.concat(m)
  local x = m:tensor(1, 5)
  local shape, axis = m.g:shape(x), m:int(m.g:rank(x))
  local inputs = { x }
  for i = 2, m:int(3) + 1 do
    local other = { unpack(shape) }
    other[axis] = m:extent()
    inputs[i] = m:value(other)
  end
  return m:add("concat", inputs, { axis = axis - 1 })
end

function rules.expand(m)
  local x = m:tensor(0, 4)
  local shape = {}
  for i, d in ipairs(m.g:shape(x)) do shape[i] = m.D:value(d) == 1 and m:extent() or d end
  if m:chance(0.5) then table.insert(shape, 1, m:extent()) end
  return m:add("expand", { x }, { shape = shape })
end

function rules.sdpa(m)
  local lead = m:shape(m:int(3) - 1)
  local t, s, d, e = m:extent(), m:extent(), m:const(m:pick(SIZES)), m:const(m:pick(SIZES))
  local function shape(...) local out = { unpack(lead) } for _, v in ipairs { ... } do out[#out + 1] = v end return out end
  local inputs = { m:value(shape(t, d)), m:value(shape(s, d)), m:value(shape(s, e)) }
  if m:chance(0.4) then
    if m:chance(0.5) then inputs[4] = m:value(m:chance(0.5) and { t, s } or shape(t, s), "bool")
    else inputs[4] = m:value(m:chance(0.5) and { t, s } or shape(t, s)) end
  end
  local y = m:add("sdpa", inputs, { causal = m:int(2) - 1, scale = m:chance(0.5) and 0 or 0.3 })
  if not y or #lead == 0 or m:chance(0.5) then return y end
  local perm = {} -- of all axes but the last, as heads are merged
  for i = 1, #lead + 1 do table.insert(perm, m:int(i), i - 1) end
  perm[#perm + 1] = #lead + 1
  return m:add("permute", { y }, { perm = perm })
end

function rules.rope(m)
  local shape = m:shape(m:int(3))
  shape[#shape + 1] = m:const(2 * m:int(4))
  return m:add("rope", { m:value(shape) }, { base = 10000 })
end

function rules.embedding(m)
  local w = m:value { m:const(m:pick(SIZES) + 1), m:const(m:pick(SIZES)) }
  return m:add("embedding", { w, m:value(m:shape(m:int(4) - 1), m:pick { "i32", "i64" }) }, {})
end

-- An index leaf of its own, so that its range fits this one use.
local function fresh_index(m, shape) return m:add("input", {}, { shape = shape }, m:pick { "i32", "i64" }) end

function rules.gather(m)
  local shape = m:shape(m:int(4))
  local axis = m:int(#shape)
  shape[axis] = m:const(m:pick(SIZES))
  local index = { unpack(shape) }
  index[axis] = m:extent()
  return m:add("gather", { m:value(shape), fresh_index(m, index) }, { axis = axis - 1 })
end

function rules.scatter_add(m)
  local shape = m:shape(m:int(4))
  local axis = m:int(#shape)
  shape[axis] = m:const(m:pick(SIZES))
  local index = { unpack(shape) }
  index[axis] = m:extent()
  return m:add("scatter_add", { m:value(shape), fresh_index(m, index), m:value(index) }, { axis = axis - 1 })
end

function rules.topk(m)
  local shape = m:shape(m:int(4))
  local axis, n = m:int(#shape), m:pick(SIZES)
  shape[axis] = m:const(n)
  local x, k = m:add("input", {}, { shape = shape }, m.dtype), m:int(n)
  local index = m:add("topk_index", { x }, { k = k, axis = axis - 1 })
  if index and m:chance(0.5) then m:add("cast", { index }, { to = m.dtype }) end
  return m:add("topk", { x }, { k = k, axis = axis - 1 })
end

function rules.cross_entropy(m)
  local shape = m:shape(m:int(3) - 1)
  local target = fresh_index(m, shape)
  local logits = { unpack(shape) }
  logits[#logits + 1] = m:const(m:pick(SIZES))
  return m:add("cross_entropy", { m:value(logits), target }, { ignore = m:chance(0.5) and 0 or -100 })
end

local NAMES = {}
for name in pairs(rules) do NAMES[#NAMES + 1] = name end
table.sort(NAMES)
for _ = 1, 3 do NAMES[#NAMES + 1] = "unary" NAMES[#NAMES + 1] = "binary" end

-- Where rows are in front, values without them are seldom outputs.
function Maker:shown(id)
  return not self.lead or self:leads(self.g:shape(id)) or self:chance(0.4)
end

--- A valid graph of a few random nodes; every value nothing reads becomes an output.
function M.make(seed, dtype, rows)
  local D = graph_module.dims()
  local m = setmetatable({ state = seed * 7919 % 2147483646 + 1, D = D, g = graph_module.new("spec/random", D), pool = {}, used = {},
    leaves = 0, dtype = dtype or (seed % 5 == 0 and "f64" or "f32"), lead = rows and FRONTS[seed % 2 + 1] }, Maker)
  for name, range in pairs { a = { 0, rows and 400 or 19 }, b = { 1, 24 }, n = { 1, 33 } } do D:symbol(name) D:range(name, range[1], range[2]) end
  for _ = 1, 4 do m:int(2) end
  local wanted, tries = rows and m:int(6) or 2 + m:int(9), 0
  local made = 0
  while made < wanted and tries < 60 do
    tries = tries + 1
    local rule = rules[m:pick(NAMES)]
    if rule(m) then made = made + 1 end
  end
  local told = {}
  for i, name in ipairs(rows and m.lead[1] or { "a", "b", "n" }) do told[i] = D:symbol(name) end
  m:add("input", {}, { shape = told }, "f32") -- every symbol is told by an input
  local users, outputs = m.g:users(), 0
  for id = 0, m.g:count() - 1 do
    local op = m.g:op(id)
    local is_leaf = op == "input" or op == "param" or op == "const"
    if not is_leaf and (#users[id] == 0 or m:chance(0.1)) and m:shown(id) then
      outputs = outputs + 1
      assert(m.g:root("output", "y" .. outputs, id))
    end
  end
  if outputs == 0 then return nil, m.refused end
  return assert(m.g:canonical()), m.used, m.refused
end

return M
