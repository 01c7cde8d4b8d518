/* Walking tensors: row-major order over a shape with several strided operands, and rows cut along any set of axes.
 * Every rule of the oracle reads and writes through these. */
#include "base/memory.h"
#include "run/oracle_ops.h"

void es_strides(const es_tensor64 *t, int64_t *stride) {
  int64_t step = 1;
  for (int32_t a = t->rank - 1; a >= 0; a--) {
    stride[a] = step;
    step *= t->shape[a];
  }
}

void es_walk_start(es_walk *w, int32_t rank, const int64_t *shape) {
  *w = (es_walk){ .rank = rank, .left = 1 };
  for (int32_t a = 0; a < rank; a++) {
    w->shape[a] = shape[a];
    w->left *= shape[a];
  }
}

void es_walk_operand(es_walk *w, const int64_t *stride, int64_t at) {
  int32_t k = w->operands++;
  int64_t step = 1;
  for (int32_t a = w->rank - 1; a >= 0; a--) {
    w->stride[k][a] = stride ? stride[a] : step;
    step *= w->shape[a];
  }
  w->at[k] = at;
}

void es_walk_broadcast(es_walk *w, const es_tensor64 *t, int32_t skip) {
  int64_t own[ES_RANK_MAX] = { 0 }, stride[ES_RANK_MAX] = { 0 };
  es_strides(t, own);
  for (int32_t a = 0; a < t->rank - skip; a++) {
    int32_t to = a + w->rank - (t->rank - skip);
    if (to >= 0) stride[to] = t->shape[a] == 1 ? 0 : own[a];
  }
  es_walk_operand(w, stride, 0);
}

void es_walk_next(es_walk *w) {
  w->left--;
  for (int32_t a = w->rank - 1; a >= 0; a--) {
    bool carry = ++w->index[a] == w->shape[a];
    for (int32_t k = 0; k < w->operands; k++)
      w->at[k] += carry ? -w->stride[k][a] * (w->shape[a] - 1) : w->stride[k][a];
    if (!carry) return;
    w->index[a] = 0;
  }
}

bool es_rows_start(es_rows *r, const es_tensor64 *x, uint32_t mask) {
  int64_t stride[ES_RANK_MAX] = { 0 };
  int64_t shape[2][ES_RANK_MAX], step[2][ES_RANK_MAX];
  int32_t rank[2] = { 0, 0 };
  es_strides(x, stride);
  for (int32_t a = 0; a < x->rank; a++) {
    int32_t inside = (int32_t)(mask >> a & 1);
    shape[inside][rank[inside]] = x->shape[a];
    step[inside][rank[inside]++] = stride[a];
  }
  es_walk_start(&r->outer, rank[0], shape[0]);
  es_walk_operand(&r->outer, step[0], 0);
  es_walk_start(&r->inner, rank[1], shape[1]);
  es_walk_operand(&r->inner, step[1], 0);
  r->length = r->inner.left;
  r->row = es_alloc_array((size_t)r->length + 1, sizeof *r->row);
  return r->row != NULL;
}

void es_rows_load(es_rows *r, const es_tensor64 *x) {
  int64_t base = r->outer.at[0], k = 0;
  for (es_walk w = r->inner; w.left > 0; es_walk_next(&w)) r->row[k++] = es_at(x, base + w.at[0]);
}

void es_rows_store(es_rows *r, const es_tensor64 *y, const es_pair *row) {
  int64_t base = r->outer.at[0], k = 0;
  for (es_walk w = r->inner; w.left > 0; es_walk_next(&w), k++) {
    y->value[base + w.at[0]] = row[k].v;
    y->error[base + w.at[0]] = row[k].e;
  }
}

void es_rows_end(es_rows *r) { es_free(r->row); }

/* An integer result is exact when the whole interval truncates to it, else it is not judged. */
void es_put(const es_case *c, int64_t i, es_pair p) {
  int32_t dtype = c->node->dtype;
  if (isnan(p.e)) p.e = INFINITY;
  if (!es_is_float(dtype)) {
    double below = es_number_round(dtype, p.v - p.e), above = es_number_round(dtype, p.v + p.e);
    p.e = p.e < INFINITY && below == above ? 0 : (double)INFINITY;
    p.v = es_number_round(dtype, p.v);
  }
  c->out->value[i] = p.v;
  c->out->error[i] = p.e;
}

bool es_all_exact(const es_tensor64 *t) {
  for (int64_t i = 0; i < t->count; i++)
    if (t->error[i] != 0) return false;
  return true;
}

const double *es_errors(const es_tensor64 *t) { return es_all_exact(t) ? NULL : t->error; }

bool es_all_finite(const es_tensor64 *t) {
  for (int64_t i = 0; i < t->count; i++)
    if (!isfinite(t->value[i])) return false;
  return true;
}

esper_status es_no_memory(const es_case *c) {
  return es_fail(c->err, ESPER_ENOMEM, "oracle: out of memory at node %d (%s); use smaller shapes", (int)c->id,
                 es_op_get(c->node->op)->name);
}

esper_status es_index(const es_case *c, int32_t k, int64_t at, int64_t extent, int64_t *out) {
  double v = c->in[k]->value[at];
  *out = 0;
  if (!(v >= 0 && v < (double)extent))
    return es_fail(c->err, ESPER_EINDEX, "oracle: node %d (%s): element %lld of index operand %d is %.17g, wanted 0 to "
                   "%lld; correct the index data", (int)c->id, es_op_get(c->node->op)->name, (long long)at, (int)k, v,
                   (long long)extent - 1);
  *out = (int64_t)v;
  return ESPER_OK;
}
