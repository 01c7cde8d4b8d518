/* The threads behind es_pool: see pool.h. Stands under kernel.c.
 *
 * A job is cut into chunks, a contiguous range of them for every thread, so that a thread meets the same part of the data
 * in one step after another; who is done early takes from the others. The caller waits for chunks, never for threads: one
 * that the system does not let run holds up nothing but a chunk it has begun.
 *
 * Invariants. `busy` is held by the one caller whose job this is. The word of a range alone says whether it has chunks left
 * and of which job, and taking one is a compare-exchange of it. A job ends only when its last chunk is done: who holds a chunk
 * may read the job, nobody else does. Nothing is allocated. */
#include "run/pool.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/memory.h"

/* Four chunks: a thread that comes late costs at most a quarter of its share. SPINS: about half a millisecond, longer than
 * the time between two steps or two runs of a busy host, short enough to burn no core of an idle one. */
enum { THREADS_MAX = 1024, CHUNKS_PER_THREAD = 4, SPINS = 20000, LINE = 64 };

typedef struct range {
  _Atomic uint64_t word;         /* generation of the job << 32 | its chunks here << 16 | chunks taken */
  char rest[LINE - sizeof(uint64_t)]; /* ranges on lines of their own */
} range;

struct es_pool {
  int32_t count;               /* threads, the caller included */
  int32_t started;             /* threads that were */
  pthread_t *threads;
  range *ranges;               /* per thread */
  atomic_int references, ticket; /* ticket: hands out ranges to starting threads */
  atomic_flag busy;
  atomic_bool stop;
  es_pool_body body;           /* the job */
  void *user;
  int64_t items, chunks;
  char line_a[LINE];
  _Atomic uint32_t generation; /* of the job; threads sleep on it */
  _Atomic uint32_t sleepers;
  char line_b[LINE];
  _Atomic int64_t left;        /* chunks not done */
  _Atomic uint32_t waiting;    /* 1: the caller sleeps on it */
};

/* --- waiting -------------------------------------------------------------------------------- */

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void futex_wake(_Atomic uint32_t *word, int count) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/* The generation after `seen`. */
static uint32_t next_job(es_pool *pool, uint32_t seen) {
  uint32_t now;
  for (int i = 0; i < SPINS; i++) {
    if ((now = atomic_load_explicit(&pool->generation, memory_order_acquire)) != seen) return now;
    relax();
  }
  atomic_fetch_add(&pool->sleepers, 1);
  while ((now = atomic_load(&pool->generation)) == seen) futex_wait(&pool->generation, seen);
  atomic_fetch_sub(&pool->sleepers, 1);
  return now;
}

static void wait_done(es_pool *pool) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load_explicit(&pool->left, memory_order_acquire) == 0) return;
    relax();
  }
  for (;;) {
    atomic_store(&pool->waiting, 1);
    if (atomic_load(&pool->left) == 0) break;
    futex_wait(&pool->waiting, 1);
  }
  atomic_store(&pool->waiting, 0);
}

/* --- chunks --------------------------------------------------------------------------------- */

/* First of n chunks that belong to thread t of `count`. */
static int64_t first_chunk(int64_t n, int32_t t, int32_t count) { return n * t / count; }

static uint64_t word_of(uint32_t generation, int64_t size) { return (uint64_t)generation << 32 | (uint64_t)size << 16; }

/* Takes a chunk of the job `generation`, from thread `self`'s range before the others'; -1 = there is none left. */
static int64_t claim(es_pool *pool, int32_t self, uint32_t generation) {
  for (int32_t k = 0; k < pool->count; k++) {
    int32_t t = (self + k) % pool->count;
    _Atomic uint64_t *word = &pool->ranges[t].word;
    uint64_t now = atomic_load_explicit(word, memory_order_acquire);
    while ((uint32_t)(now >> 32) == generation && (now & 0xffff) < (now >> 16 & 0xffff))
      if (atomic_compare_exchange_weak_explicit(word, &now, now + 1, memory_order_acq_rel, memory_order_acquire))
        return first_chunk(pool->chunks, t, pool->count) + (int64_t)(now & 0xffff);
  }
  return -1;
}

