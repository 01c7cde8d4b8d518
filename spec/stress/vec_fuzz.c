/* Stress: random vector programs, for every ISA this processor runs. Each is interpreted here, from the rows of vec.def,
 * and lowered, compiled and run; both must leave memory bit-equal (any NaN equals any NaN), and the registers that belong to
 * the caller as they were. Some keep many values alive, so that registers run out; pointers move between a load and its use;
 * many values are used once, which is when they are computed elsewhere than where they are written; loops nest.
 *     vec_fuzz N SEED [plant]      one line: name seed n fail metric; exit status 1 when anything differed
 * "plant" gives the interpreter a wrong sub: the proof that a wrong instruction is seen. */
#include <math.h>
#include "base/memory.h"
#include "fuzz.h"
#include "jit/jit.h"
#include "kept_call.h"
#include "vec/block.h"

enum { BEFORE = 80, OFFSETS = 32, RESULTS = 24, LANES = 16, BATCH = 40, POOL = 512, TRIALS = 4, WORDS = 6, MUTABLES = 3, ONCE = 24, FAVOURITES = 6 };
enum { CELLS = BEFORE + OFFSETS + 4 * LANES + (RESULTS + 2) * LANES }; /* strides reach 4 lanes' elements both ways */
/* Words of a call: float memory, integer memory, three loop counts, stride. Float and integer memory stay apart, since
 * which NaN an operation gives is nobody's promise. */
static bool plant;

typedef union cell { float f; double d; int32_t i; uint32_t u; int64_t s; uint64_t l; } cell;
typedef struct value { cell lane[LANES]; } value; /* scalars: lane 0 */

/* --- interpreter ------------------------------------------------------------------------------------------------ */

static cell load(int32_t bytes, int64_t address) {
  cell c = { .l = 0 };
  memcpy(&c, (const void *)address, (size_t)bytes);
  return c;
}

static double number(cell c, bool wide) { return wide ? c.d : (double)c.f; }

/* Arithmetic of one lane, rounded once to the element type. */
static cell floats(int32_t op, bool wide, bool fused, cell a, cell b, cell c) {
  cell x = { .l = 0 };
  double p = number(a, wide), q = number(b, wide), r = 0;
  if (wide) {
    volatile double product = p * q;
    switch (op) {
      case ES_VEC_add: r = p + q; break;
      case ES_VEC_sub: r = p - q; break;
      case ES_VEC_mul: r = product; break;
      case ES_VEC_div: r = p / q; break;
      case ES_VEC_fma: r = fused ? fma(p, q, c.d) : product + c.d; break;
      case ES_VEC_sqrt: r = sqrt(p); break;
      case ES_VEC_rint: r = rint(p); break;
      case ES_VEC_min: r = p < q ? p : q; break;
      case ES_VEC_max: r = p > q ? p : q; break;
      case ES_VEC_scalef: r = ldexp(p, (int)floor(q)); break;
      default: abort();
    }
    x.d = plant && op == ES_VEC_sub ? q - p : r;
    return x;
  }
  volatile float product = a.f * b.f;
  switch (op) {
    case ES_VEC_add: x.f = a.f + b.f; break;
    case ES_VEC_sub: x.f = plant ? b.f - a.f : a.f - b.f; break;
    case ES_VEC_mul: x.f = product; break;
    case ES_VEC_div: x.f = a.f / b.f; break;
    case ES_VEC_fma: x.f = fused ? fmaf(a.f, b.f, c.f) : product + c.f; break;
    case ES_VEC_sqrt: x.f = sqrtf(a.f); break;
    case ES_VEC_rint: x.f = rintf(a.f); break;
    case ES_VEC_min: x.f = a.f < b.f ? a.f : b.f; break;
    case ES_VEC_max: x.f = a.f > b.f ? a.f : b.f; break;
    case ES_VEC_scalef: x.f = (float)ldexp(p, (int)floor(q)); break;
    default: abort();
  }
  return x;
}

static cell integers(int32_t op, int32_t bits, cell a, cell b, int64_t k) {
  uint64_t ones = bits == 64 ? ~0ull : 0xffffffffull, x = 0;
  switch (op) {
    case ES_VEC_add: x = a.l + b.l; break;
    case ES_VEC_sub: x = a.l - b.l; break;
    case ES_VEC_and_: x = a.l & b.l; break;
    case ES_VEC_or_: x = a.l | b.l; break;
    case ES_VEC_xor_: x = a.l ^ b.l; break;
    case ES_VEC_shl: x = a.l << k; break;
    case ES_VEC_shr: x = a.l >> k; break;
    case ES_VEC_sar: x = bits == 64 ? (uint64_t)(a.s >> k) : (uint64_t)(int64_t)(a.i >> k); break;
    case ES_VEC_rotl: x = k ? a.l << k | a.l >> (bits - k) : a.l; break;
    default: abort();
  }
  return (cell){ .l = x & ones };
}

