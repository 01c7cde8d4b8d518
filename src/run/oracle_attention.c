/* Rules of attention: sdpa as scores, row softmax and weighted sum, a block of query rows at a time; and rope. */
#include "base/memory.h"
#include "run/oracle_ops.h"

enum { ROWS = 64 }; /* query rows of a block */

typedef struct sdpa {
  const es_case *c;
  const es_tensor64 *mask;      /* NULL = none */
  es_matrix q, k, v;            /* of batch 0; k transposed */
  int64_t tokens, keys, width, depth; /* T, S, d, e */
  int64_t mask_row, mask_column;
  es_pair scale;
  bool finite_values;           /* no infinity or NaN in v */
  es_pair *row;                 /* one row of scores */
  double *score, *weight;       /* ROWS x keys, each followed by its errors */
} sdpa;

enum { SEEN, HIDDEN, MASKED }; /* HIDDEN: by causality or a bool mask; MASKED: by a float mask of -inf */

/* Score (i, j) as the softmax sees it. The softmax scale is applied to q, to k or to the product: covered by two
 * roundings beyond the dot product's own. */
static int32_t score(const sdpa *s, int64_t mask_at, int64_t i, int64_t j, es_pair raw, es_pair *out) {
  const es_case *c = s->c;
  es_pair z = es_pair_mul(c, raw, s->scale);
  *out = (es_pair){ -(double)INFINITY, 0 };
  int32_t state = c->node->i[0] && j > i ? HIDDEN : SEEN;
  if (s->mask) {
    es_pair m = es_at(s->mask, mask_at + i * s->mask_row + j * s->mask_column);
    if (c->from[3]->dtype == ES_bool) {
      if (m.e > 0) z = ES_UNKNOWN;
      else if (m.v == 0) state = HIDDEN;
    } else if (state == SEEN) {
      z = es_pair_add(c, z, m);
      if (m.v == -(double)INFINITY && z.v == m.v && z.e == 0) state = MASKED;
    }
  }
  /* What hides a score may be a selection or an added -inf: they differ on infinities and NaN. */
  if (state == HIDDEN && !(isfinite(z.v) && z.e < INFINITY)) *out = ES_UNKNOWN;
  if (state == SEEN) *out = z;
  return state;
}

/* Turns one row of raw scores into weights. A row that sees nothing gives weights 0. */
static void weigh(const sdpa *s, int64_t mask_at, int64_t i, const double *raw, int64_t errors_at, double *weight) {
  bool nothing = true;
  for (int64_t j = 0; j < s->keys; j++) {
    es_pair one = { raw[j], raw[errors_at + j] };
    if (score(s, mask_at, i, j, one, &s->row[j]) == SEEN || s->row[j].e > 0) nothing = false;
  }
  es_softmax m = es_softmax_of(s->c, s->row, s->keys);
  /* All seen scores -inf: exp(-inf - -inf) by the formula, 0 where an implementation takes that for hidden. */
  if (m.fate == 1 && m.max == -(double)INFINITY) m.fate = 2;
  for (int64_t j = 0; j < s->keys; j++) {
    es_pair y = nothing ? (es_pair){ 0, 0 } : es_softmax_at(s->c, &m, s->row[j], s->keys);
    /* 0 times an infinite value is NaN where a hidden key is multiplied, nothing where it is skipped. */
    if (y.v == 0 && !s->finite_values) y.e = fmax(y.e, ES_DOUBT);
    weight[j] = y.v;
    weight[errors_at + j] = y.e;
  }
}

/* Running sums are divided at the end only, so they grow to keys times the largest value: where that leaves the format,
 * an implementation may overflow though the result would not. */
static void doubt_overflow(const sdpa *s, int64_t v_at, int64_t to) {
  const es_case *c = s->c;
  for (int64_t e = 0; e < s->depth; e++) {
    double most = 0;
    for (int64_t j = 0; j < s->keys; j++) {
      double v = fabs(s->v.value[v_at + j * s->depth + e]);
      if (isfinite(v) && v > most) most = v;
    }
    if (most * (double)s->keys <= c->f.huge) continue;
    for (int64_t i = 0; i < s->tokens; i++) c->out->error[to + i * s->depth + e] = INFINITY;
  }
}

