/* Plain-C lowering of a vector block: one lane, one C local per register. The portable target, and
 * the meaning that encoded instructions are tested against. libtcc does not optimise, so this folds
 * what it safely can: a value used once becomes part of the expression that uses it, and what nobody
 * uses is left out.
 * Invariant: folding moves a computation only within its basic block, never past a set of a register
 * it reads and, for a load, never past a store. Integers are unsigned in C, so they wrap; signed
 * meanings are cast where they matter. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "vec/block.h"

enum { FOLD_DEPTH = 12 }; /* nesting of one C expression: libtcc has 8 float registers */

/* C of each instruction.
 *   $a..$e operands   $r the result     $i the instruction's index
 *   $k the constant   $l as a long      $u unsigned, of the element's width   $z unsigned 0
 *   $o adding it (" + 8l", "" when 0)   $q element bits - k, for rotations    $n the number
 *   $T C type of an element             $U $S unsigned and signed integer of its width
 *   $s the scale, $n as a long
 *   $f suffix of its math functions     $m its sign bit   $C "" for floats, a cast to $S for integers
 * `after` is a statement that finishes the result in place; such results are not folded. */
static const struct form {
  const char *c, *after;
} forms[ES_VEC_COUNT] = {
    [ES_VEC_g_arg] = {.c = "w[$k]"},
    [ES_VEC_g_const] = {.c = "$l"},
    [ES_VEC_g_add] = {.c = "$a + $b"},
    [ES_VEC_g_addk] = {.c = "$a$o"},
    [ES_VEC_g_sub] = {.c = "$a - $b"},
    [ES_VEC_g_mulk] = {.c = "$a * $l"},
    [ES_VEC_g_shrk] = {.c = "$a >> $k"},
    [ES_VEC_g_set] = {.c = "$a = $b"},
    [ES_VEC_load] = {.c = "*($T *)($a$o)"},
    [ES_VEC_loadm] = {.c = "$c ? *($T *)($a$o) : 0"},
    [ES_VEC_bcast] = {.c = "*($T *)($a$o)"},
    [ES_VEC_loads] = {.c = "*($T *)($a$o)"},
    [ES_VEC_loadsm] = {.c = "$d ? *($T *)($a$o) : 0"},
    [ES_VEC_loadx] = {.c = "*($T *)($a + $b * $s$o)"},
    [ES_VEC_bcastx] = {.c = "*($T *)($a + $b * $s$o)"},
    [ES_VEC_prefetch] = {.c = ""},
    [ES_VEC_store] = {.c = "*($T *)($a$o) = $b"},
    [ES_VEC_storem] = {.c = "if ($d) *($T *)($a$o) = $b"},
    [ES_VEC_storent] = {.c = "*($T *)($a$o) = $b"},
    [ES_VEC_stores] = {.c = "*($T *)($a$o) = $c"},
    [ES_VEC_storesm] = {.c = "if ($e) *($T *)($a$o) = $c"},
    [ES_VEC_store1] = {.c = "*($T *)($a$o) = $b"},
    [ES_VEC_splat] = {.c = "$n"},
    [ES_VEC_splati] = {.c = "$u"},
    [ES_VEC_splatg] = {.c = "($T)$a"},
    [ES_VEC_iota] = {.c = "$z"},
    [ES_VEC_set] = {.c = "$a = $b"},
    [ES_VEC_add] = {.c = "$a + $b"},
    [ES_VEC_sub] = {.c = "$a - $b"},
    [ES_VEC_mul] = {.c = "$a * $b"},
    [ES_VEC_div] = {.c = "$a / $b"},
    [ES_VEC_fma] = {.c = "$a * $b + $c"},
    [ES_VEC_neg] = {.c = "$a", .after = "*($U *)&$r ^= $m"},
    [ES_VEC_abs] = {.c = "$a", .after = "*($U *)&$r &= $m - 1"},
    [ES_VEC_sqrt] = {.c = "sqrt$f($a)"},
    [ES_VEC_rint] = {.c = "rint$f($a)"},
    [ES_VEC_min] = {.c = "$a < $b ? $a : $b"},
    [ES_VEC_max] = {.c = "$a > $b ? $a : $b"},
    [ES_VEC_and_] = {.c = "$a & $b"},
    [ES_VEC_or_] = {.c = "$a | $b"},
    [ES_VEC_xor_] = {.c = "$a ^ $b"},
    [ES_VEC_shl] = {.c = "$a << $k"},
    [ES_VEC_shr] = {.c = "$a >> $k"},
    [ES_VEC_sar] = {.c = "($T)(($S)$a >> $k)"},
    [ES_VEC_rotl] = {.c = "$a << $k | $a >> $q"},
    [ES_VEC_cvt_i] = {.c = "($T)($S)rint$f($a)"},
    [ES_VEC_cvtt_i] = {.c = "($T)($S)$a"},
    [ES_VEC_cvt_f] = {.c = "($T)($S)$a"},
    [ES_VEC_bits] = {.c = "*($T *)&$a"},
    [ES_VEC_lt] = {.c = "$C$a < $C$b"},
    [ES_VEC_le] = {.c = "$C$a <= $C$b"},
    [ES_VEC_eq] = {.c = "$a == $b"},
    [ES_VEC_ne] = {.c = "$a != $b"},
    [ES_VEC_m_and] = {.c = "$a & $b"},
    [ES_VEC_m_or] = {.c = "$a | $b"},
    [ES_VEC_m_not] = {.c = "!$a"},
    [ES_VEC_m_tail] = {.c = "$a > 0"},
    [ES_VEC_select] = {.c = "$a ? $b : $c"},
    [ES_VEC_hadd] = {.c = "$a"},
    [ES_VEC_hmin] = {.c = "$a"},
    [ES_VEC_hmax] = {.c = "$a"},
    [ES_VEC_loop] = {.c = "for (long n$i = $a; n$i > 0; n$i--) {"},
    [ES_VEC_end] = {.c = "}"},
    [ES_VEC_note] = {.c = "/* node $k */"},
};

