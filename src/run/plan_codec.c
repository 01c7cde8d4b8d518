/* A plan as bytes, for the store, and back. Stands on plan.h's public calls alone, so a decoded
 * plan has passed the same checks as a built one.
 *
 * Format, little-endian: u32 magic, u32 version, u32 length + dims table, u32 slots, u8 kind[slots] (1 kept, 2 gathers),
 *   u32 sizes,  each: i32 slot, i32 bytes
 *   u32 leading, i32 symbols[leading], u64 bytes, i32 most: the rounds
 *   u32 values, each: u8 role, u8 dtype, u8 rank, u8 0, i32 slot, i32 buffer, i32 init,
 *                     u64 f0, u64 f1 (IEEE bits), i32 shape[rank], text name
 *   u32 steps,  each: text fn, text label, i32 tiles, u32 when, u32 n + i32 operands[n],
 *                     u32 n + i32 dims[n], u32 n + u32 streams[n]
 *   i32 flops, i32 bytes;  text = u32 length, bytes without NUL.
 * Canonical: one plan has one encoding, and bytes that decode encode to themselves.
 * Invariant of the reader: it never passes `end`, and a count is believed only as far as bytes are
 * left for it. */
#include <string.h>
#include "base/memory.h"
#include "run/plan.h"

enum { MAGIC = 0x4e4c5045 /* "EPLN" */, VERSION = 3, TEXT_MAX = 1 << 16 };

/* --- writing -------------------------------------------------------------------------------- */

static void put(es_text *out, uint64_t value, int bytes) {
  uint8_t le[8];
  for (int i = 0; i < bytes; i++) le[i] = (uint8_t)(value >> (8 * i));
  es_text_bytes(out, le, (size_t)bytes);
}

static void put_u32(es_text *out, uint32_t value) { put(out, value, 4); }

static void put_text(es_text *out, const char *text) {
  size_t length = strlen(text);
  put_u32(out, (uint32_t)length);
  es_text_bytes(out, text, length);
}

static void put_f64(es_text *out, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  put(out, bits, 8);
}

static void put_words(es_text *out, const void *words, int32_t count) {
  const uint32_t *w = words;
  put_u32(out, (uint32_t)count);
  for (int32_t i = 0; i < count; i++) put_u32(out, w[i]);
}

static void put_value(es_text *out, const es_value *v) {
  put(out, (uint64_t)v->role, 1);
  put(out, (uint64_t)v->dtype, 1);
  put(out, (uint64_t)v->rank, 1);
  put(out, 0, 1);
  put_u32(out, (uint32_t)v->slot);
  put_u32(out, (uint32_t)v->buffer);
  put_u32(out, (uint32_t)v->init);
  put_f64(out, v->f0);
  put_f64(out, v->f1);
  for (int32_t axis = 0; axis < v->rank; axis++) put_u32(out, (uint32_t)v->shape[axis]);
  put_text(out, v->name);
}

static void put_step(es_text *out, const es_step *s) {
  put_text(out, s->fn);
  put_text(out, s->label);
  put_u32(out, (uint32_t)s->tiles);
  put_u32(out, (uint32_t)s->when);
  put_words(out, s->operands, s->operand_count);
  put_words(out, s->dims, s->dim_count);
  put_words(out, s->streams, s->stream_count);
}

void es_plan_encode(const es_plan *plan, es_text *out) {
  es_text dims = { 0 };
  es_dims_encode(es_plan_dims(plan), &dims);
  put_u32(out, MAGIC);
  put_u32(out, VERSION);
  put_u32(out, (uint32_t)dims.length);
  if (dims.length) es_text_bytes(out, dims.bytes, dims.length);
  if (dims.failed) out->failed = true;
  es_text_clear(&dims);
  put_u32(out, (uint32_t)es_plan_slot_count(plan));
  for (int32_t i = 0; i < es_plan_slot_count(plan); i++)
    put(out, (uint64_t)es_plan_slot_kept(plan, i) + 2 * (uint64_t)es_plan_slot_gathers(plan, i), 1);
  put_u32(out, (uint32_t)es_plan_size_count(plan));
  for (int32_t i = 0; i < es_plan_size_count(plan); i++) {
    put_u32(out, (uint32_t)es_plan_size_get(plan, i)->slot);
    put_u32(out, (uint32_t)es_plan_size_get(plan, i)->bytes);
  }
  const es_rounds *rounds = es_plan_rounds(plan);
  put_words(out, rounds->symbols, rounds->count);
  put(out, (uint64_t)rounds->bytes, 8);
  put_u32(out, (uint32_t)(rounds->count ? rounds->most : 0));
  put_u32(out, (uint32_t)es_plan_value_count(plan));
  for (int32_t i = 0; i < es_plan_value_count(plan); i++)
    put_value(out, es_plan_value_get(plan, i));
  put_u32(out, (uint32_t)es_plan_step_count(plan));
  for (int32_t i = 0; i < es_plan_step_count(plan); i++) put_step(out, es_plan_step_get(plan, i));
  put_u32(out, (uint32_t)es_plan_flops(plan));
  put_u32(out, (uint32_t)es_plan_bytes(plan));
}

