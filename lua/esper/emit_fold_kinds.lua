--- How values are folded, and the registers they are folded in. Used by emit_fold_block.lua.
--
--   kinds[name] = { first = neutral element, join = two into one, take = a value into one when not as two are joined,
--                   lanes = all lanes into one, in every lane }

local vecmath = require "esper.vecmath"

local function lane_max(b, v)
  if b.lanes == 1 then return v end
  local zero, one = b:splat(0), b:splat(1)
  local nans = b:hadd(b:select(b:ne(v, v), one, zero)) -- hmax does not keep NaN
  return b:select(b:lt(zero, nans), b:splat(0 / 0), b:hmax(v))
end

-- Neutral element, two into one, a value into one (`take`, when not as two are joined), all lanes into one. "peak" is a
-- maximum that may lose NaN.
local M = {
  sum = { first = 0, join = function(b, acc, x) return b:add(acc, x) end, lanes = function(b, v) return b:hadd(v) end },
  squares = { first = 0, join = function(b, acc, x) return b:add(acc, x) end, take = function(b, acc, x) return b:fma(x, x, acc) end,
              lanes = function(b, v) return b:hadd(v) end },
  max = { first = -math.huge, join = function(b, acc, x) return vecmath.maximum(b, acc, x) end, lanes = lane_max },
  peak = { first = -math.huge, join = function(b, acc, x) return b:max(acc, x) end, lanes = function(b, v) return b:hmax(v) end },
}

-- `count` accumulators: add(v, x) joins x to accumulator v.part, parts are the registers.
function M.accumulators(b, kind, count)
  local parts = {}
  for i = 1, count do parts[i] = b:splat(kind.first) end
  return parts, function(v, x)
    local acc = parts[v.part]
    local joined = (kind.take or kind.join)(b, acc, x)
    b:set(acc, v.mask and b:select(v.mask, joined, acc) or joined)
  end
end

-- Pairwise, so that no sum is longer than it needs to be.
function M.joined(b, kind, list)
  while #list > 1 do
    local half = {}
    for i = 1, #list, 2 do half[#half + 1] = list[i + 1] and kind.join(b, list[i], list[i + 1]) or list[i] end
    list = half
  end
  return list[1]
end

return M
