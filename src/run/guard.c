/* Runs a plan once in a forked child on guard-paged copies: see guard.h. Used by the validator
 * before a kernel may run in the host.
 *
 * One reservation without access holds all regions (one per interface value and per workspace
 * slot) with GUARD bytes before, between and after them. Pages of regions are shared with the
 * child, so the parent reads results and canaries there. The parent prepares everything before the
 * fork; the child calls the steps, writes a report and _exits: it allocates nothing and locks
 * nothing, since other threads of the host may have held a lock at the fork.
 * Buffers are read-only like inputs: updates are copied by the parent, to the caller's buffers,
 * after a clean run. */
#include "run/guard.h"
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include "run/frame.h"

enum { CANARY = 0xa5, UNWRITTEN = 0xff, SLOT_ALIGNMENT = 8 };
enum { STACK_BYTES = 1 << 16, SECONDS_MAX = 3600 };
#define GUARD ((int64_t)16 << 20)

enum { CLEAN, FAULT, CANARY_CHANGED, TIME_OUT, REFUSED, NO_FORK }; /* verdicts */

typedef struct region {
  char *lo, *hi; /* its pages */
  char *start;   /* of the tensor or slot in them */
  int64_t bytes;
  int32_t value, slot; /* one of them, the other -1 */
} region;

typedef struct report {   /* shared with the child, which writes it */
  volatile int32_t state; /* enum below */
  volatile int32_t step;  /* the frame's `at` */
  int32_t signal, failed;
  int64_t fault;
  uintptr_t address;
  int32_t wrote; /* 1 write, 0 read, -1 unknown */
} report;
enum { RUNNING, DONE, DIED };

typedef struct guard {
  es_kernel *kernel;
  es_frame *frame;
  region *regions;
  void **data; /* per value: its copy */
  int32_t count;
  char *reserved;
  size_t reserved_bytes;
  char *shared; /* report, then the child's signal stack */
  size_t shared_bytes;
  report *report;
} guard;

/* --- regions -------------------------------------------------------------------------------- */

static int64_t page_size(void) { return sysconf(_SC_PAGESIZE); }

static int64_t whole_pages(int64_t bytes) {
  int64_t page = page_size();
  return (bytes + page - 1) / page * page;
}

static void list_regions(guard *g) {
  const es_kernel *k = g->kernel;
  for (int32_t i = 0; i < k->value_count; i++)
    if (k->slot_of[i] < 0 && k->data_of[i] == i)
      g->regions[g->count++] = (region){ .bytes = g->frame->bytes[i], .value = i, .slot = -1 };
  for (int32_t i = 0; i < k->slot_count; i++)
    g->regions[g->count++] = (region){ .bytes = g->frame->slot_bytes[i], .value = -1, .slot = i };
}

/* Reserves the address space and cuts it into regions. */
static esper_status reserve(guard *g, es_error *err) {
  int64_t total = GUARD;
  for (int32_t i = 0; i < g->count; i++) {
    total += whole_pages(g->regions[i].bytes) + GUARD;
    if (total > ES_BYTES_MAX)
      return es_fail(err, ESPER_ELIMIT, "guard: the tensors exceed 2^46 bytes");
  }
  void *map = mmap(NULL, (size_t)total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                   0);
  if (map == MAP_FAILED)
    return es_fail(err, ESPER_ENOMEM, "guard: cannot reserve %lld bytes of addresses",
                   (long long)total);
  g->reserved = map;
  g->reserved_bytes = (size_t)total;
  char *at = g->reserved + GUARD;
  for (int32_t i = 0; i < g->count; i++) {
    g->regions[i].lo = at;
    g->regions[i].hi = at + whole_pages(g->regions[i].bytes);
    at = g->regions[i].hi + GUARD;
  }
  return ESPER_OK;
}

