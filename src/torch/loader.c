/* Finds and loads libesper_torch.so the first time somebody asks. Stands between the library, which never links
 * libtorch, and shim.cpp, which does.
 * Invariant: `table` is NULL or a table whose ABI number was checked; once set it never changes. What was loaded is
 * never unloaded: libtorch starts threads and registers itself, and does not survive dlclose. */
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/random.h"
#include "torch/torch.h"

#define FILE_NAME "libesper_torch.so"
#ifndef ES_LIBDIR
#define ES_LIBDIR "/usr/local/lib" /* the Makefile gives PREFIX/lib */
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const es_torch *_Atomic table;

static const es_torch_host host = {
  .abi = ES_TORCH_ABI,
  .graph_count = es_graph_count,
  .graph_node = es_graph_node,
  .root_count = es_graph_root_count,
  .root_get = es_graph_root_get,
  .graph_dims = es_graph_dims,
  .dims_count = es_dims_count,
  .dims_eval = es_dims_eval,
  .random_key = es_random_key,
  .random_uniform = es_random_uniform,
  .random_normal = es_random_normal,
};

/* Directory of the file this code was loaded from: libesper.so, or the program it is linked into. */
static bool own_directory(char path[PATH_MAX]) {
  Dl_info info;
  if (!dladdr(&host, &info) || !info.dli_fname || !realpath(info.dli_fname, path)) {
    /* A program found through PATH is known by a name that leads nowhere. */
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (n <= 0) return false;
    path[n] = 0;
  }
  char *slash = strrchr(path, '/');
  if (slash) *slash = 0;
  return slash != NULL;
}

static bool exists(char out[PATH_MAX], const char *directory, const char *below) {
  int n = snprintf(out, PATH_MAX, "%s%s/%s", directory, below, FILE_NAME);
  return n > 0 && n < PATH_MAX && access(out, R_OK) == 0;
}

/* Writes the path to load; false when no candidate exists. */
static bool find(char out[PATH_MAX]) {
  const char *given = secure_getenv("ESPER_TORCH");
  if (given && *given) return snprintf(out, PATH_MAX, "%s", given) < PATH_MAX;
  char here[PATH_MAX];
  if (own_directory(here) && (exists(out, here, "") || exists(out, here, "/../lib"))) return true;
  return exists(out, ES_LIBDIR, "");
}

/* True when the file is cut short: dlopen maps it without looking at its size, and the first touch past the end is a
 * SIGBUS (seen). What is not ELF at all is left to dlopen, which says so. */
static bool truncated(const char *path) {
  bool cut = false;
  Elf64_Ehdr head;
  struct stat info;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  if (fstat(fd, &info) || !S_ISREG(info.st_mode) || pread(fd, &head, sizeof head, 0) != sizeof head ||
      memcmp(head.e_ident, ELFMAG, SELFMAG) || head.e_ident[EI_CLASS] != ELFCLASS64) {
    close(fd);
    return false;
  }
  for (int k = 0; k < head.e_phnum && !cut; k++) {
    Elf64_Phdr segment;
    off_t at = (off_t)(head.e_phoff + (uint64_t)k * sizeof segment);
    cut = pread(fd, &segment, sizeof segment, at) != sizeof segment ||
          (segment.p_type == PT_LOAD && segment.p_offset + segment.p_filesz > (uint64_t)info.st_size);
  }
  close(fd);
  return cut;
}

static const es_torch *load(es_error *err) {
  char path[PATH_MAX];
  if (!find(path)) {
    es_fail(err, ESPER_ETORCH, FILE_NAME " was found neither beside Esper, nor in ../lib, nor in " ES_LIBDIR
            "; build it with `make` (libtorch-dev or TORCH_DIR=) or set ESPER_TORCH to its path");
    return NULL;
  }
  if (truncated(path)) {
    es_fail(err, ESPER_ETORCH, "cannot load %s: the file is cut short; build or install it again", path);
    return NULL;
  }
  void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!file) {
    const char *reason = dlerror();
    es_fail(err, ESPER_ETORCH, "cannot load %s: %s; rebuild it against the libtorch of this machine", path,
            reason ? reason : "no reason given");
    return NULL;
  }
  union { void *object; es_torch_entry entry; } symbol = { dlsym(file, ES_TORCH_ENTRY) };
  const es_torch *found = symbol.object ? symbol.entry(&host) : NULL;
  if (!found || found->abi != ES_TORCH_ABI) {
    es_fail(err, ESPER_ETORCH, "%s %s, this Esper wants ABI %d; rebuild both from one tree", path,
            symbol.object ? "has another ABI" : "has no " ES_TORCH_ENTRY, ES_TORCH_ABI);
    return NULL;
  }
  return found;
}

const es_torch *es_torch_load(es_error *err) {
  const es_torch *found = atomic_load_explicit(&table, memory_order_acquire);
  if (found) return found;
  pthread_mutex_lock(&lock);
  found = atomic_load_explicit(&table, memory_order_relaxed);
  if (!found) {
    found = load(err);
    atomic_store_explicit(&table, found, memory_order_release);
  }
  pthread_mutex_unlock(&lock);
  return found;
}

esper_status es_torch_run(const es_graph *graph, const int64_t *symbols, void *const *data, void *const *out,
                          uint64_t seed, uint64_t step, int32_t threads, es_error *err) {
  const es_torch *torch = es_torch_load(err);
  if (!torch) return ESPER_ETORCH;
  char message[1000] = "";
  int32_t status = torch->run(graph, symbols, data, out, seed, step, threads, message, sizeof message);
  return status ? es_fail(err, (esper_status)status, "%s", message) : ESPER_OK;
}

esper_status es_torch_prepare(const es_graph *graph, const int64_t *symbols, void *const *data, es_torch_program **out,
                              es_error *err) {
  *out = NULL;
  const es_torch *torch = es_torch_load(err);
  if (!torch) return ESPER_ETORCH;
  char message[1000] = "";
  int32_t status = torch->prepare(graph, symbols, data, out, message, sizeof message);
  return status ? es_fail(err, (esper_status)status, "%s", message) : ESPER_OK;
}

esper_status es_torch_replay(es_torch_program *program, int32_t reps, int32_t threads, bool cpu, double *ns,
                             void *const *out, es_error *err) {
  const es_torch *torch = es_torch_load(err);
  if (!torch) return ESPER_ETORCH;
  char message[1000] = "";
  int32_t status = torch->replay(program, reps, threads, cpu, ns, out, message, sizeof message);
  return status ? es_fail(err, (esper_status)status, "%s", message) : ESPER_OK;
}

void es_torch_release(es_torch_program *program) {
  const es_torch *torch = atomic_load_explicit(&table, memory_order_acquire);
  if (torch) torch->release(program);
}

const char *es_torch_version(es_error *err) {
  const es_torch *torch = es_torch_load(err);
  return torch ? torch->version() : NULL;
}
