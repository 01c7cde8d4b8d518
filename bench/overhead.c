/* What does a call cost? Times esper_kernel_run on one element (first/proj_ia3, dim 1), as a host written in C calls it.
 *     overhead [calls]    prints the median and 99th percentile of blocks of 1,000 calls, in ns per call
 * `make bench` builds and runs it. */
#define _POSIX_C_SOURCE 200809L
#include <esper.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 1000 };

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int fail(const char *what, const char *why) {
  fprintf(stderr, "overhead: %s: %s\n", what, why);
  return 1;
}

int main(int argc, char **argv) {
  long blocks = (argc > 1 ? atol(argv[1]) : 1000000) / BLOCK;
  if (blocks < 1) return fail("usage", "overhead [calls], at least 1000");
  esper_context *context;
  esper_options options = { .struct_size = sizeof options, .store = "", .threads = 1 };
  if (esper_context_new(&options, &context)) return fail("context", "cannot be made");
  esper_kernel *kernel;
  esper_params *params;
  esper_compile_options compile = { .struct_size = sizeof compile, .set = "dim=1", .uncertified = true };
  if (esper_compile(context, "first/proj_ia3", &compile, &kernel) || esper_params_new(context, kernel, 0, &params))
    return fail("compile", esper_context_message(context));
  float element = 3;
  int64_t shape[] = { 1, 1, 1 };
  DLTensor x = { .data = &element, .device = { kDLCPU, 0 }, .ndim = 3, .dtype = { kDLFloat, 32, 1 }, .shape = shape };
  DLManagedTensor *y = NULL;
  char message[200];
  double *ns = malloc((size_t)blocks * sizeof *ns);
  if (!ns) return fail("memory", "none");
  for (long i = 0; i < blocks; i++) {
    double from = now_ns();
    for (int k = 0; k < BLOCK; k++)
      if (esper_kernel_run(kernel, params, &x, 1, &y, 1, NULL, message, sizeof message)) return fail("run", message);
    ns[i] = (now_ns() - from) / BLOCK;
  }
  if (*(float *)y->dl_tensor.data != 3) return fail("run", "wrong result");
  qsort(ns, (size_t)blocks, sizeof *ns, ascending);
  printf("call of a one-element kernel: median %.0f ns, p99 %.0f ns over %ld calls\n", ns[blocks / 2], ns[blocks * 99 / 100],
         blocks * BLOCK);
  free(ns);
  y->deleter(y);
  esper_params_free(params);
  esper_kernel_release(kernel);
  esper_context_free(context);
  return 0;
}
