/* Dimensions: the table of interned polynomials and their arithmetic. First thing a shape is made
 * of.
 * Invariant: see dim_table.h; equal polynomials have one handle, and a failed call changes no
 * handle. */
#include <string.h>
#include "base/memory.h"
#include "graph/dim_table.h"

/* ---- table ---- */

static bool starve(es_dims *dims) {
  dims->starved = true;
  return false;
}

static bool grow(es_dims *dims, void **array, int32_t *room, int32_t count, size_t size,
                 int32_t most) {
  if (count < *room) return true;
  if (count >= most) return false;
  int32_t want = *room ? *room * 2 : 32;
  if (want > most) want = most;
  void *bigger = es_realloc(*array, (size_t)want * size);
  if (!bigger) return starve(dims);
  *array = bigger;
  *room = want;
  return true;
}

es_dims *es_dims_new(void) {
  es_dims *dims = es_alloc(sizeof *dims);
  if (!dims) return NULL;
  atomic_init(&dims->references, 1);
  dims->slot_count = 64;
  dims->slots = es_alloc_array(64, sizeof *dims->slots);
  bool fits = dims->slots &&
              grow(dims, (void **)&dims->terms, &dims->term_room, 0, sizeof *dims->terms, 32);
  if (fits) return dims; /* terms is never NULL, though the constant 0 has none */
  es_dims_release(dims);
  return NULL;
}

es_dims *es_dims_retain(es_dims *dims) {
  atomic_fetch_add_explicit(&dims->references, 1, memory_order_relaxed);
  return dims;
}

void es_dims_release(es_dims *dims) {
  if (!dims || atomic_fetch_sub_explicit(&dims->references, 1, memory_order_acq_rel) != 1) return;
  for (int32_t i = 0; i < dims->atom_count; i++) es_free(dims->atoms[i].text);
  es_free(dims->atoms);
  es_free(dims->terms);
  es_free(dims->spans);
  es_free(dims->slots);
  es_free(dims);
}

bool es_dims_shared(const es_dims *dims) {
  return atomic_load_explicit(&dims->references, memory_order_acquire) > 1;
}

static bool known(const es_dims *dims, es_dim d) { return d >= 0 && d < dims->count; }

static bool same_term(const es_term *a, const es_term *b) {
  return a->coef == b->coef && a->degree == b->degree &&
         memcmp(a->atoms, b->atoms, (size_t)a->degree * sizeof a->atoms[0]) == 0;
}

static uint64_t hash_terms(const es_term *terms, int32_t count) {
  uint64_t h = UINT64_C(0x9E3779B97F4A7C15);
  for (int32_t t = 0; t < count; t++) {
    h = (h ^ (uint64_t)terms[t].coef) * UINT64_C(0xBF58476D1CE4E5B9);
    for (int32_t i = 0; i < terms[t].degree; i++)
      h = (h ^ (uint64_t)terms[t].atoms[i] ^ h >> 29) * UINT64_C(0x94D049BB133111EB);
    h ^= h >> 31;
  }
  return h;
}

/* The slot that holds this polynomial, or the empty one where it belongs. */
static int32_t find_slot(const es_dims *dims, const es_term *terms, int32_t count) {
  uint32_t mask = (uint32_t)dims->slot_count - 1;
  for (uint32_t s = (uint32_t)hash_terms(terms, count) & mask;; s = (s + 1) & mask) {
    int32_t d = dims->slots[s] - 1;
    if (d < 0) return (int32_t)s;
    if (dims->spans[d].count != count) continue;
    const es_term *have = dims->terms + dims->spans[d].first;
    int32_t t = 0;
    while (t < count && same_term(&have[t], &terms[t])) t++;
    if (t == count) return (int32_t)s;
  }
}

static bool widen_slots(es_dims *dims) {
  int32_t *slots = es_alloc_array((size_t)dims->slot_count * 2, sizeof *slots);
  if (!slots) return starve(dims);
  es_free(dims->slots);
  dims->slots = slots;
  dims->slot_count *= 2;
  for (es_dim d = 0; d < dims->count; d++)
    slots[find_slot(dims, dims->terms + dims->spans[d].first, dims->spans[d].count)] = d + 1;
  return true;
}

