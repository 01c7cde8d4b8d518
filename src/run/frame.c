/* Frames: what one run of a kernel needs, made once per shape and kept: see frame.h. Stands under
 * kernel.c.
 * Invariant: the sizes in a `valid` frame were overflow-checked and are not negative. */
#include "run/frame.h"
#include <string.h>
#include "base/random.h"

bool es_block_reserve(es_block *block, int64_t bytes) {
  if (bytes <= block->room) return true;
  size_t alignment = bytes >= ES_LARGE ? ES_PAGE : ES_ALIGNMENT;
  void *memory = bytes <= ES_BYTES_MAX ? es_alloc((size_t)bytes + alignment - 1) : NULL;
  if (!memory) return false;
  es_free(block->memory);
  block->memory = memory;
  block->start = (char *)(((uintptr_t)memory + alignment - 1) & ~(uintptr_t)(alignment - 1));
  block->room = bytes;
  return true;
}

static void *take(es_arena *arena, int32_t count, size_t size, bool *failed) {
  void *block = *failed ? NULL : es_arena_take(arena, ((size_t)count + 1) * size);
  if (!block) *failed = true;
  return block;
}

/* Points every step at its part of the flat arrays. */
static void wire(es_frame *f) {
  const es_kernel *k = f->kernel;
  int32_t p = 0, d = 0, key = 0;
  for (int32_t i = 0; i < k->step_count; i++) {
    const es_step *s = es_plan_step_get(k->plan, i);
    f->calls[i] = (es_call){ k->fn[i], 0, s->when, 0, 0, { f->p + p, f->d + d, f->key + key, &f->fault } };
    p += s->operand_count;
    d += s->dim_count;
    key += 2 * s->stream_count;
  }
}

es_frame *es_frame_new(const es_kernel *k) {
  es_arena *arena = es_arena_new();
  if (!arena) return NULL;
  bool failed = false;
  es_frame *f = take(arena, 1, sizeof *f, &failed);
  if (f) {
    f->kernel = k;
    f->arena = arena;
    f->rounds = f->lanes = 1;
    f->values = take(arena, k->handle_count, sizeof *f->values, &failed);
    f->bytes = take(arena, k->value_count, sizeof *f->bytes, &failed);
    f->part = take(arena, k->leading.count ? k->handle_count : 0, sizeof *f->part, &failed);
    f->part_bytes = take(arena, k->leading.count ? k->value_count : 0, sizeof *f->part_bytes, &failed);
    f->gathered = take(arena, k->value_count, sizeof *f->gathered, &failed);
    f->advance = take(arena, k->value_count, sizeof *f->advance, &failed);
    f->slot_bytes = take(arena, k->slot_count, sizeof *f->slot_bytes, &failed);
    f->slot_at = take(arena, k->slot_count, sizeof *f->slot_at, &failed);
    f->d = take(arena, k->d_count, sizeof *f->d, &failed);
    f->calls = take(arena, k->step_count, sizeof *f->calls, &failed);
    f->slot = take(arena, k->slot_count, sizeof *f->slot, &failed);
    f->base = take(arena, k->value_count, sizeof *f->base, &failed);
    f->p = take(arena, k->operand_count, sizeof *f->p, &failed);
    f->key = take(arena, k->stream_count, 2 * sizeof *f->key, &failed);
    f->data = take(arena, k->value_count, sizeof *f->data, &failed);
    f->ranks = take(arena, k->input_count, sizeof *f->ranks, &failed);
    f->shapes = take(arena, k->input_count, ES_RANK_MAX * sizeof *f->shapes, &failed);
    f->packed = take(arena, k->input_count, sizeof *f->packed, &failed);
  }
  if (failed) {
    es_arena_free(arena);
    return NULL;
  }
  wire(f);
  return f;
}

void es_frame_free(es_frame *f) {
  if (!f) return;
  es_free(f->own.memory);
  es_free(f->keep.memory);
  for (int32_t i = 0; i < f->kernel->input_count; i++) es_free(f->packed[i].memory);
  es_arena_free(f->arena);
}

