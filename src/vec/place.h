/* Where the registers of a block live on a machine with few: the register allocation, shared by the x86 targets.
 * Between the builder (vec.c) and lower_x86.c. */
#ifndef ES_VEC_PLACE_H
#define ES_VEC_PLACE_H
#include "vec/block.h"

/* What the allocation must know of a target. */
typedef struct es_target {
  int32_t vectors, masks, scalars; /* registers there are; masks 0: masks live in vector registers */
  bool broadcasts;                 /* an instruction can read one element of memory for all lanes */
} es_target;

typedef enum es_place_kind {
  ES_PLACE_nowhere,  /* nobody reads it */
  ES_PLACE_register,
  ES_PLACE_slot,     /* in the frame; loaded at every use, stored at every change */
  ES_PLACE_constant, /* in the pool behind the code */
  ES_PLACE_argument, /* a word of the call, read anew at every use */
  ES_PLACE_folded    /* the memory operand of its only user */
} es_place_kind;

typedef struct es_place {
  int8_t kind;
  int32_t at; /* register or slot of its class; argument: number of the word */
} es_place;

enum { ES_PLACE_HOISTED = 24 };

typedef struct es_placement {
  es_place *place;       /* per register of the block; then one per instruction: the counter of a loop */
  bool *live;            /* per instruction: does anything depend on it? */
  bool *merged;          /* per instruction: a set whose value is computed where it belongs */
  int32_t hoisted[ES_PLACE_HOISTED]; /* constants to be loaded at the start */
  int32_t hoisted_count;
  int32_t vector_slots, scalar_slots;
  int32_t scratch;       /* the last so many vector registers hold nothing between instructions */
  uint32_t scalars_used; /* bit per scalar register */
} es_placement;

/* How many vector registers the expansion of an instruction needs besides operands and result. */
typedef int32_t es_temporaries(const es_vec *vec, const es_vec_code *code);

esper_status es_place_all(const es_vec *vec, const es_target *target, es_temporaries *temporaries,
                          es_placement *out, es_error *err);
void es_placement_clear(es_placement *placement);

/* Does the op give the same constant whenever it runs? */
bool es_place_constant(int32_t op);
/* May operand `at` of the instruction be read from memory? */
bool es_place_readable(const es_vec *vec, const es_target *target, const es_vec_code *code, int at);
#endif
