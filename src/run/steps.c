/* The run itself: the steps of a frame, called over their tiles by the threads of a pool: see frame.h. The flow of a run ends
 * here. */
#include <string.h>
#include "run/frame.h"
#include "run/measure.h"
#if defined(__SSE__)
#include <xmmintrin.h>
#else
#include <fenv.h>
#endif

/* Kernels run under the default floating-point environment (round to nearest, denormals kept, no
 * traps), so a result does not depend on the thread; what the thread had comes back afterwards. */
#if defined(__SSE__)
enum { MXCSR_DEFAULT = 0x1f80, MXCSR_FLAGS = 0x3f };
typedef unsigned floats;
static inline floats enter_floats(void) {
  unsigned old = _mm_getcsr();
  if ((old & ~(unsigned)MXCSR_FLAGS) != MXCSR_DEFAULT) _mm_setcsr(MXCSR_DEFAULT);
  return old;
}
static inline void leave_floats(const floats *old) {
  if ((*old & ~(unsigned)MXCSR_FLAGS) != MXCSR_DEFAULT) _mm_setcsr(*old);
}
#else
typedef fenv_t floats;
static inline floats enter_floats(void) {
  fenv_t old;
  feholdexcept(&old);
  fesetenv(FE_DFL_ENV);
  return old;
}
static inline void leave_floats(const floats *old) { fesetenv(old); }
#endif

static void run_tiles(void *user, int64_t lo, int64_t hi) {
  const es_call *call = user;
  floats saved = enter_floats();
  call->fn(&call->args, lo, hi);
  leave_floats(&saved);
}

static void note_nothing(es_profile *profile, int32_t steps) {
  memset(profile->ns, 0, (size_t)steps * sizeof *profile->ns);
  if (profile->counters) memset(profile->counts, 0, (size_t)steps * ES_COUNTS * sizeof *profile->counts);
}

/* Has the step work to do in this run? */
static bool due(const es_frame *f, const es_call *call) {
  bool made = f->frozen && call->token == f->frozen && call->made == call->tiles;
  switch (call->when) {
    case ES_WHEN_prepare: return !made;
    case ES_WHEN_pack: return f->frozen && !made;
    case ES_WHEN_frozen: return f->frozen != 0;
    case ES_WHEN_fluid: return f->frozen == 0;
    default: return true;
  }
}

/* A step of several rounds at a time, each in a lane. */
typedef struct together {
  const es_frame *f;
  const es_call *call;
} together;

static void run_lanes(void *user, int64_t lo, int64_t hi) {
  const together *t = user;
  const es_args *args = &t->call->args;
  int64_t tiles = t->call->tiles;
  floats saved = enter_floats();
  while (lo < hi) {
    int64_t lane = lo / tiles, from = lo % tiles, to = from + hi - lo < tiles ? from + hi - lo : tiles;
    es_args own = { t->f->lane[lane]->p + (args->p - t->f->p), args->d, args->key, args->fault };
    t->call->fn(&own, from, to);
    lo += to - from;
  }
  leave_floats(&saved);
}

static void run_call(es_frame *f, es_call *call, int32_t lanes, es_pool *pool) {
  together all = { f, call };
  if (lanes > 1) es_pool_run(pool, lanes * call->tiles, run_lanes, &all);
  else es_pool_run(pool, call->tiles, run_tiles, call);
}

/* Between two readings of the clock and the counters. */
static void run_noted(es_frame *f, int32_t step, int32_t lanes, es_pool *pool) {
  es_profile *profile = f->profile;
  int64_t before[ES_COUNTS], now[ES_COUNTS], *sums = profile->counts + (int64_t)step * ES_COUNTS;
  if (profile->counters) es_counters_read(profile->counters, before);
  double from = es_measure_ns();
  run_call(f, &f->calls[step], lanes, pool);
  profile->ns[step] += es_measure_ns() - from;
  if (!profile->counters) return;
  es_counters_read(profile->counters, now);
  for (int32_t i = 0; i < ES_COUNTS; i++) sums[i] += now[i] - before[i];
}

/* The steps of a phase, each in so many lanes and by all threads: -1, or the one that failed. */
static int32_t run_steps(es_frame *f, es_pool *pool, int phase, int32_t lanes) {
  for (int32_t i = 0; i < f->kernel->step_count; i++) {
    es_call *call = &f->calls[i];
    if (call->tiles <= 0 || es_phase(call->when) != phase || !due(f, call)) continue;
    if (f->at) *f->at = i;
    if (f->profile) run_noted(f, i, lanes, pool);
    else run_call(f, call, lanes, pool);
    if (f->fault) return i;
    call->token = f->frozen;
    call->made = call->tiles;
  }
  return -1;
}