es_dim es_poly_intern(es_dims *dims, const es_poly *poly) {
  int32_t slot = find_slot(dims, poly->terms, poly->count);
  if (dims->slots[slot]) return dims->slots[slot] - 1;
  if (!grow(dims, (void **)&dims->spans, &dims->room, dims->count, sizeof *dims->spans,
            ES_DIMS_MAX))
    return ES_NO_DIM;
  while (dims->term_room < dims->term_count + poly->count)
    if (!grow(dims, (void **)&dims->terms, &dims->term_room, dims->term_room, sizeof *dims->terms,
              ES_DIMS_MAX * 4))
      return ES_NO_DIM;
  if ((dims->count + 1) * 2 > dims->slot_count) {
    if (!widen_slots(dims)) return ES_NO_DIM;
    slot = find_slot(dims, poly->terms, poly->count);
  }
  if (poly->count)
    memcpy(dims->terms + dims->term_count, poly->terms, (size_t)poly->count * sizeof *poly->terms);
  dims->spans[dims->count] = (es_span){ dims->term_count, poly->count };
  dims->term_count += poly->count;
  dims->slots[slot] = dims->count + 1;
  return dims->count++;
}

bool es_poly_load(const es_dims *dims, es_dim d, es_poly *out) {
  out->count = 0;
  if (!known(dims, d)) return false;
  es_span span = dims->spans[d];
  if (span.count)
    memcpy(out->terms, dims->terms + span.first, (size_t)span.count * sizeof *out->terms);
  out->count = span.count;
  return true;
}

/* ---- polynomials ---- */

int es_term_order(const es_dims *dims, const es_term *a, const es_term *b) {
  if (a->degree != b->degree) return a->degree > b->degree ? -1 : 1;
  for (int32_t i = 0; i < a->degree; i++)
    if (a->atoms[i] != b->atoms[i])
      return strcmp(dims->atoms[a->atoms[i]].text, dims->atoms[b->atoms[i]].text);
  return 0;
}

static bool too_big(int64_t value) { return value > ES_DIM_BIG || value < -ES_DIM_BIG; }

bool es_poly_add_term(const es_dims *dims, es_poly *poly, const es_term *term) {
  if (term->coef == 0) return true;
  int32_t at = 0, order = 1;
  while (at < poly->count && (order = es_term_order(dims, &poly->terms[at], term)) < 0) at++;
  es_term *place = &poly->terms[at];
  size_t after = (size_t)(poly->count - at) * sizeof *place;
  if (at < poly->count && order == 0) {
    int64_t sum;
    if (__builtin_add_overflow(place->coef, term->coef, &sum) || too_big(sum)) return false;
    place->coef = sum;
    if (sum) return true;
    memmove(place, place + 1, after - sizeof *place);
    poly->count--;
    return true;
  }
  if (poly->count == ES_TERMS_MAX || too_big(term->coef)) return false;
  memmove(place + 1, place, after);
  *place = *term;
  poly->count++;
  return true;
}

bool es_poly_add(const es_dims *dims, es_poly *poly, const es_poly *other, int64_t factor) {
  for (int32_t t = 0; t < other->count; t++) {
    es_term term = other->terms[t];
    if (__builtin_mul_overflow(term.coef, factor, &term.coef)) return false;
    if (!es_poly_add_term(dims, poly, &term)) return false;
  }
  return true;
}

/* Merges the two sorted lists of atoms. */
static bool multiply_terms(const es_dims *dims, const es_term *a, const es_term *b, es_term *out) {
  if (a->degree + b->degree > ES_DEGREE_MAX) return false;
  *out = (es_term){ .degree = a->degree + b->degree };
  for (int32_t i = 0, j = 0; i + j < out->degree;) {
    bool first = j == b->degree || (i < a->degree && strcmp(dims->atoms[a->atoms[i]].text,
                                                            dims->atoms[b->atoms[j]].text) <= 0);
    int32_t at = i + j;
    out->atoms[at] = first ? a->atoms[i++] : b->atoms[j++];
  }
  return !__builtin_mul_overflow(a->coef, b->coef, &out->coef);
}

