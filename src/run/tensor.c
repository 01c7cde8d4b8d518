/* Checks and packing of DLPack tensors: see tensor.h.
 * Invariant: after es_tensor_check, byte distances between any two elements fit an int64_t. */
#include "run/tensor.h"
#include <string.h>

#define BYTES_MAX ((int64_t)1 << 46)

int32_t es_tensor_dtype(DLDataType type) {
  if (type.lanes != 1) return -1;
#define D(name, bytes, class_, ctype, dlpack, npy)                                                 \
  if (type.code == (dlpack) && type.bits == (bytes)*8) return ES_##name;
#include "graph/dtypes.def"
#undef D
  return -1;
}

DLDataType es_tensor_type(int32_t dtype) {
  static const DLDataType types[] = {
#define D(name, bytes, class_, ctype, dlpack, npy) { (dlpack), (bytes)*8, 1 },
#include "graph/dtypes.def"
#undef D
  };
  return dtype >= 0 && dtype < ES_DTYPE_COUNT ? types[dtype] : (DLDataType){ 0 };
}

/* Extents and their product, in bytes. */
static esper_status check_shape(const DLTensor *t, const char *kind, const char *name, int64_t size,
                                int64_t *bytes, es_error *err) {
  bool empty = false, over = false;
  *bytes = size;
  for (int32_t axis = 0; axis < t->ndim; axis++) {
    int64_t extent = t->shape[axis];
    if (extent < 0)
      return es_fail(err, ESPER_ESHAPE, "%s \"%s\" axis %d: extent %lld is negative", kind, name,
                     axis, (long long)extent);
    if (extent == 0) empty = true;
    else if (!over) over = __builtin_mul_overflow(*bytes, extent, bytes) || *bytes > BYTES_MAX;
  }
  if (empty) *bytes = 0;
  if (over && !empty)
    return es_fail(err, ESPER_ELIMIT, "%s \"%s\" has over 2^46 bytes", kind, name);
  return ESPER_OK;
}

/* The distance from the first element to the farthest, either way. */
static esper_status check_strides(const DLTensor *t, const char *kind, const char *name,
                                  int64_t size, es_error *err) {
  int64_t reach = 0, part;
  for (int32_t axis = 0; axis < t->ndim; axis++) {
    int64_t stride = t->strides[axis];
    if (t->shape[axis] < 2) continue;
    if (stride == INT64_MIN ||
        __builtin_mul_overflow(stride < 0 ? -stride : stride, t->shape[axis] - 1, &part) ||
        __builtin_add_overflow(reach, part, &reach) || reach > BYTES_MAX / size) {
      return es_fail(err, ESPER_ELIMIT, "%s \"%s\" axis %d: stride %lld spans over 2^46 bytes",
                     kind, name, axis, (long long)stride);
    }
  }
  return ESPER_OK;
}

esper_status es_tensor_check(const DLTensor *t, const char *kind, const char *name, int64_t *bytes,
                             es_error *err) {
  *bytes = 0;
  if (t->device.device_type != kDLCPU)
    return es_fail(err, ESPER_EARG, "%s \"%s\" is on device type %d; copy it to the CPU (1) first",
                   kind, name, (int)t->device.device_type);
  int32_t dtype = es_tensor_dtype(t->dtype);
  if (dtype < 0)
    return es_fail(err, ESPER_EDTYPE,
                   "%s \"%s\": DLPack type code %d, %d bits, %d lanes is none of Esper's dtypes",
                   kind, name, t->dtype.code, t->dtype.bits, t->dtype.lanes);
  if (t->ndim < 0 || t->ndim > ES_RANK_MAX)
    return es_fail(err, ESPER_ESHAPE, "%s \"%s\" has %d axes, wanted 0 to %d", kind, name, t->ndim,
                   ES_RANK_MAX);
  if (t->ndim > 0 && !t->shape)
    return es_fail(err, ESPER_EARG, "%s \"%s\" has no shape", kind, name);
  int64_t size = es_dtype_bytes(dtype);
  esper_status status = check_shape(t, kind, name, size, bytes, err);
  if (status == ESPER_OK && *bytes > 0 && t->strides)
    status = check_strides(t, kind, name, size, err);
  if (status == ESPER_OK && *bytes > 0 && !t->data)
    status = es_fail(err, ESPER_EARG, "%s \"%s\" has no data", kind, name);
  return status;
}

void *es_tensor_data(const DLTensor *t) {
  return t->data ? (char *)t->data + t->byte_offset : NULL;
}

static int64_t element_bytes(const DLTensor *t) { return t->dtype.bits / 8; }

static bool empty(const DLTensor *t) {
  for (int32_t axis = 0; axis < t->ndim; axis++)
    if (t->shape[axis] == 0) return true;
  return false;
}

bool es_tensor_compact(const DLTensor *t) {
  if (empty(t)) return true;
  if ((uintptr_t)es_tensor_data(t) % (uintptr_t)element_bytes(t)) return false;
  int64_t expected = 1;
  for (int32_t axis = t->ndim - 1; t->strides && axis >= 0; axis--) {
    if (t->shape[axis] != 1 && t->strides[axis] != expected) return false;
    expected *= t->shape[axis];
  }
  return true;
}

void es_tensor_span(const DLTensor *t, uintptr_t *lo, uintptr_t *hi) {
  int64_t size = element_bytes(t), below = 0, above = size, compact = size;
  *lo = *hi = (uintptr_t)es_tensor_data(t);
  if (empty(t)) return;
  for (int32_t axis = t->ndim - 1; axis >= 0; axis--) {
    int64_t reach = (t->shape[axis] - 1) *
                    (t->strides && t->shape[axis] > 1 ? t->strides[axis] * size : compact);
    *(reach < 0 ? &below : &above) += reach;
    compact *= t->shape[axis];
  }
  *lo += (uintptr_t)below;
  *hi += (uintptr_t)above;
}

/* --- packing -------------------------------------------------------------------------------- */

/* `count` elements `stride` bytes apart. memcpy of a constant size is one move, and takes any
 * alignment. */
static char *copy_line(const char *from, int64_t stride, int64_t count, int64_t size, char *to) {
  if (stride == size) {
    memcpy(to, from, (size_t)(count * size));
    return to + count * size;
  }
  for (int64_t i = 0; i < count; i++, from += stride, to += size) {
    switch (size) {
      case 1: *to = *from; break;
      case 2: memcpy(to, from, 2); break;
      case 4: memcpy(to, from, 4); break;
      default: memcpy(to, from, 8); break;
    }
  }
  return to;
}

void es_tensor_pack(const DLTensor *t, void *out) {
  if (empty(t)) return;
  int64_t size = element_bytes(t), stride[ES_RANK_MAX + 1], compact = size,
          index[ES_RANK_MAX] = { 0 };
  for (int32_t axis = t->ndim - 1; axis >= 0; axis--) {
    stride[axis] = t->strides ? t->strides[axis] * (t->shape[axis] > 1 ? size : 0) : compact;
    compact *= t->shape[axis];
  }
  int32_t last = t->ndim - 1;
  const char *from = es_tensor_data(t);
  char *to = out;
  for (;;) { /* an odometer over the axes before the last */
    to = last >= 0 ? copy_line(from, stride[last], t->shape[last], size, to)
                   : copy_line(from, size, 1, size, to);
    int32_t axis = last - 1;
    for (; axis >= 0; axis--) {
      from += stride[axis];
      if (++index[axis] < t->shape[axis]) break;
      from -= stride[axis] * index[axis];
      index[axis] = 0;
    }
    if (axis < 0) return;
  }
}
