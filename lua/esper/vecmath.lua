--- Transcendentals and pointwise nodes on vector registers, f32 and f64 from one source. Used by
-- emit_chain.lua and recipes.
--
-- Functions (b, v) -> v. Largest error in ulps of the result, denormal results included, of the
-- plain-C lowering against the C library in (long) double: seen over every 17th f32 (exp: all) and 2e7
-- f64 spread over exponents and the range where the function lives. spec/vecmath_spec.lua samples it.
--                      f32      f64    domain; special values are the limits of the exact function; NaN stays
--   exp log            0.9      0.9    all; log(+-0) = -inf, below 0 NaN
--   tanh erf           2.2      2.3    all
--   sigmoid            2.5      2.4    all
--   silu               3.1      3.1    all; NaN at -inf, as gelu and gelu_tanh
--   gelu               4.6      5.5    all
--   gelu_tanh          200     1800    all; in the tail below 0 an error of the exponent u counts |u| times
--   sin cos            2.4      2.2    |x| <= 1e4 (f32), 1e6 (f64)
--   rsqrt              1.5      1.5    all
-- Method, derived here: ranges are reduced by Cody-Waite splitting (products exact, so fused and
-- unfused agree); on the reduced range a minimax polynomial found by the Remez exchange in 60
-- digits; its relative error is given beside it. Results near and below the smallest normal number
-- are scaled by two powers of two, so they round once.

local M = {}

local K = {
  f32 = {
    mantissa = 23, bias = 127, sign = -2147483648,
    ln2 = { 0x1.62e4p-1, 1.4286068203094173e-06 },   -- high part: 15 bits
    exp_low = -110, exp_high = 100,                  -- beyond these exp is 0 and inf; x exp(x) is 0 at exp_low
    exp = { 0.5, 0.166666657, 0.0416662805, 0.0083335042, 0.001394575, 0.000197892368 },           -- 2^-34
    one_from = 30,                                   -- tanh(x / 2) rounds to 1 from here on
    sqrt_half = 0x3f3504f3, one = 0x3f800000, normal = 0x1p-126, lift = 25,
    log = { 0.666666627, 0.400003344, 0.285373271, 0.235818297 },                                  -- 2^-36
    erf = { 0.12837911, -0.37612626, 0.112835854, -0.026853811, 0.00518832728, -0.000801018905,
            7.853844e-05 },                                                                        -- 2^-29
    erf_one = 4.5,                                   -- erf rounds to 1 from here on
    tail_end = 15, tail_split = 4, tail_mask = -4096, -- the mask keeps 12 bits, whose square is exact
    tail = { 0.4720532, -0.0967034698, 0.0139996, 0.0285999682, -0.0321973488, 0.0179402288, -0.00500394637,
             -0.0003034416, 0.00069221406, -6.15423414e-05, -7.19818418e-05 },                     -- 2^-29
    half_pi = { 1.5703125, 0.00048375129699707031, 7.5495336204767227e-08, 2.5633441515945189e-12 }, -- 11, 11, 11, 24 bits
    sin = { -0.166666672, 0.00833332911, -0.000198392561, 2.71756539e-06 },                        -- 2^-37
    cos = { 0.0416666679, -0.00138888834, 2.47994376e-05, -2.72033219e-07 },                       -- 2^-43
  },
  f64 = {
    mantissa = 52, bias = 1023, sign = -2 ^ 63,
    ln2 = { 0.69314718055829871, 1.6465949582897082e-12 }, -- high part: 38 bits
    exp_low = -760, exp_high = 720,
    exp = { 0.5, 0.16666666666666685, 0.041666666666666033, 0.0083333333333157084, 0.0013888888889134166,
            0.0001984126989971721, 2.4801586903824272e-05, 2.7557231490211099e-06, 2.7557592424573974e-07,
            2.5113223929827903e-08, 2.0825616088728835e-09 },                                      -- 2^-63
    one_from = 60,
    sqrt_half = 0x3fe6a09e * 2 ^ 32, one = 0x3ff00000 * 2 ^ 32, normal = 0x1p-1022, lift = 54,
    log = { 0.66666666666666663, 0.40000000000006208, 0.28571428569095136, 0.22222222645611658, 0.18181775748886747,
            0.15387087476382874, 0.1325018587702089, 0.13250757596250845 },                        -- 2^-65
    erf = { 0.12837916709551256, -0.37612638903183754, 0.11283791670955119, -0.026866170645129733, 0.005223977625422086,
            -0.00085483270218532012, 0.00012055332899357821, -1.4925647465110833e-05, 1.6462043407599716e-06,
            -1.6364614418249391e-07, 1.4792145719035877e-08, -1.2163041701482618e-09, 8.7037890631575637e-11,
            -4.2228949703064973e-12 },                                                             -- 2^-68
    erf_one = 6.25,
    tail_end = 40, tail_split = 5, tail_mask = -2 ^ 27, -- 26 bits
    tail = { 0.46151582985003775, -0.091552281834008931, 0.031030368425963271, 0.010002352385218368,
             -0.026401042966293479, 0.024536963244016319, -0.015170415402646435, 0.0065220006630431525,
             -0.0016760723450809944, 7.7916339343777603e-06, 0.00018233416101802666, -5.3607749560954683e-05,
             -9.8962124154765298e-06, 9.0603063090751092e-06, -6.9914153711995883e-08, -1.3082945410576216e-06,
             1.2691919595942979e-07, 1.9712220196640199e-07, -2.5024716044332725e-08, -3.1298885080249954e-08,
             2.7144297617608788e-09, 4.3093970172774314e-09, -1.5282697803787466e-12, -2.8331387242273896e-10 }, -- 2^-58
    half_pi = { 1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21 }, -- 33, 33, 53 bits
    sin = { -0.16666666666666666, 0.0083333333333333211, -0.00019841269841253603, 2.7557319213420503e-06,
            -2.5052104708804752e-08, 1.6058340538949577e-10, -7.5773933299687851e-13 },            -- 2^-68
    cos = { 0.041666666666666685, -0.0013888888888892951, 2.4801587304848165e-05, -2.7557320507615012e-07,
            2.0877022981243908e-09, -1.1498552598795543e-11, 5.9245024525282411e-14 },             -- 2^-66
  },
}

