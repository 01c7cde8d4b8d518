/* Vector blocks as AVX-512 or AVX2 machine code: walks the instructions after place.c has given every
 * register its place, and writes frame, scalars, memory accesses and loops; what values are computed
 * with is in lower_x86_values.c.
 * Contract of a block: System V, one argument in rdi (the words, kept there throughout); rax and rcx
 * are scratch between instructions; k6 and k7 too on AVX-512; vector scratch registers are the last
 * ones. Only unaligned moves; vzeroupper before ret. Masked-off lanes touch no memory. */
#include <inttypes.h>
#include <string.h>

#include "vec/lower_x86.h"

#define X(name) ES_X86_##name

enum { JZ = 0x84, JNZ = 0x85, JLE = 0x8E, SPARE_MASK = 7, PAGE = 4096 };
enum { FRAME_MAX = 8 * PAGE }; /* the blocks of recipes need 120 bytes (seen) */

/* In the order the allocator hands them out: those a function may change first. */
static const int8_t scalars[] = {2, 6, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15};
enum { SCALARS = sizeof scalars, FREE_SCALARS = 6 };

static const es_target targets[ES_ISA_COUNT] = {
    [ES_ISA_avx2] = {.vectors = 16, .masks = 0, .scalars = SCALARS, .broadcasts = false},
    [ES_ISA_avx512] = {.vectors = 32, .masks = 5, .scalars = SCALARS, .broadcasts = true},
};

/* --- putting instructions --- */

void es_low_put(es_lowering *low, es_x86_ins ins) {
  ins.evex = low->wide_isa && es_x86_row_of(ins.op)->evex[0];
  if (!ins.mem_used && ins.mem.base == 0) ins.mem = (es_x86_mem){.base = ES_X86_NONE, .index = -1};
  es_asm_put(&low->out, &ins);
}

static void fill_source(es_x86_ins *ins, const es_operand *from) {
  ins->c = from->memory ? -1 : from->reg;
  ins->mem_used = from->memory;
  ins->mem = from->mem;
  ins->broadcast = from->broadcast;
}

void es_low_imm_m(es_lowering *low, int op, int8_t a, int8_t b, const es_operand *c, int imm) {
  es_x86_ins ins = {.op = (int16_t)op, .bytes = low->bytes, .a = a, .b = b, .imm = (uint8_t)imm};
  fill_source(&ins, c);
  es_low_put(low, ins);
}

void es_low_3m(es_lowering *low, int op, int8_t a, int8_t b, const es_operand *c) {
  es_low_imm_m(low, op, a, b, c, 0);
}

void es_low_imm(es_lowering *low, int op, int8_t a, int8_t b, int8_t c, int imm) {
  es_operand from = {.reg = c};
  es_low_imm_m(low, op, a, b, &from, imm);
}

void es_low_3(es_lowering *low, int op, int8_t a, int8_t b, int8_t c) {
  es_low_imm(low, op, a, b, c, 0);
}

void es_low_move(es_lowering *low, int8_t to, int8_t from) {
  if (to != from) es_low_3(low, X(movups_load), to, -1, from);
}

static es_x86_mem at_rsp(int32_t offset) {
  return (es_x86_mem){.base = ES_RSP, .index = -1, .scale = 1, .disp = offset};
}

static void vector_by(es_lowering *low, int op, es_x86_mem mem, int8_t from, int8_t mask) {
  es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = low->bytes, .a = -1, .b = -1, .c = from,
                               .mem_used = true, .mem = mem, .mask = mask});
}

static void vector_to(es_lowering *low, es_x86_mem mem, int8_t from, int8_t mask) { /* a mask counts elements */
  vector_by(low, es_low_by_width(low, X(movups_store), X(movupd_store)), mem, from, mask);
}

static void vector_from(es_lowering *low, int8_t to, es_x86_mem mem, int8_t mask) {
  int op = es_low_by_width(low, X(movups_load), X(movupd_load));
  es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = low->bytes, .a = to, .b = -1, .c = -1,
                               .mem_used = true, .mem = mem, .mask = mask, .zero = mask != 0});
}

static void general(es_lowering *low, int op, int8_t a, int8_t b, int64_t k) {
  es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = 8, .a = a, .b = -1, .c = b, .k = k});
}

