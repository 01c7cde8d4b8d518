/* From the extents of the inputs to the values of the symbols. Stands between the caller's tensors
 * and frames. At birth of a kernel es_solve_plan lists, symbol by symbol, which axis of which
 * input tells it: first axes that are the symbol itself, then axes linear in one symbol when the
 * others are known. A run follows the list and checks every axis of every input against its
 * expression, so the list can be wrong about linearity without a wrong answer. */
#include <ctype.h>
#include <string.h>
#include "run/frame.h"

/* --- which symbols an expression has -------------------------------------------------------- */

typedef struct content {
  uint32_t symbols; /* bit per symbol index */
  bool divides;     /* holds a floor division */
} content;

static int32_t symbol_at(const es_dims *dims, const char *name, size_t length) {
  for (int32_t i = 0; i < es_symbol_count(dims); i++) {
    const char *other = es_symbol_name(dims, i);
    if (strncmp(other, name, length) == 0 && !other[length]) return i;
  }
  return -1;
}

/* Read off the canonical text; `text` is scratch. ENOMEM shows in text->failed. */
static content content_of(const es_dims *dims, es_dim d, es_text *text) {
  content found = { 0 };
  text->length = 0;
  es_dim_print(dims, d, text);
  if (text->failed) return found;
  found.divides = strstr(text->bytes, "//") != NULL;
  for (const char *c = text->bytes; *c;) {
    const char *start = c;
    while (isalnum((unsigned char)*c) || *c == '_') c++;
    int32_t symbol = c > start && !isdigit((unsigned char)*start)
                         ? symbol_at(dims, start, (size_t)(c - start))
                         : -1;
    if (symbol >= 0) found.symbols |= (uint32_t)1 << symbol;
    if (c == start) c++;
  }
  return found;
}

/* Symbols that sizes, shapes, tiles or arguments of the plan hold. */
static uint32_t used_symbols(const es_plan *plan, es_text *text) {
  const es_dims *dims = es_plan_dims(plan);
  uint32_t used = 0;
  for (int32_t i = 0; i < es_plan_value_count(plan); i++)
    for (int32_t axis = 0; axis < es_plan_value_get(plan, i)->rank; axis++)
      used |= content_of(dims, es_plan_value_get(plan, i)->shape[axis], text).symbols;
  for (int32_t i = 0; i < es_plan_size_count(plan); i++)
    used |= content_of(dims, es_plan_size_get(plan, i)->bytes, text).symbols;
  for (int32_t i = 0; i < es_plan_step_count(plan); i++) {
    const es_step *s = es_plan_step_get(plan, i);
    used |= content_of(dims, s->tiles, text).symbols;
    for (int32_t n = 0; n < s->dim_count; n++) used |= content_of(dims, s->dims[n], text).symbols;
  }
  return used;
}

/* --- the list ------------------------------------------------------------------------------- */

static void add_bind(es_kernel *k, uint32_t *known, es_bind bind) {
  uint32_t bit = (uint32_t)1 << bind.symbol;
  if (*known & bit) return;
  *known |= bit;
  k->binds[k->bind_count++] = bind;
}

static const es_value *input_get(const es_kernel *k, int32_t input) {
  return es_plan_value_get(k->plan, es_plan_role_get(k->plan, ES_ROLE_input, input));
}

/* One sweep over the axes that are not bare symbols; true when it made another symbol known. */
static bool sweep_linear(es_kernel *k, uint32_t *known, es_text *text) {
  const es_dims *dims = es_plan_dims(k->plan);
  uint32_t before = *known;
  for (int32_t input = 0; input < k->input_count; input++) {
    const es_value *v = input_get(k, input);
    for (int32_t axis = 0; axis < v->rank; axis++) {
      content c = content_of(dims, v->shape[axis], text);
      uint32_t unknown = c.symbols & ~*known;
      if (c.divides || unknown == 0 || (unknown & (unknown - 1))) continue;
      int32_t symbol = 0;
      while (!(unknown >> symbol & 1)) symbol++;
      add_bind(k, known, (es_bind){ input, axis, symbol, v->shape[axis], false });
    }
  }
  return *known != before;
}