es_frame *es_frame_take(es_kernel *k, es_error *err) {
  for (int i = 0; i < ES_FRAMES; i++) {
    if (!atomic_load_explicit(&k->frames[i], memory_order_relaxed)) continue;
    es_frame *f = atomic_exchange_explicit(&k->frames[i], NULL, memory_order_acquire);
    if (f) return f;
  }
  es_frame *f = es_frame_new(k);
  if (!f) es_fail(err, ESPER_ENOMEM, "kernel: no memory for a frame");
  return f;
}

void es_frame_give(es_kernel *k, es_frame *f) {
  for (int i = 0; i < ES_FRAMES; i++) {
    es_frame *empty = NULL;
    if (atomic_load_explicit(&k->frames[i], memory_order_relaxed)) continue;
    if (atomic_compare_exchange_strong_explicit(&k->frames[i], &empty, f, memory_order_release,
                                                memory_order_relaxed))
      return;
  }
  es_frame_free(f); /* more runs at once than the kernel keeps frames */
}

/* --- prepare -------------------------------------------------------------------------------- */

esper_status es_frame_eval(es_frame *f, const int64_t *symbols, es_error *err) {
  const es_dims *dims = es_plan_dims(f->kernel->plan);
  f->valid = false;
  if (es_dims_count(dims) != f->kernel->handle_count)
    return es_fail(err, ESPER_EINTERNAL,
                   "kernel: somebody made dimensions in the finished plan's table");
  for (int32_t i = 0; i < f->kernel->symbol_count; i++) {
    int64_t min, max;
    es_symbol_range(dims, i, &min, &max);
    if (symbols[i] < min || symbols[i] > max)
      return es_fail(err, ESPER_ESHAPE, "symbol \"%s\": expected %lld to %lld, got %lld",
                     es_symbol_name(dims, i), (long long)min, (long long)max,
                     (long long)symbols[i]);
  }
  if (!es_dims_eval(dims, symbols, f->values))
    return es_fail(err, ESPER_ELIMIT,
                   "kernel: a dimension exceeds 2^62 for these shapes; give smaller tensors");
  for (int32_t i = 0; i < f->kernel->symbol_count; i++) f->symbols[i] = symbols[i];
  return ESPER_OK;
}

static esper_status size_value(const es_frame *f, const int64_t *values, int32_t index, int64_t *out, es_error *err) {
  const es_value *v = es_plan_value_get(f->kernel->plan, index);
  int64_t bytes = es_dtype_bytes(v->dtype);
  bool over = false;
  for (int32_t axis = 0; axis < v->rank; axis++) {
    int64_t extent = values[v->shape[axis]];
    if (extent < 0) {
      return es_fail(err, ESPER_ESHAPE,
                     "%s \"%s\" [%s] axis %d: would be %lld; the inputs are too small",
                     es_role_name(v->role), v->name, es_plan_shape_text(f->kernel->plan, index),
                     axis, (long long)extent);
    }
    if (extent == 0) bytes = 0, over = false;
    if (bytes > 0 && !over)
      over = __builtin_mul_overflow(bytes, extent, &bytes) || bytes > ES_BYTES_MAX;
  }
  if (over) {
    return es_fail(err, ESPER_ELIMIT, "%s \"%s\" [%s] exceeds 2^46 bytes; give smaller tensors",
                   es_role_name(v->role), v->name, es_plan_shape_text(f->kernel->plan, index));
  }
  *out = bytes;
  return ESPER_OK;
}

static void forget_kept(es_frame *f) {
  for (int32_t i = 0; i < f->kernel->step_count; i++) f->calls[i].token = 0;
}