static bool compare(int32_t op, int32_t type, cell a, cell b) {
  bool floating = type == ES_VEC_f32 || type == ES_VEC_f64, wide = type == ES_VEC_f64 || type == ES_VEC_i64;
  double p = number(a, wide), q = number(b, wide);
  int64_t i = wide ? a.s : a.i, j = wide ? b.s : b.i;
  switch (op) {
    case ES_VEC_lt: return floating ? p < q : i < j;
    case ES_VEC_le: return floating ? p <= q : i <= j;
    case ES_VEC_eq: return floating ? p == q : i == j;
    default: return floating ? p != q : i != j;
  }
}

static int64_t scalar(const es_vec_code *code, const int64_t *words, int64_t a, int64_t b) {
  uint64_t p = (uint64_t)a, q = (uint64_t)b, k = (uint64_t)code->k;
  switch (code->op) {
    case ES_VEC_g_arg: return words[code->k];
    case ES_VEC_g_const: return code->k;
    case ES_VEC_g_add: return (int64_t)(p + q);
    case ES_VEC_g_addk: return (int64_t)(p + k);
    case ES_VEC_g_sub: return (int64_t)(p - q);
    case ES_VEC_g_mulk: return (int64_t)(p * k);
    default: return a >> code->k;
  }
}

/* Combines halves pairwise; every lane gets lane 0 of it. */
static cell across(const es_vec_code *code, const es_vec *v, const value *a) {
  int32_t op = code->op == ES_VEC_hadd ? ES_VEC_add : code->op == ES_VEC_hmin ? ES_VEC_min : ES_VEC_max;
  value x = *a;
  for (int32_t half = v->lanes / 2; half > 0; half /= 2)
    for (int32_t i = 0; i < half; i++) x.lane[i] = floats(op, v->element_bytes == 8, true, x.lane[i], x.lane[i + half], x.lane[i]);
  return x.lane[0];
}

/* Rearranging: where lane `lane` of the result comes from. */
static cell moved(const es_vec_code *code, const es_vec *v, int32_t lane, const value *a, const value *b) {
  int32_t per = 16 / v->element_bytes, first = lane / per * per, in = lane % per, half = per / 2, parts = v->lanes / per;
  switch (code->op) {
    case ES_VEC_unpl: return (in % 2 ? b : a)->lane[first + in / 2];
    case ES_VEC_unph: return (in % 2 ? b : a)->lane[first + half + in / 2];
    case ES_VEC_unpl2: return (in / 2 ? b : a)->lane[first + in % 2];
    case ES_VEC_unph2: return (in / 2 ? b : a)->lane[first + half + in % 2];
    default: break;
  }
  int32_t part = lane / per;
  if (parts == 4) return (part < 2 ? a : b)->lane[(code->k >> 2 * part & 3) * per + in];
  int32_t which = (int32_t)(code->k >> 4 * part & 3);
  return (which < 2 ? a : b)->lane[which % 2 * per + in];
}