/* All steps of some rounds by this thread, in the lane that is free. */
static void run_rounds(void *user, int64_t lo, int64_t hi) {
  es_frame *f = user;
  int32_t mine = 0;
  while (atomic_flag_test_and_set_explicit(&f->lane[mine]->taken, memory_order_acquire)) mine = (mine + 1) % f->lanes;
  es_lane *lane = f->lane[mine];
  floats saved = enter_floats();
  for (int64_t round = lo; round < hi && lane->step < 0; round++) {
    es_frame_point(f, lane->p, mine, round);
    for (int32_t i = 0; i < f->kernel->step_count && lane->step < 0; i++) {
      const es_call *call = &f->calls[i];
      if (call->tiles <= 0 || es_phase(call->when) != ES_PHASE_round || !due(f, call)) continue;
      es_args args = { lane->p + (call->args.p - f->p), call->args.d, call->args.key, &lane->fault };
      call->fn(&args, 0, call->tiles);
      if (!lane->fault) continue;
      lane->step = i;
      lane->round = round;
    }
  }
  leave_floats(&saved);
  atomic_flag_clear_explicit(&lane->taken, memory_order_release);
}

/* The first `rounds` rounds, dealt out to the threads: -1, or the step that failed in the first round that failed. */
static int32_t deal_rounds(es_frame *f, es_pool *pool, int64_t rounds) {
  for (int32_t i = 0; i < f->lanes; i++) f->lane[i]->step = -1, f->lane[i]->fault = 0;
  es_pool_run(pool, rounds, run_rounds, f);
  const es_lane *first = NULL;
  for (int32_t i = 0; i < f->lanes; i++)
    if (f->lane[i]->step >= 0 && (!first || f->lane[i]->round < first->round)) first = f->lane[i];
  if (!first) return -1;
  f->fault = first->fault;
  return first->step;
}

/* All rounds: -1, or the step that failed. A profile notes steps, so then nobody does rounds alone. */
static int32_t all_rounds(es_frame *f, es_pool *pool) {
  int64_t dealt = f->apart && !f->profile ? f->rounds - f->rounds % f->lanes : 0;
  int32_t failed = dealt ? deal_rounds(f, pool, dealt) : -1;
  for (int64_t round = dealt; round < f->rounds && failed < 0; round += f->lanes) {
    int32_t lanes = f->rounds - round < f->lanes ? (int32_t)(f->rounds - round) : f->lanes;
    for (int32_t i = 0; i < lanes && f->rounds > 1; i++) es_frame_point(f, f->lanes > 1 ? f->lane[i]->p : f->p, i, round + i);
    failed = run_steps(f, pool, ES_PHASE_round, lanes);
  }
  return failed;
}

int32_t es_frame_steps(es_frame *f, es_pool *pool) {
  const bool *has = f->kernel->has;
  f->fault = 0;
  if (f->profile) note_nothing(f->profile, f->kernel->step_count);
  if (f->rounds > 1 && !f->frozen) f->frozen = es_frozen_token(); /* what is packed serves all rounds of this run */
  int32_t failed = has[ES_PHASE_first] ? run_steps(f, pool, ES_PHASE_first, 1) : -1;
  if (failed < 0) failed = all_rounds(f, pool);
  if (failed >= 0 || !has[ES_PHASE_last]) return failed;
  if (f->rounds > 1) es_frame_point(f, f->p, 0, 0);
  return run_steps(f, pool, ES_PHASE_last, 1);
}

void es_frame_update(es_frame *f) {
  const es_plan *plan = f->kernel->plan;
  for (int32_t i = 0; i < es_plan_role_count(plan, ES_ROLE_update); i++) {
    int32_t value = es_plan_role_get(plan, ES_ROLE_update, i);
    int32_t buffer = es_plan_value_get(plan, value)->buffer;
    if (f->bytes[value] > 0) memcpy(f->base[buffer], f->base[value], (size_t)f->bytes[value]);
  }
}

esper_status es_frame_fault(const es_frame *f, int32_t step, int64_t fault, es_error *err) {
  const es_step *s = es_plan_step_get(f->kernel->plan, step);
  if (fault < 1 || fault > s->operand_count)
    return es_fail(err, ESPER_EINTERNAL, "step %d (%s): fault word %lld names no operand", step,
                   s->label, (long long)fault);
  int32_t value = s->operands[fault - 1];
  const es_value *v = es_plan_value_get(f->kernel->plan, value);
  return es_fail(err, ESPER_EINDEX, "step %d (%s): an index in %s #%d \"%s\" is out of range", step,
                 s->label, es_role_name(v->role), value, v->name);
}