static void general_mem(es_lowering *low, int op, int8_t reg, es_x86_mem mem, int64_t k) {
  es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = 8, .a = reg, .b = -1, .c = reg,
                               .mem_used = true, .mem = mem, .k = k});
}

/* --- constants --- */

es_operand es_low_full_literal(es_lowering *low, const void *bytes) {
  int32_t at = es_asm_constant(&low->out, bytes, low->bytes);
  return (es_operand){.memory = true, .mem = {.base = ES_X86_POOL, .index = -1, .scale = 1, .disp = at}};
}

es_operand es_low_literal(es_lowering *low, uint64_t bits) {
  int32_t size = low->vec->element_bytes;
  if (low->wide_isa) {
    int32_t at = es_asm_constant(&low->out, &bits, size);
    return (es_operand){.memory = true, .broadcast = true,
                        .mem = {.base = ES_X86_POOL, .index = -1, .scale = 1, .disp = at}};
  }
  uint8_t all[64];
  for (int32_t at = 0; at < low->bytes; at += size) memcpy(all + at, &bits, (size_t)size);
  return es_low_full_literal(low, all);
}

es_operand es_low_constant(es_lowering *low, const es_vec_code *code) {
  uint64_t bits = (uint64_t)code->k;
  if (code->op == ES_VEC_iota) {
    uint8_t lanes[64];
    for (int32_t i = 0; i < low->vec->lanes; i++) {
      uint64_t lane = (uint64_t)i;
      memcpy(lanes + i * low->vec->element_bytes, &lane, (size_t)low->vec->element_bytes);
    }
    return es_low_full_literal(low, lanes);
  }
  if (code->op == ES_VEC_splat) {
    float narrow = (float)code->n;
    bits = 0;
    if (low->wide_element)
      memcpy(&bits, &code->n, 8);
    else
      memcpy(&bits, &narrow, 4);
  }
  return es_low_literal(low, bits);
}

void es_low_load(es_lowering *low, int8_t to, const es_operand *from) {
  if (!from->memory) return es_low_move(low, to, from->reg);
  if (!from->broadcast) return vector_from(low, to, from->mem, 0);
  es_operand plain = *from;
  plain.broadcast = false;
  es_low_3m(low, es_low_by_width(low, X(broadcastss), X(broadcastsd)), to, -1, &plain);
}

/* --- where registers are --- */

static const es_place *place_of(const es_lowering *low, int32_t r) { return &low->places->place[r]; }

static es_x86_mem slot(const es_lowering *low, int32_t r) {
  const es_place *place = place_of(low, r);
  bool vector = r < low->vec->reg_count &&
                (low->vec->reg[r].kind == 'v' || (low->vec->reg[r].kind == 'm' && !low->wide_isa));
  return vector ? at_rsp(place->at * low->bytes) : at_rsp(low->slots_at + place->at * 8);
}

bool es_low_in_register(const es_lowering *low, int32_t r) {
  return place_of(low, r)->kind == ES_PLACE_register;
}

int8_t es_low_scratch(es_lowering *low) {
  return (int8_t)(low->vector_count - 1 - low->scratch_taken++);
}

int8_t es_low_scalar(es_lowering *low, int32_t r, int8_t scratch) {
  const es_place *place = place_of(low, r);
  if (place->kind == ES_PLACE_register) return scalars[place->at];
  es_x86_mem from = place->kind == ES_PLACE_argument
                        ? (es_x86_mem){.base = ES_RDI, .index = -1, .scale = 1, .disp = 8 * place->at}
                        : slot(low, r);
  general_mem(low, X(mov_rm), scratch, from, 0);
  return scratch;
}

es_x86_mem es_low_address(es_lowering *low, const es_vec_code *code) {
  bool indexed = code->op == ES_VEC_loadx || code->op == ES_VEC_bcastx;
  es_x86_mem mem = {.index = -1, .scale = 1, .disp = (int32_t)code->k};
  mem.base = es_low_scalar(low, code->at[0], ES_RAX);
  if (indexed) {
    mem.index = es_low_scalar(low, code->at[1], ES_RCX);
    mem.scale = (int8_t)code->n;
  }
  return mem;
}

