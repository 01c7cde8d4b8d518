/* Stress: damaged plans, as a store without its MAC would hand them out. Decoding must refuse each with a typed one-line
 * error, or give a finished plan that encodes to bytes that decode to themselves, prints, becomes a kernel or is refused
 * as one, and solves shapes without harm.
 *     plan_fuzz N SEED [plant]      one line: name seed n fail metric
 * "plant" changes the second encoding: the proof that encodings are compared. */
#include "base/memory.h"
#include "fuzz.h"
#include "run/frame.h"
#include "run/plan.h"

static const char *const names[] = { "cnn/conv_small", "transformer/attention", "transformer/mlp", "first/router_top2", "cnn/norm", "first/load_bal_ema" };
enum { PLANS = sizeof names / sizeof *names };
static esper_kernel *kernels[PLANS];
static es_text seeds[PLANS];

static bool collect(esper_context *context) {
  for (int i = 0; i < PLANS; i++) { /* plans for inference keep what they make of parameters */
    const esper_compile_options options = { .struct_size = sizeof options, .mode = i % 2 ? "train" : "eval", .uncertified = true };
    if (esper_compile(context, names[i], &options, &kernels[i])) {
      fprintf(stderr, "plan_fuzz: %s: %s\n", names[i], esper_context_message(context));
      return false;
    }
    es_plan_encode(es_kernel_plan(kernels[i]), &seeds[i]);
  }
  return true;
}

static bool typed(const es_error *err) {
  return err->status != ESPER_OK && err->text[0] && !strchr(err->text, '\n');
}

/* Signature and sizes of a kernel made of a damaged plan. */
static void look(es_kernel *kernel) {
  int32_t inputs = esper_kernel_count(kernel, ESPER_INPUT), *ranks = calloc((size_t)inputs + 1, sizeof *ranks);
  int64_t *shapes = calloc((size_t)inputs * ES_RANK_MAX + 1, sizeof *shapes), workspace;
  int64_t *symbols = calloc((size_t)es_symbol_count(es_plan_dims(es_kernel_plan(kernel))) + 1, sizeof *symbols);
  for (int32_t i = 0; i < inputs; i++) {
    esper_info info;
    esper_kernel_info(kernel, ESPER_INPUT, i, &info);
    ranks[i] = info.rank;
    for (int32_t axis = 0; axis < info.rank; axis++) shapes[i * ES_RANK_MAX + axis] = 1 + below(64);
  }
  if (es_kernel_solve(kernel, ranks, shapes, symbols, NULL) == ESPER_OK) es_kernel_workspace(kernel, symbols, NULL, &workspace, NULL);
  free(ranks);
  free(shapes);
  free(symbols);
}

static bool right(const uint8_t *bytes, size_t length, es_code *code, bool plant, int64_t *accepted) {
  es_error err = { 0 };
  es_text first = { 0 }, second = { 0 }, print = { 0 };
  es_kernel *kernel = NULL;
  es_plan *plan = es_plan_decode(bytes, length, &err), *again = NULL;
  if (!plan) return typed(&err);
  (*accepted)++;
  es_plan_encode(plan, &first);
  again = es_plan_decode(first.bytes, first.length, &err);
  if (again) es_plan_encode(again, &second);
  if (plant && second.length) second.bytes[second.length / 2] ^= 1;
  bool good = again && first.length == second.length && memcmp(first.bytes, second.bytes, first.length) == 0;
  es_plan_print(plan, &print);
  if (es_kernel_new(plan, code, &kernel, &err) == ESPER_OK) look(kernel);
  else good = good && typed(&err);
  es_kernel_release(kernel);
  es_plan_release(plan);
  es_plan_release(again);
  es_text_clear(&first);
  es_text_clear(&second);
  es_text_clear(&print);
  return good;
}

int main(int argc, char **argv) {
  int64_t rounds, wrong = 0, accepted = 0;
  uint64_t seed;
  bool plant = argc > 3 && strcmp(argv[3], "plant") == 0;
  const esper_options options = { .struct_size = sizeof options, .store = "" };
  esper_context *context;
  arguments(argc, argv, &rounds, &seed);
  if (esper_context_new(&options, &context) || !collect(context)) return 2;
  int64_t live = es_memory_live();
  for (int64_t n = 0; n < rounds; n++) {
    start_round(seed, n);
    int32_t from = below(PLANS);
    uint8_t *damaged = exact(seeds[from].bytes, seeds[from].length);
    size_t length = mutate(damaged, seeds[from].length);
    uint8_t *bytes = exact(damaged, length);
    free(damaged);
    if (!right(bytes, length, kernels[from]->code, plant, &accepted) && wrong++ < 3 && !plant)
      fprintf(stderr, "plan_fuzz: round %lld\n", (long long)n);
    free(bytes);
  }
  int64_t leaked = es_memory_live() - live;
  for (int i = 0; i < PLANS; i++) {
    esper_kernel_release(kernels[i]);
    es_text_clear(&seeds[i]);
  }
  esper_context_free(context);
  printf("plan_fuzz %llu %lld %lld accepted=%lld leaked=%lld\n", (unsigned long long)seed, (long long)rounds,
         (long long)wrong, (long long)accepted, (long long)leaked);
  return wrong || leaked || (rounds >= 1000 && (accepted == 0 || accepted == rounds));
}
