-- First generation, BP-ROUTER-MOE-AUXLOSS: router with a balancing loss.
return blueprint "first/router_moe_aux" {
  doc   = "first/router_top2 plus aux = weight * var(mean over tokens of softmax(logits)), unbiased: small when experts are used evenly",
  hyper = {
    dim = { 768, min = 1, whole = true }, experts = { 256, min = 2, whole = true }, noise = { 0.1, min = 0, max = 10 },
    weight = { 0.01, min = 0, max = 100 },
  },
  input = { x = { "batch", "tokens", "dim" } },
  sizes = { batch = { 1, 65536 }, tokens = { 1, 65536 } },
  build = function(g, x, h)
    local logits = g.noise(g.linear(x, h.experts, { name = "gate" }), h.noise)
    local best, idx = g.topk(logits, 2)
    local usage = g.mean(g.softmax(logits, -1), { 0, 1 })
    return { gates = g.softmax(best, -1), idx = idx, aux = g.var(usage, 0, { correction = 1 }) * h.weight }
  end,
}
