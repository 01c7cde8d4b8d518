/* Builder of vector blocks: checks every instruction as it is appended, keeps the first error,
 * prints the listing. Between the recipes (through lua/esper/vec.lua) and the lowerings.
 * Invariant: once an error is recorded nothing more is appended, so code[] is a valid prefix. */
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "vec/block.h"

enum { CODE_MAX = 1 << 20 }; /* far above any block; keeps every index and size in 32 bits */

static const es_vec_row rows[ES_VEC_COUNT] = {
#define V(name, result, operands, types, meaning) {#name, #result, operands, types, meaning},
#include "vec/vec.def"
#undef V
};
static const char *const type_names[] = {"f32", "f64", "i32", "i64", "none"};

const es_vec_row *es_vec_row_of(int32_t op) {
  return op >= 0 && op < ES_VEC_COUNT ? &rows[op] : NULL;
}

es_vec *es_vec_new(es_isa isa, int32_t element_bytes) {
  es_vec *vec = es_alloc(sizeof *vec);
  if (!vec) return NULL;
  vec->isa = isa;
  vec->element_bytes = element_bytes;
  vec->lanes = es_isa_lanes(isa, element_bytes);
  if (element_bytes != 4 && element_bytes != 8)
    es_fail(&vec->error, ESPER_ECOMPILE, "vector block: elements of %d bytes; want 4 or 8",
            element_bytes);
  return vec;
}

void es_vec_free(es_vec *vec) {
  if (!vec) return;
  es_free(vec->code);
  es_free(vec->reg);
  es_free(vec);
}

const char *es_vec_failure(const es_vec *vec) { return vec->error.text; }

/* --- checks --- */

static bool is_float(int32_t type) { return type == ES_VEC_f32 || type == ES_VEC_f64; }

static int32_t type_of(const es_vec *vec, bool floating) {
  if (floating) return vec->element_bytes == 4 ? ES_VEC_f32 : ES_VEC_f64;
  return vec->element_bytes == 4 ? ES_VEC_i32 : ES_VEC_i64;
}

static bool converts(int32_t op) { /* the operand is of the other class than the result */
  return op == ES_VEC_cvt_i || op == ES_VEC_cvtt_i || op == ES_VEC_cvt_f || op == ES_VEC_bits;
}

/* Records "vector block, instruction 12 fma: " and what is wrong. */
#define REFUSE(vec, op, fmt, ...)                                                               \
  es_fail(&(vec)->error, ESPER_ECOMPILE, "vector block, instruction %d %s: " fmt, (vec)->count, \
          rows[op].name, __VA_ARGS__)

static bool in_scope(const es_vec *vec, const es_vec_register *reg) {
  return reg->depth == 0 || (reg->depth <= vec->depth && vec->loops[reg->depth - 1] == reg->loop);
}

static bool check_register(es_vec *vec, int32_t op, int place, int32_t r) {
  char want = rows[op].operands[place];
  char letter = (char)('a' + place);
  if (r < 0 || r >= vec->reg_count) {
    REFUSE(vec, op, "operand %c is %d, which is no register; want a %c register", letter, r, want);
  } else if (vec->reg[r].kind != want) {
    REFUSE(vec, op, "operand %c is a %c register (%d); want a %c register", letter,
           vec->reg[r].kind, r, want);
  } else if (!in_scope(vec, &vec->reg[r])) {
    REFUSE(vec, op,
           "operand %c (register %d) was made inside a loop that has ended; set an outer one there",
           letter, r);
  }
  return vec->error.status == ESPER_OK;
}

