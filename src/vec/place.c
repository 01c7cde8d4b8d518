/* Register allocation of a vector block: which values need no register (constants, arguments, loads
 * that become memory operands, values computed in the accumulator they are set to), then a linear
 * scan over the rest, least-used first into the frame when registers run out. Constants of loops get a
 * register from the start while there is one, first those that instructions cannot read from memory.
 * Between the builder (vec.c) and lower_x86.c.
 * Invariant: two values share a machine register only when their ranges do not touch, except that a
 * result may take the place of an operand that ends at its instruction. A value used inside a loop
 * it was not made in lives until that loop ends. */
#include "vec/place.h"

#include <string.h>

#include "base/memory.h"

enum {
  PASSES = 12, /* of the scan: each one reserves more scratch registers than the last */
  HOISTED = ES_PLACE_HOISTED
};

typedef struct range {
  int32_t start, end; /* instructions; end < start: none */
  int32_t uses, user; /* occurrences as an operand; the last instruction that has one */
  int32_t weight;     /* uses, those in loops counting more */
  int32_t into;       /* the register this one's value is computed in, or -1 */
  bool hoisted;       /* a constant that wants a register all along */
} range;

typedef struct work {
  const es_vec *vec;
  const es_target *target;
  es_placement *out;
  range *ranges; /* per register, then per instruction (loop counters) */
  int32_t *block, *store_before; /* per instruction: basic block; number of stores above it */
  int32_t *outer; /* per instruction: the loop it is in, -1 none */
  int32_t *close; /* per loop: its end */
  int32_t *active; /* ranges that hold registers now */
  int32_t active_count;
} work;

static bool is_unmasked_load(int32_t op) {
  return op == ES_VEC_load || op == ES_VEC_bcast || op == ES_VEC_loadx || op == ES_VEC_bcastx;
}

static bool is_store(int32_t op) {
  return op == ES_VEC_store || op == ES_VEC_storem || op == ES_VEC_stores ||
         op == ES_VEC_storesm || op == ES_VEC_store1 || op == ES_VEC_storent;
}

bool es_place_constant(int32_t op) {
  return op == ES_VEC_splat || op == ES_VEC_splati || op == ES_VEC_iota;
}

static bool is_set(int32_t op) { return op == ES_VEC_set || op == ES_VEC_g_set; }

bool es_place_readable(const es_vec *vec, const es_target *target, const es_vec_code *code,
                       int at) {
  bool integer = code->type == ES_VEC_i32 || code->type == ES_VEC_i64;
  switch (code->op) {
    case ES_VEC_add:
    case ES_VEC_mul:
    case ES_VEC_and_:
    case ES_VEC_or_:
    case ES_VEC_xor_:
    case ES_VEC_eq:
    case ES_VEC_ne: return at <= 1;
    case ES_VEC_fma: return true;
    case ES_VEC_lt: return at == (integer && target->masks == 0 ? 0 : 1); /* there it is b > a */
    case ES_VEC_sub:
    case ES_VEC_div:
    case ES_VEC_min:
    case ES_VEC_max:
    case ES_VEC_le:
    case ES_VEC_scalef:
    case ES_VEC_unpl:
    case ES_VEC_unph:
    case ES_VEC_part:
    case ES_VEC_select: return at == 1;
    case ES_VEC_sqrt:
    case ES_VEC_rint: return true;
    case ES_VEC_cvt_i:
    case ES_VEC_cvtt_i:
    case ES_VEC_cvt_f: return target->masks > 0 || vec->element_bytes == 4;
    default: return false;
  }
}

/* --- what needs no register --- */

static void count_uses(work *w) {
  const es_vec *vec = w->vec;
  for (int32_t i = vec->count - 1; i >= 0; i--) {
    const es_vec_code *code = &vec->code[i];
    bool live = code->result < 0 || w->ranges[code->result].uses > 0;
    w->out->live[i] = live;
    if (!live) continue;
    for (int at = 0; at < ES_VEC_OPERANDS; at++) {
      if (code->at[at] < 0 || (at == 0 && is_set(code->op))) continue;
      range *r = &w->ranges[code->at[at]];
      if (r->uses++ == 0) r->user = i;
    }
  }
}