static cell element(const es_vec_code *code, const es_vec *v, int32_t lane, const value *const x[4]) {
  int32_t bytes = v->element_bytes;
  bool wide = bytes == 8, floating = code->type == ES_VEC_f32 || code->type == ES_VEC_f64;
  uint64_t ones = wide ? ~0ull : 0xffffffffull, sign = wide ? 1ull << 63 : 1ull << 31;
  cell a = x[0]->lane[lane], b = x[1]->lane[lane], c = x[2]->lane[lane], r = { .l = 0 };
  int64_t base = x[0]->lane[0].s, second = x[1]->lane[0].s;
  switch (code->op) {
    case ES_VEC_load: return load(bytes, base + lane * bytes + code->k);
    case ES_VEC_loadx: return load(bytes, base + second * (int64_t)code->n + lane * bytes + code->k);
    case ES_VEC_bcast: return load(bytes, base + code->k);
    case ES_VEC_bcastx: return load(bytes, base + second * (int64_t)code->n + code->k);
    case ES_VEC_loads: return load(bytes, base + lane * second + code->k);
    case ES_VEC_loadm: return c.l ? load(bytes, base + lane * bytes + code->k) : r;
    case ES_VEC_loadsm: return x[3]->lane[lane].l ? load(bytes, base + lane * second + code->k) : r;
    case ES_VEC_splat: if (wide) r.d = code->n; else r.f = (float)code->n; return r;
    case ES_VEC_splati: r.l = (uint64_t)code->k & ones; return r;
    case ES_VEC_splatg: r.l = (uint64_t)base & ones; return r;
    case ES_VEC_iota: r.s = lane; return r;
    case ES_VEC_neg: r.l = a.l ^ sign; return r;
    case ES_VEC_abs: r.l = a.l & ~sign; return r;
    case ES_VEC_cvt_i: if (wide) r.s = (int64_t)rint(a.d); else r.i = (int32_t)rintf(a.f); return r;
    case ES_VEC_cvtt_i: if (wide) r.s = (int64_t)a.d; else r.i = (int32_t)a.f; return r;
    case ES_VEC_cvt_f: if (wide) r.d = (double)a.s; else r.f = (float)a.i; return r;
    case ES_VEC_bits: return a;
    case ES_VEC_hadd: case ES_VEC_hmin: case ES_VEC_hmax: return across(code, v, x[0]);
    case ES_VEC_unpl: case ES_VEC_unph: case ES_VEC_unpl2: case ES_VEC_unph2: case ES_VEC_part: return moved(code, v, lane, x[0], x[1]);
    case ES_VEC_lt: case ES_VEC_le: case ES_VEC_eq: case ES_VEC_ne: r.l = compare(code->op, code->type, a, b); return r;
    case ES_VEC_m_and: r.l = a.l & b.l; return r;
    case ES_VEC_m_or: r.l = a.l | b.l; return r;
    case ES_VEC_m_not: r.l = !a.l; return r;
    case ES_VEC_m_tail: r.l = lane < base; return r;
    case ES_VEC_select: return a.l ? b : c;
    default: return floating ? floats(code->op, wide, v->isa != ES_ISA_scalar, a, b, c) : integers(code->op, 8 * bytes, a, b, code->k);
  }
}

static void store(const es_vec_code *code, const es_vec *v, const value *reg) {
  const int32_t *at = code->at;
  bool strided = code->op == ES_VEC_stores || code->op == ES_VEC_storesm;
  bool masked = code->op == ES_VEC_storem || code->op == ES_VEC_storesm;
  int64_t step = strided ? reg[at[1]].lane[0].s : v->element_bytes;
  for (int32_t lane = 0; lane < (code->op == ES_VEC_store1 ? 1 : v->lanes); lane++) {
    if (masked && !reg[at[strided ? 4 : 3]].lane[lane].l) continue;
    memcpy((void *)(reg[at[0]].lane[0].s + lane * step + code->k), &reg[at[strided ? 2 : 1]].lane[lane], (size_t)v->element_bytes);
  }
}

/* The instruction after the end of the loop that opens at pc. */
static int32_t past_loop(const es_vec *v, int32_t pc) {
  for (int32_t open = 1; open > 0;) {
    pc++;
    open += (v->code[pc].op == ES_VEC_loop) - (v->code[pc].op == ES_VEC_end);
  }
  return pc + 1;
}

static void interpret(const es_vec *v, const int64_t *words) {
  static value reg[1 << 14];
  static const value none;
  if (v->reg_count > (int32_t)(sizeof reg / sizeof *reg)) abort();
  int64_t left[ES_VEC_NESTING];
  int32_t start[ES_VEC_NESTING], depth = 0;
  for (int32_t pc = 0; pc < v->count;) {
    const es_vec_code *code = &v->code[pc];
    const int32_t *at = code->at;
    switch (code->op) {
      case ES_VEC_store: case ES_VEC_storem: case ES_VEC_stores: case ES_VEC_storesm: case ES_VEC_store1: case ES_VEC_storent:
        store(code, v, reg);
        break;
      case ES_VEC_set: case ES_VEC_g_set: reg[at[0]] = reg[at[1]]; break;
      case ES_VEC_note: case ES_VEC_prefetch: break;
      case ES_VEC_loop:
        if (reg[at[0]].lane[0].s <= 0) { pc = past_loop(v, pc); continue; }
        left[depth] = reg[at[0]].lane[0].s;
        start[depth++] = pc;
        break;
      case ES_VEC_end:
        if (--left[depth - 1] > 0) pc = start[depth - 1];
        else depth--;
        break;
      default: {
        const value *x[4];
        for (int32_t i = 0; i < 4; i++) x[i] = at[i] < 0 ? &none : &reg[at[i]];
        value *r = &reg[code->result];
        if (v->reg[code->result].kind == 'g')
          r->lane[0].s = scalar(code, words, x[0]->lane[0].s, x[1]->lane[0].s);
        else
          for (int32_t lane = 0; lane < v->lanes; lane++) r->lane[lane] = element(code, v, lane, x);
      }
    }
    pc++;
  }
}

/* --- generator: any row, operands of the letters it wants ---------------------------------------------------------- */

