/* Bounds of dimensions over the symbols' ranges: what shape rules and the planner may rely on.
 * Invariant: bounds are never too tight. A bound of +-2^62 means "no bound known", and stays so
 * through every sum, product and quotient. Two methods, the better answer of both: interval
 * arithmetic over the terms; relaxation: R/by - (by-1)/by <= floor(R/by) <= R/by for floors that
 * stand alone in a term, which lets t - t//2 cancel before intervals are taken: scale * p >= q, a
 * polynomial without that floor. */
#include "graph/dim_table.h"

typedef __int128 wide;
typedef struct range {
  int64_t min, max;
} range;

static int64_t floor_div(int64_t a, int64_t by) { return a / by - (a % by < 0); }
static bool open_end(int64_t v) { return v >= ES_DIM_BIG || v <= -ES_DIM_BIG; }

static int64_t clip(wide v) {
  return v >= ES_DIM_BIG ? ES_DIM_BIG : v <= -ES_DIM_BIG ? -ES_DIM_BIG : (int64_t)v;
}

static range product(range a, range b) {
  wide c[4] = { (wide)a.min * b.min, (wide)a.min * b.max, (wide)a.max * b.min,
                (wide)a.max * b.max };
  wide low = c[0], high = c[0];
  for (int i = 1; i < 4; i++) {
    if (c[i] < low) low = c[i];
    if (c[i] > high) high = c[i];
  }
  return (range){ clip(low), clip(high) };
}

static range sum(range a, range b) {
  return (range){ open_end(a.min) || open_end(b.min) ? -ES_DIM_BIG : clip((wide)a.min + b.min),
                  open_end(a.max) || open_end(b.max) ? ES_DIM_BIG : clip((wide)a.max + b.max) };
}

static range interval(const es_dims *dims, const es_term *terms, int32_t count) {
  range total = { 0, 0 };
  for (int32_t t = 0; t < count; t++) {
    range term = { terms[t].coef, terms[t].coef };
    for (int32_t i = 0; i < terms[t].degree; i++) {
      const es_atom *atom = &dims->atoms[terms[t].atoms[i]];
      term = product(term, (range){ atom->min, atom->max });
    }
    total = sum(total, term);
  }
  return total;
}

/* Replaces the floor that was made last (so the walk ends: what it is made of is older) by its
 * relaxation, on the low side when direction is 1 and on the high side when -1, and multiplies all
 * by its divisor. */
static int64_t relax(const es_dims *dims, es_poly *poly, int direction) {
  int32_t at = -1;
  for (int32_t t = 0; t < poly->count; t++) {
    const es_term *term = &poly->terms[t];
    if (term->degree != 1 || dims->atoms[term->atoms[0]].symbol >= 0) continue;
    if (at < 0 || term->atoms[0] > poly->terms[at].atoms[0]) at = t;
  }
  if (at < 0) return 0;
  es_term floor = poly->terms[at];
  const es_atom *atom = &dims->atoms[floor.atoms[0]];
  es_poly others, inner;
  es_poly_copy(&others, poly);
  es_term out = floor, slack = { 0 };
  out.coef = -floor.coef;
  poly->count = 0;
  if ((floor.coef > 0) == (direction > 0) &&
      __builtin_mul_overflow(floor.coef, 1 - atom->by, &slack.coef))
    return 0;
  bool fits = es_poly_load(dims, atom->inner, &inner) && es_poly_add_term(dims, &others, &out) &&
              es_poly_add(dims, poly, &others, atom->by) &&
              es_poly_add(dims, poly, &inner, floor.coef) && es_poly_add_term(dims, poly, &slack);
  return fits ? atom->by : 0;
}

/* The best bound on one side: 1 = lower, -1 = upper. */
static int64_t one_side(const es_dims *dims, const es_poly *poly, int direction) {
  range plain = interval(dims, poly->terms, poly->count);
  int64_t best = direction > 0 ? plain.min : plain.max;
  es_poly work;
  es_poly_copy(&work, poly);
  for (int64_t scale = 1, by; (by = relax(dims, &work, direction)) != 0;) {
    if (__builtin_mul_overflow(scale, by, &scale) || scale > ES_DIM_BIG) break;
    range r = interval(dims, work.terms, work.count);
    int64_t end = direction > 0 ? r.min : r.max;
    if (open_end(end)) continue;
    end = direction > 0 ? -floor_div(-end, scale) : floor_div(end, scale);
    if (direction > 0 ? end > best : end < best) best = end;
  }
  return best;
}

void es_dim_bounds(const es_dims *dims, es_dim d, int64_t *min, int64_t *max) {
  es_poly poly;
  *min = -ES_DIM_BIG;
  *max = ES_DIM_BIG;
  if (!es_poly_load(dims, d, &poly)) return;
  *min = one_side(dims, &poly, 1);
  *max = one_side(dims, &poly, -1);
}

bool es_dim_proved_ge(const es_dims *dims, es_dim a, es_dim b) {
  es_poly left, right;
  if (!es_poly_load(dims, a, &left) || !es_poly_load(dims, b, &right)) return false;
  if (a == b) return true;
  return es_poly_add(dims, &left, &right, -1) && one_side(dims, &left, 1) >= 0;
}

void es_atom_bounds(es_dims *dims, int32_t index) {
  es_atom *atom = &dims->atoms[index];
  if (atom->symbol >= 0) {
    atom->min = dims->symbols[atom->symbol].min;
    atom->max = dims->symbols[atom->symbol].max;
    return;
  }
  int64_t min, max;
  es_dim_bounds(dims, atom->inner, &min, &max);
  atom->min = open_end(min) ? -ES_DIM_BIG : floor_div(min, atom->by);
  atom->max = open_end(max) ? ES_DIM_BIG : floor_div(max, atom->by);
}

esper_status es_dim_range(es_dims *dims, const char *name, int64_t min, int64_t max,
                          es_error *err) {
  if (min < 0 || max < min)
    return es_fail(err, ESPER_EARG, "range of %.64s is %lld..%lld; wanted 0 <= min <= max", name,
                   (long long)min, (long long)max);
  if (max > ES_SYMBOL_LIMIT)
    return es_fail(err, ESPER_ELIMIT, "range of %.64s ends at %lld; the largest extent is 2^40",
                   name, (long long)max);
  es_dim d = es_dim_symbol(dims, name);
  int32_t index;
  if (d == ES_NO_DIM && dims->starved)
    return es_fail(err, ESPER_ENOMEM, "no memory for symbol %.64s", name);
  if (!es_dim_is_symbol(dims, d, &index))
    return es_fail(err, ESPER_ENAME,
                   "%.64s cannot be a symbol: a name is [A-Za-z_][A-Za-z0-9_]*, at most %d bytes, "
                   "and a graph has at most %d symbols",
                   name, ES_SYMBOL_NAME_MAX, ES_SYMBOLS_MAX);
  es_symbol *symbol = &dims->symbols[index];
  if (symbol->declared && (min > symbol->max || max < symbol->min))
    return es_fail(err, ESPER_EARG,
                   "range %lld..%lld of %s has nothing in common with its earlier range %lld..%lld",
                   (long long)min, (long long)max, name, (long long)symbol->min,
                   (long long)symbol->max);
  if (symbol->declared && min <= symbol->min && max >= symbol->max)
    return ESPER_OK; /* nothing to narrow */
  if (!symbol->declared || min > symbol->min) symbol->min = min;
  if (!symbol->declared || max < symbol->max) symbol->max = max;
  symbol->declared = true;
  for (int32_t i = 0; i < dims->atom_count; i++) es_atom_bounds(dims, i);
  return ESPER_OK;
}