/* The element type: as asked, else by the row, else by the first vector operand. */
static int32_t resolve_type(es_vec *vec, int32_t op, int32_t type, const int32_t *at) {
  char allowed = rows[op].types[0];
  if (type < 0 || type > ES_VEC_none) {
    REFUSE(vec, op, "type %d is none of f32 f64 i32 i64 none", type);
    return ES_VEC_none;
  }
  if (type == ES_VEC_none && allowed != '-') {
    const char *first = strchr(rows[op].operands, 'v');
    if (allowed == 'b' && !first) {
      REFUSE(vec, op, "%s", "no type given, and no vector operand to take it from");
      return ES_VEC_none;
    }
    bool floating = allowed == 'f';
    if (allowed == 'b')
      floating = is_float(vec->reg[at[first - rows[op].operands]].type) != converts(op);
    type = type_of(vec, floating);
  }
  bool fits = allowed == 'b' || (allowed == 'f' ? is_float(type) : !is_float(type));
  bool wide = type == type_of(vec, is_float(type));
  if (allowed == '-' ? type != ES_VEC_none : !fits || !wide)
    REFUSE(vec, op, "type %s does not suit it in a block of %d-byte elements", type_names[type],
           vec->element_bytes);
  return type;
}

static void check_types(es_vec *vec, int32_t op, int32_t type, const int32_t *at) {
  int32_t want = converts(op) ? type_of(vec, !is_float(type)) : type;
  for (int i = 0; rows[op].operands[i] && vec->error.status == ESPER_OK; i++) {
    if (rows[op].operands[i] != 'v' || vec->reg[at[i]].type == want) continue;
    REFUSE(vec, op, "operand %c (register %d) is %s; want %s", 'a' + i, at[i],
           type_names[vec->reg[at[i]].type], type_names[want]);
  }
}

static void check_constant(es_vec *vec, int32_t op, int64_t k) {
  int64_t bits = 8 * vec->element_bytes, lo = INT64_MIN, hi = INT64_MAX;
  switch (op) {
    case ES_VEC_g_arg: lo = 0, hi = 4095; break;
    case ES_VEC_g_shrk: lo = 0, hi = 63; break;
    case ES_VEC_shl:
    case ES_VEC_shr:
    case ES_VEC_sar:
    case ES_VEC_rotl: lo = 0, hi = bits - 1; break;
    case ES_VEC_splati:
      if (bits == 32) lo = INT32_MIN, hi = UINT32_MAX;
      break;
    case ES_VEC_g_const:
    case ES_VEC_g_addk:
    case ES_VEC_g_mulk: break;
    case ES_VEC_part: lo = 0, hi = 255; break;
    case ES_VEC_note: lo = 0, hi = INT32_MAX; break;
    default: lo = INT32_MIN, hi = INT32_MAX; /* byte offsets: what an x86 address can hold */
  }
  if (k < lo || k > hi)
    REFUSE(vec, op, "constant %" PRId64 " is out of range; want %" PRId64 " to %" PRId64, k, lo,
           hi);
}

/* Rows that only some instruction sets have. */
static void check_isa(es_vec *vec, int32_t op) {
  bool across = op == ES_VEC_unpl || op == ES_VEC_unph || op == ES_VEC_unpl2 || op == ES_VEC_unph2 ||
                op == ES_VEC_part;
  if (across && vec->lanes == 1) REFUSE(vec, op, "%s", "one lane has nothing to rearrange");
  if ((op == ES_VEC_unpl2 || op == ES_VEC_unph2) && vec->element_bytes != 4)
    REFUSE(vec, op, "%s", "pairs are of 4-byte elements");
  if (op == ES_VEC_scalef && vec->isa != ES_ISA_avx512)
    REFUSE(vec, op, "isa %s has no such instruction; want avx512", es_isa_name(vec->isa));
}

static void check_scale(es_vec *vec, int32_t op, double n) {
  bool scaled = op == ES_VEC_loadx || op == ES_VEC_bcastx;
  if (scaled && n != 1 && n != 2 && n != 4 && n != 8)
    REFUSE(vec, op, "scale %g; want 1, 2, 4 or 8", n);
}

