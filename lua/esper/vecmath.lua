--- Transcendentals and pointwise nodes on vector registers, f32 and f64 from one source. Used by
-- emit_chain.lua and recipes.
--
-- Functions (b, v) -> v. Largest error in ulps of the result, denormal results included, against the C library in (long)
-- double: seen over every 5th f32 (log: all) and 2e7 f64 spread over exponents and the range where the function lives.
-- spec/vecmath_spec.lua samples it on every instruction set; with ESPER_SPEC_SWEEP it takes every f32.
--                      f32      f64    domain; special values are the limits of the exact function; NaN stays
--   exp exp_below      1.2      1.2    all; exp_below up to 40. Fused 0.9
--   log                0.9      0.8    all; log(+-0) = -inf, below 0 NaN
--   tanh               1.8      2.0    all; 2.3 in plain C, whose products and sums are not fused
--   erf                1.8      1.7    all
--   sigmoid silu       2.0      2.0    all; silu NaN at -inf, as gelu and gelu_tanh
--   sigmoid_near       1.5      2.0    |x| <= 1
--   gelu_near          3.0      5.5    |x| <= 1
--   gelu               3.9      5.5    all; 4.4 in plain C
--   gelu_tanh          210     1800    all; in the tail below 0 an error of the exponent u counts |u| times
--   sin cos            2.5      2.4    |x| <= 1e4 (f32), 1e6 (f64)
--   rsqrt              1.5      1.5    all
-- Method, derived here: ranges are reduced by Cody-Waite splitting (products exact, so fused and
-- unfused agree); on the reduced range a minimax polynomial (quotient of two: gelu) found by the Remez exchange or
-- Lawson's iteration in 50 digits or more; its relative error is given beside it. Results near and below the smallest
-- normal number are scaled by powers of two last, so they round once.

local M = {}

