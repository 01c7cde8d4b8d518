/* Dimensions as text and bytes, and copies between tables.
 * Grammar (spaces allowed between tokens; `//` and `*` group from the left, as in Python):
 *     sum     = product { ("+" | "-") product }
 *     product = factor { "*" factor | "//" integer }
 *     factor  = "-" factor | integer | name | "(" sum ")"
 * Invariant: parsing what was printed gives the same handle. Parsed bytes may be hostile. */
#include <string.h>
#include "base/memory.h"
#include "graph/dim_table.h"

/* ---- print ---- */

static void print_term(const es_dims *dims, const es_term *term, bool first, es_text *out) {
  bool negative = term->coef < 0;
  es_text_string(out, first ? (negative ? "-" : "") : negative ? " - " : " + ");
  int64_t size = negative ? -term->coef : term->coef;
  bool alone =
      size == 1 && term->degree == 1 && !(negative && first); /* "-h//2" would read as (-h)//2 */
  const char *times = "";
  if (size != 1 || term->degree == 0) {
    es_text_integer(out, size);
    times = "*";
  }
  for (int32_t i = 0; i < term->degree; i++, times = "*") {
    const es_atom *atom = &dims->atoms[term->atoms[i]];
    bool bare = atom->symbol >= 0 || alone;
    es_text_string(out, times);
    if (!bare) es_text_bytes(out, "(", 1);
    es_text_string(out, atom->text);
    if (!bare) es_text_bytes(out, ")", 1);
  }
}

void es_poly_print(const es_dims *dims, const es_term *terms, int32_t count, es_text *out) {
  if (count == 0) es_text_bytes(out, "0", 1);
  for (int32_t t = 0; t < count; t++) print_term(dims, &terms[t], t == 0, out);
}

void es_dim_print(const es_dims *dims, es_dim d, es_text *out) {
  if (d < 0 || d >= dims->count)
    es_text_bytes(out, "?", 1);
  else
    es_poly_print(dims, dims->terms + dims->spans[d].first, dims->spans[d].count, out);
}

void es_dim_symbols(const es_dims *dims, es_dim d, int32_t *order, int32_t *count) {
  if (d < 0 || d >= dims->count) return;
  for (int32_t t = 0; t < dims->spans[d].count; t++) {
    const es_term *term = &dims->terms[dims->spans[d].first + t];
    for (int32_t i = 0; i < term->degree; i++) {
      const es_atom *atom = &dims->atoms[term->atoms[i]];
      int32_t k = 0;
      if (atom->symbol < 0) {
        es_dim_symbols(dims, atom->inner, order, count);
        continue;
      }
      while (k < *count && order[k] != atom->symbol) k++;
      if (k == *count) order[(*count)++] = atom->symbol;
    }
  }
}

/* ---- parse ---- */

enum { NESTING_MAX = 24 }; /* a printed floor needs two parentheses a level */

typedef struct reader {
  es_dims *dims;
  const char *at;
  int depth;
  const char *problem; /* first one */
} reader;

static bool fail(reader *r, const char *problem) {
  if (!r->problem) r->problem = problem;
  return false;
}

static char peek(reader *r) {
  while (*r->at == ' ') r->at++;
  return *r->at;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) {
  return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool read_integer(reader *r, int64_t *out) {
  *out = 0;
  if (!is_digit(peek(r))) return fail(r, "an integer was wanted");
  for (; is_digit(*r->at); r->at++)
    if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *r->at - '0', out) ||
        *out > ES_DIM_BIG)
      return fail(r, "an integer is over 2^62");
  return true;
}

static bool read_sum(reader *r, es_poly *out);

static bool read_factor(reader *r, es_poly *out) {
  static const char too_deep[] = "nested too deeply";
  char c = peek(r);
  if (is_digit(c)) {
    int64_t value;
    if (!read_integer(r, &value)) return false;
    es_poly_const(out, value);
    return true;
  }
  if (is_letter(c)) {
    const char *start = r->at;
    while (is_letter(*r->at) || is_digit(*r->at)) r->at++;
    int32_t atom = es_symbol_atom(r->dims, start, (size_t)(r->at - start));
    if (atom < 0) return fail(r, "a symbol's name is too long or there are too many symbols");
    es_poly_atom(out, atom);
    return true;
  }
  if (c != '-' && c != '(') return fail(r, "a name, an integer or '(' was wanted");
  if (++r->depth > NESTING_MAX) return fail(r, too_deep);
  r->at++;
  if (c == '-') {
    es_poly positive;
    out->count = 0;
    if (!read_factor(r, &positive)) return false;
    if (!es_poly_add(r->dims, out, &positive, -1)) return fail(r, "a number overflows");
  } else {
    if (!read_sum(r, out)) return false;
    if (peek(r) != ')') return fail(r, "')' was wanted");
    r->at++;
  }
  r->depth--;
  return true;
}