static void check_nesting(es_vec *vec, int32_t op) {
  if (op == ES_VEC_loop && vec->depth == ES_VEC_NESTING)
    REFUSE(vec, op, "%d loops are open already, the most there may be", vec->depth);
  if (op == ES_VEC_end && vec->depth == 0) REFUSE(vec, op, "%s", "no loop is open");
}

/* --- appending --- */

/* Room for one more item, growing by doubling; false when memory ran out. */
static bool reserve(void **items, int32_t count, int32_t *room, size_t size) {
  if (count < *room) return true;
  int32_t more = *room ? *room * 2 : 64;
  void *grown = es_realloc(*items, (size_t)more * size);
  if (!grown) return false;
  *items = grown;
  *room = more;
  return true;
}

static int32_t new_register(es_vec *vec, char kind, int32_t type) {
  es_vec_register *reg = &vec->reg[vec->reg_count];
  *reg = (es_vec_register){
      .kind = kind, .type = (int8_t)(kind == 'v' ? type : ES_VEC_none), .made = vec->count};
  reg->depth = (int8_t)vec->depth;
  reg->loop = vec->depth > 0 ? vec->loops[vec->depth - 1] : -1;
  return vec->reg_count++;
}

static int32_t append(es_vec *vec, const es_vec_code *code) {
  if (vec->count >= CODE_MAX ||
      !reserve((void **)&vec->code, vec->count, &vec->room, sizeof *vec->code) ||
      !reserve((void **)&vec->reg, vec->reg_count, &vec->reg_room, sizeof *vec->reg)) {
    es_fail(&vec->error, ESPER_ENOMEM, "vector block: out of memory at instruction %d", vec->count);
    return -1;
  }
  es_vec_code *new = &vec->code[vec->count];
  *new = *code;
  char kind = rows[code->op].result[0];
  new->result = kind == '-' ? -1 : new_register(vec, kind, code->type);
  if (code->op == ES_VEC_set || code->op == ES_VEC_g_set) vec->reg[code->at[0]].changes = true;
  if (code->op == ES_VEC_end) vec->depth--;
  if (code->op == ES_VEC_loop) vec->loops[vec->depth++] = vec->count;
  vec->count++;
  return new->result < 0 ? 0 : new->result;
}

int32_t es_vec_emit(es_vec *vec, int32_t op, int32_t type, int32_t a, int32_t b, int32_t c,
                    int32_t d, int32_t e, int64_t k, double n) {
  if (vec->error.status != ESPER_OK) return -1;
  if (!es_vec_row_of(op)) {
    es_fail(&vec->error, ESPER_ECOMPILE, "vector block, instruction %d: op %d is not in vec.def",
            vec->count, op);
    return -1;
  }
  const char *operands = rows[op].operands;
  const int32_t given[ES_VEC_OPERANDS] = {a, b, c, d, e};
  es_vec_code code = {.op = op, .k = k, .n = n, .at = {-1, -1, -1, -1, -1}};
  bool constant = false;
  for (int i = 0; operands[i]; i++) {
    if (operands[i] == 'k' || operands[i] == 'n') {
      constant = constant || operands[i] == 'k';
      continue;
    }
    if (!check_register(vec, op, i, given[i])) return -1;
    code.at[i] = given[i];
  }
  code.type = resolve_type(vec, op, type, code.at);
  if (vec->error.status == ESPER_OK) check_types(vec, op, code.type, code.at);
  if (vec->error.status == ESPER_OK && constant) check_constant(vec, op, k);
  if (vec->error.status == ESPER_OK) check_scale(vec, op, n);
  if (vec->error.status == ESPER_OK) check_isa(vec, op);
  if (vec->error.status == ESPER_OK) check_nesting(vec, op);
  return vec->error.status == ESPER_OK ? append(vec, &code) : -1;
}

int32_t es_vec_emit3(es_vec *vec, int32_t op, int32_t type, int32_t a, int32_t b, int32_t c) {
  return es_vec_emit(vec, op, type, a, b, c, -1, -1, 0, 0);
}

