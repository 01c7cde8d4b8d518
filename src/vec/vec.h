/* The vector IR: one leaf function, built instruction by instruction by a recipe, lowered to a target.
 * The function is `void name(const int64_t *w)`: w holds addresses, counts, strides (bytes) as 64-bit words.
 * Registers are virtual and numbered by the builder: scalars (g), vectors of `lanes` elements (v), masks (m).
 * Built by one thread; errors are sticky and reported by es_vec_lower. */
#ifndef ES_VEC_H
#define ES_VEC_H
#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"

typedef enum es_vec_op {
#define V(name, result, operands, types, meaning) ES_VEC_##name,
#include "vec/vec.def"
#undef V
  ES_VEC_COUNT
} es_vec_op;

typedef enum es_vec_type { ES_VEC_f32, ES_VEC_f64, ES_VEC_i32, ES_VEC_i64, ES_VEC_none } es_vec_type;

/* One row of vec.def. */
typedef struct es_vec_row {
  const char *name, *result, *operands, *types, *meaning;
} es_vec_row;
const es_vec_row *es_vec_row_of(int32_t op); /* static; NULL past the last row */

typedef enum es_isa { ES_ISA_scalar, ES_ISA_avx2, ES_ISA_avx512, ES_ISA_COUNT } es_isa;

/* Best ISA of this processor, capped by $ESPER_ISA (scalar|avx2|avx512; an unknown word means scalar, so that a
 * cap never runs what the user may have wanted to keep away), and by what lowerings exist. */
es_isa es_isa_best(void);
const char *es_isa_name(es_isa isa);           /* "scalar"; "unknown" for no ISA */
int32_t es_isa_named(const char *name);        /* es_isa, or -1 */
bool es_isa_supported(int32_t isa);            /* can this processor run it? whether or not a lowering exists */
/* Lanes of a vector of 4-byte (f32) or 8-byte (f64) elements. */
int32_t es_isa_lanes(es_isa isa, int32_t element_bytes);

typedef struct es_vec es_vec;
/* Element types of one function all have the width element_bytes (4 or 8). NULL only when memory ran out. */
es_vec *es_vec_new(es_isa isa, int32_t element_bytes);
void es_vec_free(es_vec *vec);
/* Appends one instruction; operands a..e are registers, -1 where the row has none there; k integer constant, n number
 * constant. `type` ES_VEC_none takes the only type possible: by the row, else by the first vector operand (which rows
 * of both classes without one, the loads, therefore do not allow).
 * A register made inside a loop is gone after its end. Returns the result register (0 for none); -1 after an error. */
int32_t es_vec_emit(es_vec *vec, int32_t op, int32_t type, int32_t a, int32_t b, int32_t c, int32_t d, int32_t e,
                    int64_t k, double n);
/* The same for rows with at most three registers, which are nearly all: a call from Lua costs by its arguments. */
int32_t es_vec_emit3(es_vec *vec, int32_t op, int32_t type, int32_t a, int32_t b, int32_t c);
int32_t es_vec_emitk(es_vec *vec, int32_t op, int32_t type, int32_t a, int32_t b, int64_t k);
/* Hash over the instructions but the notes: blocks with equal hashes lower to the same code. */
void es_vec_digest(const es_vec *vec, es_hash *out);
const char *es_vec_failure(const es_vec *vec); /* the first error, "" while there is none; lives as long as vec */
/* The instruction listing, for people. */
void es_vec_print(const es_vec *vec, es_text *out);
/* Appends the C text that defines the static function `name` (and declares what it calls); may be repeated.
 * ECOMPILE when building went wrong (place named) or the ISA has no lowering. */
esper_status es_vec_lower(es_vec *vec, const char *name, es_text *out, es_error *err);
/* Appends the machine instructions: offset, text, and the loop and node (ES_VEC_note) each belongs to. ECOMPILE for the
 * scalar target and for a block with an error. */
esper_status es_vec_listing(const es_vec *vec, es_text *out, es_error *err);
#endif
