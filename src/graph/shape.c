/* Shapes and dtypes of nodes: dispatch, the steps rules are made of, and the rules of leaves,
 * pointwise ops, reductions and norms. shape_move.c and shape_anchor.c hold the other rules.
 * Invariant: a node that passed es_node_infer is fully determined by op, inputs and attributes;
 * slots that the op does not use are 0 (i, f) or -1 (in, shape, d), so equal nodes are equal
 * bytes. */
#include "graph/shape.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/text.h"

/* ---- messages ---- */

esper_status es_refuse(es_shaper *s, esper_status status, const char *fmt, ...) {
  char body[900];
  va_list list;
  va_start(list, fmt);
  if (vsnprintf(body, sizeof body, fmt, list) < 0) body[0] = 0;
  va_end(list);
  const char *name = s->node->name;
  bool named = name && es_name_fits(name);
  return es_fail(s->err, status, "%s%s%s%s: %s", s->op->name, named ? " \"" : "", named ? name : "",
                 named ? "\"" : "", body);
}

esper_status es_refuse_dim(es_shaper *s, const char *what) {
  if (es_dims_starved(s->dims)) return es_refuse(s, ESPER_ENOMEM, "no memory for %s", what);
  return es_refuse(s, ESPER_ELIMIT, "%s overflows or is too long an expression", what);
}

static const char *keep(es_shaper *s, es_text *text) {
  char *buffer = s->buffers[s->turn++ % 6];
  snprintf(buffer, sizeof s->buffers[0], "%s", text->failed ? "?" : text->bytes);
  es_text_clear(text);
  return buffer;
}

const char *es_show(es_shaper *s, const es_node *node) {
  es_text text = { 0 };
  es_text_add(&text, "%s[", es_dtype_name(node->dtype));
  for (int i = 0; i < node->rank; i++) {
    es_text_add(&text, "%s", i ? ", " : "");
    es_dim_print(s->dims, node->shape[i], &text);
  }
  es_text_bytes(&text, "]", 1);
  return keep(s, &text);
}

const char *es_show_dim(es_shaper *s, es_dim d) {
  es_text text = { 0 };
  es_dim_print(s->dims, d, &text);
  return keep(s, &text);
}

/* ---- steps ---- */

esper_status es_want_equal(es_shaper *s, es_dim a, const char *what_a, es_dim b,
                           const char *what_b) {
  int64_t value;
  if (a == b) return ESPER_OK;
  if (es_dim_is_const(s->dims, a, &value) && es_dim_is_const(s->dims, b, &value))
    return es_refuse(s, ESPER_ESHAPE, "%s is %s but %s is %s; they must be equal", what_a,
                     es_show_dim(s, a), what_b, es_show_dim(s, b));
  return es_refuse(
      s, ESPER_ESHAPE,
      "%s is %s but %s is %s; dimensions that may differ do not fit: give them one name", what_a,
      es_show_dim(s, a), what_b, es_show_dim(s, b));
}

esper_status es_want_rank(es_shaper *s, int input, const char *what, int least, int most) {
  int rank = s->in[input]->rank;
  if (rank >= least && rank <= most) return ESPER_OK;
  char wanted[40];
  if (least == most)
    snprintf(wanted, sizeof wanted, "%d", least);
  else if (most == ES_RANK_MAX)
    snprintf(wanted, sizeof wanted, "at least %d", least);
  else
    snprintf(wanted, sizeof wanted, "%d to %d", least, most);
  return es_refuse(s, ESPER_ESHAPE, "%s is %s with %d axes; wanted %s", what,
                   es_show(s, s->in[input]), rank, wanted);
}

esper_status es_want_floats(es_shaper *s, int count) {
  for (int k = 0; k < count && k < s->node->nin; k++) {
    int dtype = s->in[k]->dtype;
    if (dtype != ES_f32 && dtype != ES_f64)
      return es_refuse(s, ESPER_EDTYPE, "input %d is %s; f32 and f64 compute; cast it first", k,
                       es_show(s, s->in[k]));
    if (dtype != s->in[0]->dtype)
      return es_refuse(s, ESPER_EDTYPE, "input 0 is %s but input %d is %s; cast one of them",
                       es_show(s, s->in[0]), k, es_show(s, s->in[k]));
  }
  return ESPER_OK;
}

