/* A host that checks what docs promise about embedding; spec/embedding_spec.lua builds it against the installed library.
 *     embed_check STORE      one line "ok NAME" or "FAIL NAME: what" per check; exit status 1 when any failed */
#include <esper.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

/* Names that a library which leaks its own would collide with. */
int g = 1, ch = 2, file = 3, next = 4, load = 5, tok = 6, lock = 7, die = 8;

static int failures;
static const char *store;

static void check(const char *name, int good, const char *what) {
  if (good) printf("ok %s\n", name);
  else printf("FAIL %s: %s\n", name, what);
  failures += !good;
}

/* --- memory: a census of our own -------------------------------------------------------------------------------- */

static long live;
static void *count_blocks(void *user, void *old, size_t bytes) {
  if (bytes == 0) {
    if (old) __atomic_fetch_sub((long *)user, 1, __ATOMIC_RELAXED);
    free(old);
    return NULL;
  }
  void *block = realloc(old, bytes);
  if (block && !old) __atomic_fetch_add((long *)user, 1, __ATOMIC_RELAXED);
  return block;
}

static esper_context *context_new(void) {
  esper_options options;
  esper_context *context;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.store = store;
  options.threads = 2;
  options.realloc_hook = count_blocks;
  options.realloc_user = &live;
  return esper_context_new(&options, &context) == ESPER_OK ? context : NULL;
}

static esper_compile_options quick(const char *set, const char *mode) {
  esper_compile_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.set = set;
  options.mode = mode;
  options.uncertified = true;
  return options;
}

static DLTensor tensor(float *data, int64_t *shape, int64_t *strides, int32_t rank) {
  DLTensor t;
  memset(&t, 0, sizeof t);
  t.data = data;
  t.device.device_type = kDLCPU;
  t.ndim = rank;
  t.dtype.code = kDLFloat;
  t.dtype.bits = 32;
  t.dtype.lanes = 1;
  t.shape = shape;
  t.strides = strides;
  return t;
}

/* --- checks ----------------------------------------------------------------------------------------------------- */

static void wrong_uses(esper_context *context) {
  esper_context *none = (esper_context *)1;
  esper_kernel *kernel = (esper_kernel *)1;
  esper_options options;
  memset(&options, 0, sizeof options);
  check("context_new without a place", esper_context_new(NULL, NULL) == ESPER_EARG, "not EARG");
  options.struct_size = 3;
  check("context_new with another struct_size", esper_context_new(&options, &none) == ESPER_EARG && !none, "not EARG and NULL");
  check("compile without context", esper_compile(NULL, "cnn/norm", NULL, &kernel) == ESPER_EARG && !kernel, "not EARG and NULL");
  check("compile without name", esper_compile(context, NULL, NULL, &kernel) == ESPER_EARG, "not EARG");
  check("compile without a place", esper_compile(context, "cnn/norm", NULL, NULL) == ESPER_EARG, "not EARG");
  esper_compile_options bad = quick(NULL, "eval");
  bad.struct_size = 1;
  check("compile with another struct_size", esper_compile(context, "cnn/norm", &bad, &kernel) == ESPER_EARG, "not EARG");
  check("its message", strstr(esper_context_message(context), "struct_size") != NULL, esper_context_message(context));
  static const struct { const char *name, *set, *mode; esper_status want; } broken[] = {
      { "no/such", NULL, "eval", ESPER_ENOTFOUND }, { "cnn/norm", "chanels=4", "eval", ESPER_EATTR },
      { "cnn/norm", "channels=nan", "eval", ESPER_EATTR }, { "cnn/norm", "channels=-1", "eval", ESPER_EATTR },
      { "/", NULL, "eval", ESPER_EIO }, { "/nonexistent/x.lua", NULL, "eval", ESPER_ENOTFOUND },
      { "cnn/norm", NULL, "sideways", ESPER_EARG } };
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    esper_compile_options o = quick(broken[i].set, broken[i].mode);
    esper_status status = esper_compile(context, broken[i].name, &o, &kernel);
    char what[600], name[100];
    snprintf(name, sizeof name, "compile %s %s %s", broken[i].name, broken[i].set ? broken[i].set : "", broken[i].mode);
    snprintf(what, sizeof what, "status %d, wanted %d: %s", (int)status, (int)broken[i].want, esper_context_message(context));
    check(name, status == broken[i].want && !kernel && esper_context_message(context)[0], what);
  }
  static const char *const sizes[] = { "batch", "batch=-1", "batch=x", "batch=1 batch=2", "depth=1" };
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    esper_compile_options o = quick(NULL, "eval");
    o.size = sizes[i];
    esper_status status = esper_compile(context, "cnn/norm", &o, &kernel);
    check(sizes[i], status != ESPER_OK && status != ESPER_EINTERNAL && !kernel, esper_context_message(context));
  }
  esper_info info;
  esper_params *params = (esper_params *)1;
  DLTensor view;
  check("info without kernel", esper_kernel_info(NULL, ESPER_INPUT, 0, &info) == ESPER_EARG, "not EARG");
  check("count without kernel", esper_kernel_count(NULL, ESPER_INPUT) == 0, "not 0");
  check("params without kernel", esper_params_new(context, NULL, 0, &params) == ESPER_EARG && !params, "not EARG and NULL");
  check("params_get without params", esper_params_get(NULL, "x", &view) == ESPER_EARG, "not EARG");
  check("params_freeze without params", esper_params_freeze(NULL) == ESPER_EARG, "not EARG");
  check("run without kernel", esper_kernel_run(NULL, NULL, NULL, 0, NULL, 0, NULL, NULL, 0) == ESPER_EARG, "not EARG");
  esper_context_free(NULL);
  esper_kernel_release(NULL);
  esper_params_free(NULL);
}