/* What the folding knows about an instruction, and about a register. */
typedef struct spot {
  int32_t block; /* basic block: loop and end start a new one */
  int32_t place; /* instruction whose C statement computes it: itself unless folded */
  int16_t level; /* how deep inside that statement */
  bool live, folded;
  bool
      fixed; /* holds constants only: two of them must not meet in one expression, see keep_apart */
} spot;
typedef struct usage {
  int32_t uses, user; /* occurrences in live statements; the last one looked at */
  int32_t next_set;   /* the nearest instruction below that changes it */
  bool pinned;        /* must be a C variable */
} usage;
typedef struct lowering {
  const es_vec *vec;
  es_text *out;
  spot *spots;   /* per instruction */
  usage *usages; /* per register */
} lowering;

static const char *const type_names[] = {"float", "double", "unsigned", "unsigned long", "long"};

static bool is_float(int32_t type) { return type == ES_VEC_f32 || type == ES_VEC_f64; }
static bool is_wide(int32_t type) { return type == ES_VEC_f64 || type == ES_VEC_i64; }

static bool is_load(int32_t op) {
  return op == ES_VEC_load || op == ES_VEC_loadm || op == ES_VEC_bcast || op == ES_VEC_loads ||
         op == ES_VEC_loadsm || op == ES_VEC_loadx || op == ES_VEC_bcastx;
}

static bool is_store(int32_t op) {
  return op == ES_VEC_store || op == ES_VEC_storem || op == ES_VEC_stores || op == ES_VEC_storesm ||
         op == ES_VEC_store1 || op == ES_VEC_storent;
}

/* Integer constants are written where they are used: immediates cost nothing. */
static bool is_literal(int32_t op) {
  return op == ES_VEC_splati || op == ES_VEC_iota || op == ES_VEC_g_const;
}

/* --- analysis --- */

