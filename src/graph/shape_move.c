/* Shape rules of data movement and of indices: who lies where, nothing is computed. See shape.h
 * for how rules work.
 * Invariant: what a kernel may index is PROVED here over the whole range of the symbols, or the
 * node is refused. */
#include <string.h>
#include "graph/shape.h"

/* ---- movement ---- */

static es_dim element_count(es_shaper *s, const es_dim *shape, int rank) {
  es_dim product = es_dim_const(s->dims, 1);
  for (int i = 0; i < rank; i++) product = es_dim_mul(s->dims, product, shape[i]);
  return product;
}

esper_status es_shape_reshape(es_shaper *s) {
  es_node *node = s->node;
  es_dim have = element_count(s, s->in[0]->shape, s->in[0]->rank),
         want = element_count(s, node->d, node->nd);
  node->rank = (uint8_t)node->nd;
  memcpy(node->shape, node->d, sizeof node->shape);
  if (have == ES_NO_DIM || want == ES_NO_DIM) return es_refuse_dim(s, "the number of elements");
  if (have == want) return ESPER_OK;
  return es_refuse(s, ESPER_ESHAPE,
                   "%s has %s elements but %s has %s; a reshape keeps the number for every size",
                   es_show(s, s->in[0]), es_show_dim(s, have), es_show(s, node),
                   es_show_dim(s, want));
}

esper_status es_shape_permute(es_shaper *s) {
  for (int i = 0; i < s->node->rank; i++) s->node->shape[i] = s->in[0]->shape[s->node->i[i]];
  return ESPER_OK;
}

static esper_status want_proved(es_shaper *s, es_dim high, const char *high_name, es_dim low,
                                const char *low_name) {
  if (es_dim_proved_ge(s->dims, high, low)) return ESPER_OK;
  return es_refuse(
      s, ESPER_ESHAPE,
      "%s %s <= %s %s does not hold for every size; change them, or declare the range of "
      "the symbols",
      low_name, es_show_dim(s, low), high_name, es_show_dim(s, high));
}

esper_status es_shape_slice(es_shaper *s) {
  es_node *node = s->node;
  int64_t axis = node->i[0], step = node->i[1];
  es_dim start = node->d[0], stop = node->d[1];
  esper_status status = es_want_range(s, "step", step, 1, ES_EXTENT_MAX);
  if (!status) status = want_proved(s, start, "start", es_dim_const(s->dims, 0), "the first index");
  if (!status) status = want_proved(s, stop, "stop", start, "start");
  if (!status) status = want_proved(s, s->in[0]->shape[axis], "the extent of x,", stop, "stop");
  node->shape[axis] = es_dim_ceildiv(s->dims, es_dim_sub(s->dims, stop, start), step);
  return status;
}

esper_status es_shape_concat(es_shaper *s) {
  es_node *node = s->node;
  int64_t axis = node->i[0];
  for (int k = 1; k < node->nin; k++) {
    const es_node *in = s->in[k];
    if (in->dtype != node->dtype)
      return es_refuse(s, ESPER_EDTYPE, "input 0 is %s but input %d is %s; cast one of them",
                       es_show(s, s->in[0]), k, es_show(s, in));
    if (in->rank != node->rank)
      return es_refuse(s, ESPER_ESHAPE, "input 0 is %s but input %d is %s; wanted as many axes",
                       es_show(s, s->in[0]), k, es_show(s, in));
    for (int i = 0; i < node->rank; i++) {
      if (i == axis) continue;
      esper_status status = es_want_equal(s, in->shape[i], "an axis of a later input",
                                          node->shape[i], "that of input 0");
      if (status) return status;
    }
    node->shape[axis] = es_dim_add(s->dims, node->shape[axis], in->shape[axis]);
  }
  return ESPER_OK;
}

