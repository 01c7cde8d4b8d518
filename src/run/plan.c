/* The plan: see plan.h. Built by the planner or the decoder, checked once in es_plan_finish, read
 * by kernels.
 * Invariant: after es_plan_finish nothing in a plan changes but its reference count, and every
 * index and handle in it is in range, so the code that runs plans checks none of them again. */
#include "run/plan.h"
#include <stdatomic.h>
#include <string.h>
#include "base/memory.h"

enum { ROLES = ES_ROLE_temp + 1 };
enum { KEPT = 1, GATHERED = 2 };

struct es_plan {
  es_arena *arena; /* texts, step arrays, role lists */
  es_dims *dims;   /* shared with the compile until finished, then our own */
  es_value *values;
  es_step *steps;
  es_slot_size *sizes;
  uint8_t *kept; /* per slot: KEPT, GATHERED or 0 */
  int32_t kept_room;
  int32_t value_count, value_room, step_count, step_room, size_count, size_room, slot_count;
  es_dim flops, bytes;
  es_rounds rounds;
  int32_t *role[ROLES], role_count[ROLES];
  const char **shape_text; /* per value */
  bool finished, failed;   /* failed: memory ran out in a call that cannot say so */
  atomic_int references;
};

const char *es_role_name(int32_t role) {
  static const char *const names[ROLES] = {
    "input", "param", "buffer", "output", "update", "temp"
  };
  return role >= 0 && role < ROLES ? names[role] : "?";
}

es_plan *es_plan_new(es_dims *dims) {
  es_plan *plan = es_alloc(sizeof *plan);
  if (!plan) return NULL;
  atomic_init(&plan->references, 1);
  plan->flops = plan->bytes = ES_NO_DIM;
  plan->dims = es_dims_retain(dims);
  plan->arena = es_arena_new();
  if (plan->arena) return plan;
  es_plan_release(plan);
  return NULL;
}

es_plan *es_plan_retain(es_plan *plan) {
  atomic_fetch_add_explicit(&plan->references, 1, memory_order_relaxed);
  return plan;
}

void es_plan_release(es_plan *plan) {
  if (!plan || atomic_fetch_sub_explicit(&plan->references, 1, memory_order_acq_rel) != 1) return;
  es_free(plan->values);
  es_free(plan->steps);
  es_free(plan->sizes);
  es_free(plan->kept);
  es_arena_free(plan->arena);
  es_dims_release(plan->dims);
  es_free(plan);
}

/* --- building ------------------------------------------------------------------------------- */

/* Room for one more item behind *items; false: no memory or ES_PLAN_MAX reached. */
static bool grow(void **items, int32_t count, int32_t *room, size_t size) {
  if (count < *room) return true;
  if (count >= ES_PLAN_MAX) return false;
  int32_t wanted = *room ? *room * 2 : 16;
  void *bigger = es_realloc(*items, (size_t)wanted * size);
  if (!bigger) return false;
  *items = bigger;
  *room = wanted;
  return true;
}

/* Why grow() said no. */
static esper_status no_room(es_plan *plan, int32_t count, const char *what, es_error *err) {
  plan->failed = true;
  if (count >= ES_PLAN_MAX)
    return es_fail(err, ESPER_ELIMIT, "plan: more than %d %ss", ES_PLAN_MAX, what);
  return es_fail(err, ESPER_ENOMEM, "plan: no memory for %s %d", what, count);
}

int32_t es_plan_slot(es_plan *plan) {
  if (plan->finished || !grow((void **)&plan->kept, plan->slot_count, &plan->kept_room, 1)) return -1;
  plan->kept[plan->slot_count] = 0;
  return plan->slot_count++;
}

static esper_status set_kind(es_plan *plan, int32_t slot, uint8_t kind) {
  if (plan->finished || slot < 0 || slot >= plan->slot_count) return ESPER_EARG;
  plan->kept[slot] = kind;
  return ESPER_OK;
}

esper_status es_plan_slot_keep(es_plan *plan, int32_t slot) { return set_kind(plan, slot, KEPT); }
esper_status es_plan_slot_gather(es_plan *plan, int32_t slot) { return set_kind(plan, slot, GATHERED); }

void es_plan_rounds_set(es_plan *plan, const es_rounds *rounds) {
  if (!plan->finished) plan->rounds = *rounds;
}

