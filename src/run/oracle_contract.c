/* Sums of products: the blocked loop behind linear, matmul, convolution and attention, and the rules of the first two.
 *
 * For r = sum_k a_k b_k it accumulates, beside the value,
 *     P = sum |a_k b_k|      X = sum |a_k| eb_k + ea_k (|b_k| + eb_k)
 * and claims   |r' - r| <= X + rounds u (P + X) + k tiny,   rounds = k for a plain sum of products:
 * k products and k - 1 additions in any order, with or without fma, err by at most k u sum |a_k' b_k'| (Jeannerod and
 * Rump 2013), and sum |a_k' b_k'| <= P + X; a product below the normal range errs by half a denormal step instead.
 * Fast bilinear algorithms (Winograd, Strassen, FFT) are not within it. */
#include "base/memory.h"
#include "run/oracle_ops.h"

enum { WIDE = 8 }; /* columns of a panel */
typedef double pair_lane __attribute__((vector_size(16), aligned(8)));
typedef int64_t pair_mask __attribute__((vector_size(16)));
enum { LANES = WIDE / 2 };

static pair_lane absolute(pair_lane x) {
  const pair_mask clear = { INT64_MAX, INT64_MAX };
  return (pair_lane)((pair_mask)x & clear);
}

typedef struct tile { double value[WIDE], absolute[WIDE], error[WIDE]; } tile; /* r, P and X of one row of a panel */

static void tile_exact(int64_t k, const double *a, const double *b, tile *t) {
  pair_lane v[LANES] = { 0 }, p[LANES] = { 0 };
  const pair_lane *column = (const pair_lane *)b;
  for (int64_t i = 0; i < k; i++, column += LANES)
    for (int j = 0; j < LANES; j++) {
      pair_lane x = a[i] * column[j];
      v[j] += x;
      p[j] += absolute(x);
    }
  for (int j = 0; j < WIDE; j++) {
    t->value[j] = v[j / 2][j % 2];
    t->absolute[j] = p[j / 2][j % 2];
    t->error[j] = 0;
  }
}

/* X alone; the values are tile_exact's. */
static void tile_error(int64_t k, const double *a, const double *ea, const double *b, const double *eb, tile *t) {
  pair_lane x[LANES] = { 0 };
  const pair_lane *column = (const pair_lane *)b, *doubt = (const pair_lane *)eb;
  for (int64_t i = 0; i < k; i++, column += LANES, doubt += LANES) {
    double size = fabs(a[i]);
    for (int j = 0; j < LANES; j++) x[j] += size * doubt[j] + ea[i] * (absolute(column[j]) + doubt[j]);
  }
  for (int j = 0; j < WIDE; j++) t->error[j] = x[j / 2][j % 2];
}

static es_pair element(const es_matrix *m, int64_t row, int64_t column) {
  int64_t at = row * m->row + column * m->col;
  return (es_pair){ m->value[at], m->error ? m->error[at] : 0 };
}

/* Term by term, for elements with an infinity, a NaN or an unknown among their operands. */
static es_pair careful(const es_case *c, const es_product *p, int64_t i, int64_t j) {
  es_sum s = { 0 };
  for (int64_t k = 0; k < p->k; k++)
    es_sum_add(&s, es_pair_mul(c, element(&p->a, i, k), element(&p->b, k, j)));
  return es_sum_end(c, &s, p->rounds);
}

/* The bias may be where the accumulation starts, so every later addition may round |bias| as well. */
static es_pair biased(const es_case *c, const es_product *p, es_pair r, double size, int64_t i, int64_t j) {
  es_pair b = es_at(p->bias, p->bias_at + i * p->bias_m + j * p->bias_n), y = es_pair_add(c, r, b);
  if (isfinite(y.v) && size > 0) y.e += c->f.u * (size + p->rounds * (fabs(b.v) + b.e));
  return y;
}

static void store(const es_case *c, const es_product *p, const tile *t, int64_t i, int64_t from, int64_t columns) {
  for (int64_t j = 0; j < columns; j++) {
    double size = t->absolute[j] + t->error[j];
    es_pair r = { t->value[j], 0 };
    if (size > 0 || isnan(size)) {
      r = size < INFINITY ? es_settle(c, r.v, t->error[j] + c->f.u * p->rounds * size + (double)p->k * c->f.tiny)
                          : careful(c, p, i, from + j);
      if (size < INFINITY && !(size <= c->f.huge)) r.e = INFINITY; /* a partial sum may overflow */
    }
    if (p->bias) r = biased(c, p, r, size, i, from + j);
    int64_t at = i * p->out_m + (from + j) * p->out_n;
    p->value[at] = r.v;
    p->error[at] = r.e;
  }
}