local INF, NAN = math.huge, 0 / 0

-- ---- pieces ----

-- c[1] + c[2] x + c[3] x^2 ...
local function polynomial(b, x, c)
  local p = b:splat(c[#c])
  for i = #c - 1, 1, -1 do p = b:fma(p, x, b:splat(c[i])) end
  return p
end

-- NaN stays NaN: min and max give their second operand then.
local function at_most(b, limit, v) return b:min(b:splat(limit), v) end
local function at_least(b, limit, v) return b:max(b:splat(limit), v) end

local function with_sign_of(b, v, x)
  local sign = b:isplat(K[b.ftype].sign)
  return b:bits(b:or_(b:bits(b:abs(v)), b:and_(b:bits(x), sign)))
end

-- 2^i for an integer vector, i within the normal range.
local function power_of_two(b, i)
  local k = K[b.ftype]
  return b:bits(b:shl(b:iadd(i, b:isplat(k.bias)), k.mantissa))
end

-- For h + l = n ln 2 + r, |r| <= 0.35: n (integer vector) and e^r - 1. l may be nil. The linear
-- term is added as the exact part of r and a remainder, so that r's rounding does not count.
local function exp_reduced(b, h, l)
  local k = K[b.ftype]
  local n = b:rint(b:mul(l and b:add(h, l) or h, b:splat(1.4426950408889634)))
  local high, low = b:fma(n, b:splat(-k.ln2[1]), h), b:mul(n, b:splat(-k.ln2[2]))
  if l then low = b:add(low, l) end
  local r = b:add(high, low)
  return b:cvtt_i(n), b:add(high, b:fma(b:mul(r, r), polynomial(b, r, k.exp), low))
end

-- e^(h + l) as p * s, p and s normal numbers; h + l within exp_low .. exp_high. NaN: p is NaN, s is
-- any power of two.
local function exp_split(b, h, l)
  local n, p = exp_reduced(b, h, l)
  local half = b:sar(n, 1)
  return b:mul(b:add(b:splat(1), p), power_of_two(b, half)), power_of_two(b, b:isub(n, half))
end

-- ---- functions ----

function M.exp(b, x)
  local k = K[b.ftype]
  local p, s = exp_split(b, at_most(b, k.exp_high, at_least(b, k.exp_low, x)))
  return b:mul(p, s)
end

-- x = 2^e m, sqrt(1/2) <= m < sqrt 2, f = m - 1, s = f / (2 + f): log m = 2 atanh s = f - (f^2/2 -
-- s (f^2/2 + R(s^2))).
function M.log(b, x)
  local k = K[b.ftype]
  local tiny = b:lt(x, b:splat(k.normal))
  local normal = b:select(tiny, b:mul(x, b:splat(2 ^ k.lift)), x)
  local i = b:iadd(b:bits(normal), b:isplat(k.one - k.sqrt_half))
  local e = b:cvt_f(b:isub(b:shr(i, k.mantissa), b:isplat(k.bias)))
  e = b:select(tiny, b:sub(e, b:splat(k.lift)), e)
  local m = b:bits(b:iadd(b:and_(i, b:isplat(2 ^ k.mantissa - 1)), b:isplat(k.sqrt_half)))
  local f = b:sub(m, b:splat(1))
  local s = b:div(f, b:add(b:splat(2), f))
  local z, half = b:mul(s, s), b:mul(b:mul(f, f), b:splat(0.5))
  local inner = b:mul(s, b:fma(z, polynomial(b, z, k.log), half))
  inner = b:fma(e, b:splat(k.ln2[2]), inner)
  local y = b:fma(e, b:splat(k.ln2[1]), b:sub(f, b:sub(half, inner)))
  y = b:select(b:lt(x, b:splat(INF)), y, x) -- inf and NaN
  y = b:select(b:eq(x, b:splat(0)), b:splat(-INF), y)
  return b:select(b:lt(x, b:splat(0)), b:splat(NAN), y)
end

-- With m = e^(-2|x|) - 1: tanh |x| = -m / (m + 2), and 1 - 2 (m + 1) / (m + 2) where that is
-- exacter, near 1.
function M.tanh(b, x)
  local one, two = b:splat(1), b:splat(2)
  local a = at_most(b, K[b.ftype].one_from, b:mul(b:abs(x), two))
  local n, p = exp_reduced(b, b:neg(a))
  local s = power_of_two(b, n)
  local m = b:fma(s, p, b:sub(s, one))
  local large = b:lt(m, b:splat(-0.75))
  local q = b:div(b:select(large, b:mul(two, b:fma(s, p, s)), b:neg(m)), b:add(m, two))
  return with_sign_of(b, b:select(large, b:sub(one, q), q), x)
end

function M.sigmoid(b, x)
  local e = M.exp(b, b:neg(b:abs(x)))
  local one = b:splat(1)
  return b:div(b:select(b:lt(x, b:splat(0)), e, one), b:add(one, e))
end

-- x sigmoid(u) for u of x's sign with |u| >= |x|. x - x is 0, and at -inf the NaN that the formula
-- gives there.
local function gated(b, x, u)
  local k = K[b.ftype]
  local p, s = exp_split(b, b:neg(at_most(b, -k.exp_low, b:abs(u))))
  local negative, one = b:lt(u, b:splat(0)), b:splat(1)
  local top = b:select(negative, b:mul(b:add(at_least(b, k.exp_low, x), b:sub(x, x)), p), x)
  return b:mul(b:div(top, b:fma(p, s, one)), b:select(negative, s, one))
end

function M.silu(b, x) return gated(b, x, x) end

-- .5 x (1 + tanh v) = x sigmoid(2 v).
function M.gelu_tanh(b, x)
  local c = 2 * math.sqrt(2 / math.pi)
  return gated(b, x, b:mul(x, b:fma(b:mul(x, x), b:splat(c * 0.044715), b:splat(c))))
end

-- Phi(-t) e^(t^2/2) for 0 <= t <= tail_end: (1 + t) times it is a polynomial in (t - a) / (t + a),
-- a = tail_split.
local function mills(b, t)
  local k = K[b.ftype]
  local a = b:splat(k.tail_split)
  local q = b:div(b:sub(t, a), b:add(t, a))
  return b:div(polynomial(b, q, k.tail), b:add(t, b:splat(1)))
end

-- x Phi(x), NaN at -inf; Phi(x) = Phi(-|x|) below 0, else 1 - Phi(-|x|). -t^2/2 in two parts: the
-- square of the leading bits is exact.
function M.gelu(b, x)
  local k = K[b.ftype]
  local t = at_most(b, k.tail_end, b:abs(x))
  local high = b:bits(b:and_(b:bits(t), b:isplat(k.tail_mask)))
  local half = b:splat(-0.5)
  local rest = b:mul(b:sub(t, high), b:add(t, high))
  local p, s = exp_split(b, b:mul(b:mul(high, high), half), b:mul(rest, half))
  p = b:mul(mills(b, t), p)
  local below = b:mul(b:mul(b:add(at_least(b, -k.tail_end, x), b:sub(x, x)), p), s)
  local above = b:mul(x, b:sub(b:splat(1), b:mul(p, s)))
  return b:select(b:lt(x, b:splat(0)), below, above)
end

-- |x| < 1: x + x P(x^2); else 1 - 2 Phi(-sqrt(2) |x|).
function M.erf(b, x)
  local k = K[b.ftype]
  local small = b:fma(x, polynomial(b, b:mul(x, x), k.erf), x)
  local a = at_most(b, k.erf_one, b:abs(x))
  local p, s = exp_split(b, b:neg(b:mul(a, a)))
  local tail = b:mul(mills(b, b:mul(a, b:splat(math.sqrt(2)))), b:mul(p, s))
  local large = with_sign_of(b, b:fma(b:splat(-2), tail, b:splat(1)), x)
  return b:select(b:lt(a, b:splat(1)), small, large)
end

function M.rsqrt(b, x) return b:div(b:splat(1), b:sqrt(x)) end

-- sin (shift 0) or cos (shift 1) of n quarter turns and r, |r| <= 0.8.
local function turned(b, n, r, shift)
  local k = K[b.ftype]
  local z = b:mul(r, r)
  local s = b:fma(b:mul(r, z), polynomial(b, z, k.sin), r)
  local c = b:fma(b:mul(z, z), polynomial(b, z, k.cos), b:fma(z, b:splat(-0.5), b:splat(1)))
  local quarter = b:iadd(b:cvtt_i(n), b:isplat(shift))
  local zero = b:isplat(0)
  local odd = b:ine(b:and_(quarter, b:isplat(1)), zero)
  local v = b:select(odd, c, s)
  return b:select(b:ine(b:and_(quarter, b:isplat(2)), zero), b:neg(v), v)
end

local function quarter_turns(b, x, shift)
  local k = K[b.ftype]
  local n = b:rint(b:mul(x, b:splat(2 / math.pi)))
  local r = x
  for _, part in ipairs(k.half_pi) do r = b:fma(n, b:splat(-part), r) end
  return turned(b, n, r, shift)
end

function M.sin(b, x) return b:select(b:eq(x, b:splat(0)), x, quarter_turns(b, x, 0)) end -- keeps -0
function M.cos(b, x) return quarter_turns(b, x, 1) end

--- cos(2 pi u) for 0 <= u < 1; the reduction is exact.
function M.cos_turns(b, u)
  local n = b:rint(b:mul(u, b:splat(4)))
  local r = b:mul(b:fma(n, b:splat(-0.25), u), b:splat(2 * math.pi))
  return turned(b, n, r, 1)
end

--- The larger (smaller) of two; NaN if either is.
function M.maximum(b, x, y) return b:select(b:ne(x, x), x, b:max(x, y)) end
function M.minimum(b, x, y) return b:select(b:ne(x, x), x, b:min(x, y)) end

return M
