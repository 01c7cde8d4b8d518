-- First generation, BP-KV-CACHE-8BIT: what an 8-bit cache would give back.
return blueprint "first/kv_cache_8bit" {
  doc   = "each row to 8 bits and back: clamp(round(x / scale), -128, 127) * scale, scale = max|x| / 127. A row of zeros stays 0 "
       .. "(the original divides 0 by 0); scale is at least 1e-30",
  hyper = { dim = { 768, min = 1, whole = true } },
  input = { x = { "batch", "tokens", "dim" } },
  build = function(g, x, h)
    local scale = g.maximum(g.max(g.abs(x), -1, { keepdim = true }) / 127, 1e-30)
    return { y = g.clamp(g.round(x / scale), -128, 127) * scale }
  end,
}