static bool read_product(reader *r, es_poly *out) {
  es_poly right, result;
  if (!read_factor(r, out)) return false;
  for (;;) {
    if (peek(r) == '*') {
      r->at++;
      if (!read_factor(r, &right)) return false;
      if (!es_poly_mul(r->dims, out, &right, &result)) return fail(r, "a product is too large");
    } else if (*r->at == '/' && r->at[1] == '/') {
      int64_t by;
      r->at += 2;
      if (!read_integer(r, &by)) return false;
      if (by == 0) return fail(r, "division by 0");
      if (!es_poly_floordiv(r->dims, out, by, &result))
        return fail(r, "a quotient is too large or nested too deeply");
    } else {
      return true;
    }
    es_poly_copy(out, &result);
  }
}

static bool read_sum(reader *r, es_poly *out) {
  es_poly right;
  if (!read_product(r, out)) return false;
  for (char c; (c = peek(r)) == '+' || c == '-';) {
    r->at++;
    if (!read_product(r, &right)) return false;
    if (!es_poly_add(r->dims, out, &right, c == '+' ? 1 : -1)) return fail(r, "a sum is too large");
  }
  return true;
}

es_dim es_dim_parse(es_dims *dims, const char *text, const char **end, es_error *err) {
  reader r = { .dims = dims, .at = text };
  es_poly poly;
  es_dim d = ES_NO_DIM;
  if (read_sum(&r, &poly)) {
    d = es_poly_intern(dims, &poly);
    if (d == ES_NO_DIM) fail(&r, "memory ran out or there are too many dimensions");
  }
  if (end) *end = r.at;
  size_t shown = 0;
  while (shown < 80 && text[shown] && text[shown] != '\n') shown++;
  if (d == ES_NO_DIM)
    es_fail(err, dims->starved ? ESPER_ENOMEM : ESPER_ESYNTAX,
            "dimension \"%.*s\": %s at character %d; wanted a sum such as 2*batch + (h + 1)//2",
            (int)shown, text, r.problem, (int)(r.at - text) + 1);
  return d;
}

/* ---- copies between tables ---- */

static int32_t copy_symbol(es_dims *into, const es_symbol *symbol) {
  int32_t atom = es_symbol_atom(into, symbol->name, strlen(symbol->name));
  if (atom < 0 || !symbol->declared) return atom;
  return es_dim_range(into, symbol->name, symbol->min, symbol->max, NULL) == ESPER_OK ? atom : -1;
}

static bool copy_poly(es_dims *into, const es_dims *from, es_dim d, es_poly *out);

static bool copy_atom(es_dims *into, const es_dims *from, const es_atom *atom, es_poly *out) {
  if (atom->symbol < 0) {
    es_poly inner;
    return copy_poly(into, from, atom->inner, &inner) &&
           es_poly_floordiv(into, &inner, atom->by, out);
  }
  int32_t symbol = copy_symbol(into, &from->symbols[atom->symbol]);
  if (symbol >= 0) es_poly_atom(out, symbol);
  return symbol >= 0;
}

static bool copy_poly(es_dims *into, const es_dims *from, es_dim d, es_poly *out) {
  es_poly product, factor, next;
  out->count = 0;
  for (int32_t t = 0; t < from->spans[d].count; t++) {
    const es_term *term = &from->terms[from->spans[d].first + t];
    es_poly_const(&product, term->coef);
    for (int32_t i = 0; i < term->degree; i++) {
      if (!copy_atom(into, from, &from->atoms[term->atoms[i]], &factor)) return false;
      if (!es_poly_mul(into, &product, &factor, &next)) return false;
      es_poly_copy(&product, &next);
    }
    if (!es_poly_add(into, out, &product, 1)) return false;
  }
  return true;
}

es_dim es_dim_copy(es_dims *into, const es_dims *from, es_dim d) {
  es_poly poly;
  if (d < 0 || d >= from->count) return ES_NO_DIM;
  if (into == from) return d;
  return copy_poly(into, from, d, &poly) ? es_poly_intern(into, &poly) : ES_NO_DIM;
}

