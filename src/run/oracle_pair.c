/* Arithmetic on pairs (value, error bound): the error analysis every rule of the oracle is made of.
 * Notation in the derivations: a' and b' are what the implementation holds, |a' - a| <= ea, |b' - b| <= eb. */
#include "run/oracle_ops.h"

const es_pair ES_UNKNOWN = { (double)NAN, (double)INFINITY };

static bool unknown(es_pair p) { return p.e == INFINITY; }
static bool is_zero(es_pair p) { return p.v == 0 && p.e == 0; }
/* A finite value whose sign the implementation may see differently, or see as 0. */
static bool unsure(es_pair p) { return isfinite(p.v) && p.e > 0 && fabs(p.v) <= p.e; }

/* Where v +- e passes the largest finite number the implementation may hold an infinity (and then anything that
 * follows from one), so nothing is claimed. NaN bounds, from inf - inf in a bound, end here too. */
es_pair es_settle(const es_case *c, double v, double e) {
  return (es_pair){ v, fabs(v) + e <= c->f.huge ? e : (double)INFINITY };
}

/* One rounding to nearest of something of at most `magnitude`: u * magnitude, below the normal range half a denormal
 * step (a whole one is allowed). */
double es_rounding(const es_case *c, double magnitude, double k) {
  return k * c->f.u * magnitude + (magnitude > 0 && magnitude < c->f.normal ? k * c->f.tiny : 0);
}

es_pair es_pair_attr(const es_case *c, double value) {
  bool single = c->f.u > 0x1p-40;
  double rounded = single ? es_number_round(ES_f32, value) : value;
  return (es_pair){ value, rounded == value ? 0 : fabs(value - rounded) };
}

/* |(a' + b')(1 + d) - (a + b)| <= ea + eb + u (|a + b| + ea + eb). Adding an exact 0 does not round, and sums never
 * underflow inexactly. */
es_pair es_pair_add(const es_case *c, es_pair a, es_pair b) {
  double v = a.v + b.v, e = a.e + b.e;
  if (unknown(a) || unknown(b)) return (es_pair){ v, (double)INFINITY };
  if (!isfinite(a.v) || !isfinite(b.v)) return (es_pair){ v, 0 };
  return es_settle(c, v, is_zero(a) || is_zero(b) ? e : e + c->f.u * (fabs(v) + e));
}

es_pair es_pair_sub(const es_case *c, es_pair a, es_pair b) {
  return es_pair_add(c, a, (es_pair){ -b.v, b.e });
}

/* a'b' - ab = a (b' - b) + b' (a' - a), |b'| <= |b| + eb; plus one rounding of |a'b'|. An infinity times something
 * that may be 0 or of either sign is unknown. */
es_pair es_pair_mul(const es_case *c, es_pair a, es_pair b) {
  double v = a.v * b.v;
  if (unknown(a) || unknown(b)) return (es_pair){ v, (double)INFINITY };
  if (!isfinite(a.v) || !isfinite(b.v)) return (es_pair){ v, unsure(a) || unsure(b) ? (double)INFINITY : 0 };
  if (is_zero(a) || is_zero(b)) return (es_pair){ v, 0 };
  double e = fabs(a.v) * b.e + a.e * (fabs(b.v) + b.e);
  return es_settle(c, v, e + es_rounding(c, (fabs(a.v) + a.e) * (fabs(b.v) + b.e), 1));
}

/* a'/b' - a/b = (a' - a)/b' - (a/b)(b' - b)/b', |b'| >= |b| - eb. Two roundings, so that a (1/b) is allowed. */
es_pair es_pair_div(const es_case *c, es_pair a, es_pair b) {
  double v = a.v / b.v;
  if (unknown(a) || unknown(b)) return (es_pair){ v, (double)INFINITY };
  if (isnan(a.v) || isnan(b.v)) return (es_pair){ v, 0 };
  if (is_zero(b)) return (es_pair){ v, is_zero(a) ? 0 : (double)INFINITY };
  if (unsure(b)) return (es_pair){ v, (double)INFINITY };
  if (!isfinite(a.v) || !isfinite(b.v)) return (es_pair){ v, 0 };
  if (is_zero(a)) return (es_pair){ v, 0 };
  double e = (a.e + fabs(v) * b.e) / (fabs(b.v) - b.e);
  return es_settle(c, v, e + es_rounding(c, fabs(v) + e, 2));
}

/* The larger of two intervals, end by end; exact otherwise. */
es_pair es_pair_max(es_pair a, es_pair b) {
  double v = isnan(a.v) || isnan(b.v) ? (double)NAN : a.v > b.v ? a.v : b.v;
  if (unknown(a) || unknown(b)) return (es_pair){ v, (double)INFINITY };
  if (!isfinite(v)) return (es_pair){ v, 0 };
  double above = fmax(a.v + a.e, b.v + b.e) - v, below = v - fmax(a.v - a.e, b.v - b.e);
  return (es_pair){ v, fmax(above, below) };
}

es_pair es_pair_min(es_pair a, es_pair b) {
  es_pair p = es_pair_max((es_pair){ -a.v, a.e }, (es_pair){ -b.v, b.e });
  return (es_pair){ -p.v, p.e };
}

/* 1/sqrt is decreasing and convex: the lower end of [x - e, x + e] is the worse one. Two ulp for the op itself. */
es_pair es_pair_rsqrt(const es_case *c, es_pair x, double floor) {
  double v = 1 / sqrt(x.v), least = fmax(x.v - x.e, floor);
  if (unknown(x)) return (es_pair){ v, (double)INFINITY };
  if (!isfinite(x.v) || x.v + x.e < 0) return (es_pair){ v, 0 };
  if (!(least > 0)) return (es_pair){ v, (double)INFINITY };
  double e = 1 / sqrt(least) - v;
  return es_settle(c, v, e + es_rounding(c, v + e, 4));
}

/* Any order of n terms: error <= (n - 1) u sum |terms|, without restriction on n (Jeannerod and Rump, "Improved error
 * bounds for inner products in floating-point arithmetic", SIAM J. Matrix Anal. Appl. 34, 2013). Exact zeros do not
 * round, so they do not count. Partial sums never exceed `absolute`, so only past the largest number may one overflow.
 * Infinities and NaNs give the same class in any order. */
void es_sum_add(es_sum *s, es_pair term) {
  s->value += term.v;
  s->error += term.e;
  if (!isfinite(term.v)) return;
  double magnitude = fabs(term.v) + term.e;
  s->absolute += magnitude;
  s->terms += magnitude > 0;
}

es_pair es_sum_end(const es_case *c, const es_sum *s, double rounds) {
  if (s->error == INFINITY || !(s->absolute <= c->f.huge)) return (es_pair){ s->value, (double)INFINITY };
  if (!isfinite(s->value)) return (es_pair){ s->value, 0 };
  double n = (double)(s->terms > 0 ? s->terms - 1 : 0) + rounds;
  return es_settle(c, s->value, s->error + c->f.u * n * s->absolute);
}

/* Two roundings: times a rounded 1/count is allowed. */
es_pair es_mean_of(const es_case *c, es_pair sum, int64_t count) {
  if (count == 1) return sum;
  double n = (double)count, v = sum.v / n;
  if (count == 0) return (es_pair){ (double)NAN, sum.e };
  if (!isfinite(v)) return (es_pair){ v, sum.e };
  double e = sum.e / n;
  return es_settle(c, v, e + es_rounding(c, fabs(v) + e, 2));
}
