/* Attributes of a node: checked against the op's schema in ops.def and brought to one normal form,
 * before shapes are.
 * Invariant: afterwards axes are >= 0, every unused slot is 0 (i, f) or -1 (d), and numbers are
 * finite where they must be, so equal attributes are equal bytes. */
#include <float.h>
#include <math.h>
#include <string.h>
#include "graph/shape.h"

#define INTEGER_MAX (INT64_C(1) << 40)

/* ---- by type ---- */

static esper_status fix_axis(es_shaper *s, const char *what, int64_t *axis) {
  int rank = s->in[0]->rank;
  if (rank == 0)
    return es_refuse(s, ESPER_ESHAPE, "x is %s, a scalar; it has no axis to work along",
                     es_show(s, s->in[0]));
  if (*axis < -rank || *axis >= rank)
    return es_refuse(s, ESPER_EATTR, "%s is %lld; x is %s, wanted %d..%d", what, (long long)*axis,
                     es_show(s, s->in[0]), -rank, rank - 1);
  if (*axis < 0) *axis += rank;
  return ESPER_OK;
}

static esper_status fix_axes(es_shaper *s, const char *what, int64_t mask) {
  int rank = s->in[0]->rank;
  if (mask >= 1 && mask < INT64_C(1) << rank) return ESPER_OK;
  if (mask == 0)
    return es_refuse(s, ESPER_EATTR, "%s names no axis; x is %s", what, es_show(s, s->in[0]));
  return es_refuse(s, ESPER_EATTR, "%s names an axis that x, %s, does not have", what,
                   es_show(s, s->in[0]));
}

static esper_status fix_permutation(es_shaper *s, const char *what, int64_t *axes) {
  int rank = s->in[0]->rank, seen = 0;
  for (int i = 0; i < rank; i++) {
    esper_status status = fix_axis(s, what, &axes[i]);
    if (status) return status;
    if (seen >> axes[i] & 1)
      return es_refuse(s, ESPER_EATTR, "%s names axis %lld twice; wanted every axis of %s once",
                       what, (long long)axes[i], es_show(s, s->in[0]));
    seen |= 1 << axes[i];
  }
  return ESPER_OK;
}

static esper_status fix_number(es_shaper *s, const char *what, double *number) {
  int op = s->node->op;
  if (op == ES_OP_const) return ESPER_OK; /* checked against its dtype */
  if (isnan(*number)) return es_refuse(s, ESPER_EATTR, "%s is NaN; wanted a number", what);
  bool may_be_infinite = op == ES_OP_clamp || op == ES_OP_param || op == ES_OP_buffer;
  if (!isfinite(*number) && !may_be_infinite)
    return es_refuse(s, ESPER_EATTR, "%s is %g; wanted a finite number", what, *number);
  return ESPER_OK;
}

static esper_status fix_dim(es_shaper *s, const char *what, es_dim d) {
  if (d >= 0 && d < es_dims_count(s->dims)) return ESPER_OK;
  if (d == ES_NO_DIM) return es_refuse_dim(s, what);
  return es_refuse(s, ESPER_EARG, "%s is dimension %d, which this graph does not have", what,
                   (int)d);
}

/* Copies one attribute from `given` into `clean` and checks it there. */
static esper_status fix_attr(es_shaper *s, const es_attr *attr, const es_node *given,
                             es_node *clean) {
  int slot = attr->slot;
  int64_t *i = &clean->i[slot];
  const char *what = attr->name;
  esper_status status = ESPER_OK;
  if (strchr("i2bsmt", attr->type)) *i = given->i[slot];
  switch (attr->type) {
    case 'i': return es_want_range(s, what, *i, -INTEGER_MAX, INTEGER_MAX);
    case '2':
      clean->i[slot + 1] = given->i[slot + 1];
      status = es_want_range(s, what, i[0], 0, ES_WINDOW_MAX);
      return status ? status : es_want_range(s, what, i[1], 0, ES_WINDOW_MAX);
    case 'b': return es_want_range(s, what, *i, 0, 1);
    case 's': return fix_axis(s, what, i);
    case 'm': return fix_axes(s, what, *i);
    case 'p':
      memcpy(i, &given->i[slot], s->in[0]->rank * sizeof *i);
      return fix_permutation(s, what, i);
    case 't':
      if (es_dtype_name((int32_t)*i) && *i == (int32_t)*i) return ESPER_OK;
      return es_refuse(s, ESPER_EDTYPE, "%s is dtype number %lld; there are %d", what,
                       (long long)*i, ES_DTYPE_COUNT);
    case 'f': clean->f[slot] = given->f[slot]; return fix_number(s, what, &clean->f[slot]);
    case 'd':
      clean->d[slot] = given->d[slot];
      if (slot >= clean->nd) clean->nd = slot + 1;
      return fix_dim(s, what, clean->d[slot]);
    default: /* 'D' */
      if (given->nd < 0 || given->nd > ES_RANK_MAX)
        return es_refuse(s, ESPER_ELIMIT, "%s has %d axes; a tensor has at most %d", what,
                         (int)given->nd, ES_RANK_MAX);
      clean->nd = given->nd;
      for (int k = 0; !status && k < given->nd; k++) {
        clean->d[k] = given->d[k];
        status = fix_dim(s, what, clean->d[k]);
      }
      return status;
  }
}

/* ---- by op ---- */

bool es_integer_holds(int32_t dtype, double value) {
  if (value != floor(value)) return false; /* NaN too */
  switch (dtype) {
    case ES_i32: return value >= -0x1p31 && value < 0x1p31;
    case ES_i64: return fabs(value) <= 0x1p53;
    case ES_u8: return value >= 0 && value < 256;
    case ES_bool: return value == 0 || value == 1;
    default: return false;
  }
}

