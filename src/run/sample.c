/* Deterministic test values: element i is a pure function of (kind, seed, stream, i). */
#include "run/sample.h"

#include <float.h>
#include <math.h>

#include "base/random.h"

static double special(uint32_t pick, bool f32) {
  switch (pick % 7) {
    case 0: return 0.0;
    case 1: return -0.0;
    case 2: return INFINITY;
    case 3: return -INFINITY;
    case 4: return NAN;
    case 5: return f32 ? FLT_MAX : DBL_MAX;
    default: return f32 ? FLT_TRUE_MIN : DBL_TRUE_MIN;
  }
}

static double tiny(const uint32_t w[2], bool f32) {
  double step = f32 ? FLT_TRUE_MIN : DBL_TRUE_MIN;
  double sign = w[1] & 1 ? -1 : 1;
  return sign * step * (double)(w[1] % 8 < 2 ? 0 : w[0] >> 9);
}

static double draw(int32_t kind, const uint32_t key[2], uint64_t i, bool f32) {
  uint32_t w[2];
  es_threefry(key, (uint32_t)i ^ 0x5bd1e995u, (uint32_t)(i >> 32), w); /* independent of the normals below */
  double normal = es_random_normal(key, i);
  switch (kind) {
    case ES_SAMPLE_wide: return (w[1] & 1 ? -1 : 1) * pow(10, (double)w[0] * 6 / 4294967296.0 - 3);
    case ES_SAMPLE_tiny: return w[1] % 4 == 3 ? normal : tiny(w, f32);
    case ES_SAMPLE_special: return w[0] % 7 == 0 ? special(w[1], f32) : normal;
    case ES_SAMPLE_positive: return 0.5 + fabs(normal);
    case ES_SAMPLE_near_one: return 1 + 0.1 * normal;
    case ES_SAMPLE_small: return 0.1 * normal;
    default: return normal;
  }
}

static int64_t draw_index(const uint32_t key[2], uint64_t i, int64_t lo, int64_t hi) {
  uint32_t w[2];
  es_threefry(key, (uint32_t)i, (uint32_t)(i >> 32), w);
  return lo + (int64_t)((((uint64_t)w[0] << 31) ^ w[1]) % (uint64_t)(hi - lo));
}

esper_status es_sample_fill(int32_t kind, int32_t dtype, uint64_t seed, uint32_t stream, int64_t lo, int64_t hi,
                            int64_t count, void *out, es_error *err) {
  uint32_t key[2];
  es_random_key(seed, stream, 0, key);
  bool floating = dtype == ES_f32 || dtype == ES_f64;
  if (kind < 0 || kind >= ES_SAMPLE_COUNT || count < 0) return es_fail(err, ESPER_EARG, "sample: bad kind or count");
  if (dtype == ES_bool) lo = 0, hi = 2;
  if (!floating && count > 0 && lo >= hi) return es_fail(err, ESPER_EARG, "sample: empty index range");
  for (int64_t i = 0; i < count; i++) {
    switch (dtype) {
      case ES_f32: ((float *)out)[i] = (float)draw(kind, key, (uint64_t)i, true); break;
      case ES_f64: ((double *)out)[i] = draw(kind, key, (uint64_t)i, false); break;
      case ES_i32: ((int32_t *)out)[i] = (int32_t)draw_index(key, (uint64_t)i, lo, hi); break;
      case ES_i64: ((int64_t *)out)[i] = draw_index(key, (uint64_t)i, lo, hi); break;
      case ES_u8:
      case ES_bool: ((uint8_t *)out)[i] = (uint8_t)draw_index(key, (uint64_t)i, lo, hi); break;
      default: return es_fail(err, ESPER_EDTYPE, "sample: no values of dtype %s", es_dtype_name(dtype));
    }
  }
  return ESPER_OK;
}
