/* Printer of x86-64 instructions, for dumps and for GNU as, which the encoder is tested against.
 * Invariant: prints whatever es_x86_encode encodes; of anything else some text, without reading out of bounds. */
#include <inttypes.h>
#include <string.h>

#include "vec/x86.h"

static const char *const wide[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const narrow[16] = {"eax", "ecx", "edx",  "ebx",  "esp",  "ebp",  "esi",  "edi",
                                       "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"};

static void general(int32_t value, int32_t bytes, es_text *out) {
  const char *const *names = bytes == 4 ? narrow : wide;
  es_text_add(out, "%s", value >= 0 && value < 16 ? names[value] : "?");
}

static void vector(int32_t value, int32_t bytes, es_text *out) {
  es_text_add(out, "%cmm%d", bytes == 64 ? 'z' : bytes == 32 ? 'y' : 'x', value);
}

static void reg(const es_x86_ins *ins, char class, int32_t value, es_text *out) {
  switch (class) {
    case 'v': case 'V': case 'B': vector(value, ins->bytes, out); break;
    case 'x': case 'X': vector(value, 16, out); break;
    case 'k': es_text_add(out, "k%d", value); break;
    case 'e': case 'E': general(value, 4, out); break;
    case 'g': case 'G': general(value, ins->bytes, out); break;
    default: general(value, 8, out);
  }
}

static int32_t mem_bytes(const es_x86_row *row, const es_x86_ins *ins, char class) {
  if (class == 'A') return 0;
  if (row->general) return ins->bytes;
  if (ins->broadcast) return row->we ? 8 : 4;
  switch (row->tuple) {
    case 'F': case 'M': return ins->bytes;
    case 'X': return 16;
    case '8': case '4': return row->tuple - '0';
    default: return 0;
  }
}

static const char *size_name(int32_t bytes) {
  switch (bytes) {
    case 4: return "DWORD";
    case 8: return "QWORD";
    case 16: return "XMMWORD";
    case 32: return "YMMWORD";
    default: return "ZMMWORD";
  }
}

static void address(const es_x86_row *row, const es_x86_ins *ins, char class, es_text *out) {
  const es_x86_mem *mem = &ins->mem;
  int32_t bytes = mem_bytes(row, ins, class);
  const char *plus = "";
  if (bytes) es_text_add(out, "%s %s ", size_name(bytes), ins->broadcast ? "BCST" : "PTR");
  es_text_add(out, "[");
  if (mem->base == ES_X86_POOL) es_text_add(out, "rip+pool"), plus = "+";
  if (mem->base >= 0) general(mem->base, 8, out), plus = "+";
  if (mem->index != ES_X86_NONE && mem->base != ES_X86_POOL) {
    es_text_add(out, "%s", plus);
    general(mem->index, 8, out);
    es_text_add(out, "*%d", mem->scale);
    plus = "+";
  }
  if (mem->disp != 0) es_text_add(out, "%s%" PRId32, mem->disp < 0 ? "" : plus, mem->disp);
  es_text_add(out, "]");
}

static void immediate(const es_x86_row *row, const es_x86_ins *ins, char class, es_text *out) {
  if (class == 'w') vector(ins->imm, ins->bytes, out);
  else es_text_add(out, "%" PRId64, row->general ? ins->k : ins->imm);
}

void es_x86_print(const es_x86_ins *ins, es_text *out) {
  const es_x86_row *row = es_x86_row_of(ins->op);
  if (!row) {
    es_text_add(out, "?");
    return;
  }
  es_text_add(out, "%s", ins->evex && !row->general ? row->evex : row->vex);
  size_t placed = strlen(row->place);
  for (size_t i = 0; row->operands[i]; i++) {
    char class = row->operands[i], where = i < placed ? row->place[i] : 'i';
    es_text_add(out, i ? ", " : " ");
    if (where == 'i')
      immediate(row, ins, class, out);
    else if (where == 'm' && ins->mem_used)
      address(row, ins, class, out);
    else
      reg(ins, class, i == 0 ? ins->a : where == 'v' ? ins->b : ins->c, out);
    if (i == 0 && ins->mask) es_text_add(out, "{k%d}%s", ins->mask, ins->zero ? "{z}" : "");
  }
}
