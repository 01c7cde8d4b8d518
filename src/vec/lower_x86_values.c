/* Arithmetic, conversions, compares and rearranging of a vector block as AVX-512 or AVX2
 * instructions: the part of the x86 lowering that knows what each op means. Under lower_x86.c.
 * Invariant: an expansion reads all its operands before it writes the result register, or writes it
 * only with the value of the operand that shares it. */
#include <math.h>
#include <string.h>

#include "vec/lower_x86.h"

#define X(name) ES_X86_##name

enum { EQ = 0, LT = 17, LE = 18, NE = 4, INT_EQ = 0, INT_LT = 1, INT_LE = 2, INT_NE = 4 };

static bool is_integer(const es_vec_code *code) {
  return code->type == ES_VEC_i32 || code->type == ES_VEC_i64;
}

/* --- one instruction --- */

typedef struct pair {
  int16_t narrow, wide; /* rows for 4- and 8-byte elements */
} pair;

static int pick(const es_lowering *low, pair rows) {
  return es_low_by_width(low, rows.narrow, rows.wide);
}

static pair row_of(const es_vec_code *code) {
  bool whole = is_integer(code);
  switch (code->op) {
    case ES_VEC_add: return whole ? (pair){X(paddd), X(paddq)} : (pair){X(addps), X(addpd)};
    case ES_VEC_sub: return whole ? (pair){X(psubd), X(psubq)} : (pair){X(subps), X(subpd)};
    case ES_VEC_mul: return (pair){X(mulps), X(mulpd)};
    case ES_VEC_div: return (pair){X(divps), X(divpd)};
    case ES_VEC_min: return (pair){X(minps), X(minpd)};
    case ES_VEC_max: return (pair){X(maxps), X(maxpd)};
    case ES_VEC_and_: return (pair){X(pandd), X(pandq)};
    case ES_VEC_or_: return (pair){X(pord), X(porq)};
    case ES_VEC_xor_: return (pair){X(pxord), X(pxorq)};
    case ES_VEC_scalef: return (pair){X(scalefps), X(scalefpd)};
    case ES_VEC_unpl: return (pair){X(unpcklps), X(unpcklpd)};
    case ES_VEC_unph: return (pair){X(unpckhps), X(unpckhpd)};
    case ES_VEC_unpl2: return (pair){X(unpcklpd), X(unpcklpd)};
    case ES_VEC_unph2: return (pair){X(unpckhpd), X(unpckhpd)};
    default: return (pair){-1, -1};
  }
}

static bool commutes(int32_t op) {
  return op == ES_VEC_add || op == ES_VEC_mul || op == ES_VEC_and_ || op == ES_VEC_or_ ||
         op == ES_VEC_xor_ || op == ES_VEC_eq || op == ES_VEC_ne;
}

/* First source in a register, second wherever it is; swapped when that saves a load. */
static es_operand sources(es_lowering *low, const es_vec_code *code, int8_t *first) {
  int32_t a = code->at[0], b = code->at[1];
  if (commutes(code->op) && !es_low_in_register(low, a)) a = code->at[1], b = code->at[0];
  *first = es_low_vector(low, a);
  return es_low_operand(low, b);
}

static void binary(es_lowering *low, const es_vec_code *code) {
  int8_t first;
  es_operand second = sources(low, code, &first);
  if (second.broadcast && (code->op == ES_VEC_unpl2 || code->op == ES_VEC_unph2)) {
    int8_t to = es_low_scratch(low); /* their rows are of 8-byte elements, the one broadcast has 4 bytes */
    es_low_load(low, to, &second);
    second = (es_operand){.reg = to};
  }
  es_low_3m(low, pick(low, row_of(code)), es_low_result(low, code), first, &second);
}

/* The sign bit flipped or cleared. */
static void sign(es_lowering *low, const es_vec_code *code) {
  uint64_t bit = low->wide_element ? (uint64_t)1 << 63 : (uint64_t)1 << 31;
  bool flip = code->op == ES_VEC_neg;
  es_operand mask = es_low_literal(low, flip ? bit : bit - 1);
  pair rows = flip ? (pair){X(pxord), X(pxorq)} : (pair){X(pandd), X(pandq)};
  int8_t from = es_low_vector(low, code->at[0]);
  es_low_3m(low, pick(low, rows), es_low_result(low, code), from, &mask);
}

