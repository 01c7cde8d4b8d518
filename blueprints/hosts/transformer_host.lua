-- Host network, transformer: what transformer/* seeds grow in. Slots are added by layers, outside the blueprint.
local function block(g, x, h)
  local y = g.layer_norm(x, { name = "norm1" })
  local qkv = g.linear(y, 3 * h.dim, { name = "qkv", weight = g.normal(0, 0.02), bias = g.zeros })
  local q, k, v = qkv:reshape { "batch", "tokens", 3 * h.heads, h.dim / h.heads }:transpose(1, 2):split(3, 1)
  y = g.sdpa(q, k, v, { causal = true }):transpose(1, 2):reshape { "batch", "tokens", "dim" }
  y = g.linear(y, h.dim, { name = "proj", weight = g.normal(0, 0.02), bias = g.zeros })
  x = x + g.dropout(y, h.dropout)
  y = g.layer_norm(x, { name = "norm2" })
  y = g.gelu(g.linear(y, 4 * h.dim, { name = "fc1", weight = g.normal(0, 0.02), bias = g.zeros }))
  y = g.linear(y, h.dim, { name = "fc2", weight = g.normal(0, 0.02), bias = g.zeros })
  return x + g.dropout(y, h.dropout)
end

return blueprint "hosts/transformer_host" {
  doc   = "pre-norm GPT: token and position embeddings, blocks, final norm, head tied to the token embedding; weights normal(0, 0.02)",
  hyper = {
    vocab = { 50257, min = 1, whole = true }, dim = { 384, min = 1, whole = true }, heads = { 6, min = 1, whole = true },
    layers = { 6, min = 0, max = 64, whole = true }, block = { 256, min = 1, whole = true }, dropout = { 0.1, min = 0, max = 0.99 },
  },
  input = { idx = { "batch", "tokens", dtype = "i64" } },
  sizes = { tokens = { 1, "block" } },
  check = function(h)
    if h.dim % h.heads ~= 0 then return "dim " .. h.dim .. " is not divisible by heads " .. h.heads end
  end,
  build = function(g, idx, h)
    local tokens = g.param("token", { "vocab", "dim" }, g.normal(0, 0.02))
    local positions = g.param("position", { "block", "dim" }, g.normal(0, 0.02))
    local x = g.embedding(tokens, idx) + positions:slice(0, 0, idx:size(1))
    x = g.dropout(x, h.dropout)
    for i = 1, h.layers do
      x = g.scope("layer" .. i, function()
        local y = block(g, x, h)
        return y
      end)
    end
    return { logits = g.linear(g.layer_norm(x, { name = "norm" }), tokens) }
  end,
}
