/* A plan: ordered kernel calls over values, with sizes as functions of the symbolic dimensions.
 * Built once by the compiler (Lua, through these calls), encoded into the store, executed many times.
 *
 * A value is what a step reads or writes: an input, param, buffer, output or update of the signature, or a temporary
 * living in a workspace slot, or in the memory of an output that is not written yet. A step calls one function of the unit's image:
 *     void fn(const es_args *args, int64_t lo, int64_t hi)
 * for every tile range of 0..tiles-1; tiles is a dimension, so work is cut by shape alone.
 * A plan is immutable once finished and may be used from many threads. */
#ifndef ES_PLAN_H
#define ES_PLAN_H
#include "graph/graph.h"
#include "jit/jit.h"
#include "run/pool.h"

enum { ES_PLAN_MAX = 1 << 18 };   /* values, steps, slots; operands, dims and streams of one step */

typedef struct es_args {   /* generated C declares the same struct; keep in step with lua/esper/emit.lua */
  char *const *p;          /* operand pointers in the step's order */
  const int64_t *d;        /* dimension values in the step's order */
  const uint32_t *key;     /* two words per random stream of the step */
  int64_t *fault;          /* a kernel stores 1 + (its operand number) when an index operand is out of range */
} es_args;
typedef void (*es_kernel_fn)(const es_args *args, int64_t lo, int64_t hi);

typedef enum es_role { ES_ROLE_input, ES_ROLE_param, ES_ROLE_buffer, ES_ROLE_output, ES_ROLE_update, ES_ROLE_temp } es_role;
const char *es_role_name(int32_t role); /* "input"; static */

typedef struct es_value {
  int32_t role;            /* es_role */
  int32_t dtype, rank;
  es_dim shape[ES_RANK_MAX];
  int32_t slot;            /* temp: workspace slot or -1; update: slot of the new value, copied to the buffer at the end; else -1 */
  int32_t buffer;          /* update: value index of its buffer; temp without a slot: of the output it lives in; else -1 */
  int32_t init;            /* param, buffer: es_init */
  double f0, f1;           /* its arguments */
  const char *name;        /* interface name, "" for temps */
} es_value;

/* When a step runs. Parameters and buffers that were frozen (es_run.frozen) will not change: what is made of them alone,
 * in a slot that is kept, is made once. */
typedef enum es_when {
  ES_WHEN_always,
  ES_WHEN_prepare,         /* writes kept slots from parameters alone: every run, but once while they are frozen */
  ES_WHEN_pack,            /* the same, and only when they are frozen */
  ES_WHEN_frozen,          /* only when they are: reads what pack wrote */
  ES_WHEN_fluid,           /* only when they are not: does the work of the frozen step without it */
  ES_WHEN_last,            /* always, after all rounds, over all rows */
  ES_WHEN_COUNT
} es_when;

typedef struct es_step {
  const char *fn;          /* function name in the unit */
  const char *label;       /* "%7 linear + %8 gelu": for people */
  es_dim tiles;            /* number of tiles */
  int32_t when;            /* es_when */
  int32_t operand_count, dim_count, stream_count;
  const int32_t *operands; /* value indices */
  const es_dim *dims;
  const uint32_t *streams;
} es_step;

/* The steps may be done in rounds, each over some of the rows, so that temporaries need room for those alone. `symbols` are the
 * leading axes of outputs and inputs, whose other axes do not depend on them; a row is one combination of their indices, and
 * row i of the outputs is made of row i of these inputs, and of other inputs, parameters and buffers, which depend on none.
 * What is made of all rows together comes last: the rounds leave pieces for it in slots that gather them; where these do not
 * fit together as pieces of all rows do, there is one round.
 * A run whose workspace would pass `bytes` takes rounds of fewer rows, cut by the shape alone; the last one may do rows of the
 * one before again. Where there are two for each thread, every thread takes rounds and does their steps alone; else all threads
 * share every step of as many rounds as fit into `most` bytes. */
enum { ES_LEADING_MAX = 2 };
typedef struct es_rounds {
  int32_t count;           /* leading symbols; 0 = always all rows at once */
  int32_t symbols[ES_LEADING_MAX];
  int64_t bytes;
  es_dim most;             /* bytes that rounds going on at a time may take together */
} es_rounds;

typedef struct es_plan es_plan;
es_plan *es_plan_new(es_dims *dims);          /* retains dims; NULL = no memory */
/* A workspace slot as big as the largest of the sizes (bytes) given to it and of the values that live in it; returns
 * its index, -1 = no memory. A size below 0 counts as 0. */
int32_t es_plan_slot(es_plan *plan);
esper_status es_plan_slot_size(es_plan *plan, int32_t slot, es_dim bytes);
/* The slot keeps its bytes from run to run: it has memory of its own in every frame, not of the workspace. */
esper_status es_plan_slot_keep(es_plan *plan, int32_t slot);
/* The slot holds pieces of all rows, one round's behind the other's. */
esper_status es_plan_slot_gather(es_plan *plan, int32_t slot);
bool es_plan_slot_gathers(const es_plan *plan, int32_t slot);
void es_plan_rounds_set(es_plan *plan, const es_rounds *rounds);
const es_rounds *es_plan_rounds(const es_plan *plan);
bool es_plan_has_rows(const es_plan *plan, const es_value *value); /* an input or output that rounds take row by row */
bool es_plan_slot_kept(const es_plan *plan, int32_t slot);
int32_t es_plan_value(es_plan *plan, const es_value *value, es_error *err);   /* copies; index or -1 */
/* Adds the inputs, then the params, then the buffers of `graph` in its node order. of[id] becomes the index of the value that
 * node `id` of `rewritten`, the graph after the passes, has by its name; -1 for all but leaves (es_graph_count places). */