static void unary(es_lowering *low, const es_vec_code *code, pair rows, int imm) {
  es_operand from = es_low_operand(low, code->at[0]);
  int8_t to = es_low_result(low, code);
  if (imm < 0)
    es_low_3m(low, pick(low, rows), to, -1, &from);
  else
    es_low_imm_m(low, pick(low, rows), to, -1, &from, imm);
}

/* --- fused multiply-add: the form by where the result and the memory operand are --- */

static void fma_form(es_lowering *low, int form, int8_t to, int8_t second, const es_operand *third) {
  static const pair forms[] = {{X(fmadd132ps), X(fmadd132pd)},
                               {X(fmadd213ps), X(fmadd213pd)},
                               {X(fmadd231ps), X(fmadd231pd)}};
  es_low_3m(low, pick(low, forms[form]), to, second, third);
}

static void fused(es_lowering *low, const es_vec_code *code) {
  enum { F132, F213, F231 }; /* to = to*third + second, second*to + third, second*third + to */
  es_operand x[3];
  int memory = -1;
  static const int8_t order[] = {2, 1, 0}; /* the addend is the one best read from memory */
  for (int n = 0; n < 3; n++) {
    int at = order[n];
    if (memory < 0 && !es_low_in_register(low, code->at[at])) memory = at;
  }
  for (int at = 0; at < 3; at++)
    x[at] = at == memory ? es_low_operand(low, code->at[at])
                         : (es_operand){.reg = es_low_vector(low, code->at[at])};
  int8_t to = es_low_result(low, code);
  int8_t a = memory == 0 ? -1 : x[0].reg, b = memory == 1 ? -1 : x[1].reg;
  int8_t c = memory == 2 ? -1 : x[2].reg;
  if (to == c) return fma_form(low, F231, to, memory == 0 ? b : a, memory == 0 ? &x[0] : &x[1]);
  if (memory == 1 && to == a) return fma_form(low, F132, to, c, &x[1]);
  if (memory == 0 && to == b) return fma_form(low, F132, to, c, &x[0]);
  if (memory != 0 && memory != 1 && (to == a || to == b))
    return fma_form(low, F213, to, to == a ? b : a, &x[2]);
  /* no operand is there: the addend goes first. A factor may be in `to` only in the cases above. */
  if (memory == 2)
    es_low_load(low, to, &x[2]);
  else
    es_low_move(low, to, c);
  fma_form(low, F231, to, memory == 0 ? b : a, memory == 0 ? &x[0] : &x[1]);
}

/* --- shifts and conversions --- */

static void shift(es_lowering *low, const es_vec_code *code) {
  static const pair left = {X(pslld), X(psllq)}, right = {X(psrld), X(psrlq)};
  int8_t from = es_low_vector(low, code->at[0]), to = es_low_result(low, code);
  int k = (int)code->k, bits = low->wide_element ? 64 : 32;
  if (code->op == ES_VEC_shl) return es_low_imm(low, pick(low, left), to, -1, from, k);
  if (code->op == ES_VEC_shr) return es_low_imm(low, pick(low, right), to, -1, from, k);
  if (code->op == ES_VEC_rotl) {
    if (low->wide_isa)
      return es_low_imm(low, es_low_by_width(low, X(prold), X(prolq)), to, -1, from, k);
    int8_t high = es_low_scratch(low);
    es_low_imm(low, pick(low, left), high, -1, from, k);
    es_low_imm(low, pick(low, right), to, -1, from, bits - k); /* by all bits: 0 */
    return es_low_3(low, X(pord), to, to, high);
  }
  if (low->wide_isa || !low->wide_element)
    return es_low_imm(low, es_low_by_width(low, X(psrad), X(psraq)), to, -1, from, k);
  /* AVX2 has no arithmetic shift of 8 bytes: (x >> k ^ m) - m with m where the sign went */
  es_operand m = es_low_literal(low, (uint64_t)1 << (63 - k));
  es_low_imm(low, X(psrlq), to, -1, from, k);
  es_low_3m(low, X(pxorq), to, to, &m);
  es_low_3m(low, X(psubq), to, to, &m);
}

/* AVX2, 8 bytes, |a| < 2^51: added to 1.5 * 2^52, the integer stands in the low bits. */
static void to_wide_integer(es_lowering *low, const es_vec_code *code) {
  const uint64_t magic = 0x4338000000000000u; /* 1.5 * 2^52 */
  int8_t from = es_low_vector(low, code->at[0]), to = es_low_result(low, code);
  es_low_imm(low, X(roundpd), to, -1, from, code->op == ES_VEC_cvtt_i ? 11 : 8);
  es_operand m = es_low_literal(low, magic);
  es_low_3m(low, X(addpd), to, to, &m);
  es_low_3m(low, X(psubq), to, to, &m);
}