const es_rounds *es_plan_rounds(const es_plan *plan) { return &plan->rounds; }

bool es_plan_slot_kept(const es_plan *plan, int32_t slot) {
  return slot >= 0 && slot < plan->slot_count && plan->kept[slot] == KEPT;
}

bool es_plan_slot_gathers(const es_plan *plan, int32_t slot) {
  return slot >= 0 && slot < plan->slot_count && plan->kept[slot] == GATHERED;
}

esper_status es_plan_slot_size(es_plan *plan, int32_t slot, es_dim bytes) {
  if (plan->finished || slot < 0 || slot >= plan->slot_count) return ESPER_EARG;
  if (!grow((void **)&plan->sizes, plan->size_count, &plan->size_room, sizeof *plan->sizes))
    return no_room(plan, plan->size_count, "slot size", NULL);
  plan->sizes[plan->size_count++] = (es_slot_size){ slot, bytes };
  return ESPER_OK;
}

static int32_t frozen(es_error *err) {
  es_fail(err, ESPER_EARG, "plan: it is finished and takes nothing more");
  return -1;
}

int32_t es_plan_value(es_plan *plan, const es_value *value, es_error *err) {
  if (plan->finished) return frozen(err);
  int32_t index = plan->value_count;
  if (value->rank < 0 || value->rank > ES_RANK_MAX) {
    es_fail(err, ESPER_EINTERNAL, "plan: value %d has rank %d, wanted 0 to %d", index, value->rank,
            ES_RANK_MAX);
    return -1;
  }
  char *name = es_arena_text(plan->arena, value->name ? value->name : "");
  if (!name || !grow((void **)&plan->values, index, &plan->value_room, sizeof *plan->values)) {
    no_room(plan, index, "value", err);
    return -1;
  }
  es_value *copy = &plan->values[index];
  *copy = *value;
  copy->name = name;
  for (int32_t axis = value->rank; axis < ES_RANK_MAX; axis++) copy->shape[axis] = ES_NO_DIM;
  return plan->value_count++;
}

static int32_t add_leaf(es_plan *plan, const es_graph *graph, const es_node *node, int32_t role, es_error *err) {
  es_value value = { .role = role, .dtype = node->dtype, .rank = node->rank, .slot = -1, .buffer = -1, .name = node->name };
  for (int32_t axis = 0; axis < node->rank; axis++)
    value.shape[axis] = es_dim_copy(plan->dims, es_graph_dims(graph), node->shape[axis]);
  if (role != ES_ROLE_input) {
    value.init = (int32_t)node->i[0];
    value.f0 = node->f[0];
    value.f1 = node->f[1];
  }
  return es_plan_value(plan, &value, err);
}

esper_status es_plan_leaves(es_plan *plan, const es_graph *graph, const es_graph *rewritten, int32_t *of, es_error *err) {
  static const struct { int32_t op, role; } kinds[] = {
    { ES_OP_input, ES_ROLE_input }, { ES_OP_param, ES_ROLE_param }, { ES_OP_buffer, ES_ROLE_buffer } };
  for (es_id id = 0; id < es_graph_count(rewritten); id++) of[id] = -1;
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
    for (es_id id = 0; id < es_graph_count(graph); id++) {
      const es_node *node = es_graph_node(graph, id);
      if (node->op != kinds[k].op) continue;
      int32_t index = add_leaf(plan, graph, node, kinds[k].role, err);
      if (index < 0) return err ? err->status : ESPER_ENOMEM;
      es_id left = es_graph_find(rewritten, node->name);
      if (left >= 0) of[left] = index;
    }
  return ESPER_OK;
}

/* A copy of `count` 4-byte items; a plan's counts are at most ES_PLAN_MAX. NULL = no memory. */
static const void *copy_words(es_arena *arena, const void *items, int32_t count) {
  void *copy = es_arena_take(arena, count ? (size_t)count * 4 : 4);
  if (copy && count) memcpy(copy, items, (size_t)count * 4);
  return copy;
}

