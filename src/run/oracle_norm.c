/* Rules of the row-wise normalisations and of batch_norm, and the statistics of a row they (and variance, attention and
 * cross entropy) are made of. Amplification by 1 / sqrt(var + eps) needs no special care: it is in the pairs. */
#include "base/memory.h"
#include "run/oracle_ops.h"

static es_pair fated(int32_t fate) { return fate == 1 ? (es_pair){ (double)NAN, 0 } : ES_UNKNOWN; }

/* Mean and centred squares of a row of n >= 1 elements with bounds e_i, d_i = x_i - mean, Q = sum d_i^2.
 *
 * The implementation's mean (or any running mean of Welford's method) is within
 *     M = (sum e_i)/n + (n + 2) u (sum |x_i| + e_i)/n + tiny,
 * n - 1 additions, a quotient and a rounding. Its i-th difference is d_i + t_i with |t_i| <= e_i + M + 2u|d_i|. With
 * A = sum (2|d_i| e_i + e_i^2) and Q' = Q + A >= sum (|d_i| + e_i)^2, by Cauchy and Schwarz
 *     |sum (d_i + t_i)^2 - Q| <= A + 2 M sqrt(n Q') + n M^2 + 4u Q',
 * and squaring and adding n of them rounds (n + 4) u of the whole. (Two passes alone would do with n M^2: the shift is
 * orthogonal to the d_i. Welford's method is not: its bound is n u ||x|| sqrt Q (Chan, Golub, LeVeque, "Algorithms for
 * computing the sample variance", 1983), which the term 2 M sqrt(n Q) + n u Q covers. sum x^2 - n mean^2 is not
 * allowed.) A row of one element has d = 0 exactly. */
es_spread es_spread_of(const es_case *c, const es_pair *row, int64_t n) {
  es_spread s = { 0 };
  es_sum sum = { 0 };
  double u = c->f.u, count = (double)n, square = 0, cross = 0;
  for (int64_t k = 0; k < n; k++) {
    if (row[k].e == INFINITY) s.fate = 2;
    else if (!isfinite(row[k].v) && s.fate == 0) s.fate = 1; /* inf - inf, or NaN */
    es_sum_add(&sum, row[k]);
  }
  if (s.fate) return s;
  s.mean = sum.value / count;
  s.mean_error = (sum.error + (n > 1 ? (count + 2) * u * sum.absolute : 0)) / count;
  if (n > 1 && sum.absolute > 0) s.mean_error += c->f.tiny;
  for (int64_t k = 0; k < n && n > 1; k++) {
    double d = fabs(row[k].v - s.mean), e = row[k].e;
    square += d * d;
    cross += e * (2 * d + e);
  }
  if (n > 1) {
    double whole = square + cross, shift = s.mean_error * (2 * sqrt(count * whole) + count * s.mean_error);
    s.square = square;
    s.square_error = cross + shift + (count + 8) * u * (whole + shift) + (sum.absolute > 0 ? count * c->f.tiny : 0);
  }
  if (!(sum.absolute + s.square + s.square_error <= c->f.huge)) s.fate = 2;
  return s;
}

/* x - mean within e. The form x r - mean r is allowed too, so roundings are of size >= |x| + |mean|. */
static es_pair centred(const es_case *c, double difference, double e, double size) {
  return es_settle(c, difference, e + 3 * c->f.u * size);
}

/* 1 / sqrt(square / n + eps); the implementation's square is never negative, so its root's operand is never below eps. */
static es_pair inverse_root(const es_case *c, es_pair square, int64_t n) {
  es_pair eps = es_pair_attr(c, c->node->f[0]);
  double floor = (eps.v - eps.e) * (1 - 4 * c->f.u);
  return es_pair_rsqrt(c, es_pair_add(c, es_mean_of(c, square, n), eps), floor);
}

/* d r w + b for optional operands w and b, inputs k and k + 1, element `at`. d = x - mean, size >= |x| + |mean|, of the
 * finite ones. It may be folded to x (r w) + (b - mean r w): then b is rounded before a cancellation, and what is
 * infinite or overflows in a part need not in the whole. */
