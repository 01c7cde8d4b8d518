/* Rules of the leaves and of data movement: values and bounds are copied, never changed. */
#include "run/oracle_ops.h"

static esper_status missing(const es_case *c) {
  return es_fail(c->err, ESPER_ENAME, "oracle: %s '%s' (node %d) was not given; call es_oracle_give before es_oracle_run",
                 es_op_get(c->node->op)->name, c->node->name ? c->node->name : "", (int)c->id);
}
esper_status es_rule_input(const es_case *c) { return missing(c); }
esper_status es_rule_param(const es_case *c) { return missing(c); }
esper_status es_rule_buffer(const es_case *c) { return missing(c); }

/* A constant is what its dtype holds, and no finer than what the judged implementation holds. */
esper_status es_rule_const(const es_case *c) {
  double v = es_number_round(c->node->dtype, c->node->f[0]);
  c->out->value[0] = c->f.u > 0x1p-40 ? es_number_round(ES_f32, v) : v;
  return ESPER_OK;
}

static void copy(const es_case *c, const es_tensor64 *x, es_walk *w) {
  for (; w->left > 0; es_walk_next(w)) {
    c->out->value[w->at[0]] = x->value[w->at[1]];
    c->out->error[w->at[0]] = x->error[w->at[1]];
  }
}

/* out[i] = x[at + i . stride] over the shape of out. */
static esper_status view(const es_case *c, const int64_t *stride, int64_t at) {
  es_walk w;
  es_walk_start(&w, c->out->rank, c->out->shape);
  es_walk_operand(&w, NULL, 0);
  es_walk_operand(&w, stride, at);
  copy(c, c->in[0], &w);
  return ESPER_OK;
}

esper_status es_rule_reshape(const es_case *c) { return view(c, NULL, 0); }

esper_status es_rule_permute(const es_case *c) {
  int64_t own[ES_RANK_MAX] = { 0 }, stride[ES_RANK_MAX] = { 0 };
  es_strides(c->in[0], own);
  for (int32_t a = 0; a < c->out->rank; a++) stride[a] = own[c->node->i[a]];
  return view(c, stride, 0);
}

esper_status es_rule_slice(const es_case *c) {
  int64_t axis = c->node->i[0], start = c->dims[c->node->d[0]], stop = c->dims[c->node->d[1]];
  int64_t stride[ES_RANK_MAX] = { 0 }, extent = c->in[0]->shape[axis];
  if (start < 0 || stop < start || stop > extent)
    return es_fail(c->err, ESPER_ESHAPE, "oracle: node %d (slice): %lld to %lld of an axis of extent %lld; wanted 0 <= "
                   "start <= stop <= extent for these symbol values", (int)c->id, (long long)start, (long long)stop,
                   (long long)extent);
  es_strides(c->in[0], stride);
  int64_t at = start * stride[axis];
  stride[axis] *= c->node->i[1];
  return view(c, stride, at);
}

esper_status es_rule_expand(const es_case *c) {
  es_walk w;
  es_walk_start(&w, c->out->rank, c->out->shape);
  es_walk_operand(&w, NULL, 0);
  es_walk_broadcast(&w, c->in[0], 0);
  copy(c, c->in[0], &w);
  return ESPER_OK;
}

esper_status es_rule_concat(const es_case *c) {
  int64_t stride[ES_RANK_MAX] = { 0 }, at = 0, axis = c->node->i[0];
  es_strides(c->out, stride);
  for (int32_t k = 0; k < c->node->nin; k++) {
    es_walk w;
    es_walk_start(&w, c->out->rank, c->in[k]->shape);
    es_walk_operand(&w, stride, at);
    es_walk_operand(&w, NULL, 0);
    copy(c, c->in[k], &w);
    at += c->in[k]->shape[axis] * stride[axis];
  }
  return ESPER_OK;
}