es_operand es_low_operand(es_lowering *low, int32_t r) {
  const es_place *place = place_of(low, r);
  const es_vec_code *made = &low->vec->code[low->vec->reg[r].made];
  switch (place->kind) {
    case ES_PLACE_constant: return es_low_constant(low, made);
    case ES_PLACE_slot: return (es_operand){.memory = true, .mem = slot(low, r)};
    case ES_PLACE_folded:
      return (es_operand){.memory = true, .mem = es_low_address(low, made),
                          .broadcast = made->op == ES_VEC_bcast || made->op == ES_VEC_bcastx};
    default: return (es_operand){.reg = (int8_t)place->at};
  }
}

int8_t es_low_vector(es_lowering *low, int32_t r) {
  if (es_low_in_register(low, r)) return (int8_t)place_of(low, r)->at;
  es_operand from = es_low_operand(low, r);
  int8_t to = es_low_scratch(low);
  es_low_load(low, to, &from);
  return to;
}

int8_t es_low_mask(es_lowering *low, int32_t r, int8_t scratch) {
  if (!low->wide_isa) return es_low_vector(low, r);
  if (es_low_in_register(low, r)) return (int8_t)(place_of(low, r)->at + 1);
  general_mem(low, X(mov_rm), ES_RAX, slot(low, r), 0);
  es_low_3(low, X(kmovw_kr), scratch, -1, ES_RAX);
  return scratch;
}

static int32_t target_of(const es_vec_code *code) {
  return code->op == ES_VEC_set || code->op == ES_VEC_g_set ? code->at[0] : code->result;
}

int8_t es_low_result(es_lowering *low, const es_vec_code *code) {
  int32_t r = target_of(code);
  const es_place *place = place_of(low, r);
  bool mask = low->vec->reg[r].kind == 'm' && low->wide_isa;
  if (place->kind == ES_PLACE_register) return (int8_t)(place->at + mask);
  if (mask) return SPARE_MASK;
  if (low->scratch_taken == 0) low->scratch_taken = 1;
  return (int8_t)(low->vector_count - 1);
}

static int8_t scalar_result(es_lowering *low, const es_vec_code *code) {
  const es_place *place = place_of(low, target_of(code));
  return place->kind == ES_PLACE_register ? scalars[place->at] : ES_RAX;
}

/* A result computed in a scratch register goes to its slot. */
static void keep_result(es_lowering *low, const es_vec_code *code) {
  int32_t r = target_of(code);
  if (r < 0 || place_of(low, r)->kind != ES_PLACE_slot) return;
  char kind = low->vec->reg[r].kind;
  if (kind == 'g') return general_mem(low, X(mov_mr), ES_RAX, slot(low, r), 0);
  if (kind == 'v' || !low->wide_isa)
    return vector_to(low, slot(low, r), (int8_t)(low->vector_count - 1), 0);
  es_low_3(low, X(kmovw_rk), ES_RAX, -1, SPARE_MASK);
  general_mem(low, X(mov_mr), ES_RAX, slot(low, r), 0);
}

/* --- scalars --- */

static void load_integer(es_lowering *low, int8_t to, int64_t k) {
  general(low, k == (int32_t)k ? X(mov_i) : X(mov_ri64), to, -1, k);
}

static void lea(es_lowering *low, int8_t to, int8_t base, int8_t index, int32_t disp) {
  general_mem(low, X(lea), to, (es_x86_mem){.base = base, .index = index, .scale = 1, .disp = disp}, 0);
}

static void add_constant(es_lowering *low, const es_vec_code *code) {
  int8_t to = scalar_result(low, code), from = es_low_scalar(low, code->at[0], to);
  if (code->k != (int32_t)code->k) {
    load_integer(low, ES_RCX, code->k);
    return lea(low, to, from, ES_RCX, 0);
  }
  if (to == from && code->k != 0) return general(low, X(add_i), to, -1, code->k);
  if (to != from && code->k == 0) return general(low, X(mov_rr), to, from, 0);
  if (to != from) lea(low, to, from, -1, (int32_t)code->k);
}

static void subtract(es_lowering *low, const es_vec_code *code) {
  int8_t a = es_low_scalar(low, code->at[0], ES_RAX), b = es_low_scalar(low, code->at[1], ES_RCX);
  int8_t to = scalar_result(low, code);
  if (a != ES_RAX) general(low, X(mov_rr), ES_RAX, a, 0);
  general(low, X(sub_rr), ES_RAX, b, 0);
  if (to != ES_RAX) general(low, X(mov_rr), to, ES_RAX, 0);
}

