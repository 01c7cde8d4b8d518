/* Stress: threads that run one kernel on two sets of frozen parameters, over changing shapes, some with outputs of their own.
 * What a frame keeps must be that of the parameters it runs on: every result is bit-equal to the one a single thread got.
 *     frozen_threads N SEED [plant]      one line: name seed n fail metric
 * "plant" changes a parameter behind the kernel's back: the proof that what was kept answers. */
#include <pthread.h>
#include <stdatomic.h>
#include "base/memory.h"
#include "esper.h"
#include "fuzz.h"

enum { SETS = 2, SHAPES = 5, THREADS = 4, DIM = 96, ROWS = 70 };
static const int64_t rows[SHAPES] = { 1, 3, 17, 40, ROWS };
static esper_kernel *kernel;
static esper_params *params[SETS];
static float input[ROWS * DIM], want[SETS][SHAPES][ROWS * DIM];
static atomic_int wrong;
static int64_t rounds;
static uint64_t seed;

static bool run(int set, int shape, float *out) {
  int64_t extents[3] = { 1, rows[shape], DIM };
  char message[300] = "";
  DLTensor x = { .data = input, .device = { kDLCPU, 0 }, .ndim = 3, .dtype = { kDLFloat, 32, 1 }, .shape = extents };
  DLManagedTensor *y = NULL;
  if (esper_kernel_run(kernel, params[set], &x, 1, &y, 1, NULL, message, sizeof message)) {
    fprintf(stderr, "frozen_threads: %s\n", message);
    return false;
  }
  memcpy(out, y->dl_tensor.data, (size_t)rows[shape] * DIM * sizeof *out);
  y->deleter(y);
  return true;
}

static void *worker(void *user) {
  float out[ROWS * DIM];
  uint64_t state = seed * 977 + (uint64_t)(intptr_t)user;
  for (int64_t n = 0; n < rounds; n++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    int set = (int)(state >> 60 & 1), shape = (int)((state >> 33) % SHAPES);
    bool right = run(set, shape, out) && memcmp(out, want[set][shape], (size_t)rows[shape] * DIM * sizeof *out) == 0;
    if (!right) atomic_fetch_add(&wrong, 1);
  }
  return NULL;
}

/* Every parameter of the kernel drawn anew, so that no two sets agree. */
static void draw_params(esper_params *p, uint64_t round) {
  start_round(seed, (int64_t)round);
  for (int32_t i = 0; i < esper_kernel_count(kernel, ESPER_PARAM); i++) {
    esper_info info;
    DLTensor t;
    esper_kernel_info(kernel, ESPER_PARAM, i, &info);
    esper_params_get(p, info.name, &t);
    int64_t count = 1;
    for (int32_t axis = 0; axis < t.ndim; axis++) count *= t.shape[axis];
    for (int64_t k = 0; k < count; k++) ((float *)t.data)[k] = (float)((int32_t)draw() * 1e-10);
  }
}

int main(int argc, char **argv) {
  bool plant = argc > 3 && strcmp(argv[3], "plant") == 0;
  const esper_options options = { .struct_size = sizeof options, .store = "", .threads = 1 };
  const esper_compile_options how = { .struct_size = sizeof how, .mode = "eval", .set = "dim=96 expand=2", .uncertified = true };
  esper_context *context;
  DLTensor planted;
  arguments(argc, argv, &rounds, &seed);
  if (esper_context_new(&options, &context) || esper_compile(context, "transformer/mlp", &how, &kernel)) {
    fprintf(stderr, "frozen_threads: %s\n", esper_context_message(context));
    return 2;
  }
  for (int i = 0; i < ROWS * DIM; i++) input[i] = (float)below(1000) / 500 - 1;
  for (int set = 0; set < SETS; set++) {
    if (esper_params_new(context, kernel, 1, &params[set])) return 2;
    draw_params(params[set], (uint64_t)set);
    if (plant) esper_params_get(params[set], "fc1.weight", &planted);
    esper_params_freeze(params[set]);
    for (int shape = 0; shape < SHAPES; shape++)
      if (!run(set, shape, want[set][shape])) return 2;
  }
  if (plant) ((float *)planted.data)[0] += 1; /* the view is old; frames made from now on see it */
  pthread_t threads[THREADS];
  for (intptr_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, worker, (void *)i);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  printf("frozen_threads %llu %lld %d threads=%d\n", (unsigned long long)seed, (long long)rounds, atomic_load(&wrong), THREADS);
  for (int set = 0; set < SETS; set++) esper_params_free(params[set]);
  esper_kernel_release(kernel);
  esper_context_free(context);
  return atomic_load(&wrong) != 0;
}