esper_status es_want_index(es_shaper *s, int input, const char *what) {
  int dtype = s->in[input]->dtype;
  if (dtype == ES_i32 || dtype == ES_i64) return ESPER_OK;
  return es_refuse(s, ESPER_EDTYPE, "%s is %s; indices are i32 or i64", what,
                   es_show(s, s->in[input]));
}

esper_status es_want_const(es_shaper *s, es_dim d, const char *what, int64_t *value) {
  if (es_dim_is_const(s->dims, d, value)) return ESPER_OK;
  return es_refuse(s, ESPER_ESHAPE,
                   "%s is %s; it must be a number when compiled: make it a hyper-parameter", what,
                   es_show_dim(s, d));
}

esper_status es_want_vector(es_shaper *s, int input, const char *what, es_dim extent) {
  if (input >= s->node->nin) return ESPER_OK;
  const es_node *in = s->in[input];
  if (in->rank == 1 && in->shape[0] == extent) return ESPER_OK;
  return es_refuse(s, ESPER_ESHAPE, "%s is %s; wanted [%s]", what, es_show(s, in),
                   es_show_dim(s, extent));
}

esper_status es_want_range(es_shaper *s, const char *what, int64_t value, int64_t least,
                           int64_t most) {
  if (value >= least && value <= most) return ESPER_OK;
  return es_refuse(s, ESPER_EATTR, "%s is %lld; wanted %lld..%lld", what, (long long)value,
                   (long long)least, (long long)most);
}

/* Extents must be dimensions, not negative for all sizes, and of a size a machine can hold. */
static esper_status check_extents(es_shaper *s) {
  es_node *node = s->node;
  int64_t elements = 1, least, most;
  bool empty = false, constant = true;
  for (int i = 0; i < node->rank; i++) {
    if (node->shape[i] == ES_NO_DIM) return es_refuse_dim(s, "an axis of the result");
    es_dim_bounds(s->dims, node->shape[i], &least, &most);
    if (most < 0)
      return es_refuse(s, ESPER_ESHAPE, "axis %d of the result would be %s, below 0 for every size",
                       i, es_show_dim(s, node->shape[i]));
    if (least > ES_EXTENT_MAX)
      return es_refuse(s, ESPER_ELIMIT, "axis %d of the result is %s; the largest extent is 2^40",
                       i, es_show_dim(s, node->shape[i]));
    if (least != most)
      constant = false;
    else if (least == 0)
      empty = true;
    else if (__builtin_mul_overflow(elements, least, &elements))
      elements = INT64_MAX; /* sticks: extents are >= 1 */
  }
  if (constant && !empty && elements > ES_EXTENT_MAX)
    return es_refuse(s, ESPER_ELIMIT, "the result %s has more than 2^40 elements",
                     es_show(s, node));
  return ESPER_OK;
}

esper_status es_node_infer(const es_graph *graph, es_node *node, es_id limit, es_error *err) {
  static es_rule *const rules[ES_OP_COUNT] = {
#define OP(name, class_, lo, hi, shape, attrs, doc) es_shape_##shape,
#include "graph/ops.def"
#undef OP
  };
  es_shaper s = { .graph = graph,
                  .dims = es_graph_dims(graph),
                  .op = es_op_get(node->op),
                  .node = node,
                  .err = err };
  if (!s.op)
    return es_fail(err, ESPER_EOP, "op number %d is unknown; there are %d ops", node->op,
                   ES_OP_COUNT);
  if (node->nin < s.op->min_in || node->nin > s.op->max_in)
    return es_refuse(&s, ESPER_EOP, "has %d inputs; wanted at least %d and at most %d",
                     (int)node->nin, (int)s.op->min_in, (int)s.op->max_in);
  for (int32_t k = 0; k < ES_IN_MAX; k++) {
    if (k >= node->nin) {
      node->in[k] = -1;
      continue;
    }
    if (node->in[k] < 0 || node->in[k] >= limit)
      return es_refuse(
          &s, ESPER_EARG,
          "input %d is %%%d, which is not defined before %%%d; a graph cannot have a cycle", (int)k,
          (int)node->in[k], (int)limit);
    s.in[k] = es_graph_node(graph, node->in[k]);
  }
  esper_status status = es_attrs_normalise(&s);
  if (status != ESPER_OK) return status;
  node->rank = 0;
  for (int i = 0; i < ES_RANK_MAX; i++) node->shape[i] = ES_NO_DIM;
  if (node->nin) {
    node->dtype = s.in[0]->dtype;
    node->rank = s.in[0]->rank;
    memcpy(node->shape, s.in[0]->shape, sizeof node->shape);
  }
  status = rules[node->op](&s);
  for (int i = node->rank; i < ES_RANK_MAX; i++) node->shape[i] = ES_NO_DIM;
  return status == ESPER_OK ? check_extents(&s) : status;
}