static void multiply(es_lowering *low, const es_vec_code *code) {
  int8_t from = es_low_scalar(low, code->at[0], ES_RAX), to = scalar_result(low, code);
  if (code->k == (int32_t)code->k) return general(low, X(imul_rri), to, from, code->k);
  load_integer(low, ES_RCX, code->k);
  if (from != ES_RAX) general(low, X(mov_rr), ES_RAX, from, 0);
  general(low, X(imul_rr), ES_RAX, ES_RCX, 0);
  if (to != ES_RAX) general(low, X(mov_rr), to, ES_RAX, 0);
}

static void scalar_move(es_lowering *low, const es_vec_code *code, int32_t from) {
  int8_t to = scalar_result(low, code), reg = es_low_scalar(low, from, to);
  if (reg != to) general(low, X(mov_rr), to, reg, 0);
}

static bool scalar(es_lowering *low, const es_vec_code *code) {
  switch (code->op) {
    case ES_VEC_g_arg:
      if (place_of(low, code->result)->kind == ES_PLACE_argument) return true;
      general_mem(low, X(mov_rm), scalar_result(low, code),
                  (es_x86_mem){.base = ES_RDI, .index = -1, .scale = 1, .disp = 8 * (int32_t)code->k}, 0);
      return true;
    case ES_VEC_g_const: return load_integer(low, scalar_result(low, code), code->k), true;
    case ES_VEC_g_add: {
      int8_t a = es_low_scalar(low, code->at[0], ES_RAX), b = es_low_scalar(low, code->at[1], ES_RCX);
      return lea(low, scalar_result(low, code), a, b, 0), true;
    }
    case ES_VEC_g_addk: return add_constant(low, code), true;
    case ES_VEC_g_sub: return subtract(low, code), true;
    case ES_VEC_g_mulk: return multiply(low, code), true;
    case ES_VEC_g_shrk:
      scalar_move(low, code, code->at[0]);
      if (code->k) general(low, X(sar_i), scalar_result(low, code), -1, code->k);
      return true;
    case ES_VEC_g_set: return scalar_move(low, code, code->at[1]), true;
    default: return false;
  }
}

/* --- memory --- */

static void masked_vex(es_lowering *low, const es_vec_code *code, bool store) {
  int8_t mask = es_low_vector(low, code->at[store ? 3 : 2]);
  int8_t reg = store ? es_low_vector(low, code->at[1]) : es_low_result(low, code);
  int op = store ? es_low_by_width(low, X(maskmovps_store), X(maskmovpd_store))
                 : es_low_by_width(low, X(maskmovps_load), X(maskmovpd_load));
  es_x86_mem mem = es_low_address(low, code);
  es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = low->bytes, .a = store ? -1 : reg, .b = mask,
                               .c = store ? reg : -1, .mem_used = true, .mem = mem});
}

static void broadcast(es_lowering *low, const es_vec_code *code) {
  es_operand from = {.memory = true, .broadcast = true, .mem = es_low_address(low, code)};
  es_low_load(low, es_low_result(low, code), &from);
}

static bool straight(es_lowering *low, const es_vec_code *code) {
  switch (code->op) {
    case ES_VEC_load:
    case ES_VEC_loadx: {
      es_x86_mem mem = es_low_address(low, code);
      return vector_from(low, es_low_result(low, code), mem, 0), true;
    }
    case ES_VEC_bcast:
    case ES_VEC_bcastx: return broadcast(low, code), true;
    case ES_VEC_store: {
      int8_t from = es_low_vector(low, code->at[1]);
      return vector_to(low, es_low_address(low, code), from, 0), true;
    }
    case ES_VEC_storent: {
      int8_t from = es_low_vector(low, code->at[1]);
      low->streams = true;
      return vector_by(low, X(movntps), es_low_address(low, code), from, 0), true;
    }
    case ES_VEC_loadm: {
      if (!low->wide_isa) return masked_vex(low, code, false), true;
      int8_t mask = es_low_mask(low, code->at[2], SPARE_MASK);
      es_x86_mem mem = es_low_address(low, code);
      return vector_from(low, es_low_result(low, code), mem, mask), true;
    }
    case ES_VEC_storem: {
      if (!low->wide_isa) return masked_vex(low, code, true), true;
      int8_t mask = es_low_mask(low, code->at[3], SPARE_MASK), from = es_low_vector(low, code->at[1]);
      return vector_to(low, es_low_address(low, code), from, mask), true;
    }
    case ES_VEC_store1: {
      int8_t from = es_low_vector(low, code->at[1]);
      es_low_put(low, (es_x86_ins){.op = (int16_t)es_low_by_width(low, X(movss_store), X(movsd_store)),
                                   .bytes = 16, .a = -1, .b = -1, .c = from, .mem_used = true,
                                   .mem = es_low_address(low, code)});
      return true;
    }
    case ES_VEC_prefetch: return general_mem(low, X(prefetcht1), -1, es_low_address(low, code), 0), true;
    default: return false;
  }
}

