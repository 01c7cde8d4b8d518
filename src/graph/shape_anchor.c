/* Shape rules of contractions, convolutions, pooling and attention. See shape.h for how rules
 * work.
 * Invariant: feature and channel extents, windows and strides are numbers here; only batch, time
 * and space are symbols. */
#include <math.h>
#include <string.h>
#include "graph/shape.h"

/* ---- contractions ---- */

esper_status es_shape_linear(es_shaper *s) {
  es_node *node = s->node;
  const es_node *x = s->in[0], *w = s->in[1];
  int64_t features;
  esper_status status = es_want_floats(s, 3);
  if (!status) status = es_want_rank(s, 0, "x", 1, ES_RANK_MAX);
  if (!status) status = es_want_rank(s, 1, "w", 2, 2);
  if (!status)
    status =
        es_want_equal(s, x->shape[x->rank - 1], "the last axis of x", w->shape[1], "axis 1 of w");
  if (!status) status = es_want_const(s, w->shape[0], "axis 0 of w", &features);
  if (!status) status = es_want_const(s, w->shape[1], "axis 1 of w", &features);
  if (!status) status = es_want_vector(s, 2, "b", w->shape[0]);
  if (!status) node->shape[node->rank - 1] = w->shape[0];
  return status;
}

/* One leading axis of a and b, counted from the right; 1 goes with anything. */
static esper_status join_lead(es_shaper *s, es_dim a, es_dim b, es_dim *out) {
  int64_t one;
  *out = a;
  if (a == b || (es_dim_is_const(s->dims, b, &one) && one == 1)) return ESPER_OK;
  *out = b;
  if (es_dim_is_const(s->dims, a, &one) && one == 1) return ESPER_OK;
  return es_want_equal(s, a, "a leading axis of a", b, "that of b");
}

esper_status es_shape_matmul(es_shaper *s) {
  es_node *node = s->node;
  const es_node *a = s->in[0], *b = s->in[1];
  bool ta = node->i[0] != 0, tb = node->i[1] != 0;
  esper_status status = es_want_floats(s, 2);
  if (!status) status = es_want_rank(s, 0, "a", 2, ES_RANK_MAX);
  if (!status) status = es_want_rank(s, 1, "b", 2, ES_RANK_MAX);
  if (status) return status;
  const es_dim *am = a->shape + a->rank - 2, *bm = b->shape + b->rank - 2;
  status =
      es_want_equal(s, am[!ta], ta ? "axis K of a (its rows, ta=1)" : "axis K of a (its columns)",
                    bm[tb], tb ? "axis K of b (its columns, tb=1)" : "axis K of b (its rows)");
  int rank = a->rank > b->rank ? a->rank : b->rank;
  es_dim shape[ES_RANK_MAX];
  for (int i = 3; !status && i <= rank; i++) { /* i-th axis from the right */
    es_dim *out = &shape[rank - i];
    if (i > a->rank)
      *out = b->shape[b->rank - i];
    else if (i > b->rank)
      *out = a->shape[a->rank - i];
    else
      status = join_lead(s, a->shape[a->rank - i], b->shape[b->rank - i], out);
  }
  if (status) return status;
  shape[rank - 2] = am[ta];
  shape[rank - 1] = bm[!tb];
  node->rank = (uint8_t)rank;
  memcpy(node->shape, shape, (size_t)rank * sizeof shape[0]);
  return ESPER_OK;
}

/* ---- windows ---- */

typedef struct window {
  int64_t kernel, stride, pad, dilation;
} window;

/* floor((extent + 2 pad - dilation (kernel - 1) - 1) / stride) + 1 positions; at least one for some
 * size. */
