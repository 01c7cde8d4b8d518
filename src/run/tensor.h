/* DLPack tensors at the border: what a caller may hand in, and its compact copy when it has strides.
 * Used by the public run call. Nothing here keeps a tensor; all functions borrow. */
#ifndef ES_TENSOR_H
#define ES_TENSOR_H
#include "graph/graph.h"

/* The es_dtype of a DLPack type, -1 when Esper has none; and back. */
int32_t es_tensor_dtype(DLDataType type);
DLDataType es_tensor_type(int32_t dtype);

/* What holds of every tensor Esper touches: on the CPU, one lane, known dtype, rank 0..8, extents not negative, bytes
 * and the span of its strides at most 2^46, data unless it is empty. Messages call it `kind "name"`.
 * bytes: of its elements. Errors: EARG EDTYPE ESHAPE ELIMIT. */
esper_status es_tensor_check(const DLTensor *tensor, const char *kind, const char *name, int64_t *bytes, es_error *err);

/* These take checked tensors. */
bool es_tensor_compact(const DLTensor *tensor);  /* row-major without gaps, and aligned to its element */
void *es_tensor_data(const DLTensor *tensor);    /* first element: data + byte_offset */
void es_tensor_pack(const DLTensor *tensor, void *out); /* row-major copy; any strides, any alignment */
/* The bytes its elements lie in: [*lo, *hi); equal when empty. */
void es_tensor_span(const DLTensor *tensor, uintptr_t *lo, uintptr_t *hi);
#endif
