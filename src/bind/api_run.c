/* The public calls on kernels: signature and run. Stands on top of src/run; needs no Lua and no
 * context. A run works in a frame of the kernel: its scratch arrays hold ranks, extents and data
 * pointers, so nothing is allocated once the shape is known and outputs are given. */
#include <stddef.h>
#include <string.h>
#include "bind/params.h"
#include "run/frame.h"
#include "run/tensor.h"

_Static_assert((int)ESPER_INPUT == ES_ROLE_input && (int)ESPER_PARAM == ES_ROLE_param &&
                   (int)ESPER_BUFFER == ES_ROLE_buffer && (int)ESPER_OUTPUT == ES_ROLE_output,
               "roles count alike");

const char *esper_version(void) { return ESPER_VERSION; }

const char *esper_status_text(esper_status status) {
  switch (status) {
#define S(name, value, text)                                                                       \
  case ESPER_##name: return text;
    ESPER_STATUS_LIST(S)
#undef S
  }
  return "unknown status";
}

/* --- handle and signature ------------------------------------------------------------------- */

esper_kernel *esper_kernel_retain(esper_kernel *kernel) {
  return kernel ? es_kernel_retain(kernel) : NULL;
}
void esper_kernel_release(esper_kernel *kernel) { es_kernel_release(kernel); }

int32_t esper_kernel_count(const esper_kernel *kernel, esper_role role) {
  return kernel && role <= ESPER_OUTPUT ? es_plan_role_count(kernel->plan, (int32_t)role) : 0;
}

esper_status esper_kernel_info(const esper_kernel *kernel, esper_role role, int32_t index,
                               esper_info *out) {
  if (!out) return ESPER_EARG;
  memset(out, 0, sizeof *out);
  int32_t value = kernel && role <= ESPER_OUTPUT
                      ? es_plan_role_get(kernel->plan, (int32_t)role, index)
                      : -1;
  if (value < 0) return ESPER_EARG;
  const es_value *v = es_plan_value_get(kernel->plan, value);
  *out = (esper_info){ v->name, es_plan_shape_text(kernel->plan, value), v->rank,
                       es_tensor_type(v->dtype) };
  return ESPER_OK;
}

/* --- operands of a run ---------------------------------------------------------------------- */

static const es_value *value_of(const es_kernel *k, int32_t role, int32_t index, int32_t *value) {
  *value = es_plan_role_get(k->plan, role, index);
  return es_plan_value_get(k->plan, *value);
}

static esper_status check_tensor(const DLTensor *t, const es_value *v, int64_t *bytes,
                                 es_error *err) {
  esper_status status = es_tensor_check(t, es_role_name(v->role), v->name, bytes, err);
  if (status != ESPER_OK) return status;
  int32_t dtype = es_tensor_dtype(t->dtype);
  if (dtype == v->dtype) return ESPER_OK;
  return es_fail(err, ESPER_EDTYPE, "%s \"%s\": expected %s, got %s", es_role_name(v->role),
                 v->name, es_dtype_name(v->dtype), es_dtype_name(dtype));
}

/* Checks the inputs, solves the symbols, packs what is not compact. */
static esper_status take_inputs(es_frame *f, const DLTensor *inputs, es_error *err) {
  const es_kernel *k = f->kernel;
  int64_t bytes;
  int32_t value;
  for (int32_t i = 0; i < k->input_count; i++) {
    esper_status status = check_tensor(&inputs[i], value_of(k, ES_ROLE_input, i, &value), &bytes,
                                       err);
    if (status != ESPER_OK) return status;
    f->ranks[i] = inputs[i].ndim;
    for (int32_t axis = 0; axis < inputs[i].ndim; axis++)
      f->shapes[i * ES_RANK_MAX + axis] = inputs[i].shape[axis];
  }
  esper_status status = es_frame_solve(f, f->ranks, f->shapes, err);
  for (int32_t i = 0; i < k->input_count && status == ESPER_OK; i++) {
    const es_value *v = value_of(k, ES_ROLE_input, i, &value);
    f->data[value] = es_tensor_data(&inputs[i]);
    if (es_tensor_compact(&inputs[i])) continue;
    if (!es_block_reserve(&f->packed[i], f->bytes[value]))
      return es_fail(err, ESPER_ENOMEM, "input \"%s\": no memory to pack its strides", v->name);
    es_tensor_pack(&inputs[i], f->packed[i].start);
    f->data[value] = f->packed[i].start;
  }
  return status;
}

