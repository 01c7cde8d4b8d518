/* Rules of the indexing ops. Indices are exact; where one depends on an unjudged choice (topk_index of a near tie) so
 * does everything it selects. An index outside its axis is EINDEX. */
#include <stdlib.h>
#include "base/memory.h"
#include "run/oracle_ops.h"

esper_status es_rule_embedding(const es_case *c) {
  const es_tensor64 *w = c->in[0], *idx = c->in[1];
  int64_t depth = w->shape[1], row;
  for (int64_t i = 0; i < idx->count; i++) {
    esper_status status = es_index(c, 1, i, w->shape[0], &row);
    if (status) return status;
    for (int64_t k = 0; k < depth; k++) {
      es_pair p = es_at(w, row * depth + k);
      if (idx->error[i] > 0) p.e = INFINITY;
      es_put(c, i * depth + k, p);
    }
  }
  return ESPER_OK;
}

/* A walk over idx; operand `k` beside it, its axis left to the index. */
static void walk_indexed(es_walk *w, const es_tensor64 *t, int64_t axis, bool indexed) {
  int64_t stride[ES_RANK_MAX] = { 0 };
  es_strides(t, stride);
  if (indexed) stride[axis] = 0;
  es_walk_operand(w, stride, 0);
}

esper_status es_rule_gather(const es_case *c) {
  const es_tensor64 *x = c->in[0], *idx = c->in[1];
  int64_t axis = c->node->i[0], stride[ES_RANK_MAX] = { 0 }, k = 0, chosen;
  es_walk w;
  es_strides(x, stride);
  es_walk_start(&w, idx->rank, idx->shape);
  walk_indexed(&w, x, axis, true);
  for (; w.left > 0; es_walk_next(&w), k++) {
    esper_status status = es_index(c, 1, k, x->shape[axis], &chosen);
    if (status) return status;
    es_pair p = es_at(x, w.at[0] + chosen * stride[axis]);
    if (idx->error[k] > 0) p.e = INFINITY;
    es_put(c, k, p);
  }
  return ESPER_OK;
}

/* Every element is a sum in any order of its own start and what is added to it. */
esper_status es_rule_scatter_add(const es_case *c) {
  const es_tensor64 *x = c->in[0], *idx = c->in[1], *source = c->in[2];
  int64_t axis = c->node->i[0], stride[ES_RANK_MAX] = { 0 }, k = 0, chosen;
  bool sure = es_all_exact(idx);
  esper_status status = ESPER_OK;
  es_sum *sums = es_alloc_array((size_t)x->count + 1, sizeof *sums);
  if (!sums) return es_no_memory(c);
  for (int64_t i = 0; i < x->count; i++) es_sum_add(&sums[i], es_at(x, i));
  es_walk w;
  es_strides(x, stride);
  es_walk_start(&w, idx->rank, idx->shape);
  walk_indexed(&w, x, axis, true);
  walk_indexed(&w, source, axis, false);
  for (; w.left > 0 && !status; es_walk_next(&w), k++) {
    status = es_index(c, 1, k, x->shape[axis], &chosen);
    if (!status) es_sum_add(&sums[w.at[0] + chosen * stride[axis]], es_at(source, w.at[1]));
  }
  for (int64_t i = 0; i < x->count && !status; i++) {
    es_pair p = es_sum_end(c, &sums[i], 0);
    es_put(c, i, sure ? p : (es_pair){ p.v, (double)INFINITY });
  }
  es_free(sums);
  return status;
}

/* --- topk ---------------------------------------------------------------------------------------------- */
typedef struct ranked { es_pair x; int64_t index; } ranked;

/* Descending, NaN first, equal values by index: a total order, so any sort gives one result. */
static int before(const void *left, const void *right) {
  const ranked *a = left, *b = right;
  bool p = isnan(a->x.v), q = isnan(b->x.v);
  if (p != q) return p ? -1 : 1;
  if (!p && a->x.v != b->x.v) return a->x.v > b->x.v ? -1 : 1;
  return a->index < b->index ? -1 : a->index > b->index;
}

static int descending(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return a < b ? 1 : a > b ? -1 : 0;
}

/* The k-th largest of values within e_i of x_i lies between the k-th largest lower and the k-th largest upper end. */
static void value_bounds(ranked *sorted, int64_t n, double *ends) {
  int64_t first = 0; /* NaNs are exact and in front */
  while (first < n && isnan(sorted[first].x.v)) first++;
  double *low = ends, *high = ends + n;
  for (int64_t i = first; i < n; i++) {
    low[i] = sorted[i].x.v - sorted[i].x.e;
    high[i] = sorted[i].x.v + sorted[i].x.e;
  }
  qsort(low + first, (size_t)(n - first), sizeof *low, descending);
  qsort(high + first, (size_t)(n - first), sizeof *high, descending);
  for (int64_t i = first; i < n; i++)
    if (isfinite(sorted[i].x.v)) sorted[i].x.e = fmax(high[i] - sorted[i].x.v, sorted[i].x.v - low[i]);
}