/* Gives every slot its place, for these values and bytes; tells whether a kept one moved. */
static esper_status lay_slots(es_frame *f, const int64_t *values, const int64_t *value_bytes, bool *moved, es_error *err) {
  const es_kernel *k = f->kernel;
  memset(f->slot_bytes, 0, (size_t)k->slot_count * sizeof *f->slot_bytes);
  for (int32_t i = 0; i < es_plan_size_count(k->plan); i++) {
    const es_slot_size *size = es_plan_size_get(k->plan, i);
    int64_t bytes = es_plan_slot_gathers(k->plan, size->slot) ? f->values[size->bytes] : values[size->bytes];
    if (bytes > f->slot_bytes[size->slot]) f->slot_bytes[size->slot] = bytes;
  }
  for (int32_t i = 0; i < k->value_count; i++) {
    int32_t slot = k->slot_of[i];
    int64_t bytes = es_plan_slot_gathers(k->plan, slot) ? f->bytes[i] : value_bytes[i];
    if (slot >= 0 && bytes > f->slot_bytes[slot]) f->slot_bytes[slot] = bytes;
  }
  int64_t ends[2] = { 0, 0 }; /* of the workspace, of what is kept */
  for (int32_t i = 0; i < k->slot_count; i++) {
    bool kept = es_plan_slot_kept(k->plan, i);
    int64_t *at = &ends[kept];
    if (f->slot_bytes[i] > ES_BYTES_MAX - ES_ALIGNMENT - *at)
      return es_fail(err, ESPER_ELIMIT,
                     "kernel: workspace exceeds 2^46 bytes; give smaller tensors");
    *moved = *moved || (kept && f->slot_at[i] != *at);
    f->slot_at[i] = *at;
    *at += (f->slot_bytes[i] + ES_ALIGNMENT - 1) & -(int64_t)ES_ALIGNMENT;
  }
  f->workspace = ends[0];
  *moved = *moved || f->kept != ends[1];
  f->kept = ends[1];
  f->placed = NULL;
  return ESPER_OK;
}

/* Tiles and dimensions of every step; tells whether a step that runs once is to be run with others than before. */
static bool set_dimensions(es_frame *f) {
  const es_kernel *k = f->kernel;
  bool changed = false;
  int64_t *d = f->d;
  for (int32_t i = 0; i < k->step_count; i++) {
    const es_step *s = es_plan_step_get(k->plan, i);
    bool once = es_phase(s->when) == ES_PHASE_first;
    const int64_t *values = s->when == ES_WHEN_last ? f->values : f->going;
    f->calls[i].tiles = values[s->tiles];
    for (int32_t n = 0; n < s->dim_count; n++, d++) {
      changed = changed || (once && *d != values[s->dims[n]]);
      *d = values[s->dims[n]];
    }
  }
  return changed;
}

esper_status es_frame_lay_out(es_frame *f, const int64_t *values, int64_t *bytes, bool *moved, es_error *err) {
  const es_kernel *k = f->kernel;
  esper_status status = ESPER_OK;
  for (int32_t i = 0; i < k->value_count && status == ESPER_OK; i++) status = size_value(f, values, i, &bytes[i], err);
  for (int32_t i = 0; i < k->value_count && status == ESPER_OK; i++)
    if (k->slot_of[i] < 0 && bytes[i] > bytes[k->data_of[i]])
      status = es_fail(err, ESPER_EINTERNAL, "kernel: temp %d is larger than the output it lives in", i);
  if (status == ESPER_OK) status = lay_slots(f, values, bytes, moved, err);
  f->going = values;
  return status;
}

/* What is kept stays from shape to shape only where neither its place nor what it was made with depends on the shape. */
esper_status es_frame_layout(es_frame *f, es_error *err) {
  bool changed = false;
  esper_status status = es_frame_lay_out(f, f->values, f->bytes, &changed, err);
  if (status == ESPER_OK) status = es_frame_cut(f, &changed, err);
  if (status == ESPER_OK) changed = set_dimensions(f) || changed;
  if (status != ESPER_OK || changed) forget_kept(f);
  f->valid = status == ESPER_OK;
  return status;
}

esper_status es_frame_prepare(es_frame *f, const int64_t *symbols, int64_t round_bytes, es_error *err) {
  bool same = f->valid && f->round_bytes == round_bytes;
  for (int32_t i = 0; same && i < f->kernel->symbol_count; i++) same = f->symbols[i] == symbols[i];
  if (same) return ESPER_OK;
  f->round_bytes = round_bytes;
  esper_status status = es_frame_eval(f, symbols, err);
  return status == ESPER_OK ? es_frame_layout(f, err) : status;
}

/* --- place and bind ------------------------------------------------------------------------- */

