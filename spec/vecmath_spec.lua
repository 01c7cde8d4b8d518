-- Largest errors of the functions of lua/esper/vecmath.lua in ulps of the result, denormal results included, on every
-- instruction set of this processor, over inputs spread over all exponents and over the range where each function lives.
-- `busted spec/vecmath_spec.lua` prints the table. ESPER_SPEC_SAMPLES=n takes more of them; ESPER_SPEC_SWEEP=n takes
-- every n-th f32 there is instead (n = 1: all of them, an hour).
-- The reference is the C library in long double, compiled by the system's compiler; it shares nothing with vecmath.
local native = require "esper.native"
local C = native.C
local process = require "support.process"
local unit = require "support.unit"
local vec = require "esper.vec"
local vecmath = require "esper.vecmath"

local COUNT = tonumber(os.getenv "ESPER_SPEC_SAMPLES" or 100000)
local SWEEP = tonumber(os.getenv "ESPER_SPEC_SWEEP" or 0)
local ISAS = {}
for _, isa in ipairs { "scalar", "avx2", "avx512" } do
  if C.es_isa_supported(C.es_isa_named(isa)) then ISAS[#ISAS + 1] = isa end
end

-- reach: |x| up to which the dense sample goes. f32, f64: the bounds, in ulps. Sines are reduced by three parts of pi / 2:
-- stated for |x| <= 1000 only. plain: the bound in plain C, whose products and sums are not fused, where it is another. In the tail of gelu_tanh (and of the function it is) an error of u = 2 v in ulps counts |u| times.
local FUNCTIONS = {
  { name = "exp", reach = 110, reach64 = 750, f32 = 1.2, f64 = 1.2, c = "expl(x)" },
  { name = "exp_below", reach = 110, reach64 = 750, f32 = 1.2, f64 = 1.2, c = "expl(x)", negative = true },
  { name = "log", reach = 100, f32 = 1.0, f64 = 1.0, c = "logl(x)", positive = true },
  { name = "tanh", reach = 12, reach64 = 24, f32 = 2.0, f64 = 2.0, plain = 2.3, c = "tanhl(x)" },
  { name = "sigmoid", reach = 110, reach64 = 750, f32 = 2.0, f64 = 2.0, c = "1 / (1 + expl(-x))" },
  { name = "silu", reach = 110, reach64 = 750, f32 = 2.0, f64 = 2.0, c = "x / (1 + expl(-x))" },
  { name = "erf", reach = 5, reach64 = 7, f32 = 1.8, f64 = 1.8, c = "erfl(x)" },
  { name = "gelu", reach = 15, reach64 = 40, f32 = 4.0, f64 = 5.5, plain = 4.5, c = "x / 2 * erfcl(-x * M_SQRT1_2l)" },
  { name = "sigmoid_near", reach = 1, limit = 1, f32 = 2.0, f64 = 2.0, c = "1 / (1 + expl(-x))" },
  { name = "gelu_near", reach = 1, limit = 1, f32 = 4.0, f64 = 5.5, c = "x / 2 * erfcl(-x * M_SQRT1_2l)" },
  { name = "gelu_tanh", reach = 10, reach64 = 22, f32 = 200, f64 = 1800,
    c = "x / (1 + expl(-2 * 0.797884560802865355879892119868763737L * (x + 0.044715L * x * x * x)))" },
  { name = "sin", reach = 1000, limit = 1000, f32 = 1.6, f64 = 1.6, c = "sinl(x)" },
  { name = "cos", reach = 1000, limit = 1000, f32 = 1.6, f64 = 1.6, c = "cosl(x)" },
  { name = "rsqrt", reach = 100, f32 = 1.5, f64 = 1.5, c = "1 / sqrtl(x)", positive = true },
}

-- worst(kind, wide, in, out, count, &at): the largest error in ulps and where; inf where one is NaN or infinite and the other
-- is not. An ulp is that of the exact result rounded to the type, at least the smallest denormal.
local REFERENCE = [[
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
static long double exact(int kind, long double x) {
  switch (kind) {
%s  }
  return 0;
}
double worst(int kind, int wide, const void *in, const void *out, long count, long *at) {
  double most = 0;
  for (long i = 0; i < count; i++) {
    long double x = wide ? ((const double *)in)[i] : ((const float *)in)[i], y = wide ? ((const double *)out)[i] : ((const float *)out)[i];
    long double want = exact(kind, x), error;
    long double top = wide ? 0x1p1024L : 0x1p128L;
    if (isnan(want) || isnan(y)) error = isnan(want) && isnan(y) ? 0 : INFINITY;
    else if (fabsl(want) >= top || isinf(y)) {
      /* a result beyond the range must be infinite, up to rounding at the edge */
      error = isinf(y) && fabsl(want) >= top * (1 - (wide ? 0x1p-52L : 0x1p-23L)) && (y > 0) == (want > 0) ? 0 : INFINITY;
      if (!isinf(y) && fabsl(want) < top * (1 + 0x1p-20L)) error = 1;
    } else {
      int exponent = want == 0 ? -20000 : ilogbl(want), least = wide ? -1022 : -126;
      if (exponent < least) exponent = least;
      error = fabsl(y - want) / ldexpl(1, exponent - (wide ? 52 : 23));
    }
    if (error > most) most = (double)error, *at = i;
  }
  return most;
}
]]

local function reference(directory)
  local cases = {}
  for i, f in ipairs(FUNCTIONS) do cases[i] = ("    case %d: return %s;\n"):format(i, f.c) end
  process.write(directory .. "/reference.c", REFERENCE:format(table.concat(cases)))
  process.must(("gcc -O2 -w -shared -fPIC -o %s/reference.so %s/reference.c -lm"):format(directory, directory))
  local ffi = require "ffi"
  pcall(ffi.cdef, "double worst(int kind, int wide, const void *in, const void *out, long count, long *at);")
  return ffi.load(directory .. "/reference.so")
end

local function compiled(name, type, isa)
  local b = vec.block(isa, type)
  local count, x, y = b:arg(0), b:arg(1), b:arg(2)
  b:each(count, { x, y }, function(mask) b:store(y, vecmath[name](b, b:load(x, 0, mask)), 0, mask) end)
  local code = unit.build(b:lower "block" .. "void run(const long *w) { block(w); }\n")
  local fn = code:get("run", "void (*)(const int64_t *)")
  local function address(p) return native.cast("int64_t", native.cast("intptr_t", native.cast("void *", p))) end
  return function(from, to, n) return fn(native.new("int64_t[3]", n, address(from), address(to))), code end
end

-- Half of the sample spread evenly over [-reach, reach], half over all bit patterns within it.
local function sample(f, type)
  local ctype = type == "f32" and "float" or "double"
  local reach = type == "f64" and f.reach64 or f.reach
  local from = native.new(ctype .. "[?]", COUNT)
  local low_exponent = type == "f32" and -149 or -1074
  for i = 0, COUNT - 1 do
    local u = (i * 0.6180339887498949) % 1
    if i % 2 == 0 then
      from[i] = (2 * u - 1) * reach
    else
      local high = f.name == "log" and (type == "f32" and 127 or 1023) or math.log(reach, 2)
      local v = 2 ^ (low_exponent + u * (high - low_exponent)) * (1 + (i * 0.7548776662466927) % 1) / 2
      from[i] = i % 4 == 1 and -v or v
    end
    if f.positive then from[i] = math.abs(from[i]) end
    if f.negative then from[i] = -math.abs(from[i]) end
  end
  return from, native.new(ctype .. "[?]", COUNT)
end

-- In: +0, -0, +inf, -inf, NaN. x phi(x) gives NaN at -inf, as the product of infinity and 0 does.
local SPECIAL = { 0, -0.0, math.huge, -math.huge, 0 / 0 }
local AT_SPECIAL = {
  exp = { 1, 1, math.huge, 0, 0 / 0 }, exp_below = { 1, 1, nil, 0, 0 / 0 }, log = { -math.huge, -math.huge, math.huge, 0 / 0, 0 / 0 }, tanh = { 0, -0.0, 1, -1, 0 / 0 },
  sigmoid = { 0.5, 0.5, 1, 0, 0 / 0 }, silu = { 0, -0.0, math.huge, 0 / 0, 0 / 0 }, erf = { 0, -0.0, 1, -1, 0 / 0 },
  sigmoid_near = { 0.5, 0.5, nil, nil, 0 / 0 }, gelu_near = { 0, -0.0, nil, nil, 0 / 0 },
  gelu = { 0, -0.0, math.huge, 0 / 0, 0 / 0 }, gelu_tanh = { 0, -0.0, math.huge, 0 / 0, 0 / 0 }, sin = { 0, -0.0, 0 / 0, 0 / 0, 0 / 0 },
  cos = { 1, 1, 0 / 0, 0 / 0, 0 / 0 }, rsqrt = { math.huge, -math.huge, 0, 0 / 0, 0 / 0 },
}

describe("vecmath", function()
  for _, f in ipairs(FUNCTIONS) do
    for _, type in ipairs { "f32", "f64" } do
      it(f.name .. "." .. type .. " of zeros, infinities and NaN", function()
        local ctype = type == "f32" and "float[5]" or "double[5]"
        for _, isa in ipairs(ISAS) do
          local from, to = native.new(ctype, SPECIAL), native.new(ctype)
          compiled(f.name, type, isa)(from, to, 5)
          for i, want in pairs(AT_SPECIAL[f.name]) do
            local got = tonumber(to[i - 1])
            local equal = got == want and (want ~= 0 or 1 / got == 1 / want) or got ~= got and want ~= want
            assert.is_true(equal, ("%s at %s: %s, want %s"):format(isa, SPECIAL[i], got, want))
          end
        end
      end)
    end
  end
end)

describe("vecmath #process", function()
  local directory, judge = process.directory()
  setup(function() judge = reference(directory) end)
  teardown(function() process.remove(directory) end)

  -- The largest error over from[0 .. COUNT - 1] joins `worst`, a table { error =, at =, got = }.
  local function examine(kind, type, run, from, to, worst)
    run(from, to, COUNT)
    local at = native.new "long[1]"
    local error = judge.worst(kind, type == "f64" and 1 or 0, from, to, COUNT, at)
    if error > worst.error then
      local i = tonumber(at[0])
      worst.error, worst.at, worst.got = error, tonumber(from[i]), tonumber(to[i])
    end
  end

  -- Every SWEEP-th bit pattern, within what the function is stated for.
  local function sweep(kind, f, run, worst)
    local from, to = native.new("float[?]", COUNT), native.new("float[?]", COUNT)
    local bits, n = native.cast("uint32_t *", from), 0
    for pattern = 0, 2 ^ 32 - 1, SWEEP do
      bits[n] = pattern
      local x = from[n]
      if (f.limit == nil or math.abs(x) <= f.limit) and not (f.negative and x > 0) then n = n + 1 end
      if n == COUNT then
        examine(kind, "f32", run, from, to, worst)
        n = 0
      end
    end
    for i = n, COUNT - 1 do from[i] = 1 end
    examine(kind, "f32", run, from, to, worst)
  end

  for kind, f in ipairs(FUNCTIONS) do
    for _, type in ipairs { "f32", "f64" } do
      it(("%s.%s stays within %.1f ulp"):format(f.name, type, f[type]), function()
        for _, isa in ipairs(ISAS) do
          local run = compiled(f.name, type, isa)
          local worst, from, to = { error = -1 }, sample(f, type)
          local bound = isa == "scalar" and math.max(f[type], f.plain or 0) or f[type]
          if SWEEP > 0 and type == "f32" then sweep(kind, f, run, worst) else examine(kind, type, run, from, to, worst) end
          print(("vecmath %-10s %s %-6s largest error %.3f ulp at %.17g"):format(f.name, type, isa, worst.error, worst.at))
          assert.is_true(worst.error <= bound, ("%s: %.3f ulp at %.17g: %.17g"):format(isa, worst.error, worst.at, worst.got))
        end
      end)
    end
  end
end)
