/* The oracle: evaluates a graph in double precision, node by node, in plain C. It is the judge of every kernel and
 * shares no code with vec, emit or the recipes. Beside each value it carries a bound on the error that a correct
 * f32 (or f64) implementation may have there: first-order forward error analysis, per op
 *     err_out = sum_i |d out / d in_i| err_in_i + (rounding of this op: unit roundoff u times a stated constant, times
 *               reduction length where it sums, times the sum of |terms|)
 * so tolerances are derived, grow with reduction length and with conditioning, and are never hand-set.
 * Where no bound exists (a rounding boundary, a tie in topk, division by an interval holding 0) err is +inf: that
 * element is not judged, and is counted as unjudged. */
#ifndef ES_ORACLE_H
#define ES_ORACLE_H
#include "graph/graph.h"

typedef struct es_tensor64 {  /* owned by the oracle */
  int32_t rank;
  int64_t shape[ES_RANK_MAX], count;
  int64_t statistical;        /* elements whose bound is statistical (oracle_noise.c), 0 mostly */
  double *value, *error;      /* integers and bools are exact doubles with error 0 */
} es_tensor64;

typedef struct es_oracle es_oracle;
/* Borrows the graph for its lifetime. unit: roundoff of the implementation to be judged (2^-24 f32, 2^-53 f64); a node of a
 * coarser dtype is judged by that. Random ops need their stream numbers: evaluate the canonical graph. */
es_oracle *es_oracle_new(const es_graph *graph, const int64_t *symbols, double unit, uint64_t seed, uint64_t step,
                         es_error *err);
/* Gives the data of an input/param/buffer node, contiguous, in the node's own dtype. Copied; kept for further runs. */
esper_status es_oracle_give(es_oracle *oracle, es_id id, const void *data, es_error *err);
esper_status es_oracle_run(es_oracle *oracle, es_error *err); /* ELIMIT over 2^31 elements, EINDEX for a bad index */
/* Keep only roots by default; NULL when not kept or not run. Valid until the oracle is freed. */
const es_tensor64 *es_oracle_get(const es_oracle *oracle, es_id id);
void es_oracle_keep_all(es_oracle *oracle);
void es_oracle_free(es_oracle *oracle);

typedef struct es_comparison {
  int64_t statistical;                   /* elements judged by a statistical bound */
  int64_t count, judged, bad, first_bad; /* first_bad: linear index, -1 none */
  double max_abs, max_rel;               /* over judged finite elements; rel to |expected|, only where |expected| > error bound */
  double max_ulp;                        /* error in ulps of the dtype at the larger of |expected| and its row's root mean square */
  double max_share;                      /* largest |got - want| / allowed; > 1 fails */
  double got, want, allowed;             /* at the first bad element, or the worst one */
} es_comparison;
/* got: contiguous, `dtype`. allowed = factor * error + 1 denormal step. NaN must meet NaN; an infinity must meet the same infinity,
 * except where want +- allowed leaves the range of the dtype. */
void es_compare(const es_tensor64 *want, const void *got, int32_t dtype, double factor, es_comparison *out);
#endif
