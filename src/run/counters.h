/* Hardware counters of the processor through perf_event_open(2), for profiles. A system may refuse any of them; what it
 * refuses is unavailable, never 0. */
#ifndef ES_COUNTERS_H
#define ES_COUNTERS_H
#include "base/error.h"

enum { ES_COUNT_cycles, ES_COUNT_instructions, ES_COUNT_misses, ES_COUNTS }; /* misses: of the last-level cache */

typedef struct es_counters es_counters;
/* Counts user-mode work of the calling thread and of threads it starts from now on. NULL = none of them is to be had. */
es_counters *es_counters_open(void);
void es_counters_close(es_counters *counters);
bool es_counters_has(const es_counters *counters, int32_t which); /* false for NULL */
/* Counts since open; what is unavailable stays 0. Thread: the one that opened. */
void es_counters_read(const es_counters *counters, int64_t *counts);
#endif