static void work(es_pool *pool, int32_t self, uint32_t generation) {
  for (int64_t chunk; (chunk = claim(pool, self, generation)) >= 0;) {
    int64_t each = pool->items / pool->chunks, rest = pool->items % pool->chunks; /* the first `rest` have one more */
    int64_t lo = chunk * each + (chunk < rest ? chunk : rest);
    pool->body(pool->user, lo, lo + each + (chunk < rest));
    if (atomic_fetch_sub(&pool->left, 1) == 1 && atomic_load(&pool->waiting)) {
      atomic_store(&pool->waiting, 0);
      futex_wake(&pool->waiting, 1);
    }
  }
}

static void *thread_main(void *user) {
  es_pool *pool = user;
  int32_t self = atomic_fetch_add(&pool->ticket, 1);
  for (uint32_t seen = 0;;) {
    seen = next_job(pool, seen);
    if (atomic_load(&pool->stop)) return NULL;
    work(pool, self, seen);
  }
}

/* --- life ----------------------------------------------------------------------------------- */

static int32_t usable_cores(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  int count = CPU_COUNT(&set);
  return count < 1 ? 1 : count > THREADS_MAX ? THREADS_MAX : count;
}

static void publish(es_pool *pool) {
  atomic_store(&pool->generation, atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1);
  if (atomic_load(&pool->sleepers) > 0) futex_wake(&pool->generation, INT_MAX);
}

static void pool_free(es_pool *pool) {
  atomic_store(&pool->stop, true);
  publish(pool);
  for (int32_t i = 0; i < pool->started; i++) pthread_join(pool->threads[i], NULL);
  es_free(pool->threads);
  es_free(pool->ranges);
  es_free(pool);
}

/* The host's signals are the host's: these threads take none. */
static bool start_threads(es_pool *pool) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool->started < pool->count - 1 &&
         pthread_create(&pool->threads[pool->started], NULL, thread_main, pool) == 0)
    pool->started++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return pool->started == pool->count - 1;
}

esper_status es_pool_new(int32_t threads, es_pool **out, es_error *err) {
  *out = NULL;
  if (threads < 0 || threads > THREADS_MAX)
    return es_fail(err, ESPER_EARG, "threads: got %d, wanted 0 (all cores) to %d", threads, THREADS_MAX);
  if (threads == 0) threads = usable_cores();
  es_pool *pool = es_alloc(sizeof *pool);
  if (!pool) return es_fail(err, ESPER_ENOMEM, "thread pool: no memory");
  pool->count = threads;
  atomic_init(&pool->references, 1);
  atomic_init(&pool->ticket, 1);
  atomic_flag_clear(&pool->busy);
  pool->threads = es_alloc_array((size_t)threads, sizeof *pool->threads);
  pool->ranges = es_alloc_array((size_t)threads, sizeof *pool->ranges);
  if (!pool->threads || !pool->ranges || !start_threads(pool)) {
    pool_free(pool);
    return es_fail(err, ESPER_ENOMEM, "thread pool: cannot start %d threads", threads);
  }
  *out = pool;
  return ESPER_OK;
}

es_pool *es_pool_retain(es_pool *pool) {
  atomic_fetch_add_explicit(&pool->references, 1, memory_order_relaxed);
  return pool;
}

void es_pool_release(es_pool *pool) {
  if (pool && atomic_fetch_sub_explicit(&pool->references, 1, memory_order_acq_rel) == 1) pool_free(pool);
}

int32_t es_pool_threads(const es_pool *pool) { return pool ? pool->count : 1; }

/* --- a job ---------------------------------------------------------------------------------- */

void es_pool_run(es_pool *pool, int64_t count, es_pool_body body, void *user) {
  if (count <= 0) return;
  if (!pool || pool->count == 1 || count == 1 || atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) {
    body(user, 0, count);
    return;
  }
  int64_t chunks = (int64_t)CHUNKS_PER_THREAD * pool->count;
  if (chunks > count) chunks = count;
  uint32_t generation = atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1;
  pool->body = body;
  pool->user = user;
  pool->items = count;
  pool->chunks = chunks;
  atomic_store_explicit(&pool->left, chunks, memory_order_relaxed);
  for (int32_t t = 0; t < pool->count; t++) {
    int64_t size = first_chunk(chunks, t + 1, pool->count) - first_chunk(chunks, t, pool->count);
    atomic_store_explicit(&pool->ranges[t].word, word_of(generation, size), memory_order_release);
  }
  publish(pool);
  work(pool, 0, generation);
  wait_done(pool);
  atomic_flag_clear_explicit(&pool->busy, memory_order_release);
}