local K = {
  f32 = {
    mantissa = 23, bias = 127, sign = -2147483648,
    ln2 = { 0x1.62e4p-1, 1.4286068203094173e-06 },   -- high part: 15 bits
    exp_low = -122, exp_high = 100,                  -- beyond these exp is 0, inf
    exp = { 0.49999994, 0.166665211, 0.041668389, 0.00836874545, 0.00138145417 },                  -- 2^-28
    weight = { 120.520131769, 120.52008491, 60.2587083128, 20.0877991269, 5.05188579441, 1 },      -- 2^-23.6
    tanh = { 2.00000722, 0.799648186 },                                                           -- 2^-27
    sigmoid_near = { 0.249999978, -0.0208329283, 0.00208114696, -0.000205855904, 1.62389446e-05 },  -- 2^-27.7
    gelu_near = { 0.398942278, -0.0664903144, 0.00997307838, -0.00118578499, 0.000112952174, -7.46289502e-06 },  -- 2^-30.8
    shift = 0x1.8p23, shift_bits = 0x4b400000,       -- adding it rounds to a whole number, in the low bits
    one_from = 32, out_low = -109.5,                 -- beyond these sigmoid is 1, sigmoid and x sigmoid(x) are 0
    sqrt_half = 0x3f3504f3, one = 0x3f800000, normal = 0x1p-126, lift = 32, raise = 64,
    log = { 0.666666627, 0.400003344, 0.285373271, 0.235818297 },                                  -- 2^-36
    erf = { 0.12837911, -0.37612626, 0.112835854, -0.026853811, 0.00518832728, -0.000801018905,
            7.853844e-05 },                                                                        -- 2^-29
    erf_one = 4.5,                                   -- erf rounds to 1 from here on
    tail_end = 14.75, tail_mask = -4096,             -- the mask keeps 12 bits, whose square is exact
    root = 2.50663376,                               -- sqrt(2 pi), about
    mills_p = { 0.9171349561, 0.3967336006, 0.09152663698, 0.00976878851 },
    mills_r = { 0.923406763, 0.2313029554, 0.02440310476 },                                     -- 2^-25.8 up to 13.2
    half_pi = { 1.5703125, 0.00048375129699707031, 7.5495336204767227e-08, 2.5633441515945189e-12 }, -- 11, 11, 11, 24 bits
    sin = { -0.166666672, 0.00833332911, -0.000198392561, 2.71756539e-06 },                        -- 2^-37
    cos = { 0.0416666679, -0.00138888834, 2.47994376e-05, -2.72033219e-07 },                       -- 2^-43
  },
  f64 = {
    mantissa = 52, bias = 1023, sign = -2 ^ 63,
    ln2 = { 0.69314718055829871, 1.6465949582897082e-12 }, -- high part: 38 bits
    exp_low = -800, exp_high = 720,
    exp = { 0.5, 0.16666666666666682, 0.041666666666666095, 0.0083333333333169817, 0.0013888888889116355,
            0.0001984126989651574, 2.480158692572994e-05, 2.7557234727262864e-06, 2.7557582271226722e-07,
            2.5112084684549704e-08, 2.0826586083050111e-09 },                                      -- 2^-64
    shift = 0x1.8p52, shift_bits = 0x4338 * 2 ^ 48,
    tanh = { 2.0000000000000127, 0.79999999999728313, -0.0038095236214641827, 0.00016930648938649882, -8.057858799e-06 }, -- 2^-58
    one_from = 64, out_low = -755,
    sqrt_half = 0x3fe6a09e * 2 ^ 32, one = 0x3ff00000 * 2 ^ 32, normal = 0x1p-1022, lift = 128, raise = 512,
    log = { 0.66666666666666663, 0.40000000000006208, 0.28571428569095136, 0.22222222645611658, 0.18181775748886747,
            0.15387087476382874, 0.1325018587702089, 0.13250757596250845 },                        -- 2^-65
    erf = { 0.12837916709551256, -0.37612638903183754, 0.11283791670955119, -0.026866170645129733, 0.005223977625422086,
            -0.00085483270218532012, 0.00012055332899357821, -1.4925647465110833e-05, 1.6462043407599716e-06,
            -1.6364614418249391e-07, 1.4792145719035877e-08, -1.2163041701482618e-09, 8.7037890631575637e-11,
            -4.2228949703064973e-12 },                                                             -- 2^-68
    erf_one = 6.25,
    tail_end = 39, tail_mask = -2 ^ 27,              -- 26 bits
    root = 0x1.40d931ff62706p1,
    mills_p = { 1.7925862255359175, 1.592543888468366, 0.91157037164365551, 0.3704993345532554, 0.11179263020078641,
                0.025510590625807367, 0.0044043771351608653, 0.00056511738885482482, 5.1549887805868939e-05,
                3.0309178939983038e-06, 8.8082181643481483e-08 },
    mills_r = { 2.6743132980465654, 1.8255337505554858, 0.81441510392275007, 0.25941817865829281, 0.061188460644146972,
                0.010783911423957611, 0.0014013444542935506, 0.00012877482779113968, 7.5973844907760149e-06,
                2.2078928700094919e-07 },                                                          -- 2^-63
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

-- v >= 0 or NaN
local function with_sign_of(b, v, x)
  return b:bits(b:or_(b:bits(v), b:and_(b:bits(x), b:isplat(K[b.ftype].sign))))
end

-- For c = ln 2 times `over`: n = x / c rounded to a whole number, t whose low bits hold n + `field`, and r = x - n c. |n|
-- stays below 2^21. NaN: r is NaN, the others anything. `of`: r = of - n c instead, c in one constant where products are fused,
-- which n that are not small would show.
local function reduce(b, x, over, field, of)
  local k = K[b.ftype]
  local shift = b:splat(k.shift + field)
  local t = b:fma(x, b:splat(1.4426950408889634 / over), shift)
  local n = b:sub(t, shift)
  if of and b.lanes > 1 then return n, t, b:fma(n, b:splat(-0.69314718055994531 * over), of) end
  return n, t, b:fma(n, b:splat(-k.ln2[2] * over), b:fma(n, b:splat(-k.ln2[1] * over), of or x))
end

-- 2^(n + field - bias) of reduce()'s t, n + field being the exponent's bits.
local function power(b, t) return b:bits(b:shl(b:bits(t), K[b.ftype].mantissa)) end

-- v 2^(n + field) likewise, v no NaN (its bits may leave none).
local function raised(b, v, t) return b:bits(b:iadd(b:bits(v), b:shl(b:bits(t), K[b.ftype].mantissa))) end

-- q with e^(s r) = 1 + r q / scale for |s r| <= 0.35; s is a power of two or minus one, scale a power of two.
local function slope(b, r, s, scale)
  local c = { s * (scale or 1) }
  for i, v in ipairs(K[b.ftype].exp) do c[i + 1] = v * s ^ (i + 1) * (scale or 1) end
  return polynomial(b, r, c)
end

-- v 2^n, rounded once, with n and t of reduce(), field 0.
local function scaled(b, v, n, t)
  if b.isa == "avx512" then return b:scalef(v, n) end
  local k = K[b.ftype]
  local whole = b:isub(b:bits(t), b:isplat(k.shift_bits))
  local half = b:sar(whole, 1)
  local function two(i) return b:bits(b:iadd(b:shl(i, k.mantissa), b:isplat(k.one))) end
  return b:mul(b:mul(v, two(half)), two(b:isub(whole, half)))
end

-- The same for n <= 60, field = bias + raise: 2^n lifted to a normal number is one power.
local function scaled_down(b, v, n, t)
  if b.isa == "avx512" then return b:scalef(v, n) end
  return b:mul(b:mul(v, power(b, t)), b:splat(2 ^ -K[b.ftype].raise))
end

-- Numerator and divisor of sigmoid(u) for out_low <= u <= one_from or NaN (the divisor is NaN then): e^-u = m / p, p = 2^n and
-- m = 1 + r q, so it is p / (p + m), both lifted out of the denormals. The smaller of p and 1 joins r q first.
local function logistic(b, u)
  local k = K[b.ftype]
  local one = b:splat(2 ^ k.lift)
  local _, t, r = reduce(b, u, 1, k.bias + k.lift)
  local p = power(b, t)
  return p, b:add(b:fma(slope(b, r, -1, 2 ^ k.lift), r, b:min(p, one)), b:max(p, one))
end

local function bounded(b, x)
  local k = K[b.ftype]
  local low = at_most(b, k.one_from, x)
  return at_least(b, k.out_low, low), low
end

-- x sigmoid(u) for u = x (nil) or one that leaves the bounds where x does. Beyond one_from it is x; at -inf NaN, that of inf * 0.
local function gated(b, x, u)
  local v, low = bounded(b, x)
  local top, under = logistic(b, u and (bounded(b, u)) or v)
  return b:sub(b:div(b:mul(v, top), under), b:sub(low, x))
end

-- ---- functions ----

local function exp_by(scale, b, x, field)
  local n, t, r = reduce(b, at_least(b, K[b.ftype].exp_low, x), 1, field)
  return scale(b, b:fma(slope(b, r, 1), r, b:splat(1)), n, t)
end

function M.exp(b, x) return exp_by(scaled, b, at_most(b, K[b.ftype].exp_high, x), 0) end

--- e^x for x <= 40, or NaN: cheaper.
function M.exp_below(b, x) return exp_by(scaled_down, b, x, K[b.ftype].bias + K[b.ftype].raise) end

--- e^x / weight_unit(b) for x <= 0, or NaN, as weights of a softmax want it: within 3 ulp and 0.05 |x| ulp, which the rounding of
-- x = a - max (half an ulp of x, 0.5 |x| ulp of the result) hides. f32 with fused products: ln 2 in one constant, a polynomial
-- whose leading coefficient is the unit.
function M.weight(b, x)
  local k = K[b.ftype]
  if M.weight_unit(b) == 1 then return M.exp_below(b, x) end
  local v = at_least(b, k.exp_low, x)
  local _, t, r = reduce(b, v, 1, k.bias + k.raise, v)
  local p = b:add(r, b:splat(k.weight[5]))
  for i = 4, 1, -1 do p = b:fma(p, r, b:splat(k.weight[i])) end
  return b:mul(p, power(b, t))
end

--- What weights are multiples of: they are lifted, so that the smallest one that counts is a normal number. That of 0 times
-- this is exactly 1.
function M.weight_unit(b) return b.ftype == "f32" and b.lanes > 1 and 2 ^ -K.f32.raise / K.f32.weight[1] or 1 end

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

-- For a = |x| and u = tanh(s), a = n ln 2 / 2 + s, it is (2^n (1 + u) - (1 - u)) / (2^n (1 + u) + (1 - u)), and u = p / c with
-- p = s (c - k z), z = s^2: both sums are taken over 2 / c. n becomes 1 where its difference cancels little. The size of c is chosen
-- for small roundings: it lies just above 2.
function M.tanh(b, x)
  local k, a = K[b.ftype], at_most(b, K[b.ftype].one_from, b:abs(x))
  local _, t, s = reduce(b, b:sub(a, b:splat(0.083)), 0.5, k.bias - 1, a)
  local z = b:mul(s, s)
  local c = polynomial(b, z, k.tanh)
  local p = b:fma(s, c, b:mul(s, b:mul(z, b:splat(-2 / 3))))
  local top = b:fma(b:sub(power(b, t), b:splat(0.5)), b:add(c, p), p)
  return with_sign_of(b, b:div(top, b:add(top, b:sub(c, p))), x)
end

function M.sigmoid(b, x) return b:div(logistic(b, (bounded(b, x)))) end

function M.silu(b, x) return gated(b, x) end

-- .5 x (1 + tanh v) = x sigmoid(2 v).
function M.gelu_tanh(b, x)
  local c = 2 * math.sqrt(2 / math.pi)
  return gated(b, x, b:mul(x, b:fma(b:mul(x, x), b:splat(c * 0.044715), b:splat(c))))
end

-- a Phi(-a) e^(a^2/2) = a W / (2 + sqrt(2 pi) a W + a R(a)) for 0 <= a <= tail_end, W = 1 + a P(a), P and R polynomials with
-- positive coefficients: where a is large the error of W cancels, and R counts little. Gives W and the divisor times `scale`,
-- both times 1.5, where their roundings are small for small a.
local function mills(b, a, scale)
  local k, p, r = K[b.ftype], { 1.5 }, {}
  for i, v in ipairs(k.mills_p) do p[i + 1] = 1.5 * v end
  for i, v in ipairs(k.mills_r) do r[i] = 1.5 * scale * v end
  local w = polynomial(b, a, p)
  return w, b:fma(a, b:fma(w, b:splat(k.root * scale), polynomial(b, a, r)), b:splat(3 * scale))
end

-- x Phi(x) = max(x, 0) - a Phi(-a) for a = |x|; NaN at -inf. The square of a is taken exactly, in two parts: the leading
-- bits, whose square is exact, and the rest. e^(-a^2/2) = 2^n / (1 + r q), 2^n and the divisor lifted out of the denormals.
function M.gelu(b, x)
  local k = K[b.ftype]
  local a = at_most(b, k.tail_end, b:abs(x))
  local high = b:bits(b:and_(b:bits(a), b:isplat(k.tail_mask)))
  local _, t, r = reduce(b, b:mul(high, high), -2, k.raise)
  r = b:fma(b:sub(a, high), b:add(a, high), r)
  local w, under = mills(b, a, 2 ^ k.raise)
  local tail = b:div(b:mul(a, raised(b, w, t)), b:fma(b:mul(under, r), slope(b, r, 0.5), under))
  return b:sub(b:sub(x, b:min(x, b:splat(0))), tail)
end

-- |x| < 1: x + x P(x^2); else 1 - 2 Phi(-sqrt(2) |x|).
function M.erf(b, x)
  local k = K[b.ftype]
  local a = at_most(b, k.erf_one, b:abs(x))
  local t = b:mul(a, b:splat(math.sqrt(2)))
  local w, under = mills(b, t, 1)
  local tail = b:mul(b:div(w, under), M.exp_below(b, b:neg(b:mul(a, a))))
  local large = with_sign_of(b, b:fma(b:splat(-2), tail, b:splat(1)), x)
  local small = b:fma(x, polynomial(b, b:mul(x, x), k.erf), x)
  return b:select(b:lt(a, b:splat(0.84)), small, large)
end

-- 1/2 + x P(x^2) for |x| <= 1.
local function near(b, x, c) return c and b:fma(x, polynomial(b, b:mul(x, x), c), b:splat(0.5)) end

--- The same for |x| <= 1 (or one rounding more), or NaN.
function M.sigmoid_near(b, x) return near(b, x, K[b.ftype].sigmoid_near) or M.sigmoid(b, x) end

function M.gelu_near(b, x)
  local phi = near(b, x, K[b.ftype].gelu_near)
  return phi and b:mul(x, phi) or M.gelu(b, x)
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