/* Strided access walks the lanes: address in rax, stride in rcx, one element at a time. Every lane
 * goes through the lower 16 bytes of a scratch register. */
static void element_load(es_lowering *low, int8_t to, int lane, int32_t disp) {
  es_x86_mem mem = {.base = ES_RAX, .index = -1, .scale = 1, .disp = disp};
  int first = low->wide_element ? lane % 2 : lane % 4;
  bool alone = first == 0; /* the rest of the vector becomes 0 */
  int op = alone ? es_low_by_width(low, X(movss_load), X(movsd_load)) : es_low_by_width(low, X(pinsrd), X(pinsrq));
  es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = 16, .a = to, .b = alone ? -1 : to, .c = -1,
                               .mem_used = true, .mem = mem, .imm = (uint8_t)first});
}

static void insert_part(es_lowering *low, int8_t to, int8_t from, int part) {
  if (part == 0) return es_low_move(low, to, from);
  es_low_imm(low, X(insert16), to, to, from, part);
}

static void extract_part(es_lowering *low, int8_t to, int8_t from, int part) {
  es_low_imm(low, X(extract16), to, -1, from, part);
}

/* No general register is free for the bits of a mask: they go below the stack, 8 bytes of the red zone. */
static void push_bits(es_lowering *low, int32_t r) {
  if (low->wide_isa)
    es_low_3(low, X(kmovw_rk), ES_RAX, -1, es_low_mask(low, r, SPARE_MASK));
  else
    es_low_3(low, es_low_by_width(low, X(movmskps), X(movmskpd)), ES_RAX, -1, es_low_vector(low, r));
  general_mem(low, X(mov_mr), ES_RAX, at_rsp(-8), 0);
}

static int32_t skip_lane(es_lowering *low, int lane) {
  uint8_t bytes[] = {0xF7, 0x44, 0x24, 0xF8, 0, 0, 0, 0};
  uint32_t bit = 1u << lane;
  memcpy(bytes + 4, &bit, 4);
  es_asm_note(&low->out, "test dword ptr [rsp-8], %u", bit);
  es_asm_bytes(&low->out, bytes, sizeof bytes);
  return es_asm_jump(&low->out, JZ);
}

static void next_lane(es_lowering *low) { general(low, X(add_rr), ES_RAX, ES_RCX, 0); }

static void start_lanes(es_lowering *low, const es_vec_code *code) {
  int8_t base = es_low_scalar(low, code->at[0], ES_RAX), step = es_low_scalar(low, code->at[1], ES_RCX);
  if (base != ES_RAX) general(low, X(mov_rr), ES_RAX, base, 0);
  if (step != ES_RCX) general(low, X(mov_rr), ES_RCX, step, 0);
}

static void strided_load(es_lowering *low, const es_vec_code *code) {
  bool masked = code->op == ES_VEC_loadsm;
  int per = 16 / low->vec->element_bytes;
  if (masked) push_bits(low, code->at[3]);
  low->scratch_taken = 0; /* the mask is on the stack now */
  int8_t to = es_low_result(low, code), part = es_low_scratch(low);
  start_lanes(low, code);
  for (int lane = 0; lane < low->vec->lanes; lane++) {
    if (masked && lane % per == 0)
      es_low_put(low, (es_x86_ins){.op = X(pxord), .bytes = low->bytes, .a = part, .b = part, .c = part});
    int32_t skip = masked ? skip_lane(low, lane) : 0;
    element_load(low, part, lane, (int32_t)code->k);
    if (masked) es_asm_land(&low->out, skip);
    next_lane(low);
    if (lane % per == per - 1) insert_part(low, to, part, lane / per);
  }
}