/* ---- leaves ---- */

static esper_status check_drawn(es_shaper *s) {
  const es_node *node = s->node;
  int64_t elements = 1, extent;
  for (int i = 0; i < node->rank; i++) {
    if (!es_dim_is_const(s->dims, node->shape[i], &extent))
      return es_refuse(s, ESPER_ESHAPE,
                       "axis %d is %s; extents of a %s are numbers: make it a hyper-parameter", i,
                       es_show_dim(s, node->shape[i]), s->op->name);
    if (extent < 1)
      return es_refuse(s, ESPER_ESHAPE, "axis %d is %lld; extents of a %s are at least 1", i,
                       (long long)extent, s->op->name);
    if (__builtin_mul_overflow(elements, extent, &elements) || elements > ES_PARAM_MAX)
      return es_refuse(s, ESPER_ELIMIT, "%s has more than 2^31 elements", es_show(s, node));
  }
  bool is_float = node->dtype == ES_f32 || node->dtype == ES_f64;
  bool exact =
      node->i[0] == ES_INIT_zeros || node->i[0] == ES_INIT_ones || node->i[0] == ES_INIT_const;
  if (node->op == ES_OP_param && !is_float)
    return es_refuse(s, ESPER_EDTYPE, "is %s; a trained tensor is f32 or f64",
                     es_dtype_name(node->dtype));
  if (node->dtype == ES_bf16 || node->dtype == ES_f16)
    return es_refuse(s, ESPER_EDTYPE, "is %s; f32 and f64 compute; cast what goes into it",
                     es_dtype_name(node->dtype));
  if (!is_float && !exact)
    return es_refuse(s, ESPER_EDTYPE, "is %s with init %s; integers start as zeros, ones or const",
                     es_dtype_name(node->dtype), es_init_name((int32_t)node->i[0]));
  if (node->i[0] == ES_INIT_eye && node->rank != 2)
    return es_refuse(s, ESPER_ESHAPE, "is %s; init eye needs a matrix", es_show(s, node));
  return ESPER_OK;
}

esper_status es_shape_leaf(es_shaper *s) {
  es_node *node = s->node;
  if (node->dtype >= ES_DTYPE_COUNT)
    return es_refuse(s, ESPER_EDTYPE, "dtype number %d is unknown", node->dtype);
  node->rank = (uint8_t)node->nd;
  memcpy(node->shape, node->d, sizeof node->shape);
  return node->op == ES_OP_input ? ESPER_OK : check_drawn(s);
}

esper_status es_shape_const(es_shaper *s) {
  es_node *node = s->node;
  if (node->dtype >= ES_DTYPE_COUNT)
    return es_refuse(s, ESPER_EDTYPE, "dtype number %d is unknown", node->dtype);
  node->rank = 0;
  return ESPER_OK;
}

/* ---- pointwise and random ---- */

esper_status es_shape_same(es_shaper *s) {
  int op = s->node->op;
  if (op == ES_OP_stop_grad || op == ES_OP_checkpoint || op == ES_OP_telemetry_probe)
    return ESPER_OK;
  return es_want_floats(s, 1);
}

esper_status es_shape_cast(es_shaper *s) {
  s->node->dtype = (uint8_t)s->node->i[0];
  return ESPER_OK;
}

/* One axis of a broadcast: equal extents, or 1 with anything. */
static esper_status join_axis(es_shaper *s, int axis, es_dim other, es_dim *into, int input) {
  int64_t value;
  if (*into == other || (es_dim_is_const(s->dims, other, &value) && value == 1)) return ESPER_OK;
  if (es_dim_is_const(s->dims, *into, &value) && value == 1) {
    *into = other;
    return ESPER_OK;
  }
  bool numbers = es_dim_is_const(s->dims, other, &value) && es_dim_is_const(s->dims, *into, &value);
  return es_refuse(s, ESPER_ESHAPE,
                   "input %d is %s, input 0 is %s: axis %d from the right is %s against %s; %s",
                   input, es_show(s, s->in[input]), es_show(s, s->in[0]), axis + 1,
                   es_show_dim(s, other), es_show_dim(s, *into),
                   numbers ? "extents must be equal or 1"
                           : "dimensions that may differ do not broadcast: give them one name");
}