/* AVX2, any 8-byte integer: upper and lower half as the mantissas of doubles of 2^84 and 2^52,
 * whose sum, the powers taken away, rounds once. */
static void from_wide_integer(es_lowering *low, const es_vec_code *code) {
  int8_t from = es_low_vector(low, code->at[0]), to = es_low_result(low, code);
  int8_t lower = es_low_scratch(low);
  es_operand mask = es_low_literal(low, 0xFFFFFFFFu), power = es_low_literal(low, 0x4330000000000000u);
  es_operand upper = es_low_literal(low, 0x4530000080000000u);
  es_operand both = es_low_literal(low, 0x4530000080100000u);
  es_low_3m(low, X(pandq), lower, from, &mask);
  es_low_3m(low, X(porq), lower, lower, &power);
  es_low_imm(low, X(psrlq), to, -1, from, 32);
  es_low_3m(low, X(pxorq), to, to, &upper);
  es_low_3m(low, X(subpd), to, to, &both);
  es_low_3(low, X(addpd), to, to, lower);
}

static void convert(es_lowering *low, const es_vec_code *code) {
  if (low->wide_element && !low->wide_isa)
    return code->op == ES_VEC_cvt_f ? from_wide_integer(low, code) : to_wide_integer(low, code);
  pair rows = code->op == ES_VEC_cvt_f    ? (pair){X(cvtdq2ps), X(cvtqq2pd)}
              : code->op == ES_VEC_cvtt_i ? (pair){X(cvttps2dq), X(cvttpd2qq)}
                                          : (pair){X(cvtps2dq), X(cvtpd2qq)};
  unary(low, code, rows, -1);
}

/* --- compares, masks, select --- */

static void invert(es_lowering *low, int8_t to) {
  es_operand ones = es_low_literal(low, ~(uint64_t)0);
  es_low_3m(low, X(pxorq), to, to, &ones);
}

static void compare_integers_avx2(es_lowering *low, const es_vec_code *code) {
  static const pair greater = {X(pcmpgtd), X(pcmpgtq)}, equal = {X(pcmpeqd), X(pcmpeqq)};
  int8_t first;
  if (code->op == ES_VEC_lt) { /* b > a */
    first = es_low_vector(low, code->at[1]);
    es_operand a = es_low_operand(low, code->at[0]);
    return es_low_3m(low, pick(low, greater), es_low_result(low, code), first, &a);
  }
  es_operand second = sources(low, code, &first);
  int8_t to = es_low_result(low, code);
  es_low_3m(low, pick(low, code->op == ES_VEC_le ? greater : equal), to, first, &second);
  if (code->op != ES_VEC_eq) invert(low, to);
}

static void compare(es_lowering *low, const es_vec_code *code) {
  bool whole = is_integer(code);
  if (whole && !low->wide_isa) return compare_integers_avx2(low, code);
  int8_t first;
  es_operand second = sources(low, code, &first);
  int which = code->op == ES_VEC_lt   ? (whole ? INT_LT : LT)
              : code->op == ES_VEC_le ? (whole ? INT_LE : LE)
              : code->op == ES_VEC_eq ? (whole ? INT_EQ : EQ)
                                      : (whole ? INT_NE : NE);
  pair rows = whole            ? (pair){X(kpcmpd), X(kpcmpq)}
              : low->wide_isa ? (pair){X(kcmpps), X(kcmppd)}
                               : (pair){X(cmpps), X(cmppd)};
  es_low_imm_m(low, pick(low, rows), es_low_result(low, code), first, &second, which);
}

static void masks(es_lowering *low, const es_vec_code *code) {
  int8_t a = es_low_mask(low, code->at[0], 6);
  if (code->op == ES_VEC_m_not) {
    int8_t to = es_low_result(low, code);
    if (low->wide_isa) return es_low_3(low, X(knotw), to, -1, a);
    es_operand ones = es_low_literal(low, ~(uint64_t)0);
    return es_low_3m(low, X(pxorq), to, a, &ones);
  }
  int8_t b = es_low_mask(low, code->at[1], 7);
  int narrow = code->op == ES_VEC_m_and ? X(pandq) : X(porq);
  int mask = code->op == ES_VEC_m_and ? X(kandw) : X(korw);
  es_low_3(low, low->wide_isa ? mask : narrow, es_low_result(low, code), a, b);
}

