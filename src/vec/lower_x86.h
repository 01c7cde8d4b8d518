/* What the two halves of the x86 lowering share: lower_x86.c (frame, scalars, memory, control) and lower_x86_values.c
 * (arithmetic, compares, rearranging). */
#ifndef ES_VEC_LOWER_X86_H
#define ES_VEC_LOWER_X86_H
#include "vec/asm.h"
#include "vec/place.h"

enum { /* general registers by number */
  ES_RAX = 0, ES_RCX = 1, ES_RDX = 2, ES_RBX = 3, ES_RSP = 4, ES_RBP = 5, ES_RSI = 6, ES_RDI = 7
};

typedef struct es_lowering {
  const es_vec *vec;
  const es_placement *places;
  bool wide_isa;          /* AVX-512: masks in k registers, broadcasts, 32 registers */
  bool wide_element;      /* 8 bytes */
  int8_t bytes;           /* of a vector register */
  int32_t vector_count;
  int32_t slots_at;       /* frame: vector slots from rsp, then the 8-byte ones */
  int32_t scratch_taken;  /* scratch vector registers the present instruction has taken */
  int32_t loops_seen;
  bool streams;           /* it stores past the caches: other threads see that after a fence */
  es_asm out;
} es_lowering;

/* An operand that an instruction may read from memory. */
typedef struct es_operand {
  bool memory, broadcast;
  int8_t reg;
  es_x86_mem mem;
} es_operand;

/* lower_x86.c */
int8_t es_low_scratch(es_lowering *low);                  /* a vector register, free until the next instruction of the block */
int8_t es_low_vector(es_lowering *low, int32_t r);        /* its machine register; loaded into a scratch one if it has none */
int8_t es_low_scalar(es_lowering *low, int32_t r, int8_t scratch);
int8_t es_low_mask(es_lowering *low, int32_t r, int8_t scratch); /* k register; AVX2: as es_low_vector */
es_operand es_low_operand(es_lowering *low, int32_t r);   /* in memory where it has no register */
bool es_low_in_register(const es_lowering *low, int32_t r);
int8_t es_low_result(es_lowering *low, const es_vec_code *code); /* where the result is to be computed */
es_operand es_low_constant(es_lowering *low, const es_vec_code *code); /* of a splat, splati or iota */
es_operand es_low_literal(es_lowering *low, uint64_t bits);      /* the same bits in every lane, from the pool */
es_operand es_low_full_literal(es_lowering *low, const void *bytes); /* a whole vector */
void es_low_load(es_lowering *low, int8_t to, const es_operand *from);
void es_low_move(es_lowering *low, int8_t to, int8_t from);
void es_low_3(es_lowering *low, int op, int8_t a, int8_t b, int8_t c);
void es_low_3m(es_lowering *low, int op, int8_t a, int8_t b, const es_operand *c);
void es_low_imm(es_lowering *low, int op, int8_t a, int8_t b, int8_t c, int imm);
void es_low_imm_m(es_lowering *low, int op, int8_t a, int8_t b, const es_operand *c, int imm);
void es_low_put(es_lowering *low, es_x86_ins ins);        /* as given, but for the fields every instruction has */
static inline int es_low_by_width(const es_lowering *low, int narrow, int wide) { return low->wide_element ? wide : narrow; }
es_x86_mem es_low_address(es_lowering *low, const es_vec_code *code); /* a + b * n + k of a memory instruction */

/* lower_x86_values.c: true when it knows the op */
bool es_low_value(es_lowering *low, const es_vec_code *code);
#endif
