/* The inside of a kernel, shared by kernel.c, frame.c, solve.c, guard.c and the public run call; not for Lua.
 *
 * A frame is everything one run needs besides the caller's tensors: the values of all dimensions, sizes of values and
 * slots, the workspace, and per step its arguments. A kernel keeps frames in an array of atomic pointers: a run takes
 * one (exchange with NULL) and gives it back (compare-exchange), so runs neither lock nor allocate once there are as
 * many frames as threads. A taken frame belongs to its thread alone. */
#ifndef ES_FRAME_H
#define ES_FRAME_H
#include <stdatomic.h>
#include "base/memory.h"
#include "run/plan.h"

/* Large blocks begin at a page, as large tensors do (tensor.lua): a load waits for a store whose address ends in the same 12
 * bits, which is so just behind the element that is written when two arrays do not begin alike. */
enum { ES_FRAMES = 64, ES_LANES = 256, ES_ALIGNMENT = 64, ES_LARGE = 65536, ES_PAGE = 4096 };
#define ES_BYTES_MAX ((int64_t)1 << 46) /* of one value and of a workspace: the limit of es_alloc */

/* Memory of any size, aligned to 64 bytes at least; zero it to begin with. */
typedef struct es_block {
  void *memory;            /* what es_free takes */
  char *start;             /* aligned */
  int64_t room;
} es_block;
bool es_block_reserve(es_block *block, int64_t bytes); /* contents are lost when it grows; false = no memory */

typedef struct es_call {   /* one step, ready to call */
  es_kernel_fn fn;
  int64_t tiles;
  int32_t when;            /* es_when */
  uint64_t token;          /* of the last run that did this step, and over how many tiles: for those that run once */
  int64_t made;
  es_args args;
} es_call;

/* When in a run a step is due: before all rounds, in each, behind them. */
enum { ES_PHASE_first, ES_PHASE_round, ES_PHASE_last, ES_PHASES };
static inline int es_phase(int32_t when) {
  if (when == ES_WHEN_prepare || when == ES_WHEN_pack) return ES_PHASE_first;
  return when == ES_WHEN_last ? ES_PHASE_last : ES_PHASE_round;
}

typedef struct es_lane {   /* where a round goes on beside others: operands of its own; the last four for those done by one thread */
  char **p;
  int64_t fault;
  int64_t round;           /* the first that failed here, and in which step */
  int32_t step;
  atomic_flag taken;
} es_lane;

typedef struct es_frame {
  const es_kernel *kernel;
  es_arena *arena;         /* holds the frame and its arrays */
  bool valid;              /* everything down to `calls` is that of `symbols` */
  int64_t symbols[ES_SYMBOLS_MAX];
  int64_t round_bytes;     /* of the run; 0 = the plan's */
  int64_t *values;         /* per dimension handle */
  int64_t *bytes;          /* per value */
  int64_t rounds, rows, most; /* how often the steps are done, over how many rows each time, of how many in all */
  int64_t *part, *part_bytes; /* values and bytes in one round, where there are several; */
  int32_t lanes;           /* rounds that go on at a time */
  bool apart;              /* each in a thread of its own; else all threads share every step of them */
  es_lane *lane[ES_LANES]; /* made when first needed */
  const int64_t *going;    /* those values or the ones above: what the steps go by */
  int64_t *advance;        /* per value: bytes from row to row of what it lies in, 0 for slots, parameters, buffers */
  int64_t *gathered;       /* per value: bytes from round to round in a slot that gathers, else 0 */
  int64_t *slot_bytes, *slot_at; /* per slot; offsets in the workspace are multiples of 64 */
  int64_t workspace;       /* bytes of one round */
  int64_t kept;            /* bytes of the kept slots; their places are in `keep` */
  int64_t *d;
  es_call *calls;          /* per step */
  es_block own;            /* the frame's own workspace */
  es_block keep;           /* the kept slots */
  uint64_t frozen;         /* token of this run, 0 none */
  const char *placed;      /* workspace that `slot` points into, NULL = none yet */
  char **slot;             /* per slot: address */
  void **base;             /* per value: address */
  char **p;
  bool keyed;              /* `key` is that of seed and step */
  uint64_t seed, step;
  uint32_t *key;
  int64_t fault;           /* the fault word of all steps */
  volatile int32_t *at;    /* where the step that runs now is noted; NULL = nowhere */
  struct es_profile *profile; /* of the run; NULL = nothing is noted */
  void **data;             /* scratch of esper_kernel_run: per value, */
  int32_t *ranks;          /*   per input, */
  int64_t *shapes;         /*   ES_RANK_MAX per input, */
  es_block *packed;        /*   per input: its compact copy */
} es_frame;

