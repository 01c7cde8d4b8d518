/* Values to test kernels with: deterministic fills of a tensor, by kind. */
#ifndef ES_SAMPLE_H
#define ES_SAMPLE_H
#include "graph/graph.h"

typedef enum es_sample {
  ES_SAMPLE_normal,   /* mean 0, deviation 1 */
  ES_SAMPLE_wide,     /* sign * 10^u, u uniform in [-3, 3) */
  ES_SAMPLE_tiny,     /* denormals of the dtype and zeros of both signs, a quarter normal */
  ES_SAMPLE_special,  /* normal, every 7th or so one of +-0, +-inf, NaN, largest, smallest */
  ES_SAMPLE_positive, /* 0.5 + |normal| */
  ES_SAMPLE_near_one, /* 1 + 0.1 normal */
  ES_SAMPLE_small,    /* 0.1 normal */
  ES_SAMPLE_index,    /* integers uniform in [lo, hi) */
  ES_SAMPLE_coin,     /* bool, fair */
  ES_SAMPLE_COUNT
} es_sample;

/* Fills `count` elements of `dtype` (f32 f64 i32 i64 u8 bool). Integers and bools ignore the float kinds and take
 * [lo, hi). EARG for other dtypes or lo >= hi with count > 0. */
esper_status es_sample_fill(int32_t kind, int32_t dtype, uint64_t seed, uint32_t stream, int64_t lo, int64_t hi,
                            int64_t count, void *out, es_error *err);
#endif