int32_t es_plan_step(es_plan *plan, const es_step *step, es_error *err) {
  if (plan->finished) return frozen(err);
  int32_t index = plan->step_count;
  static const char *const names[] = { "operands", "dims", "streams" };
  const int32_t counts[] = { step->operand_count, step->dim_count, step->stream_count };
  for (int i = 0; i < 3; i++)
    if (counts[i] < 0 || counts[i] > ES_PLAN_MAX) {
      es_fail(err, ESPER_ELIMIT, "plan: step %d has %d %s, wanted 0 to %d", index, counts[i],
              names[i], ES_PLAN_MAX);
      return -1;
    }
  es_step copy = *step;
  copy.fn = es_arena_text(plan->arena, step->fn ? step->fn : "");
  copy.label = es_arena_text(plan->arena, step->label ? step->label : "");
  copy.operands = copy_words(plan->arena, step->operands, step->operand_count);
  copy.dims = copy_words(plan->arena, step->dims, step->dim_count);
  copy.streams = copy_words(plan->arena, step->streams, step->stream_count);
  if (!copy.fn || !copy.label || !copy.operands || !copy.dims || !copy.streams ||
      !grow((void **)&plan->steps, index, &plan->step_room, sizeof *plan->steps)) {
    no_room(plan, index, "step", err);
    return -1;
  }
  plan->steps[index] = copy;
  return plan->step_count++;
}

/* --- checking ------------------------------------------------------------------------------- */

static bool is_dim(const es_plan *plan, es_dim d) {
  return d >= 0 && d < es_dims_count(plan->dims);
}

/* What a value of its role must and must not have. */
static esper_status check_value(const es_plan *plan, int32_t index, es_error *err) {
  const es_value *v = &plan->values[index];
  if (v->role < 0 || v->role >= ROLES)
    return es_fail(err, ESPER_EINTERNAL, "plan: value %d has unknown role %d", index, v->role);
  const char *role = es_role_name(v->role);
  if (v->dtype < 0 || v->dtype >= ES_DTYPE_COUNT)
    return es_fail(err, ESPER_EINTERNAL, "plan: %s %d \"%s\" has unknown dtype %d", role, index,
                   v->name, v->dtype);
  for (int32_t axis = 0; axis < v->rank; axis++)
    if (!is_dim(plan, v->shape[axis]))
      return es_fail(err, ESPER_EINTERNAL, "plan: %s %d \"%s\" axis %d: %d is no dimension", role,
                     index, v->name, axis, v->shape[axis]);
  bool lodger = v->role == ES_ROLE_temp && v->slot == -1;
  bool stored = v->role == ES_ROLE_update || (v->role == ES_ROLE_temp && !lodger);
  if (stored ? v->slot < 0 || v->slot >= plan->slot_count : v->slot != -1)
    return es_fail(err, ESPER_EINTERNAL, "plan: %s %d \"%s\" has slot %d, wanted %s", role, index,
                   v->name, v->slot, stored ? "one of the plan's" : "-1");
  if (v->role != ES_ROLE_temp && !*v->name)
    return es_fail(err, ESPER_ENAME, "plan: %s %d has no name", role, index);
  if (lodger && (v->buffer < 0 || v->buffer >= plan->value_count || plan->values[v->buffer].role != ES_ROLE_output))
    return es_fail(err, ESPER_EINTERNAL, "plan: %s %d has neither a slot nor an output to live in", role, index);
  if (v->role != ES_ROLE_update && !lodger && v->buffer != -1)
    return es_fail(err, ESPER_EINTERNAL, "plan: %s %d \"%s\" has buffer %d, wanted -1", role, index,
                   v->name, v->buffer);
  if ((v->role == ES_ROLE_param || v->role == ES_ROLE_buffer) &&
      (v->init < 0 || v->init >= ES_INIT_COUNT))
    return es_fail(err, ESPER_EINTERNAL, "plan: %s %d \"%s\" has unknown init %d", role, index,
                   v->name, v->init);
  return ESPER_OK;
}

/* An update and its buffer are of one type, and a buffer has one update. `taken`: per value, zero
 * at first. */
