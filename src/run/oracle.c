/* The oracle's driver: takes the data of the leaves, evaluates the nodes the roots need in index order, frees each value
 * after its last user. What an op means is in the rules of oracle_*.c (oracle_ops.h).
 * Invariant: a tensor exists from its evaluation to its last use; leaves, roots and, on request, all stay. */
#include "run/oracle.h"
#include <string.h>
#include "base/memory.h"
#include "run/oracle_ops.h"

#define ELEMENTS_MAX (INT64_C(1) << 31)
#define PRODUCT_MAX (INT64_C(1) << 62)

void es_tensor64_clear(es_tensor64 *t) {
  es_free(t->value);
  t->value = t->error = NULL; /* one block */
}

/* Extents of a node's result. The product of those above 0 is kept below 2^62, so no index computation overflows. */
static esper_status measure(const es_oracle *o, es_id id, es_tensor64 *t, es_error *err) {
  const es_node *node = es_graph_node(o->graph, id);
  int64_t product = 1;
  *t = (es_tensor64){ .rank = node->rank, .count = 1 };
  for (int32_t a = 0; a < t->rank; a++) {
    int64_t extent = o->dims[node->shape[a]];
    if (extent < 0)
      return es_fail(err, ESPER_ESHAPE, "oracle: node %d (%s): extent %lld of axis %d is negative for these symbol values",
                     (int)id, es_op_get(node->op)->name, (long long)extent, (int)a);
    if (extent > 1 && product > PRODUCT_MAX / extent)
      return es_fail(err, ESPER_ELIMIT, "oracle: node %d (%s): the extents multiply beyond 2^62; use smaller symbol values",
                     (int)id, es_op_get(node->op)->name);
    product *= extent > 1 ? extent : 1;
    t->shape[a] = extent;
    t->count *= extent;
  }
  return ESPER_OK;
}

/* Room for a measured tensor, zeroed: values, then errors. */
static bool allocate(es_tensor64 *t) {
  t->value = es_alloc_array((size_t)t->count + 1, 2 * sizeof *t->value);
  if (!t->value) return false;
  t->error = t->value + t->count;
  return true;
}

es_oracle *es_oracle_new(const es_graph *graph, const int64_t *symbols, double unit, uint64_t seed, uint64_t step,
                         es_error *err) {
  es_dims *dims = es_graph_dims(graph);
  if (!(unit > 0 && unit <= 0.5)) {
    es_fail(err, ESPER_EARG, "oracle: unit roundoff %g; wanted 2^-24 for f32 or 2^-53 for f64", unit);
    return NULL;
  }
  es_oracle *o = es_alloc(sizeof *o);
  if (!o) {
    es_fail(err, ESPER_ENOMEM, "oracle: out of memory");
    return NULL;
  }
  *o = (es_oracle){ .graph = graph, .count = es_graph_count(graph), .unit = unit, .seed = seed, .step = step, .noise = -1 };
  o->dims = es_alloc_array((size_t)es_dims_count(dims) + 1, sizeof *o->dims);
  o->tensors = es_alloc_array((size_t)o->count + 1, sizeof *o->tensors);
  o->last = es_alloc_array((size_t)o->count + 1, sizeof *o->last);
  bool room = o->dims && o->tensors && o->last;
  if (room && es_dims_eval(dims, symbols, o->dims)) return o;
  if (room) es_fail(err, ESPER_ELIMIT, "oracle: a dimension overflows for these symbol values; use smaller ones");
  else es_fail(err, ESPER_ENOMEM, "oracle: out of memory for %d nodes", (int)o->count);
  es_oracle_free(o);
  return NULL;
}

void es_oracle_free(es_oracle *o) {
  if (!o) return;
  for (int32_t id = 0; o->tensors && id < o->count; id++) es_tensor64_clear(&o->tensors[id]);
  es_free(o->dims);
  es_free(o->tensors);
  es_free(o->last);
  es_free(o);
}

void es_oracle_keep_all(es_oracle *o) { o->keep_all = true; }

static bool given(const es_node *node) {
  return node->op == ES_OP_input || node->op == ES_OP_param || node->op == ES_OP_buffer;
}

esper_status es_oracle_give(es_oracle *o, es_id id, const void *data, es_error *err) {
  const es_node *node = id >= 0 && id < o->count ? es_graph_node(o->graph, id) : NULL;
  es_tensor64 t;
  if (!node || !given(node))
    return es_fail(err, ESPER_EARG, "oracle: data for node %d, which is %s; wanted an input, param or buffer", (int)id,
                   node ? es_op_get(node->op)->name : "not in the graph");
  esper_status status = measure(o, id, &t, err);
  if (status) return status;
  if (t.count > ELEMENTS_MAX)
    return es_fail(err, ESPER_ELIMIT, "oracle: '%s' has %lld elements; at most 2^31", node->name, (long long)t.count);
  if (!data && t.count > 0)
    return es_fail(err, ESPER_EARG, "oracle: no data for '%s' (%lld elements)", node->name, (long long)t.count);
  if (!allocate(&t)) return es_fail(err, ESPER_ENOMEM, "oracle: out of memory for '%s'", node->name);
  for (int64_t i = 0; i < t.count; i++) t.value[i] = es_number_load(node->dtype, data, i);
  es_tensor64_clear(&o->tensors[id]);
  o->tensors[id] = t;
  return ESPER_OK;
}

