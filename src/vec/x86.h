/* x86-64 instructions: one row of x86.def with operands, encoded to bytes or printed. What the vector lowerings for AVX2
 * and AVX-512 are made of; knows nothing of vector blocks.
 * Invariant: what es_x86_encode gives, GNU as gives for the text of es_x86_print, byte for byte. */
#ifndef ES_X86_H
#define ES_X86_H
#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"

typedef enum es_x86_op {
#define X(name, ...) ES_X86_##name,
#define G(name, ...) ES_X86_##name,
#include "vec/x86.def"
#undef X
#undef G
  ES_X86_COUNT
} es_x86_op;

enum { ES_X86_NONE = -1, ES_X86_POOL = -2, ES_X86_RSP = 4 };

/* One row of x86.def; its legend says what the fields mean. General-purpose rows have no prefix and leave those 0. */
typedef struct es_x86_row {
  const char *name, *vex, *evex, *operands, *place;
  uint8_t widths, pp, map, opcode, wv, we;
  int8_t digit;
  char tuple, mask, immediate;
  uint8_t accumulator;
  bool general;
  const char *vex_needs, *evex_needs; /* "-" where the form does not exist; "" in general-purpose rows */
} es_x86_row;
const es_x86_row *es_x86_row_of(int32_t op); /* static; NULL past the last row */

typedef struct es_x86_mem {
  int8_t base;   /* general register 0..15, ES_X86_NONE (with index only), or ES_X86_POOL (without): the block's constants */
  int8_t index;  /* general register but rsp, or ES_X86_NONE */
  int8_t scale;  /* 1 2 4 8 */
  int32_t disp;  /* displacement, or offset in the constants */
} es_x86_mem;

typedef struct es_x86_ins {
  int16_t op;       /* es_x86_op */
  int8_t bytes;     /* vector width 16, 32, 64; in general-purpose rows 4 or 8. Rows of one width only do not look */
  bool evex;        /* vector rows take an EVEX prefix, else VEX; rows that have one of them only must get that */
  int8_t a, b, c;   /* register numbers, by the legend; not looked at where the row has none, or has `mem` */
  bool mem_used;    /* the operand in modrm.rm is `mem`: c, or a of stores and of rows with one operand */
  es_x86_mem mem;
  int8_t mask;      /* mask register 1..7, 0 none; EVEX only, as are the next two */
  bool zero;        /* lanes masked off become 0 */
  bool broadcast;   /* mem is one element for all lanes */
  uint8_t imm;      /* of rows with an imm8 */
  int64_t k;        /* immediate of general-purpose rows */
} es_x86_ins;

/* Encodes the instruction in the shortest form that GNU as would take.
 *   out      up to 15 bytes
 *   pool_at  where the 4 bytes of the displacement stand when mem.base is ES_X86_POOL, else -1. They hold mem.disp; the
 *            caller adds (address of the constants) - (address of the next instruction)
 *   returns  the length; 0 when there is no such instruction
 *   thread   any */
int32_t es_x86_encode(const es_x86_ins *ins, uint8_t *out, int32_t *pool_at);
/* Appends the instruction in the Intel syntax of GNU as, registers without %, no newline. The constants are the symbol
 * `pool` (0 when assembled alone); VEX and EVEX are not told apart where only a prefix {evex} would do so. */
void es_x86_print(const es_x86_ins *ins, es_text *out);
#endif
