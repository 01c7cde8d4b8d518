/* Inside the oracle: what its files share. Included by oracle*.c and compare.c only.
 *
 * Every element is a pair (v, e): v the value in double, e a bound on |result of the judged implementation - v|.
 * Invariants of a stored pair:
 *   v finite,   e finite   the implementation's result is finite and lies in [v - e, v + e];
 *   v inf, nan, e = 0      the implementation's result is exactly that infinity, or NaN;
 *   e = +inf               nothing is claimed ("unknown"): the element is not judged.
 * The bounds hold for any implementation that: computes in the judged format with round to nearest and gradual
 * underflow, with or without fma; sums in any order; has exp log tanh sigmoid erf sin cos within 4 ulp and gelu, silu
 * within 8; takes variances in two passes or by a Welford-stable method; shifts softmax by the (running) maximum.
 * u is the unit roundoff of that format plus 2^-53, because the oracle itself rounds like an f64 implementation.
 * One ulp of x is at most 2u|x|. */
#ifndef ES_ORACLE_OPS_H
#define ES_ORACLE_OPS_H
#include <math.h>
#include "run/oracle.h"

typedef struct es_pair { double v, e; } es_pair;

struct es_oracle {
  const es_graph *graph;
  int32_t count;
  double unit;
  uint64_t seed, step;
  bool keep_all;
  int32_t noise;         /* -1: carry bounds; else errors stay local and are drawn, 0 = not at all (oracle_noise.c) */
  int64_t *dims;         /* value of every dimension handle */
  es_tensor64 *tensors;  /* one per node; value NULL = absent */
  es_id *last;           /* last user; the node count = kept; -1 = not needed */
};
esper_status es_oracle_once(es_oracle *o, es_error *err);                 /* oracle.c: one evaluation of all that roots need */
void es_tensor64_clear(es_tensor64 *t);
int64_t es_row_length(const es_tensor64 *t);                              /* last axis, at least 1 */
double es_row_size(const double *v, int64_t n);                           /* root mean square of the finite ones */
void es_noise_add(es_tensor64 *t, es_id id, int32_t replicate);           /* oracle_noise.c */

typedef struct es_format {  /* a floating format; integers are exact: u and tiny 0, huge inf */
  double u;                 /* unit roundoff */
  double tiny;              /* smallest denormal step */
  double normal, huge;      /* smallest normal, largest finite */
} es_format;

typedef struct es_case {    /* one node being evaluated */
  const es_node *node;
  es_id id;
  es_format f;              /* of the node's result in the judged implementation */
  const es_tensor64 *in[ES_IN_MAX];
  const es_node *from[ES_IN_MAX]; /* nodes of the inputs */
  es_tensor64 *out;         /* shape set, value and error zeroed */
  const int64_t *dims;      /* value of every dimension handle */
  uint64_t seed, step;
  es_error *err;
} es_case;

/* One rule per op: fills out. A new row in ops.def does not link until its rule exists. */
#define OP(name, class_, lo, hi, shape, attrs, doc) esper_status es_rule_##name(const es_case *c);
#include "graph/ops.def"
#undef OP

/* oracle_number.c: dtypes as doubles */
es_format es_format_of(int32_t dtype);
double es_number_load(int32_t dtype, const void *data, int64_t index);
/* Nearest value of the dtype: round to nearest even, overflow to inf; integers truncate toward 0, saturate, NaN -> 0;
 * bool is v != 0. */
double es_number_round(int32_t dtype, double v);
double es_number_ulp(int32_t dtype, double v); /* distance between neighbours around v; 1 for integers */
bool es_is_float(int32_t dtype);

/* oracle_pair.c: arithmetic on pairs; every result holds the invariants */
extern const es_pair ES_UNKNOWN;
es_pair es_settle(const es_case *c, double v, double e);       /* finite result of finite operands; unknown when it may overflow */
double es_rounding(const es_case *c, double magnitude, double k); /* k roundings of something of that magnitude */
es_pair es_pair_attr(const es_case *c, double value);          /* an attribute, which f32 code rounds to f32 */
es_pair es_pair_add(const es_case *c, es_pair a, es_pair b);
es_pair es_pair_sub(const es_case *c, es_pair a, es_pair b);
es_pair es_pair_mul(const es_case *c, es_pair a, es_pair b);
es_pair es_pair_div(const es_case *c, es_pair a, es_pair b);   /* unknown where b is 0, except NaN */
es_pair es_pair_max(es_pair a, es_pair b);
es_pair es_pair_min(es_pair a, es_pair b);
es_pair es_pair_rsqrt(const es_case *c, es_pair x, double floor); /* the implementation's x is never below floor */