/* Pages for one region: canary all over, the tensor at one end of it, filled. */
static esper_status fill(guard *g, region *r, const es_run *run, bool end, es_error *err) {
  const es_value *v = r->value >= 0 ? es_plan_value_get(g->kernel->plan, r->value) : NULL;
  int64_t pages = r->hi - r->lo, aligned = v ? es_dtype_bytes(v->dtype) : SLOT_ALIGNMENT;
  r->start = end ? r->lo + (pages - r->bytes) / aligned * aligned : r->lo;
  if (v) g->data[r->value] = r->start;
  else g->frame->slot[r->slot] = r->start;
  if (pages == 0) return ESPER_OK;
  if (v && !run->data[r->value])
    return es_fail(err, ESPER_EARG, "guard: %s \"%s\": no data given", es_role_name(v->role),
                   v->name);
  void *map = mmap(r->lo, (size_t)pages, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (map == MAP_FAILED)
    return es_fail(err, ESPER_ENOMEM, "guard: no memory for %lld bytes", (long long)pages);
  memset(r->lo, CANARY, (size_t)(r->start - r->lo));
  memset(r->start + r->bytes, CANARY, (size_t)(r->hi - (r->start + r->bytes)));
  if (!v || v->role == ES_ROLE_output) {
    memset(r->start, UNWRITTEN, (size_t)r->bytes);
    return ESPER_OK;
  }
  memcpy(r->start, run->data[r->value], (size_t)r->bytes);
  if (mprotect(r->lo, (size_t)pages, PROT_READ) != 0)
    return es_fail(err, ESPER_ENOMEM, "guard: mprotect refused");
  return ESPER_OK;
}

static esper_status prepare(guard *g, const es_run *run, bool end, es_error *err) {
  const es_kernel *k = g->kernel;
  g->frame = es_frame_new(k);
  g->regions = es_alloc_array((size_t)k->value_count + (size_t)k->slot_count + 1,
                              sizeof *g->regions);
  g->data = es_alloc_array((size_t)k->value_count + 1, sizeof *g->data);
  if (!g->frame || !g->regions || !g->data) return es_fail(err, ESPER_ENOMEM, "guard: no memory");
  esper_status status = es_frame_prepare(g->frame, run->symbols, run->round_bytes, err);
  if (status != ESPER_OK) return status;
  list_regions(g);
  status = reserve(g, err);
  for (int32_t i = 0; i < g->count && status == ESPER_OK; i++)
    status = fill(g, &g->regions[i], run, end, err);
  if (status == ESPER_OK) status = es_frame_bind(g->frame, g->data, run->seed, run->step, err);
  g->frame->frozen = run->frozen;
  if (status != ESPER_OK) return status;
  int64_t head = whole_pages(sizeof(report));
  g->shared_bytes = (size_t)(head + STACK_BYTES);
  void *map = mmap(NULL, g->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                   0);
  if (map == MAP_FAILED) return es_fail(err, ESPER_ENOMEM, "guard: no memory");
  g->shared = map;
  g->report = map;
  g->report->failed = g->report->step = -1;
  g->frame->at = &g->report->step;
  return ESPER_OK;
}

static void release(guard *g) {
  if (g->reserved) munmap(g->reserved, g->reserved_bytes);
  if (g->shared) munmap(g->shared, g->shared_bytes);
  es_frame_free(g->frame);
  es_free(g->regions);
  es_free(g->data);
}

/* --- the child ------------------------------------------------------------------------------ */

static const guard *child; /* set in the child alone, for its signal handler */

static void on_signal(int number, siginfo_t *info, void *context) {
  report *r = child->report;
  r->signal = number;
  r->address = (uintptr_t)info->si_addr;
  r->wrote = -1;
#if defined(__x86_64__)
  /* Bit 1 of a page fault's error code: the access was a write. */
  if (number == SIGSEGV) r->wrote = (((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
  (void)context;
#endif
  r->state = DIED;
  _exit(1);
}

/* Signals of a broken kernel go to on_signal, on a stack of its own in case the kernel ran out of
 * stack. */
static void catch_signals(const guard *g) {
  static const int numbers[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
  stack_t stack = { .ss_sp = g->shared + g->shared_bytes - STACK_BYTES, .ss_size = STACK_BYTES };
  sigaltstack(&stack, NULL);
  struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
  sigemptyset(&action.sa_mask);
  sigset_t mask;
  sigemptyset(&mask);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    sigaction(numbers[i], &action, NULL);
    sigaddset(&mask, numbers[i]);
  }
  sigprocmask(SIG_UNBLOCK, &mask, NULL);
}

_Noreturn static void run_child(const guard *g, double seconds) {
  child = g;
  const struct rlimit cpu = { (rlim_t)seconds + 2, (rlim_t)seconds + 2 }, core = { 0, 0 };
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setrlimit(RLIMIT_CPU, &cpu); /* should the parent die and the line above be too late */
  setrlimit(RLIMIT_CORE, &core);
  catch_signals(g);
  int32_t failed = es_frame_steps(g->frame, NULL);
  g->report->failed = failed;
  g->report->fault = g->frame->fault;
  g->report->state = DONE;
  _exit(0);
}

/* --- the parent ----------------------------------------------------------------------------- */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* False when time ran out before the child ended. `ended` then or else holds its wait status, -1
 * when the host reaped it itself. A child that was reaped is not signalled, its number may be
 * somebody else's by then. */
static bool await(pid_t pid, double seconds, int *ended) {
  double deadline = now() + seconds;
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  bool in_time = true;
  *ended = -1;
  for (;;) {
    double rest = deadline - now();
    pid_t got = waitpid(pid, ended, WNOHANG);
    if (got == pid || (got < 0 && errno != EINTR)) break;
    if (in_time && rest <= 0) {
      in_time = false;
      kill(pid, SIGKILL);
    }
    struct pollfd wait_on = { .fd = pidfd, .events = POLLIN };
    if (pidfd >= 0) poll(&wait_on, 1, in_time ? (int)fmin(rest * 1e3 + 1, 1e6) : 100);
    else nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL); /* a kernel without pidfd */
  }
  if (pidfd >= 0) close(pidfd);
  return in_time;
}

/* First byte of the region's padding that lost its canary, NULL when none did. */
static const char *changed(const region *r) {
  for (const char *c = r->lo; c < r->start; c++)
    if ((uint8_t)*c != CANARY) return c;
  for (const char *c = r->start + r->bytes; c < r->hi; c++)
    if ((uint8_t)*c != CANARY) return c;
  return NULL;
}

static const region *nearest(const guard *g, uintptr_t address) {
  uintptr_t lowest = (uintptr_t)g->reserved;
  if (address < lowest || address - lowest >= g->reserved_bytes) return NULL;
  const region *best = NULL;
  uintptr_t best_distance = UINTPTR_MAX;
  for (int32_t i = 0; i < g->count; i++) {
    uintptr_t start = (uintptr_t)g->regions[i].start, end = start + (uintptr_t)g->regions[i].bytes;
    uintptr_t distance = address < start ? start - address : address >= end ? address - end + 1 : 0;
    if (distance >= best_distance) continue;
    best = &g->regions[i];
    best_distance = distance;
  }
  return best;
}

/* The value a region stands for in a step: a slot holds whichever temp the step has there; -2 =
 * just workspace. */
static int32_t value_of(const guard *g, const region *r, int32_t step) {
  if (r->value >= 0) return r->value;
  const es_step *s = es_plan_step_get(g->kernel->plan, step);
  for (int32_t i = 0; s && i < s->operand_count; i++)
    if (g->kernel->slot_of[s->operands[i]] == r->slot) return s->operands[i];
  return -2;
}

static void locate(const guard *g, const region *r, uintptr_t address, es_guard_result *out) {
  out->value = r ? value_of(g, r, out->step) : -1;
  out->offset = r ? (int64_t)(address - (uintptr_t)r->start) : (int64_t)address;
}

static const char *signal_name(int number) {
  switch (number) {
    case SIGSEGV: return "SIGSEGV";
    case SIGBUS: return "SIGBUS";
    case SIGFPE: return "SIGFPE";
    case SIGILL: return "SIGILL";
    case SIGTRAP: return "SIGTRAP";
    case SIGSYS: return "SIGSYS";
    case SIGABRT: return "SIGABRT";
    case SIGKILL: return "SIGKILL";
    default: return "a signal";
  }
}

static const char *step_label(const guard *g, int32_t step) {
  const es_step *s = es_plan_step_get(g->kernel->plan, step);
  return s ? s->label : "none";
}

/* "byte 1536 of input #0 "x" (1536 bytes)" */
static void describe(const guard *g, const region *r, const es_guard_result *out, char *text,
                     size_t room) {
  const es_value *v = es_plan_value_get(g->kernel->plan, out->value);
  if (!r) snprintf(text, room, "address 0x%llx, near no operand", (unsigned long long)out->offset);
  else if (v) {
    snprintf(text, room, "byte %lld of %s #%d \"%s\" (%lld bytes)", (long long)out->offset,
             es_role_name(v->role), out->value, v->name, (long long)r->bytes);
  } else {
    snprintf(text, room, "byte %lld of workspace slot %d (%lld bytes)", (long long)out->offset,
             r->slot, (long long)r->bytes);
  }
}

static esper_status judge_death(const guard *g, int ended, es_guard_result *out, es_error *err) {
  const report *r = g->report;
  out->verdict = FAULT;
  out->step = r->step;
  if (r->state != DIED) { /* killed from outside, or by a signal we cannot catch */
    out->signal = ended >= 0 && WIFSIGNALED(ended) ? WTERMSIG(ended) : SIGKILL;
    return es_fail(err, ESPER_ECERT, "guard: step %d (%s): the child was ended by %s (%d)",
                   out->step, step_label(g, out->step), signal_name(out->signal), out->signal);
  }
  out->signal = r->signal;
  const region *near = r->signal == SIGSEGV || r->signal == SIGBUS ? nearest(g, r->address) : NULL;
  locate(g, near, r->address, out);
  char place[256];
  describe(g, near, out, place, sizeof place);
  static const char *const access[] = { "", ", read", ", write" };
  return es_fail(err, ESPER_ECERT, "guard: step %d (%s): %s%s at %s", out->step,
                 step_label(g, out->step), signal_name(r->signal), access[r->wrote + 1], place);
}

static esper_status judge_end(const guard *g, es_guard_result *out, es_error *err) {
  if (g->report->failed >= 0) {
    out->verdict = REFUSED;
    out->step = g->report->failed;
    return es_frame_fault(g->frame, g->report->failed, g->report->fault, err);
  }
  for (int32_t i = 0; i < g->count; i++) {
    const char *byte = changed(&g->regions[i]);
    if (!byte) continue;
    out->verdict = CANARY_CHANGED;
    locate(g, &g->regions[i], (uintptr_t)byte, out);
    char place[256];
    describe(g, &g->regions[i], out, place, sizeof place);
    return es_fail(err, ESPER_ECERT, "guard: a step wrote %s, outside of it", place);
  }
  return ESPER_OK;
}

static void copy_back(const guard *g, const es_run *run) {
  const es_frame *f = g->frame;
  for (int32_t i = 0; i < g->kernel->value_count; i++) {
    const es_value *v = es_plan_value_get(g->kernel->plan, i);
    if (f->bytes[i] == 0 || (v->role != ES_ROLE_output && v->role != ES_ROLE_update)) continue;
    void *to = run->data[v->role == ES_ROLE_output ? i : v->buffer];
    memcpy(to, f->base[i], (size_t)f->bytes[i]);
  }
}

static esper_status fork_and_judge(const guard *g, double seconds, es_guard_result *out,
                                   es_error *err) {
  pid_t pid = fork();
  if (pid < 0) {
    out->verdict = NO_FORK;
    return es_fail(err, ESPER_EIO, "guard: cannot fork: %s", strerror(errno));
  }
  if (pid == 0) run_child(g, seconds);
  int ended;
  if (!await(pid, seconds, &ended) && g->report->state == RUNNING) {
    out->verdict = TIME_OUT;
    out->step = g->report->step;
    return es_fail(err, ESPER_ECERT, "guard: step %d (%s): the run did not end within %g seconds",
                   out->step, step_label(g, out->step), seconds);
  }
  return g->report->state == DONE ? judge_end(g, out, err) : judge_death(g, ended, out, err);
}

esper_status es_guard_run(es_kernel *kernel, const es_run *run, bool end, double seconds,
                          es_guard_result *out, es_error *err) {
  *out = (es_guard_result){ .verdict = REFUSED, .value = -1, .step = -1, .status = ESPER_EARG };
  if (!(seconds > 0 && seconds <= SECONDS_MAX))
    return es_fail(err, ESPER_EARG, "guard: seconds: got %g, wanted over 0 to %d", seconds,
                   SECONDS_MAX);
  guard g = { .kernel = kernel };
  esper_status status = prepare(&g, run, end, err);
  if (status == ESPER_OK) {
    out->verdict = CLEAN;
    status = fork_and_judge(&g, seconds, out, err);
    if (status == ESPER_OK) copy_back(&g, run);
  }
  out->status = out->verdict == CLEAN || out->verdict == REFUSED ? (int32_t)status : ESPER_OK;
  release(&g);
  return status;
}

const char *es_guard_text(const es_guard_result *result) {
  static const char *const texts[] = { "clean",    "fault",       "canary changed",
                                       "time out", "run refused", "could not fork" };
  return result->verdict >= 0 && result->verdict <= NO_FORK ? texts[result->verdict]
                                                            : "unknown verdict";
}