/* --- reading -------------------------------------------------------------------------------- */

typedef struct reader {
  const uint8_t *at, *end;
  es_arena *scratch;   /* what a step or value points to until the plan has copied it */
  esper_status status; /* the first failure sticks; reads give 0 from then on */
  es_error *err;
} reader;

static esper_status stop(reader *r, esper_status status, const char *what) {
  if (r->status == ESPER_OK)
    r->status = es_fail(r->err, status, "plan bytes: %s; compile the blueprint again", what);
  return r->status;
}

static size_t left(const reader *r) { return (size_t)(r->end - r->at); }

static uint64_t get(reader *r, int bytes) {
  uint64_t value = 0;
  if (r->status == ESPER_OK && left(r) < (size_t)bytes) stop(r, ESPER_ECORRUPT, "cut short");
  if (r->status != ESPER_OK) return 0;
  for (int i = 0; i < bytes; i++) value |= (uint64_t)r->at[i] << (8 * i);
  r->at += bytes;
  return value;
}

static uint32_t get_u32(reader *r) { return (uint32_t)get(r, 4); }
static int32_t get_i32(reader *r) { return (int32_t)get_u32(r); }

/* A count of items that take at least `each` bytes. */
static int32_t get_count(reader *r, size_t each, const char *what) {
  uint32_t count = get_u32(r);
  if (r->status == ESPER_OK && count > ES_PLAN_MAX) stop(r, ESPER_ELIMIT, what);
  if (r->status == ESPER_OK && count > left(r) / each) stop(r, ESPER_ECORRUPT, what);
  return r->status == ESPER_OK ? (int32_t)count : 0;
}

