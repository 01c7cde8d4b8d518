/* Clocked repetitions, for benchmarks and profiles: the loop is in C, so that a call of 100 ns is not drowned in the
 * caller's own language. */
#ifndef ES_MEASURE_H
#define ES_MEASURE_H
#include "run/counters.h"
#include "run/plan.h"

/* What a run notes about its steps when es_run.profile is set; the arrays belong to the caller. */
typedef struct es_profile {
  double *ns;              /* per step: nanoseconds of the run */
  const es_counters *counters; /* NULL = none */
  int64_t *counts;         /* per step ES_COUNTS counts of the run; used with counters only */
} es_profile;

double es_measure_ns(void); /* monotonic */
/* Runs `reps` times and writes the nanoseconds of each run to ns. cpu: processor time of the calling thread instead of the
 * clock on the wall, so that a busy machine does not count; for runs of one thread, and with some 100 ns of its own.
 * Errors: those of es_kernel_run, at the first failure. */
esper_status es_measure_kernel(es_kernel *kernel, const es_run *run, int32_t reps, bool cpu, double *ns, es_error *err);
/* The same for a function over tiles that needs no kernel: the micro-benchmarks of the machine's own peaks. Processor time
 * when the pool has one thread. */
void es_measure_tiles(es_pool *pool, int64_t tiles, es_kernel_fn fn, const es_args *args, int32_t reps, double *ns);
/* Sleeps: lets the threads of another library, which spin for a while after their last job, go to sleep. */
void es_measure_rest(double ms);
/* Freed memory stays with the process from now on, for good. For programs that measure, never inside a host: a library that
 * allocates its results anew in every run (libtorch) otherwise pays for fresh pages or not, as the heap happens to lie. */
void es_measure_keep_memory(void);
#endif
