/* Machine code of one block being written: bytes, constant pool, listing. Between lower_x86.c, which chooses the
 * instructions, and x86.c, which encodes them. */
#ifndef ES_VEC_ASM_H
#define ES_VEC_ASM_H
#include "base/error.h"
#include "base/text.h"
#include "vec/x86.h"

typedef struct es_asm_patch { int32_t at, end, pool; } es_asm_patch; /* displacement, next instruction, place in the pool */

typedef struct es_asm {
  uint8_t *code;
  int32_t length, room;
  uint8_t *pool;             /* constants, placed behind the code */
  int32_t pool_length, pool_room;
  es_asm_patch *patches;
  int32_t patch_count, patch_room;
  es_text *listing;          /* NULL: not wanted */
  int32_t depth, loop, node; /* for the listing: open loops, number of the innermost, node that is computed; 0 none */
  bool failed;               /* out of memory */
  bool refused;              /* an instruction had no encoding: a defect of lower_x86.c */
  es_x86_ins culprit;
} es_asm;

void es_asm_put(es_asm *out, const es_x86_ins *ins);
void es_asm_bytes(es_asm *out, const void *bytes, int32_t count);
/* A line of the listing for bytes that did not come from es_asm_put. */
void es_asm_note(es_asm *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A forward jump: emitted with an open distance; returns its place for es_asm_land. condition: second byte of 0F 8x. */
int32_t es_asm_jump(es_asm *out, int condition);
void es_asm_land(es_asm *out, int32_t jump);
void es_asm_jump_back(es_asm *out, int condition, int32_t to);
/* Offset in the pool of a constant of `size` bytes (4 to 64), equal ones shared. */
int32_t es_asm_constant(es_asm *out, const void *bytes, int32_t size);
/* Pool behind the code, displacements filled in. */
void es_asm_finish(es_asm *out);
void es_asm_clear(es_asm *out);
/* Appends `void name(const long *w);` and its definition as a global asm function. */
void es_asm_print(const es_asm *done, const char *name, es_text *out);
#endif