static esper_status take_params(es_frame *f, es_params *params, es_error *err) {
  const es_kernel *k = f->kernel;
  for (int32_t role = ES_ROLE_param; role <= ES_ROLE_buffer; role++)
    for (int32_t i = 0; i < es_plan_role_count(k->plan, role); i++) {
      int32_t value;
      const es_value *v = value_of(k, role, i, &value);
      if (!params)
        return es_fail(err, ESPER_EARG, "%s \"%s\": no params given", es_role_name(role), v->name);
      esper_status status = es_params_match(params, k->plan, value, &f->data[value], err);
      if (status != ESPER_OK) return status;
    }
  return ESPER_OK;
}

/* --- outputs -------------------------------------------------------------------------------- */

typedef struct made { /* an output tensor of ours */
  DLManagedTensor tensor;
  int64_t shape[ES_RANK_MAX];
  es_block block;
  bool fresh; /* made by the run that has not ended yet */
} made;

static void free_made(DLManagedTensor *tensor) {
  if (!tensor) return;
  made *m = tensor->manager_ctx;
  es_free(m->block.memory);
  es_free(m);
}

static DLManagedTensor *make_output(const es_frame *f, const es_value *v, int64_t bytes) {
  made *m = es_alloc(sizeof *m);
  if (!m || !es_block_reserve(&m->block, bytes ? bytes : 1)) {
    es_free(m);
    return NULL;
  }
  for (int32_t axis = 0; axis < v->rank; axis++) m->shape[axis] = f->values[v->shape[axis]];
  m->fresh = true;
  m->tensor = (DLManagedTensor){ .manager_ctx = m, .deleter = free_made };
  m->tensor.dl_tensor = (DLTensor){ .data = m->block.start,
                                    .device = { kDLCPU, 0 },
                                    .ndim = v->rank,
                                    .dtype = es_tensor_type(v->dtype),
                                    .shape = m->shape };
  return &m->tensor;
}

static esper_status check_output(const es_frame *f, const DLTensor *t, const es_value *v,
                                 int32_t value, es_error *err) {
  int64_t bytes;
  esper_status status = check_tensor(t, v, &bytes, err);
  if (status != ESPER_OK) return status;
  if (t->ndim != v->rank)
    return es_fail(err, ESPER_ESHAPE, "output \"%s\": expected %d axes [%s], got %d", v->name,
                   v->rank, es_plan_shape_text(f->kernel->plan, value), t->ndim);
  for (int32_t axis = 0; axis < v->rank; axis++)
    if (t->shape[axis] != f->values[v->shape[axis]])
      return es_fail(err, ESPER_ESHAPE, "output \"%s\" axis %d: expected %lld, got %lld", v->name,
                     axis, (long long)f->values[v->shape[axis]], (long long)t->shape[axis]);
  if (!es_tensor_compact(t))
    return es_fail(
        err, ESPER_EARG,
        "output \"%s\": must be row-major without gaps and aligned; give NULL for a new one",
        v->name);
  return ESPER_OK;
}

/* Whether `bytes` at `data` meet [lo, hi). */
static bool meets(const void *data, int64_t bytes, uintptr_t lo, uintptr_t hi) {
  return bytes > 0 && lo < hi && (uintptr_t)data < hi && lo < (uintptr_t)data + (uintptr_t)bytes;
}

/* A kernel reads its operands while it writes its outputs, in any order: no output may share bytes
 * with another value. */
static esper_status check_overlap(const es_frame *f, const DLTensor *inputs, int32_t index,
                                  es_error *err) {
  const es_kernel *k = f->kernel;
  int32_t mine, other;
  const es_value *out = value_of(k, ES_ROLE_output, index, &mine);
  for (int32_t i = 0; i < k->input_count; i++) {
    uintptr_t lo, hi;
    es_tensor_span(&inputs[i], &lo, &hi);
    if (meets(f->data[mine], f->bytes[mine], lo, hi))
      return es_fail(err, ESPER_EARG,
                     "output \"%s\" overlaps input \"%s\"; give it memory of its own", out->name,
                     value_of(k, ES_ROLE_input, i, &other)->name);
  }
  for (int32_t role = ES_ROLE_param; role <= ES_ROLE_output; role++) {
    int32_t count = role == ES_ROLE_output ? index : es_plan_role_count(k->plan, role);
    for (int32_t i = 0; i < count; i++) {
      const es_value *v = value_of(k, role, i, &other);
      uintptr_t lo = (uintptr_t)f->data[other];
      if (meets(f->data[mine], f->bytes[mine], lo, lo + (uintptr_t)f->bytes[other]))
        return es_fail(err, ESPER_EARG,
                       "output \"%s\" overlaps %s \"%s\"; give it memory of its own", out->name,
                       es_role_name(role), v->name);
    }
  }
  return ESPER_OK;
}