typedef struct es_bind {   /* how one symbol is found: extent of that axis = dim, other symbols of dim known before */
  int32_t input, axis, symbol;
  es_dim dim;
  bool bare;               /* dim is the symbol itself */
} es_bind;

struct esper_kernel {
  atomic_int references;
  es_plan *plan;
  es_code *code;
  es_pool *pool;           /* of esper_kernel_run; may be NULL */
  es_arena *arena;
  es_kernel_fn *fn;        /* per step */
  int32_t *operands;       /* value index of every operand of every step, in order */
  int32_t *slot_of;        /* per value: slot or -1 */
  es_rounds leading;       /* of the plan */
  bool *pieces;            /* per value: the rounds make it, one round's bytes behind the other's, in a slot that gathers */
  int32_t *data_of;        /* per value without slot: whose data it lies in, its own but for temps in outputs */
  bool has[ES_PHASES];     /* steps of each */
  int32_t value_count, step_count, slot_count, input_count, handle_count, symbol_count;
  int32_t operand_count, d_count, stream_count; /* sums over the steps */
  es_bind binds[ES_SYMBOLS_MAX];
  int32_t bind_count;
  _Atomic(es_frame *) frames[ES_FRAMES];
};

/* solve.c: fills binds. */
esper_status es_solve_plan(es_kernel *kernel, es_error *err);
/* As es_kernel_solve, and leaves the frame prepared for the symbols. */
esper_status es_frame_solve(es_frame *frame, const int32_t *ranks, const int64_t *shapes, es_error *err);

es_frame *es_frame_new(const es_kernel *kernel);              /* NULL = no memory */
void es_frame_free(es_frame *frame);
es_frame *es_frame_take(es_kernel *kernel, es_error *err);    /* NULL = no memory */
void es_frame_give(es_kernel *kernel, es_frame *frame);

/* The stages of a run, in order. Nothing happens in the first when the symbols are those of the last run. */
esper_status es_frame_prepare(es_frame *frame, const int64_t *symbols, int64_t round_bytes, es_error *err);
void es_frame_round(const es_frame *frame, int64_t *symbols); /* those of one round */
/* Rounds that go on at a time on that pool; whether each is a thread's own. */
int32_t es_frame_lanes(const es_frame *frame, const es_pool *pool, bool *apart);
int64_t es_frame_workspace(const es_frame *frame, const es_pool *pool); /* bytes a run on the pool takes */
esper_status es_frame_place(es_frame *frame, void *workspace, const es_pool *pool, es_error *err); /* NULL = the frame's own */
esper_status es_frame_bind(es_frame *frame, void *const *data, uint64_t seed, uint64_t step, es_error *err);
int32_t es_frame_steps(es_frame *frame, es_pool *pool);       /* -1, or the step that left `fault` set */
void es_frame_update(es_frame *frame);                        /* new values of buffers into the buffers */
/* The failure that es_frame_steps met. */
esper_status es_frame_fault(const es_frame *frame, int32_t step, int64_t fault, es_error *err);

/* Operands of all steps for that round, in the workspace of that lane. */
void es_frame_point(const es_frame *frame, char **p, int32_t lane, int64_t round);
int64_t es_frame_row(const es_frame *frame, int64_t round); /* the first one of it */

/* Sizes of values and slots, and places of slots, for these values of the dimensions; tells whether a kept slot moved. */
esper_status es_frame_lay_out(es_frame *frame, const int64_t *values, int64_t *bytes, bool *moved, es_error *err);
/* Chooses the rounds of a frame laid out for all rows, and lays it out once more for one of them where there are several. */
esper_status es_frame_cut(es_frame *frame, bool *moved, es_error *err);

/* Parts of prepare that solve.c needs apart: values of all handles; then sizes, layout, arguments. */
esper_status es_frame_eval(es_frame *frame, const int64_t *symbols, es_error *err);
esper_status es_frame_layout(es_frame *frame, es_error *err);
#endif