bool es_poly_mul(const es_dims *dims, const es_poly *a, const es_poly *b, es_poly *out) {
  out->count = 0;
  es_term term;
  for (int32_t i = 0; i < a->count; i++)
    for (int32_t j = 0; j < b->count; j++)
      if (!multiply_terms(dims, &a->terms[i], &b->terms[j], &term) ||
          !es_poly_add_term(dims, out, &term))
        return false;
  return true;
}

void es_poly_copy(es_poly *to, const es_poly *from) {
  to->count = from->count;
  if (from->count) memcpy(to->terms, from->terms, (size_t)from->count * sizeof *from->terms);
}

void es_poly_const(es_poly *poly, int64_t value) {
  poly->count = value ? 1 : 0;
  if (value) poly->terms[0] = (es_term){ .coef = value };
}

void es_poly_atom(es_poly *poly, int32_t atom) {
  poly->count = 1;
  poly->terms[0] = (es_term){ .coef = 1, .degree = 1, .atoms = { atom } };
}

/* ---- floor division ---- */

static int64_t floor_div(int64_t a, int64_t by) { return a / by - (a % by < 0); }

static int32_t deepest(const es_dims *dims, const es_poly *poly) {
  int32_t depth = 0;
  for (int32_t t = 0; t < poly->count; t++)
    for (int32_t i = 0; i < poly->terms[t].degree; i++) {
      int32_t here = dims->atoms[poly->terms[t].atoms[i]].depth;
      if (here > depth) depth = here;
    }
  return depth;
}

/* The atom floor(inner / by), made on first use; -1 over a limit. */
static int32_t floor_atom(es_dims *dims, const es_poly *inner_poly, int64_t by) {
  es_dim inner = es_poly_intern(dims, inner_poly);
  if (inner == ES_NO_DIM) return -1;
  for (int32_t i = 0; i < dims->atom_count; i++)
    if (dims->atoms[i].symbol < 0 && dims->atoms[i].inner == inner && dims->atoms[i].by == by)
      return i;
  if (!grow(dims, (void **)&dims->atoms, &dims->atom_room, dims->atom_count, sizeof *dims->atoms,
            ES_ATOMS_MAX))
    return -1;
  int32_t depth = 1 + deepest(dims, inner_poly);
  if (depth > ES_FLOOR_DEPTH_MAX) return -1;
  const es_term *only = inner_poly->terms;
  bool bare = inner_poly->count == 1 && only->coef == 1 && only->degree == 1 &&
              dims->atoms[only->atoms[0]].symbol >= 0;
  es_text text = { 0 };
  if (!bare) es_text_bytes(&text, "(", 1);
  es_poly_print(dims, inner_poly->terms, inner_poly->count, &text);
  es_text_add(&text, "%s//%lld", bare ? "" : ")", (long long)by);
  dims->starved |= text.failed;
  if (text.length > ES_ATOM_TEXT_MAX) text.failed = true;
  char *taken = es_text_take(&text);
  if (!taken) return -1;
  dims->atoms[dims->atom_count] =
      (es_atom){ .symbol = -1, .inner = inner, .by = by, .depth = depth, .text = taken };
  es_atom_bounds(dims, dims->atom_count);
  return dims->atom_count++;
}

/* Moves what `by` divides out of rest: coefficient c = q by + r with 0 <= r < by leaves r and gives
 * q. */
static bool split(const es_dims *dims, es_poly *rest, int64_t by, es_poly *whole) {
  int32_t kept = 0;
  for (int32_t t = 0; t < rest->count; t++) {
    es_term term = rest->terms[t];
    int64_t quotient = floor_div(term.coef, by), remainder = term.coef - quotient * by;
    term.coef = quotient;
    if (!es_poly_add_term(dims, whole, &term)) return false;
    if (!remainder) continue;
    term.coef = remainder;
    rest->terms[kept++] = term;
  }
  rest->count = kept;
  return true;
}

/* floor((g P + k) / (g m)) = floor((P + floor(k / g)) / m). Returns the new divisor. */
static int64_t reduce(es_poly *rest, int64_t by) {
  int64_t g = by;
  for (int32_t t = 0; t < rest->count; t++)
    if (rest->terms[t].degree)
      for (int64_t b = rest->terms[t].coef; b;) {
        int64_t r = g % b;
        g = b;
        b = r;
      }
  for (int32_t t = 0; t < rest->count; t++) rest->terms[t].coef = floor_div(rest->terms[t].coef, g);
  if (rest->count && !rest->terms[rest->count - 1].coef) rest->count--; /* the constant is last */
  return by / g;
}