static esper_status slide(es_shaper *s, es_dim extent, const window *w, const char *what,
                          es_dim *out) {
  int64_t least, most; /* all four are at most 2^20, so nothing here overflows */
  es_dim room = es_dim_add(s->dims, extent,
                           es_dim_const(s->dims, 2 * w->pad - w->dilation * (w->kernel - 1) - 1));
  if (room == ES_NO_DIM) return es_refuse_dim(s, what);
  es_dim_bounds(s->dims, room, &least, &most);
  if (most < 0)
    return es_refuse(
        s, ESPER_ESHAPE,
        "%s of x is %s, with padding %lld on both sides smaller than the window of %lld", what,
        es_show_dim(s, extent), (long long)w->pad, (long long)(w->dilation * (w->kernel - 1) + 1));
  *out = es_dim_add(s->dims, es_dim_floordiv(s->dims, room, w->stride), es_dim_const(s->dims, 1));
  return ESPER_OK;
}

/* Channels of x and w fit the groups; every extent of w is a number >= 1. */
static esper_status check_channels(es_shaper *s, int64_t groups, const int64_t *w) {
  int64_t channels;
  esper_status status = es_want_const(s, s->in[0]->shape[1], "the channel axis of x", &channels);
  if (status) return status;
  if (groups < 1 || channels % groups || w[0] % groups)
    return es_refuse(s, ESPER_EATTR, "%lld groups do not divide %lld channels in and %lld out",
                     (long long)groups, (long long)channels, (long long)w[0]);
  if (w[1] == channels / groups) return ESPER_OK;
  return es_refuse(s, ESPER_ESHAPE,
                   "w is %s: axis 1 is %lld; wanted %lld, the %lld channels of x over %lld groups",
                   es_show(s, s->in[1]), (long long)w[1], (long long)(channels / groups),
                   (long long)channels, (long long)groups);
}

esper_status es_shape_conv(es_shaper *s) {
  es_node *node = s->node;
  int axes = node->op == ES_OP_conv1d ? 1 : 2; /* of space */
  const int64_t *stride = node->i, *pad = stride + axes, *dilation = pad + axes,
                groups = dilation[axes];
  int64_t w[4];
  esper_status status = es_want_floats(s, 3);
  if (!status) status = es_want_rank(s, 0, "x", axes + 2, axes + 2);
  if (!status) status = es_want_rank(s, 1, "w", axes + 2, axes + 2);
  for (int i = 0; !status && i < axes + 2; i++) {
    status = es_want_const(s, s->in[1]->shape[i], "an axis of w", &w[i]);
    if (!status && (w[i] < 1 || (i > 1 && w[i] > ES_WINDOW_MAX)))
      status = es_refuse(s, ESPER_ESHAPE,
                         "w is %s; wanted extents of at least 1 and windows of at most 2^20",
                         es_show(s, s->in[1]));
  }
  if (!status) status = check_channels(s, groups, w);
  if (!status) status = es_want_vector(s, 2, "b", s->in[1]->shape[0]);
  for (int i = 0; !status && i < axes; i++) {
    status = es_want_range(s, "stride", stride[i], 1, ES_WINDOW_MAX);
    if (!status) status = es_want_range(s, "pad", pad[i], 0, ES_WINDOW_MAX);
    if (!status) status = es_want_range(s, "dilation", dilation[i], 1, ES_WINDOW_MAX);
    window sweep = { w[2 + i], stride[i], pad[i], dilation[i] };
    if (!status)
      status = slide(s, s->in[0]->shape[2 + i], &sweep,
                     axes == 1 ? "the length"
                     : i       ? "the width"
                               : "the height",
                     &node->shape[2 + i]);
  }
  if (!status) node->shape[1] = s->in[1]->shape[0];
  return status;
}

esper_status es_shape_pool(es_shaper *s) {
  es_node *node = s->node;
  esper_status status = es_want_floats(s, 1);
  if (!status) status = es_want_rank(s, 0, "x", 4, 4);
  for (int i = 0; !status && i < 2; i++) {
    int64_t *kernel = &node->i[i], *stride = &node->i[2 + i], *pad = &node->i[4 + i];
    if (*stride == 0) *stride = *kernel;
    status = es_want_range(s, "kernel", *kernel, 1, ES_WINDOW_MAX);
    if (!status) status = es_want_range(s, "pad", *pad, 0, *kernel / 2);
    window sweep = { *kernel, *stride, *pad, 1 };
    if (!status)
      status = slide(s, s->in[0]->shape[2 + i], &sweep, i ? "the width" : "the height",
                     &node->shape[2 + i]);
  }
  return status;
}