/* The element of rank r is certain when every lower end before it stays above its upper end and every upper end after
 * it below its lower end; exact equals are ordered by index. Marks e = 0 (certain) or inf. */
static void rank_certainty(ranked *sorted, int64_t n, double *ends) {
  double least = INFINITY, most = -(double)INFINITY; /* running minimum of lower, maximum of upper ends */
  for (int64_t i = n - 1; i >= 0; i--) { /* ends[i]: most of what follows i */
    ends[i] = most;
    if (!isnan(sorted[i].x.v)) most = fmax(most, sorted[i].x.v + sorted[i].x.e);
  }
  for (int64_t i = 0; i < n; i++) {
    es_pair x = sorted[i].x;
    if (isnan(x.v)) continue;
    bool exact = x.e == 0;
    bool above = least > x.v + x.e || (exact && least == x.v && i > 0 && sorted[i - 1].x.e == 0);
    bool below = ends[i] < x.v - x.e || (exact && ends[i] == x.v && i + 1 < n && sorted[i + 1].x.e == 0);
    least = fmin(least, x.v - x.e);
    sorted[i].x.e = (i == 0 || above) && (i == n - 1 || below) ? 0 : (double)INFINITY;
  }
}

static esper_status top(const es_case *c, bool index) {
  const es_tensor64 *x = c->in[0];
  int64_t axis = c->node->i[1], k = c->node->i[0], n = x->shape[axis];
  if (k > n)
    return es_fail(c->err, ESPER_ESHAPE, "oracle: node %d (%s): the %lld largest of %lld; wanted k <= extent",
                   (int)c->id, es_op_get(c->node->op)->name, (long long)k, (long long)n);
  es_rows r, to;
  bool first = es_rows_start(&r, x, 1u << axis), second = es_rows_start(&to, c->out, 1u << axis);
  ranked *sorted = es_alloc_array((size_t)n + 1, sizeof *sorted);
  double *ends = es_alloc_array((size_t)n + 1, 2 * sizeof *ends);
  bool room = first && second && sorted && ends;
  for (; room && r.outer.left > 0; es_walk_next(&r.outer), es_walk_next(&to.outer)) {
    bool unknown = false;
    es_rows_load(&r, x);
    for (int64_t i = 0; i < n; i++) {
      sorted[i] = (ranked){ r.row[i], i };
      unknown |= r.row[i].e == INFINITY;
    }
    qsort(sorted, (size_t)n, sizeof *sorted, before);
    if (index) rank_certainty(sorted, n, ends);
    else value_bounds(sorted, n, ends);
    for (int64_t i = 0; i < k; i++) {
      double v = index ? (double)sorted[i].index : sorted[i].x.v;
      to.row[i] = (es_pair){ v, unknown ? (double)INFINITY : sorted[i].x.e };
    }
    es_rows_store(&to, c->out, to.row);
  }
  es_rows_end(&r);
  es_rows_end(&to);
  es_free(sorted);
  es_free(ends);
  return room ? ESPER_OK : es_no_memory(c);
}

esper_status es_rule_topk(const es_case *c) { return top(c, false); }
esper_status es_rule_topk_index(const es_case *c) { return top(c, true); }

/* --- cross entropy --------------------------------------------------------------------------------------- */
/* Mean over the kept rows of log sum - (x - max). (max + log sum) - x is allowed as well: it rounds |max| + |x|. */
esper_status es_rule_cross_entropy(const es_case *c) {
  const es_tensor64 *x = c->in[0], *target = c->in[1];
  int64_t classes = x->shape[x->rank - 1], kept = 0, chosen;
  esper_status status = ESPER_OK;
  es_sum sum = { 0 };
  es_pair *row = es_alloc_array((size_t)classes + 1, sizeof *row);
  if (!row) return es_no_memory(c);
  for (int64_t r = 0; r < target->count && !status; r++) {
    if (target->value[r] == (double)c->node->i[0] && target->error[r] == 0) continue;
    status = es_index(c, 1, r, classes, &chosen);
    if (status) break;
    for (int64_t k = 0; k < classes; k++) row[k] = es_at(x, r * classes + k);
    es_softmax s = es_softmax_of(c, row, classes);
    es_pair p = es_log_softmax_at(c, &s, row[chosen]);
    if (isfinite(p.v)) p.e += 2 * c->f.u * (fabs(s.max) + fabs(row[chosen].v) + row[chosen].e);
    if (target->error[r] > 0) p.e = INFINITY;
    es_sum_add(&sum, (es_pair){ -p.v, p.e });
    kept++;
  }
  es_free(row);
  if (!status) es_put(c, 0, es_mean_of(c, es_sum_end(c, &sum, 0), kept));
  return status;
}
