/* Birth values of params and buffers: pure functions of (seed, name, element), so they are never
 * stored. Meaning of each kind: inits.def. Draws are made in double and rounded once to the node's
 * dtype. */
#include <math.h>
#include "base/random.h"
#include "graph/shape.h"

typedef struct drawing {
  int32_t init, dtype;
  int64_t columns;  /* of a matrix, for eye */
  double low, high; /* uniform: bounds; normal: mean and deviation; const: value in low */
  uint32_t key[2];
} drawing;

static double draw(const drawing *d, int64_t index) {
  switch (d->init) {
    case ES_INIT_zeros: return 0;
    case ES_INIT_ones: return 1;
    case ES_INIT_const: return d->low;
    case ES_INIT_eye: return index / d->columns == index % d->columns;
    case ES_INIT_uniform:
    case ES_INIT_kaiming_uniform:
    case ES_INIT_xavier_uniform:
      return d->low + (d->high - d->low) * es_random_uniform(d->key, (uint64_t)index);
    default: return d->low + d->high * es_random_normal(d->key, (uint64_t)index);
  }
}

/* Parameters of the distribution; fans as inits.def defines them. */
static void prepare(drawing *d, double f0, double f1, int32_t rank, const int64_t *extent) {
  double fan_in = 1, fan_out = rank ? (double)extent[0] : 1, width = 0;
  for (int i = rank == 1 ? 0 : 1; i < rank; i++) fan_in *= (double)extent[i];
  for (int i = 2; i < rank; i++) fan_out *= (double)extent[i];
  double slope = 1 + f0 * f0;
  d->columns = rank == 2 ? extent[1] : 1;
  d->low = f0;
  d->high = f1;
  switch (d->init) {
    case ES_INIT_kaiming_uniform: width = sqrt(6 / (slope * fan_in)); break;
    case ES_INIT_kaiming_normal: width = sqrt(2 / (slope * fan_in)); break;
    case ES_INIT_xavier_uniform: width = f0 * sqrt(6 / (fan_in + fan_out)); break;
    case ES_INIT_xavier_normal: width = f0 * sqrt(2 / (fan_in + fan_out)); break;
    default: return;
  }
  d->low = d->init == ES_INIT_kaiming_uniform || d->init == ES_INIT_xavier_uniform ? -width : 0;
  d->high = width;
}

static void store(void *out, int32_t dtype, int64_t index, double value) {
  switch (dtype) {
    case ES_f32: ((float *)out)[index] = (float)value; break;
    case ES_f64: ((double *)out)[index] = value; break;
    case ES_i32: ((int32_t *)out)[index] = (int32_t)value; break;
    case ES_i64: ((int64_t *)out)[index] = (int64_t)value; break;
    default:
      ((uint8_t *)out)[index] = (uint8_t)value;
      break; /* u8 and bool; the shape rule refused the others */
  }
}

esper_status es_init_fill(int32_t init, double f0, double f1, const char *name, int32_t dtype,
                          int32_t rank, const int64_t *extent, uint64_t seed, void *out,
                          es_error *err) {
  if (init < 0 || init >= ES_INIT_COUNT || rank < 0 || rank > ES_RANK_MAX)
    return es_fail(err, ESPER_EARG, "'%s': no init %d, or rank %d over %d", name, (int)init,
                   (int)rank, ES_RANK_MAX);
  int64_t count = 1;
  for (int i = 0; i < rank; i++)
    if (__builtin_mul_overflow(count, extent[i], &count) || extent[i] < 0 ||
        count > INT64_C(1) << 31)
      return es_fail(err, ESPER_ELIMIT, "'%s': more than 2^31 elements", name);
  bool is_float = dtype == ES_f32 || dtype == ES_f64;
  bool fixed = init == ES_INIT_zeros || init == ES_INIT_ones || init == ES_INIT_const;
  if ((!is_float && !(fixed && es_integer_holds(dtype, f0))) || (init == ES_INIT_eye && rank != 2))
    return es_fail(err, ESPER_EARG, "'%s': init %s(%g) does not fit %s of rank %d", name,
                   es_init_name(init), f0, es_dtype_name(dtype) ? es_dtype_name(dtype) : "?",
                   (int)rank);
  drawing d = { .init = init, .dtype = dtype };
  prepare(&d, f0, f1, rank, extent);
  es_random_key(seed, es_random_stream(name), 0, d.key);
  for (int64_t index = 0; index < count; index++) store(out, d.dtype, index, draw(&d, index));
  return ESPER_OK;
}

esper_status es_graph_init_fill(const es_graph *graph, es_id id, uint64_t seed, void *out,
                                es_error *err) {
  const es_node *node = es_graph_node(graph, id);
  if (!node || (node->op != ES_OP_param && node->op != ES_OP_buffer))
    return es_fail(err, ESPER_EARG,
                   "node %%%d is not a param or buffer; nothing else has a birth value", (int)id);
  int64_t extent[ES_RANK_MAX];
  for (int i = 0; i < node->rank; i++)
    if (!es_dim_is_const(es_graph_dims(graph), node->shape[i], &extent[i]))
      return es_fail(err, ESPER_EINTERNAL, "%s: axis %d is not a number", node->name, i);
  return es_init_fill((int32_t)node->i[0], node->f[0], node->f[1], node->name, node->dtype,
                      node->rank, extent, seed, out, err);
}