esper_status es_shape_adaptive(es_shaper *s) {
  es_node *node = s->node;
  esper_status status = es_want_floats(s, 1);
  if (!status) status = es_want_rank(s, 0, "x", 4, 4);
  for (int i = 0; !status && i < 2; i++) {
    status = es_want_range(s, "out", node->i[i], 1, ES_WINDOW_MAX);
    node->shape[2 + i] = es_dim_const(s->dims, node->i[i]);
  }
  return status;
}

/* ---- attention ---- */

static esper_status check_mask(es_shaper *s, const es_node *scores) {
  const es_node *mask = s->in[3];
  int64_t one;
  if (mask->dtype != ES_bool && mask->dtype != s->in[0]->dtype)
    return es_refuse(s, ESPER_EDTYPE, "mask is %s; wanted bool (0 = hidden) or the dtype of q, %s",
                     es_show(s, mask), es_dtype_name(s->in[0]->dtype));
  bool fits = mask->rank <= scores->rank;
  for (int i = 1; fits && i <= mask->rank; i++) {
    es_dim extent = mask->shape[mask->rank - i];
    fits = extent == scores->shape[scores->rank - i] ||
           (es_dim_is_const(s->dims, extent, &one) && one == 1);
  }
  if (fits) return ESPER_OK;
  return es_refuse(
      s, ESPER_ESHAPE,
      "mask is %s; wanted each axis 1 or as in the scores, %s; dimensions that may differ "
      "need one name",
      es_show(s, mask), es_show(s, scores));
}

esper_status es_shape_sdpa(es_shaper *s) {
  static const char *const what[3] = { "q", "k", "v" };
  es_node *node = s->node;
  const es_node *q = s->in[0], *k = s->in[1], *v = s->in[2];
  int rank = q->rank;
  esper_status status = es_want_floats(s, 3);
  for (int i = 0; !status && i < 3; i++)
    status = es_want_rank(s, i, what[i], i ? rank : 2, i ? rank : ES_RANK_MAX);
  for (int i = 0; !status && i < rank - 2; i++) {
    status = es_want_equal(s, q->shape[i], "a leading axis of q", k->shape[i], "that of k");
    if (!status)
      status = es_want_equal(s, q->shape[i], "a leading axis of q", v->shape[i], "that of v");
  }
  if (!status)
    status =
        es_want_equal(s, q->shape[rank - 1], "the last axis of q", k->shape[rank - 1], "that of k");
  if (!status)
    status = es_want_equal(s, k->shape[rank - 2], "axis S of k", v->shape[rank - 2], "that of v");
  int64_t width;
  if (!status && node->f[0] == 0) /* scale = 1/sqrt(d) is part of the code */
    status = es_want_const(s, q->shape[rank - 1], "the last axis of q, as scale is not given,", &width);
  if (status) return status;
  es_node scores = *q;
  scores.shape[rank - 1] = k->shape[rank - 2];
  node->shape[rank - 1] = v->shape[rank - 1];
  return node->nin == 4 ? check_mask(s, &scores) : ESPER_OK;
}

esper_status es_shape_rope(es_shaper *s) {
  int64_t width;
  esper_status status = es_want_floats(s, 1);
  if (!status) status = es_want_rank(s, 0, "x", 2, ES_RANK_MAX);
  if (!status)
    status = es_want_const(s, s->in[0]->shape[s->in[0]->rank - 1], "the last axis of x", &width);
  if (!status && width % 2)
    return es_refuse(s, ESPER_ESHAPE,
                     "x is %s; the last axis must be even, its halves are turned in pairs",
                     es_show(s, s->in[0]));
  return status;
}
