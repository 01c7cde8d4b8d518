-- Newest generation, transformer: causal self-attention with a block mask.
return blueprint "transformer/flex_attention" {
  doc   = "x + proj(causal attention(qkv(x))): the formula of transformer/attention. The original caches block masks of the causal "
       .. "pattern; here the fused attention skips hidden blocks itself, so no mask exists to cache. Identity at birth, alive",
  hyper = { dim = { 384, min = 1, whole = true }, heads = { 4, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  check = function(h)
    if h.dim % h.heads ~= 0 then return "dim " .. h.dim .. " is not divisible by heads " .. h.heads end
  end,
  build = function(g, x, h)
    local qkv = g.linear(x, 3 * h.dim, { name = "qkv" })
    local q, k, v = qkv:reshape { "batch", "tokens", 3 * h.heads, h.dim / h.heads }:transpose(1, 2):split(3, 1)
    local y = g.sdpa(q, k, v, { causal = true }):transpose(1, 2):reshape { "batch", "tokens", "dim" }
    return { y = x + g.linear(y, h.dim, { name = "proj", weight = g.zeros, bias = g.zeros }) }
  end,
}
