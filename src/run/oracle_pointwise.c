/* Rules of the pointwise and random ops: each output element from one element of every (broadcast) input.
 * A rule sees exact or bounded pairs; the drivers below take care of unknown operands. In the derivations f is the
 * function, e the bound of its operand x; "k ulp" is 2ku|f|. */
#include "base/random.h"
#include "run/oracle_ops.h"

typedef es_pair (*unary_rule)(const es_case *c, es_pair x);
typedef es_pair (*binary_rule)(const es_case *c, es_pair a, es_pair b);

/* An exact infinity or NaN that gives one again gives it in any implementation. */
static esper_status unary(const es_case *c, unary_rule rule) {
  for (int64_t i = 0; i < c->out->count; i++) {
    es_pair x = es_at(c->in[0], i);
    bool known = x.e < INFINITY;
    es_pair y = rule(c, known ? x : (es_pair){ x.v, 0 });
    if (!known) y.e = INFINITY;
    else if (!isfinite(x.v) && !isfinite(y.v)) y.e = 0;
    es_put(c, i, y);
  }
  return ESPER_OK;
}

static esper_status binary(const es_case *c, binary_rule rule) {
  es_walk w;
  es_walk_start(&w, c->out->rank, c->out->shape);
  es_walk_broadcast(&w, c->in[0], 0);
  es_walk_broadcast(&w, c->in[1], 0);
  for (int64_t i = 0; w.left > 0; es_walk_next(&w), i++)
    es_put(c, i, rule(c, es_at(c->in[0], w.at[0]), es_at(c->in[1], w.at[1])));
  return ESPER_OK;
}

/* The sign of a computed 0 depends on the implementation, so a pole is judged at zeros the caller gave only. */
static bool given(const es_case *c, int32_t k) { return es_op_get(c->from[k]->op)->class_ == ES_CLASS_leaf; }

#define UNARY(name) \
  esper_status es_rule_##name(const es_case *c) { return unary(c, name##_pair); }
#define BINARY(name) \
  esper_status es_rule_##name(const es_case *c) { return binary(c, name##_pair); }

/* --- exact and piecewise linear: no rounding, the interval is carried over ------------------------------- */
static es_pair same_pair(const es_case *c, es_pair x) { (void)c; return x; }
static es_pair neg_pair(const es_case *c, es_pair x) { (void)c; return (es_pair){ -x.v, x.e }; }
static es_pair abs_pair(const es_case *c, es_pair x) { (void)c; return (es_pair){ fabs(x.v), x.e }; }
static es_pair relu_pair(const es_case *c, es_pair x) { (void)c; return es_pair_max(x, (es_pair){ 0, 0 }); }
esper_status es_rule_stop_grad(const es_case *c) { return unary(c, same_pair); }
esper_status es_rule_checkpoint(const es_case *c) { return unary(c, same_pair); }
esper_status es_rule_telemetry_probe(const es_case *c) { return unary(c, same_pair); }
UNARY(neg)
UNARY(abs)
UNARY(relu)

/* Discontinuous: exact when the whole interval rounds to one integer. */
static es_pair round_pair(const es_case *c, es_pair x) {
  (void)c;
  bool one = x.e == 0 || rint(x.v - x.e) == rint(x.v + x.e);
  return (es_pair){ rint(x.v), one ? 0 : (double)INFINITY };
}
UNARY(round)

/* Monotone in x, lo and hi; lo and hi may be rounded to f32 (to an infinity, too). */
static es_pair clamp_pair(const es_case *c, es_pair x) {
  double lo = c->node->f[0], hi = c->node->f[1];
  bool single = c->f.u > 0x1p-40;
  double lo2 = single ? es_number_round(ES_f32, lo) : lo, hi2 = single ? es_number_round(ES_f32, hi) : hi;
  double v = fmin(fmax(x.v, lo), hi);
  if (isnan(x.v)) return x;
  double below = fmin(fmax(x.v - x.e, fmin(lo, lo2)), fmin(hi, hi2));
  double above = fmin(fmax(x.v + x.e, fmax(lo, lo2)), fmax(hi, hi2));
  return isfinite(v) ? es_settle(c, v, fmax(above - v, v - below)) : (es_pair){ v, 0 };
}
UNARY(clamp)

