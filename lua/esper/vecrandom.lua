--- The counter-based random numbers of src/base/random.h on vector registers: Threefry-2x32-20, one counter per lane. Used
-- by emit_stage.lua for dropout and noise; f32 blocks compute in 32-bit lanes, f64 blocks in 64-bit lanes that hold 32 bits.
--
--   key = random.key(b, word)      outside loops; word(i) gives the i-th of random.words as a scalar
--   random.uniform(b, key, { index, ... }) -> { { u, v }, ... }   for every scalar index two vectors of numbers in [0, 1), of
--                                  elements index, index + 1, ...; several at once hide each other's latency
-- Invariant: bits equal those of es_threefry for every index below 2^63.

local M = {}

local ROTATION = { 13, 15, 26, 6, 17, 29, 16, 24 } -- Salmon et al., SC11, table 2
local ROUNDS = 20
local LOW = 2 ^ 32 - 1

--- C expressions of what a key is made of, `%s` its two words: the key schedule, then the words injected into x1 after
-- every fourth round, which count up.
M.words = { "%s[0]", "%s[1]", "0x1BD11BDAU ^ %s[0] ^ %s[1]" }

function M.key(b, word)
  local key = { add = {} }
  for i = 0, 2 do key[i] = b:splatg(word(i)) end
  for n = 1, ROUNDS / 4 do key.add[n] = b:iadd(key[(n + 1) % 3], b:isplat(n)) end
  return key
end

-- x rotated left within 32 bits; wide lanes hold 32 clean bits and stay so.
local function rotated(b, x, by)
  if b.bytes == 4 then return b:rotl(x, by) end
  return b:or_(b:shl(x, by), b:shr(x, 32 - by))
end

local function clean(b, x) return b.bytes == 4 and x or b:and_(x, b:isplat(LOW)) end

-- The counter's two words, low and high, before the key is added.
local function counter(b, index)
  local base = b:splatg(index)
  local low = b:iadd(base, b:iota())
  if b.bytes == 8 then return clean(b, low), b:shr(low, 32) end
  local high = b:splatg(b:g_shrk(index, 32))
  if b.lanes == 1 then return low, high end
  local top = b:isplat(-2 ^ 31) -- compares are signed
  local wrapped = b:ilt(b:xor_(low, top), b:xor_(base, top))
  return low, b:iselect(wrapped, b:iadd(high, b:isplat(1)), high)
end

-- The top 24 bits of a word as a number in [0, 1): exact in f32.
local function number(b, x) return b:mul(b:cvt_f(b:shr(clean(b, x), 8)), b:splat(2 ^ -24)) end

function M.uniform(b, key, list)
  local x0, x1, out = {}, {}, {}
  for i, index in ipairs(list) do
    local low, high = counter(b, index)
    x0[i], x1[i] = b:iadd(low, key[0]), clean(b, b:iadd(high, key[1]))
  end
  for round = 0, ROUNDS - 1 do
    for i in ipairs(list) do
      x0[i] = b:iadd(x0[i], x1[i])
      x1[i] = clean(b, b:xor_(rotated(b, x1[i], ROTATION[round % 8 + 1]), x0[i]))
      if round % 4 == 3 then
        local n = (round + 1) / 4
        x0[i], x1[i] = b:iadd(x0[i], key[n % 3]), clean(b, b:iadd(x1[i], key.add[n]))
      end
    end
  end
  for i in ipairs(list) do out[i] = { number(b, x0[i]), number(b, x1[i]) } end
  return out
end

return M
