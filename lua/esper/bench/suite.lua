--- The benchmark suite: named cases, each a blueprint with hyper-parameters and sizes. Read by `esper bench`, by
-- bench/compare.lua and, through it, by the peers.
--
--   suite.cases(group or nil) -> array of cases     suite.find(name) -> case | nil
--   suite.case(source, { set =, size =, mode = }) -> case for any blueprint at default sizes
--   case = { name =, group = "suite" | "catalogue" | "kernels", source = blueprint name or declaration, set = {hyper},
--            size = {symbolic dimension = value}, mode = "eval" }
-- "suite" is what goes into the geometric mean of the project's goals; "catalogue" is every blueprint at its default
-- size; "kernels" are single kernels against the machine's own peaks. Sizes left out are usual ones (tuning.lua).

local blueprint = require "esper.blueprint"
local tuning = require "esper.tuning"

local M = {}

local FIRST = { batch = 4 } -- the first generation is 768 wide

-- ---- blueprints that are in no catalogue ----

local function rows(name, doc, build, set)
  return blueprint.define("bench/" .. name) { doc = doc, hyper = set or { dim = 1024 }, input = { x = { "batch", "dim" } },
    build = build }
end

local chain = rows("chain", "gelu(sigmoid(tanh(x)))", function(g, x) return { y = g.gelu(g.sigmoid(g.tanh(x))) } end)
local softmax = rows("softmax", "softmax over rows", function(g, x) return { y = g.softmax(x, -1) } end)
local layer_norm = rows("layer_norm", "layer norm over rows", function(g, x)
  return { y = g.layer_norm(x, { name = "norm" }) }
end)
local blend = rows("blend", "x * sigmoid(x) + 1: one read, one write", function(g, x) return { y = x * g.sigmoid(x) + 1 } end)
local matmul = rows("matmul", "x times a square matrix", function(g, x, h)
  return { y = g.linear(x, h.dim, { name = "fc", bias = false }) }
end)

local group_norm = blueprint.define "bench/group_norm" {
  doc = "group norm, 4 groups of 16 channels", hyper = { channels = 64, groups = 4 },
  input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h) return { y = g.group_norm(x, { groups = h.groups, name = "norm" }) } end,
}

local swiglu = blueprint.define "bench/swiglu" {
  doc = "w3(silu(w1(x)) * w2(x)) without biases", hyper = { dim = 256, inner = 1024 },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local gate = g.silu(g.linear(x, h.inner, { name = "w1", bias = false }))
    local y = gate * g.linear(x, h.inner, { name = "w2", bias = false })
    return { y = g.linear(y, h.dim, { name = "w3", bias = false }) }
  end,
}

local transformer = blueprint.define "bench/transformer" {
  doc = "pre-norm transformer block: attention and feed-forward, each behind a layer norm and added to its input",
  hyper = { dim = 256, heads = 8, expand = 4 }, input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local qkv = g.linear(g.layer_norm(x, { name = "norm1" }), 3 * h.dim, { name = "qkv" })
    local q, k, v = qkv:reshape { "batch", "tokens", 3 * h.heads, h.dim / h.heads }:transpose(1, 2):split(3, 1)
    local y = g.sdpa(q, k, v, { causal = true }):transpose(1, 2):reshape { "batch", "tokens", "dim" }
    x = x + g.linear(y, h.dim, { name = "proj" })
    y = g.gelu(g.linear(g.layer_norm(x, { name = "norm2" }), h.expand * h.dim, { name = "fc1" }))
    return { y = x + g.linear(y, h.dim, { name = "fc2" }) }
  end,
}

local HEADS = { "batch", "heads", "tokens", "width" }
local attend = blueprint.define "bench/attend" {
  doc = "softmax(q k' / sqrt(d)) v alone", hyper = { heads = 8, width = 64, causal = false },
  input = { q = HEADS, k = HEADS, v = HEADS },
  build = function(g, inputs, h) return { y = g.sdpa(inputs.q, inputs.k, inputs.v, { causal = h.causal }) } end,
}