/* floor((floor(R / a) + Q) / by) = floor((R + a Q) / (a by)) when exactly one floor stands alone in
 * the sum. Returns the new divisor; 0: not applicable, rest unchanged. */
static int64_t flatten(const es_dims *dims, es_poly *rest, int64_t by) {
  int32_t at = -1;
  for (int32_t t = 0; t < rest->count; t++) {
    const es_term *term = &rest->terms[t];
    if (term->degree != 1 || dims->atoms[term->atoms[0]].symbol >= 0) continue;
    if (at >= 0 || term->coef != 1) return 0;
    at = t;
  }
  if (at < 0) return 0;
  const es_atom *atom = &dims->atoms[rest->terms[at].atoms[0]];
  es_poly flat, others;
  int64_t product;
  if (__builtin_mul_overflow(atom->by, by, &product) || too_big(product)) return 0;
  es_term floor = rest->terms[at];
  floor.coef = -1; /* takes the floor out of Q */
  es_poly_copy(&others, rest);
  es_poly_load(dims, atom->inner, &flat);
  if (!es_poly_add_term(dims, &others, &floor) || !es_poly_add(dims, &flat, &others, atom->by))
    return 0;
  es_poly_copy(rest, &flat);
  return product;
}

bool es_poly_floordiv(es_dims *dims, const es_poly *a, int64_t by, es_poly *out) {
  if (by < 1) return false;
  es_poly rest;
  es_poly_copy(&rest, a);
  out->count = 0;
  for (;;) {
    if (!split(dims, &rest, by, out)) return false;
    by = reduce(&rest, by);
    if (by == 1) return es_poly_add(dims, out, &rest, 1);
    if (rest.count == 0 || rest.terms[0].degree == 0) return true; /* a constant below `by` */
    int64_t flat = flatten(dims, &rest, by);
    if (!flat) break;
    by = flat;
  }
  int32_t atom = floor_atom(dims, &rest, by);
  if (atom < 0) return false;
  es_term term = { .coef = 1, .degree = 1, .atoms = { atom } };
  return es_poly_add_term(dims, out, &term);
}

/* ---- handles ---- */

es_dim es_dim_const(es_dims *dims, int64_t value) {
  es_poly poly;
  es_poly_const(&poly, value);
  return too_big(value) ? ES_NO_DIM : es_poly_intern(dims, &poly);
}