static void lane_numbers(const es_lowering *low, uint8_t *bytes) {
  int32_t lanes = low->vec->lanes;
  for (int32_t i = 0; i < lanes; i++) {
    uint64_t lane = (uint64_t)i;
    memcpy(bytes + i * low->vec->element_bytes, &lane, (size_t)low->vec->element_bytes);
  }
}

/* An integer of a general register in every lane. */
static void spread(es_lowering *low, int8_t to, int8_t from) {
  if (low->wide_isa)
    return es_low_3(low, es_low_by_width(low, X(pbroadcastd_r), X(pbroadcastq_r)), to, -1, from);
  es_low_put(low, (es_x86_ins){.op = (int16_t)es_low_by_width(low, X(movd_xr), X(movq_xr)), .bytes = 16,
                               .a = to, .b = -1, .c = from});
  es_low_3(low, es_low_by_width(low, X(pbroadcastd), X(pbroadcastq)), to, -1, to);
}

static void general(es_lowering *low, int op, int8_t a, int8_t c, int64_t k) {
  es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = 8, .a = a, .b = -1, .c = c, .k = k});
}

/* A count cut to 0 .. lanes, so that its lower half alone says which lanes are below it. In rcx. */
static int8_t clamp(es_lowering *low, int8_t count) {
  general(low, X(mov_i), ES_RCX, -1, low->vec->lanes);
  general(low, X(cmp_rr), count, ES_RCX, 0);
  general(low, X(cmovl), ES_RCX, count, 0);
  general(low, X(mov_i), ES_RAX, -1, 0);
  general(low, X(test_rr), ES_RCX, ES_RCX, 0);
  general(low, X(cmovl), ES_RCX, ES_RAX, 0);
  return ES_RCX;
}

static void tail(es_lowering *low, const es_vec_code *code) {
  uint8_t bytes[64];
  lane_numbers(low, bytes);
  es_operand numbers = es_low_full_literal(low, bytes);
  int8_t count = es_low_scalar(low, code->at[0], ES_RAX), to = es_low_result(low, code);
  if (!low->wide_element) count = clamp(low, count);
  if (low->wide_isa) {
    int8_t spare = es_low_scratch(low);
    spread(low, spare, count);
    enum { GREATER = 6 };
    return es_low_imm_m(low, es_low_by_width(low, X(kpcmpd), X(kpcmpq)), to, spare, &numbers, GREATER);
  }
  spread(low, to, count);
  es_low_3m(low, es_low_by_width(low, X(pcmpgtd), X(pcmpgtq)), to, to, &numbers);
}

static void choose(es_lowering *low, const es_vec_code *code) {
  int8_t mask = es_low_mask(low, code->at[0], 7);
  int8_t no = es_low_vector(low, code->at[2]);
  es_operand yes = es_low_operand(low, code->at[1]);
  int8_t to = es_low_result(low, code);
  es_x86_ins ins = {.a = to, .b = no};
  if (low->wide_isa) {
    ins.op = (int16_t)es_low_by_width(low, X(blendmps), X(blendmpd));
    ins.mask = mask;
  } else {
    ins.op = (int16_t)es_low_by_width(low, X(blendvps), X(blendvpd));
    ins.imm = (uint8_t)mask; /* a register number */
  }
  ins.bytes = low->bytes;
  ins.c = yes.memory ? -1 : yes.reg;
  ins.mem_used = yes.memory;
  ins.mem = yes.mem;
  ins.broadcast = yes.broadcast;
  es_low_put(low, ins);
}

/* --- across lanes --- */

/* to = value with parts (step 0, 1) or elements inside parts (2, 3) exchanged: halves ever smaller. */
static void exchange(es_lowering *low, int8_t to, int8_t from, int step) {
  if (step <= 1) {
    if (low->wide_isa)
      return es_low_imm(low, es_low_by_width(low, X(shuff32x4), X(shuff64x2)), to, from, from,
                        step == 0 ? 0x4E : 0xB1);
    return es_low_imm(low, X(perm2f128), to, from, from, 1);
  }
  if (low->wide_element) return es_low_imm(low, X(permilpd), to, -1, from, 0x55);
  es_low_imm(low, X(permilps), to, -1, from, step == 2 ? 0x4E : 0xB1);
}

