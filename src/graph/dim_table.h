/* Inside of es_dims, shared by dim.c (table and arithmetic), dim_bounds.c and dim_text.c; nobody
 * else includes it.
 *
 * A polynomial is a list of terms, coefficient times a product of atoms. Invariants of every stored
 * polynomial:
 *   - coefficients are not 0 and at most ES_DIM_BIG in magnitude;
 *   - terms strictly ascend by es_term_order: higher degree first, then by the atoms' texts, so the
 *     order (and the printed form) depends on names alone, never on the order of creation;
 *   - an atom's inner dimension has a smaller handle than every dimension that uses the atom. */
#ifndef ES_DIM_TABLE_H
#define ES_DIM_TABLE_H
#include <stdatomic.h>
#include "graph/dim.h"

enum {
  ES_DEGREE_MAX = 13,      /* atoms in one term: 8 extents and room for sizes made from them */
  ES_TERMS_MAX = 64,       /* terms in one dimension */
  ES_ATOMS_MAX = 4096,     /* symbols and floors of one table */
  ES_ATOM_TEXT_MAX = 4096, /* bytes of a printed floor */
  ES_FLOOR_DEPTH_MAX = 8,  /* floors inside floors; bounds every recursion over dimensions */
  ES_DIMS_MAX = 1 << 20,   /* handles, and (times 4) stored terms */
  ES_SYMBOL_NAME_MAX = 64
};
#define ES_DIM_BIG (INT64_C(1) << 62)      /* values this large count as unbounded */
#define ES_SYMBOL_LIMIT (INT64_C(1) << 40) /* largest upper end of a declared range */

typedef struct es_term {
  int64_t coef;
  int32_t degree;
  int32_t atoms[ES_DEGREE_MAX];
} es_term;

typedef struct es_poly { /* being worked on; about 4 KiB, lives on the stack */
  int32_t count;
  es_term terms[ES_TERMS_MAX];
} es_poly;

typedef struct es_atom {
  int32_t symbol; /* index, or -1: floor(inner / by) */
  es_dim inner;
  int64_t by;
  int32_t depth;    /* 0 for symbols, else 1 + the deepest atom of inner */
  int64_t min, max; /* bounds under the present symbol ranges */
  char *text;       /* canonical, owned */
} es_atom;

typedef struct es_symbol {
  char name[ES_SYMBOL_NAME_MAX + 1];
  int64_t min, max;
  bool declared; /* the range was given, not defaulted */
  int32_t atom;
} es_symbol;

typedef struct es_span { /* terms of one dimension */
  int32_t first, count;
} es_span;

struct es_dims {
  bool starved;          /* an allocation failed */
  atomic_int references; /* plans of several threads may hold one finished table */
  es_symbol symbols[ES_SYMBOLS_MAX];
  int32_t symbol_count;
  es_atom *atoms;
  int32_t atom_count, atom_room;
  es_term *terms;
  int32_t term_count, term_room;
  es_span *spans; /* one per handle */
  int32_t count, room;
  int32_t *slots; /* open addressing: handle + 1, 0 = empty; at most half full */
  int32_t slot_count;
};

int es_term_order(const es_dims *dims, const es_term *a, const es_term *b);
/* The following return false (or ES_NO_DIM, -1) over a limit, on overflow, without memory. */
bool es_poly_add_term(const es_dims *dims, es_poly *poly, const es_term *term);
bool es_poly_add(const es_dims *dims, es_poly *poly, const es_poly *other, int64_t factor);
bool es_poly_mul(const es_dims *dims, const es_poly *a, const es_poly *b, es_poly *out);
bool es_poly_floordiv(es_dims *dims, const es_poly *a, int64_t by, es_poly *out);
void es_poly_copy(es_poly *to, const es_poly *from); /* the terms in use only */
void es_poly_const(es_poly *poly, int64_t value);
void es_poly_atom(es_poly *poly, int32_t atom);
bool es_poly_load(const es_dims *dims, es_dim d, es_poly *out); /* false: not a handle */
es_dim es_poly_intern(es_dims *dims, const es_poly *poly);
int32_t es_symbol_atom(es_dims *dims, const char *name, size_t length); /* made on first use */
void es_poly_print(const es_dims *dims, const es_term *terms, int32_t count, es_text *out);
/* Bounds of an atom from its inner dimension, or its symbol; atoms below it are up to date. */
void es_atom_bounds(es_dims *dims, int32_t atom);
#endif
