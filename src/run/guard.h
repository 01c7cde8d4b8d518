/* Memory evidence: one run of a kernel in a forked child on guard-paged copies.
 * Every operand and the workspace gets its own mapping with >= 16 MiB of PROT_NONE on both sides; inputs, params are
 * read-only; padding holds a canary that is checked afterwards. end=true puts the last byte of each tensor against the
 * upper guard, end=false the first byte against the lower one. The child is limited in time; the host survives any fault. */
#ifndef ES_GUARD_H
#define ES_GUARD_H
#include "run/plan.h"

typedef struct es_guard_result {
  int32_t verdict;      /* 0 clean, 1 fault (signal), 2 canary changed, 3 time out, 4 run refused, 5 could not fork */
  int32_t signal;       /* of a fault */
  int32_t value;        /* value index nearest the fault or whose canary changed; -1 unknown, -2 workspace */
  int64_t offset;       /* bytes from that value's start */
  int32_t step;         /* step that ran then */
  int32_t status;       /* esper_status of the run when verdict 4 */
} es_guard_result;
/* data as in es_run; outputs and updates are copied back into data[] pointers when clean. */
esper_status es_guard_run(es_kernel *kernel, const es_run *run, bool end, double seconds, es_guard_result *out, es_error *err);
const char *es_guard_text(const es_guard_result *result);
#endif
