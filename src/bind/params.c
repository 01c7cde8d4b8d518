/* Parameters and buffers: see params.h, and the calls of esper.h on them.
 * Invariant: for every param and buffer of the plan, shapes[] holds its extents and blocks[] its
 * bytes. */
#include "bind/params.h"
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include "bind/context.h"
#include "graph/graph.h"
#include "run/frame.h"
#include "run/npy.h"
#include "run/tensor.h"

typedef int64_t extents[ES_RANK_MAX];

struct esper_params {
  es_plan *plan;
  int32_t count; /* values of the plan; the arrays below have that many */
  extents *shapes;
  int64_t *bytes;
  es_block *blocks;
  uint64_t frozen; /* token while nobody may change the data, else 0 */
};

static const int32_t roles[] = { ES_ROLE_param, ES_ROLE_buffer };

static bool is_kept(const es_plan *plan, int32_t value) {
  const es_value *v = es_plan_value_get(plan, value);
  return v && (v->role == ES_ROLE_param || v->role == ES_ROLE_buffer);
}

static void free_blocks(es_block *blocks, int32_t count) {
  for (int32_t i = 0; blocks && i < count; i++) es_free(blocks[i].memory);
  es_free(blocks);
}

static esper_status shape_of(es_params *p, int32_t value, es_error *err) {
  const es_value *v = es_plan_value_get(p->plan, value);
  int64_t bytes = es_dtype_bytes(v->dtype), *shape = p->shapes[value];
  for (int32_t axis = 0; axis < v->rank; axis++) {
    if (!es_dim_is_const(es_plan_dims(p->plan), v->shape[axis], &shape[axis]) || shape[axis] < 0)
      return es_fail(
          err, ESPER_ESHAPE,
          "%s \"%s\" [%s] axis %d: expected a fixed extent; give its hyper-parameter a value",
          es_role_name(v->role), v->name, es_plan_shape_text(p->plan, value), axis);
    if (__builtin_mul_overflow(bytes, shape[axis], &bytes) || bytes > ES_BYTES_MAX)
      return es_fail(err, ESPER_ELIMIT, "%s \"%s\" [%s] exceeds 2^46 bytes", es_role_name(v->role),
                     v->name, es_plan_shape_text(p->plan, value));
  }
  p->bytes[value] = bytes;
  return ESPER_OK;
}

static esper_status draw(es_params *p, int32_t value, uint64_t seed, es_error *err) {
  const es_value *v = es_plan_value_get(p->plan, value);
  esper_status status = shape_of(p, value, err);
  if (status != ESPER_OK) return status;
  if (!es_block_reserve(&p->blocks[value], p->bytes[value] ? p->bytes[value] : 1))
    return es_fail(err, ESPER_ENOMEM, "%s \"%s\": no memory for %lld bytes", es_role_name(v->role),
                   v->name, (long long)p->bytes[value]);
  return es_init_fill(v->init, v->f0, v->f1, v->name, v->dtype, v->rank, p->shapes[value], seed,
                      p->blocks[value].start, err);
}

esper_status es_params_new(es_plan *plan, uint64_t seed, es_params **out, es_error *err) {
  *out = NULL;
  if (!es_plan_finished(plan)) return es_fail(err, ESPER_EARG, "params: the plan is not finished");
  es_params *p = es_alloc(sizeof *p);
  if (!p) return es_fail(err, ESPER_ENOMEM, "params: no memory");
  p->plan = es_plan_retain(plan);
  p->count = es_plan_value_count(plan);
  size_t room = (size_t)p->count + 1;
  p->shapes = es_alloc_array(room, sizeof *p->shapes);
  p->bytes = es_alloc_array(room, sizeof *p->bytes);
  p->blocks = es_alloc_array(room, sizeof *p->blocks);
  esper_status status = ESPER_OK;
  if (!p->shapes || !p->bytes || !p->blocks)
    status = es_fail(err, ESPER_ENOMEM, "params: no memory");
  for (int32_t i = 0; i < p->count && status == ESPER_OK; i++)
    if (is_kept(plan, i)) status = draw(p, i, seed, err);
  if (status == ESPER_OK) *out = p;
  else es_params_free(p);
  return status;
}