static bool name_fits(const char *name, size_t length) {
  if (length == 0 || length > ES_SYMBOL_NAME_MAX || (name[0] >= '0' && name[0] <= '9'))
    return false;
  for (size_t i = 0; i < length; i++) {
    char c = name[i];
    if (!(c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
      return false;
  }
  return true;
}

int32_t es_symbol_atom(es_dims *dims, const char *name, size_t length) {
  if (!name_fits(name, length)) return -1;
  for (int32_t i = 0; i < dims->symbol_count; i++)
    if (strncmp(dims->symbols[i].name, name, length) == 0 && !dims->symbols[i].name[length])
      return dims->symbols[i].atom;
  if (dims->symbol_count == ES_SYMBOLS_MAX ||
      !grow(dims, (void **)&dims->atoms, &dims->atom_room, dims->atom_count, sizeof *dims->atoms,
            ES_ATOMS_MAX))
    return -1;
  es_symbol *symbol = &dims->symbols[dims->symbol_count];
  *symbol = (es_symbol){ .max = INT64_C(1) << 20, .atom = dims->atom_count };
  memcpy(symbol->name, name, length);
  char *text = es_strdup(symbol->name);
  if (!text) {
    dims->starved = true;
    return -1;
  }
  dims->atoms[dims->atom_count] =
      (es_atom){ .symbol = dims->symbol_count++, .inner = ES_NO_DIM, .text = text };
  es_atom_bounds(dims, dims->atom_count);
  return dims->atom_count++;
}

es_dim es_dim_symbol(es_dims *dims, const char *name) {
  int32_t atom = es_symbol_atom(dims, name, strlen(name));
  es_poly poly;
  if (atom < 0) return ES_NO_DIM;
  es_poly_atom(&poly, atom);
  return es_poly_intern(dims, &poly);
}

static es_dim sum(es_dims *dims, es_dim a, es_dim b, int64_t factor) {
  es_poly left, right;
  if (!es_poly_load(dims, a, &left) || !es_poly_load(dims, b, &right)) return ES_NO_DIM;
  return es_poly_add(dims, &left, &right, factor) ? es_poly_intern(dims, &left) : ES_NO_DIM;
}

es_dim es_dim_add(es_dims *dims, es_dim a, es_dim b) { return sum(dims, a, b, 1); }
es_dim es_dim_sub(es_dims *dims, es_dim a, es_dim b) { return sum(dims, a, b, -1); }

es_dim es_dim_mul(es_dims *dims, es_dim a, es_dim b) {
  es_poly left, right, product;
  if (!es_poly_load(dims, a, &left) || !es_poly_load(dims, b, &right)) return ES_NO_DIM;
  return es_poly_mul(dims, &left, &right, &product) ? es_poly_intern(dims, &product) : ES_NO_DIM;
}

es_dim es_dim_floordiv(es_dims *dims, es_dim a, int64_t by) {
  es_poly top, quotient;
  if (!es_poly_load(dims, a, &top)) return ES_NO_DIM;
  return es_poly_floordiv(dims, &top, by, &quotient) ? es_poly_intern(dims, &quotient) : ES_NO_DIM;
}

es_dim es_dim_ceildiv(es_dims *dims, es_dim a, int64_t by) {
  if (by < 1 || by > ES_DIM_BIG) return ES_NO_DIM;
  return es_dim_floordiv(dims, es_dim_add(dims, a, es_dim_const(dims, by - 1)), by);
}

bool es_dim_is_const(const es_dims *dims, es_dim d, int64_t *value) {
  *value = 0;
  if (!known(dims, d)) return false;
  es_span span = dims->spans[d];
  if (span.count == 0) return true;
  const es_term *term = &dims->terms[span.first];
  if (term->degree) return false; /* terms of degree 0 come last, so this is the only one */
  *value = term->coef;
  return true;
}

bool es_dim_is_symbol(const es_dims *dims, es_dim d, int32_t *index) {
  *index = -1;
  if (!known(dims, d) || dims->spans[d].count != 1) return false;
  const es_term *term = &dims->terms[dims->spans[d].first];
  if (term->degree != 1 || term->coef != 1) return false;
  *index = dims->atoms[term->atoms[0]].symbol;
  return *index >= 0;
}

int32_t es_dims_count(const es_dims *dims) { return dims->count; }
bool es_dims_starved(const es_dims *dims) { return dims->starved; }
int32_t es_symbol_count(const es_dims *dims) { return dims->symbol_count; }

const char *es_symbol_name(const es_dims *dims, int32_t index) {
  return index >= 0 && index < dims->symbol_count ? dims->symbols[index].name : NULL;
}

void es_symbol_range(const es_dims *dims, int32_t index, int64_t *min, int64_t *max) {
  bool fits = index >= 0 && index < dims->symbol_count;
  *min = fits ? dims->symbols[index].min : 0;
  *max = fits ? dims->symbols[index].max : 0;
}

/* ---- values ---- */

static bool term_value(const es_dims *dims, const es_term *term, const int64_t *symbols,
                       const int64_t *values, int64_t *out) {
  int64_t product = term->coef;
  for (int32_t i = 0; i < term->degree; i++) {
    const es_atom *atom = &dims->atoms[term->atoms[i]];
    int64_t value =
        atom->symbol >= 0 ? symbols[atom->symbol] : floor_div(values[atom->inner], atom->by);
    if (__builtin_mul_overflow(product, value, &product)) return false;
  }
  *out = product;
  return true;
}

bool es_dims_eval(const es_dims *dims, const int64_t *symbols, int64_t *values) {
  for (es_dim d = 0; d < dims->count; d++) {
    int64_t total = 0, value = 0;
    for (int32_t t = 0; t < dims->spans[d].count; t++)
      if (!term_value(dims, &dims->terms[dims->spans[d].first + t], symbols, values, &value) ||
          __builtin_add_overflow(total, value, &total))
        return false;
    if (too_big(total)) return false;
    values[d] = total;
  }
  return true;
}
