/* Stress: jobs of every size through thread pools, from several threads that share one, with rests that let threads fall
 * asleep, and pools that end right after a job. Every item must be visited exactly once, and before the call returns.
 *     pool_hammer N SEED      one line: name seed n fail metric (jobs that another thread's job made run alone) */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include "fuzz.h"
#include "run/pool.h"

enum { ITEMS_MAX = 5000, HOSTS = 3, JOBS_PER_POOL = 50 };

typedef struct host { /* one thread that brings jobs */
  es_pool *pool;
  uint64_t seed;
  int32_t jobs;
  int64_t failed, alone;
} host;

typedef struct job {
  unsigned char *visits;
  atomic_int calls;
  int32_t spin;
} job;

static void visit(void *user, int64_t lo, int64_t hi) {
  job *j = user;
  atomic_fetch_add(&j->calls, 1);
  for (volatile int32_t i = 0; i < j->spin; i++) {}
  for (int64_t i = lo; i < hi; i++) j->visits[i]++;
}

static void *bring_jobs(void *user) {
  host *h = user;
  unsigned char visits[ITEMS_MAX];
  uint64_t state = h->seed;
  for (int32_t n = 0; n < h->jobs; n++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    int64_t items = (int64_t)((state >> 33) % (state >> 60 ? 100 : ITEMS_MAX)) + 1;
    job j = { visits, 0, (int32_t)(state >> 40 & 1023) };
    memset(visits, 0, sizeof visits);
    es_pool_run(h->pool, items, visit, &j);
    int64_t wrong = 0;
    for (int64_t i = 0; i < ITEMS_MAX; i++) wrong += visits[i] != (i < items);
    h->failed += wrong != 0;
    h->alone += atomic_load(&j.calls) == 1 && items > 1;
    if (state >> 20 & 127) continue;
    struct timespec rest = { 0, (long)(state >> 30 & 0xfffff) };
    nanosleep(&rest, NULL);
  }
  return NULL;
}

/* One pool with `hosts` threads on it; what went wrong. */
static int64_t hammer(int32_t threads, int32_t hosts, int32_t jobs, int64_t *alone) {
  es_pool *pool;
  es_error err = { 0 };
  if (es_pool_new(threads, &pool, &err) != ESPER_OK) return 1;
  host list[HOSTS];
  pthread_t ids[HOSTS];
  int64_t failed = 0;
  for (int32_t i = 0; i < hosts; i++) {
    list[i] = (host){ es_pool_retain(pool), draw(), jobs, 0, 0 };
    if (i && pthread_create(&ids[i], NULL, bring_jobs, &list[i])) return 1;
  }
  bring_jobs(&list[0]);
  for (int32_t i = 0; i < hosts; i++) {
    if (i) pthread_join(ids[i], NULL);
    es_pool_release(pool);
    failed += list[i].failed;
    *alone += list[i].alone;
  }
  es_pool_release(pool);
  return failed;
}

int main(int argc, char **argv) {
  int64_t rounds, failed = 0, alone = 0;
  uint64_t seed;
  arguments(argc, argv, &rounds, &seed);
  for (int64_t n = 0; n < rounds; n += JOBS_PER_POOL) {
    start_round(seed, n);
    failed += hammer(1 + below(6), 1 + below(HOSTS), JOBS_PER_POOL, &alone);
  }
  printf("pool_hammer %llu %lld %lld %lld\n", (unsigned long long)seed, (long long)rounds, (long long)failed, (long long)alone);
  return failed != 0;
}