void es_params_free(es_params *p) {
  if (!p) return;
  free_blocks(p->blocks, p->count);
  es_free(p->shapes);
  es_free(p->bytes);
  es_plan_release(p->plan);
  es_free(p);
}

const es_plan *es_params_plan(const es_params *p) { return p->plan; }

void es_params_freeze(es_params *p) {
  if (!p->frozen) p->frozen = es_frozen_token();
}

void es_params_thaw(es_params *p) { p->frozen = 0; }

uint64_t es_params_frozen(const es_params *p) { return p->frozen; }

void *es_params_data(es_params *p, int32_t value) {
  p->frozen = 0;
  return is_kept(p->plan, value) ? p->blocks[value].start : NULL;
}

int64_t es_params_bytes(const es_params *p, int32_t value) {
  return is_kept(p->plan, value) ? p->bytes[value] : 0;
}

esper_status es_params_match(es_params *p, const es_plan *plan, int32_t value, void **out,
                             es_error *err) {
  const es_value *want = es_plan_value_get(plan, value);
  *out = NULL;
  int32_t found = plan == p->plan ? value : es_plan_find(p->plan, want->role, want->name);
  if (found < 0)
    return es_fail(err, ESPER_ENAME, "%s \"%s\": the params given have none of that name",
                   es_role_name(want->role), want->name);
  const es_value *have = es_plan_value_get(p->plan, found);
  if (have->dtype != want->dtype)
    return es_fail(err, ESPER_EDTYPE, "%s \"%s\": expected %s, got %s", es_role_name(want->role),
                   want->name, es_dtype_name(want->dtype), es_dtype_name(have->dtype));
  int64_t extent;
  bool same = have->rank == want->rank;
  for (int32_t axis = 0; same && plan != p->plan && axis < want->rank; axis++)
    same = es_dim_is_const(es_plan_dims(plan), want->shape[axis], &extent) &&
           extent == p->shapes[found][axis];
  if (!same)
    return es_fail(err, ESPER_ESHAPE, "%s \"%s\": expected [%s], got [%s]",
                   es_role_name(want->role), want->name, es_plan_shape_text(plan, value),
                   es_plan_shape_text(p->plan, found));
  *out = p->blocks[found].start;
  return ESPER_OK;
}

/* --- files ---------------------------------------------------------------------------------- */

/* DIRECTORY/NAME.npy; text is cleared by the caller. */
static const char *file_name(es_text *text, const char *directory, const char *name) {
  text->length = 0;
  es_text_add(text, "%s/", directory);
  for (const char *c = name; *c; c++) {
    bool plain = isalnum((unsigned char)*c) || *c == '_' || *c == '-' || (*c == '.' && c != name);
    if ((unsigned char)*c < 128 && plain) es_text_bytes(text, c, 1);
    else es_text_add(text, "%%%02X", (unsigned char)*c);
  }
  es_text_add(text, ".npy");
  return text->failed ? NULL : text->bytes;
}

static esper_status load_all(es_params *p, const char *directory, es_block *staged, es_text *path,
                             es_error *err) {
  for (int32_t i = 0; i < p->count; i++) {
    if (!is_kept(p->plan, i)) continue;
    const es_value *v = es_plan_value_get(p->plan, i);
    if (!es_block_reserve(&staged[i], p->bytes[i] ? p->bytes[i] : 1) ||
        !file_name(path, directory, v->name))
      return es_fail(err, ESPER_ENOMEM, "params: no memory to load %s", directory);
    esper_status status = es_npy_read_into(path->bytes, v->dtype, v->rank, p->shapes[i],
                                           staged[i].start, err);
    if (status != ESPER_OK) return status;
  }
  return ESPER_OK;
}

