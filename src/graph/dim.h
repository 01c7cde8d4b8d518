/* Dimensions: interned integer expressions over named symbols. A dimension is a polynomial with integer
 * coefficients over atoms; an atom is a symbol or floor(dimension / positive constant). Equal expressions
 * have equal handles, so shapes compare by ==. Handles are dense: 0, 1, 2... and never change.
 * One table is shared by all graphs of a compile (counted). Not thread-safe. */
#ifndef ES_DIM_H
#define ES_DIM_H
#include <stdbool.h>
#include <stdint.h>
#include "base/error.h"
#include "base/text.h"

typedef int32_t es_dim; /* >= 0; ES_NO_DIM after a failure (overflow, no memory) */
enum { ES_NO_DIM = -1, ES_SYMBOLS_MAX = 32 };
typedef struct es_dims es_dims;

es_dims *es_dims_new(void);
es_dims *es_dims_retain(es_dims *dims);
void es_dims_release(es_dims *dims);

es_dim es_dim_const(es_dims *dims, int64_t value);
/* The symbol of that name ([A-Za-z_][A-Za-z0-9_]*), made on first use with range [0, 2^20]. */
es_dim es_dim_symbol(es_dims *dims, const char *name);
/* Narrows the range a symbol may take at run time; inclusive. */
esper_status es_dim_range(es_dims *dims, const char *name, int64_t min, int64_t max, es_error *err);
es_dim es_dim_add(es_dims *dims, es_dim a, es_dim b);
es_dim es_dim_sub(es_dims *dims, es_dim a, es_dim b);
es_dim es_dim_mul(es_dims *dims, es_dim a, es_dim b);
es_dim es_dim_floordiv(es_dims *dims, es_dim a, int64_t by); /* by >= 1; exact division stays polynomial */
es_dim es_dim_ceildiv(es_dims *dims, es_dim a, int64_t by);  /* floor((a + by - 1) / by) */

bool es_dim_is_const(const es_dims *dims, es_dim d, int64_t *value);
bool es_dim_is_symbol(const es_dims *dims, es_dim d, int32_t *index);
/* True when a >= b for every symbol value in range is PROVED (interval bounds of a - b); false = unknown. */
bool es_dim_proved_ge(const es_dims *dims, es_dim a, es_dim b);
/* Smallest and largest value the interval bounds allow; saturates at +-2^62. */
void es_dim_bounds(const es_dims *dims, es_dim d, int64_t *min, int64_t *max);

/* Appends the symbols of d that are not yet among order[0..*count), in printed order; order has ES_SYMBOLS_MAX places. */
void es_dim_symbols(const es_dims *dims, es_dim d, int32_t *order, int32_t *count);

int32_t es_dims_count(const es_dims *dims);   /* handles so far */
bool es_dims_starved(const es_dims *dims);    /* memory ran out once: why a result may be ES_NO_DIM */
int32_t es_symbol_count(const es_dims *dims); /* symbols, in order of first use */
const char *es_symbol_name(const es_dims *dims, int32_t index);
void es_symbol_range(const es_dims *dims, int32_t index, int64_t *min, int64_t *max);

/* Values of all handles 0..count-1 for the given symbol values; false on overflow beyond 2^62. */
bool es_dims_eval(const es_dims *dims, const int64_t *symbols, int64_t *values);
/* "2*batch*tokens + 3", "(h + 1)//2"; canonical: equal handles print alike. Parse reads it back. */
void es_dim_print(const es_dims *dims, es_dim d, es_text *out);
es_dim es_dim_parse(es_dims *dims, const char *text, const char **end, es_error *err);
/* The same expression in another table, with the ranges of its symbols; ES_NO_DIM on failure. */
es_dim es_dim_copy(es_dims *into, const es_dims *from, es_dim d);
/* A table of the same symbols that holds only the handles with used[d] (and what they are made of), in the same order;
 * map[d] becomes their new handle, ES_NO_DIM for the rest. NULL without memory. */
es_dims *es_dims_select(const es_dims *from, const bool *used, es_dim *map);
bool es_dims_shared(const es_dims *dims);     /* has more than one owner */
/* Self-contained bytes of the whole table and back (plans in the store). */
void es_dims_encode(const es_dims *dims, es_text *out);
es_dims *es_dims_decode(const uint8_t *bytes, size_t length, size_t *used, es_error *err);
#endif
