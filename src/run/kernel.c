/* Kernels: a plan bound to the functions of an image, and the run itself: see plan.h. The flow
 * ends here; what a run needs is in frame.c, how symbols are found in solve.c.
 * Invariant: a kernel does not change after es_kernel_new (and es_kernel_pool_set) but for its
 * frames and its count. */
#include "run/frame.h"

static void kernel_free(es_kernel *kernel) {
  for (int i = 0; i < ES_FRAMES; i++) es_frame_free(atomic_load(&kernel->frames[i]));
  es_pool_release(kernel->pool);
  if (kernel->code) es_code_release(kernel->code);
  es_plan_release(kernel->plan);
  es_arena_free(kernel->arena);
  es_free(kernel);
}

static void count_plan(es_kernel *k) {
  const es_plan *plan = k->plan;
  k->value_count = es_plan_value_count(plan);
  k->step_count = es_plan_step_count(plan);
  k->slot_count = es_plan_slot_count(plan);
  k->input_count = es_plan_role_count(plan, ES_ROLE_input);
  k->handle_count = es_dims_count(es_plan_dims(plan));
  k->symbol_count = es_symbol_count(es_plan_dims(plan));
  k->leading = *es_plan_rounds(plan);
}

/* Sums of the steps' counts; false when one passes 2^30. */
static bool count_steps(es_kernel *k) {
  int64_t operands = 0, dims = 0, streams = 0;
  for (int32_t i = 0; i < k->step_count; i++) {
    const es_step *s = es_plan_step_get(k->plan, i);
    operands += s->operand_count;
    dims += s->dim_count;
    streams += s->stream_count;
    k->has[es_phase(s->when)] = true;
  }
  const int64_t limit = (int64_t)1 << 30;
  if (operands > limit || dims > limit || streams > limit) return false;
  k->operand_count = (int32_t)operands;
  k->d_count = (int32_t)dims;
  k->stream_count = (int32_t)streams;
  return true;
}

static esper_status fill(es_kernel *k, es_error *err) {
  k->fn = es_arena_take(k->arena, ((size_t)k->step_count + 1) * sizeof *k->fn);
  k->operands = es_arena_take(k->arena, ((size_t)k->operand_count + 1) * sizeof *k->operands);
  k->slot_of = es_arena_take(k->arena, ((size_t)k->value_count + 1) * sizeof *k->slot_of);
  k->data_of = es_arena_take(k->arena, ((size_t)k->value_count + 1) * sizeof *k->data_of);
  k->pieces = es_arena_take(k->arena, ((size_t)k->value_count + 1) * sizeof *k->pieces);
  if (!k->fn || !k->operands || !k->slot_of || !k->data_of || !k->pieces) return es_fail(err, ESPER_ENOMEM, "kernel: no memory");
  for (int32_t i = 0; i < k->value_count; i++) {
    const es_value *v = es_plan_value_get(k->plan, i);
    k->slot_of[i] = v->slot;
    k->data_of[i] = v->role == ES_ROLE_temp && v->slot < 0 ? v->buffer : i;
  }
  int32_t *operand = k->operands;
  for (int32_t i = 0; i < k->step_count; i++) {
    const es_step *s = es_plan_step_get(k->plan, i);
    void *symbol = es_code_symbol(k->code, s->fn);
    if (!symbol)
      return es_fail(err, ESPER_ECORRUPT, "kernel: step %d: the image has no function \"%s\"", i,
                     s->fn);
    *(void **)&k->fn[i] = symbol; /* POSIX: a data pointer holds a function's address */
    for (int32_t n = 0; n < s->operand_count; n++, operand++) {
      *operand = s->operands[n];
      if (s->when != ES_WHEN_last && es_plan_slot_gathers(k->plan, k->slot_of[*operand])) k->pieces[*operand] = true;
    }
  }
  return es_solve_plan(k, err);
}

