/* Rules of the convolutions: patches of the input are laid out as a matrix, block by block of output positions, and
 * go through es_contract. conv1d is conv2d of height 1. */
#include "base/memory.h"
#include "run/oracle_ops.h"

enum { BLOCK = 1 << 18 }; /* elements of a patch matrix, roughly */

typedef struct conv {
  int64_t channels, height, width;           /* input, per group: channels */
  int64_t out, rows, columns;                /* output, per group: out */
  int64_t kernel[2], stride[2], pad[2], dilation[2], groups;
  double doubt;                              /* bound of a padding 0 */
} conv;

static conv conv_of(const es_case *c) {
  const es_tensor64 *x = c->in[0], *w = c->in[1], *y = c->out;
  const int64_t *i = c->node->i;
  bool flat = c->node->op == ES_OP_conv1d;
  conv v = { .channels = w->shape[1], .height = flat ? 1 : x->shape[2], .width = x->shape[flat ? 2 : 3],
             .rows = flat ? 1 : y->shape[2], .columns = y->shape[flat ? 2 : 3], .groups = i[flat ? 3 : 6] };
  for (int a = 0; a < 2; a++) {
    bool unit = flat && a == 0; /* the axis conv1d lacks */
    int at = flat ? 0 : a, step = flat ? 1 : 2;
    v.kernel[a] = unit ? 1 : w->shape[flat ? 2 : 2 + a];
    v.stride[a] = unit ? 1 : i[at];
    v.pad[a] = unit ? 0 : i[at + step];
    v.dilation[a] = unit ? 1 : i[at + 2 * step];
  }
  v.out = y->shape[1] / v.groups;
  /* Times an infinite weight an implementation gives NaN for padding it multiplies, nothing for padding it skips. */
  v.doubt = es_all_finite(w) ? 0 : ES_DOUBT;
  return v;
}

/* Patch element k = (channel, kernel row, kernel column) of output positions from..from+n-1, as rows of length n.
 * plane: offset of the group's first channel in x. */
static void patches(const conv *v, const es_tensor64 *x, int64_t plane, int64_t from, int64_t n, double *value,
                    double *error) {
  for (int64_t ch = 0; ch < v->channels; ch++)
    for (int64_t kr = 0; kr < v->kernel[0]; kr++)
      for (int64_t kc = 0; kc < v->kernel[1]; kc++)
        for (int64_t p = 0; p < n; p++) {
          int64_t at = from + p, row = at / v->columns * v->stride[0] - v->pad[0] + kr * v->dilation[0];
          int64_t column = at % v->columns * v->stride[1] - v->pad[1] + kc * v->dilation[1];
          bool inside = row >= 0 && row < v->height && column >= 0 && column < v->width;
          int64_t source = plane + (ch * v->height + row) * v->width + column;
          *value++ = inside ? x->value[source] : 0;
          *error++ = inside ? x->error[source] : v->doubt;
        }
}

static esper_status convolve(const es_case *c) {
  const es_tensor64 *x = c->in[0], *w = c->in[1], *y = c->out;
  conv v = conv_of(c);
  int64_t k = v.channels * v.kernel[0] * v.kernel[1], positions = v.rows * v.columns;
  if (y->count == 0) return ESPER_OK;
  int64_t block = k > 0 && BLOCK / k < positions ? (BLOCK / k < 8 ? 8 : BLOCK / k) : positions;
  double *value = es_alloc_array((size_t)(k * block) + 1, 2 * sizeof *value), *error = value + k * block;
  const es_matrix weights = { w->value, es_errors(w), k, 1 };
  bool exact = v.doubt == 0 && es_all_exact(x);
  esper_status status = value ? ESPER_OK : es_no_memory(c);
  for (int64_t g = 0; g < y->shape[0] * v.groups && !status; g++) { /* sample and group */
    int64_t first = g % v.groups * v.out; /* output channel */
    for (int64_t from = 0; from < positions && !status; from += block) {
      int64_t n = positions - from < block ? positions - from : block, to = g * v.out * positions + from;
      patches(&v, x, g * v.channels * v.height * v.width, from, n, value, error);
      es_product p = {
        .m = v.out, .n = n, .k = k, .rounds = (double)k,
        .a = es_matrix_at(weights, first * k),
        .b = { value, exact ? NULL : error, n, 1 },
        .bias = c->node->nin > 2 ? c->in[2] : NULL, .bias_at = first, .bias_m = 1,
        .value = y->value + to, .error = y->error + to, .out_m = positions, .out_n = 1,
      };
      status = es_contract(c, &p);
    }
  }
  es_free(value);
  return status;
}

esper_status es_rule_conv1d(const es_case *c) { return convolve(c); }
esper_status es_rule_conv2d(const es_case *c) { return convolve(c); }
