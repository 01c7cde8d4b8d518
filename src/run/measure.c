/* Clocked repetitions: see measure.h. Nothing stands between the two clock readings but the call. */
#include "run/measure.h"
#include <time.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

static double read_clock(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

double es_measure_ns(void) { return read_clock(CLOCK_MONOTONIC); }

esper_status es_measure_kernel(es_kernel *kernel, const es_run *run, int32_t reps, bool cpu, double *ns, es_error *err) {
  clockid_t clock = cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  for (int32_t i = 0; i < reps; i++) {
    double from = read_clock(clock);
    esper_status status = es_kernel_run(kernel, run, err);
    ns[i] = read_clock(clock) - from;
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
  clockid_t clock = es_pool_threads(pool) == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  for (int32_t i = 0; i < reps; i++) {
    double from = read_clock(clock);
    es_pool_run(pool, tiles, run_tiles, &w);
    ns[i] = read_clock(clock) - from;
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
