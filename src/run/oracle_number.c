/* Element types as doubles: reading, rounding and spacing of every dtype, and the range of its floating format.
 * Used by the oracle for what is given to it and by es_compare for what is judged. All of it is exact. */
#include <string.h>
#include "run/oracle_ops.h"

typedef struct form { int digits, least, most; } form; /* normal values are m * 2^e, 0.5 <= m < 1, least <= e <= most */

static form form_of(int32_t dtype) {
  switch (dtype) {
    case ES_f32: return (form){ 24, -125, 128 };
    case ES_bf16: return (form){ 8, -125, 128 };
    case ES_f16: return (form){ 11, -13, 16 };
    default: return (form){ 53, -1021, 1024 };
  }
}

bool es_is_float(int32_t dtype) { return dtype == ES_f32 || dtype == ES_f64 || dtype == ES_bf16 || dtype == ES_f16; }

es_format es_format_of(int32_t dtype) {
  if (!es_is_float(dtype)) return (es_format){ 0, 0, 0, INFINITY };
  form f = form_of(dtype);
  double u = ldexp(1, -f.digits);
  return (es_format){ u, ldexp(1, f.least - f.digits), ldexp(1, f.least - 1), ldexp(1 - u, f.most - 1) * 2 };
}

static double load_half(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double v = exponent == 0 ? ldexp(fraction, -24)
           : exponent < 31 ? ldexp(fraction + 1024, exponent - 25)
           : fraction ? (double)NAN : (double)INFINITY;
  return bits >> 15 ? -v : v;
}

static double load_bfloat(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float f;
  memcpy(&f, &wide, sizeof f);
  return f;
}

double es_number_load(int32_t dtype, const void *data, int64_t index) {
  switch (dtype) {
    case ES_f32: return ((const float *)data)[index];
    case ES_f64: return ((const double *)data)[index];
    case ES_bf16: return load_bfloat(((const uint16_t *)data)[index]);
    case ES_f16: return load_half(((const uint16_t *)data)[index]);
    case ES_i32: return ((const int32_t *)data)[index];
    case ES_i64: return (double)((const int64_t *)data)[index];
    case ES_bool: return ((const uint8_t *)data)[index] != 0;
    default: return ((const uint8_t *)data)[index];
  }
}

double es_number_ulp(int32_t dtype, double v) {
  if (!es_is_float(dtype) || !isfinite(v)) return 1;
  form f = form_of(dtype);
  int exponent = f.least;
  if (v != 0) frexp(v, &exponent);
  return ldexp(1, (exponent < f.least ? f.least : exponent) - f.digits);
}

static double saturate(double v, double lo, double hi) { return v < lo ? lo : v > hi ? hi : trunc(v); }

double es_number_round(int32_t dtype, double v) {
  if (dtype == ES_f64) return v;
  if (dtype == ES_bool) return v != 0;
  if (es_is_float(dtype)) {
    if (!isfinite(v)) return v;
    double step = es_number_ulp(dtype, v), r = rint(v / step) * step;
    return fabs(r) > es_format_of(dtype).huge ? copysign(INFINITY, v) : r;
  }
  if (isnan(v)) return 0;
  if (dtype == ES_u8) return saturate(v, 0, 255);
  if (dtype == ES_i32) return saturate(v, -0x1p31, 0x1p31 - 1);
  return saturate(v, -0x1p63, 0x1p63); /* 2^63 - 1 reads as 2^63 in double */
}