/* cnn/norm with gate 0 is the identity, so every result is known. */
static void runs(esper_context *context) {
  esper_kernel *kernel;
  esper_params *params;
  esper_compile_options options = quick("channels=4", "eval");
  options.size = "batch=1 h=2";
  check("compile cnn/norm", esper_compile(context, "cnn/norm", &options, &kernel) == ESPER_OK, esper_context_message(context));
  check("params", esper_params_new(context, kernel, 1, &params) == ESPER_OK, esper_context_message(context));
  float data[48], *got;
  for (int i = 0; i < 48; i++) data[i] = (float)i - 20;
  int64_t shape[4] = { 2, 4, 2, 3 }, back[4] = { 1, 2, 8, 16 }, reversed[4] = { -24, 6, 3, 1 };
  DLTensor plain = tensor(data, shape, NULL, 4), turned = tensor(data, shape, back, 4), negative = tensor(data + 24, shape, reversed, 4);
  DLManagedTensor *y = NULL, *fresh = NULL;
  char m[300] = "";
  check("run", esper_kernel_run(kernel, params, &plain, 1, &y, 1, NULL, m, sizeof m) == ESPER_OK, m);
  check("identity", y && memcmp(y->dl_tensor.data, data, sizeof data) == 0, "differs");
  check("freeze", esper_params_freeze(params) == ESPER_OK, "not OK");
  check("run into its own output", esper_kernel_run(kernel, params, &turned, 1, &y, 1, NULL, m, sizeof m) == ESPER_OK, m);
  got = (float *)y->dl_tensor.data;
  int good = 1;
  for (int i = 0; i < 48; i++) {
    int n = i / 24, c = i / 6 % 4, h = i / 3 % 2, w = i % 3;
    good = good && got[i] == data[n + 2 * c + 8 * h + 16 * w];
  }
  check("strided input", good, "differs");
  check("negative strides run", esper_kernel_run(kernel, params, &negative, 1, &y, 1, NULL, m, sizeof m) == ESPER_OK, m);
  check("negative strides", memcmp(got, data + 24, 96) == 0 && memcmp(got + 24, data, 96) == 0, "differs");
  struct { const char *name; DLTensor x; int inputs; int params; size_t size; esper_status want; const char *word; } bad[] = {
      { "wrong channels", plain, 1, 1, 0, ESPER_ESHAPE, "x" }, { "wrong rank", plain, 1, 1, 0, ESPER_ESHAPE, "x" },
      { "wrong dtype", plain, 1, 1, 0, ESPER_EDTYPE, "f32" }, { "wrong device", plain, 1, 1, 0, ESPER_EARG, "x" },
      { "negative extent", plain, 1, 1, 0, ESPER_ESHAPE, "x" }, { "no data", plain, 1, 1, 0, ESPER_EARG, "x" },
      { "no inputs", plain, 0, 1, 0, ESPER_EARG, "inputs: expected 1" }, { "no params", plain, 1, 0, 0, ESPER_EARG, "no params" },
      { "struct_size", plain, 1, 1, 5, ESPER_EARG, "struct_size" } };
  int64_t wrong[4] = { 2, 3, 2, 4 }, minus[4] = { 2, 4, -2, 3 };
  bad[0].x.shape = wrong;
  bad[1].x.ndim = 3;
  bad[2].x.dtype.bits = 64;
  bad[3].x.device.device_type = kDLCUDA;
  bad[4].x.shape = minus;
  bad[5].x.data = NULL;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    esper_run_options o = { bad[i].size ? bad[i].size : sizeof o, 0, 0 };
    char what[400], name[60];
    esper_status status = esper_kernel_run(kernel, bad[i].params ? params : NULL, &bad[i].x, bad[i].inputs, &fresh, 1, &o, m, sizeof m);
    snprintf(what, sizeof what, "status %d, wanted %d: %s", (int)status, (int)bad[i].want, m);
    snprintf(name, sizeof name, "run with %s", bad[i].name);
    check(name, status == bad[i].want && !fresh && strstr(m, bad[i].word) && !strchr(m, '\n'), what);
  }
  DLManagedTensor overlapping = *y;
  overlapping.dl_tensor.data = data;
  fresh = &overlapping;
  esper_status over = esper_kernel_run(kernel, params, &plain, 1, &fresh, 1, NULL, m, sizeof m);
  check("output over input", over == ESPER_EARG && strstr(m, "overlaps"), m);
  char small[8];
  fresh = NULL;
  esper_kernel_run(kernel, params, &bad[2].x, 1, &fresh, 1, NULL, small, sizeof small);
  check("message cut to its room", strlen(small) == 7, small);
  y->deleter(y);
  esper_params_free(params);
  esper_kernel_release(kernel);
}