static void strided_store(es_lowering *low, const es_vec_code *code) {
  bool masked = code->op == ES_VEC_storesm;
  int per = 16 / low->vec->element_bytes;
  if (masked) push_bits(low, code->at[4]);
  low->scratch_taken = 0;
  int8_t from = es_low_vector(low, code->at[2]), part = es_low_scratch(low);
  start_lanes(low, code);
  for (int lane = 0; lane < low->vec->lanes; lane++) {
    if (lane % per == 0) extract_part(low, part, from, lane / per);
    int32_t skip = masked ? skip_lane(low, lane) : 0;
    es_x86_mem mem = {.base = ES_RAX, .index = -1, .scale = 1, .disp = (int32_t)code->k};
    int op = es_low_by_width(low, X(extractps), X(pextrq));
    es_low_put(low, (es_x86_ins){.op = (int16_t)op, .bytes = 16, .a = -1, .b = -1, .c = part, .mem_used = true,
                                 .mem = mem, .imm = (uint8_t)(lane % per)});
    if (masked) es_asm_land(&low->out, skip);
    next_lane(low);
  }
}

static bool strided(es_lowering *low, const es_vec_code *code) {
  switch (code->op) {
    case ES_VEC_loads:
    case ES_VEC_loadsm: return strided_load(low, code), true;
    case ES_VEC_stores:
    case ES_VEC_storesm: return strided_store(low, code), true;
    default: return false;
  }
}

/* --- loops --- */

typedef struct loop {
  int32_t exit, top, counter;
  int32_t around; /* number of the loop around it, for the listing */
} loop;

static void open_loop(es_lowering *low, const es_vec_code *code, int32_t i, loop *here) {
  here->counter = low->vec->reg_count + i;
  bool held = es_low_in_register(low, here->counter);
  int8_t counter = held ? scalars[place_of(low, here->counter)->at] : ES_RAX;
  int8_t count = es_low_scalar(low, code->at[0], counter);
  if (count != counter) general(low, X(mov_rr), counter, count, 0);
  general(low, X(test_rr), counter, counter, 0);
  here->exit = es_asm_jump(&low->out, JLE);
  if (!held) general_mem(low, X(mov_mr), ES_RAX, slot(low, here->counter), 0);
  here->top = low->out.length;
  here->around = low->out.loop;
  low->out.loop = ++low->loops_seen;
  low->out.depth++;
}

static void close_loop(es_lowering *low, const loop *here) {
  if (es_low_in_register(low, here->counter))
    general(low, X(dec), scalars[place_of(low, here->counter)->at], -1, 0);
  else
    general_mem(low, X(dec), -1, slot(low, here->counter), 0);
  es_asm_jump_back(&low->out, JNZ, here->top);
  es_asm_land(&low->out, here->exit);
  low->out.loop = here->around;
  low->out.depth--;
}

/* --- the function --- */

static int32_t frame_bytes(const es_lowering *low) {
  return low->slots_at + 8 * low->places->scalar_slots;
}

/* Every page of the frame is touched in order, so that a stack that is full ends in its guard page. */
static void enter(es_lowering *low) {
  for (int at = FREE_SCALARS; at < SCALARS; at++)
    if (low->places->scalars_used >> at & 1) general(low, X(push), scalars[at], -1, 0);
  for (int32_t left = frame_bytes(low); left > 0; left -= PAGE) {
    general(low, X(sub_i), ES_RSP, -1, left < PAGE ? left : PAGE);
    if (left > PAGE) general_mem(low, X(mov_mr), ES_RAX, at_rsp(0), 0);
  }
}

static void leave(es_lowering *low) {
  if (frame_bytes(low) > 0) general(low, X(add_i), ES_RSP, -1, frame_bytes(low));
  for (int at = SCALARS - 1; at >= FREE_SCALARS; at--)
    if (low->places->scalars_used >> at & 1) general(low, X(pop), scalars[at], -1, 0);
  if (low->streams) general(low, X(sfence), -1, -1, 0);
  es_low_put(low, (es_x86_ins){.op = X(zeroupper), .bytes = 32, .a = -1, .b = -1, .c = -1});
  general(low, X(ret), -1, -1, 0);
}

static void load_constants(es_lowering *low) {
  for (int32_t n = 0; n < low->places->hoisted_count; n++) {
    int32_t r = low->places->hoisted[n];
    es_operand from = es_low_constant(low, &low->vec->code[low->vec->reg[r].made]);
    es_low_load(low, (int8_t)place_of(low, r)->at, &from);
  }
}

