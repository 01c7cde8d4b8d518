/* The yardstick: a graph made ready to run many times as a user of PyTorch would write it. Part of shim.cpp, included once
 * inside its namespace, after the table of ops.
 * Invariant: a row of `native` computes what ops.def says for ordinary data; what the formulas of shim.cpp guard against
 * (empty tensors, indices out of range, last digits) is left to libtorch here, as in a user's program. */

/* --- libtorch's own composite calls ------------------------------------------------------------- */
Tensor native_layer_norm(const Call &c) {
  at::IntArrayRef all = c.x().sizes();
  return at::layer_norm(c.x(), all.slice(all.size() - (size_t)c.i(0)), c.optional(1), c.optional(2), c.f(0));
}
Tensor native_group_norm(const Call &c) { return at::group_norm(c.x(), c.i(0), c.optional(1), c.optional(2), c.f(0)); }
Tensor native_batch_norm(const Call &c) {
  return at::batch_norm(c.x(), c.optional(3), c.optional(4), c.in[1], c.in[2], false, 0.1, c.f(0), true);
}
Tensor native_rms_norm(const Call &c) {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
  return at::rms_norm(c.x(), { c.x().size(-1) }, c.optional(1), c.f(0));
#else
  Tensor y = c.x().mul(c.x().mul(c.x()).mean(-1, true).add(c.f(0)).rsqrt());
  return c.in.size() > 1 ? y.mul(c.in[1]) : y;
#endif
}
Tensor native_lerp(const Call &c) { return at::lerp(c.in[0], c.in[1], c.in[2]); }
Tensor native_scale(const Call &c) {
  if (c.f(0) == 1) return c.x().add(c.f(1));
  Tensor y = c.x().mul(c.f(0));
  return c.f(1) == 0 ? y : y.add(c.f(1));
}
Tensor native_cast(const Call &c) { return c.x().to(torch_type((int)c.i(0))); }
Tensor native_dropout(const Call &c) { return at::dropout(c.x(), c.f(0), true); }
Tensor native_noise(const Call &c) { return c.x().add(at::randn_like(c.x()), c.f(0)); }

/* What a module keeps as a buffer is made in the first run. */
Tensor native_sdpa(const Call &c) {
  const Tensor &q = c.in[0], &k = c.in[1], &v = c.in[2];
  double scale = c.f(0) != 0 ? c.f(0) : 1 / std::sqrt((double)q.size(-1));
#if TORCH_VERSION_MAJOR >= 2
  c10::optional<Tensor> mask;
  if (c.in.size() > 3) mask = c.in[3];
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, c.i(0) != 0, scale);
#else
  Tensor scores = at::matmul(q.mul(scale), k.transpose(-2, -1));
  if (c.in.size() > 3) {
    const Tensor &mask = c.in[3];
    scores = mask.scalar_type() == at::kBool ? scores.masked_fill(mask.logical_not(), -INF) : scores.add(mask);
  }
  if (c.i(0)) {
    if (!c.kept.defined()) c.kept = at::ones({ q.size(-2), k.size(-2) }, at::TensorOptions(at::kBool)).triu(1);
    scores.masked_fill_(c.kept, -INF);
  }
  return at::matmul(at::softmax(scores, -1), v);
#endif
}
Tensor native_rope(const Call &c) {
  int64_t half = c.x().size(-1) / 2;
  if (!c.kept.defined()) {
    at::TensorOptions f64(at::kDouble);
    Tensor rate = at::pow(c.f(0), at::arange(half, f64).mul(-1.0 / (double)half));
    Tensor angle = at::arange(c.x().size(-2), f64).unsqueeze(1).mul(rate);
    c.kept = at::stack({ angle.cos(), angle.sin() }).to(c.x().scalar_type());
  }
  Tensor cosine = c.kept[0], sine = c.kept[1];
  Tensor a = c.x().narrow(-1, 0, half), b = c.x().narrow(-1, half, half);
  return at::cat({ a.mul(cosine).sub(b.mul(sine)), a.mul(sine).add(b.mul(cosine)) }, -1);
}