/* To a float: exact when the value is one of the dtype, else one rounding. To integers es_put does it all. */
static es_pair cast_pair(const es_case *c, es_pair x) {
  int32_t to = c->node->dtype;
  if (!es_is_float(to) || !isfinite(x.v) || (x.e == 0 && es_number_round(to, x.v) == x.v)) return x;
  return es_settle(c, x.v, x.e + es_rounding(c, fabs(x.v) + x.e, 1));
}
UNARY(cast)

/* --- transcendentals: |f(x') - f(x)| over the interval, then k ulp of the largest |f| there ---------------- */
static es_pair finish(const es_case *c, double y, double grow, double k) {
  return es_settle(c, y, grow + es_rounding(c, fabs(y) + grow, k));
}

/* sqrt is concave: the lower end is worse, sqrt(x) - sqrt(x - e) = e / (sqrt(x) + sqrt(x - e)). 1 ulp. */
static es_pair sqrt_pair(const es_case *c, es_pair x) {
  double y = sqrt(x.v);
  if (!isfinite(x.v) || x.v + x.e < 0) return (es_pair){ y, 0 };
  if (x.v - x.e < 0) return (es_pair){ y, (double)INFINITY };
  return finish(c, y, x.e > 0 ? x.e / (y + sqrt(x.v - x.e)) : 0, 2);
}
UNARY(sqrt)

static es_pair rsqrt_pair(const es_case *c, es_pair x) {
  es_pair y = es_pair_rsqrt(c, x, 0);
  if (x.v == 0 && x.e == 0 && given(c, 0)) y.e = 0;
  return y;
}
UNARY(rsqrt)

/* e^(x + e) - e^x = e^x expm1(e) is the larger side. 4 ulp. Surely past four times the largest number the result is an
 * infinity, even where a following addition was contracted into an fma. */
static es_pair exp_pair(const es_case *c, es_pair x) {
  double y = exp(x.v);
  if (y > c->f.huge && x.v - x.e > log(c->f.huge) + 1.4) return (es_pair){ (double)INFINITY, 0 };
  return finish(c, y, x.e < 1 ? y * expm1(x.e) : exp(x.v + x.e) - y, 8);
}
UNARY(exp)

/* log(x) - log(x - e) = -log1p(-e/x) is the larger side. 4 ulp. */
static es_pair log_pair(const es_case *c, es_pair x) {
  double y = log(x.v);
  if (!isfinite(x.v) || x.v + x.e < 0 || (x.v == 0 && x.e == 0)) return (es_pair){ y, 0 };
  if (x.v - x.e <= 0) return (es_pair){ y, (double)INFINITY };
  return finish(c, y, -log1p(-x.e / x.v), 8);
}
UNARY(log)

/* tanh' = 1 - tanh^2 is largest at the point of the interval nearest 0; |f| <= 1 bounds the rest. 4 ulp. */
static es_pair tanh_pair(const es_case *c, es_pair x) {
  double y = tanh(x.v), t = tanh(fmax(fabs(x.v) - x.e, 0));
  return finish(c, y, fmin(x.e * (1 - t * t), 1 + fabs(y)), 8);
}
UNARY(tanh)

static double logistic(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }

/* s' = s (1 - s), largest at the point nearest 0. 6 ulp: an exp of 4 ulp, a sum, a quotient. 1/huge: e^-x may overflow
 * where s is denormal. */
static es_pair sigmoid_pair(const es_case *c, es_pair x) {
  double y = logistic(x.v), s = logistic(-fmax(fabs(x.v) - x.e, 0));
  es_pair p = finish(c, y, fmin(x.e * s * (1 - s), 1), 12);
  return (es_pair){ p.v, x.v < 0 ? p.e + 1 / c->f.huge : p.e };
}
UNARY(sigmoid)