static bool is_arithmetic(const es_vec_code *code) {
  bool sum = code->op == ES_VEC_add || code->op == ES_VEC_sub || code->op == ES_VEC_fma;
  return is_float(code->type) && (sum || code->op == ES_VEC_mul || code->op == ES_VEC_div);
}

static bool is_fixed(const lowering *low, int32_t r) {
  return !low->vec->reg[r].changes && low->spots[low->vec->reg[r].made].fixed;
}

/* libtcc computes constant expressions in long double, which may round twice. A float operation on
 * constants alone therefore gets its first operand from a variable. */
static void keep_apart(lowering *low) {
  for (int32_t i = 0; i < low->vec->count; i++) {
    const es_vec_code *code = &low->vec->code[i];
    bool fixed = code->result >= 0 && !is_load(code->op) && code->op != ES_VEC_g_arg;
    for (int at = 0; at < ES_VEC_OPERANDS; at++)
      if (code->at[at] >= 0) fixed = fixed && is_fixed(low, code->at[at]);
    if (is_arithmetic(code) && is_fixed(low, code->at[0]) && is_fixed(low, code->at[1])) {
      low->usages[code->at[0]].pinned = true;
      fixed = false;
    }
    low->spots[i].fixed = fixed;
  }
}

/* May instruction i become part of the statement at `place`? `store` is the nearest store below i. */
static bool may_move(const lowering *low, int32_t i, int32_t place, int32_t store) {
  const es_vec_code *code = &low->vec->code[i];
  if (low->spots[i].block != low->spots[place].block || forms[code->op].after) return false;
  if (is_load(code->op) && store < place) return false;
  for (int at = 0; at < ES_VEC_OPERANDS; at++)
    if (code->at[at] >= 0 && low->usages[code->at[at]].next_set < place) return false;
  return true;
}

static bool decide(const lowering *low, int32_t i, int32_t store) {
  const es_vec_code *code = &low->vec->code[i];
  const usage *value = &low->usages[code->result];
  if (value->pinned || low->vec->reg[code->result].changes) return false;
  if (is_literal(code->op)) return true;
  if (value->uses != 1) return false;
  if (code->op == ES_VEC_splat) /* NaN and infinity have no C literal */
    return isfinite(is_wide(code->type) ? code->n : (double)(float)code->n);
  const spot *user = &low->spots[value->user];
  return user->level < FOLD_DEPTH && may_move(low, i, user->place, store);
}

static void count_uses(lowering *low, int32_t i) {
  const es_vec_code *code = &low->vec->code[i];
  const char *c = forms[code->op].c;
  for (const char *s = strchr(c, '$'); s; s = strchr(s + 1, '$')) {
    if (s[1] < 'a' || s[1] > 'e') continue;
    usage *operand = &low->usages[code->at[s[1] - 'a']];
    operand->uses++;
    operand->user = i;
    if (s > c && s[-1] == '&') operand->pinned = true; /* its address is taken */
  }
}

/* Bottom up, so that a value's users are placed before the value. */
static void analyse(lowering *low) {
  const es_vec *vec = low->vec;
  int32_t block = 0, store = INT32_MAX;
  for (int32_t i = 0; i < vec->count; i++) {
    low->spots[i].block = block;
    if (vec->code[i].op == ES_VEC_loop || vec->code[i].op == ES_VEC_end) block++;
  }
  for (int32_t r = 0; r < vec->reg_count; r++) low->usages[r].next_set = INT32_MAX;
  keep_apart(low);
  for (int32_t i = vec->count - 1; i >= 0; i--) {
    const es_vec_code *code = &vec->code[i];
    spot *here = &low->spots[i];
    here->place = i;
    here->live =
        code->result < 0 || vec->reg[code->result].changes || low->usages[code->result].uses > 0;
    if (!here->live) continue;
    here->folded = code->result >= 0 && decide(low, i, store);
    if (here->folded) {
      const spot *user = &low->spots[low->usages[code->result].user];
      here->place = user->place;
      here->level = (int16_t)(user->level + 1);
    }
    count_uses(low, i);
    if (code->op == ES_VEC_set || code->op == ES_VEC_g_set) low->usages[code->at[0]].next_set = i;
    if (is_store(code->op)) store = i;
  }
}