Tensor whole(const Tensor &t) { return t.to(at::kLong); }
Tensor native_embedding(const Call &c) { return at::embedding(c.x(), c.in[1]); }
Tensor native_gather(const Call &c) { return at::gather(c.x(), c.i(0), whole(c.in[1])); }
Tensor native_scatter_add(const Call &c) { return at::scatter_add(c.x(), c.i(0), whole(c.in[1]), c.in[2]); }
/* One call gives values and indices; the other node of the pair takes them from its mate (see mates()). */
Tensor native_topk(const Call &c) {
  auto both = at::topk(c.x(), c.i(0), c.i(1));
  c.kept = c.node.op == ES_OP_topk ? std::get<1>(both) : std::get<0>(both);
  return c.node.op == ES_OP_topk ? std::get<0>(both) : std::get<1>(both);
}
Tensor native_cross_entropy(const Call &c) {
  return at::cross_entropy_loss(c.x().reshape({ -1, c.x().size(-1) }), whole(c.in[1]).reshape(-1), {}, at::Reduction::Mean,
                                c.i(0));
}

const struct { int op; Evaluate evaluate; } native[] = {
  { ES_OP_layer_norm, native_layer_norm },   { ES_OP_group_norm, native_group_norm },
  { ES_OP_batch_norm, native_batch_norm },   { ES_OP_rms_norm, native_rms_norm },
  { ES_OP_lerp, native_lerp },               { ES_OP_scale, native_scale },
  { ES_OP_cast, native_cast },               { ES_OP_dropout, native_dropout },
  { ES_OP_noise, native_noise },             { ES_OP_sdpa, native_sdpa },
  { ES_OP_rope, native_rope },               { ES_OP_embedding, native_embedding },
  { ES_OP_gather, native_gather },           { ES_OP_scatter_add, native_scatter_add },
  { ES_OP_topk, native_topk },               { ES_OP_topk_index, native_topk },
  { ES_OP_cross_entropy, native_cross_entropy },
};

Evaluate native_of(int op) {
  for (const auto &row : native)
    if (row.op == op) return row.evaluate;
  return ops[op].evaluate;
}

/* --- the program ---------------------------------------------------------------------------------- */
struct Step {
  Evaluate evaluate;
  Call call;
  int32_t id;
  at::ScalarType type;
  int32_t mate = -1;              /* step whose `kept` is this result */
  std::vector<int32_t> last;      /* nodes nobody reads after this step */
};

struct Program {
  const es_graph *graph;
  std::vector<int64_t> value;     /* of every dimension handle */
  std::vector<Tensor> values;     /* per node; leaves and constants stay */
  std::vector<Step> steps;
  std::vector<int32_t> copies;    /* leaves that are results */
};

struct UserSettings { /* oneDNN is on by default; the shim turns it off for `run` */
  UserSettings() { at::globalContext().setUserEnabledMkldnn(true); }
  ~UserSettings() { at::globalContext().setUserEnabledMkldnn(false); }
};

/* topk and topk_index of the same operand are one call. */
int32_t mate_of(const std::vector<Step> &steps, const es_node &n) {
  if (n.op != ES_OP_topk && n.op != ES_OP_topk_index) return -1;
  for (size_t s = 0; s < steps.size(); s++) {
    const es_node &m = steps[s].call.node;
    bool pair = (m.op == ES_OP_topk || m.op == ES_OP_topk_index) && m.op != n.op && steps[s].mate < 0;
    if (pair && m.in[0] == n.in[0] && m.i[0] == n.i[0] && m.i[1] == n.i[1]) return (int32_t)s;
  }
  return -1;
}

void add_step(Program &p, int32_t id, const Extents &shape, const std::vector<int32_t> &last) {
  const es_node &n = *host->graph_node(p.graph, id);
  Step step{ native_of(n.op), Call{ n, {}, shape, p.value.data(), 0, 0, {} }, id, torch_type(n.dtype) };
  step.mate = mate_of(p.steps, n);
  step.call.in.resize((size_t)n.nin);
  for (int32_t k = 0; k < n.nin; k++)
    if (last[(size_t)n.in[k]] == id && !p.values[(size_t)n.in[k]].defined()) step.last.push_back(n.in[k]);
  p.steps.push_back(std::move(step));
}

