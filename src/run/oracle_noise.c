/* Bounds for deep graphs, by Monte Carlo arithmetic (Parker, "Monte Carlo Arithmetic", UCLA 1997).
 *
 * The forward bounds of the rules are worst cases, and each layer multiplies them by the sum of |weights|: after some
 * twenty layers they exceed the values and prove nothing. Where that happened the graph is evaluated again with errors
 * kept local: every rule starts from operands taken as exact, so its bound covers the roundings of that op alone, and each
 * result is moved by a uniform draw within that bound. REPLICATES such runs, against one without draws, show how far
 * rounding of this size moves each output, with the correlations and cancellations the worst case cannot see.
 *
 * The bound becomes LAMBDA times the larger of the element's own greatest deviation and the root mean square deviation of
 * its row (last axis), never more than the forward bound. The draws are pessimistic already: a sum of n terms is moved by
 * up to n u sum |terms|, where real roundings reach about sqrt(n). LAMBDA covers what four draws may miss: for normal
 * deviations, an error beyond 16 deviations of its row has a probability under 1e-50. A wrong kernel is far outside. */
#include <string.h>
#include "base/memory.h"
#include "base/random.h"
#include "run/oracle_ops.h"

enum { REPLICATES = 4 };
static const double LAMBDA = 16, VACUOUS = 0x1p-10; /* a forward bound over this share of the row's size proves little */

void es_noise_add(es_tensor64 *t, es_id id, int32_t replicate) {
  const uint32_t key[2] = { 0x6e6f6973u, (uint32_t)replicate };
  for (int64_t i = 0; i < t->count; i++) {
    double e = t->error[i];
    if (isinf(e)) continue; /* unknown even by itself: so is all that depends on it */
    t->error[i] = 0;
    if (replicate == 0 || !(e > 0) || !isfinite(t->value[i])) continue;
    if (replicate == 1 && e >= fabs(t->value[i])) { /* may be 0, which no draw hits and a quotient needs to see */
      t->value[i] = 0;
      continue;
    }
    uint32_t w[2];
    es_threefry(key, (uint32_t)i, (uint32_t)id ^ (uint32_t)(i >> 32), w);
    t->value[i] += e * ((double)w[0] * 0x1p-31 - 1);
  }
}

/* Root mean square of a row's finite values; 0 for none. Relative to the largest, whose square may overflow. */
double es_row_size(const double *v, int64_t n) {
  double sum = 0, largest = 0;
  int64_t used = 0;
  for (int64_t i = 0; i < n; i++)
    if (isfinite(v[i])) largest = fmax(largest, fabs(v[i])), used++;
  if (largest == 0) return 0;
  for (int64_t i = 0; i < n; i++)
    if (isfinite(v[i])) sum += v[i] / largest * (v[i] / largest);
  return largest * sqrt(sum / (double)used);
}

int64_t es_row_length(const es_tensor64 *t) {
  int64_t n = t->rank ? t->shape[t->rank - 1] : 1;
  return n > 0 ? n : 1;
}

static bool vacuous(const es_tensor64 *t, int64_t i, double size) {
  return t->error[i] > VACUOUS * fmax(size, fabs(t->value[i]));
}

static bool any_vacuous(const es_tensor64 *t) {
  int64_t n = es_row_length(t);
  for (int64_t row = 0; row < t->count; row += n) {
    double size = es_row_size(t->value + row, n);
    for (int64_t i = row; i < row + n; i++)
      if (vacuous(t, i, size)) return true;
  }
  return false;
}

typedef struct spread {       /* of one root's node over the local runs */
  es_id id;
  es_tensor64 forward;        /* values and forward bounds */
  double *centre, *most, *squares; /* one block: value without draws, greatest deviation, sum of squared deviations */
} spread;

static void collect(spread *s, const es_tensor64 *t, int32_t replicate) {
  for (int64_t i = 0; i < t->count; i++) {
    if (isinf(t->error[i])) s->most[i] = NAN; /* still unknown */
    if (replicate == 0) {
      s->centre[i] = t->value[i];
      continue;
    }
    double d = fabs(t->value[i] - s->centre[i]);
    if (!isfinite(s->centre[i]) && (t->value[i] == s->centre[i] || (isnan(t->value[i]) && isnan(s->centre[i])))) d = 0;
    if (d > s->most[i] || isnan(d)) s->most[i] = d; /* NaN stays: some runs are finite, others not */
    s->squares[i] += d * d;
  }
}

