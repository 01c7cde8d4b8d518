/* Memory evidence: one run of a kernel in a forked child on guard-paged copies.
 * Every operand and every workspace slot gets its own pages with >= 16 MiB of PROT_NONE on both sides; inputs, params
 * and buffers are read-only; padding holds a canary that is checked afterwards; outputs and slots hold NaN (all bits
 * set) before the run, so what a kernel leaves unwritten or reads too early shows. end=true puts the last byte of each
 * tensor against the upper guard, end=false the first byte against the lower one. The child is limited in time; the
 * host survives any fault. */
#ifndef ES_GUARD_H
#define ES_GUARD_H
#include "run/plan.h"

typedef struct es_guard_result {
  int32_t verdict;      /* 0 clean, 1 fault (signal), 2 canary changed, 3 time out, 4 run refused, 5 could not fork */
  int32_t signal;       /* of a fault */
  int32_t value;        /* value index nearest the fault or whose canary changed; -1 unknown, -2 workspace */
  int64_t offset;       /* bytes from that value's start; of an unknown value the address itself */
  int32_t step;         /* step that ran then, -1 none */
  int32_t status;       /* esper_status of the run when verdict 4 */
} es_guard_result;
/* data as in es_run (run->workspace and run->pool are not used); outputs and updates are copied back into data[]
 * pointers when clean. `out` is filled whatever comes back, which is ESPER_OK for verdict 0 alone:
 * ECERT for 1 to 3, the run's own status for 4, EIO or ENOMEM for 5; err says what happened and where.
 * Thread: any; the host may see one SIGCHLD. */
esper_status es_guard_run(es_kernel *kernel, const es_run *run, bool end, double seconds, es_guard_result *out, es_error *err);
const char *es_guard_text(const es_guard_result *result); /* the verdict in words; static */
#endif