esper_status es_shape_broadcast(es_shaper *s) {
  es_node *node = s->node;
  esper_status status = es_want_floats(s, node->nin);
  es_dim right[ES_RANK_MAX]; /* extents counted from the right */
  int rank = node->rank;
  for (int i = 0; i < rank; i++) right[i] = node->shape[rank - 1 - i];
  for (int k = 1; status == ESPER_OK && k < node->nin; k++)
    for (int i = 0; status == ESPER_OK && i < s->in[k]->rank; i++) {
      es_dim extent = s->in[k]->shape[s->in[k]->rank - 1 - i];
      if (i < rank)
        status = join_axis(s, i, extent, &right[i], k);
      else
        right[rank++] = extent;
    }
  node->rank = (uint8_t)rank;
  for (int i = 0; i < rank; i++) node->shape[i] = right[rank - 1 - i];
  return status;
}

esper_status es_shape_bias(es_shaper *s) {
  esper_status status = es_want_floats(s, 2);
  return status ? status : es_want_vector(s, 1, "b", s->in[0]->shape[s->node->i[0]]);
}

esper_status es_shape_batch_norm(es_shaper *s) {
  static const char *const what[5] = { "x", "mean", "var", "w", "b" };
  esper_status status = es_want_floats(s, 5);
  if (!status) status = es_want_rank(s, 0, "x", 2, ES_RANK_MAX);
  for (int k = 1; !status && k < s->node->nin; k++)
    status = es_want_vector(s, k, what[k], s->in[0]->shape[1]);
  return status;
}

/* ---- reductions and norms ---- */

esper_status es_shape_reduce(es_shaper *s) {
  es_node *node = s->node;
  int rank = 0;
  for (int i = 0; i < s->in[0]->rank; i++) {
    bool gone = node->i[0] >> i & 1;
    if (gone && node->i[1])
      node->shape[rank++] = es_dim_const(s->dims, 1);
    else if (!gone)
      node->shape[rank++] = s->in[0]->shape[i];
  }
  node->rank = (uint8_t)rank;
  return es_want_floats(s, 1);
}

esper_status es_shape_same_axis(es_shaper *s) { return es_want_floats(s, 1); }

/* Optional inputs first..last have the shape of the last `axes` axes of x. */
static esper_status want_affine(es_shaper *s, int axes) {
  static const char *const what[3] = { "x", "an axis of w", "an axis of b" };
  const es_node *x = s->in[0];
  for (int k = 1; k < s->node->nin; k++) {
    if (s->in[k]->rank != axes)
      return es_refuse(s, ESPER_ESHAPE, "input %d is %s; wanted the last %d axes of x, %s", k,
                       es_show(s, s->in[k]), axes, es_show(s, x));
    for (int i = 0; i < axes; i++) {
      esper_status status =
          es_want_equal(s, s->in[k]->shape[i], what[k], x->shape[x->rank - axes + i], "that of x");
      if (status) return status;
    }
  }
  return ESPER_OK;
}

esper_status es_shape_layer_norm(es_shaper *s) {
  esper_status status = es_want_floats(s, 3);
  if (!status) status = es_want_rank(s, 0, "x", 1, ES_RANK_MAX);
  if (!status) status = es_want_range(s, "dims", s->node->i[0], 1, s->in[0]->rank);
  return status ? status : want_affine(s, (int)s->node->i[0]);
}

esper_status es_shape_rms_norm(es_shaper *s) {
  esper_status status = es_want_floats(s, 2);
  if (!status) status = es_want_rank(s, 0, "x", 1, ES_RANK_MAX);
  return status ? status : want_affine(s, 1);
}

esper_status es_shape_group_norm(es_shaper *s) {
  int64_t channels, groups = s->node->i[0];
  esper_status status = es_want_floats(s, 3);
  if (!status) status = es_want_rank(s, 0, "x", 2, ES_RANK_MAX);
  if (!status) status = es_want_const(s, s->in[0]->shape[1], "the channel axis of x", &channels);
  if (status) return status;
  if (groups < 1 || channels % groups)
    return es_refuse(s, ESPER_EATTR, "%lld groups do not divide %lld channels", (long long)groups,
                     (long long)channels);
  status = es_want_vector(s, 1, "w", s->in[0]->shape[1]);
  return status ? status : es_want_vector(s, 2, "b", s->in[0]->shape[1]);
}
