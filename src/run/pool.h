/* Threads for kernels: a counted pthreadpool that many runs may share.
 * A pthreadpool takes one job at a time. Here a second job that comes while one is running does not wait: it runs on the
 * thread that brought it. Work is cut by the caller, never by the number of threads, so results don't depend on it. */
#ifndef ES_POOL_H
#define ES_POOL_H
#include "base/error.h"

typedef struct es_pool es_pool;

/* threads: how many run a job, the calling one included; 0 = as many as the process may run on.
 * Errors: EARG below 0 or above 1024; ENOMEM. */
esper_status es_pool_new(int32_t threads, es_pool **out, es_error *err);
es_pool *es_pool_retain(es_pool *pool);
void es_pool_release(es_pool *pool);            /* NULL is fine; the last release joins the threads */
int32_t es_pool_threads(const es_pool *pool);   /* NULL = 1 */

/* Calls body(user, lo, hi) for contiguous ranges that make up 0..count-1, each once, and returns when all are done.
 * pool NULL or busy: one call on this thread. Thread: any. Allocates nothing. */
typedef void (*es_pool_body)(void *user, int64_t lo, int64_t hi);
void es_pool_run(es_pool *pool, int64_t count, es_pool_body body, void *user);
#endif
