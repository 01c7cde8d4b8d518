-- First generation, BP-ATTN-STD: multi-head self-attention.
return blueprint "first/attn_std" {
  doc   = "multi-head self-attention, batch first, biased projections, dropout on the attention weights in training",
  hyper = { dim = { 768, min = 1, whole = true }, heads = { 12, min = 1, whole = true }, dropout = { 0.1, min = 0, max = 0.99 } },
  input = { x = { "batch", "tokens", "dim" } },
  check = function(h)
    if h.dim % h.heads ~= 0 then return "dim " .. h.dim .. " is not divisible by heads " .. h.heads end
  end,
  build = function(g, x, h)
    local width = h.dim / h.heads
    local qkv = g.linear(x, 3 * h.dim, { name = "in_proj", weight = g.xavier(), bias = g.zeros })
    local q, k, v = qkv:reshape { "batch", "tokens", 3 * h.heads, width }:transpose(1, 2):split(3, 1)
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
