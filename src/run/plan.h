/* A plan: ordered kernel calls over values, with sizes as functions of the symbolic dimensions.
 * Built once by the compiler (Lua, through these calls), encoded into the store, executed many times.
 *
 * A value is what a step reads or writes: an input, param, buffer, output or update of the signature, or a temporary
 * living in a workspace slot. A step calls one function of the unit's image:
 *     void fn(const es_args *args, int64_t lo, int64_t hi)
 * for every tile range of 0..tiles-1; tiles is a dimension, so work is cut by shape alone.
 * A plan is immutable once finished and may be used from many threads. */
#ifndef ES_PLAN_H
#define ES_PLAN_H
#include "graph/graph.h"
#include "jit/jit.h"

typedef struct es_args {   /* generated C declares the same struct; keep in step with lua/esper/emit.lua */
  char *const *p;          /* operand pointers in the step's order */
  const int64_t *d;        /* dimension values in the step's order */
  const uint32_t *key;     /* two words per random stream of the step */
  int64_t *fault;          /* a kernel stores 1 + (its operand number) when an index operand is out of range */
} es_args;
typedef void (*es_kernel_fn)(const es_args *args, int64_t lo, int64_t hi);

typedef enum es_role { ES_ROLE_input, ES_ROLE_param, ES_ROLE_buffer, ES_ROLE_output, ES_ROLE_update, ES_ROLE_temp } es_role;

typedef struct es_value {
  int32_t role;            /* es_role */
  int32_t dtype, rank;
  es_dim shape[ES_RANK_MAX];
  int32_t slot;            /* temp: workspace slot; update: slot of the new value, copied to the buffer after the last step; else -1 */
  int32_t buffer;          /* update: value index of its buffer; else -1 */
  int32_t init;            /* param, buffer: es_init */
  double f0, f1;           /* its arguments */
  const char *name;        /* interface name, "" for temps */
} es_value;

typedef struct es_step {
  const char *fn;          /* function name in the unit */
  const char *label;       /* "%7 linear + %8 gelu": for people */
  es_dim tiles;            /* number of tiles */
  int32_t operand_count, dim_count, stream_count;
  const int32_t *operands; /* value indices */
  const es_dim *dims;
  const uint32_t *streams;
} es_step;

typedef struct es_plan es_plan;
es_plan *es_plan_new(es_dims *dims);
/* A workspace slot big enough for the largest of the sizes (bytes) given to it; returns its index. */
int32_t es_plan_slot(es_plan *plan);
esper_status es_plan_slot_size(es_plan *plan, int32_t slot, es_dim bytes);
int32_t es_plan_value(es_plan *plan, const es_value *value, es_error *err);   /* copies; index or -1 */
int32_t es_plan_step(es_plan *plan, const es_step *step, es_error *err);      /* copies; index or -1 */
/* Checks every index and name, gives flops and bytes moved as dimensions, freezes. */
esper_status es_plan_finish(es_plan *plan, es_dim flops, es_dim bytes, es_error *err);
es_plan *es_plan_retain(es_plan *plan);
void es_plan_release(es_plan *plan);

int32_t es_plan_value_count(const es_plan *plan);
const es_value *es_plan_value_get(const es_plan *plan, int32_t index);
int32_t es_plan_step_count(const es_plan *plan);
const es_step *es_plan_step_get(const es_plan *plan, int32_t index);
es_dims *es_plan_dims(const es_plan *plan);
es_dim es_plan_flops(const es_plan *plan);
es_dim es_plan_bytes(const es_plan *plan);
void es_plan_encode(const es_plan *plan, es_text *out);
es_plan *es_plan_decode(const void *bytes, size_t length, es_error *err);
void es_plan_print(const es_plan *plan, es_text *out);

/* A kernel: a plan and the image with its functions, ready to run. Counted; many threads. */
typedef struct es_kernel es_kernel;
esper_status es_kernel_new(es_plan *plan, es_code *code, es_kernel **out, es_error *err);
es_kernel *es_kernel_retain(es_kernel *kernel);
void es_kernel_release(es_kernel *kernel);
const es_plan *es_kernel_plan(const es_kernel *kernel);

/* Symbol values solved from the inputs' extents (shapes: one row of ES_RANK_MAX per input value, in value order).
 * ESHAPE names input, axis, expected and got; ranges and non-negativity of every shape are checked. */
esper_status es_kernel_solve(const es_kernel *kernel, const int32_t *ranks, const int64_t *shapes,
                             int64_t *symbols, es_error *err);
esper_status es_kernel_workspace(const es_kernel *kernel, const int64_t *symbols, int64_t *bytes, es_error *err);

typedef struct es_run {    /* one execution */
  const int64_t *symbols;  /* values of the plan's symbols */
  void *const *data;       /* one pointer per value index; inputs, params, buffers, outputs given, contiguous; others ignored */
  uint64_t seed, step;     /* of the random ops */
  void *workspace;         /* NULL = taken from the kernel's own frames; else es_kernel_workspace bytes, 64-byte aligned */
  void *pool;              /* pthreadpool_t, NULL = calling thread only */
} es_run;
/* No allocation after the first run of a shape, no lock. EINDEX when a kernel reported a fault. */
esper_status es_kernel_run(es_kernel *kernel, const es_run *run, es_error *err);
#endif
