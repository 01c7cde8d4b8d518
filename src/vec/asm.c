/* Machine code of one block: bytes with their listing, pool of constants, jumps, and the C text that
 * carries it all through libtcc. Between lower_x86.c and the unit.
 * Invariant: after a failure nothing more is written and the flag stays set. */
#include "vec/asm.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

enum { POOL_ALIGN = 64 };

static bool reserve(es_asm *out, void **items, int32_t needed, int32_t *room, size_t size) {
  if (out->failed) return false;
  if (needed <= *room) return true;
  int32_t more = *room ? *room : 256;
  while (more < needed) more *= 2;
  void *grown = es_realloc(*items, (size_t)more * size);
  if (!grown) {
    out->failed = true;
    return false;
  }
  *items = grown;
  *room = more;
  return true;
}

void es_asm_bytes(es_asm *out, const void *bytes, int32_t count) {
  if (!reserve(out, (void **)&out->code, out->length + count, &out->room, 1)) return;
  memcpy(out->code + out->length, bytes, (size_t)count);
  out->length += count;
}

/* One line of the listing: offset, instruction indented by loops, and which loop and node it belongs
 * to. */
static void list_line(es_asm *out, const char *instruction) {
  char where[48] = "";
  int32_t length = 0;
  if (out->loop > 0) length = snprintf(where, sizeof where, " loop %d", out->loop);
  if (out->node > 0) snprintf(where + length, sizeof where - (size_t)length, " node %d", out->node);
  es_text_add(out->listing, "%6x  %*s%-*s%s%s\n", (unsigned)out->length, 2 * out->depth, "",
              where[0] ? 58 - 2 * out->depth : 0, instruction, where[0] ? " ;" : "", where);
}

void es_asm_note(es_asm *out, const char *fmt, ...) {
  if (!out->listing) return;
  char text[160];
  va_list list;
  va_start(list, fmt);
  vsnprintf(text, sizeof text, fmt, list);
  va_end(list);
  list_line(out, text);
}

void es_asm_put(es_asm *out, const es_x86_ins *ins) {
  uint8_t bytes[16];
  int32_t pool_at = -1;
  int32_t length = es_x86_encode(ins, bytes, &pool_at);
  if (length == 0 && !out->refused) {
    out->refused = true;
    out->culprit = *ins;
  }
  if (length == 0) return;
  if (out->listing) {
    es_text text = {0};
    es_x86_print(ins, &text);
    out->failed = out->failed || text.failed;
    if (!text.failed) list_line(out, text.bytes);
    es_text_clear(&text);
  }
  int32_t start = out->length;
  es_asm_bytes(out, bytes, length);
  if (pool_at < 0 || !reserve(out, (void **)&out->patches, out->patch_count + 1, &out->patch_room,
                              sizeof *out->patches))
    return;
  out->patches[out->patch_count++] =
      (es_asm_patch){start + pool_at, start + length, ins->mem.disp};
}

/* --- jumps --- */

static const char *condition_name(int condition) {
  return condition == 0x8E ? "jle" : condition == 0x85 ? "jnz" : condition == 0x84 ? "jz" : "jcc";
}

static void set_distance(es_asm *out, int32_t end, int32_t target) {
  int32_t distance = target - end;
  if (!out->failed) memcpy(out->code + end - 4, &distance, 4);
}

int32_t es_asm_jump(es_asm *out, int condition) {
  const uint8_t bytes[6] = {0x0F, (uint8_t)condition};
  es_asm_note(out, "%s forward", condition_name(condition));
  es_asm_bytes(out, bytes, sizeof bytes);
  return out->length;
}

void es_asm_land(es_asm *out, int32_t jump) { set_distance(out, jump, out->length); }

void es_asm_jump_back(es_asm *out, int condition, int32_t to) {
  int32_t near = to - (out->length + 2);
  es_asm_note(out, "%s %x", condition_name(condition), (unsigned)to);
  if (near >= -128) {
    const uint8_t bytes[2] = {(uint8_t)(condition - 0x10), (uint8_t)near};
    es_asm_bytes(out, bytes, sizeof bytes);
    return;
  }
  const uint8_t bytes[6] = {0x0F, (uint8_t)condition};
  es_asm_bytes(out, bytes, sizeof bytes);
  set_distance(out, out->length, to);
}

/* --- pool --- */

int32_t es_asm_constant(es_asm *out, const void *bytes, int32_t size) {
  for (int32_t at = 0; at + size <= out->pool_length; at += size)
    if (memcmp(out->pool + at, bytes, (size_t)size) == 0) return at;
  int32_t at = (out->pool_length + size - 1) / size * size;
  if (!reserve(out, (void **)&out->pool, at + size, &out->pool_room, 1)) return 0;
  memset(out->pool + out->pool_length, 0, (size_t)(at - out->pool_length));
  memcpy(out->pool + at, bytes, (size_t)size);
  out->pool_length = at + size;
  return at;
}

void es_asm_finish(es_asm *out) {
  if (out->pool_length == 0) return;
  static const uint8_t zeros[POOL_ALIGN];
  es_asm_bytes(out, zeros, (POOL_ALIGN - out->length % POOL_ALIGN) % POOL_ALIGN);
  int32_t base = out->length;
  if (out->listing) es_text_add(out->listing, "%6x  pool of %d bytes\n", (unsigned)base, out->pool_length);
  es_asm_bytes(out, out->pool, out->pool_length);
  for (int32_t i = 0; i < out->patch_count && !out->failed; i++) {
    int32_t distance = base + out->patches[i].pool - out->patches[i].end;
    memcpy(out->code + out->patches[i].at, &distance, 4);
  }
}

void es_asm_clear(es_asm *out) {
  es_free(out->code);
  es_free(out->pool);
  es_free(out->patches);
  *out = (es_asm){0};
}

/* --- text --- */

static void hex(es_text *out, uint64_t value) {
  char digits[20] = "0x", *s = digits + sizeof digits;
  *--s = 0;
  do *--s = "0123456789abcdef"[value & 15];
  while (value >>= 4);
  es_text_bytes(out, "0x", 2);
  es_text_bytes(out, s, strlen(s));
}

void es_asm_print(const es_asm *done, const char *name, es_text *out) {
  es_text_add(out, "void %s(const long *w);\n__asm__(\".text\\n.p2align 6\\n.globl %s\\n%s:\\n\"", name,
              name, name);
  for (int32_t at = 0; at < done->length; at += 8) {
    uint64_t word = 0xCCCCCCCCCCCCCCCCu; /* int3 behind the end */
    int32_t left = done->length - at;
    memcpy(&word, done->code + at, (size_t)(left < 8 ? left : 8));
    if (at % 64 == 0)
      es_text_add(out, "%s\n\".quad ", at ? "\\n\"" : "");
    else
      es_text_bytes(out, ",", 1);
    hex(out, word);
  }
  es_text_add(out, "\\n\");\n");
}