static es_pair affine(const es_case *c, es_pair d, double size, es_pair r, int32_t k, int64_t at) {
  es_pair w = k < c->node->nin ? es_at(c->in[k], at) : (es_pair){ 1, 0 };
  es_pair b = k + 1 < c->node->nin ? es_at(c->in[k + 1], at) : (es_pair){ 0, 0 };
  es_pair y = es_pair_add(c, es_pair_mul(c, es_pair_mul(c, d, r), w), b);
  if (isfinite(y.v) && d.e > 0) y.e += 2 * c->f.u * fabs(b.v);
  bool parts = fmax(size, 1) * fabs(r.v * w.v) + (isfinite(b.v) ? fabs(b.v) : 0) <= c->f.huge;
  return parts || isnan(y.v) ? y : (es_pair){ y.v, (double)INFINITY };
}

/* Rows of n contiguous elements; element k of row r takes weight (r mod groups) n/inner + k/inner. */
static esper_status normalise(const es_case *c, int64_t n, int64_t groups, int64_t inner) {
  if (c->out->count == 0) return ESPER_OK;
  es_pair *row = es_alloc_array((size_t)n, sizeof *row);
  if (!row) return es_no_memory(c);
  for (int64_t r = 0; r < c->out->count / n; r++) {
    for (int64_t k = 0; k < n; k++) row[k] = es_at(c->in[0], r * n + k);
    es_spread s = es_spread_of(c, row, n);
    es_pair root = s.fate ? fated(s.fate) : inverse_root(c, (es_pair){ s.square, s.square_error }, n);
    for (int64_t k = 0; k < n; k++) {
      double e = row[k].e + s.mean_error, size = fabs(row[k].v) + fabs(s.mean) + e;
      es_pair d = s.fate ? root : n == 1 ? (es_pair){ 0, 0 } : centred(c, row[k].v - s.mean, e, size);
      es_put(c, r * n + k, affine(c, d, size, root, 1, r % groups * (n / inner) + k / inner));
    }
  }
  es_free(row);
  return ESPER_OK;
}

esper_status es_rule_layer_norm(const es_case *c) {
  const es_tensor64 *x = c->in[0];
  int64_t n = 1;
  for (int64_t a = x->rank - c->node->i[0]; a < x->rank; a++) n *= x->shape[a];
  return normalise(c, n, 1, 1);
}

esper_status es_rule_group_norm(const es_case *c) {
  const es_tensor64 *x = c->in[0];
  int64_t groups = c->node->i[0], inner = 1;
  for (int32_t a = 2; a < x->rank; a++) inner *= x->shape[a];
  return normalise(c, x->shape[1] / groups * inner, groups, inner);
}

/* An infinity in a row gives mean square inf and root 0: inf * 0 = NaN there, 0 elsewhere. */
esper_status es_rule_rms_norm(const es_case *c) {
  int64_t n = c->out->shape[c->out->rank - 1];
  for (int64_t r = 0; n > 0 && r < c->out->count / n; r++) {
    es_sum s = { 0 };
    for (int64_t k = 0; k < n; k++) {
      es_pair x = es_at(c->in[0], r * n + k);
      es_sum_add(&s, es_pair_mul(c, x, x));
    }
    es_pair root = inverse_root(c, es_sum_end(c, &s, 0), n);
    for (int64_t k = 0; k < n; k++) {
      es_pair y = es_pair_mul(c, es_at(c->in[0], r * n + k), root);
      es_put(c, r * n + k, c->node->nin > 1 ? es_pair_mul(c, y, es_at(c->in[1], k)) : y);
    }
  }
  return ESPER_OK;
}

/* Folded, this is the form a preceding convolution takes it in. */
esper_status es_rule_batch_norm(const es_case *c) {
  const es_tensor64 *x = c->in[0];
  es_pair eps = es_pair_attr(c, c->node->f[0]);
  int64_t inner = 1;
  for (int32_t a = 2; a < x->rank; a++) inner *= x->shape[a];
  for (int64_t i = 0; i < x->count; i++) {
    int64_t channel = i / inner % x->shape[1];
    es_pair v = es_at(x, i), mean = es_at(c->in[1], channel), d = es_pair_sub(c, v, mean);
    double size = (isfinite(v.v) ? fabs(v.v) + v.e : 0) + (isfinite(mean.v) ? fabs(mean.v) + mean.e : 0);
    if (isfinite(d.v)) d = centred(c, d.v, v.e + mean.e, size);
    es_pair root = es_pair_rsqrt(c, es_pair_add(c, es_at(c->in[2], channel), eps), 0);
    es_put(c, i, affine(c, d, size, root, 3, channel));
  }
  return ESPER_OK;
}

