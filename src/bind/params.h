/* Parameters and buffers of a plan: one contiguous, 64-byte aligned tensor each, drawn at birth or loaded from .npy
 * files. Stands between the plan, which says what there is, and the public calls and the trainer, which use it. */
#ifndef ES_PARAMS_H
#define ES_PARAMS_H
#include "run/plan.h"

typedef struct esper_params es_params;

/* Draws every param and buffer by its init, keyed by (seed, name). Retains the plan.
 * Errors: ESHAPE one has a shape with symbols; ELIMIT; ENOMEM. */
esper_status es_params_new(es_plan *plan, uint64_t seed, es_params **out, es_error *err);
void es_params_free(es_params *params);          /* NULL is fine */
const es_plan *es_params_plan(const es_params *params);

/* From now on the data stays as it is; the token says so to es_run. Ended by es_params_data, es_params_load and runs that
 * update buffers. */
void es_params_freeze(es_params *params);
void es_params_thaw(es_params *params);
uint64_t es_params_frozen(const es_params *params); /* 0: not frozen */

/* The tensor of a param or buffer by value index of the params' own plan; NULL for other values. Lives as long as the
 * params and never moves. It may be written: the params are not frozen any more. */
void *es_params_data(es_params *params, int32_t value);
int64_t es_params_bytes(const es_params *params, int32_t value);
/* The tensor for a param or buffer of another plan, found by role and name: ENAME, EDTYPE or ESHAPE when it has none
 * that fits (*out is NULL then). */
esper_status es_params_match(es_params *params, const es_plan *plan, int32_t value, void **out, es_error *err);

/* One NAME.npy each; in file names, bytes other than letters, digits, '_', '-' and inner '.' become %XX. Load changes
 * nothing unless every file is there and fits; save makes the directory (not its parents). Errors: as npy.h. */
esper_status es_params_load(es_params *params, const char *directory, es_error *err);
esper_status es_params_save(const es_params *params, const char *directory, es_error *err);
#endif
