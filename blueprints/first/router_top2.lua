-- First generation, BP-ROUTER-TOP2: mixture-of-experts router.
return blueprint "first/router_top2" {
  doc   = "the two best experts of each token: gates = softmax of their logits, idx = their numbers; noise on the logits in training",
  hyper = { dim = { 768, min = 1, whole = true }, experts = { 256, min = 2, whole = true }, noise = { 0.1, min = 0, max = 10 } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local logits = g.noise(g.linear(x, h.experts, { name = "gate" }), h.noise)
    local best, idx = g.topk(logits, 2)
    return { gates = g.softmax(best, -1), idx = idx }
  end,
}