typedef struct es_sum {     /* a sum in any order; start from zeros */
  double value, absolute, error;
  int64_t terms;            /* that are not exactly 0 */
} es_sum;
void es_sum_add(es_sum *s, es_pair term);
es_pair es_sum_end(const es_case *c, const es_sum *s, double rounds); /* rounds: roundings beyond the additions */
es_pair es_mean_of(const es_case *c, es_pair sum, int64_t count);

/* oracle_walk.c: elements in row-major order, operands at strides of their own */
typedef struct es_walk {
  int32_t rank, operands;
  int64_t left;             /* elements not yet visited, the current one included */
  int64_t shape[ES_RANK_MAX], index[ES_RANK_MAX];
  int64_t stride[ES_IN_MAX][ES_RANK_MAX], at[ES_IN_MAX];
} es_walk;
void es_walk_start(es_walk *w, int32_t rank, const int64_t *shape);
void es_walk_operand(es_walk *w, const int64_t *stride, int64_t at); /* NULL = contiguous; before the first next */
/* Operand broadcast from the right to the walk's shape; its last `skip` axes are left out. */
void es_walk_broadcast(es_walk *w, const es_tensor64 *t, int32_t skip);
void es_walk_next(es_walk *w);
void es_strides(const es_tensor64 *t, int64_t *stride);

typedef struct es_rows {    /* a tensor cut into rows: the axes of `mask` vary inside a row, the others between rows */
  es_walk outer, inner;
  int64_t length;
  es_pair *row;             /* owned, `length` pairs */
} es_rows;
bool es_rows_start(es_rows *r, const es_tensor64 *x, uint32_t mask); /* false: no memory */
void es_rows_load(es_rows *r, const es_tensor64 *x);   /* the current row of outer */
void es_rows_store(es_rows *r, const es_tensor64 *y, const es_pair *row); /* y shaped like x */
void es_rows_end(es_rows *r);

static inline es_pair es_at(const es_tensor64 *t, int64_t i) { return (es_pair){ t->value[i], t->error[i] }; }
void es_put(const es_case *c, int64_t i, es_pair p);   /* element i of out; integer results are truncated */
bool es_all_exact(const es_tensor64 *t);
const double *es_errors(const es_tensor64 *t);         /* NULL when all are 0 */
bool es_all_finite(const es_tensor64 *t);
esper_status es_no_memory(const es_case *c);
/* Index element `at` of operand k, in 0..extent-1; EINDEX otherwise. */
esper_status es_index(const es_case *c, int32_t k, int64_t at, int64_t extent, int64_t *out);

/* oracle_norm.c: statistics of one row */
typedef struct es_spread {
  double mean, mean_error;  /* of the implementation's mean, at most */
  double square, square_error; /* sum (x - mean)^2 */
  int32_t fate;             /* 0 ordinary, 1 NaN, 2 unknown */
} es_spread;
es_spread es_spread_of(const es_case *c, const es_pair *row, int64_t n);

typedef struct es_softmax {
  double max, sum;          /* sum of exp(x - max) */
  double log_error;         /* of the implementation's sum, relative to the same shift */
  int32_t fate;             /* 0 ordinary, 1 the whole row is NaN, 2 unknown */
} es_softmax;
es_softmax es_softmax_of(const es_case *c, const es_pair *row, int64_t n);
es_pair es_softmax_at(const es_case *c, const es_softmax *s, es_pair x, int64_t n);     /* exp(x - max) / sum */
es_pair es_log_softmax_at(const es_case *c, const es_softmax *s, es_pair x);            /* x - max - log sum */

/* oracle_contract.c: value[m][n] = sum_k a[m][k] b[k][n] (+ bias) */
typedef struct es_matrix {
  const double *value, *error; /* error NULL: exact */
  int64_t row, col;            /* strides */
} es_matrix;
es_matrix es_matrix_at(es_matrix m, int64_t offset); /* the same strides, `offset` elements on */
typedef struct es_product {
  int64_t m, n, k;
  es_matrix a, b;
  const es_tensor64 *bias;     /* NULL = none; element bias_at + i * bias_m + j * bias_n */
  int64_t bias_at, bias_m, bias_n;
  double rounds;               /* roundings one term may meet; k for a plain sum of products */
  double *value, *error;       /* results at i * out_m + j * out_n */
  int64_t out_m, out_n;
} es_product;
esper_status es_contract(const es_case *c, const es_product *p);
/* The smallest doubt: a zero that an implementation may leave out. Times an infinity it is unknown, else nothing. */
#define ES_DOUBT 0x1p-1074
#endif