/* --- text --- */

static void text(lowering *low, const char *s) { es_text_bytes(low->out, s, strlen(s)); }

static void whole(lowering *low, uint64_t value, const char *suffix) {
  char digits[24], *s = digits + sizeof digits;
  *--s = 0;
  do {
    *--s = (char)('0' + value % 10);
  } while (value /= 10);
  text(low, s);
  text(low, suffix);
}

static void integer(lowering *low, int64_t value) {
  if (value == INT64_MIN)
    text(low, "(-9223372036854775807l - 1)"); /* C has no literal for it */
  else if (value >= 0)
    whole(low, (uint64_t)value, "l");
  else
    text(low, "(-"), whole(low, (uint64_t)-value, "l)");
}

/* Exact, and free of the host's locale: a whole number, or hexadecimal mantissa and exponent. */
static void number(lowering *low, double value, bool wide) {
  const char *suffix = wide ? "" : "f";
  double size = fabs(wide ? value : (double)(float)value);
  if (signbit(value)) text(low, "(-");
  if (size < 1e6 && size == floor(size)) {
    whole(low, (uint64_t)size, ".0");
  } else {
    int exponent;
    uint64_t mantissa = (uint64_t)ldexp(frexp(size, &exponent), 53);
    exponent -= 53;
    while (mantissa % 16 == 0) mantissa /= 16, exponent += 4;
    es_text_add(low->out, "0x%" PRIx64 "p%d", mantissa, exponent);
  }
  text(low, suffix);
  if (signbit(value)) text(low, ")");
}

static void expand(lowering *low, int32_t i, const char *form);

static void name(lowering *low, int32_t r) {
  const char kind[2] = {low->vec->reg[r].kind, 0};
  text(low, kind);
  whole(low, (uint64_t)r, "");
}

/* Has a form operators outside parentheses, so that what stands around it might bind tighter? */
static bool is_loose(const char *c) {
  int depth = 0;
  for (; *c; c++) {
    if (*c == '(')
      depth++;
    else if (*c == ')')
      depth--;
    else if (depth == 0 && (*c == ' ' || (c[0] == '$' && c[1] == 'o')))
      return true;
  }
  return false;
}

/* Its name, or the expression folded into this place. `alone`: nothing stands beside it. */
static void operand(lowering *low, int32_t r, bool alone) {
  int32_t made = low->vec->reg[r].made;
  const char *c = forms[low->vec->code[made].op].c;
  bool wrap = !alone && is_loose(c);
  if (!low->spots[made].folded) {
    name(low, r);
    return;
  }
  if (wrap) text(low, "(");
  expand(low, made, c);
  if (wrap) text(low, ")");
}

static void field(lowering *low, int32_t i, char letter, bool alone) {
  const es_vec_code *code = &low->vec->code[i];
  bool wide = low->vec->element_bytes == 8;
  switch (letter) {
    case 'r': name(low, code->result); break;
    case 'k': whole(low, (uint64_t)code->k, ""); break; /* the builder refused those below 0 */
    case 'l': integer(low, code->k); break;
    case 'o':
      if (code->k) text(low, " + "), integer(low, code->k);
      break;
    case 'n': number(low, code->n, wide); break;
    case 'u': whole(low, wide ? (uint64_t)code->k : (uint32_t)code->k, wide ? "ul" : "u"); break;
    case 'z': text(low, wide ? "0ul" : "0u"); break;
    case 'q':
      whole(low, (uint64_t)(code->k ? 8 * low->vec->element_bytes - code->k : 0), "");
      break;
    case 's': whole(low, (uint64_t)code->n, "l"); break;
    case 'i': whole(low, (uint64_t)i, ""); break;
    case 'T': text(low, type_names[code->type]); break;
    case 'U': text(low, wide ? "unsigned long" : "unsigned"); break;
    case 'S': text(low, wide ? "long" : "int"); break;
    case 'f': text(low, wide ? "" : "f"); break;
    case 'm': text(low, wide ? "0x8000000000000000ul" : "0x80000000u"); break;
    case 'C':
      if (!is_float(code->type)) text(low, wide ? "(long)" : "(int)");
      break;
    default: operand(low, code->at[letter - 'a'], alone);
  }
}

