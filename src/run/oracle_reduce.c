/* Rules of the reductions and of two-dimensional pooling: many elements become one.
 * A row (or window) is read as pairs and handed to one function of (row, length). */
#include "base/memory.h"
#include "run/oracle_ops.h"

typedef es_pair (*row_rule)(const es_case *c, const es_pair *row, int64_t n);

static esper_status reduce(const es_case *c, row_rule rule) {
  es_rows r;
  if (!es_rows_start(&r, c->in[0], (uint32_t)c->node->i[0])) return es_no_memory(c);
  for (int64_t i = 0; r.outer.left > 0; es_walk_next(&r.outer), i++) {
    es_rows_load(&r, c->in[0]);
    es_put(c, i, rule(c, r.row, r.length));
  }
  es_rows_end(&r);
  return ESPER_OK;
}

static es_pair sum_of(const es_case *c, const es_pair *row, int64_t n) {
  es_sum s = { 0 };
  for (int64_t k = 0; k < n; k++) es_sum_add(&s, row[k]);
  return es_sum_end(c, &s, 0);
}

static es_pair mean_of(const es_case *c, const es_pair *row, int64_t n) { return es_mean_of(c, sum_of(c, row, n), n); }

static es_pair max_of(const es_case *c, const es_pair *row, int64_t n) {
  es_pair m = { -(double)INFINITY, 0 };
  (void)c;
  for (int64_t k = 0; k < n; k++) m = es_pair_max(m, row[k]);
  return m;
}

static es_pair var_of(const es_case *c, const es_pair *row, int64_t n) {
  double left = (double)(n - c->node->i[2]);
  if (left <= 0) return (es_pair){ (double)NAN, 0 };
  es_spread s = es_spread_of(c, row, n);
  if (s.fate) return s.fate == 1 ? (es_pair){ (double)NAN, 0 } : ES_UNKNOWN;
  double v = s.square / left, e = s.square_error / left;
  return es_settle(c, v, e + es_rounding(c, v + e, 2));
}

esper_status es_rule_reduce_sum(const es_case *c) { return reduce(c, sum_of); }
esper_status es_rule_reduce_mean(const es_case *c) { return reduce(c, mean_of); }
esper_status es_rule_reduce_max(const es_case *c) { return reduce(c, max_of); }
esper_status es_rule_reduce_var(const es_case *c) { return reduce(c, var_of); }

/* --- pooling ------------------------------------------------------------------------------------------ */
typedef struct span { int64_t from, to; } span; /* rows or columns of the input a window covers, padding cut off */

static span window(int64_t at, int64_t kernel, int64_t stride, int64_t pad, int64_t extent) {
  int64_t from = at * (stride ? stride : kernel) - pad, to = from + kernel;
  return (span){ from < 0 ? 0 : from, to > extent ? extent : to };
}

static span share(int64_t at, int64_t out, int64_t extent) {
  return (span){ at * extent / out, ((at + 1) * extent + out - 1) / out };
}

/* Gathers the window of one channel plane into `row`; returns how many elements. */
static int64_t gather(const es_tensor64 *x, int64_t plane, span rows, span columns, es_pair *row) {
  int64_t n = 0, width = x->shape[3], base = plane * x->shape[2] * width;
  for (int64_t i = rows.from; i < rows.to; i++)
    for (int64_t j = columns.from; j < columns.to; j++) row[n++] = es_at(x, base + i * width + j);
  return n;
}

/* Calls `rule` on every window; area 0: the mean is over the window's own elements. */
static esper_status pool(const es_case *c, row_rule rule, int64_t area, bool adaptive) {
  const es_tensor64 *x = c->in[0], *y = c->out;
  const int64_t *a = c->node->i;
  es_pair *row = es_alloc_array((size_t)(x->shape[2] * x->shape[3]) + 1, sizeof *row);
  if (!row) return es_no_memory(c);
  es_walk w;
  es_walk_start(&w, 4, y->shape);
  for (int64_t i = 0; w.left > 0; es_walk_next(&w), i++) {
    const int64_t *at = w.index;
    span rows = adaptive ? share(at[2], y->shape[2], x->shape[2]) : window(at[2], a[0], a[2], a[4], x->shape[2]);
    span columns = adaptive ? share(at[3], y->shape[3], x->shape[3]) : window(at[3], a[1], a[3], a[5], x->shape[3]);
    int64_t n = gather(x, at[0] * x->shape[1] + at[1], rows, columns, row);
    es_pair p = rule(c, row, n);
    if (rule == sum_of) p = es_mean_of(c, p, area ? area : n);
    es_put(c, i, p);
  }
  es_free(row);
  return ESPER_OK;
}

esper_status es_rule_max_pool2d(const es_case *c) { return pool(c, max_of, 0, false); }
esper_status es_rule_avg_pool2d(const es_case *c) { return pool(c, sum_of, c->node->i[0] * c->node->i[1], false); }
esper_status es_rule_adaptive_avg_pool2d(const es_case *c) { return pool(c, sum_of, 0, true); }
