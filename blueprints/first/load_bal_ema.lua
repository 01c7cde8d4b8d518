-- First generation, BP-LOAD-BAL-EMA: pushes a router towards experts it used less.
return blueprint "first/load_bal_ema" {
  doc   = "logits - log(usage / mean usage); usage is a moving average of softmax(logits) over tokens, taken before this step's update. "
       .. "It starts even and is kept at 1e-6 at least (the original takes log 0 for unused experts)",
  hyper = { experts = { 256, min = 1, whole = true }, decay = { 0.99, min = 0, max = 1 } },
  input = { logits = { "batch", "tokens", "experts" } },
  sizes = { batch = { 1, 65536 }, tokens = { 1, 65536 } },
  build = function(g, logits, h)
    local usage = g.buffer("usage", { "experts" }, g.const(1 / h.experts))
    local share = g.maximum(usage, 1e-6)
    if g.training then
      local now = g.stop_grad(g.mean(g.softmax(logits, -1), { 0, 1 }))
      g.update(usage, g.lerp(usage, now, 1 - h.decay))
    end
    return { y = logits - g.log(share / g.mean(share)) }
  end,
}