/* Tightens the forward bounds of a row. */
static void tighten(spread *s, int64_t row, int64_t n) {
  es_tensor64 *t = &s->forward;
  double size = es_row_size(s->centre + row, n), squares = 0;
  int64_t used = 0;
  for (int64_t i = row; i < row + n; i++)
    if (isfinite(s->squares[i])) squares += s->squares[i], used += REPLICATES;
  double typical = used ? sqrt(squares / (double)used) : 0;
  for (int64_t i = row; i < row + n; i++) {
    bool unknown = isinf(t->error[i]);
    if (!vacuous(t, i, size) || isnan(s->most[i]) || !isfinite(s->centre[i])) continue;
    double bound = LAMBDA * fmax(s->most[i], typical);
    if (!unknown && bound >= t->error[i]) continue;
    if (bound > 0.25 * fmax(size, fabs(s->centre[i]))) continue; /* nothing can be said: stays as it was */
    t->value[i] = s->centre[i];
    t->error[i] = bound;
    t->statistical++;
  }
}

static bool leaf(const es_node *node) {
  return node->op == ES_OP_input || node->op == ES_OP_param || node->op == ES_OP_buffer;
}

/* Nodes that depend on a jump (rounding, integers, order) of an inexact value: few draws may all miss the jump, so nothing
 * statistical is said of them. */
static void mark_jumps(const es_oracle *o, bool *jumps) {
  for (es_id id = 0; id < o->count; id++) {
    const es_node *node = es_graph_node(o->graph, id);
    bool inexact = node->nin > 0 && !leaf(es_graph_node(o->graph, node->in[0])) &&
                   es_is_float(es_graph_node(o->graph, node->in[0])->dtype);
    bool jump = node->op == ES_OP_round || node->op == ES_OP_topk_index || (node->op == ES_OP_cast && !es_is_float(node->dtype));
    jumps[id] = jump && inexact;
    for (int32_t k = 0; k < node->nin; k++) jumps[id] |= jumps[node->in[k]];
  }
}

/* Takes over the roots' tensors: those to be tightened as spreads, the others aside, so that local runs don't touch them. */
static esper_status open_spreads(es_oracle *o, const bool *jumps, spread *list, int32_t *count, es_tensor64 *aside, es_error *err) {
  int32_t roots = es_graph_root_count(o->graph);
  for (int32_t r = 0; r < roots; r++) {
    es_id id = es_graph_root_get(o->graph, r)->node;
    es_tensor64 *t = &o->tensors[id];
    const es_node *node = es_graph_node(o->graph, id);
    if (leaf(node) || !t->value) continue; /* a leaf stays; a node that is two roots was taken by the first */
    bool open = es_is_float(node->dtype) && !jumps[id] && any_vacuous(t);
    if (!open) aside[id] = *t;
    spread *s = &list[*count];
    if (open) *s = (spread){ .id = id, .forward = *t, .centre = es_alloc_array((size_t)t->count + 1, 3 * sizeof(double)) };
    t->value = t->error = NULL;
    if (!open) continue;
    (*count)++;
    if (!s->centre) return es_fail(err, ESPER_ENOMEM, "oracle: out of memory for deviations of node %d", (int)id);
    s->most = s->centre + s->forward.count;
    s->squares = s->most + s->forward.count;
  }
  return ESPER_OK;
}

static esper_status local_runs(es_oracle *o, spread *list, int32_t count, es_error *err) {
  esper_status status = ESPER_OK;
  for (int32_t replicate = 0; replicate <= REPLICATES && !status; replicate++) {
    o->noise = replicate;
    status = es_oracle_once(o, err);
    for (int32_t k = 0; k < count && !status; k++) collect(&list[k], &o->tensors[list[k].id], replicate);
  }
  o->noise = -1;
  return status;
}

/* Gives the roots their tensors back, tightened when all went well. */
static void close_spreads(es_oracle *o, spread *list, int32_t count, es_tensor64 *aside, bool good) {
  for (es_id id = 0; id < o->count; id++) {
    if (!aside[id].value) continue;
    es_tensor64_clear(&o->tensors[id]);
    o->tensors[id] = aside[id];
  }
  for (int32_t k = 0; k < count; k++) {
    spread *s = &list[k];
    int64_t n = es_row_length(&s->forward);
    for (int64_t row = 0; good && row < s->forward.count; row += n) tighten(s, row, n);
    es_tensor64_clear(&o->tensors[s->id]);
    o->tensors[s->id] = s->forward;
    es_free(s->centre);
  }
}

esper_status es_oracle_run(es_oracle *o, es_error *err) {
  esper_status status = es_oracle_once(o, err);
  int32_t roots = es_graph_root_count(o->graph), count = 0;
  if (status || roots == 0 || o->keep_all) return status;
  spread *list = es_alloc_array((size_t)roots, sizeof *list);
  es_tensor64 *aside = es_alloc_array((size_t)o->count, sizeof *aside);
  bool *jumps = es_alloc_array((size_t)o->count, sizeof *jumps);
  if (list && aside && jumps) {
    mark_jumps(o, jumps);
    status = open_spreads(o, jumps, list, &count, aside, err);
    if (!status && count > 0) status = local_runs(o, list, count, err);
    close_spreads(o, list, count, aside, !status);
  } else {
    status = es_fail(err, ESPER_ENOMEM, "oracle: out of memory");
  }
  es_free(jumps);
  es_free(aside);
  es_free(list);
  return status;
}