typedef struct pool { int32_t reg[POOL], count; } pool;
typedef struct once { int32_t reg[ONCE], count, lowest; } once; /* lowest: since the loop opened; those below are from outside */
typedef struct maker {
  es_vec *v;
  int32_t bytes, base[2], count[3], stride; /* [0] float, [1] integer */
  int32_t mutable_g[MUTABLES], mutable_v[2][MUTABLES];
  int32_t pointer[2][MUTABLES]; /* anywhere in the first half of the offsets; moved by a g_set some time after next[] was made */
  int32_t next[2];              /* -1: none */
  int32_t index;                /* a small number that changes */
  bool spread;                  /* old values are as welcome as new ones, so that many are alive */
  int32_t favourite[FAVOURITES];
  pool g, m, x[2];
  once fresh[2];                /* vectors that nothing has read, and that will be read once at most */
} maker;
static int64_t used[ES_VEC_COUNT];

static int32_t put(maker *k, int32_t op, int32_t type, int32_t a, int32_t b, int32_t c, int32_t d, int32_t e, int64_t n, double f) {
  int32_t r = es_vec_emit(k->v, op, type, a, b, c, d, e, n, f);
  if (r < 0) {
    fprintf(stderr, "builder refused a sound program: %s\n", es_vec_failure(k->v));
    exit(1);
  }
  used[op]++;
  return r;
}

static void keep(pool *p, int32_t reg) {
  if (p->count < POOL) p->reg[p->count++] = reg;
}

static int32_t pick(const maker *k, const pool *p) { /* mostly a recent one, so that expressions grow deep */
  int32_t recent = p->count < 6 ? p->count : 6;
  return p->reg[!k->spread && below(3) ? p->count - 1 - below(recent) : below(p->count)];
}

static int32_t pick_vector(maker *k, int32_t class) {
  once *fresh = &k->fresh[class];
  if (fresh->count == 0 || below(3) == 0) return pick(k, &k->x[class]);
  if (fresh->lowest >= fresh->count) fresh->lowest = fresh->count - 1;
  return fresh->reg[--fresh->count];
}

static void keep_vector(maker *k, int32_t class, int32_t reg, bool load) {
  once *fresh = &k->fresh[class];
  if (fresh->count < ONCE && below(8) < (load ? 6 : 3))
    fresh->reg[fresh->count++] = reg;
  else
    keep(&k->x[class], reg);
}

static double special(void) {
  static const double list[] = { 0, -0.0, 1, -1, 0.5, 1.5, 2.5, -2.5, 3.14159274101257324, 1e-40, -1e-310, 4e38, 1e300, 1e20,
                                 INFINITY, -INFINITY, NAN, 16777217, 999999, 1e-3, 0x1.fffffep127, 0x1p-149, 0x1p-126 };
  return below(4) ? list[below((int32_t)(sizeof list / sizeof *list))] : ldexp((double)(int32_t)draw(), below(60) - 40);
}

static int32_t type_of(const maker *k, int32_t class) {
  return k->bytes == 8 ? (class ? ES_VEC_i64 : ES_VEC_f64) : (class ? ES_VEC_i32 : ES_VEC_f32);
}

/* Conversions are defined in range only, and which NaN bits there are is not. */
static int32_t tamed(maker *k, int32_t op, int32_t reg) {
  int32_t none = ES_VEC_none;
  if (op == ES_VEC_bits)
    return put(k, ES_VEC_select, none, put(k, ES_VEC_eq, none, reg, reg, -1, -1, -1, 0, 0), reg,
               put(k, ES_VEC_splat, none, -1, -1, -1, -1, -1, 0, 0), -1, -1, 0, 0);
  int32_t high = put(k, ES_VEC_splat, none, -1, -1, -1, -1, -1, 0, 1e6), low = put(k, ES_VEC_splat, none, -1, -1, -1, -1, -1, 0, -1e6);
  return put(k, ES_VEC_max, none, put(k, ES_VEC_min, none, reg, high, -1, -1, -1, 0, 0), low, -1, -1, -1, 0, 0);
}

static int64_t constant(const maker *k, int32_t op) {
  switch (op) {
    case ES_VEC_g_arg: return 2 + below(3); /* a count: small */
    case ES_VEC_g_shrk: return below(64);
    case ES_VEC_shl: case ES_VEC_shr: case ES_VEC_sar: case ES_VEC_rotl: return below(8 * k->bytes);
    case ES_VEC_note: return below(9);
    case ES_VEC_part: return k->v->lanes * k->bytes == 64 ? below(256) : below(256) & 0x33;
    case ES_VEC_g_const: case ES_VEC_g_addk: case ES_VEC_g_mulk: case ES_VEC_splati: return (int32_t)draw();
    case ES_VEC_storent: return below(2) * k->v->lanes * k->bytes; /* the bases are aligned, and so must this be */
    default: return below(OFFSETS / 2) * k->bytes;
  }
}

