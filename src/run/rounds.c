/* Rounds: into how many a run is cut, and who does them: see plan.h (es_rounds) and frame.h. Between a frame's layout for all
 * rows and its steps.
 * Invariant: rounds, and so results, depend on the shape alone; threads decide only which rounds go on at the same time. */
#include <string.h>
#include "run/frame.h"

/* --- cutting -------------------------------------------------------------------------------- */

/* Rows of one round when they are cut evenly into so many rounds, or 0 when over a sixteenth of all rows would be done twice.
 * Many rows come in whole tiles of products. */
enum { ROW_TILE = 128, TRIES = 64 };

static int64_t rows_of_round(int64_t rows, int64_t rounds) {
  int64_t each = (rows - 1) / rounds + 1;
  if (each > ROW_TILE && rows % ROW_TILE == 0) each = (each + ROW_TILE - 1) / ROW_TILE * ROW_TILE;
  return ((rows - 1) / each + 1) * each - rows <= rows / 16 ? each : 0;
}

static void round_symbols(const es_frame *f, int64_t each, int64_t *symbols) {
  const es_rounds *leading = &f->kernel->leading;
  memcpy(symbols, f->symbols, (size_t)f->kernel->symbol_count * sizeof *symbols);
  for (int32_t n = 0; n < leading->count; n++) symbols[leading->symbols[n]] = n + 1 < leading->count ? 1 : each;
}

void es_frame_round(const es_frame *f, int64_t *symbols) {
  if (f->rounds > 1) round_symbols(f, f->rows, symbols);
  else memcpy(symbols, f->symbols, (size_t)f->kernel->symbol_count * sizeof *symbols);
}

/* The values of the dimensions in a round of `each` rows; false when a symbol may not be so small. */
static bool round_values(es_frame *f, int64_t each) {
  const es_rounds *leading = &f->kernel->leading;
  const es_dims *dims = es_plan_dims(f->kernel->plan);
  int64_t symbols[ES_SYMBOLS_MAX], min, max;
  round_symbols(f, each, symbols);
  for (int32_t n = 0; n < leading->count; n++) {
    es_symbol_range(dims, leading->symbols[n], &min, &max);
    if (symbols[leading->symbols[n]] < min || symbols[leading->symbols[n]] > max) return false;
  }
  return es_dims_eval(dims, symbols, f->part);
}

/* Lays everything out for rounds of `each` of `rows` rows; tells whether their pieces fit together. */
static esper_status lay_round(es_frame *f, int64_t rows, int64_t each, bool *fit, bool *moved, es_error *err) {
  const es_kernel *k = f->kernel;
  f->rows = each;
  f->most = rows;
  f->rounds = (rows - 1) / each + 1;
  *fit = true;
  esper_status status = es_frame_lay_out(f, f->part, f->part_bytes, moved, err);
  for (int32_t i = 0; i < k->value_count && status == ESPER_OK; i++) {
    bool moves = k->slot_of[i] < 0 && es_plan_has_rows(k->plan, es_plan_value_get(k->plan, k->data_of[i]));
    f->advance[i] = moves ? f->bytes[k->data_of[i]] / rows : 0;
    f->gathered[i] = k->pieces[i] ? f->part_bytes[i] : 0;
    if (k->pieces[i] && (rows % each || f->rounds * f->part_bytes[i] != f->bytes[i])) *fit = false;
  }
  return status;
}

esper_status es_frame_cut(es_frame *f, bool *moved, es_error *err) {
  const es_rounds *leading = &f->kernel->leading;
  int64_t rows = 1, least, bytes = f->round_bytes > 0 ? f->round_bytes : leading->bytes;
  f->rounds = 1;
  for (int32_t n = 0; n < leading->count; n++)
    if (__builtin_mul_overflow(rows, f->symbols[leading->symbols[n]], &rows)) return ESPER_OK; /* of no bytes */
  if (!leading->count || rows < 2 || f->workspace <= bytes) return ESPER_OK;
  least = bytes && (f->workspace - 1) / bytes < rows ? (f->workspace - 1) / bytes + 1 : rows;
  for (int64_t i = 0; i < 2 * TRIES; i++) { /* the number wanted, then its neighbours: one more, one fewer, two more... */
    int64_t rounds = i % 2 ? least + (i + 1) / 2 : least - i / 2;
    int64_t each = rounds >= 2 && rounds <= rows ? rows_of_round(rows, rounds) : 0;
    if (!each || !round_values(f, each)) continue;
    bool fit;
    esper_status status = lay_round(f, rows, each, &fit, moved, err);
    if (status != ESPER_OK || fit) return status;
  }
  f->rounds = 1;
  return es_frame_lay_out(f, f->values, f->bytes, moved, err);
}

/* --- who does them -------------------------------------------------------------------------- */

static int64_t lane_bytes(const es_frame *f) { return (f->workspace + ES_PAGE - 1) & -(int64_t)ES_PAGE; }

/* With two rounds for every thread each has a lane of its own. Else all threads share every step of as many rounds as the
 * plan's limit of memory allows. */
int32_t es_frame_lanes(const es_frame *f, const es_pool *pool, bool *apart) {
  int64_t threads = es_pool_threads(pool), most = f->rounds, room = lane_bytes(f);
  *apart = threads > 1 && threads <= ES_LANES && f->rounds / 2 >= threads;
  if (*apart || threads == 1 || f->rounds == 1) return *apart ? (int32_t)threads : 1;
  if (room && f->values[f->kernel->leading.most] / room < most) most = f->values[f->kernel->leading.most] / room;
  return most > ES_LANES ? ES_LANES : most > 1 ? (int32_t)most : 1;
}

int64_t es_frame_workspace(const es_frame *f, const es_pool *pool) {
  bool apart;
  return f->workspace + (es_frame_lanes(f, pool, &apart) - 1) * lane_bytes(f);
}

int64_t es_frame_row(const es_frame *f, int64_t round) {
  int64_t row = round * f->rows;
  return f->rounds == 1 ? 0 : row < f->most - f->rows ? row : f->most - f->rows;
}

void es_frame_point(const es_frame *f, char **p, int32_t lane, int64_t round) {
  const es_kernel *k = f->kernel;
  int64_t over = lane * lane_bytes(f), row = es_frame_row(f, round);
  for (int32_t i = 0; i < k->operand_count; i++) {
    int32_t value = k->operands[i], slot = k->slot_of[value];
    bool own = slot >= 0 && !es_plan_slot_kept(k->plan, slot) && !es_plan_slot_gathers(k->plan, slot);
    p[i] = (char *)f->base[value] + row * f->advance[value] + round * f->gathered[value] + (own ? over : 0);
  }
}