es_dims *es_dims_select(const es_dims *from, const bool *used, es_dim *map) {
  es_dims *into = es_dims_new();
  bool fits = into != NULL;
  for (int32_t i = 0; fits && i < from->symbol_count; i++) { /* all of them: callers count symbols by their index */
    const es_symbol *symbol = &from->symbols[i];
    int32_t atom = es_symbol_atom(into, symbol->name, strlen(symbol->name));
    if (!(fits = atom >= 0)) break;
    into->symbols[i].min = symbol->min;
    into->symbols[i].max = symbol->max;
    into->symbols[i].declared = symbol->declared;
    es_atom_bounds(into, atom);
  }
  for (es_dim d = 0; fits && d < from->count; d++) {
    map[d] = used[d] ? es_dim_copy(into, from, d) : ES_NO_DIM;
    fits = !used[d] || map[d] != ES_NO_DIM;
  }
  if (fits) return into;
  es_dims_release(into);
  return NULL;
}

/* ---- bytes ----
 * "dims 1 SYMBOLS HANDLES\n", then a line "NAME MIN MAX DECLARED\n" for each symbol and one printed
 * expression for each handle: text costs a few bytes more than varints and needs no second hardened
 * decoder. */

void es_dims_encode(const es_dims *dims, es_text *out) {
  es_text_add(out, "dims 1 %d %d\n", (int)dims->symbol_count, (int)dims->count);
  for (int32_t i = 0; i < dims->symbol_count; i++) {
    const es_symbol *s = &dims->symbols[i];
    es_text_add(out, "%s %lld %lld %d\n", s->name, (long long)s->min, (long long)s->max,
                s->declared);
  }
  for (es_dim d = 0; d < dims->count; d++) {
    es_dim_print(dims, d, out);
    es_text_bytes(out, "\n", 1);
  }
}

static bool expect(reader *r, const char *word) {
  size_t length = strlen(word);
  if (strncmp(r->at, word, length) != 0) return fail(r, "unexpected text");
  r->at += length;
  return true;
}

static bool decode_symbol(reader *r, int32_t index) {
  const char *start = r->at;
  int64_t min, max, declared;
  while (is_letter(*r->at) || is_digit(*r->at)) r->at++;
  int32_t atom = es_symbol_atom(r->dims, start, (size_t)(r->at - start));
  if (atom < 0 || r->dims->atoms[atom].symbol != index) return fail(r, "bad or repeated symbol");
  if (!expect(r, " ") || !read_integer(r, &min) || !expect(r, " ") || !read_integer(r, &max) ||
      !expect(r, " ") || !read_integer(r, &declared) || !expect(r, "\n"))
    return false;
  if (min > max || max > ES_SYMBOL_LIMIT || declared > 1) return fail(r, "bad range");
  es_symbol *symbol = &r->dims->symbols[index];
  symbol->min = min;
  symbol->max = max;
  symbol->declared = declared != 0;
  es_atom_bounds(r->dims, atom);
  return true;
}

static bool decode_body(reader *r) {
  int64_t symbols, handles;
  if (!expect(r, "dims 1 ") || !read_integer(r, &symbols) || !expect(r, " ") ||
      !read_integer(r, &handles) || !expect(r, "\n"))
    return false;
  if (symbols > ES_SYMBOLS_MAX || handles > ES_DIMS_MAX)
    return fail(r, "too many symbols or dimensions");
  for (int32_t i = 0; i < symbols; i++)
    if (!decode_symbol(r, i)) return false;
  for (es_dim d = 0; d < handles; d++) {
    es_poly poly;
    if (!read_sum(r, &poly) || !expect(r, "\n")) return false;
    if (es_poly_intern(r->dims, &poly) != d)
      return fail(r, "a dimension is repeated or out of order");
  }
  return r->dims->symbol_count == symbols ? true : fail(r, "a symbol is not listed");
}

es_dims *es_dims_decode(const uint8_t *bytes, size_t length, size_t *used, es_error *err) {
  if (used) *used = 0;
  char *text = length < SIZE_MAX ? es_alloc(length + 1) : NULL;
  es_dims *dims = text ? es_dims_new() : NULL;
  if (!dims) {
    es_free(text);
    es_fail(err, ESPER_ENOMEM, "no memory to read %zu bytes of dimensions", length);
    return NULL;
  }
  if (length)
    memcpy(text, bytes, length); /* a NUL inside ends the text early, which is then an error */
  reader r = { .dims = dims, .at = text };
  bool fits = decode_body(&r);
  if (fits && used) *used = (size_t)(r.at - text);
  if (!fits) {
    es_fail(err, dims->starved ? ESPER_ENOMEM : ESPER_ECORRUPT, "dimensions, byte %zu: %s",
            (size_t)(r.at - text), r.problem);
    es_dims_release(dims);
    dims = NULL;
  }
  es_free(text);
  return dims;
}