static bool is_memory(const char *name) {
  return strncmp(name, "load", 4) == 0 || strncmp(name, "store", 5) == 0 || strncmp(name, "bcast", 5) == 0;
}

/* Does the row exist for the block's lanes and ISA? */
static bool exists(const es_vec *v, int32_t op) {
  bool pairs = op == ES_VEC_unpl2 || op == ES_VEC_unph2;
  bool rearranges = pairs || op == ES_VEC_unpl || op == ES_VEC_unph || op == ES_VEC_part;
  return !(rearranges && v->lanes == 1) && !(pairs && v->element_bytes == 8) && !(op == ES_VEC_scalef && v->isa != ES_ISA_avx512);
}

/* First a place for a pointer, and some time later the move: what stands between still means the old place. */
static void move_pointer(maker *k) {
  int32_t class = below(2), none = ES_VEC_none;
  if (k->next[class] < 0) {
    k->next[class] = put(k, ES_VEC_g_addk, none, k->base[class], -1, -1, -1, -1, below(OFFSETS / 2) * k->bytes, 0);
    return;
  }
  put(k, ES_VEC_g_set, none, k->pointer[class][below(MUTABLES)], k->next[class], -1, -1, -1, 0, 0);
  k->next[class] = -1;
}

static int32_t scalar_for(maker *k, int32_t op, int32_t place, int32_t class) {
  if (!is_memory(es_vec_row_of(op)->name)) return pick(k, &k->g);
  if (place == 0) return op != ES_VEC_storent && below(4) ? k->pointer[class][below(MUTABLES)] : k->base[class];
  return op == ES_VEC_loadx || op == ES_VEC_bcastx ? k->count[below(3)] : k->stride;
}

static void instruction(maker *k, int32_t op) {
  const es_vec_row *row = es_vec_row_of(op);
  int32_t class = row->types[0] == 'b' ? below(2) : row->types[0] == 'i', at[5] = { -1, -1, -1, -1, -1 };
  bool converts = op == ES_VEC_cvt_i || op == ES_VEC_cvtt_i || op == ES_VEC_cvt_f || op == ES_VEC_bits;
  if (!exists(k->v, op)) return;
  for (int32_t i = 0; row->operands[i]; i++) {
    int32_t from = converts ? !class : class;
    if (row->operands[i] == 'v') at[i] = pick_vector(k, from);
    if (row->operands[i] == 'm') at[i] = pick(k, &k->m);
    if (row->operands[i] == 'g') at[i] = scalar_for(k, op, i, class);
  }
  if (op == ES_VEC_g_set) {
    if (below(2)) { move_pointer(k); return; }
    at[0] = k->mutable_g[below(MUTABLES)];
  }
  if (op == ES_VEC_set) at[0] = k->mutable_v[class][below(MUTABLES)];
  if (converts && class == 1) at[0] = tamed(k, op, at[0]);
  if (op == ES_VEC_scalef) at[1] = tamed(k, op, at[1]);
  int32_t type = row->types[0] == '-' ? (int32_t)ES_VEC_none : type_of(k, class);
  double n = special();
  if (op == ES_VEC_loadx || op == ES_VEC_bcastx) /* float memory is read by elements: a part of a NaN is nobody's promise */
    n = class == 1 ? 1 << below(4) : k->bytes == 8 ? 8 : 4 << below(2);
  int32_t result = put(k, op, type, at[0], at[1], at[2], at[3], at[4], constant(k, op), n);
  if (row->result[0] == 'v') keep_vector(k, class, result, is_memory(row->name));
  if (row->result[0] == 'm') keep(&k->m, result);
  if (row->result[0] == 'g') keep(&k->g, result);
}

/* A load that one instruction reads, its pointer or index moved in between, or just after: to a value made before or after
 * the load. */