static esper_status check_update(const es_plan *plan, int32_t index, int32_t *taken,
                                 es_error *err) {
  const es_value *v = &plan->values[index];
  if (v->buffer < 0 || v->buffer >= plan->value_count ||
      plan->values[v->buffer].role != ES_ROLE_buffer)
    return es_fail(err, ESPER_EINTERNAL, "plan: update %d \"%s\": value %d is no buffer", index,
                   v->name, v->buffer);
  const es_value *b = &plan->values[v->buffer];
  if (b->dtype != v->dtype || b->rank != v->rank ||
      memcmp(b->shape, v->shape, sizeof b->shape) != 0)
    return es_fail(err, ESPER_EINTERNAL,
                   "plan: update %d \"%s\" differs from its buffer in dtype or shape", index,
                   v->name);
  if (taken[v->buffer]++)
    return es_fail(err, ESPER_EINTERNAL, "plan: buffer \"%s\" is updated twice", b->name);
  return ESPER_OK;
}

static esper_status check_step(const es_plan *plan, int32_t index, es_error *err) {
  const es_step *s = &plan->steps[index];
  if (!*s->fn) return es_fail(err, ESPER_EINTERNAL, "plan: step %d has no function", index);
  if (s->when < 0 || s->when >= ES_WHEN_COUNT)
    return es_fail(err, ESPER_EINTERNAL, "plan: step %d: %d is no time to run", index, s->when);
  if (!is_dim(plan, s->tiles))
    return es_fail(err, ESPER_EINTERNAL, "plan: step %d: tiles %d is no dimension", index,
                   s->tiles);
  for (int32_t i = 0; i < s->operand_count; i++)
    if (s->operands[i] < 0 || s->operands[i] >= plan->value_count)
      return es_fail(err, ESPER_EINTERNAL, "plan: step %d operand %d: %d is no value", index, i,
                     s->operands[i]);
  for (int32_t i = 0; i < s->dim_count; i++)
    if (!is_dim(plan, s->dims[i]))
      return es_fail(err, ESPER_EINTERNAL, "plan: step %d: d[%d] = %d is no dimension", index, i,
                     s->dims[i]);
  return ESPER_OK;
}

/* Every slot has a size, and every output and update is an operand of some step (an update may be
 * written through a temp in its slot). marks: value_count + 2 * slot_count zeros. */
static esper_status check_reach(const es_plan *plan, int32_t *marks, es_error *err) {
  int32_t *seen = marks, *sized = marks + plan->value_count, *slot_seen = sized + plan->slot_count;
  for (int32_t i = 0; i < plan->step_count; i++)
    for (int32_t k = 0; k < plan->steps[i].operand_count; k++) {
      int32_t operand = plan->steps[i].operands[k], slot = plan->values[operand].slot;
      seen[operand] = 1;
      if (slot >= 0) slot_seen[slot] = 1;
    }
  for (int32_t i = 0; i < plan->size_count; i++) sized[plan->sizes[i].slot] = 1;
  for (int32_t i = 0; i < plan->value_count; i++) {
    const es_value *v = &plan->values[i];
    if (v->slot >= 0) sized[v->slot] = 1;
    if ((v->role == ES_ROLE_output && !seen[i]) ||
        (v->role == ES_ROLE_update && !slot_seen[v->slot]))
      return es_fail(err, ESPER_EINTERNAL, "plan: no step writes %s \"%s\"", es_role_name(v->role),
                     v->name);
  }
  for (int32_t i = 0; i < plan->slot_count; i++)
    if (!sized[i]) return es_fail(err, ESPER_EINTERNAL, "plan: slot %d has no size", i);
  return ESPER_OK;
}

