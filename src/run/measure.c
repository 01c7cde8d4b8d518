/* Clocked repetitions: see measure.h. Nothing stands between the two clock readings but the call. */
#include "run/measure.h"
#include <time.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

double es_measure_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

esper_status es_measure_kernel(es_kernel *kernel, const es_run *run, int32_t reps, double *ns, es_error *err) {
  for (int32_t i = 0; i < reps; i++) {
    double from = es_measure_ns();
    esper_status status = es_kernel_run(kernel, run, err);
    ns[i] = es_measure_ns() - from;
    if (status != ESPER_OK) return status;
  }
  return ESPER_OK;
}

typedef struct work {
  es_kernel_fn fn;
  const es_args *args;
} work;

static void run_tiles(void *user, int64_t lo, int64_t hi) {
  const work *w = user;
  w->fn(w->args, lo, hi);
}

void es_measure_tiles(es_pool *pool, int64_t tiles, es_kernel_fn fn, const es_args *args, int32_t reps, double *ns) {
  work w = { fn, args };
  for (int32_t i = 0; i < reps; i++) {
    double from = es_measure_ns();
    es_pool_run(pool, tiles, run_tiles, &w);
    ns[i] = es_measure_ns() - from;
  }
}

void es_measure_rest(double ms) {
  struct timespec rest = { (time_t)(ms / 1e3), (long)((ms - 1e3 * (double)(time_t)(ms / 1e3)) * 1e6) };
  nanosleep(&rest, NULL);
}

void es_measure_keep_memory(void) {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 0x7fffffff);
#endif
}