esper_status es_solve_plan(es_kernel *k, es_error *err) {
  const es_dims *dims = es_plan_dims(k->plan);
  uint32_t known = 0,
           all = k->symbol_count == 32 ? UINT32_MAX : ((uint32_t)1 << k->symbol_count) - 1;
  for (int32_t input = 0; input < k->input_count; input++) {
    const es_value *v = input_get(k, input);
    int32_t symbol;
    for (int32_t axis = 0; axis < v->rank; axis++)
      if (es_dim_is_symbol(dims, v->shape[axis], &symbol))
        add_bind(k, &known, (es_bind){ input, axis, symbol, v->shape[axis], true });
  }
  if (known == all) return ESPER_OK;
  es_text text = { 0 };
  while (sweep_linear(k, &known, &text)) {}
  uint32_t missing = known == all ? 0 : used_symbols(k->plan, &text) & ~known;
  bool failed = text.failed;
  es_text_clear(&text);
  if (failed) return es_fail(err, ESPER_ENOMEM, "kernel: no memory to solve its symbols");
  if (!missing) return ESPER_OK;
  int32_t symbol = 0;
  while (!(missing >> symbol & 1)) symbol++;
  return es_fail(
      err, ESPER_ESHAPE,
      "symbol \"%s\": no input tells its value; give some input an axis that is just \"%s\"",
      es_symbol_name(dims, symbol), es_symbol_name(dims, symbol));
}

/* --- a run ---------------------------------------------------------------------------------- */

static esper_status check_ranks(const es_kernel *k, const int32_t *ranks, es_error *err) {
  for (int32_t input = 0; input < k->input_count; input++) {
    const es_value *v = input_get(k, input);
    if (ranks[input] != v->rank)
      return es_fail(err, ESPER_ESHAPE, "input \"%s\": expected %d axes [%s], got %d", v->name,
                     v->rank,
                     es_plan_shape_text(k->plan, es_plan_role_get(k->plan, ES_ROLE_input, input)),
                     ranks[input]);
  }
  return ESPER_OK;
}

/* Whether the frame's values are the extents; else where the first difference is. */
static bool matches(const es_frame *f, const int64_t *shapes, int32_t *at_input, int32_t *at_axis) {
  for (int32_t input = 0; input < f->kernel->input_count; input++) {
    const es_value *v = input_get(f->kernel, input);
    for (int32_t axis = 0; axis < v->rank; axis++)
      if (shapes[input * ES_RANK_MAX + axis] != f->values[v->shape[axis]]) {
        *at_input = input;
        *at_axis = axis;
        return false;
      }
  }
  return true;
}

static esper_status differs(const es_frame *f, int32_t input, int32_t axis, int64_t got,
                            es_error *err) {
  const es_dims *dims = es_plan_dims(f->kernel->plan);
  const es_value *v = input_get(f->kernel, input);
  int64_t expected;
  if (es_dim_is_const(dims, v->shape[axis], &expected))
    return es_fail(err, ESPER_ESHAPE, "input \"%s\" axis %d: expected %lld, got %lld", v->name,
                   axis, (long long)expected, (long long)got);
  es_text text = { 0 };
  es_dim_print(dims, v->shape[axis], &text);
  es_fail(err, ESPER_ESHAPE, "input \"%s\" axis %d: expected %s = %lld, got %lld", v->name, axis,
          text.failed ? "an expression" : text.bytes, (long long)f->values[v->shape[axis]],
          (long long)got);
  es_text_clear(&text);
  return ESPER_ESHAPE;
}

