/* Evaluates an es_graph through libtorch: libesper_torch.so. A second, independent opinion beside the oracle, and the
 * eager yardstick the kernels are timed against (program.hpp, a part of this file). The only C++ file; it links against
 * libtorch alone and gets what it needs from the library through es_torch_host.
 * Invariant: one function op_NAME per row of ops.def, with exactly the meaning written there (libtorch's own meaning
 * is corrected where it differs: empty tensors, index checks, saturating casts, ties of topk). No exception, global
 * torch setting or reference to the caller's memory outlives a call. */
#include <functional>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/api/include/torch/version.h>
extern "C" {
#include "torch/torch.h"
}

namespace {

using at::Tensor;
using Extents = std::vector<int64_t>;
const es_torch_host *host;
constexpr double INF = std::numeric_limits<double>::infinity();
constexpr double NOT_A_NUMBER = std::numeric_limits<double>::quiet_NaN();

struct Fault { /* thrown inside, turned into status and text at the boundary */
  esper_status status;
  std::string text;
};

struct Call { /* one node with its operands */
  const es_node &node;
  std::vector<Tensor> in;
  Extents shape;        /* of the result */
  const int64_t *value; /* of every dimension handle */
  uint64_t seed, step;
  mutable Tensor kept; /* what one call leaves for the next; used by program.hpp alone */