/* A register that is only ever set is dead with its sets. */
static void drop_unread(work *w) {
  for (int32_t i = 0; i < w->vec->count; i++) {
    const es_vec_code *code = &w->vec->code[i];
    if (is_set(code->op) && w->ranges[code->at[0]].uses == 0) w->out->live[i] = false;
  }
}

static void map_blocks(work *w) {
  const es_vec *vec = w->vec;
  int32_t block = 0, stores = 0, inner = -1;
  for (int32_t i = 0; i < vec->count; i++) {
    int32_t op = vec->code[i].op;
    if (op == ES_VEC_end) {
      w->close[inner] = i;
      inner = w->outer[inner];
    }
    w->block[i] = block;
    w->store_before[i] = stores;
    w->outer[i] = inner;
    if (op == ES_VEC_loop || op == ES_VEC_end) block++;
    if (op == ES_VEC_loop) inner = i;
    if (is_store(op)) stores++;
  }
}

/* Does operand x of an instruction stand for a read of r: itself, or through the load folded into it? */
static bool reads_through(const work *w, int32_t x, int32_t r) {
  if (x == r) return true;
  if (x < 0 || w->out->place[x].kind != ES_PLACE_folded) return false;
  const es_vec_code *load = &w->vec->code[w->vec->reg[x].made];
  return load->at[0] == r || load->at[1] == r;
}

/* Is register r set by an instruction between a and b, both excluded? Read too, when `reads`. */
static bool touched(const work *w, int32_t r, int32_t a, int32_t b, bool reads) {
  for (int32_t i = a + 1; i < b; i++) {
    const es_vec_code *code = &w->vec->code[i];
    for (int at = 0; at < ES_VEC_OPERANDS; at++) {
      bool sets = at == 0 && is_set(code->op);
      if (sets ? code->at[at] == r : reads && reads_through(w, code->at[at], r)) return true;
    }
  }
  return false;
}

static bool all_registers(const work *w, const es_vec_code *code, int but) {
  for (int at = 0; at < ES_VEC_OPERANDS; at++) {
    if (code->at[at] < 0 || at == but) continue;
    int8_t kind = w->out->place[code->at[at]].kind;
    if (kind == ES_PLACE_constant || kind == ES_PLACE_folded) return false;
  }
  return true;
}

/* Can the load become the memory operand of its user? */
static bool can_fold(const work *w, int32_t i) {
  const es_vec_code *code = &w->vec->code[i];
  const range *r = &w->ranges[code->result];
  bool one = code->op == ES_VEC_bcast || code->op == ES_VEC_bcastx;
  if (r->uses != 1 || w->vec->reg[code->result].changes || (one && !w->target->broadcasts))
    return false;
  const es_vec_code *user = &w->vec->code[r->user];
  int at = 0;
  while (user->at[at] != code->result) at++;
  if (!es_place_readable(w->vec, w->target, user, at) || !all_registers(w, user, at)) return false;
  if (w->block[i] != w->block[r->user] || w->store_before[i] != w->store_before[r->user])
    return false;
  for (int k = 0; k < 2; k++)
    if (code->at[k] >= 0 && touched(w, code->at[k], i, r->user, false)) return false;
  return true;
}

/* Can the value that `set` i moves be computed in the register it is moved to? */
static bool can_merge(const work *w, int32_t i) {
  const es_vec_code *code = &w->vec->code[i];
  int32_t to = code->at[0], from = code->at[1], made = w->vec->reg[from].made;
  if (w->vec->reg[from].changes || w->ranges[from].uses != 1) return false;
  if (w->out->place[from].kind != ES_PLACE_nowhere) return false; /* constant, folded */
  if (w->block[made] != w->block[i] || w->vec->reg[to].made >= made) return false;
  return !touched(w, to, made, i, true);
}

