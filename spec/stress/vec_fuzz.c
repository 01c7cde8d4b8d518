/* Stress: random vector programs. Each is interpreted here, from the rows of vec.def, and compiled through plain C and
 * libtcc; both must leave memory bit-equal (any NaN equals any NaN).
 *     vec_fuzz N SEED [plant]      one line: name seed n fail metric; exit status 1 when anything differed
 * "plant" gives the interpreter a wrong sub: the proof that a wrong instruction is seen. */
#include <math.h>
#include "base/memory.h"
#include "fuzz.h"
#include "jit/jit.h"
#include "vec/block.h"

enum { CELLS = 96, OFFSETS = 32, BATCH = 40, POOL = 512, TRIALS = 4, WORDS = 6 };
/* Words of a call: float memory, integer memory, three loop counts, stride. Float and integer memory stay apart, since
 * which NaN an operation gives is nobody's promise. */
static bool plant;

typedef union cell { float f; double d; int32_t i; uint32_t u; int64_t s; uint64_t l; } cell;

/* --- interpreter ------------------------------------------------------------------------------------------------ */

static cell load(int32_t bytes, int64_t address) {
  cell c = { .l = 0 };
  memcpy(&c, (const void *)address, (size_t)bytes);
  return c;
}

static double number(cell c, bool wide) { return wide ? c.d : (double)c.f; }