static void expand(lowering *low, int32_t i, const char *form) {
  for (const char *s; (s = strchr(form, '$')); form = s + 2) {
    es_text_bytes(low->out, form, (size_t)(s - form));
    /* The right side of an assignment stands alone. */
    bool alone = s - form >= 3 && memcmp(s - 3, " = ", 3) == 0 && (s[2] == 0 || s[2] == ';');
    field(low, i, s[1], alone);
  }
  text(low, form);
}

/* NaN and infinity, through their bits. */
static void special(lowering *low, int32_t i) {
  const es_vec_code *code = &low->vec->code[i];
  uint64_t bits = 0;
  float narrow = (float)code->n;
  if (is_wide(code->type))
    memcpy(&bits, &code->n, 8);
  else
    memcpy(&bits, &narrow, 4);
  expand(low, i, "$T $r; *($U *)&$r = ");
  whole(low, bits, is_wide(code->type) ? "ul;" : "u;");
}

static void statement(lowering *low, int32_t i) {
  const es_vec_code *code = &low->vec->code[i];
  const struct form *form = &forms[code->op];
  if (code->op == ES_VEC_splat &&
      !isfinite(is_wide(code->type) ? code->n : (double)(float)code->n)) {
    special(low, i);
    return;
  }
  if (code->result >= 0) {
    char kind = low->vec->reg[code->result].kind;
    text(low, kind == 'm' ? "int" : type_names[kind == 'g' ? ES_VEC_none : code->type]);
    expand(low, i, " $r = ");
  }
  expand(low, i, form->c);
  if (code->op != ES_VEC_loop && code->op != ES_VEC_end && code->op != ES_VEC_note) text(low, ";");
  if (form->after) text(low, " "), expand(low, i, form->after), text(low, ";");
}

/* Declarations of the external functions it calls. */
static void declare(lowering *low) {
  bool root = false, rounding = false, wide = low->vec->element_bytes == 8;
  for (int32_t i = 0; i < low->vec->count; i++) {
    int32_t op = low->vec->code[i].op;
    root = root || op == ES_VEC_sqrt;
    rounding = rounding || op == ES_VEC_rint || op == ES_VEC_cvt_i;
  }
  if (root) text(low, wide ? "double sqrt(double);\n" : "float sqrtf(float);\n");
  if (rounding) text(low, wide ? "double rint(double);\n" : "float rintf(float);\n");
}

esper_status es_vec_lower_c(const es_vec *vec, const char *function, es_text *out, es_error *err) {
  lowering low = {.vec = vec, .out = out};
  low.spots = es_alloc_array((size_t)vec->count + 1, sizeof *low.spots);
  low.usages = es_alloc_array((size_t)vec->reg_count + 1, sizeof *low.usages);
  bool ready = low.spots && low.usages;
  if (ready) {
    analyse(&low);
    declare(&low);
    es_text_add(out, "static void %s(const long *w) {\n", function);
    int depth = 1;
    for (int32_t i = 0; i < vec->count; i++) {
      if (!low.spots[i].live || low.spots[i].folded) continue;
      if (vec->code[i].op == ES_VEC_end) depth--;
      es_text_bytes(out, "                                        ", 2 * (size_t)depth);
      statement(&low, i);
      es_text_bytes(out, "\n", 1);
      if (vec->code[i].op == ES_VEC_loop) depth++;
    }
    es_text_add(out, "}\n");
  }
  es_free(low.spots);
  es_free(low.usages);
  return ready ? ESPER_OK : es_fail(err, ESPER_ENOMEM, "vector block: out of memory");
}
