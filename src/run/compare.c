/* Judges a result against the oracle: every element within its own bound, NaN for NaN, the same infinity for an
 * infinity. Certificates are made of these comparisons. */
#include "run/oracle.h"
#include "run/oracle_ops.h"

typedef struct verdict { bool judged, bad; double off, allowed; } verdict; /* off: |got - want|, inf for a wrong class */

static verdict judge(es_pair want, double got, double factor, double huge, double step) {
  verdict v = { .judged = want.e < INFINITY, .allowed = factor * want.e + step };
  if (!v.judged) return v;
  if (isfinite(want.v) && isfinite(got)) {
    v.off = fabs(got - want.v);
    v.bad = !(v.off <= v.allowed);
    return v;
  }
  bool same = isnan(want.v) ? isnan(got) : got == want.v;
  /* A finite value whose bound leaves the range of the dtype may have overflowed. */
  bool over = isfinite(want.v) && isinf(got) && (got > 0 ? want.v : -want.v) + v.allowed > huge;
  v.bad = !same && !over;
  v.off = v.bad ? (double)INFINITY : 0;
  return v;
}

void es_compare(const es_tensor64 *want, const void *got, int32_t dtype, double factor, es_comparison *out) {
  es_format f = es_format_of(dtype);
  double worst = -1, size = 0;
  int64_t row = es_row_length(want);
  *out = (es_comparison){ .count = want->count, .first_bad = -1, .statistical = want->statistical };
  for (int64_t i = 0; i < want->count; i++) {
    if (i % row == 0) size = es_row_size(want->value + i, row);
    es_pair w = es_at(want, i);
    double g = es_number_load(dtype, got, i);
    verdict v = judge(w, g, factor, f.huge, f.tiny);
    if (!v.judged) continue;
    double share = v.off == 0 ? 0 : v.off / v.allowed;
    out->judged++;
    if (v.off < INFINITY && isfinite(w.v)) {
      out->max_abs = fmax(out->max_abs, v.off);
      out->max_ulp = fmax(out->max_ulp, v.off / es_number_ulp(dtype, fmax(fabs(w.v), size)));
      if (fabs(w.v) > w.e) out->max_rel = fmax(out->max_rel, v.off / fabs(w.v));
    }
    out->max_share = fmax(out->max_share, share);
    bool first = v.bad && out->bad == 0;
    if (first) out->first_bad = i;
    if (first || (out->bad == 0 && share > worst)) {
      worst = share;
      out->got = g;
      out->want = w.v;
      out->allowed = v.allowed;
    }
    out->bad += v.bad;
  }
}