static double get_f64(reader *r) {
  uint64_t bits = get(r, 8);
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void *take(reader *r, size_t bytes) {
  void *block = r->status == ESPER_OK ? es_arena_take(r->scratch, bytes) : NULL;
  if (!block) stop(r, ESPER_ENOMEM, "no memory");
  return block;
}

static const char *get_text(reader *r) {
  uint32_t length = get_u32(r);
  if (r->status == ESPER_OK && length > TEXT_MAX) stop(r, ESPER_ELIMIT, "a text is too long");
  if (r->status == ESPER_OK && length > left(r)) stop(r, ESPER_ECORRUPT, "a text is cut short");
  char *text = take(r, (size_t)length + 1);
  if (!text) return "";
  memcpy(text, r->at, length);
  if (strlen(text) != length) stop(r, ESPER_ECORRUPT, "a text holds a NUL");
  r->at += length;
  return text;
}

static const void *get_words(reader *r, int32_t *count) {
  *count = get_count(r, 4, "a count is out of range");
  uint32_t *words = take(r, (size_t)*count * 4 + 4);
  for (int32_t i = 0; words && i < *count; i++) words[i] = get_u32(r);
  return words;
}

static void get_value(reader *r, es_plan *plan) {
  es_value v = { 0 };
  v.role = (int32_t)get(r, 1);
  v.dtype = (int32_t)get(r, 1);
  v.rank = (int32_t)get(r, 1);
  if (get(r, 1) != 0) stop(r, ESPER_ECORRUPT, "a reserved byte is set");
  v.slot = get_i32(r);
  v.buffer = get_i32(r);
  v.init = get_i32(r);
  v.f0 = get_f64(r);
  v.f1 = get_f64(r);
  if (v.rank > ES_RANK_MAX) stop(r, ESPER_ECORRUPT, "a rank is out of range");
  for (int32_t axis = 0; r->status == ESPER_OK && axis < v.rank; axis++) v.shape[axis] = get_i32(r);
  v.name = get_text(r);
  if (r->status == ESPER_OK && es_plan_value(plan, &v, r->err) < 0) r->status = ESPER_ENOMEM;
}

static void get_step(reader *r, es_plan *plan) {
  es_step s = { 0 };
  s.fn = get_text(r);
  s.label = get_text(r);
  s.tiles = get_i32(r);
  s.when = get_i32(r);
  s.operands = get_words(r, &s.operand_count);
  s.dims = get_words(r, &s.dim_count);
  s.streams = get_words(r, &s.stream_count);
  if (r->status == ESPER_OK && es_plan_step(plan, &s, r->err) < 0) r->status = ESPER_ENOMEM;
}

static void get_slots(reader *r, es_plan *plan) {
  int32_t slots = get_count(r, 1, "a count of slots is out of range");
  for (int32_t i = 0; r->status == ESPER_OK && i < slots; i++) {
    uint64_t kind = get(r, 1);
    if (kind > 2) stop(r, ESPER_ECORRUPT, "a slot is of no kind");
    if (es_plan_slot(plan) < 0) stop(r, ESPER_ENOMEM, "no memory");
    else if (kind == 1) es_plan_slot_keep(plan, i);
    else if (kind == 2) es_plan_slot_gather(plan, i);
  }
  int32_t sizes = get_count(r, 8, "a count of slot sizes is out of range");
  for (int32_t i = 0; r->status == ESPER_OK && i < sizes; i++) {
    int32_t slot = get_i32(r);
    es_dim bytes = get_i32(r);
    esper_status status = r->status == ESPER_OK ? es_plan_slot_size(plan, slot, bytes) : ESPER_OK;
    if (status == ESPER_EARG) stop(r, ESPER_ECORRUPT, "a slot size names no slot");
    else if (status != ESPER_OK) stop(r, status, "no memory");
  }
}

static void get_rounds(reader *r, es_plan *plan) {
  es_rounds rounds = { 0 };
  rounds.count = get_count(r, 4, "a count of leading symbols is out of range");
  if (rounds.count > ES_LEADING_MAX) stop(r, ESPER_ECORRUPT, "too many leading symbols");
  for (int32_t i = 0; r->status == ESPER_OK && i < rounds.count; i++) rounds.symbols[i] = get_i32(r);
  rounds.bytes = (int64_t)get(r, 8);
  rounds.most = get_i32(r);
  if (r->status == ESPER_OK) es_plan_rounds_set(plan, &rounds);
}

/* The table must encode to just these bytes: its own decoder takes more than one spelling of a
 * number. */
static void check_canonical(reader *r, const es_dims *dims, const uint8_t *bytes, size_t length) {
  es_text again = { 0 };
  es_dims_encode(dims, &again);
  if (again.failed) stop(r, ESPER_ENOMEM, "no memory");
  else if (again.length != length || memcmp(again.bytes, bytes, length) != 0)
    stop(r, ESPER_ECORRUPT, "dims table is not canonical");
  es_text_clear(&again);
}

/* Magic, version and the dims table; NULL on failure. */
static es_plan *get_head(reader *r) {
  if (get_u32(r) != MAGIC) stop(r, ESPER_ECORRUPT, "not a plan");
  uint32_t version = get_u32(r);
  if (version != VERSION) stop(r, ESPER_ECORRUPT, "written by another version");
  uint32_t length = get_u32(r);
  if (length > left(r)) stop(r, ESPER_ECORRUPT, "dims table cut short");
  if (r->status != ESPER_OK) return NULL;
  size_t used = 0;
  es_error local = { 0 };
  es_dims *dims = es_dims_decode(r->at, length, &used, &local);
  if (!dims) {
    stop(r, local.status == ESPER_ENOMEM ? ESPER_ENOMEM : ESPER_ECORRUPT, local.text);
    return NULL;
  }
  if (used != length) stop(r, ESPER_ECORRUPT, "dims table has bytes behind its end");
  check_canonical(r, dims, r->at, length);
  r->at += length;
  es_plan *plan = r->status == ESPER_OK ? es_plan_new(dims) : NULL;
  es_dims_release(dims);
  if (!plan) stop(r, ESPER_ENOMEM, "no memory");
  return plan;
}

es_plan *es_plan_decode(const void *bytes, size_t length, es_error *err) {
  reader r = { bytes, (const uint8_t *)bytes + length, es_arena_new(), ESPER_OK, err };
  if (!r.scratch) stop(&r, ESPER_ENOMEM, "no memory");
  es_plan *plan = get_head(&r);
  if (plan) {
    get_slots(&r, plan);
    get_rounds(&r, plan);
    int32_t values = get_count(&r, 36, "too many values");
    for (int32_t i = 0; r.status == ESPER_OK && i < values; i++) get_value(&r, plan);
    int32_t steps = get_count(&r, 28, "too many steps");
    for (int32_t i = 0; r.status == ESPER_OK && i < steps; i++) get_step(&r, plan);
    es_dim flops = get_i32(&r), moved = get_i32(&r);
    if (r.status == ESPER_OK && r.at != r.end) stop(&r, ESPER_ECORRUPT, "bytes behind the end");
    es_error local = { 0 };
    if (r.status == ESPER_OK && es_plan_finish(plan, flops, moved, &local) != ESPER_OK)
      stop(&r, local.status == ESPER_ENOMEM ? ESPER_ENOMEM : ESPER_ECORRUPT, local.text);
  }
  es_arena_free(r.scratch);
  if (r.status == ESPER_OK) return plan;
  es_plan_release(plan);
  return NULL;
}
