--- A graph read once into plain Lua tables, for the stages that look at every node several times.
-- Stands before grouping, planning and cost. A snapshot: it does not follow later changes of the graph.
--
--   f = facts.read(graph)
--   f.graph f.D f.n           the graph, its dims object, number of nodes (ids run 0 .. n-1)
--   f.op[id] f.dtype[id]      names        f.ins[id] f.shape[id]   arrays of ids, of dim handles
--   f.key[id]                 text of the shape: equal text = equal shape
--   f.live[id]                reached from a root
--   f.roots                   { { name=, node=, kind="output"|"update" }, ... }
--   f:numel(id)               number of elements as a dim
local M = {}

local leaf = { input = true, param = true, buffer = true, const = true }
local identity = { stop_grad = true, checkpoint = true, telemetry_probe = true }
local view = { reshape = true, permute = true, slice = true, expand = true }

M.leaf = leaf           -- given, not computed
M.identity = identity   -- pointwise ops whose value is their input
M.view = view           -- ops that only rename elements

-- Ops that open a group, by the recipe that computes them: the anchors.
M.kind_of = {
  reduce_sum = "reduce", reduce_mean = "reduce", reduce_max = "reduce", reduce_var = "reduce",
  softmax = "norm", log_softmax = "norm", layer_norm = "norm", rms_norm = "norm", group_norm = "norm",
  linear = "contract", matmul = "contract", conv1d = "conv", conv2d = "conv",
  max_pool2d = "pool", avg_pool2d = "pool", adaptive_avg_pool2d = "pool",
  sdpa = "attention", rope = "rope", embedding = "embedding", gather = "gather", scatter_add = "scatter",
  topk = "topk", topk_index = "topk", cross_entropy = "cross_entropy", concat = "concat",
}

-- Ops whose recipes store rows of the result wherever they are to lie.
M.any_rows = { sdpa = true }

local facts = {}
facts.__index = facts

--- Product of an array of dims.
function M.product(D, dims)
  local p = D:const(1)
  for i = 1, #dims do p = D:mul(p, dims[i]) end
  return p
end

function facts:numel(id)
  local key = self.key[id]
  local n = self.numels[key]
  if not n then
    n = M.product(self.D, self.shape[id])
    self.numels[key] = n
  end
  return n
end

local function mark(f)
  local live, ins = f.live, f.ins
  for i = 1, #f.roots do live[f.roots[i].node] = true end
  for id = f.n - 1, 0, -1 do
    if live[id] then
      local list = ins[id]
      for i = 1, #list do live[list[i]] = true end
    end
  end
end

local random = { dropout = true, noise = true }

--- { [id] = true } for parameters, buffers and what is computed from them and constants alone, of constant extents: in a kernel
-- for inference it changes only when they do.
function M.fixed(f)
  local fixed = {}
  for id = 0, f.n - 1 do
    local op, ins = f.op[id], f.ins[id]
    local same = op == "param" or op == "buffer" or op == "const" or (#ins > 0 and not random[op])
    for i = 1, #ins do same = same and fixed[ins[i]] end
    for _, d in ipairs(f.shape[id]) do same = same and f.D:value(d) ~= nil end
    fixed[id] = same or nil
  end
  return fixed
end

function M.read(graph)
  local f = setmetatable({ graph = graph, D = graph:dims(), n = graph:count(), roots = graph:roots(),
    op = {}, ins = {}, shape = {}, dtype = {}, key = {}, live = {}, numels = {}, row_major = {} }, facts)
  for id = 0, f.n - 1 do
    local shape = graph:shape(id)
    f.op[id], f.ins[id], f.dtype[id], f.shape[id] = graph:op(id), graph:inputs(id), graph:dtype(id), shape
    f.key[id] = table.concat(shape, ",")
  end
  mark(f)
  return f
end

return M