static void simplify(work *w) {
  const es_vec *vec = w->vec;
  for (int32_t i = 0; i < vec->count; i++) {
    const es_vec_code *code = &vec->code[i];
    if (!w->out->live[i] || code->result < 0) continue;
    if (es_place_constant(code->op) && !vec->reg[code->result].changes)
      w->out->place[code->result].kind = ES_PLACE_constant;
  }
  for (int32_t i = 0; i < vec->count; i++) {
    const es_vec_code *code = &vec->code[i];
    if (!w->out->live[i]) continue;
    if (is_unmasked_load(code->op) && can_fold(w, i))
      w->out->place[code->result].kind = ES_PLACE_folded;
    if (is_set(code->op) && can_merge(w, i)) {
      w->ranges[code->at[1]].into = code->at[0];
      w->out->merged[i] = true;
    }
  }
}

/* --- ranges --- */

static int32_t root(const work *w, int32_t r) {
  while (w->ranges[r].into >= 0) r = w->ranges[r].into;
  return r;
}

static bool same_constant(const es_vec_code *a, const es_vec_code *b) {
  return a->op == b->op && a->type == b->type && a->k == b->k &&
         memcmp(&a->n, &b->n, sizeof a->n) == 0;
}

/* Constants of loops that are to be in a register: the first of equal ones stands for all. Gives how many there are in `list`.
 * `all`: also those that instructions could read from memory. */
static int32_t hoist_constants(work *w, bool all, int32_t *list, int32_t count) {
  const es_vec *vec = w->vec;
  for (int32_t i = 0; i < vec->count; i++) {
    const es_vec_code *code = &vec->code[i];
    if (!w->out->live[i] || w->outer[i] < 0) continue;
    bool memory = false;
    for (int at = ES_VEC_OPERANDS - 1; at >= 0; at--) {
      int32_t r = code->at[at], n = 0;
      if (r < 0 || (at == 0 && is_set(code->op)) || root(w, r) != r) continue;
      if (w->out->place[r].kind != ES_PLACE_constant) continue;
      const es_vec_code *made = &vec->code[vec->reg[r].made];
      while (n < count && !same_constant(&vec->code[vec->reg[list[n]].made], made)) n++;
      bool wanted = all || memory || !es_place_readable(vec, w->target, code, at);
      if (!wanted) memory = true;
      if (n == count && (!wanted || count == HOISTED)) continue;
      if (n == count) {
        list[count++] = r;
        w->ranges[r].hoisted = true;
        w->out->place[r].kind = ES_PLACE_nowhere;
      } else if (list[n] != r) {
        w->ranges[r].into = list[n];
        w->out->place[r].kind = ES_PLACE_nowhere;
      }
    }
  }
  return count;
}

/* Register r is read or set at instruction i: it lives until there, or until the end of the
 * outermost loop around i that does not hold its definition. */
static void touch(work *w, int32_t r, int32_t i) {
  const es_vec *vec = w->vec;
  int32_t made = vec->reg[r].made;
  if (w->out->place[r].kind == ES_PLACE_folded)
    for (int at = 0; at < 2; at++)
      if (vec->code[made].at[at] >= 0) touch(w, vec->code[made].at[at], i);
  range *range_of = &w->ranges[root(w, r)];
  int32_t end = i, depth = 0;
  if (range_of->hoisted) made = -1;
  for (int32_t loop = w->outer[i]; loop >= 0; loop = w->outer[loop], depth++)
    if (loop > made) end = w->close[loop];
  if (end > range_of->end) range_of->end = end;
  range_of->weight += 1 << 3 * (depth < 6 ? depth : 6);
  if (range_of->weight > 1 << 28) range_of->weight = 1 << 28;
}