static void moved_load(maker *k) {
  static const int32_t loads[] = { ES_VEC_load, ES_VEC_bcast, ES_VEC_loadx, ES_VEC_bcastx }, users[] = { ES_VEC_add, ES_VEC_sub };
  int32_t none = ES_VEC_none, class = below(2), p = k->pointer[class][below(MUTABLES)], op = loads[below(4)], when = below(4);
  bool indexed = op == ES_VEC_loadx || op == ES_VEC_bcastx, by_index = indexed && below(2);
  int32_t index = by_index ? k->index : k->count[below(3)], moved = by_index ? k->index : p, next = -1, v = -1;
  for (int32_t step = 0; step < 2; step++) {
    if (step == (when < 2))
      v = put(k, op, type_of(k, class), p, indexed ? index : -1, -1, -1, -1, 0, k->bytes);
    else if (by_index)
      next = put(k, ES_VEC_g_const, none, -1, -1, -1, -1, -1, below(4), 0);
    else
      next = put(k, ES_VEC_g_addk, none, k->base[class], -1, -1, -1, -1, below(OFFSETS / 2) * k->bytes, 0);
  }
  if (when % 2) put(k, ES_VEC_g_set, none, moved, next, -1, -1, -1, 0, 0);
  int32_t other = pick(k, &k->x[class]), swap = below(2);
  keep(&k->x[class], put(k, users[below(2)], none, swap ? v : other, swap ? other : v, -1, -1, -1, 0, 0));
  if (when % 2 == 0) put(k, ES_VEC_g_set, none, moved, next, -1, -1, -1, 0, 0);
}

/* Up to more vectors, masks and scalars alive around a few instructions than there are registers; all of them show in the last
 * row of integer memory. */
static void crowd(maker *k) {
  enum { VECTORS = 44, MASKS = 12, SCALARS = 20 };
  int32_t v[VECTORS], vectors = 2 + below(VECTORS - 1), m[MASKS], masks = below(MASKS + 1), g[SCALARS], scalars = below(SCALARS + 1);
  int32_t none = ES_VEC_none;
  for (int32_t i = 0; i < vectors; i++) v[i] = put(k, ES_VEC_load, type_of(k, 1), k->base[1], -1, -1, -1, -1, i % OFFSETS * k->bytes, 0);
  for (int32_t i = 0; i < masks; i++) m[i] = put(k, ES_VEC_lt, none, v[i % vectors], v[(i + 1) % vectors], -1, -1, -1, 0, 0);
  for (int32_t i = 0; i < scalars; i++) g[i] = put(k, ES_VEC_g_addk, none, k->count[i % 3], -1, -1, -1, -1, i, 0);
  put(k, ES_VEC_store, none, k->base[1], v[0], -1, -1, -1, 0, 0); /* no load behind this can stand for one before */
  bool loop = below(2);
  maker before = *k;
  if (loop) put(k, ES_VEC_loop, none, k->count[below(3)], -1, -1, -1, -1, 0, 0);
  for (int32_t n = below(4); n >= 0; n--) {
    int32_t op = below(ES_VEC_COUNT);
    if (op != ES_VEC_loop && op != ES_VEC_end) instruction(k, op);
  }
  if (loop) put(k, ES_VEC_end, none, -1, -1, -1, -1, -1, 0, 0);
  if (loop) *k = before; /* what was made is gone with the loop */
  int32_t sum = v[0], total = k->count[0];
  for (int32_t i = 1; i < vectors; i++) sum = put(k, ES_VEC_xor_, none, sum, v[i], -1, -1, -1, 0, 0);
  for (int32_t i = 0; i < masks; i++) sum = put(k, ES_VEC_add, none, sum, put(k, ES_VEC_select, none, m[i], v[0], sum, -1, -1, 0, 0), -1, -1, -1, 0, 0);
  for (int32_t i = 0; i < scalars; i++) total = put(k, ES_VEC_g_add, none, total, g[i], -1, -1, -1, 0, 0);
  sum = put(k, ES_VEC_add, none, sum, put(k, ES_VEC_splatg, none, total, -1, -1, -1, -1, 0, 0), -1, -1, -1, 0, 0);
  put(k, ES_VEC_store, none, k->base[1], sum, -1, -1, -1, (OFFSETS + 4 * LANES + (RESULTS + 1) * LANES) * k->bytes, 0);
}

static void body(maker *k, int32_t depth) {
  int32_t g = k->g.count, m = k->m.count, f = k->x[0].count, i = k->x[1].count, lowest[2];
  for (int32_t n = 0; n < 2; n++) lowest[n] = k->fresh[n].lowest, k->fresh[n].lowest = k->fresh[n].count;
  for (int32_t n = 4 + below(30); n > 0; n--) {
    int32_t op = below(2) ? k->favourite[below(FAVOURITES)] : below(ES_VEC_COUNT);
    if (op == ES_VEC_end) continue;
    if (below(6) == 0) op = below(2) ? ES_VEC_fma : ES_VEC_set;
    if (below(12) == 0) { moved_load(k); continue; }
    if (op != ES_VEC_loop) { instruction(k, op); continue; }
    if (depth == 4) continue;
    k->next[0] = k->next[1] = -1;
    put(k, op, ES_VEC_none, k->count[below(3)], -1, -1, -1, -1, 0, 0);
    body(k, depth + 1);
    put(k, ES_VEC_end, ES_VEC_none, -1, -1, -1, -1, -1, 0, 0);
    k->next[0] = k->next[1] = -1;
  }
  if (depth == 0) return;
  k->g.count = g, k->m.count = m, k->x[0].count = f, k->x[1].count = i; /* gone with the loop */
  for (int32_t n = 0; n < 2; n++) {
    once *fresh = &k->fresh[n];
    fresh->count = fresh->lowest < fresh->count ? fresh->lowest : fresh->count;
    fresh->lowest = lowest[n] < fresh->count ? lowest[n] : fresh->count;
  }
}

