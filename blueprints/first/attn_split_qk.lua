-- First generation, BP-ATTN-SPLIT-QK: attention to a context of another width.
return blueprint "first/attn_split_qk" {
  doc   = "multi-head attention of x to a context of width kv_dim; the original had no such input and could not run",
  hyper = {
    dim = { 768, min = 1, whole = true }, kv_dim = { 384, min = 1, whole = true }, heads = { 12, min = 1, whole = true },
    dropout = { 0.1, min = 0, max = 0.99 },
  },
  input = { x = { "batch", "tokens", "dim" }, context = { "batch", "context_tokens", "kv_dim" } },
  sizes = { context_tokens = { 1, 65536 } },
  check = function(h)
    if h.dim % h.heads ~= 0 then return "dim " .. h.dim .. " is not divisible by heads " .. h.heads end
  end,
  build = function(g, inputs, h)
    local width = h.dim / h.heads
    local function heads(x, name)
      local y = g.linear(x, h.dim, { name = name, weight = g.xavier(), bias = g.zeros })
      y = y:reshape { "batch", x:size(1), h.heads, width }
      return y:transpose(1, 2)
    end
    local q, k, v = heads(inputs.x, "q"), heads(inputs.context, "k"), heads(inputs.context, "v")
    local y
    if g.training and h.dropout > 0 then -- the weights must exist to be dropped
      local weights = g.softmax(g.matmul(q, k, { tb = true }) * (1 / math.sqrt(width)), -1)
      y = g.matmul(g.dropout(weights, h.dropout), v)
    else
      y = g.sdpa(q, k, v)
    end
    y = y:transpose(1, 2):reshape { "batch", "tokens", "dim" }
    return { y = g.linear(y, h.dim, { name = "out_proj", bias = g.zeros }) }
  end,
}