/* FNV-1a of a name, outputs kept apart from the rest. */
static uint32_t name_hash(const es_value *value) {
  uint32_t h = value->role == ES_ROLE_output ? 2166136261u : 2166136260u;
  for (const char *c = value->name; *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
  return h;
}

/* Inputs, params and buffers share one space of names; outputs have their own. A hash set of value
 * index + 1. */
static esper_status check_names(const es_plan *plan, es_error *err) {
  uint32_t room = 16;
  while (room < 2 * (uint32_t)plan->value_count) room *= 2;
  int32_t *set = es_alloc_array(room, sizeof *set);
  if (!set) return es_fail(err, ESPER_ENOMEM, "plan: no memory to check its names");
  esper_status status = ESPER_OK;
  for (int32_t i = 0; i < plan->value_count && status == ESPER_OK; i++) {
    const es_value *a = &plan->values[i];
    if (a->role > ES_ROLE_output) continue;
    uint32_t at = name_hash(a) & (room - 1);
    for (; set[at] && status == ESPER_OK; at = (at + 1) & (room - 1)) {
      const es_value *b = &plan->values[set[at] - 1];
      bool one_space = (a->role == ES_ROLE_output) == (b->role == ES_ROLE_output);
      if (one_space && strcmp(a->name, b->name) == 0)
        status = es_fail(err, ESPER_ENAME, "plan: %s and %s are both named \"%s\"",
                         es_role_name(b->role), es_role_name(a->role), a->name);
    }
    set[at] = i + 1;
  }
  es_free(set);
  return status;
}

/* A step that does not run every time has operands that outlast it: parameters, buffers and kept slots. */
static esper_status check_kept(const es_plan *plan, int32_t index, es_error *err) {
  const es_step *s = &plan->steps[index];
  bool once = s->when == ES_WHEN_prepare || s->when == ES_WHEN_pack;
  for (int32_t i = 0; once && i < s->operand_count; i++) {
    const es_value *v = &plan->values[s->operands[i]];
    if (v->role != ES_ROLE_param && v->role != ES_ROLE_buffer && !es_plan_slot_kept(plan, v->slot))
      return es_fail(err, ESPER_EINTERNAL,
                     "plan: step %d runs once, but its operand %d is %s, not a parameter, buffer or kept", index, i,
                     es_role_name(v->role));
  }
  return ESPER_OK;
}

static bool depends(const es_plan *plan, es_dim d) {
  int32_t order[ES_SYMBOLS_MAX], count = 0;
  es_dim_symbols(plan->dims, d, order, &count);
  for (int32_t i = 0; i < count; i++)
    for (int32_t n = 0; n < plan->rounds.count; n++)
      if (order[i] == plan->rounds.symbols[n]) return true;
  return false;
}

bool es_plan_has_rows(const es_plan *plan, const es_value *v) {
  int32_t index;
  if (v->role != ES_ROLE_input && v->role != ES_ROLE_output) return false;
  for (int32_t n = 0; n < plan->rounds.count; n++)
    if (n >= v->rank || !es_dim_is_symbol(plan->dims, v->shape[n], &index) || index != plan->rounds.symbols[n]) return false;
  return plan->rounds.count > 0;
}

/* Inputs and outputs may lie row by row, parameters and buffers have no rows; the rest of a shape does not tell of them. */
static bool fits_rounds(const es_plan *plan, const es_value *v) {
  bool rows = es_plan_has_rows(plan, v);
  if (v->role == ES_ROLE_temp) return true;
  if (v->role == ES_ROLE_update) return false;
  for (int32_t axis = rows ? plan->rounds.count : 0; axis < v->rank; axis++)
    if (depends(plan, v->shape[axis])) return false;
  return true;
}

/* May that step take that value? The last steps find only whole values, the others make nothing that has no rows. */
static bool fits_step(const es_plan *plan, const es_step *s, const es_value *v) {
  if (s->when == ES_WHEN_last)
    return v->role != ES_ROLE_temp || es_plan_slot_kept(plan, v->slot) || es_plan_slot_gathers(plan, v->slot);
  return v->role != ES_ROLE_output || es_plan_has_rows(plan, v);
}

static esper_status check_rounds(const es_plan *plan, es_error *err) {
  const es_rounds *r = &plan->rounds;
  bool sound = r->count >= 0 && r->count <= ES_LEADING_MAX && r->bytes >= 0;
  for (int32_t n = 0; sound && n < r->count; n++)
    sound = r->symbols[n] >= 0 && r->symbols[n] < es_symbol_count(plan->dims) && (n == 0 || r->symbols[n] != r->symbols[0]);
  if (r->count && !is_dim(plan, r->most)) sound = false;
  if (!sound) return es_fail(err, ESPER_EINTERNAL, "plan: its rounds go over no symbols, or within no limit");
  for (int32_t i = 0; r->count && i < plan->value_count; i++) {
    const es_value *v = &plan->values[i];
    if (!fits_rounds(plan, v))
      return es_fail(err, ESPER_EINTERNAL, "plan: it has rounds, but %s %d \"%s\" does not lie row by row", es_role_name(v->role),
                     i, v->name);
  }
  for (int32_t i = 0; r->count && i < plan->step_count; i++) {
    const es_step *s = &plan->steps[i];
    if (s->stream_count) return es_fail(err, ESPER_EINTERNAL, "plan: it has rounds, but step %d draws random numbers", i);
    for (int32_t n = 0; n < s->operand_count; n++)
      if (!fits_step(plan, s, &plan->values[s->operands[n]]))
        return es_fail(err, ESPER_EINTERNAL, "plan: it has rounds, but operand %d of step %d is not whole", n, i);
  }
  return ESPER_OK;
}

static esper_status check(const es_plan *plan, es_error *err) {
  esper_status status = ESPER_OK;
  size_t marks_count = (size_t)plan->value_count + 2 * (size_t)plan->slot_count + 1;
  int32_t *taken = es_alloc_array((size_t)plan->value_count + 1, sizeof *taken);
  int32_t *marks = es_alloc_array(marks_count, sizeof *marks);
  if (!taken || !marks) status = es_fail(err, ESPER_ENOMEM, "plan: no memory to check it");
  for (int32_t i = 0; i < plan->value_count && status == ESPER_OK; i++)
    status = check_value(plan, i, err);
  for (int32_t i = 0; i < plan->value_count && status == ESPER_OK; i++)
    if (plan->values[i].role == ES_ROLE_update) status = check_update(plan, i, taken, err);
  for (int32_t i = 0; i < plan->step_count && status == ESPER_OK; i++)
    status = check_step(plan, i, err);
  for (int32_t i = 0; i < plan->step_count && status == ESPER_OK; i++)
    status = check_kept(plan, i, err);
  for (int32_t i = 0; i < plan->size_count && status == ESPER_OK; i++)
    if (!is_dim(plan, plan->sizes[i].bytes))
      status = es_fail(err, ESPER_EINTERNAL, "plan: slot %d: size %d is no dimension",
                       plan->sizes[i].slot, plan->sizes[i].bytes);
  if (status == ESPER_OK) status = check_rounds(plan, err);
  if (status == ESPER_OK) status = check_names(plan, err);
  if (status == ESPER_OK) status = check_reach(plan, marks, err);
  es_free(taken);
  es_free(marks);
  return status;
}

/* --- finishing ------------------------------------------------------------------------------ */

static bool list_roles(es_plan *plan) {
  for (int32_t role = 0; role < ROLES; role++) {
    size_t bytes = ((size_t)plan->value_count + 1) * sizeof(int32_t);
    int32_t count = 0, *list = es_arena_take(plan->arena, bytes);
    if (!list) return false;
    for (int32_t i = 0; i < plan->value_count; i++)
      if (plan->values[i].role == role) list[count++] = i;
    plan->role[role] = list;
    plan->role_count[role] = count;
  }
  return true;
}

static bool write_shapes(es_plan *plan) {
  plan->shape_text = es_arena_take(plan->arena,
                                   ((size_t)plan->value_count + 1) * sizeof *plan->shape_text);
  if (!plan->shape_text) return false;
  es_text text = { 0 };
  for (int32_t i = 0; i < plan->value_count; i++) {
    text.length = 0;
    es_text_add(&text, "%s", "");
    for (int32_t axis = 0; axis < plan->values[i].rank; axis++) {
      if (axis) es_text_add(&text, ", ");
      es_dim_print(plan->dims, plan->values[i].shape[axis], &text);
    }
    plan->shape_text[i] = text.failed ? NULL : es_arena_text(plan->arena, text.bytes);
    if (!plan->shape_text[i]) break;
  }
  bool written = plan->value_count == 0 || plan->shape_text[plan->value_count - 1];
  es_text_clear(&text);
  return written;
}

/* Calls visit for every place of the plan that holds a handle. */
static void each_dim(es_plan *plan, void (*visit)(void *user, es_dim *place), void *user) {
  for (int32_t i = 0; i < plan->value_count; i++)
    for (int32_t axis = 0; axis < plan->values[i].rank; axis++)
      visit(user, &plan->values[i].shape[axis]);
  for (int32_t i = 0; i < plan->step_count; i++) {
    es_step *s = &plan->steps[i];
    visit(user, &s->tiles);
    es_dim *dims = (es_dim *)(uintptr_t)s->dims; /* our own copy in the arena */
    for (int32_t k = 0; k < s->dim_count; k++) visit(user, &dims[k]);
  }
  for (int32_t i = 0; i < plan->size_count; i++) visit(user, &plan->sizes[i].bytes);
  if (plan->rounds.count) visit(user, &plan->rounds.most);
  visit(user, &plan->flops);
  visit(user, &plan->bytes);
}

static void mark(void *used, es_dim *place) { ((bool *)used)[*place] = true; }
static void rename_dim(void *map, es_dim *place) { *place = ((const es_dim *)map)[*place]; }

/* Swaps a shared dims table for one of our own that holds what the plan uses: threads that run kernels read it while the
 * compile that shares the first one goes on making handles, and every new shape evaluates all of it. */
static esper_status own_dims(es_plan *plan, es_error *err) {
  if (!es_dims_shared(plan->dims)) return ESPER_OK;
  size_t count = (size_t)es_dims_count(plan->dims);
  bool *used = es_alloc_array(count, sizeof *used);
  es_dim *map = es_alloc_array(count, sizeof *map);
  es_dims *own = NULL;
  if (used && map) {
    each_dim(plan, mark, used);
    own = es_dims_select(plan->dims, used, map);
  }
  if (own) {
    each_dim(plan, rename_dim, map);
    es_dims_release(plan->dims);
    plan->dims = own;
  }
  es_free(used);
  es_free(map);
  return own ? ESPER_OK : es_fail(err, ESPER_ENOMEM, "plan: no memory for its dimensions");
}

esper_status es_plan_finish(es_plan *plan, es_dim flops, es_dim bytes, es_error *err) {
  if (plan->finished) return es_fail(err, ESPER_EARG, "plan: finished twice");
  if (plan->failed)
    return es_fail(err, ESPER_ENOMEM, "plan: memory ran out or a limit was met while it was built");
  if (!is_dim(plan, flops) || !is_dim(plan, bytes))
    return es_fail(err, ESPER_EINTERNAL, "plan: flops %d or bytes %d is no dimension", flops,
                   bytes);
  esper_status status = check(plan, err);
  plan->flops = flops;
  plan->bytes = bytes;
  if (status == ESPER_OK) status = own_dims(plan, err);
  if (status != ESPER_OK) return status;
  if (!list_roles(plan) || !write_shapes(plan))
    return es_fail(err, ESPER_ENOMEM, "plan: no memory to finish it");
  plan->finished = true;
  return ESPER_OK;
}

/* --- reading -------------------------------------------------------------------------------- */

int32_t es_plan_value_count(const es_plan *plan) { return plan->value_count; }
int32_t es_plan_step_count(const es_plan *plan) { return plan->step_count; }
int32_t es_plan_slot_count(const es_plan *plan) { return plan->slot_count; }
int32_t es_plan_size_count(const es_plan *plan) { return plan->size_count; }
es_dims *es_plan_dims(const es_plan *plan) { return plan->dims; }
es_dim es_plan_flops(const es_plan *plan) { return plan->flops; }
es_dim es_plan_bytes(const es_plan *plan) { return plan->bytes; }
bool es_plan_finished(const es_plan *plan) { return plan->finished; }

const es_value *es_plan_value_get(const es_plan *plan, int32_t index) {
  return index >= 0 && index < plan->value_count ? &plan->values[index] : NULL;
}

const es_step *es_plan_step_get(const es_plan *plan, int32_t index) {
  return index >= 0 && index < plan->step_count ? &plan->steps[index] : NULL;
}

const es_slot_size *es_plan_size_get(const es_plan *plan, int32_t index) {
  return index >= 0 && index < plan->size_count ? &plan->sizes[index] : NULL;
}

int32_t es_plan_role_count(const es_plan *plan, int32_t role) {
  return role >= 0 && role < ROLES ? plan->role_count[role] : 0;
}

int32_t es_plan_role_get(const es_plan *plan, int32_t role, int32_t index) {
  return index >= 0 && index < es_plan_role_count(plan, role) ? plan->role[role][index] : -1;
}

int32_t es_plan_find(const es_plan *plan, int32_t role, const char *name) {
  for (int32_t i = 0; i < es_plan_role_count(plan, role); i++)
    if (strcmp(plan->values[plan->role[role][i]].name, name) == 0) return plan->role[role][i];
  return -1;
}

const char *es_plan_shape_text(const es_plan *plan, int32_t value) {
  return plan->finished && value >= 0 && value < plan->value_count ? plan->shape_text[value] : NULL;
}