int32_t es_vec_emitk(es_vec *vec, int32_t op, int32_t type, int32_t a, int32_t b, int64_t k) {
  return es_vec_emit(vec, op, type, a, b, -1, -1, -1, k, 0);
}

/* --- out --- */

void es_vec_digest(const es_vec *vec, es_hash *out) {
  enum { BATCH = 64 };
  es_vec_code batch[BATCH];
  const int32_t head[2] = {(int32_t)vec->isa, vec->element_bytes};
  es_hash parts[2]; /* what came before, the present batch */
  es_hash_of(head, sizeof head, &parts[0]);
  int32_t filled = 0;
  for (int32_t i = 0; i < vec->count; i++) {
    /* In plain C a note is a comment, which tells whose loop it is. */
    if (vec->code[i].op != ES_VEC_note || vec->lanes == 1) batch[filled++] = vec->code[i];
    if (filled < BATCH && i + 1 < vec->count) continue;
    es_hash_of(batch, (size_t)filled * sizeof *batch, &parts[1]);
    es_hash_of(parts, sizeof parts, &parts[0]);
    filled = 0;
  }
  *out = parts[0];
}

static void print_code(const es_vec *vec, const es_vec_code *code, es_text *out) {
  const char *separator = " ";
  if (code->result >= 0) es_text_add(out, "%c%d = ", vec->reg[code->result].kind, code->result);
  es_text_add(out, "%s", rows[code->op].name);
  if (code->type != ES_VEC_none) es_text_add(out, ".%s", type_names[code->type]);
  for (int i = 0; rows[code->op].operands[i]; i++, separator = ", ") {
    char letter = rows[code->op].operands[i];
    if (letter == 'k')
      es_text_add(out, "%s%" PRId64, separator, code->k);
    else if (letter == 'n')
      es_text_add(out, "%s", separator), es_text_number(out, code->n);
    else
      es_text_add(out, "%s%c%d", separator, letter, code->at[i]);
  }
  es_text_add(out, "\n");
}

void es_vec_print(const es_vec *vec, es_text *out) {
  es_text_add(out, "block %s, %d lanes of %d bytes\n", es_isa_name(vec->isa), vec->lanes,
              vec->element_bytes);
  int depth = 1;
  for (int32_t i = 0; i < vec->count; i++) {
    if (vec->code[i].op == ES_VEC_end) depth--;
    es_text_add(out, "%*s", 2 * depth, "");
    print_code(vec, &vec->code[i], out);
    if (vec->code[i].op == ES_VEC_loop) depth++;
  }
  if (vec->error.status != ESPER_OK) es_text_add(out, "  error: %s\n", vec->error.text);
}

static bool is_identifier(const char *name) {
  if (!name || !*name || (*name >= '0' && *name <= '9')) return false;
  for (; *name; name++) {
    bool letter = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') || *name == '_';
    if (!letter && !(*name >= '0' && *name <= '9')) return false;
  }
  return true;
}

esper_status es_vec_lower(es_vec *vec, const char *name, es_text *out, es_error *err) {
  if (vec->error.status != ESPER_OK) return es_fail(err, vec->error.status, "%s", vec->error.text);
  if (vec->depth > 0)
    return es_fail(err, ESPER_ECOMPILE,
                   "vector block: %d loops are still open (the innermost from instruction %d); "
                   "want an end for each",
                   vec->depth, vec->loops[vec->depth - 1]);
  if (!is_identifier(name))
    return es_fail(err, ESPER_EARG, "vector block: \"%s\" is no C name", name ? name : "");
  es_vec_lowering *lower = es_isa_lowering(vec->isa);
  if (!lower)
    return es_fail(err, ESPER_ECOMPILE,
                   "vector block: no lowering for isa %s; es_isa_best() names one that has",
                   es_isa_name(vec->isa));
  esper_status status = lower(vec, name, out, err);
  if (status == ESPER_OK && out->failed)
    status = es_fail(err, ESPER_ENOMEM, "vector block: out of memory");
  return status;
}