/* The kept slots; their memory stays, and moves only when it grows. */
static esper_status place_kept(es_frame *f, es_error *err) {
  const char *before = f->keep.start;
  if (f->kept == 0) return ESPER_OK;
  if (!es_block_reserve(&f->keep, f->kept))
    return es_fail(err, ESPER_ENOMEM, "kernel: no memory for %lld bytes made of parameters",
                   (long long)f->kept);
  if (f->keep.start != before) forget_kept(f);
  for (int32_t i = 0; i < f->kernel->slot_count; i++)
    if (es_plan_slot_kept(f->kernel->plan, i)) f->slot[i] = f->keep.start + f->slot_at[i];
  return ESPER_OK;
}

/* The first lane has the operands of the steps themselves. */
static esper_status make_lanes(es_frame *f, int32_t count, es_error *err) {
  f->lanes = 1;
  bool failed = false;
  for (int32_t i = 0; i < count && count > 1; i++) {
    if (f->lane[i]) continue;
    es_lane *lane = take(f->arena, 1, sizeof *lane, &failed);
    char **p = i ? take(f->arena, f->kernel->operand_count, sizeof *p, &failed) : f->p;
    if (failed) return es_fail(err, ESPER_ENOMEM, "kernel: no memory for %d rounds at a time", count);
    lane->p = p;
    atomic_flag_clear(&lane->taken);
    f->lane[i] = lane;
  }
  f->lanes = count;
  return ESPER_OK;
}

esper_status es_frame_place(es_frame *f, void *workspace, const es_pool *pool, es_error *err) {
  esper_status status = place_kept(f, err);
  if (status == ESPER_OK) status = make_lanes(f, es_frame_lanes(f, pool, &f->apart), err);
  if (status != ESPER_OK || f->workspace == 0)
    return status; /* no slots, or empty ones: their addresses are never used */
  if ((uintptr_t)workspace % ES_ALIGNMENT)
    return es_fail(err, ESPER_EARG, "workspace: its address is not a multiple of %d", ES_ALIGNMENT);
  if (!workspace) {
    int64_t bytes = es_frame_workspace(f, pool);
    if (!es_block_reserve(&f->own, bytes))
      return es_fail(err, ESPER_ENOMEM, "kernel: no memory for a workspace of %lld bytes", (long long)bytes);
    workspace = f->own.start;
  }
  if (f->placed == workspace) return ESPER_OK;
  f->placed = workspace;
  for (int32_t i = 0; i < f->kernel->slot_count; i++)
    if (!es_plan_slot_kept(f->kernel->plan, i)) f->slot[i] = (char *)workspace + f->slot_at[i];
  return ESPER_OK;
}

static void set_keys(es_frame *f, uint64_t seed, uint64_t step) {
  const es_kernel *k = f->kernel;
  uint32_t *key = f->key;
  for (int32_t i = 0; i < k->step_count; i++) {
    const es_step *s = es_plan_step_get(k->plan, i);
    for (int32_t n = 0; n < s->stream_count; n++, key += 2)
      es_random_key(seed, s->streams[n], step, key);
  }
  f->keyed = true;
  f->seed = seed;
  f->step = step;
}

esper_status es_frame_bind(es_frame *f, void *const *data, uint64_t seed, uint64_t step,
                           es_error *err) {
  const es_kernel *k = f->kernel;
  for (int32_t i = 0; i < k->value_count; i++) {
    int32_t slot = k->slot_of[i];
    f->base[i] = slot >= 0 ? f->slot[slot] : data[k->data_of[i]];
    if (!f->base[i] && f->bytes[i] > 0) {
      const es_value *v = es_plan_value_get(k->plan, i);
      return es_fail(err, ESPER_EARG, "%s \"%s\": no data given for its %lld bytes",
                     es_role_name(v->role), v->name, (long long)f->bytes[i]);
    }
  }
  for (int32_t i = 0; i < k->operand_count; i++) f->p[i] = f->base[k->operands[i]];
  if (k->stream_count && !(f->keyed && f->seed == seed && f->step == step)) set_keys(f, seed, step);
  return ESPER_OK;
}