/* --- softmax ------------------------------------------------------------------------------------------ */
/* With z_i = x_i - max, t_i = e^z_i, S = sum t_i, y_i = t_i / S; bounds as errors of logarithms (they just add up).
 *   input    y_i = e^(x_i - L), L = log sum e^x_j. |x_j' - x_j| <= e_j moves L by at most D = log sum y_j e^e_j (the
 *            other side, -log sum y_j e^-e_j, is smaller by Jensen); any common shift cancels.
 *   t_i      z_i rounds: u|z_i|; exp within 4 ulp: 8u. With a running maximum the differences of all rescalings of
 *            t_i add up to |z_i|, so the first term stays.
 *   S        average over y of the above, and n additions: n u. Rescaled once per 8 elements at worst, each time an
 *            exp and a product (9u): 9/8 n u. Together 2.25 n u.
 * log_error = D + sum y_j u|z_j| + 8u + 2.25 n u + 3u. */
es_softmax es_softmax_of(const es_case *c, const es_pair *row, int64_t n) {
  es_softmax s = { .max = -(double)INFINITY };
  double u = c->f.u, grow = 0, round = 0;
  for (int64_t k = 0; k < n; k++) {
    if (row[k].e == INFINITY) s.fate = 2;
    else if (isnan(row[k].v) && s.fate == 0) s.fate = 1;
    if (row[k].v > s.max) s.max = row[k].v;
  }
  if (s.fate == 0 && !isfinite(s.max)) s.fate = 1; /* inf - inf */
  for (int64_t k = 0; k < n && s.fate == 0; k++) {
    double z = row[k].v - s.max, t = exp(z);
    s.sum += t;
    if (t == 0) continue;
    grow += t * expm1(row[k].e);
    round += t * u * fabs(z);
  }
  s.log_error = log1p(grow / s.sum) + round / s.sum + (11 + 2.25 * (double)n) * u;
  return s;
}

/* log error e_i + u|z_i| + 8u of t_i, that of S, and 2u of the quotient. No y exceeds 1 by more than the roundings of
 * its sum: S' holds t_i' and nothing negative. */
es_pair es_softmax_at(const es_case *c, const es_softmax *s, es_pair x, int64_t n) {
  if (s->fate) return fated(s->fate);
  double z = x.v - s->max, y = exp(z) / s->sum;
  if (z == -(double)INFINITY) return (es_pair){ 0, 0 };
  double log_error = x.e + c->f.u * (fabs(z) + 10) + s->log_error;
  double grow = log_error < 1 ? y * expm1(log_error) : exp(z + log_error) / s->sum - y;
  double most = 1 + (16 + 2.25 * (double)n) * c->f.u - y;
  return es_settle(c, y, fmin(grow, fmax(most, y)) + es_rounding(c, y, 10));
}

/* log S within 4 ulp of its logarithm, which is off by log_error; z and the difference round once each. */
es_pair es_log_softmax_at(const es_case *c, const es_softmax *s, es_pair x) {
  if (s->fate) return fated(s->fate);
  double z = x.v - s->max, l = log(s->sum), v = z - l, u = c->f.u;
  if (z == -(double)INFINITY) return (es_pair){ z, 0 };
  return es_settle(c, v, x.e + s->log_error + u * (fabs(z) + 8 * l + fabs(v)));
}

static esper_status along_axis(const es_case *c, bool logarithm) {
  es_rows r;
  if (!es_rows_start(&r, c->in[0], 1u << c->node->i[0])) return es_no_memory(c);
  for (; r.outer.left > 0; es_walk_next(&r.outer)) {
    es_rows_load(&r, c->in[0]);
    es_softmax s = es_softmax_of(c, r.row, r.length);
    for (int64_t k = 0; k < r.length; k++)
      r.row[k] = logarithm ? es_log_softmax_at(c, &s, r.row[k]) : es_softmax_at(c, &s, r.row[k], r.length);
    es_rows_store(&r, c->out, r.row);
  }
  es_rows_end(&r);
  return ESPER_OK;
}

esper_status es_rule_softmax(const es_case *c) { return along_axis(c, false); }
esper_status es_rule_log_softmax(const es_case *c) { return along_axis(c, true); }