static void instructions(es_lowering *low) {
  loop loops[ES_VEC_NESTING];
  int depth = 0;
  for (int32_t i = 0; i < low->vec->count; i++) {
    const es_vec_code *code = &low->vec->code[i];
    if (!low->places->live[i] || low->places->merged[i]) continue;
    int32_t r = target_of(code);
    bool nothing = r >= 0 && (place_of(low, r)->kind == ES_PLACE_constant || place_of(low, r)->kind == ES_PLACE_folded);
    if (nothing || (r >= 0 && es_place_constant(code->op) && !low->vec->reg[r].changes)) continue; /* hoisted */
    low->scratch_taken = 0;
    if (code->op == ES_VEC_loop)
      open_loop(low, code, i, &loops[depth++]);
    else if (code->op == ES_VEC_end)
      close_loop(low, &loops[--depth]);
    else if (code->op == ES_VEC_note)
      low->out.node = (int32_t)code->k;
    else if (scalar(low, code) || straight(low, code) || strided(low, code) || es_low_value(low, code))
      keep_result(low, code);
  }
}

static int32_t temporaries(const es_vec *vec, const es_vec_code *code) {
  switch (code->op) {
    case ES_VEC_loads:
    case ES_VEC_loadsm:
    case ES_VEC_stores:
    case ES_VEC_storesm:
    case ES_VEC_hadd:
    case ES_VEC_hmin:
    case ES_VEC_hmax: return 1;
    case ES_VEC_m_tail: return vec->isa == ES_ISA_avx512;
    case ES_VEC_rotl: return vec->isa == ES_ISA_avx2;
    case ES_VEC_cvt_f: return vec->isa == ES_ISA_avx2 && vec->element_bytes == 8;
    default: return 0;
  }
}

static esper_status lower(const es_vec *vec, es_lowering *low, es_placement *places, es_error *err) {
  esper_status status = es_place_all(vec, &targets[vec->isa], temporaries, places, err);
  if (status != ESPER_OK) return status;
  low->vec = vec;
  low->places = places;
  low->wide_isa = vec->isa == ES_ISA_avx512;
  low->wide_element = vec->element_bytes == 8;
  low->bytes = (int8_t)(vec->lanes * vec->element_bytes);
  low->vector_count = targets[vec->isa].vectors;
  low->slots_at = places->vector_slots * low->bytes;
  if (frame_bytes(low) > FRAME_MAX)
    return es_fail(err, ESPER_ECOMPILE, "vector block: %d bytes of values at once beyond the registers; want %d at most",
                   frame_bytes(low), FRAME_MAX);
  enter(low);
  load_constants(low);
  instructions(low);
  leave(low);
  es_asm_finish(&low->out);
  bool starved = low->out.failed || (low->out.listing && low->out.listing->failed);
  if (starved) return es_fail(err, ESPER_ENOMEM, "vector block: out of memory");
  if (!low->out.refused) return ESPER_OK;
  es_text text = {0};
  es_x86_print(&low->out.culprit, &text);
  status = es_fail(err, ESPER_EINTERNAL, "vector block: no encoding for: %s", text.bytes ? text.bytes : "?");
  es_text_clear(&text);
  return status;
}

esper_status es_vec_lower_x86(const es_vec *vec, const char *name, es_text *out, es_error *err) {
  es_lowering low = {0};
  es_placement places;
  esper_status status = lower(vec, &low, &places, err);
  if (status == ESPER_OK) es_asm_print(&low.out, name, out);
  es_asm_clear(&low.out);
  es_placement_clear(&places);
  return status;
}

esper_status es_vec_listing(const es_vec *vec, es_text *out, es_error *err) {
  es_lowering low = {.out.listing = out};
  es_placement places;
  if (vec->error.status != ESPER_OK || vec->depth > 0)
    return es_fail(err, ESPER_ECOMPILE, "vector block: it is not whole; es_vec_lower says why");
  if (vec->isa == ES_ISA_scalar)
    return es_fail(err, ESPER_ECOMPILE, "vector block: isa scalar is C; there are no instructions to list");
  esper_status status = lower(vec, &low, &places, err);
  es_asm_clear(&low.out);
  es_placement_clear(&places);
  return status;
}