/* --- threads ------------------------------------------------------------------------------------------------------ */

enum { THREADS = 8, CELLS = 2 * 8 * 9 * 9, ROUNDS = 40 };
static esper_kernel *shared;
static esper_params *shared_params;
static float shared_input[CELLS], expected[CELLS];

static void *work(void *unused) {
  int64_t shape[4] = { 2, 8, 9, 9 };
  DLTensor x = tensor(shared_input, shape, NULL, 4);
  DLManagedTensor *y = NULL;
  long wrong = 0;
  for (int i = 0; i < ROUNDS; i++)
    wrong += esper_kernel_run(shared, shared_params, &x, 1, &y, 1, NULL, NULL, 0) != ESPER_OK ||
             memcmp(y->dl_tensor.data, expected, sizeof expected) != 0;
  if (y) y->deleter(y);
  (void)unused;
  return (void *)wrong;
}

static void threads(esper_context *context) {
  esper_compile_options options = quick("channels=8", "eval");
  check("compile cnn/conv_small", esper_compile(context, "cnn/conv_small", &options, &shared) == ESPER_OK, esper_context_message(context));
  check("its params", esper_params_new(context, shared, 7, &shared_params) == ESPER_OK, esper_context_message(context));
  for (int i = 0; i < CELLS; i++) shared_input[i] = (float)(i * 37 % 101) / 50 - 1;
  int64_t shape[4] = { 2, 8, 9, 9 };
  DLTensor x = tensor(shared_input, shape, NULL, 4);
  DLManagedTensor *y = NULL;
  char m[200] = "";
  check("one thread", esper_kernel_run(shared, shared_params, &x, 1, &y, 1, NULL, m, sizeof m) == ESPER_OK, m);
  memcpy(expected, y->dl_tensor.data, sizeof expected);
  y->deleter(y);
  esper_context_free(context); /* kernels outlive it */
  pthread_t ids[THREADS];
  long wrong = 0;
  for (int i = 0; i < THREADS; i++) wrong += pthread_create(&ids[i], NULL, work, NULL) != 0;
  for (int i = 0; i < THREADS; i++) {
    void *result = NULL;
    pthread_join(ids[i], &result);
    wrong += (long)result;
  }
  check("eight threads, equal results", wrong == 0, "differ");
  esper_params_free(shared_params);
  esper_kernel_release(shared);
}

/* --- what must not change ------------------------------------------------------------------------------------------ */

static struct sigaction actions[65];
static void save_signals(void) {
  for (int s = 1; s < 65; s++) sigaction(s, NULL, &actions[s]);
}

static void signals(void) {
  int changed = 0;
  for (int s = 1; s < 65; s++) {
    struct sigaction now;
    memset(&now, 0, sizeof now);
    if (sigaction(s, NULL, &now) == 0 && now.sa_handler != actions[s].sa_handler) changed++;
  }
  check("signal handlers", changed == 0, "changed");
}

/* Under this rule the kernel refuses every page that is writable and executable, and every page that becomes executable. */
static void without_writable_code(void) {
  if (prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0) != 0) { /* before Linux 6.3 */
    printf("ok no MDWE on this kernel\n");
    return;
  }
  esper_context *context = context_new();
  esper_kernel *kernel = NULL;
  esper_compile_options options = quick("channels=5", "train");
  options.uncertified = false;
  check("compile and certify under MDWE", context && esper_compile(context, "cnn/norm", &options, &kernel) == ESPER_OK,
        context ? esper_context_message(context) : "no context");
  esper_kernel_release(kernel);
  esper_context_free(context);
}

int main(int argc, char **argv) {
  store = argc > 1 ? argv[1] : "";
  save_signals();
  esper_context *first = context_new(), *second = context_new();
  check("two contexts", first && second && first != second, "no");
  wrong_uses(first);
  runs(first);
  runs(second);
  esper_context_free(second);
  threads(first);
  signals();
  without_writable_code();
  check("memory back to its start", live == 0, "blocks left");
  check("names of the host", g + ch + file + next + load + tok + lock + die == 36, "changed");
  return failures != 0;
}