esper_status es_shape_expand(es_shaper *s) {
  es_node *node = s->node;
  const es_node *x = s->in[0];
  int lead = node->nd - x->rank;
  int64_t one;
  node->rank = (uint8_t)node->nd;
  memcpy(node->shape, node->d, sizeof node->shape);
  if (lead < 0)
    return es_refuse(s, ESPER_ESHAPE, "%s cannot become %s, which has fewer axes", es_show(s, x),
                     es_show(s, node));
  for (int i = 0; i < x->rank; i++) {
    if (es_dim_is_const(s->dims, x->shape[i], &one) && one == 1) continue;
    if (x->shape[i] != node->shape[lead + i])
      return es_refuse(
          s, ESPER_ESHAPE,
          "%s cannot become %s: axis %d is %s against %s; only an extent of 1 is repeated",
          es_show(s, x), es_show(s, node), i, es_show_dim(s, x->shape[i]),
          es_show_dim(s, node->shape[lead + i]));
  }
  return ESPER_OK;
}

/* ---- indices ---- */

esper_status es_shape_embedding(es_shaper *s) {
  es_node *node = s->node;
  const es_node *w = s->in[0], *index = s->in[1];
  esper_status status = es_want_floats(s, 1);
  if (!status) status = es_want_rank(s, 0, "w", 2, 2);
  if (!status) status = es_want_index(s, 1, "idx");
  if (!status) status = es_want_rank(s, 1, "idx", 0, ES_RANK_MAX - 1);
  if (status) return status;
  node->rank = (uint8_t)(index->rank + 1);
  memcpy(node->shape, index->shape, index->rank * sizeof index->shape[0]);
  node->shape[index->rank] = w->shape[1];
  return ESPER_OK;
}

/* idx, input 1, reaches no further than x, input 0, off the axis. */
static esper_status want_index_inside(es_shaper *s, int64_t axis) {
  const es_node *x = s->in[0], *index = s->in[1];
  esper_status status = es_want_index(s, 1, "idx");
  if (!status) status = es_want_rank(s, 1, "idx", x->rank, x->rank);
  for (int i = 0; !status && i < x->rank; i++)
    if (i != axis)
      status = want_proved(s, x->shape[i], "that of x,", index->shape[i], "the extent of idx,");
  return status;
}

esper_status es_shape_gather(es_shaper *s) {
  memcpy(s->node->shape, s->in[1]->shape, sizeof s->node->shape);
  return want_index_inside(s, s->node->i[0]);
}

esper_status es_shape_scatter(es_shaper *s) {
  const es_node *x = s->in[0], *index = s->in[1], *src = s->in[2];
  esper_status status = es_want_floats(s, 1);
  if (!status) status = want_index_inside(s, s->node->i[0]);
  if (status) return status;
  if (src->dtype != x->dtype)
    return es_refuse(s, ESPER_EDTYPE, "src is %s but x is %s; cast one of them", es_show(s, src),
                     es_show(s, x));
  if (src->rank != index->rank ||
      memcmp(src->shape, index->shape, src->rank * sizeof src->shape[0]) != 0)
    return es_refuse(s, ESPER_ESHAPE, "src is %s but idx is %s; wanted one shape", es_show(s, src),
                     es_show(s, index));
  return ESPER_OK;
}

esper_status es_shape_topk(es_shaper *s) {
  es_node *node = s->node;
  int64_t k = node->i[0], axis = node->i[1];
  esper_status status = es_want_floats(s, 1);
  if (!status) status = es_want_range(s, "k", k, 1, ES_EXTENT_MAX);
  es_dim count = es_dim_const(s->dims, k);
  if (!status) status = want_proved(s, s->in[0]->shape[axis], "the extent of x,", count, "k");
  node->shape[axis] = count;
  return status;
}

esper_status es_shape_topk_index(es_shaper *s) {
  esper_status status = es_shape_topk(s);
  s->node->dtype = ES_i64;
  return status;
}

esper_status es_shape_cross_entropy(es_shaper *s) {
  const es_node *logits = s->in[0], *target = s->in[1];
  esper_status status = es_want_floats(s, 1);
  if (!status) status = es_want_rank(s, 0, "logits", 1, ES_RANK_MAX);
  if (!status) status = es_want_index(s, 1, "target");
  if (!status) status = es_want_rank(s, 1, "target", logits->rank - 1, logits->rank - 1);
  for (int i = 0; !status && i < target->rank; i++)
    status = es_want_equal(s, target->shape[i], "the axis of target", logits->shape[i],
                           "that of logits");
  s->node->rank = 0;
  return status;
}