static void find_ranges(work *w) {
  const es_vec *vec = w->vec;
  for (int32_t r = 0; r < vec->reg_count; r++) {
    w->ranges[r].start = w->ranges[r].hoisted ? 0 : vec->reg[r].made;
    w->ranges[r].end = w->ranges[r].start;
  }
  for (int32_t i = 0; i < vec->count; i++) {
    const es_vec_code *code = &vec->code[i];
    range *counter = &w->ranges[vec->reg_count + i];
    *counter = (range){.start = i, .end = i - 1, .into = -1};
    if (!w->out->live[i]) continue;
    if (code->op == ES_VEC_loop) {
      counter->end = w->close[i];
      counter->uses = 1;
      counter->weight = 1;
      for (int32_t loop = i; loop >= 0; loop = w->outer[loop])
        if (counter->weight < 1 << 28) counter->weight *= 8;
    }
    if (code->result >= 0 && w->out->place[code->result].kind == ES_PLACE_folded) continue;
    for (int at = 0; at < ES_VEC_OPERANDS; at++)
      if (code->at[at] >= 0) touch(w, code->at[at], i);
  }
}

/* --- the scan --- */

typedef struct bank { /* one class of registers */
  uint32_t all, free;
  int32_t slots;
} bank;

static char class_of(const work *w, int32_t r) {
  if (r >= w->vec->reg_count) return 'g';
  char kind = w->vec->reg[r].kind;
  return kind == 'm' && w->target->masks == 0 ? 'v' : kind;
}

static bank *bank_of(bank *banks, char class) {
  return &banks[class == 'v' ? 0 : class == 'm' ? 1 : 2];
}

static bool needs_place(const work *w, int32_t r) {
  if (r < w->vec->reg_count) {
    int8_t kind = w->out->place[r].kind;
    if (kind == ES_PLACE_constant || kind == ES_PLACE_folded || w->ranges[r].into >= 0)
      return false;
    return w->ranges[r].uses > 0;
  }
  return w->ranges[r].end >= w->ranges[r].start;
}

static void release(work *w, bank *banks, int32_t before) {
  int32_t kept = 0;
  for (int32_t n = 0; n < w->active_count; n++) {
    int32_t r = w->active[n];
    if (w->ranges[r].end < before)
      bank_of(banks, class_of(w, r))->free |= 1u << w->out->place[r].at;
    else
      w->active[kept++] = r;
  }
  w->active_count = kept;
}

static void to_frame(work *w, bank *banks, int32_t r) {
  es_place *place = &w->out->place[r];
  if (w->ranges[r].hoisted) {
    *place = (es_place){ES_PLACE_constant, 0};
    return;
  }
  if (r < w->vec->reg_count && !w->vec->reg[r].changes &&
      w->vec->code[w->vec->reg[r].made].op == ES_VEC_g_arg) {
    *place = (es_place){ES_PLACE_argument, (int32_t)w->vec->code[w->vec->reg[r].made].k};
    return;
  }
  /* masks and scalars share the slots of 8 bytes */
  bank *slots = class_of(w, r) == 'v' ? &banks[0] : &banks[2];
  *place = (es_place){ES_PLACE_slot, slots->slots++};
}

/* An argument or a constant costs nothing to store and little to read again. */
static int32_t cost(const work *w, int32_t r) {
  int32_t weight = w->ranges[r].weight;
  bool argument = r < w->vec->reg_count && !w->vec->reg[r].changes &&
                  w->vec->code[w->vec->reg[r].made].op == ES_VEC_g_arg;
  return argument || w->ranges[r].hoisted ? weight / 4 : weight;
}

/* Makes room in a class for r: the cheapest of those that hold a register, or r itself, goes to the
 * frame. False when it was r. */