esper_status es_kernel_new(es_plan *plan, es_code *code, es_kernel **out, es_error *err) {
  *out = NULL;
  if (!es_plan_finished(plan)) return es_fail(err, ESPER_EARG, "kernel: the plan is not finished");
  es_kernel *kernel = es_alloc(sizeof *kernel);
  if (!kernel) return es_fail(err, ESPER_ENOMEM, "kernel: no memory");
  atomic_init(&kernel->references, 1);
  for (int i = 0; i < ES_FRAMES; i++) atomic_init(&kernel->frames[i], NULL);
  kernel->plan = es_plan_retain(plan);
  kernel->code = es_code_retain(code);
  kernel->arena = es_arena_new();
  count_plan(kernel);
  esper_status status = ESPER_OK;
  if (!kernel->arena) status = es_fail(err, ESPER_ENOMEM, "kernel: no memory");
  else if (!count_steps(kernel))
    status = es_fail(err, ESPER_ELIMIT, "kernel: the steps have over 2^30 operands");
  else status = fill(kernel, err);
  if (status == ESPER_OK) *out = kernel;
  else kernel_free(kernel);
  return status;
}

es_kernel *es_kernel_retain(es_kernel *kernel) {
  atomic_fetch_add_explicit(&kernel->references, 1, memory_order_relaxed);
  return kernel;
}

void es_kernel_release(es_kernel *kernel) {
  if (kernel && atomic_fetch_sub_explicit(&kernel->references, 1, memory_order_acq_rel) == 1)
    kernel_free(kernel);
}

const es_plan *es_kernel_plan(const es_kernel *kernel) { return kernel->plan; }

void es_kernel_pool_set(es_kernel *kernel, es_pool *pool) {
  if (pool) es_pool_retain(pool);
  es_pool_release(kernel->pool);
  kernel->pool = pool;
}

uint64_t es_frozen_token(void) {
  static atomic_uint_least64_t last;
  return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

esper_status es_kernel_workspace(es_kernel *kernel, const int64_t *symbols, const es_pool *pool, int64_t *bytes,
                                 es_error *err) {
  *bytes = 0;
  es_frame *frame = es_frame_take(kernel, err);
  if (!frame) return ESPER_ENOMEM;
  esper_status status = es_frame_prepare(frame, symbols, 0, err);
  if (status == ESPER_OK) *bytes = es_frame_workspace(frame, pool);
  es_frame_give(kernel, frame);
  return status;
}

esper_status es_kernel_round(es_kernel *kernel, const int64_t *symbols, int64_t *round, es_error *err) {
  es_frame *frame = es_frame_take(kernel, err);
  if (!frame) return ESPER_ENOMEM;
  esper_status status = es_frame_prepare(frame, symbols, 0, err);
  if (status == ESPER_OK) es_frame_round(frame, round);
  es_frame_give(kernel, frame);
  return status;
}

static esper_status run_frame(es_frame *frame, const es_run *run, es_error *err) {
  if (run->workspace && run->round_bytes)
    return es_fail(err, ESPER_EARG, "run: a workspace is given for the plan's own rounds, not for those of round_bytes");
  esper_status status = es_frame_prepare(frame, run->symbols, run->round_bytes, err);
  if (status == ESPER_OK) status = es_frame_place(frame, run->workspace, run->pool, err);
  if (status == ESPER_OK) status = es_frame_bind(frame, run->data, run->seed, run->step, err);
  if (status != ESPER_OK) return status;
  frame->profile = run->profile;
  frame->frozen = run->frozen;
  int32_t failed = es_frame_steps(frame, run->pool);
  frame->profile = NULL;
  if (failed >= 0) return es_frame_fault(frame, failed, frame->fault, err);
  es_frame_update(frame);
  return ESPER_OK;
}

esper_status es_kernel_run(es_kernel *kernel, const es_run *run, es_error *err) {
  es_frame *frame = es_frame_take(kernel, err);
  if (!frame) return ESPER_ENOMEM;
  esper_status status = run_frame(frame, run, err);
  es_frame_give(kernel, frame);
  return status;
}