/* Arithmetic of one lane, rounded once to the element type. */
static cell floats(int32_t op, bool wide, cell a, cell b, cell c) {
  cell x = { .l = 0 };
  double p = number(a, wide), q = number(b, wide), r = 0;
  if (wide) {
    volatile double product = p * q;
    switch (op) {
      case ES_VEC_add: r = p + q; break;
      case ES_VEC_sub: r = p - q; break;
      case ES_VEC_mul: r = product; break;
      case ES_VEC_div: r = p / q; break;
      case ES_VEC_fma: r = product + c.d; break;
      case ES_VEC_sqrt: r = sqrt(p); break;
      case ES_VEC_rint: r = rint(p); break;
      case ES_VEC_min: r = p < q ? p : q; break;
      case ES_VEC_max: r = p > q ? p : q; break;
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
    case ES_VEC_fma: x.f = product + c.f; break;
    case ES_VEC_sqrt: x.f = sqrtf(a.f); break;
    case ES_VEC_rint: x.f = rintf(a.f); break;
    case ES_VEC_min: x.f = a.f < b.f ? a.f : b.f; break;
    case ES_VEC_max: x.f = a.f > b.f ? a.f : b.f; break;
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

static cell value(const es_vec_code *code, int32_t bytes, const int64_t *words, cell a, cell b, cell c, cell d) {
  bool wide = bytes == 8, floating = code->type == ES_VEC_f32 || code->type == ES_VEC_f64;
  uint64_t ones = wide ? ~0ull : 0xffffffffull, sign = wide ? 1ull << 63 : 1ull << 31;
  cell x = { .l = 0 };
  switch (code->op) {
    case ES_VEC_g_arg: x.s = words[code->k]; break;
    case ES_VEC_g_const: x.s = code->k; break;
    case ES_VEC_g_add: x.l = a.l + b.l; break;
    case ES_VEC_g_addk: x.l = a.l + (uint64_t)code->k; break;
    case ES_VEC_g_sub: x.l = a.l - b.l; break;
    case ES_VEC_g_mulk: x.l = a.l * (uint64_t)code->k; break;
    case ES_VEC_g_shrk: x.s = a.s >> code->k; break;
    case ES_VEC_load: case ES_VEC_bcast: case ES_VEC_loads: x = load(bytes, a.s + code->k); break;
    case ES_VEC_loadm: if (c.l) x = load(bytes, a.s + code->k); break;
    case ES_VEC_loadsm: if (d.l) x = load(bytes, a.s + code->k); break;
    case ES_VEC_splat: if (wide) x.d = code->n; else x.f = (float)code->n; break;
    case ES_VEC_splati: x.l = (uint64_t)code->k & ones; break;
    case ES_VEC_splatg: x.l = a.l & ones; break;
    case ES_VEC_iota: break;
    case ES_VEC_neg: x.l = a.l ^ sign; break;
    case ES_VEC_abs: x.l = a.l & ~sign; break;
    case ES_VEC_cvt_i: if (wide) x.s = (int64_t)rint(a.d); else x.i = (int32_t)rintf(a.f); break;
    case ES_VEC_cvtt_i: if (wide) x.s = (int64_t)a.d; else x.i = (int32_t)a.f; break;
    case ES_VEC_cvt_f: if (wide) x.d = (double)a.s; else x.f = (float)a.i; break;
    case ES_VEC_bits: case ES_VEC_hadd: case ES_VEC_hmin: case ES_VEC_hmax: x = a; break;
    case ES_VEC_lt: case ES_VEC_le: case ES_VEC_eq: case ES_VEC_ne: x.l = compare(code->op, code->type, a, b); break;
    case ES_VEC_m_and: x.l = a.l & b.l; break;
    case ES_VEC_m_or: x.l = a.l | b.l; break;
    case ES_VEC_m_not: x.l = !a.l; break;
    case ES_VEC_m_tail: x.l = a.s > 0; break;
    case ES_VEC_select: x = a.l ? b : c; break;
    default: x = floating ? floats(code->op, wide, a, b, c) : integers(code->op, 8 * bytes, a, b, code->k);
  }
  return x;
}

static void store(const es_vec_code *code, int32_t bytes, const cell *reg) {
  const int32_t *at = code->at;
  bool strided = code->op == ES_VEC_stores || code->op == ES_VEC_storesm;
  bool masked = code->op == ES_VEC_storem || code->op == ES_VEC_storesm;
  if (masked && !reg[at[strided ? 4 : 3]].l) return;
  memcpy((void *)(reg[at[0]].s + code->k), &reg[at[strided ? 2 : 1]], (size_t)bytes);
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
  cell *reg = calloc((size_t)v->reg_count + 1, sizeof *reg), none = { .l = 0 };
  int64_t left[ES_VEC_NESTING];
  int32_t start[ES_VEC_NESTING], depth = 0;
  for (int32_t pc = 0; pc < v->count;) {
    const es_vec_code *code = &v->code[pc];
    const int32_t *at = code->at;
    switch (code->op) {
      case ES_VEC_store: case ES_VEC_storem: case ES_VEC_stores: case ES_VEC_storesm: case ES_VEC_store1:
        store(code, v->element_bytes, reg);
        break;
      case ES_VEC_set: case ES_VEC_g_set: reg[at[0]] = reg[at[1]]; break;
      case ES_VEC_note: break;
      case ES_VEC_loop:
        if (reg[at[0]].s <= 0) { pc = past_loop(v, pc); continue; }
        left[depth] = reg[at[0]].s;
        start[depth++] = pc;
        break;
      case ES_VEC_end:
        if (--left[depth - 1] > 0) pc = start[depth - 1];
        else depth--;
        break;
      default:
        reg[code->result] = value(code, v->element_bytes, words, at[0] < 0 ? none : reg[at[0]],
                                  at[1] < 0 ? none : reg[at[1]], at[2] < 0 ? none : reg[at[2]],
                                  at[3] < 0 ? none : reg[at[3]]);
    }
    pc++;
  }
  free(reg);
}

/* --- generator: any row, operands of the letters it wants ---------------------------------------------------------- */

typedef struct pool { int32_t reg[POOL], count; } pool;
typedef struct maker {
  es_vec *v;
  int32_t bytes, base[2], count[3], stride, mutable_g, mutable_v[2]; /* [0] float, [1] integer */
  pool g, m, x[2];
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

static int32_t pick(const pool *p) { /* mostly a recent one, so that expressions grow deep */
  int32_t recent = p->count < 6 ? p->count : 6;
  return p->reg[below(3) ? p->count - 1 - below(recent) : below(p->count)];
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
    case ES_VEC_g_const: case ES_VEC_g_addk: case ES_VEC_g_mulk: case ES_VEC_splati: return (int32_t)draw();
    default: return below(OFFSETS) * k->bytes;
  }
}

static bool is_memory(const char *name) {
  return strncmp(name, "load", 4) == 0 || strncmp(name, "store", 5) == 0 || strcmp(name, "bcast") == 0;
}

static void instruction(maker *k, int32_t op) {
  const es_vec_row *row = es_vec_row_of(op);
  int32_t class = row->types[0] == 'b' ? below(2) : row->types[0] == 'i', at[5] = { -1, -1, -1, -1, -1 };
  bool converts = op == ES_VEC_cvt_i || op == ES_VEC_cvtt_i || op == ES_VEC_cvt_f || op == ES_VEC_bits, memory = is_memory(row->name);
  for (int32_t i = 0, address = memory; row->operands[i]; i++) {
    int32_t from = converts ? !class : class;
    if (row->operands[i] == 'v') at[i] = pick(&k->x[from]);
    if (row->operands[i] == 'm') at[i] = pick(&k->m);
    if (row->operands[i] == 'g') at[i] = !memory ? pick(&k->g) : address ? k->base[class] : k->stride, address = 0;
  }
  if (op == ES_VEC_g_set) at[0] = k->mutable_g;
  if (op == ES_VEC_set) at[0] = k->mutable_v[class];
  if (converts && class == 1) at[0] = tamed(k, op, at[0]);
  int32_t type = row->types[0] == '-' ? (int32_t)ES_VEC_none : type_of(k, class);
  int32_t result = put(k, op, type, at[0], at[1], at[2], at[3], at[4], constant(k, op), special());
  if (row->result[0] == 'v') keep(&k->x[class], result);
  if (row->result[0] == 'm') keep(&k->m, result);
  if (row->result[0] == 'g') keep(&k->g, result);
}

static void body(maker *k, int32_t depth) {
  int32_t g = k->g.count, m = k->m.count, f = k->x[0].count, i = k->x[1].count;
  for (int32_t n = 4 + below(30); n > 0; n--) {
    int32_t op = below(ES_VEC_COUNT);
    if (op == ES_VEC_end) continue;
    if (op != ES_VEC_loop) { instruction(k, op); continue; }
    if (depth == 3) continue;
    put(k, op, ES_VEC_none, k->count[below(3)], -1, -1, -1, -1, 0, 0);
    body(k, depth + 1);
    put(k, ES_VEC_end, ES_VEC_none, -1, -1, -1, -1, -1, 0, 0);
  }
  if (depth > 0) k->g.count = g, k->m.count = m, k->x[0].count = f, k->x[1].count = i; /* gone with the loop */
}

static es_vec *program(int32_t bytes) {
  maker k = { .v = es_vec_new(ES_ISA_scalar, bytes), .bytes = bytes };
  int32_t none = ES_VEC_none;
  for (int32_t i = 0; i < 2; i++) k.base[i] = put(&k, ES_VEC_g_arg, none, -1, -1, -1, -1, -1, i, 0);
  for (int32_t i = 0; i < 3; i++) keep(&k.g, k.count[i] = put(&k, ES_VEC_g_arg, none, -1, -1, -1, -1, -1, 2 + i, 0));
  k.stride = put(&k, ES_VEC_g_arg, none, -1, -1, -1, -1, -1, 5, 0);
  keep(&k.g, k.mutable_g = put(&k, ES_VEC_g_const, none, -1, -1, -1, -1, -1, below(100), 0));
  for (int32_t class = 0; class < 2; class++) {
    keep(&k.x[class], k.mutable_v[class] = put(&k, class ? ES_VEC_splati : ES_VEC_splat, none, -1, -1, -1, -1, -1, 7, special()));
    keep(&k.x[class], put(&k, ES_VEC_load, type_of(&k, class), k.base[class], -1, -1, -1, -1, 0, 0));
  }
  keep(&k.m, put(&k, ES_VEC_lt, none, k.x[0].reg[0], k.x[0].reg[1], -1, -1, -1, 0, 0));
  body(&k, 0);
  for (int32_t i = 0; i < 8; i++) /* what was computed shows in memory */
    for (int32_t class = 0; class < 2; class++)
      put(&k, ES_VEC_store, none, k.base[class], pick(&k.x[class]), -1, -1, -1, (OFFSETS + i) * bytes, 0);
  int32_t scalar = put(&k, ES_VEC_splatg, none, pick(&k.g), -1, -1, -1, -1, 0, 0);
  put(&k, ES_VEC_store, none, k.base[1], scalar, -1, -1, -1, (OFFSETS + 8) * bytes, 0);
  return k.v;
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

static bool equal(const memory *p, const memory *q, int32_t bytes) {
  for (int32_t i = 0; i < CELLS; i++) {
    cell a = load(bytes, (int64_t)(p->floats + i * bytes)), b = load(bytes, (int64_t)(q->floats + i * bytes));
    bool nans = isnan(number(a, bytes == 8)) && isnan(number(b, bytes == 8));
    if (a.l != b.l && !nans) return false;
  }
  return memcmp(p->integers, q->integers, sizeof p->integers) == 0;
}

static bool agrees(const es_vec *v, void (*run)(const int64_t *)) {
  static memory m, start, want; /* both run in the same place, so that addresses are equal */
  for (int32_t t = 0; t < TRIALS; t++) {
    memset(&start, 0, sizeof start);
    fill(&start, v->element_bytes);
    int64_t words[WORDS] = { (int64_t)m.floats, (int64_t)m.integers, t, 3 - t, 2, 4 * v->element_bytes };
    m = start;
    interpret(v, words);
    want = m;
    m = start;
    run(words);
    if (!equal(&m, &want, v->element_bytes)) return false;
  }
  return true;
}

static void show(const es_vec *v, uint64_t seed, int64_t n) {
  es_text text = { 0 };
  es_vec_print(v, &text);
  fprintf(stderr, "vec_fuzz: program %lld of seed %llu differs\n%s", (long long)n, (unsigned long long)seed, text.bytes);
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
    programs[j] = program(below(2) ? 8 : 4);
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
    if (!agrees(programs[j], run) && (*wrong)++ < 2 && !plant) show(programs[j], seed, first + j);
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