/* WIDE columns of a matrix as k x WIDE (values or errors; NULL = zeros), absent columns 0. */
static void pack_panel(const es_matrix *m, const double *from, int64_t k, int64_t column, int64_t columns, double *to) {
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < WIDE; j++)
      to[i * WIDE + j] = from && j < columns ? from[i * m->row + (column + j) * m->col] : 0;
}

/* A row of a matrix in one piece: in place where it lies so, else copied to `room`, which holds zeros for from = NULL. */
static const double *whole_row(const es_matrix *m, const double *from, int64_t row, int64_t k, double *room) {
  if (from && m->col == 1) return from + row * m->row;
  for (int64_t i = 0; from && i < k; i++) room[i] = from[row * m->row + i * m->col];
  return room;
}

esper_status es_contract(const es_case *c, const es_product *p) {
  bool exact = !p->a.error && !p->b.error;
  size_t k = (size_t)p->k;
  double *room = es_alloc_array(k + 1, (2 * WIDE + 2) * sizeof *room);
  if (!room) return es_no_memory(c);
  double *b = room, *eb = b + k * WIDE, *a = eb + k * WIDE, *ea = a + k;
  for (int64_t j = 0; j < p->n; j += WIDE) {
    int64_t columns = p->n - j < WIDE ? p->n - j : WIDE;
    pack_panel(&p->b, p->b.value, p->k, j, columns, b);
    if (!exact) pack_panel(&p->b, p->b.error, p->k, j, columns, eb);
    for (int64_t i = 0; i < p->m; i++) {
      tile t;
      const double *row = whole_row(&p->a, p->a.value, i, p->k, a);
      tile_exact(p->k, row, b, &t);
      if (!exact) tile_error(p->k, row, whole_row(&p->a, p->a.error, i, p->k, ea), b, eb, &t);
      store(c, p, &t, i, j, columns);
    }
  }
  es_free(room);
  return ESPER_OK;
}

es_matrix es_matrix_at(es_matrix m, int64_t offset) {
  m.value += offset;
  if (m.error) m.error += offset;
  return m;
}

/* x[..., I] w[O, I]: the leading axes are the rows, and b = w transposed by its strides. */
esper_status es_rule_linear(const es_case *c) {
  const es_tensor64 *x = c->in[0], *w = c->in[1];
  int64_t in = w->shape[1], out = w->shape[0];
  if (c->out->count == 0) return ESPER_OK;
  es_product p = {
    .m = c->out->count / out, .n = out, .k = in, .rounds = (double)in,
    .a = { x->value, es_errors(x), in, 1 }, .b = { w->value, es_errors(w), 1, in },
    .bias = c->node->nin > 2 ? c->in[2] : NULL, .bias_n = 1,
    .value = c->out->value, .error = c->out->error, .out_m = out, .out_n = 1,
  };
  return es_contract(c, &p);
}

static es_matrix operand(const es_tensor64 *t, bool swapped) {
  int64_t width = t->shape[t->rank - 1];
  return (es_matrix){ t->value, es_errors(t), swapped ? 1 : width, swapped ? width : 1 };
}

esper_status es_rule_matmul(const es_case *c) {
  const es_tensor64 *a = c->in[0], *b = c->in[1], *y = c->out;
  int64_t m = y->shape[y->rank - 2], n = y->shape[y->rank - 1];
  int64_t k = a->shape[a->rank - (c->node->i[0] ? 2 : 1)];
  es_matrix left = operand(a, c->node->i[0]), right = operand(b, c->node->i[1]);
  esper_status status = ESPER_OK;
  es_walk w;
  if (y->count == 0) return ESPER_OK;
  es_walk_start(&w, y->rank - 2, y->shape);
  es_walk_broadcast(&w, a, 2);
  es_walk_broadcast(&w, b, 2);
  for (int64_t batch = 0; w.left > 0 && !status; es_walk_next(&w), batch++) {
    es_product p = {
      .m = m, .n = n, .k = k, .rounds = (double)k,
      .a = es_matrix_at(left, w.at[0]), .b = es_matrix_at(right, w.at[1]),
      .value = y->value + batch * m * n, .error = y->error + batch * m * n, .out_m = n, .out_n = 1,
    };
    status = es_contract(c, &p);
  }
  return status;
}