esper_status es_params_load(es_params *p, const char *directory, es_error *err) {
  es_text path = { 0 };
  es_block *staged = es_alloc_array((size_t)p->count + 1, sizeof *staged);
  if (!staged) return es_fail(err, ESPER_ENOMEM, "params: no memory to load %s", directory);
  esper_status status = load_all(p, directory, staged, &path, err);
  if (status == ESPER_OK) p->frozen = 0;
  for (int32_t i = 0; i < p->count && status == ESPER_OK; i++)
    if (is_kept(p->plan, i)) memcpy(p->blocks[i].start, staged[i].start, (size_t)p->bytes[i]);
  free_blocks(staged, p->count);
  es_text_clear(&path);
  return status;
}

esper_status es_params_save(const es_params *p, const char *directory, es_error *err) {
  if (mkdir(directory, 0777) != 0 && errno != EEXIST)
    return es_fail(err, errno == ENOSPC ? ESPER_ENOSPACE : ESPER_EIO,
                   "%s: cannot make the directory: %s", directory, strerror(errno));
  es_text path = { 0 };
  esper_status status = ESPER_OK;
  for (int32_t i = 0; i < p->count && status == ESPER_OK; i++) {
    if (!is_kept(p->plan, i)) continue;
    const es_value *v = es_plan_value_get(p->plan, i);
    status = file_name(&path, directory, v->name)
                 ? es_npy_write(path.bytes, v->dtype, v->rank, p->shapes[i], p->blocks[i].start,
                                err)
                 : es_fail(err, ESPER_ENOMEM, "params: no memory to save %s", directory);
  }
  es_text_clear(&path);
  return status;
}

/* --- public --------------------------------------------------------------------------------- */

static es_error *error_of(esper_context *context) {
  return context ? es_context_error(context) : NULL;
}

esper_status esper_params_new(esper_context *context, const esper_kernel *kernel, uint64_t seed,
                              esper_params **out) {
  es_error *err = error_of(context);
  if (!out) return es_fail(err, ESPER_EARG, "params: out is NULL");
  *out = NULL;
  if (!kernel) return es_fail(err, ESPER_EARG, "params: kernel is NULL");
  return es_params_new(kernel->plan, seed, out, err);
}

void esper_params_free(esper_params *params) { es_params_free(params); }

esper_status esper_params_load(esper_context *context, esper_params *params,
                               const char *directory) {
  if (!params || !directory)
    return es_fail(error_of(context), ESPER_EARG, "params: params or directory is NULL");
  return es_params_load(params, directory, error_of(context));
}

esper_status esper_params_save(esper_context *context, const esper_params *params,
                               const char *directory) {
  if (!params || !directory)
    return es_fail(error_of(context), ESPER_EARG, "params: params or directory is NULL");
  return es_params_save(params, directory, error_of(context));
}

esper_status esper_params_freeze(esper_params *params) {
  if (!params) return ESPER_EARG;
  es_params_freeze(params);
  return ESPER_OK;
}

esper_status esper_params_get(esper_params *params, const char *name, DLTensor *out) {
  if (!out) return ESPER_EARG;
  memset(out, 0, sizeof *out);
  if (!params || !name) return ESPER_EARG;
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
    int32_t value = es_plan_find(params->plan, roles[i], name);
    if (value < 0) continue;
    const es_value *v = es_plan_value_get(params->plan, value);
    params->frozen = 0; /* who holds the view may write */
    *out = (DLTensor){ .data = params->blocks[value].start,
                       .device = { kDLCPU, 0 },
                       .ndim = v->rank,
                       .dtype = es_tensor_type(v->dtype),
                       .shape = params->shapes[value] };
    return ESPER_OK;
  }
  return ESPER_ENAME;
}
