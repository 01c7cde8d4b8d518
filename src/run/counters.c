/* Hardware counters: see counters.h. One descriptor per event instead of a group, because inherited events (those of pool
 * threads) cannot be read as a group. Invariant: fd[i] is -1 or an open, running event. */
#include "run/counters.h"
#include <string.h>
#include <unistd.h>
#include "base/memory.h"
#if defined(__linux__)
#include <linux/perf_event.h>
#include <sys/syscall.h>
#endif

struct es_counters {
  int fd[ES_COUNTS];
};

#if defined(__linux__)
static int open_event(int32_t which) {
  static const uint64_t events[ES_COUNTS] = { PERF_COUNT_HW_CPU_CYCLES, PERF_COUNT_HW_INSTRUCTIONS,
                                              PERF_COUNT_HW_CACHE_MISSES };
  struct perf_event_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.size = sizeof attr;
  attr.type = PERF_TYPE_HARDWARE;
  attr.config = events[which];
  attr.exclude_kernel = attr.exclude_hv = 1;
  attr.inherit = 1;
  return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}
#else
static int open_event(int32_t which) { return (void)which, -1; }
#endif

/* A virtual machine without counters accepts the event and never counts: that is unavailable too. */
static bool counts(int fd) {
  int64_t value = 0;
  for (volatile int spin = 0; spin < 1000; spin++) {}
  return read(fd, &value, sizeof value) == (ssize_t)sizeof value && value > 0;
}

es_counters *es_counters_open(void) {
  es_counters *c = es_alloc(sizeof *c);
  if (!c) return NULL;
  bool any = false;
  for (int32_t i = 0; i < ES_COUNTS; i++) {
    c->fd[i] = open_event(i);
    if (c->fd[i] >= 0 && i != ES_COUNT_misses && !counts(c->fd[i])) {
      close(c->fd[i]);
      c->fd[i] = -1;
    }
    any = any || c->fd[i] >= 0;
  }
  if (any && (c->fd[ES_COUNT_cycles] >= 0 || c->fd[ES_COUNT_instructions] >= 0)) return c;
  es_counters_close(c);
  return NULL;
}

void es_counters_close(es_counters *c) {
  if (!c) return;
  for (int32_t i = 0; i < ES_COUNTS; i++)
    if (c->fd[i] >= 0) close(c->fd[i]);
  es_free(c);
}

bool es_counters_has(const es_counters *c, int32_t which) {
  return c && which >= 0 && which < ES_COUNTS && c->fd[which] >= 0;
}

void es_counters_read(const es_counters *c, int64_t *out) {
  for (int32_t i = 0; i < ES_COUNTS; i++) {
    int64_t value = 0;
    bool read_it = c->fd[i] >= 0 && read(c->fd[i], &value, sizeof value) == (ssize_t)sizeof value;
    out[i] = read_it ? value : 0;
  }
}