static void start(maker *k) {
  int32_t none = ES_VEC_none;
  for (int32_t i = 0; i < 2; i++) k->base[i] = put(k, ES_VEC_g_arg, none, -1, -1, -1, -1, -1, i, 0);
  for (int32_t i = 0; i < 3; i++) keep(&k->g, k->count[i] = put(k, ES_VEC_g_arg, none, -1, -1, -1, -1, -1, 2 + i, 0));
  k->stride = put(k, ES_VEC_g_arg, none, -1, -1, -1, -1, -1, 5, 0);
  k->index = put(k, ES_VEC_g_const, none, -1, -1, -1, -1, -1, below(4), 0);
  for (int32_t i = 0; i < FAVOURITES; i++) k->favourite[i] = below(ES_VEC_COUNT);
  for (int32_t i = 0; i < MUTABLES; i++) {
    int32_t from = i == 0 ? ES_VEC_g_arg : ES_VEC_g_const;
    keep(&k->g, k->mutable_g[i] = put(k, from, none, -1, -1, -1, -1, -1, i == 0 ? 2 + below(3) : below(100), 0));
    for (int32_t class = 0; class < 2; class++) {
      k->pointer[class][i] = put(k, ES_VEC_g_addk, none, k->base[class], -1, -1, -1, -1, below(OFFSETS / 2) * k->bytes, 0);
      int32_t v = i == 0 ? put(k, ES_VEC_load, type_of(k, class), k->pointer[class][0], -1, -1, -1, -1, 0, 0)
                         : put(k, class ? ES_VEC_splati : ES_VEC_splat, none, -1, -1, -1, -1, -1, 7, special());
      keep(&k->x[class], k->mutable_v[class][i] = v);
    }
  }
  for (int32_t n = k->spread ? below(40) : 1; n >= 0; n--)
    for (int32_t class = 0; class < 2; class++)
      keep(&k->x[class], put(k, ES_VEC_load, type_of(k, class), k->base[class], -1, -1, -1, -1, n % OFFSETS * k->bytes, 0));
  for (int32_t n = k->spread ? below(20) : 0; n > 0; n--)
    keep(&k->g, put(k, ES_VEC_g_addk, none, pick(k, &k->g), -1, -1, -1, -1, below(100), 0));
  for (int32_t n = k->spread ? below(16) : 1; n >= 0; n--)
    keep(&k->m, put(k, ES_VEC_lt, none, pick(k, &k->x[0]), pick(k, &k->x[0]), -1, -1, -1, 0, 0));
}

static es_vec *program(es_isa isa, int32_t bytes) {
  maker k = { .v = es_vec_new(isa, bytes), .bytes = bytes, .next = { -1, -1 }, .spread = below(2) };
  start(&k);
  if (below(3)) body(&k, 0);
  else crowd(&k);
  int32_t at = (OFFSETS + 4 * LANES) * bytes, none = ES_VEC_none;
  for (int32_t i = 0; i < RESULTS; i++, at += LANES * bytes) /* what was computed shows in memory */
    for (int32_t class = 0; class < 2; class++)
      put(&k, ES_VEC_store, none, k.base[class], pick_vector(&k, class), -1, -1, -1, at, 0);
  int32_t scalar_of = put(&k, ES_VEC_splatg, none, pick(&k, &k.g), -1, -1, -1, -1, 0, 0);
  put(&k, ES_VEC_store, none, k.base[1], scalar_of, -1, -1, -1, at, 0);
  return k.v;
}

static es_isa draw_isa(void) {
  int32_t isa = below(ES_ISA_COUNT);
  return es_isa_supported(isa) ? (es_isa)isa : ES_ISA_scalar;
}

/* --- one batch: one C unit ---------------------------------------------------------------------------------------- */

typedef struct memory { _Alignas(64) uint8_t floats[CELLS * 8], integers[CELLS * 8]; } memory;

static void fill(memory *m, int32_t bytes) {
  for (int32_t i = 0; i < CELLS; i++) {
    double d = special();
    float f = (float)d;
    uint64_t n = below(4) ? draw() : (uint64_t)below(4) - 2;
    memcpy(m->floats + i * bytes, bytes == 8 ? (void *)&d : (void *)&f, (size_t)bytes);
    memcpy(m->integers + i * bytes, &n, (size_t)bytes);
  }
}