local conv = blueprint.define "bench/conv3x3" {
  doc = "3x3 convolution alone", hyper = { channels = 64 }, input = { x = { "batch", "channels", "h", "w" } },
  build = function(g, x, h) return { y = g.conv2d(x, h.channels, 3, { pad = 1, bias = false, name = "conv" }) } end,
}

-- ---- the list ----

local list, known

local function add(group, name, source, set, size)
  local case = { name = name, group = group, source = source, set = set or {}, size = size or {}, mode = "eval" }
  list[#list + 1], known[name] = case, case
end

local function suite()
  for _, batch in ipairs { 1, 32, 256 } do
    add("suite", "mlp 512x2048 b" .. batch, "transformer/mlp", { dim = 512 }, { batch = batch, tokens = 1 })
  end
  add("suite", "mlp 64x128 b1", "transformer/mlp_small", { dim = 64 }, { batch = 1, tokens = 1 })
  add("suite", "feed-forward 8x128x256", "transformer/mlp", { dim = 256 })
  add("suite", "attention 8x128x256", "transformer/attention", { dim = 256, heads = 8 })
  add("suite", "transformer 8x128x256", transformer)
  add("suite", "residual conv 8x64x32x32", "cnn/conv_heavy")
  add("suite", "depthwise 8x64x32x32", "cnn/depthwise")
  add("suite", "squeeze-excite 8x64x32x32", "cnn/attention")
  add("suite", "bottleneck 8x64x32x32", "cnn/bottleneck")
  add("suite", "adapter 512 r8", "transformer/lora", { dim = 512 })
  add("suite", "chain 1024x1024", chain, nil, { batch = 1024 })
  add("suite", "softmax 1024x1024", softmax, nil, { batch = 1024 })
  add("suite", "layer norm 1024x1024", layer_norm, nil, { batch = 1024 })
  add("suite", "group norm 8x64x32x32", group_norm)
  add("suite", "swiglu 8x128x256", swiglu)
  add("suite", "top-2 router 8x128x256", "first/router_top2", { dim = 256, experts = 64 })
end

local function kernels()
  for _, n in ipairs { 256, 512, 1024 } do
    add("kernels", ("matmul %d^3"):format(n), matmul, { dim = n }, { batch = n })
  end
  add("kernels", "conv3x3 8x64x32x32", conv)
  add("kernels", "attend 1x8x512x64", attend, nil, { batch = 1, tokens = 512 })
  add("kernels", "attend causal 1x8x512x64", attend, { causal = true }, { batch = 1, tokens = 512 })
  for _, row in ipairs { { "blend", blend }, { "softmax", softmax }, { "layer norm", layer_norm } } do
    add("kernels", row[1] .. " 128x256", row[2], { dim = 256 }, { batch = 128 })
    add("kernels", row[1] .. " 8192x4096", row[2], { dim = 4096 }, { batch = 8192 })
  end
end

local function catalogue()
  for _, name in ipairs(blueprint.catalogue()) do
    add("catalogue", name, name, nil, name:match "^first/" and FIRST or nil)
  end
end

local function all()
  if not list then
    list, known = {}, {}
    suite()
    kernels()
    catalogue()
  end
  return list
end

function M.cases(group)
  local out = {}
  for _, case in ipairs(all()) do
    if not group or case.group == group then out[#out + 1] = case end
  end
  return out
end

function M.find(name)
  all()
  return known[name]
end

--- A case for any blueprint: a catalogue name keeps the suite's sizes unless others are given.
function M.case(source, options)
  local base = M.find(source) or {}
  local size = {}
  for _, from in ipairs { base.size or {}, options.size or {} } do
    for k, v in pairs(from) do size[k] = v end
  end
  local set = next(options.set or {}) and options.set or base.set or {}
  return { name = base.name or source, group = "named", source = base.source or source, set = set, size = size,
    mode = options.mode or "eval", dtype = options.dtype }
end

--- Values of all symbolic dimensions of a graph for a case, by name; nil, message when a size names none of them.
function M.sizes(graph, case) return tuning.sizes(graph:dims():symbols(), case.size, case.name) end

return M