/* |silu'| <= 1.1. 8 ulp, and |x| times the 1/huge of its sigmoid. -inf gives -inf * 0 = NaN. */
static es_pair silu_pair(const es_case *c, es_pair x) {
  double y = x.v * logistic(x.v);
  double floor = x.v < 0 ? (fabs(x.v) + x.e) / c->f.huge : 0;
  return finish(c, y, 1.1 * x.e + floor, 16);
}
UNARY(silu)

/* |gelu'| <= 1.13, both forms. 8 ulp. Below 0 the textbook x/2 (1 + erf) cancels: erf (tanh) within 4 ulp, i.e. 4u, the
 * sum's u/2 and, for tanh, 5u of its argument where sech^2(a) a <= 0.45 leave at most |x|/2 (8u) = 4u|x|.
 * -inf gives -inf * 0 = NaN. */
static es_pair gelu_pair(const es_case *c, es_pair x) {
  double v = x.v, y = 0.5 * v * erfc(-v * 0.70710678118654752440);
  if (c->node->i[0]) y = 0.5 * v * (1 + tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v)));
  return finish(c, y, 1.13 * x.e + (v < 0 ? 4 * c->f.u * (fabs(v) + x.e) : 0), 16);
}
UNARY(gelu)

/* --- arithmetic --------------------------------------------------------------------------------------- */
static bool power_of_two(double v) {
  int exponent;
  return fabs(frexp(v, &exponent)) == 0.5;
}

/* x mul + add; a product by a power of two does not round above the denormals. */
static es_pair scale_pair(const es_case *c, es_pair x) {
  es_pair mul = es_pair_attr(c, c->node->f[0]), p = es_pair_mul(c, x, mul);
  if (mul.e == 0 && power_of_two(mul.v) && p.e < INFINITY && fabs(p.v) >= c->f.normal) p.e = x.e * fabs(mul.v);
  return es_pair_add(c, p, es_pair_attr(c, c->node->f[1]));
}
UNARY(scale)

static es_pair div_pair(const es_case *c, es_pair a, es_pair b) {
  es_pair p = es_pair_div(c, a, b);
  bool pole = b.v == 0 && b.e == 0 && a.e < fabs(a.v);
  if (pole && given(c, 1)) p.e = 0;
  return p;
}
BINARY(div)

static es_pair maximum_pair(const es_case *c, es_pair a, es_pair b) { (void)c; return es_pair_max(a, b); }
static es_pair minimum_pair(const es_case *c, es_pair a, es_pair b) { (void)c; return es_pair_min(a, b); }
BINARY(maximum)
BINARY(minimum)
esper_status es_rule_add(const es_case *c) { return binary(c, es_pair_add); }
esper_status es_rule_sub(const es_case *c) { return binary(c, es_pair_sub); }
esper_status es_rule_mul(const es_case *c) { return binary(c, es_pair_mul); }

/* f' - f = (a' - a)(1 - w') + (b' - b) w' + (b - a)(w' - w). Of the forms a + w(b - a), (1 - w) a + w b and
 * b - (1 - w)(b - a) none rounds anything larger than s, at most four times in a row. Their infinities differ inside
 * 0 < w < 1, so only NaN is claimed there. */
static es_pair lerp_pair(const es_case *c, es_pair a, es_pair b, es_pair w) {
  if (w.e == 0 && w.v == 0) return a;
  if (w.e == 0 && w.v == 1) return b;
  double v = a.v + w.v * (b.v - a.v), e1 = fabs(1 - w.v) + w.e, e2 = fabs(w.v) + w.e;
  if (a.e == INFINITY || b.e == INFINITY || w.e == INFINITY) return (es_pair){ v, (double)INFINITY };
  if (isnan(a.v) || isnan(b.v) || isnan(w.v)) return (es_pair){ v, 0 };
  double low = fabs(a.v) + a.e, high = fabs(b.v) + b.e, s = (e1 + e2) * (low + high);
  double e = e1 * a.e + e2 * b.e + fabs(b.v - a.v) * w.e;
  es_pair p = es_settle(c, v, e + es_rounding(c, s, 4));
  if (!(s <= c->f.huge)) p.e = INFINITY; /* also infinite operands */
  return p;
}
esper_status es_rule_lerp(const es_case *c) {
  es_walk w;
  es_walk_start(&w, c->out->rank, c->out->shape);
  for (int32_t k = 0; k < 3; k++) es_walk_broadcast(&w, c->in[k], 0);
  for (int64_t i = 0; w.left > 0; es_walk_next(&w), i++)
    es_put(c, i, lerp_pair(c, es_at(c->in[0], w.at[0]), es_at(c->in[1], w.at[1]), es_at(c->in[2], w.at[2])));
  return ESPER_OK;
}