static bool evict(work *w, bank *banks, int32_t r) {
  int32_t victim = r, at = -1;
  for (int32_t n = 0; n < w->active_count; n++) {
    int32_t other = w->active[n];
    if (class_of(w, other) != class_of(w, r)) continue;
    int32_t a = cost(w, other), b = cost(w, victim);
    if (a < b || (a == b && w->ranges[other].end > w->ranges[victim].end)) victim = other, at = n;
  }
  if (at < 0) {
    to_frame(w, banks, r);
    return false;
  }
  bank_of(banks, class_of(w, victim))->free |= 1u << w->out->place[victim].at;
  to_frame(w, banks, victim);
  w->active[at] = w->active[--w->active_count];
  return true;
}

/* The register to prefer for the result of instruction i: that of an operand that ends here, the
 * addend first, so that a fused multiply-add needs no move. */
static int32_t wish(const work *w, const bank *free_of, int32_t i) {
  static const int8_t order[] = {2, 0, 1};
  const es_vec_code *code = &w->vec->code[i];
  for (int n = 0; n < 3; n++) {
    int32_t r = code->at[order[n]];
    if (r < 0) continue;
    r = root(w, r);
    const es_place *place = &w->out->place[r];
    if (place->kind == ES_PLACE_register && class_of(w, r) == class_of(w, code->result) &&
        (free_of->free >> place->at & 1))
      return place->at;
  }
  return __builtin_ctz(free_of->free);
}

static void take(work *w, bank *banks, int32_t r, int32_t i) {
  bank *from = bank_of(banks, class_of(w, r));
  if (from->free == 0 && !evict(w, banks, r)) return;
  int32_t at = r < w->vec->reg_count && i >= 0 ? wish(w, from, i) : __builtin_ctz(from->free);
  from->free &= ~(1u << at);
  w->out->place[r] = (es_place){ES_PLACE_register, at};
  w->active[w->active_count++] = r;
  if (from == &banks[2]) w->out->scalars_used |= 1u << at;
}