/* One batch: query rows in blocks, so the memory is ROWS x keys. */
static esper_status attend(const sdpa *s, const int64_t at[4], int64_t to) {
  const es_case *c = s->c;
  esper_status status = ESPER_OK;
  for (int64_t from = 0; from < s->tokens && !status; from += ROWS) {
    int64_t rows = s->tokens - from < ROWS ? s->tokens - from : ROWS, errors_at = ROWS * s->keys;
    es_product scores = {
      .m = rows, .n = s->keys, .k = s->width, .rounds = (double)s->width + 2,
      .a = es_matrix_at(s->q, at[0] + from * s->width), .b = es_matrix_at(s->k, at[1]),
      .value = s->score, .error = s->score + errors_at, .out_m = s->keys, .out_n = 1,
    };
    status = es_contract(c, &scores);
    for (int64_t i = 0; i < rows && !status; i++)
      weigh(s, at[3], from + i, s->score + i * s->keys, errors_at, s->weight + i * s->keys);
    int64_t out = to + from * s->depth;
    /* 9/8 further roundings a key: the running sums are rescaled like those of the softmax (oracle_norm.c). */
    es_product sums = {
      .m = rows, .n = s->depth, .k = s->keys, .rounds = 2.25 * (double)s->keys + 2,
      .a = { s->weight, s->weight + errors_at, s->keys, 1 }, .b = es_matrix_at(s->v, at[2]),
      .value = c->out->value + out, .error = c->out->error + out, .out_m = s->depth, .out_n = 1,
    };
    if (!status) status = es_contract(c, &sums);
  }
  if (!status) doubt_overflow(s, at[2], to);
  return status;
}

static es_pair scale_of(const es_case *c, int64_t width) {
  if (c->node->f[0] != 0) return es_pair_attr(c, c->node->f[0]);
  double scale = 1 / sqrt((double)width);
  return (es_pair){ scale, 2 * c->f.u * scale };
}

esper_status es_rule_sdpa(const es_case *c) {
  const es_tensor64 *q = c->in[0], *k = c->in[1], *v = c->in[2], *y = c->out;
  sdpa s = { .c = c, .mask = c->node->nin > 3 ? c->in[3] : NULL, .tokens = q->shape[q->rank - 2],
             .keys = k->shape[k->rank - 2], .width = q->shape[q->rank - 1], .depth = v->shape[v->rank - 1],
             .scale = scale_of(c, q->shape[q->rank - 1]), .finite_values = es_all_finite(v) };
  if (y->count == 0) return ESPER_OK;
  s.q = (es_matrix){ q->value, es_errors(q), s.width, 1 };
  s.k = (es_matrix){ k->value, es_errors(k), 1, s.width };
  s.v = (es_matrix){ v->value, es_errors(v), s.depth, 1 };
  size_t keys = (size_t)s.keys;
  s.row = es_alloc_array(keys + 1, sizeof *s.row);
  s.score = es_alloc_array(keys + 1, 4 * ROWS * sizeof *s.score);
  s.weight = s.score + 2 * ROWS * keys;
  esper_status status = s.row && s.score ? ESPER_OK : es_no_memory(c);
  es_walk w;
  es_walk_start(&w, y->rank - 2, y->shape);
  for (int32_t i = 0; i < 3; i++) es_walk_broadcast(&w, c->in[i], 2);
  if (s.mask) {
    int64_t stride[ES_RANK_MAX] = { 0 };
    es_walk_broadcast(&w, s.mask, 2);
    es_strides(s.mask, stride);
    int32_t rank = s.mask->rank;
    if (rank > 0 && s.mask->shape[rank - 1] > 1) s.mask_column = stride[rank - 1];
    if (rank > 1 && s.mask->shape[rank - 2] > 1) s.mask_row = stride[rank - 2];
  }
  for (int64_t batch = 0; w.left > 0 && !status; es_walk_next(&w), batch++)
    status = attend(&s, w.at, batch * s.tokens * s.depth);
  es_free(s.row);
  es_free(s.score);
  return status;
}

/* The angle t base^(-2i/d) may be computed in the judged format: base and the power within 3u each, the product u: 8u of
 * the angle. cos and sin move by no more than that, and are within 4 ulp, at most 8u. */
esper_status es_rule_rope(const es_case *c) {
  const es_tensor64 *x = c->in[0];
  int64_t d = x->shape[x->rank - 1], tokens = x->shape[x->rank - 2], half = d / 2;
  for (int64_t r = 0; d > 0 && r < x->count / d; r++)
    for (int64_t i = 0; i < half; i++) {
      double angle = (double)(r % tokens) * pow(c->node->f[0], -2.0 * (double)i / (double)d);
      double e = angle == 0 ? 0 : fmin(8 * c->f.u * (fabs(angle) + 1), 2);
      es_pair cosine = { cos(angle), e }, sine = { sin(angle), e };
      es_pair a = es_at(x, r * d + i), b = es_at(x, r * d + half + i);
      es_put(c, r * d + i, es_pair_sub(c, es_pair_mul(c, a, cosine), es_pair_mul(c, b, sine)));
      es_put(c, r * d + half + i, es_pair_add(c, es_pair_mul(c, a, sine), es_pair_mul(c, b, cosine)));
    }
  return ESPER_OK;
}