esper_status es_plan_leaves(es_plan *plan, const es_graph *graph, const es_graph *rewritten, int32_t *of, es_error *err);
int32_t es_plan_step(es_plan *plan, const es_step *step, es_error *err);      /* copies; index or -1 */
/* Checks every index and name, gives flops and bytes moved as dimensions, freezes. From here on the plan has its own
 * dims table, which holds what it uses and no more (its handles are new ones, its symbols keep their indices), so the
 * compile may go on with the one it was built with.
 * Errors: EINTERNAL (a rule above is broken; says where), ENAME, ENOMEM. */
esper_status es_plan_finish(es_plan *plan, es_dim flops, es_dim bytes, es_error *err);
es_plan *es_plan_retain(es_plan *plan);       /* counted, any thread */
void es_plan_release(es_plan *plan);

int32_t es_plan_value_count(const es_plan *plan);
const es_value *es_plan_value_get(const es_plan *plan, int32_t index);        /* NULL out of range */
int32_t es_plan_step_count(const es_plan *plan);
const es_step *es_plan_step_get(const es_plan *plan, int32_t index);          /* NULL out of range */
int32_t es_plan_slot_count(const es_plan *plan);
typedef struct es_slot_size { int32_t slot; es_dim bytes; } es_slot_size;
int32_t es_plan_size_count(const es_plan *plan);                              /* calls of es_plan_slot_size, in order */
const es_slot_size *es_plan_size_get(const es_plan *plan, int32_t index);
es_dims *es_plan_dims(const es_plan *plan);   /* borrowed; of a finished plan read only: never make handles in it */
es_dim es_plan_flops(const es_plan *plan);
es_dim es_plan_bytes(const es_plan *plan);
bool es_plan_finished(const es_plan *plan);

/* Of a finished plan: the values of one role in value order, and the text of a shape ("batch, tokens, 384"). */
int32_t es_plan_role_count(const es_plan *plan, int32_t role);
int32_t es_plan_role_get(const es_plan *plan, int32_t role, int32_t index);   /* value index, -1 out of range */
int32_t es_plan_find(const es_plan *plan, int32_t role, const char *name);    /* value index, -1 unknown */
const char *es_plan_shape_text(const es_plan *plan, int32_t value);

/* Canonical little-endian bytes of a finished plan. Decode checks everything it reads (ECORRUPT, ELIMIT) and returns a
 * finished plan, NULL on failure. */
void es_plan_encode(const es_plan *plan, es_text *out);
es_plan *es_plan_decode(const void *bytes, size_t length, es_error *err);
void es_plan_print(const es_plan *plan, es_text *out);

/* A kernel: a finished plan and the image with its functions, ready to run (both retained). Counted; many threads.
 * Errors of new: ECORRUPT the image lacks a function of the plan; ESHAPE a symbol the plan uses cannot be found from
 * the inputs' extents; EARG plan not finished; ENOMEM. */
typedef struct esper_kernel es_kernel;
esper_status es_kernel_new(es_plan *plan, es_code *code, es_kernel **out, es_error *err);
es_kernel *es_kernel_retain(es_kernel *kernel);
void es_kernel_release(es_kernel *kernel);
const es_plan *es_kernel_plan(const es_kernel *kernel);
/* The pool of esper_kernel_run (retained; NULL = none). Set before the kernel is shared between threads. */
void es_kernel_pool_set(es_kernel *kernel, es_pool *pool);

/* Symbol values solved from the inputs' extents (ranks: one per input; shapes: one row of ES_RANK_MAX per input; both
 * in value order). A bare axis gives its symbol; an axis like 3*n + 1 whose other symbols are known gives the last one.
 * ESHAPE names input, axis, expected and got; ranges and non-negativity of every shape are checked. A symbol that the
 * plan does not use and no input tells is set to the least value of its range. symbols: es_symbol_count values. */
esper_status es_kernel_solve(es_kernel *kernel, const int32_t *ranks, const int64_t *shapes,
                             int64_t *symbols, es_error *err);
/* What a run on that pool (NULL: the calling thread alone) takes, of round_bytes 0. */
esper_status es_kernel_workspace(es_kernel *kernel, const int64_t *symbols, const es_pool *pool, int64_t *bytes, es_error *err);
/* Symbols of one round of such a run: what its steps see. */
esper_status es_kernel_round(es_kernel *kernel, const int64_t *symbols, int64_t *round, es_error *err);

typedef struct es_run {    /* one execution */
  const int64_t *symbols;  /* values of the plan's symbols */
  void *const *data;       /* one pointer per value index; inputs, params, buffers, outputs given, contiguous; others ignored */
  uint64_t seed, step;     /* of the random ops */
  uint64_t frozen;         /* 0, or a token of es_frozen_token: parameters and buffers hold what they did in every run of it */
  void *workspace;         /* NULL = taken from the kernel's own frames; else es_kernel_workspace bytes for the pool, 64-byte aligned */
  int64_t round_bytes;     /* workspace from which rounds are taken; 0 = the plan's. For certificates: to see rounds at any size. Not
                            * with a workspace of the caller's (EARG) */
  es_pool *pool;           /* NULL = calling thread only */
  struct es_profile *profile; /* NULL, or what to note per step (run/measure.h) */
} es_run;
/* A number never given before in this process, not 0. Any thread. */
uint64_t es_frozen_token(void);
/* No allocation after the first run of a shape, no lock. Runs under the default rounding with denormals kept, whatever
 * the thread has set. EINDEX when a kernel reported a fault: outputs are then undefined, buffers unchanged. */
esper_status es_kernel_run(es_kernel *kernel, const es_run *run, es_error *err);
#endif