/* A kernel's results are memory of their own: what returns an input as it is gives a copy here too. */
void own_roots(Program &p) {
  for (int32_t r = 0; r < host->root_count(p.graph); r++) {
    int32_t id = host->root_get(p.graph, r)->node;
    const es_node &n = *host->graph_node(p.graph, id);
    if (n.op == ES_OP_input || n.op == ES_OP_param || n.op == ES_OP_buffer) p.copies.push_back(id);
  }
}

void prepare_program(Program &p, const int64_t *symbols, void *const *data, int32_t &current) {
  c10::InferenceMode no_gradients;
  const es_dims *dims = host->graph_dims(p.graph);
  p.value.resize((size_t)host->dims_count(dims) + 1);
  if (!host->dims_eval(dims, symbols, p.value.data()))
    throw Fault{ ESPER_ELIMIT, "a dimension overflows 2^62 for these symbol values" };
  int32_t count = host->graph_count(p.graph);
  std::vector<int32_t> last = last_use(p.graph, count);
  p.values.resize((size_t)count);
  for (int32_t id = 0; id < count; id++) {
    if (last[(size_t)id] < 0) continue;
    current = id;
    const es_node &n = *host->graph_node(p.graph, id);
    Extents shape = extents(n, p.value.data());
    for (int64_t e : shape)
      if (e == 0) throw Fault{ ESPER_ESHAPE, "an empty tensor: nothing to time" };
    if (n.op == ES_OP_input || n.op == ES_OP_param || n.op == ES_OP_buffer || n.op == ES_OP_const)
      p.values[(size_t)id] = evaluate(Call{ n, {}, shape, p.value.data(), 0, 0, {} }, data ? data[id] : nullptr);
    else add_step(p, id, shape, last);
  }
  own_roots(p);
}

void run_steps(Program &p, int32_t &current) {
  for (Step &step : p.steps) {
    current = step.id;
    Tensor result;
    if (step.mate >= 0) {
      result = p.steps[(size_t)step.mate].call.kept;
    } else {
      for (size_t k = 0; k < step.call.in.size(); k++) step.call.in[k] = p.values[(size_t)step.call.node.in[k]];
      result = step.evaluate(step.call);
      for (Tensor &t : step.call.in) t.reset();
    }
    p.values[(size_t)step.id] = result.scalar_type() == step.type ? result : result.to(step.type);
    for (int32_t id : step.last) p.values[(size_t)id].reset();
  }
  for (int32_t id : p.copies) p.values[(size_t)id].clone();
}

void copy_roots(const Program &p, void *const *out, int32_t &current) {
  for (int32_t r = 0; r < host->root_count(p.graph); r++) {
    current = host->root_get(p.graph, r)->node;
    if (!out[r]) throw Fault{ ESPER_EARG, "no memory given for root " + std::to_string(r) };
    Tensor t = p.values[(size_t)current].contiguous();
    std::memcpy(out[r], t.data_ptr(), t.nbytes());
  }
}

double clock_ns(bool cpu) {
  timespec now;
  clock_gettime(cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

int32_t prepare(const es_graph *graph, const int64_t *symbols, void *const *data, es_torch_program **out, char *message,
                size_t room) noexcept {
  *out = nullptr;
  int32_t current = -1;
  return guarded(graph, current, message, room, [&] {
    std::unique_ptr<Program> p(new Program{ graph, {}, {}, {}, {} });
    prepare_program(*p, symbols, data, current);
    *out = reinterpret_cast<es_torch_program *>(p.release());
  });
}

int32_t replay(es_torch_program *program, int32_t reps, int32_t threads, bool cpu, double *ns, void *const *out,
               char *message, size_t room) noexcept {
  Program &p = *reinterpret_cast<Program *>(program);
  int32_t current = -1;
  return guarded(p.graph, current, message, room, [&] {
    c10::InferenceMode no_gradients;
    Threads scope(threads);
    UserSettings as_user;
    for (int32_t i = 0; i < reps; i++) {
      double from = clock_ns(cpu);
      run_steps(p, current);
      ns[i] = clock_ns(cpu) - from;
    }
    if (out) copy_roots(p, out, current);
  });
}

void release(es_torch_program *program) noexcept { delete reinterpret_cast<Program *>(program); }
