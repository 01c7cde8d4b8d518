/* Encoder of x86-64 instructions: from a row of x86.def and its operands to bytes. Between the lowerings of vector blocks
 * and the machine.
 * Invariant: operands are checked before the first byte is written, so a length above 0 means a valid instruction. */
#include "vec/x86.h"

#include <string.h>

enum { NP, P66, PF3, PF2 };       /* the legacy prefix that VEX and EVEX hold in pp */
enum { M0F = 1, M38 = 2, M3A = 3 }; /* opcode maps */
enum { L0 = 0, L1 = 1 };

static const es_x86_row rows[ES_X86_COUNT] = {
#define X(name_, vex_, evex_, operands_, place_, widths_, pp_, map_, opcode_, wv_, we_, digit_, tuple_, mask_, fv, fe) \
  {.name = #name_, .vex = vex_, .evex = evex_, .operands = operands_, .place = place_, .widths = widths_, .pp = pp_,   \
   .map = map_, .opcode = opcode_, .wv = wv_, .we = we_, .digit = digit_, .tuple = tuple_, .mask = mask_,              \
   .immediate = '-', .vex_needs = #fv, .evex_needs = #fe},
#define G(name_, mnemonic_, operands_, place_, widths_, map_, opcode_, digit_, immediate_, short_)                \
  {.name = #name_, .vex = mnemonic_, .evex = "", .operands = operands_, .place = place_, .widths = widths_,       \
   .map = map_, .opcode = opcode_, .digit = digit_, .tuple = '-', .mask = '-', .immediate = immediate_,           \
   .accumulator = short_, .general = true, .vex_needs = "", .evex_needs = ""},
#include "vec/x86.def"
#undef X
#undef G
};

const es_x86_row *es_x86_row_of(int32_t op) { return op >= 0 && op < ES_X86_COUNT ? &rows[op] : NULL; }

/* The operands where the encoding wants them. `mem` NULL: rm is a register. */
typedef struct fields {
  int32_t reg, vvvv, rm, low; /* low: register in the opcode byte */
  const es_x86_mem *mem;
} fields;

/* --- checks --- */

static bool in(int32_t value, int32_t end) { return value >= 0 && value < end; }

static bool check_register(const es_x86_ins *ins, char class, int32_t value) {
  switch (class) {
    case 'v': case 'V': case 'B': case 'x': case 'X':
      return in(value, ins->evex ? 32 : 16);
    case 'k': return in(value, 8);
    case 'e': case 'E': case 'r': case 'R': case 'g': case 'G': return in(value, 16);
    default: return false; /* memory only */
  }
}

static bool check_mem(const es_x86_ins *ins, char class) {
  const es_x86_mem *mem = &ins->mem;
  if (!strchr("VXERGMAB", class) || (class == 'B' && !ins->evex)) return false;
  if (mem->base < ES_X86_POOL || mem->base > 15) return false;
  if (mem->index != ES_X86_NONE) {
    if (!in(mem->index, 16) || mem->index == ES_X86_RSP) return false;
    if (mem->scale != 1 && mem->scale != 2 && mem->scale != 4 && mem->scale != 8) return false;
  }
  return mem->base >= 0 || (mem->base == ES_X86_POOL) != (mem->index != ES_X86_NONE);
}

/* Finds the operands' places; false when one does not suit the row. */
static bool place(const es_x86_row *row, const es_x86_ins *ins, fields *at) {
  *at = (fields){.reg = row->digit, .vvvv = 0, .rm = -1, .low = 0};
  for (int i = 0; row->place[i]; i++) {
    char where = row->place[i], class = row->operands[i];
    int32_t value = i == 0 ? ins->a : where == 'v' ? ins->b : ins->c;
    if (where == 'm' && ins->mem_used) {
      if (!check_mem(ins, class)) return false;
      at->mem = &ins->mem;
      continue;
    }
    if (!check_register(ins, class, value)) return false;
    if (where == 'r') at->reg = value;
    if (where == 'v') at->vvvv = value;
    if (where == 'm') at->rm = value;
    if (where == 'o') at->low = value;
  }
  return ins->mem_used == (at->mem != NULL);
}

static bool check_vector(const es_x86_row *row, const es_x86_ins *ins, const fields *at) {
  if (!*(ins->evex ? row->evex : row->vex)) return false;
  if (row->widths > L1) {
    bool one = ins->bytes == 16 || ins->bytes == 32 || (ins->bytes == 64 && ins->evex);
    if (!one || !(row->widths & ins->bytes)) return false;
  }
  if (row->operands[0] && strchr(row->operands, 'w') && ins->imm > 15) return false;
  if (!ins->evex) return ins->mask == 0 && !ins->zero && !ins->broadcast;
  bool stores = at->mem && row->place[0] == 'm';
  if (!in(ins->mask, 8) || (ins->mask > 0 && row->mask == '-')) return false;
  if (ins->zero && (ins->mask == 0 || row->mask != 'z' || stores)) return false;
  return !ins->broadcast || (at->mem && row->tuple == 'F');
}

static bool fits8(int64_t k) { return k >= INT8_MIN && k <= INT8_MAX; }

static bool check_general(const es_x86_row *row, const es_x86_ins *ins) {
  if (ins->mask || ins->zero || ins->broadcast) return false;
  if (row->widths > 0 && ((ins->bytes != 4 && ins->bytes != 8) || !(row->widths & ins->bytes))) return false;
  switch (row->immediate) {
    case 's': return in((int32_t)ins->k, 8 * ins->bytes) && ins->k == (int32_t)ins->k;
    case '-': case 'q': return true;
    default: return ins->k == (int32_t)ins->k;
  }
}

/* --- bytes --- */

typedef struct writer {
  uint8_t *out;
  int32_t length, pool_at;
} writer;

static void byte(writer *w, int32_t value) { w->out[w->length++] = (uint8_t)value; }

static void little(writer *w, int64_t value, int count) {
  for (int i = 0; i < count; i++) byte(w, (uint8_t)((uint64_t)value >> (8 * i)));
}

static int32_t high(int32_t value, int bit) { return value > 0 ? value >> bit & 1 : 0; }

/* Bits 3 of what modrm.rm and the index name; under EVEX a vector register in rm has its bit 4 where the index would be. */
static int32_t bit_b(const fields *at) { return at->mem ? high(at->mem->base, 3) : high(at->rm, 3); }
static int32_t bit_x(const fields *at, bool evex) {
  if (at->mem) return high(at->mem->index, 3);
  return evex ? high(at->rm, 4) : 0;
}

/* modrm, sib and displacement; a displacement that is a multiple of `unit` is 8 bits of it where that suffices. */
static void address(writer *w, const es_x86_mem *mem, int32_t reg, int32_t unit) {
  int32_t base = mem->base & 7, low = (reg & 7) << 3;
  if (mem->base == ES_X86_POOL) {
    byte(w, low | 5);
    w->pool_at = w->length;
    little(w, mem->disp, 4);
    return;
  }
  bool sib = mem->index != ES_X86_NONE || mem->base == ES_X86_NONE || base == 4;
  int32_t disp8 = mem->disp % unit == 0 && fits8(mem->disp / unit) ? mem->disp / unit : INT32_MAX;
  int32_t mode = mem->disp == 0 && base != 5 ? 0 : disp8 != INT32_MAX ? 1 : 2;
  if (mem->base == ES_X86_NONE) base = 5, mode = 0; /* no base: 32 bits follow */
  byte(w, mode << 6 | low | (sib ? 4 : base));
  if (sib) {
    int32_t index = mem->index == ES_X86_NONE ? 4 : mem->index & 7;
    int32_t scale = mem->index == ES_X86_NONE ? 1 : mem->scale;
    byte(w, (scale == 8 ? 3 : scale >> 1) << 6 | index << 3 | base);
  }
  if (mode == 1) byte(w, (uint8_t)disp8);
  if (mode == 2 || mem->base == ES_X86_NONE) little(w, mem->disp, 4);
}

static void operand(writer *w, const fields *at, int32_t unit) {
  if (at->mem)
    address(w, at->mem, at->reg, unit);
  else
    byte(w, 0xC0 | (at->reg & 7) << 3 | (at->rm & 7));
}

static void vex(writer *w, const es_x86_row *row, const es_x86_ins *ins, fields *at) {
  int32_t opcode = row->opcode, length = row->widths > L1 ? ins->bytes == 32 : row->widths;
  bool loads = row->opcode == 0x10 && row->map == M0F && !at->mem;
  if (loads && at->rm > 7 && at->reg < 8) { /* a move between registers: as a store it needs one byte less */
    int32_t reg = at->reg;
    at->reg = at->rm, at->rm = reg;
    opcode = 0x11;
  }
  int32_t r = high(at->reg, 3), x = bit_x(at, false), b = bit_b(at);
  int32_t tail = (at->vvvv ^ 15) << 3 | length << 2 | row->pp;
  if (row->map == M0F && !row->wv && !x && !b) {
    byte(w, 0xC5);
    byte(w, !r << 7 | tail);
  } else {
    byte(w, 0xC4);
    byte(w, !r << 7 | !x << 6 | !b << 5 | row->map);
    byte(w, row->wv << 7 | tail);
  }
  byte(w, opcode);
}

static void evex(writer *w, const es_x86_row *row, const es_x86_ins *ins, const fields *at) {
  int32_t reg = at->reg, length = row->widths > L1 ? (ins->bytes == 64 ? 2 : ins->bytes == 32) : 0;
  byte(w, 0x62);
  byte(w, !high(reg, 3) << 7 | !bit_x(at, true) << 6 | !bit_b(at) << 5 | !high(reg, 4) << 4 | row->map);
  byte(w, row->we << 7 | (~at->vvvv & 15) << 3 | 4 | row->pp);
  byte(w, ins->zero << 7 | length << 5 | ins->broadcast << 4 | !high(at->vvvv, 4) << 3 | ins->mask);
  byte(w, row->opcode);
}

/* What EVEX counts an 8-bit displacement in. */
static int32_t disp_unit(const es_x86_row *row, const es_x86_ins *ins) {
  if (!ins->evex || row->general) return 1;
  if (ins->broadcast) return row->we ? 8 : 4;
  switch (row->tuple) {
    case 'F': case 'M': return ins->bytes;
    case 'X': return 16;
    case '8': case '4': return row->tuple - '0';
    default: return 1;
  }
}

static void immediate(writer *w, const es_x86_row *row, const es_x86_ins *ins, bool narrow) {
  if (narrow)
    byte(w, (uint8_t)ins->k);
  else if (row->immediate != '-')
    little(w, ins->k, row->immediate == 'q' ? 8 : 4);
}

static void general(writer *w, const es_x86_row *row, const es_x86_ins *ins, const fields *at) {
  bool has_rm = strchr(row->place, 'm') != NULL;
  bool narrow = row->immediate == 's' || (row->immediate == 'b' && fits8(ins->k));
  bool once = row->immediate == 's' && ins->k == 1;
  bool accumulator = row->accumulator && !narrow && !at->mem && at->rm == 0;
  int32_t opcode = row->opcode;
  if (row->immediate == 'b' && narrow) opcode |= 2;
  if (once) opcode |= 0x10;
  if (accumulator) opcode = row->accumulator, has_rm = false;
  int32_t b = has_rm ? bit_b(at) : high(at->low, 3);
  int32_t rex = (row->widths && ins->bytes == 8) << 3 | high(at->reg, 3) << 2 | bit_x(at, false) << 1 | b;
  if (rex) byte(w, 0x40 | rex);
  if (row->map) byte(w, 0x0F);
  byte(w, opcode | (at->low & 7));
  if (has_rm) operand(w, at, 1);
  if (!*row->place && row->digit >= 0) byte(w, 0xC0 | row->digit << 3);
  if (!once) immediate(w, row, ins, narrow);
}

int32_t es_x86_encode(const es_x86_ins *ins, uint8_t *out, int32_t *pool_at) {
  const es_x86_row *row = es_x86_row_of(ins->op);
  writer w = {.out = out, .pool_at = -1};
  fields at;
  *pool_at = -1;
  if (!row || !place(row, ins, &at)) return 0;
  if (!(row->general ? check_general(row, ins) : check_vector(row, ins, &at))) return 0;
  if (row->general) {
    general(&w, row, ins, &at);
  } else {
    if (ins->evex)
      evex(&w, row, ins, &at);
    else
      vex(&w, row, ins, &at);
    if (*row->place) operand(&w, &at, disp_unit(row, ins));
    if (strchr(row->operands, 'i')) byte(&w, ins->imm);
    if (strchr(row->operands, 'w')) byte(&w, ins->imm << 4);
  }
  *pool_at = w.pool_at;
  return w.length;
}