esper_status es_rule_bias_add(const es_case *c) {
  int64_t stride[ES_RANK_MAX] = { 0 };
  es_walk w;
  stride[c->node->i[0]] = 1;
  es_walk_start(&w, c->out->rank, c->out->shape);
  es_walk_operand(&w, NULL, 0);
  es_walk_operand(&w, stride, 0);
  for (int64_t i = 0; w.left > 0; es_walk_next(&w), i++)
    es_put(c, i, es_pair_add(c, es_at(c->in[0], w.at[0]), es_at(c->in[1], w.at[1])));
  return ESPER_OK;
}

/* --- random ------------------------------------------------------------------------------------------- */
static esper_status draw_key(const es_case *c, uint32_t key[2]) {
  if (c->node->i[0] < 0)
    return es_fail(c->err, ESPER_EATTR, "oracle: node %d (%s) has no stream number; evaluate the canonical graph",
                   (int)c->id, es_op_get(c->node->op)->name);
  es_random_key(c->seed, (uint32_t)c->node->i[0], c->step, key);
  return ESPER_OK;
}

/* The draw is a multiple of 2^-24, exact in f32, and is compared with p as the format holds it, so the mask is exact.
 * Kept: x s, s = 1/(1 - p): |p' - p| moves s by s |p' - p| / (1 - p); 1 - p, the quotient and the product round. */
esper_status es_rule_dropout(const es_case *c) {
  double p = c->node->f[0], held = c->f.u > 0x1p-40 ? es_number_round(ES_f32, p) : p, s = 1 / (1 - p);
  uint32_t key[2];
  esper_status status = draw_key(c, key);
  if (status) return status;
  for (int64_t i = 0; i < c->out->count; i++) {
    es_pair x = es_at(c->in[0], i), y = { 0, 0 };
    if (!(es_random_uniform(key, (uint64_t)i) < held))
      y = p == 0 ? x : es_pair_mul(c, x, (es_pair){ s, s * (fabs(p - held) * s + 2 * c->f.u) });
    es_put(c, i, y);
  }
  return ESPER_OK;
}

/* z = r cos(t), r = sqrt(-2 ln a), t = 2 pi b; a and b are exact. ln within 4 ulp moves r by 4u, its product and root
 * round twice more: r (1 + 6u). t rounds twice (2 pi, the product): 2ut, and |cos'| <= 1; cos within 4 ulp, at most
 * 8u; the product r cos rounds once. */
esper_status es_rule_noise(const es_case *c) {
  es_pair std = es_pair_attr(c, c->node->f[0]);
  uint32_t key[2], w[2];
  esper_status status = draw_key(c, key);
  if (status) return status;
  for (int64_t i = 0; i < c->out->count; i++) {
    es_threefry(key, (uint32_t)i, (uint32_t)((uint64_t)i >> 32), w);
    double z = es_random_normal(key, (uint64_t)i), r = sqrt(-2 * log(((w[0] >> 8) + 1) * 0x1p-24));
    double t = 6.283185307179586 * ((w[1] >> 8) * 0x1p-24), e = c->f.u * (7 * fabs(z) + r * (2 * t + 8));
    es_put(c, i, es_pair_add(c, es_at(c->in[0], i), es_pair_mul(c, std, (es_pair){ z, e })));
  }
  return ESPER_OK;
}