  const Tensor &x() const { return in[0]; }
  Tensor optional(size_t k) const { return k < in.size() ? in[k] : Tensor(); }
  int64_t i(int k) const { return node.i[k]; }
  double f(int k) const { return node.f[k]; }
};

at::ScalarType torch_type(int dtype) {
  switch (dtype) {
    case ES_f32: return at::kFloat;
    case ES_f64: return at::kDouble;
    case ES_bf16: return at::kBFloat16;
    case ES_f16: return at::kHalf;
    case ES_i32: return at::kInt;
    case ES_i64: return at::kLong;
    case ES_u8: return at::kByte;
    case ES_bool: return at::kBool;
  }
  throw Fault{ ESPER_EDTYPE, "dtype number " + std::to_string(dtype) + " is not one of dtypes.def" };
}

Tensor filled(const Extents &shape, double value, at::ScalarType type) {
  return at::full(shape, value, at::TensorOptions(type));
}

/* Saturating range of the integer types a cast may go to. */
void integer_range(at::ScalarType to, int64_t &lo, int64_t &hi) {
  lo = to == at::kLong ? INT64_MIN : to == at::kInt ? INT32_MIN : 0;
  hi = to == at::kLong ? INT64_MAX : to == at::kInt ? INT32_MAX : UINT8_MAX;
}

Tensor cast(const Tensor &x, at::ScalarType to) {
  if (x.scalar_type() == to) return x;
  if (to == at::kBool) return x.ne(0);
  if (!at::isIntegralType(to, false)) return x.to(to);
  int64_t lo, hi;
  integer_range(to, lo, hi);
  if (!x.is_floating_point()) return x.to(at::kLong).clamp(lo, hi).to(to);
  /* -2^63 - 1 and 2^63 - 1 round to the powers of two, so both comparisons are right for i64 as well. */
  Tensor d = x.to(at::kDouble), above = d.ge((double)hi + 1), below = d.le((double)lo - 1);
  Tensor inside = d.masked_fill(above.logical_or(below).logical_or(d.ne(d)), 0).to(to);
  return inside.masked_fill(above, hi).masked_fill(below, lo);
}

/* Integers are computed with in double; run() casts the result back. */
Tensor floating(const Tensor &x) { return x.is_floating_point() ? x : x.to(at::kDouble); }

/* Operand k as indices, every one inside 0..extent-1. */
Tensor indices(const Call &c, size_t k, int64_t extent) {
  Tensor t = c.in[k].to(at::kLong);
  if (t.numel() == 0) return t;
  int64_t lo = t.min().item<int64_t>(), hi = t.max().item<int64_t>();
  if (lo < 0 || hi >= extent)
    throw Fault{ ESPER_EINDEX, "index " + std::to_string(lo < 0 ? lo : hi) + " where 0 to " +
                 std::to_string(extent - 1) + " is wanted" };
  return t;
}

/* A vector along `axis` of a tensor of that rank, ready to broadcast. */
Tensor along(const Tensor &vector, int64_t axis, size_t rank) {
  Extents shape(rank, 1);
  shape[(size_t)axis] = vector.numel();
  return vector.reshape(shape);
}

/* --- leaves: given by the caller; run() makes them -------------------------------------------- */
[[noreturn]] Tensor leaf(const Call &) { throw Fault{ ESPER_EINTERNAL, "a leaf was evaluated" }; }
constexpr auto op_input = leaf, op_param = leaf, op_buffer = leaf;
Tensor op_const(const Call &c) { return filled({}, c.f(0), at::kDouble); }

/* --- pointwise --------------------------------------------------------------------------------- */
#define POINTWISE(name, value) Tensor name(const Call &c) { return value; }
POINTWISE(op_neg, c.x().neg())
POINTWISE(op_abs, c.x().abs())
POINTWISE(op_sqrt, floating(c.x()).sqrt())
POINTWISE(op_rsqrt, floating(c.x()).rsqrt())
POINTWISE(op_exp, floating(c.x()).exp())
POINTWISE(op_log, floating(c.x()).log())
POINTWISE(op_round, c.x().is_floating_point() ? c.x().round() : c.x())
POINTWISE(op_relu, at::relu(c.x()))
POINTWISE(op_gelu, at::gelu(floating(c.x()), c.i(0) ? "tanh" : "none"))
POINTWISE(op_silu, at::silu(floating(c.x())))
POINTWISE(op_tanh, floating(c.x()).tanh())
POINTWISE(op_sigmoid, floating(c.x()).sigmoid())
POINTWISE(op_scale, floating(c.x()).mul(c.f(0)).add(c.f(1)))
POINTWISE(op_clamp, floating(c.x()).clamp(c.f(0), c.f(1)))
POINTWISE(op_cast, cast(c.x(), torch_type((int)c.i(0))))
POINTWISE(op_stop_grad, c.x())
POINTWISE(op_checkpoint, c.x())
POINTWISE(op_telemetry_probe, c.x())
POINTWISE(op_add, at::add(c.in[0], c.in[1]))
POINTWISE(op_sub, at::sub(c.in[0], c.in[1]))
POINTWISE(op_mul, at::mul(c.in[0], c.in[1]))
POINTWISE(op_div, at::div(floating(c.in[0]), floating(c.in[1])))
POINTWISE(op_maximum, at::maximum(c.in[0], c.in[1]))
POINTWISE(op_minimum, at::minimum(c.in[0], c.in[1]))
POINTWISE(op_bias_add, at::add(c.x(), along(c.in[1], c.i(0), c.shape.size())))
#undef POINTWISE

/* torch.lerp is a + w (b - a): not exact at the ends when b - a overflows. */
Tensor op_lerp(const Call &c) {
  Tensor a = floating(c.in[0]), b = floating(c.in[1]), w = floating(c.in[2]);
  return at::where(w.eq(0), a, at::where(w.eq(1), b, at::lerp(a, b, w)));
}

/* (x - mean) / sqrt(var + eps), then the optional scale and shift, shaped to broadcast. Composed, because libtorch's own
 * norms compute x * s + (shift - mean * s), which loses the digits that x and mean share: 1e-6 of error where the
 * documented formula is exact. */
Tensor normalised(const Tensor &x, const Tensor &mean, const Tensor &var, double eps) {
  return x.sub(mean).div(var.add(eps).sqrt());
}
Tensor affine(const Call &c, Tensor y, size_t first, const std::function<Tensor(const Tensor &)> &shaped) {
  if (c.in.size() > first) y = y.mul(shaped(c.in[first]));
  return c.in.size() > first + 1 ? y.add(shaped(c.in[first + 1])) : y;
}
Tensor op_batch_norm(const Call &c) {
  auto shaped = [&](const Tensor &v) { return along(v, 1, c.shape.size()); };
  return affine(c, normalised(c.x(), shaped(c.in[1]), shaped(c.in[2]), c.f(0)), 3, shaped);
}

/* --- random: the library's counter-based numbers, index = position in the output ---------------- */
Tensor draws(const Call &c, int64_t stream, double (*draw)(const uint32_t[2], uint64_t)) {
  uint32_t key[2];
  host->random_key(c.seed, (uint32_t)stream, c.step, key);
  Tensor t = at::empty(c.shape, at::TensorOptions(at::kDouble));
  double *out = t.data_ptr<double>();
  for (int64_t k = 0, n = t.numel(); k < n; k++) out[k] = draw(key, (uint64_t)k);
  return t;
}
Tensor op_dropout(const Call &c) {
  return c.x().div(1 - c.f(0)).masked_fill(draws(c, c.i(0), host->random_uniform).lt(c.f(0)), 0);
}
Tensor op_noise(const Call &c) {
  return c.x().add(draws(c, c.i(0), host->random_normal).mul(c.f(0)).to(c.x().scalar_type()));
}

/* --- reductions -------------------------------------------------------------------------------- */
struct Reduction {
  Tensor x;
  Extents axes;
  int64_t length; /* elements that become one */
};
Reduction reduction(const Call &c) {
  Reduction r{ c.x(), {}, 1 };
  for (int64_t a = 0; a < r.x.dim(); a++)
    if (c.i(0) >> a & 1) {
      r.axes.push_back(a);
      r.length *= r.x.size(a);
    }
  if (r.axes.empty()) { /* libtorch takes "no axes" for "all axes" */
    r.x = r.x.unsqueeze(0);
    r.axes.push_back(0);
  }
  return r;
}
Tensor op_reduce_sum(const Call &c) {
  Reduction r = reduction(c);
  return at::sum(r.x, r.axes).reshape(c.shape);
}
Tensor op_reduce_mean(const Call &c) {
  Reduction r = reduction(c);
  return at::mean(floating(r.x), r.axes).reshape(c.shape);
}
Tensor op_reduce_max(const Call &c) {
  Reduction r = reduction(c);
  if (r.length == 0) return filled(c.shape, -INF, at::kDouble);
  return at::amax(r.x, r.axes).reshape(c.shape);
}
Tensor op_reduce_var(const Call &c) {
  Reduction r = reduction(c);
  int64_t correction = c.i(2);
  if (r.length <= correction || r.length == 0) return filled(c.shape, NOT_A_NUMBER, at::kDouble);
  bool unbiased = correction == 1;
  Tensor v = at::var(floating(r.x), at::IntArrayRef(r.axes), unbiased).reshape(c.shape);
  return unbiased || correction == 0 ? v : v.mul((double)r.length / (double)(r.length - correction));
}

/* --- row-wise normalisations ------------------------------------------------------------------- */
Tensor op_softmax(const Call &c) { return at::softmax(floating(c.x()), c.i(0)); }
Tensor op_log_softmax(const Call &c) { return at::log_softmax(floating(c.x()), c.i(0)); }
/* x normalised over the axes. */
Tensor standard(const Tensor &x, const Extents &axes, double eps) {
  if (x.numel() == 0) return x;
  return normalised(x, x.mean(axes, true), at::var(x, at::IntArrayRef(axes), false, true), eps);
}
Tensor op_layer_norm(const Call &c) {
  Extents axes;
  for (int64_t a = 0; a < c.i(0); a++) axes.push_back(a - c.i(0));
  return affine(c, standard(c.x(), axes, c.f(0)), 1, [](const Tensor &v) { return v; });
}
Tensor op_rms_norm(const Call &c) {
  Tensor mean = c.x().mul(c.x()).mean(-1, true);
  Tensor y = c.x().div(mean.add(c.f(0)).sqrt());
  return c.in.size() > 1 ? y.mul(c.in[1]) : y;
}
Tensor op_group_norm(const Call &c) {
  Tensor x = c.x();
  if (x.numel() == 0) return x;
  Tensor y = standard(x.reshape({ x.size(0), c.i(0), -1 }), { 2 }, c.f(0)).reshape(c.shape);
  return affine(c, y, 1, [&](const Tensor &v) { return along(v, 1, c.shape.size()); });
}

/* --- contractions and convolutions ------------------------------------------------------------- */
Tensor op_linear(const Call &c) { return at::linear(c.x(), c.in[1], c.optional(2)); }
Tensor op_matmul(const Call &c) {
  Tensor a = c.i(0) ? c.in[0].transpose(-2, -1) : c.in[0];
  return at::matmul(a, c.i(1) ? c.in[1].transpose(-2, -1) : c.in[1]);
}

/* Convolution over `axes` spatial axes; the attributes lie one after another in i[]. */
Tensor conv(const Call &c, size_t axes) {
  if (c.x().numel() == 0 || c.in[1].numel() == 0) { /* sums of nothing, which libtorch refuses */
    Tensor y = filled(c.shape, 0, c.x().scalar_type());
    return c.in.size() > 2 ? y.add(along(c.in[2], 1, c.shape.size())) : y;
  }
  const int64_t *a = c.node.i;
  Extents stride(a, a + axes), pad(a + axes, a + 2 * axes), dilation(a + 2 * axes, a + 3 * axes), zero(axes, 0);
  return at::convolution(c.x(), c.in[1], c.optional(2), stride, pad, dilation, false, zero, a[3 * axes]);
}
Tensor op_conv1d(const Call &c) { return conv(c, 1); }
Tensor op_conv2d(const Call &c) { return conv(c, 2); }

/* --- pooling over [N, C, H, W] ------------------------------------------------------------------ */
struct Window { Extents kernel, stride, pad; };
Window window(const Call &c) {
  const int64_t *a = c.node.i;
  return { { a[0], a[1] }, { a[2] ? a[2] : a[0], a[3] ? a[3] : a[1] }, { a[4], a[5] } };
}
Tensor op_max_pool2d(const Call &c) {
  if (c.x().numel() == 0) return filled(c.shape, -INF, at::kDouble); /* windows of padding alone */
  Window w = window(c);
  return at::max_pool2d(c.x(), w.kernel, w.stride, w.pad);
}
Tensor op_avg_pool2d(const Call &c) {
  if (c.x().numel() == 0) return filled(c.shape, 0, at::kDouble);
  Window w = window(c);
  return at::avg_pool2d(c.x(), w.kernel, w.stride, w.pad, false, true);
}
Tensor op_adaptive_avg_pool2d(const Call &c) {
  if (c.x().numel() == 0) return filled(c.shape, NOT_A_NUMBER, at::kDouble); /* means of nothing */
  return at::adaptive_avg_pool2d(c.x(), { c.i(0), c.i(1) });
}

/* --- data movement ------------------------------------------------------------------------------ */
Tensor op_reshape(const Call &c) { return c.x().reshape(c.shape); }
Tensor op_permute(const Call &c) { return c.x().permute(at::IntArrayRef(c.node.i, c.shape.size())); }
Tensor op_slice(const Call &c) {
  int64_t start = c.value[c.node.d[0]], stop = c.value[c.node.d[1]], extent = c.x().size(c.i(0));
  if (start < 0 || stop < start || stop > extent) /* libtorch would clip it */
    throw Fault{ ESPER_ESHAPE, "slice " + std::to_string(start) + ":" + std::to_string(stop) + " of an axis of " +
                 std::to_string(extent) };
  return c.x().slice(c.i(0), start, stop, c.i(1));
}
Tensor op_concat(const Call &c) { return at::cat(c.in, c.i(0)); }
Tensor op_expand(const Call &c) { return c.x().expand(c.shape); }

/* --- attention ---------------------------------------------------------------------------------- */
/* Composed: libtorch 1.13 has no fused public form, and a row with nothing visible must give 0. */
Tensor op_sdpa(const Call &c) {
  const Tensor &q = c.in[0], &k = c.in[1], &v = c.in[2];
  if (k.size(-2) == 0) return filled(c.shape, 0, q.scalar_type());
  double scale = c.f(0) != 0 ? c.f(0) : 1 / std::sqrt((double)q.size(-1));
  Tensor scores = at::matmul(q, k.transpose(-2, -1)).mul(scale);
  if (c.in.size() > 3) {
    const Tensor &mask = c.in[3];
    scores = mask.scalar_type() == at::kBool ? scores.masked_fill(mask.logical_not(), -INF) : scores.add(mask);
  }
  if (c.i(0))
    scores = scores.masked_fill(
        at::ones({ q.size(-2), k.size(-2) }, at::TensorOptions(at::kBool)).triu(1), -INF);
  Tensor hidden = scores.amax(-1, true).eq(-INF);
  return at::matmul(at::softmax(scores, -1).masked_fill(hidden, 0), v);
}

Tensor op_rope(const Call &c) {
  int64_t tokens = c.x().size(-2), d = c.x().size(-1), half = d / 2;
  at::TensorOptions f64(at::kDouble);
  Tensor rate = at::pow(c.f(0), at::arange(half, f64).mul(-2.0 / (double)d));
  Tensor angle = at::arange(tokens, f64).unsqueeze(1).mul(rate);
  Tensor cosine = angle.cos().to(c.x().scalar_type()), sine = angle.sin().to(c.x().scalar_type());
  Tensor a = c.x().narrow(-1, 0, half), b = c.x().narrow(-1, half, half);
  return at::cat({ a.mul(cosine).sub(b.mul(sine)), a.mul(sine).add(b.mul(cosine)) }, -1);
}

/* --- indices ------------------------------------------------------------------------------------ */
Tensor op_embedding(const Call &c) { return at::embedding(c.x(), indices(c, 1, c.x().size(0))); }
Tensor op_gather(const Call &c) { return at::gather(c.x(), c.i(0), indices(c, 1, c.x().size(c.i(0)))); }
Tensor op_scatter_add(const Call &c) {
  return at::scatter_add(c.x(), c.i(0), indices(c, 1, c.x().size(c.i(0))), c.in[2]);
}
/* torch.topk promises no order among equal values; a stable descending sort does. NaN sorts as the largest. */
std::tuple<Tensor, Tensor> top(const Call &c) {
  int64_t k = c.i(0), axis = c.i(1);
  if (k > c.x().size(axis))
    throw Fault{ ESPER_ESHAPE, "the " + std::to_string(k) + " largest of " + std::to_string(c.x().size(axis)) };
  auto sorted = at::sort(c.x(), /*stable=*/true, axis, /*descending=*/true);
  return { std::get<0>(sorted).narrow(axis, 0, k), std::get<1>(sorted).narrow(axis, 0, k) };
}
Tensor op_topk(const Call &c) { return std::get<0>(top(c)); }
Tensor op_topk_index(const Call &c) { return std::get<1>(top(c)); }
Tensor op_cross_entropy(const Call &c) {
  int64_t classes = c.x().size(-1);
  Call flat = c;
  Tensor target = c.in[1].to(at::kLong).reshape({ c.in[1].numel() }), kept = target.ne(c.i(0));
  flat.in[1] = target.masked_select(kept);
  int64_t count = flat.in[1].numel();
  if (count == 0) return filled({}, NOT_A_NUMBER, at::kDouble);
  Tensor chosen = indices(flat, 1, classes).unsqueeze(1);
  Tensor rows = c.x().reshape({ target.numel(), classes }).index_select(0, kept.nonzero().squeeze(1));
  return at::log_softmax(rows, 1).gather(1, chosen).mean().neg();
}

/* --- the table ----------------------------------------------------------------------------------- */
typedef Tensor (*Evaluate)(const Call &);
const struct { const char *name; Evaluate evaluate; } ops[] = {
#define OP(name, class_, lo, hi, shape, attrs, doc) { #name, op_##name },
#include "graph/ops.def"
#undef OP
};

/* Which nodes some root needs, as the index of the last node that reads each (count = kept to the end, -1 = none). */
std::vector<int32_t> last_use(const es_graph *graph, int32_t count) {
  std::vector<int32_t> last((size_t)count, -1);
  for (int32_t r = 0; r < host->root_count(graph); r++) last[(size_t)host->root_get(graph, r)->node] = count;
  for (int32_t id = count - 1; id >= 0; id--) {
    if (last[(size_t)id] < 0) continue;
    const es_node *n = host->graph_node(graph, id);
    for (int32_t k = 0; k < n->nin; k++) {
      int32_t &user = last[(size_t)n->in[k]];
      if (user < id) user = id;
    }
  }
  return last;
}

/* Extents of a node for this run's symbols; refuses negative ones and tensors beyond 2^46 elements. */
Extents extents(const es_node &n, const int64_t *value) {
  Extents shape;
  int64_t total = 1;
  for (int a = 0; a < n.rank; a++) {
    int64_t e = value[n.shape[a]];
    if (e < 0) throw Fault{ ESPER_ESHAPE, "axis " + std::to_string(a) + " would have " + std::to_string(e) + " elements" };
    if (__builtin_mul_overflow(total, e, &total) || total > (int64_t)1 << 46)
      throw Fault{ ESPER_ELIMIT, "tensor of more than 2^46 elements" };
    shape.push_back(e);
  }
  return shape;
}

Tensor given(const es_node &n, const Extents &shape, void *data) {
  if (!data) throw Fault{ ESPER_EARG, std::string("no data for '") + (n.name ? n.name : "?") + "'" };
  at::ScalarType type = torch_type(n.dtype);
  /* A bool byte may hold any non-zero value; libtorch reads only 0 and 1 right. */
  if (type == at::kBool) return at::from_blob(data, shape, at::TensorOptions(at::kByte)).ne(0);
  return at::from_blob(data, shape, at::TensorOptions(type));
}

Tensor evaluate(const Call &c, void *data) {
  at::ScalarType type = torch_type(c.node.dtype);
  int64_t total = 1;
  for (int64_t e : c.shape) total *= e;
  if (total == 0) return at::empty(c.shape, at::TensorOptions(type)); /* libtorch refuses some of these */
  if (c.node.op == ES_OP_input || c.node.op == ES_OP_param || c.node.op == ES_OP_buffer)
    return given(c.node, c.shape, data);
  Tensor t = cast(ops[c.node.op].evaluate(c), type);
  if (t.sizes() != at::IntArrayRef(c.shape)) {
    std::string got, want;
    for (int64_t e : t.sizes()) got += " " + std::to_string(e);
    for (int64_t e : c.shape) want += " " + std::to_string(e);
    throw Fault{ ESPER_EINTERNAL, "libtorch gave shape [" + got + " ], the graph says [" + want + " ]" };
  }
  return t;
}

struct Threads { /* intra-op threads for a scope */
  int former = at::get_num_threads();
  explicit Threads(int32_t count) { if (count > 0) at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(former); }
};

/* `current` follows the node at work, for the message. */
void run_graph(const es_graph *graph, const int64_t *symbols, void *const *data, void *const *out, uint64_t seed,
               uint64_t step, int32_t &current) {
  c10::InferenceMode no_gradients;
  const es_dims *dims = host->graph_dims(graph);
  std::vector<int64_t> value((size_t)host->dims_count(dims) + 1);
  if (!host->dims_eval(dims, symbols, value.data()))
    throw Fault{ ESPER_ELIMIT, "a dimension overflows 2^62 for these symbol values" };
  int32_t count = host->graph_count(graph);
  std::vector<int32_t> last = last_use(graph, count);
  std::vector<Tensor> values((size_t)count);
  for (int32_t id = 0; id < count; id++) {
    if (last[(size_t)id] < 0) continue;
    current = id;
    const es_node &n = *host->graph_node(graph, id);
    Call c{ n, {}, extents(n, value.data()), value.data(), seed, step, {} };
    for (int32_t k = 0; k < n.nin; k++) c.in.push_back(values[(size_t)n.in[k]]);
    values[(size_t)id] = evaluate(c, data ? data[id] : nullptr);
    for (int32_t k = 0; k < n.nin; k++)
      if (last[(size_t)n.in[k]] == id) values[(size_t)n.in[k]].reset();
  }
  for (int32_t r = 0; r < host->root_count(graph); r++) {
    current = host->root_get(graph, r)->node;
    Tensor t = values[(size_t)current].contiguous();
    if (t.numel() == 0) continue;
    if (!out || !out[r]) throw Fault{ ESPER_EARG, "no memory given for root " + std::to_string(r) };
    std::memcpy(out[r], t.data_ptr(), t.nbytes());
  }
}

/* "node 3 (linear): TEXT", the first line of it. */
int32_t tell(esper_status status, const es_graph *graph, int32_t node, const char *text, char *message, size_t room) {
  if (!message || room == 0) return status;
  int length = (int)std::strcspn(text, "\n");
  if (node < 0) std::snprintf(message, room, "libtorch: %.*s", length, text);
  else std::snprintf(message, room, "libtorch, node %d (%s): %.*s", (int)node,
                     ops[host->graph_node(graph, node)->op].name, length, text);
  return status;
}

/* Calls work() and turns whatever it throws into status and text. */
template <typename Work>
int32_t guarded(const es_graph *graph, const int32_t &current, char *message, size_t room, const Work &work) noexcept {
  try {
    work();
    return ESPER_OK;
  } catch (const Fault &fault) {
    return tell(fault.status, graph, current, fault.text.c_str(), message, room);
  } catch (const std::bad_alloc &) {
    return tell(ESPER_ENOMEM, graph, current, "out of memory", message, room);
  } catch (const c10::Error &error) {
    const char *text = error.what_without_backtrace();
    bool memory = std::strstr(text, "can't allocate memory") != nullptr; /* c10 has no type for it */
    return tell(memory ? ESPER_ENOMEM : ESPER_ETORCH, graph, current, text, message, room);
  } catch (const std::exception &error) {
    return tell(ESPER_ETORCH, graph, current, error.what(), message, room);
  } catch (...) {
    return tell(ESPER_ETORCH, graph, current, "unknown exception", message, room);
  }
}

int32_t run(const es_graph *graph, const int64_t *symbols, void *const *data, void *const *out, uint64_t seed,
            uint64_t step, int32_t threads, char *message, size_t room) noexcept {
  int32_t current = -1;
  return guarded(graph, current, message, room, [&] {
    Threads scope(threads);
    run_graph(graph, symbols, data, out, seed, step, current);
  });
}

#include "torch/program.hpp"

const char *version() { return TORCH_VERSION; }

int32_t set_threads(int32_t count) noexcept {
  try {
    int former = at::get_num_threads();
    if (count > 0) at::set_num_threads(count);
    return former;
  } catch (...) {
    return 0;
  }
}

const es_torch table = { ES_TORCH_ABI, version, run, set_threads, prepare, replay, release };

} // namespace

extern "C" __attribute__((visibility("default"))) const es_torch *es_torch_table(const es_torch_host *from) {
  if (!from || from->abi != ES_TORCH_ABI) return nullptr;
  host = from;
  at::globalContext().setUserEnabledMkldnn(false); /* oneDNN's JIT maps pages that are writable and executable */
  return &table;
}