static esper_status check_const(es_shaper *s) {
  es_node *node = s->node;
  double v = node->f[0];
  if (isnan(v)) node->f[0] = (double)NAN; /* one NaN: sign and payload are not identity */
  if (node->dtype == ES_f64) return ESPER_OK;
  if (node->dtype == ES_f32) { /* stored as the value kernels see */
    if (isfinite(v) && fabs(v) > (double)FLT_MAX)
      return es_refuse(s, ESPER_EATTR, "%g is outside the range of f32", v);
    node->f[0] = isnan(v) ? node->f[0] : (double)(float)v;
    return ESPER_OK;
  }
  if (node->dtype == ES_f16 || node->dtype == ES_bf16)
    return es_refuse(s, ESPER_EDTYPE, "is %s; f32 and f64 compute; cast an f32 const",
                     es_dtype_name(node->dtype));
  if (!es_integer_holds(node->dtype, v))
    return es_refuse(s, ESPER_EATTR, "%.17g is not a value of %s (exact up to 2^53)", v,
                     es_dtype_name(node->dtype));
  node->f[0] = v + 0.0; /* -0 becomes 0 */
  return ESPER_OK;
}

static esper_status check_init(es_shaper *s) {
  es_node *node = s->node;
  if (node->i[0] < 0 || node->i[0] >= ES_INIT_COUNT)
    return es_refuse(s, ESPER_EATTR, "init number %lld is unknown; there are %d",
                     (long long)node->i[0], ES_INIT_COUNT);
  for (int k = es_init_arity((int32_t)node->i[0]); k < 2; k++) node->f[k] = 0;
  for (int k = 0; k < 2; k++)
    if (node->i[0] != ES_INIT_const && !(fabs(node->f[k]) <= (double)FLT_MAX))
      return es_refuse(s, ESPER_EATTR, "argument %d of init %s is %g; wanted a finite f32", k,
                       es_init_name((int32_t)node->i[0]), node->f[k]);
  if (node->i[0] == ES_INIT_uniform && node->f[0] > node->f[1])
    return es_refuse(s, ESPER_EATTR, "init uniform(%g, %g): the first bound is above the second",
                     node->f[0], node->f[1]);
  if (node->i[0] == ES_INIT_normal && node->f[1] < 0)
    return es_refuse(s, ESPER_EATTR, "init normal: the deviation is %g; wanted at least 0",
                     node->f[1]);
  return node->i[0] == ES_INIT_const ? check_const(s) : ESPER_OK;
}

/* What one op wants of its own attributes beyond their types; shapes are not known yet. */
static esper_status check_op(es_shaper *s) {
  es_node *node = s->node;
  switch (node->op) {
    case ES_OP_param:
    case ES_OP_buffer: return check_init(s);
    case ES_OP_const: return check_const(s);
    case ES_OP_clamp:
      if (node->f[0] <= node->f[1]) return ESPER_OK;
      return es_refuse(s, ESPER_EATTR, "lo is %g and hi is %g; wanted lo <= hi", node->f[0],
                       node->f[1]);
    case ES_OP_dropout:
      if (!(node->f[0] >= 0 && node->f[0] < 1))
        return es_refuse(s, ESPER_EATTR, "p is %g; wanted 0 <= p < 1", node->f[0]);
      return es_want_range(s, "stream", node->i[0], -1, UINT32_MAX);
    case ES_OP_noise:
      if (node->f[0] < 0)
        return es_refuse(s, ESPER_EATTR, "std is %g; wanted at least 0", node->f[0]);
      return es_want_range(s, "stream", node->i[0], -1, UINT32_MAX);
    case ES_OP_layer_norm:
    case ES_OP_rms_norm:
    case ES_OP_group_norm:
    case ES_OP_batch_norm:
      if (node->f[0] > 0) return ESPER_OK;
      return es_refuse(s, ESPER_EATTR, "eps is %g; wanted above 0", node->f[0]);
    case ES_OP_rope:
      if (node->f[0] > 0) return ESPER_OK;
      return es_refuse(s, ESPER_EATTR, "base is %g; wanted above 0", node->f[0]);
    case ES_OP_reduce_var: return es_want_range(s, "correction", node->i[2], 0, ES_EXTENT_MAX);
    default: return ESPER_OK;
  }
}

esper_status es_attrs_normalise(es_shaper *s) {
  es_node *node = s->node, clean = *node;
  memset(clean.i, 0, sizeof clean.i);
  memset(clean.f, 0, sizeof clean.f);
  for (int k = 0; k < ES_RANK_MAX; k++) clean.d[k] = ES_NO_DIM;
  clean.nd = 0;
  for (int32_t k = 0; k < s->op->attr_count; k++) {
    esper_status status = fix_attr(s, &s->op->attrs[k], node, &clean);
    if (status) return status;
  }
  *node = clean;
  return check_op(s);
}

void es_node_attributes(const es_node *node, int32_t skip, uint8_t out[ES_ATTRIBUTE_BYTES]) {
  _Static_assert(sizeof node->i + sizeof node->f + sizeof node->d + sizeof node->nd == ES_ATTRIBUTE_BYTES,
                 "every attribute has its bytes");
  int64_t i[sizeof node->i / sizeof *node->i];
  memcpy(i, node->i, sizeof i);
  if (skip >= 0) i[skip] = 0;
  memcpy(out, i, sizeof i);
  memcpy(out + sizeof i, node->f, sizeof node->f);
  uint8_t *dims = out + sizeof i + sizeof node->f;
  memset(dims, 0, sizeof node->d); /* beyond nd there may be anything */
  memcpy(dims, node->d, (size_t)node->nd * sizeof *node->d);
  memcpy(dims + sizeof node->d, &node->nd, sizeof node->nd);
}