static esper_status take_outputs(es_frame *f, const DLTensor *inputs, DLManagedTensor **outputs,
                                 int32_t count, es_error *err) {
  for (int32_t i = 0; i < count; i++) {
    int32_t value;
    const es_value *v = value_of(f->kernel, ES_ROLE_output, i, &value);
    bool given = outputs[i] != NULL;
    esper_status status = given ? check_output(f, &outputs[i]->dl_tensor, v, value, err) : ESPER_OK;
    if (status != ESPER_OK) return status;
    if (!given && !(outputs[i] = make_output(f, v, f->bytes[value])))
      return es_fail(err, ESPER_ENOMEM, "output \"%s\": no memory for %lld bytes", v->name,
                     (long long)f->bytes[value]);
    f->data[value] = es_tensor_data(&outputs[i]->dl_tensor);
    if (given) status = check_overlap(f, inputs, i, err);
    if (status != ESPER_OK) return status;
  }
  return ESPER_OK;
}

/* Fresh outputs become the caller's, or go away. A caller may give an output that an earlier run
 * made. */
static void settle_outputs(DLManagedTensor **outputs, int32_t count, bool keep) {
  for (int32_t i = 0; i < count; i++) {
    if (!outputs[i] || outputs[i]->deleter != free_made ||
        !((made *)outputs[i]->manager_ctx)->fresh)
      continue;
    if (keep) {
      ((made *)outputs[i]->manager_ctx)->fresh = false;
    } else {
      free_made(outputs[i]);
      outputs[i] = NULL;
    }
  }
}

/* --- the run -------------------------------------------------------------------------------- */

static esper_status run_frame(es_frame *f, es_params *params, const DLTensor *inputs,
                              DLManagedTensor **outputs, int32_t output_count,
                              const esper_run_options *options, es_error *err) {
  esper_status status = take_inputs(f, inputs, err);
  if (status == ESPER_OK) status = take_params(f, params, err);
  if (status == ESPER_OK) status = take_outputs(f, inputs, outputs, output_count, err);
  if (status == ESPER_OK) status = es_frame_place(f, NULL, f->kernel->pool, err);
  if (status == ESPER_OK)
    status = es_frame_bind(f, f->data, options ? options->seed : 0, options ? options->step : 0,
                           err);
  if (status != ESPER_OK) return status;
  f->frozen = params ? es_params_frozen(params) : 0;
  int32_t failed = es_frame_steps(f, f->kernel->pool);
  if (failed >= 0) return es_frame_fault(f, failed, f->fault, err);
  if (es_plan_role_count(f->kernel->plan, ES_ROLE_update) > 0) es_params_thaw(params);
  es_frame_update(f);
  return ESPER_OK;
}

static esper_status check_counts(const es_kernel *k, const DLTensor *inputs, int32_t input_count,
                                 DLManagedTensor **outputs, int32_t output_count,
                                 const esper_run_options *options, es_error *err) {
  int32_t wanted = es_plan_role_count(k->plan, ES_ROLE_output);
  if (input_count != k->input_count || (input_count && !inputs))
    return es_fail(err, ESPER_EARG, "inputs: expected %d, got %d", k->input_count,
                   inputs ? input_count : 0);
  if (output_count != wanted || (output_count && !outputs))
    return es_fail(err, ESPER_EARG, "outputs: expected %d, got %d", wanted,
                   outputs ? output_count : 0);
  if (options && options->struct_size != sizeof *options)
    return es_fail(err, ESPER_EARG, "options: struct_size: expected %zu, got %zu", sizeof *options,
                   options->struct_size);
  return ESPER_OK;
}

static void copy_message(const es_error *err, char *message, size_t room) {
  size_t length = strlen(err->text);
  if (length >= room) length = room - 1;
  while (length && err->text[length] && ((unsigned char)err->text[length] & 0xc0) == 0x80)
    length--; /* whole UTF-8 */
  memcpy(message, err->text, length);
  message[length] = 0;
}

esper_status esper_kernel_run(esper_kernel *kernel, esper_params *params, const DLTensor *inputs,
                              int32_t input_count, DLManagedTensor **outputs, int32_t output_count,
                              const esper_run_options *options, char *message,
                              size_t message_room) {
  es_error err; /* not zeroed as a whole: 1 KiB per call */
  err.status = ESPER_OK;
  err.text[0] = 0;
  esper_status status = ESPER_EARG;
  if (!kernel) es_fail(&err, ESPER_EARG, "kernel: NULL");
  else status = check_counts(kernel, inputs, input_count, outputs, output_count, options, &err);
  es_frame *frame = status == ESPER_OK ? es_frame_take(kernel, &err) : NULL;
  if (frame) {
    status = run_frame(frame, params, inputs, outputs, output_count, options, &err);
    settle_outputs(outputs, output_count, status == ESPER_OK);
    es_frame_give(kernel, frame);
  } else if (status == ESPER_OK) {
    status = ESPER_ENOMEM;
  }
  if (message && message_room) copy_message(&err, message, message_room);
  return status;
}
