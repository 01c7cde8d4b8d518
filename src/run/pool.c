/* The pthreadpool behind es_pool: see pool.h. Stands under kernel.c.
 * Invariant: `busy` is held exactly while a job is inside the pthreadpool, so it is never entered
 * twice. */
#include "run/pool.h"
#include <pthreadpool.h>
#include <sched.h>
#include <stdatomic.h>
#include "base/memory.h"

/* Four chunks: a thread that comes late costs at most a quarter of its share. */
enum { THREADS_MAX = 1024, CHUNKS_PER_THREAD = 4 };

struct es_pool {
  pthreadpool_t threads; /* NULL when there is only the caller */
  int32_t count;
  atomic_int references;
  atomic_flag busy;
};

typedef struct job {
  es_pool_body body;
  void *user;
  int64_t each, rest; /* chunk i has `each` items, the first `rest` chunks one more */
} job;

static int32_t usable_cores(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  int count = CPU_COUNT(&set);
  return count < 1 ? 1 : count > THREADS_MAX ? THREADS_MAX : count;
}

esper_status es_pool_new(int32_t threads, es_pool **out, es_error *err) {
  *out = NULL;
  if (threads < 0 || threads > THREADS_MAX)
    return es_fail(err, ESPER_EARG, "threads: got %d, wanted 0 (all cores) to %d", threads,
                   THREADS_MAX);
  if (threads == 0) threads = usable_cores();
  es_pool *pool = es_alloc(sizeof *pool);
  if (!pool) return es_fail(err, ESPER_ENOMEM, "thread pool: no memory");
  pool->count = threads;
  atomic_init(&pool->references, 1);
  atomic_flag_clear(&pool->busy);
  if (threads > 1) {
    pool->threads = pthreadpool_create((size_t)threads);
    if (!pool->threads) {
      es_free(pool);
      return es_fail(err, ESPER_ENOMEM, "thread pool: cannot start %d threads", threads);
    }
  }
  *out = pool;
  return ESPER_OK;
}

es_pool *es_pool_retain(es_pool *pool) {
  atomic_fetch_add_explicit(&pool->references, 1, memory_order_relaxed);
  return pool;
}

void es_pool_release(es_pool *pool) {
  if (!pool || atomic_fetch_sub_explicit(&pool->references, 1, memory_order_acq_rel) != 1) return;
  pthreadpool_destroy(pool->threads);
  es_free(pool);
}

int32_t es_pool_threads(const es_pool *pool) { return pool ? pool->count : 1; }

static void run_chunk(void *user, size_t index) {
  const job *work = user;
  int64_t i = (int64_t)index;
  int64_t lo = i * work->each + (i < work->rest ? i : work->rest);
  work->body(work->user, lo, lo + work->each + (i < work->rest));
}

void es_pool_run(es_pool *pool, int64_t count, es_pool_body body, void *user) {
  if (count <= 0) return;
  if (!pool || !pool->threads || count == 1 ||
      atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) {
    body(user, 0, count);
    return;
  }
  int64_t chunks = (int64_t)CHUNKS_PER_THREAD * pool->count;
  if (chunks > count) chunks = count;
  job work = { body, user, count / chunks, count % chunks };
  /* Flags 0: denormals stay as IEEE has them. */
  pthreadpool_parallelize_1d(pool->threads, run_chunk, &work, (size_t)chunks, 0);
  atomic_flag_clear_explicit(&pool->busy, memory_order_release);
}
