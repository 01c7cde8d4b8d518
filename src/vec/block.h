/* What a vector block is inside: instructions and registers, for the lowerings.
 * Invariant of a block without error: every operand exists, has the class and type its row wants, and is in scope. */
#ifndef ES_VEC_BLOCK_H
#define ES_VEC_BLOCK_H
#include "vec/vec.h"

enum { ES_VEC_OPERANDS = 5, ES_VEC_NESTING = 16 };

typedef struct es_vec_code {      /* one instruction */
  int32_t op;                     /* es_vec_op */
  int32_t type;                   /* es_vec_type of the result, or of what is compared or stored */
  int32_t at[ES_VEC_OPERANDS];    /* registers, -1 where the row has none */
  int32_t result;                 /* register or -1 */
  int64_t k;
  double n;
} es_vec_code;

typedef struct es_vec_register {
  char kind;                      /* 'g' 'v' 'm' */
  bool changes;                   /* target of a set */
  int8_t type;                    /* es_vec_type; none for g and m */
  int8_t depth;                   /* loops around its definition */
  int32_t loop;                   /* instruction that opened the innermost of them, -1 outside */
  int32_t made;                   /* instruction that made it */
} es_vec_register;

_Static_assert(sizeof(es_vec_code) == 4 * (ES_VEC_OPERANDS + 3) + 16, "no padding: es_vec_digest hashes the bytes");

struct es_vec {
  es_isa isa;
  int32_t element_bytes, lanes;
  es_vec_code *code;
  es_vec_register *reg;
  int32_t count, room;            /* instructions */
  int32_t reg_count, reg_room;
  int32_t depth;                  /* open loops, and the instructions that opened them, outermost first */
  int32_t loops[ES_VEC_NESTING];
  es_error error;                 /* the first one */
};

/* A lowering appends the C text defining `name`; the block is whole and free of errors. */
typedef esper_status es_vec_lowering(const es_vec *vec, const char *name, es_text *out, es_error *err);
es_vec_lowering es_vec_lower_c, es_vec_lower_x86;
es_vec_lowering *es_isa_lowering(es_isa isa); /* NULL when there is none */
#endif
