/* A plan as text, for people: what `esper dump NAME --stage plan` shows. */
#include "run/plan.h"

static void print_value(const es_plan *plan, int32_t index, es_text *out) {
  const es_value *v = es_plan_value_get(plan, index);
  es_text_add(out, "  #%d %s %s%s%s[", index, es_role_name(v->role), v->name, *v->name ? " " : "",
              es_dtype_name(v->dtype));
  for (int32_t axis = 0; axis < v->rank; axis++) {
    if (axis) es_text_add(out, ", ");
    es_dim_print(es_plan_dims(plan), v->shape[axis], out);
  }
  es_text_add(out, "]");
  bool kept = es_plan_slot_kept(plan, v->slot), gathers = es_plan_slot_gathers(plan, v->slot);
  if (v->slot >= 0) es_text_add(out, " %sslot %d", kept ? "kept " : gathers ? "gathering " : "", v->slot);
  if (v->buffer >= 0) es_text_add(out, " -> #%d", v->buffer);
  if (v->role == ES_ROLE_param || v->role == ES_ROLE_buffer) {
    es_text_add(out, " %s(", es_init_name(v->init));
    es_text_number(out, v->f0);
    es_text_add(out, ", ");
    es_text_number(out, v->f1);
    es_text_add(out, ")");
  }
  es_text_add(out, "\n");
}

static void print_step(const es_plan *plan, int32_t index, es_text *out) {
  const es_step *s = es_plan_step_get(plan, index);
  static const char *const when[ES_WHEN_COUNT] = { "", "prepare ", "pack ", "frozen ", "fluid ", "last " };
  es_text_add(out, "  %d %s%s tiles ", index, s->when >= 0 && s->when < ES_WHEN_COUNT ? when[s->when] : "? ", s->fn);
  es_dim_print(es_plan_dims(plan), s->tiles, out);
  es_text_add(out, " p(");
  for (int32_t i = 0; i < s->operand_count; i++)
    es_text_add(out, "%s#%d", i ? " " : "", s->operands[i]);
  es_text_add(out, ") d(");
  for (int32_t i = 0; i < s->dim_count; i++) {
    if (i) es_text_add(out, ", ");
    es_dim_print(es_plan_dims(plan), s->dims[i], out);
  }
  es_text_add(out, ")");
  for (int32_t i = 0; i < s->stream_count; i++)
    es_text_add(out, "%s%u", i ? " " : " streams ", s->streams[i]);
  if (*s->label) es_text_add(out, "  ; %s", s->label);
  es_text_add(out, "\n");
}

void es_plan_print(const es_plan *plan, es_text *out) {
  const es_dims *dims = es_plan_dims(plan);
  es_text_add(out, "symbols\n");
  for (int32_t i = 0; i < es_symbol_count(dims); i++) {
    int64_t min, max;
    es_symbol_range(dims, i, &min, &max);
    es_text_add(out, "  %s %lld..%lld\n", es_symbol_name(dims, i), (long long)min, (long long)max);
  }
  es_text_add(out, "values\n");
  for (int32_t i = 0; i < es_plan_value_count(plan); i++) print_value(plan, i, out);
  es_text_add(out, "slots %d\n", es_plan_slot_count(plan));
  for (int32_t i = 0; i < es_plan_size_count(plan); i++) {
    const es_slot_size *size = es_plan_size_get(plan, i);
    es_text_add(out, "  slot %d >= ", size->slot);
    es_dim_print(dims, size->bytes, out);
    es_text_add(out, " bytes\n");
  }
  const es_rounds *rounds = es_plan_rounds(plan);
  for (int32_t i = 0; i < rounds->count; i++)
    es_text_add(out, "%s%s", i ? ", " : "rounds over ", es_symbol_name(dims, rounds->symbols[i]));
  if (rounds->count) {
    es_text_add(out, " from %lld bytes of workspace on, at a time in ", (long long)rounds->bytes);
    es_dim_print(dims, rounds->most, out);
    es_text_add(out, " bytes\n");
  }
  es_text_add(out, "steps\n");
  for (int32_t i = 0; i < es_plan_step_count(plan); i++) print_step(plan, i, out);
  if (!es_plan_finished(plan)) return;
  es_text_add(out, "flops ");
  es_dim_print(dims, es_plan_flops(plan), out);
  es_text_add(out, "\nbytes ");
  es_dim_print(dims, es_plan_bytes(plan), out);
  es_text_add(out, "\n");
}