/* -1, or the first byte that differs: of float memory, then of integer memory. */
static int32_t difference(const memory *p, const memory *q, int32_t bytes) {
  for (int32_t i = 0; i < CELLS; i++) {
    cell a = load(bytes, (int64_t)(p->floats + i * bytes)), b = load(bytes, (int64_t)(q->floats + i * bytes));
    bool nans = isnan(number(a, bytes == 8)) && isnan(number(b, bytes == 8));
    if (a.l != b.l && !nans) return i * bytes;
  }
  for (int32_t i = 0; i < CELLS * bytes; i++)
    if (p->integers[i] != q->integers[i]) return i + CELLS * 8;
  return -1;
}

/* Where memory differed, as an offset to the base pointers; true when it never did. */
static bool agrees(const es_vec *v, void (*run)(const int64_t *), int32_t *at, bool *integer) {
  static memory m, start, want; /* both run in the same place, so that addresses are equal */
  for (int32_t t = 0; t < TRIALS; t++) {
    memset(&start, 0, sizeof start);
    fill(&start, v->element_bytes);
    static const int32_t strides[TRIALS] = { 4, 1, 0, -3 };
    int32_t bytes = v->element_bytes;
    int64_t words[WORDS] = { (int64_t)(m.floats + BEFORE * bytes), (int64_t)(m.integers + BEFORE * bytes), t, 3 - t, 2,
                             strides[t] * bytes };
    m = start;
    interpret(v, words);
    want = m;
    m = start;
    bool kept = call(run, words);
    *at = difference(&m, &want, bytes);
    if (!kept) fprintf(stderr, "vec_fuzz: registers of the caller have changed\n");
    if (!kept && *at < 0) *at = 0;
    *integer = *at >= CELLS * 8;
    if (*at < 0) continue;
    *at -= BEFORE * bytes + (*integer ? CELLS * 8 : 0);
    return false;
  }
  return true;
}

static void show(const es_vec *v, uint64_t seed, int64_t n, int32_t at, bool integer) {
  es_text text = { 0 };
  es_vec_print(v, &text);
  fprintf(stderr, "vec_fuzz: program %lld of seed %llu differs at g%d + %d\n%s", (long long)n, (unsigned long long)seed, integer,
          at, text.bytes);
  es_text_clear(&text);
}

static int64_t batch(uint64_t seed, int64_t first, int64_t *wrong) {
  es_text unit = { 0 }, object = { 0 };
  es_error err = { 0 };
  es_vec *programs[BATCH];
  es_code *code = NULL;
  char name[32];
  for (int32_t j = 0; j < BATCH; j++) {
    start_round(seed, first + j);
    programs[j] = program(draw_isa(), below(2) ? 8 : 4);
    snprintf(name, sizeof name, "block%d", j);
    if (es_vec_lower(programs[j], name, &unit, &err)) break;
    es_text_add(&unit, "void run%d(const long *w) { block%d(w); }\n", j, j);
  }
  if (err.status || es_jit_compile(unit.bytes, &object, &err) || es_code_load(object.bytes, object.length, &code, &err)) {
    fprintf(stderr, "vec_fuzz: batch at %lld: %s\n", (long long)first, err.text);
    exit(1);
  }
  for (int32_t j = 0; j < BATCH; j++) {
    snprintf(name, sizeof name, "run%d", j);
    start_round(seed + 1, first + j);
    void (*run)(const int64_t *) = (void (*)(const int64_t *))es_code_symbol(code, name);
    int32_t at;
    bool integer;
    if (!agrees(programs[j], run, &at, &integer) && (*wrong)++ < 99 && !plant) show(programs[j], seed, first + j, at, integer);
    es_vec_free(programs[j]);
  }
  es_text_clear(&unit);
  es_text_clear(&object);
  es_code_release(code);
  return BATCH;
}

int main(int argc, char **argv) {
  int64_t rounds, wrong = 0, done = 0, missed = 0, live = es_memory_live();
  uint64_t seed;
  arguments(argc, argv, &rounds, &seed);
  plant = argc > 3 && strcmp(argv[3], "plant") == 0;
  while (done < rounds) done += batch(seed, done, &wrong);
  for (int32_t op = 0; op < ES_VEC_COUNT; op++) missed += used[op] == 0;
  int64_t leaked = es_memory_live() - live;
  printf("vec_fuzz %llu %lld %lld rows_not_drawn=%lld leaked=%lld\n", (unsigned long long)seed, (long long)done,
         (long long)wrong, (long long)missed, (long long)leaked);
  return wrong || leaked || (done >= 1000 && missed);
}