/* Last user of every node; nodes no root needs are left out (a graph without roots is needed whole). */
static void plan_lifetimes(es_oracle *o) {
  int32_t roots = es_graph_root_count(o->graph);
  bool all = o->keep_all || roots == 0;
  for (int32_t id = 0; id < o->count; id++) o->last[id] = all ? o->count : -1;
  for (int32_t r = 0; r < roots; r++) o->last[es_graph_root_get(o->graph, r)->node] = o->count;
  for (int32_t id = o->count - 1; id >= 0; id--) {
    const es_node *node = es_graph_node(o->graph, id);
    for (int32_t k = 0; k < node->nin && o->last[id] >= 0; k++)
      if (o->last[node->in[k]] < id) o->last[node->in[k]] = id;
  }
}

/* Shapes of all needed nodes, and the limit on their elements. */
static esper_status measure_all(es_oracle *o, es_error *err) {
  int64_t total = 0;
  for (int32_t id = 0; id < o->count; id++) {
    bool leaf = given(es_graph_node(o->graph, id));
    if (!leaf) es_tensor64_clear(&o->tensors[id]); /* of an earlier run */
    if (o->last[id] < 0) continue;
    es_tensor64 t;
    esper_status status = measure(o, id, &t, err);
    if (status) return status;
    if (t.count > ELEMENTS_MAX - total)
      return es_fail(err, ESPER_ELIMIT, "oracle: over 2^31 elements in all (at node %d, %s); use smaller symbol values",
                     (int)id, es_op_get(es_graph_node(o->graph, id)->op)->name);
    total += t.count;
    if (!leaf) o->tensors[id] = t;
  }
  return ESPER_OK;
}

/* The coarser of the node's own format and the judged implementation's. */
static es_format judged_format(const es_oracle *o, int32_t dtype) {
  es_format f = es_format_of(dtype);
  if (!es_is_float(dtype)) return f;
  if (o->unit > f.u) {
    if (o->unit >= 0x1p-24) f = es_format_of(ES_f32);
    f.u = o->unit;
  }
  f.u += 0x1p-53;
  return f;
}

typedef esper_status (*rule)(const es_case *c);
static const rule rules[ES_OP_COUNT] = {
#define OP(name, class_, lo, hi, shape, attrs, doc) es_rule_##name,
#include "graph/ops.def"
#undef OP
};

static esper_status evaluate(es_oracle *o, es_id id, es_error *err) {
  const es_node *node = es_graph_node(o->graph, id);
  es_tensor64 *t = &o->tensors[id];
  if (given(node) && t->value) return ESPER_OK;
  es_case c = { .node = node, .id = id, .f = judged_format(o, node->dtype), .out = t, .dims = o->dims,
                .seed = o->seed, .step = o->step, .err = err };
  for (int32_t k = 0; k < node->nin; k++) {
    c.in[k] = &o->tensors[node->in[k]];
    c.from[k] = es_graph_node(o->graph, node->in[k]);
  }
  if (!given(node) && !allocate(t)) return es_no_memory(&c);
  return rules[node->op](&c);
}

static void drop_results(es_oracle *o) {
  for (int32_t id = 0; id < o->count; id++)
    if (!given(es_graph_node(o->graph, id))) es_tensor64_clear(&o->tensors[id]);
}

esper_status es_oracle_once(es_oracle *o, es_error *err) {
  plan_lifetimes(o);
  esper_status status = measure_all(o, err);
  for (es_id id = 0; id < o->count && !status; id++) {
    if (o->last[id] < 0) continue;
    status = evaluate(o, id, err);
    if (!status && o->noise >= 0) es_noise_add(&o->tensors[id], id, o->noise);
    const es_node *node = es_graph_node(o->graph, id);
    for (int32_t k = 0; k < node->nin; k++)
      if (o->last[node->in[k]] == id && !given(es_graph_node(o->graph, node->in[k]))) es_tensor64_clear(&o->tensors[node->in[k]]);
  }
  if (status) drop_results(o);
  return status;
}

const es_tensor64 *es_oracle_get(const es_oracle *o, es_id id) {
  return id >= 0 && id < o->count && o->tensors[id].value ? &o->tensors[id] : NULL;
}