static void across(es_lowering *low, const es_vec_code *code) {
  pair rows = code->op == ES_VEC_hadd   ? (pair){X(addps), X(addpd)}
              : code->op == ES_VEC_hmin ? (pair){X(minps), X(minpd)}
                                        : (pair){X(maxps), X(maxpd)};
  int8_t from = es_low_vector(low, code->at[0]), to = es_low_result(low, code);
  int8_t other = es_low_scratch(low);
  int last = low->wide_element ? 2 : 3;
  for (int step = low->wide_isa ? 0 : 1; step <= last; step++) {
    exchange(low, other, from, step);
    es_low_3(low, pick(low, rows), to, from, other);
    from = to;
  }
  /* the order of operands, which min and max of zeros and NaN depend on, is right in lane 0 */
  if (code->op != ES_VEC_hadd)
    es_low_3(low, es_low_by_width(low, X(broadcastss), X(broadcastsd)), to, -1, to);
}

static void part(es_lowering *low, const es_vec_code *code) {
  int8_t a = es_low_vector(low, code->at[0]);
  es_operand b = es_low_operand(low, code->at[1]);
  int row = low->wide_isa ? es_low_by_width(low, X(shuff32x4), X(shuff64x2)) : X(perm2f128);
  es_low_imm_m(low, row, es_low_result(low, code), a, &b, (int)code->k);
}

/* --- values from nothing --- */

static void splat_scalar(es_lowering *low, const es_vec_code *code) {
  int8_t from = es_low_scalar(low, code->at[0], ES_RAX);
  spread(low, es_low_result(low, code), from);
}

/* A value that stays; `changes` registers are computed where they will be changed. */
static void move(es_lowering *low, const es_vec_code *code, es_operand x) {
  int8_t to = es_low_result(low, code);
  if (x.memory)
    es_low_load(low, to, &x);
  else
    es_low_move(low, to, x.reg);
}

static bool is_zero(const es_vec_code *code) {
  return code->op == ES_VEC_splat ? code->n == 0 && !signbit(code->n) : code->k == 0;
}

/* No load, and no wait for what the register held. */
static void clear(es_lowering *low, int8_t to) { es_low_3(low, X(pxord), to, to, to); }

bool es_low_value(es_lowering *low, const es_vec_code *code) {
  switch (code->op) {
    case ES_VEC_add:
    case ES_VEC_sub:
    case ES_VEC_mul:
    case ES_VEC_div:
    case ES_VEC_min:
    case ES_VEC_max:
    case ES_VEC_and_:
    case ES_VEC_or_:
    case ES_VEC_xor_:
    case ES_VEC_scalef:
    case ES_VEC_unpl:
    case ES_VEC_unph:
    case ES_VEC_unpl2:
    case ES_VEC_unph2: return binary(low, code), true;
    case ES_VEC_fma: return fused(low, code), true;
    case ES_VEC_neg:
    case ES_VEC_abs: return sign(low, code), true;
    case ES_VEC_sqrt: return unary(low, code, (pair){X(sqrtps), X(sqrtpd)}, -1), true;
    case ES_VEC_rint: return unary(low, code, (pair){X(roundps), X(roundpd)}, 8), true;
    case ES_VEC_shl:
    case ES_VEC_shr:
    case ES_VEC_sar:
    case ES_VEC_rotl: return shift(low, code), true;
    case ES_VEC_cvt_i:
    case ES_VEC_cvtt_i:
    case ES_VEC_cvt_f: return convert(low, code), true;
    case ES_VEC_lt:
    case ES_VEC_le:
    case ES_VEC_eq:
    case ES_VEC_ne: return compare(low, code), true;
    case ES_VEC_m_and:
    case ES_VEC_m_or:
    case ES_VEC_m_not: return masks(low, code), true;
    case ES_VEC_m_tail: return tail(low, code), true;
    case ES_VEC_select: return choose(low, code), true;
    case ES_VEC_hadd:
    case ES_VEC_hmin:
    case ES_VEC_hmax: return across(low, code), true;
    case ES_VEC_part: return part(low, code), true;
    case ES_VEC_splatg: return splat_scalar(low, code), true;
    case ES_VEC_bits: return move(low, code, es_low_operand(low, code->at[0])), true;
    case ES_VEC_set: return move(low, code, es_low_operand(low, code->at[1])), true;
    case ES_VEC_splat:
    case ES_VEC_splati:
      if (is_zero(code)) return clear(low, es_low_result(low, code)), true;
      return move(low, code, es_low_constant(low, code)), true;
    case ES_VEC_iota: return move(low, code, es_low_constant(low, code)), true;
    default: return false;
  }
}