static uint32_t low_bits(int32_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

static void scan(work *w, int32_t scratch) {
  bank banks[3] = {{.all = low_bits(w->target->vectors - scratch)},
                   {.all = low_bits(w->target->masks)},
                   {.all = low_bits(w->target->scalars)}};
  for (int n = 0; n < 3; n++) banks[n].free = banks[n].all;
  w->active_count = 0;
  w->out->scalars_used = 0;
  for (int32_t r = 0; r < w->vec->reg_count; r++)
    if (w->ranges[r].hoisted) take(w, banks, r, -1);
  for (int32_t i = 0; i < w->vec->count; i++) {
    if (!w->out->live[i]) continue;
    int32_t counter = w->vec->reg_count + i, r = w->vec->code[i].result;
    release(w, banks, i); /* ends before i */
    if (needs_place(w, counter)) take(w, banks, counter, i);
    if (r >= 0 && needs_place(w, r) && !w->ranges[r].hoisted) {
      release(w, banks, i + 1); /* the result may take the place of an operand */
      take(w, banks, r, i);
    }
  }
  w->out->vector_slots = banks[0].slots;
  w->out->scalar_slots = banks[2].slots;
}

/* Scratch registers that instruction i needs: for constants and frame operands that cannot be read
 * from memory, for its expansion, for a result that goes to the frame. */
static int32_t scratch_of(const work *w, int32_t i, es_temporaries *temporaries) {
  const es_vec_code *code = &w->vec->code[i];
  int32_t loaded = 0;
  bool memory = false;
  for (int at = 0; at < ES_VEC_OPERANDS; at++) {
    int32_t r = code->at[at];
    if (r < 0 || class_of(w, r) != 'v' || (at == 0 && code->op == ES_VEC_set)) continue;
    if (w->out->place[root(w, r)].kind == ES_PLACE_register) continue;
    bool readable = !memory && es_place_readable(w->vec, w->target, code, at);
    if (readable)
      memory = true;
    else
      loaded++;
  }
  int32_t result = code->op == ES_VEC_set ? code->at[0] : code->result;
  if (result >= 0 && class_of(w, result) == 'v' && loaded == 0 &&
      w->out->place[root(w, result)].kind == ES_PLACE_slot)
    loaded = 1;
  return loaded + temporaries(w->vec, code);
}

static int32_t scratch_needed(const work *w, es_temporaries *temporaries) {
  int32_t most = 0;
  for (int32_t i = 0; i < w->vec->count; i++) {
    int32_t n = w->out->live[i] ? scratch_of(w, i, temporaries) : 0;
    if (n > most) most = n;
  }
  return most;
}

static void forget(work *w) {
  int32_t total = w->vec->reg_count + w->vec->count;
  for (int32_t r = 0; r < total; r++) {
    int8_t kind = w->out->place[r].kind;
    if ((kind != ES_PLACE_constant && kind != ES_PLACE_folded) || w->ranges[r].hoisted)
      w->out->place[r] = (es_place){ES_PLACE_nowhere, 0};
  }
}

static bool allocate(work *w, es_temporaries *temporaries) {
  int32_t scratch = 0;
  for (int pass = 0; pass < PASSES; pass++) {
    if (scratch >= w->target->vectors) return false;
    forget(w);
    scan(w, scratch);
    int32_t needed = scratch_needed(w, temporaries);
    if (needed <= scratch) {
      w->out->scratch = scratch;
      return true;
    }
    scratch = needed;
  }
  return false;
}

/* --- all of it --- */

static bool prepare(work *w) {
  size_t count = (size_t)w->vec->count, total = count + (size_t)w->vec->reg_count + 1;
  w->ranges = es_alloc_array(total, sizeof *w->ranges);
  w->active = es_alloc_array(total, sizeof *w->active);
  w->block = es_alloc_array(count + 1, sizeof *w->block);
  w->store_before = es_alloc_array(count + 1, sizeof *w->store_before);
  w->outer = es_alloc_array(count + 1, sizeof *w->outer);
  w->close = es_alloc_array(count + 1, sizeof *w->close);
  w->out->place = es_alloc_array(total, sizeof *w->out->place);
  w->out->live = es_alloc_array(count + 1, sizeof *w->out->live);
  w->out->merged = es_alloc_array(count + 1, sizeof *w->out->merged);
  if (!w->ranges || !w->active || !w->block || !w->store_before || !w->outer || !w->close ||
      !w->out->place || !w->out->live || !w->out->merged)
    return false;
  for (size_t r = 0; r < total; r++) w->ranges[r].into = -1;
  return true;
}

static void share_places(work *w) {
  for (int32_t r = 0; r < w->vec->reg_count; r++) {
    if (w->ranges[r].into >= 0) w->out->place[r] = w->out->place[root(w, r)];
    if (w->ranges[r].hoisted && w->out->place[r].kind == ES_PLACE_register)
      w->out->hoisted[w->out->hoisted_count++] = r;
  }
}

esper_status es_place_all(const es_vec *vec, const es_target *target, es_temporaries *temporaries,
                          es_placement *out, es_error *err) {
  *out = (es_placement){0};
  work w = {.vec = vec, .target = target, .out = out};
  esper_status status = ESPER_OK;
  if (!prepare(&w)) {
    status = es_fail(err, ESPER_ENOMEM, "vector block: out of memory");
  } else {
    count_uses(&w);
    drop_unread(&w);
    map_blocks(&w);
    simplify(&w);
    int32_t list[HOISTED];
    hoist_constants(&w, true, list, hoist_constants(&w, false, list, 0));
    find_ranges(&w);
    if (allocate(&w, temporaries))
      share_places(&w);
    else
      status = es_fail(err, ESPER_ECOMPILE, "vector block: its values do not fit %d registers",
                       target->vectors);
  }
  es_free(w.ranges);
  es_free(w.active);
  es_free(w.block);
  es_free(w.store_before);
  es_free(w.outer);
  es_free(w.close);
  if (status != ESPER_OK) es_placement_clear(out);
  return status;
}

void es_placement_clear(es_placement *placement) {
  es_free(placement->place);
  es_free(placement->live);
  es_free(placement->merged);
  *placement = (es_placement){0};
}
