--- What a list of groups costs: arithmetic and memory traffic as functions of the dims. Beside the planner.
-- Conventions, as in the literature on rooflines: a multiply-add is two operations, a pointwise op or one term of a
-- reduction one, exp and its kind one as well; data movement is none. Traffic counts every element of an operand that is
-- read once per group (a repeated one once) and every stored element once, as if caches were perfect within a group.
local facts = require "esper.facts"
local native = require "esper.native"
local M = {}

local per_element = { scale = 2, lerp = 3, batch_norm = 4, clamp = 2, dropout = 2, noise = 2, softmax = 4, log_softmax = 4,
  layer_norm = 8, rms_norm = 5, group_norm = 8, rope = 3, reduce_mean = 1, reduce_var = 3 }
local free = { reshape = true, permute = true, slice = true, expand = true, concat = true, embedding = true, gather = true,
  stop_grad = true, checkpoint = true, telemetry_probe = true }

local rules = {} -- operations per element of the output, or of input 1 for reductions

local function last(f, id, back) local s = f.shape[id] return s[#s - (back or 0)] end

function rules.linear(f, id) return f:numel(id), f.D:mul(f.D:const(2), last(f, f.ins[id][1])) end
function rules.matmul(f, id)
  local a = f.ins[id][1]
  return f:numel(id), f.D:mul(f.D:const(2), last(f, a, f.graph:attr(id, "ta")))
end
function rules.conv2d(f, id)
  local D, w = f.D, f.shape[f.ins[id][2]]
  local n = D:const(2)
  for k = 2, #w do n = D:mul(n, w[k]) end
  return f:numel(id), n
end
rules.conv1d = rules.conv2d
function rules.sdpa(f, id) -- two contractions and the softmax between them, per query and key
  local D, q, v = f.D, f.ins[id][1], f.ins[id][3]
  local rows = D:const(1)
  for k = 1, #f.shape[q] - 1 do rows = D:mul(rows, f.shape[q][k]) end
  local each = D:mul(D:const(2), D:add(last(f, q), last(f, v)))
  return D:mul(rows, last(f, v, 1)), D:add(each, D:const(4))
end
local function window(f, id)
  local k = f.graph:attr(id, "kernel")
  return f:numel(id), f.D:const(k[1] * k[2])
end
rules.max_pool2d, rules.avg_pool2d = window, window
local function over_input(f, id) return f:numel(f.ins[id][1]), f.D:const(per_element[f.op[id]] or 1) end
for _, op in ipairs { "reduce_sum", "reduce_mean", "reduce_max", "reduce_var", "adaptive_avg_pool2d", "topk",
    "topk_index" } do
  rules[op] = over_input
end
function rules.cross_entropy(f, id) return f:numel(f.ins[id][1]), f.D:const(4) end
function rules.scatter_add(f, id) return f:numel(f.ins[id][3]), f.D:const(1) end

--- Arithmetic operations of one node, a dim.
function M.flops(f, id)
  local op, D = f.op[id], f.D
  if facts.leaf[op] or free[op] then return D:const(0) end
  if rules[op] then
    local count, each = rules[op](f, id)
    return D:mul(count, each)
  end
  return D:mul(f:numel(id), D:const(per_element[op] or 1))
end

-- Elements an operand touches: the extents it has a stride along.
local function touched(f, arg, shape)
  local D, n = f.D, f.D:const(1)
  for k = 1, #shape do
    if D:value(arg.strides[k]) ~= 0 then n = D:mul(n, shape[k]) end
  end
  return n
end

-- Rows that are picked, not the table they are picked from.
local picks = { embedding = true, gather = true }

local function read_bytes(f, group, id, seen, total)
  local D = f.D
  for i, arg in ipairs(group.args[id]) do
    if arg.base then
      local shape = f.shape[id]
      if id == group.anchor then shape = picks[f.op[id]] and i == 1 and f.shape[id] or f.shape[f.ins[id][i]] end
      local key = arg.base .. ":" .. arg.offset .. ":" .. table.concat(arg.strides, ",")
      if not seen[key] then
        seen[key] = true
        local count = id == group.anchor and facts.product(D, shape) or touched(f, arg, shape)
        total = D:add(total, D:mul(count, D:const(native.dtypebytes[arg.dtype])))
      end
    end
  end
  return total
end

--- One group: operations, bytes read, bytes written; dims.
function M.group(f, group)
  local D = f.D
  local flops, read, written, seen = D:const(0), D:const(0), D:const(0), {}
  for id in pairs(group.args) do
    flops = D:add(flops, M.flops(f, id))
    read = read_bytes(f, group, id, seen, read)
  end
  for _, id in ipairs(group.outputs) do
    written = D:add(written, D:mul(f:numel(id), D:const(native.dtypebytes[f.dtype[id]])))
  end
  return flops, read, written
end

--- Operations and bytes of all groups, dims.
function M.of(result)
  local D = result.facts.D
  local flops, bytes = D:const(0), D:const(0)
  for _, group in ipairs(result.groups) do
    local operations, read, written = M.group(result.facts, group)
    flops, bytes = D:add(flops, operations), D:add(bytes, D:add(read, written))
  end
  return flops, bytes
end

return M