/* The extent of bind b does not fit any value of its symbol in its range. */
static esper_status no_value(const es_kernel *k, const es_bind *b, int64_t got, es_error *err) {
  const es_dims *dims = es_plan_dims(k->plan);
  const es_value *v = input_get(k, b->input);
  int64_t min, max;
  es_symbol_range(dims, b->symbol, &min, &max);
  if (b->bare)
    return es_fail(
        err, ESPER_ESHAPE, "input \"%s\" axis %d: expected %s from %lld to %lld, got %lld", v->name,
        b->axis, es_symbol_name(dims, b->symbol), (long long)min, (long long)max, (long long)got);
  es_text text = { 0 };
  es_dim_print(dims, b->dim, &text);
  es_fail(err, ESPER_ESHAPE,
          "input \"%s\" axis %d: expected %s with %s one of %lld to %lld, got %lld", v->name,
          b->axis, text.failed ? "an expression" : text.bytes, es_symbol_name(dims, b->symbol),
          (long long)min, (long long)max, (long long)got);
  es_text_clear(&text);
  return ESPER_ESHAPE;
}

/* symbols[b->symbol] such that b->dim is `extent`, taking b->dim to be linear in it; false when
 * there is none. */
static bool solve_linear(es_frame *f, const es_bind *b, int64_t extent, int64_t *symbols) {
  const es_dims *dims = es_plan_dims(f->kernel->plan);
  int64_t first = symbols[b->symbol], at_first, slope, rest;
  if (!es_dims_eval(dims, symbols, f->values)) return false;
  at_first = f->values[b->dim];
  symbols[b->symbol] = first + 1;
  if (!es_dims_eval(dims, symbols, f->values)) return false;
  slope = f->values[b->dim] - at_first; /* both within +-2^62 */
  if (slope == 0 || __builtin_sub_overflow(extent, at_first, &rest) || rest % slope != 0)
    return false;
  return !__builtin_add_overflow(first, rest / slope, &symbols[b->symbol]);
}

esper_status es_frame_solve(es_frame *f, const int32_t *ranks, const int64_t *shapes,
                            es_error *err) {
  const es_kernel *k = f->kernel;
  const es_dims *dims = es_plan_dims(k->plan);
  esper_status status = check_ranks(k, ranks, err);
  if (status != ESPER_OK) return status;
  int32_t input = 0, axis = 0;
  if (f->valid && !f->round_bytes && matches(f, shapes, &input, &axis))
    return ESPER_OK; /* the shape of the run before */
  f->valid = false;
  int64_t symbols[ES_SYMBOLS_MAX], min, max;
  for (int32_t i = 0; i < k->symbol_count; i++) es_symbol_range(dims, i, &symbols[i], &max);
  for (int32_t i = 0; i < k->bind_count; i++) {
    const es_bind *b = &k->binds[i];
    int64_t extent = shapes[b->input * ES_RANK_MAX + b->axis];
    if (b->bare) symbols[b->symbol] = extent;
    else if (!solve_linear(f, b, extent, symbols)) return no_value(k, b, extent, err);
    es_symbol_range(dims, b->symbol, &min, &max);
    if (symbols[b->symbol] < min || symbols[b->symbol] > max) return no_value(k, b, extent, err);
  }
  f->round_bytes = 0;
  status = es_frame_eval(f, symbols, err);
  if (status != ESPER_OK) return status;
  if (!matches(f, shapes, &input, &axis))
    return differs(f, input, axis, shapes[input * ES_RANK_MAX + axis], err);
  return es_frame_layout(f, err);
}

esper_status es_kernel_solve(es_kernel *kernel, const int32_t *ranks, const int64_t *shapes,
                             int64_t *symbols, es_error *err) {
  es_frame *frame = es_frame_take(kernel, err);
  if (!frame) return ESPER_ENOMEM;
  esper_status status = es_frame_solve(frame, ranks, shapes, err);
  if (status == ESPER_OK)
    memcpy(symbols, frame->symbols, (size_t)kernel->symbol_count * sizeof *symbols);
  es_frame_give(kernel, frame);
  return status;
}
