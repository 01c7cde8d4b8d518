/* Executable images: bytes sealed against writing, then mapped read+execute, counted. Between elf.c
 * and the kernels.
 * Invariant: no page of an image is ever writable and executable; the memfd takes its bytes by
 * write(), is sealed, and the shared mapping of a sealed file cannot be made writable later. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "jit/elf.h"
#include "jit/jit.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3: the file itself can never be run as a program */
#endif

struct es_code {
  atomic_int references;
  void *base;       /* the mapping */
  es_layout layout; /* its functions; bytes were dropped once mapped */
};

static int new_file(void) {
  int file = memfd_create("esper-code", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (file < 0 && errno == EINVAL)
    file = memfd_create("esper-code", MFD_CLOEXEC | MFD_ALLOW_SEALING); /* before 6.3 */
  return file;
}

static bool write_all(int file, const uint8_t *bytes, size_t length) {
  while (length > 0) {
    ssize_t wrote = write(file, bytes, length);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    bytes += wrote;
    length -= (size_t)wrote;
  }
  return true;
}

/* Kernels before 6.7 refuse shared maps of a write-sealed file; a private one is not writable
 * either, only less final. */
static void *map(int file, size_t length) {
  void *base = mmap(NULL, length, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
  if (base == MAP_FAILED && errno == EPERM)
    base = mmap(NULL, length, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
  return base;
}

static esper_status seal_and_map(const es_layout *layout, void **base, es_error *err) {
  const char *what = "memfd_create";
  *base = MAP_FAILED;
  int file = new_file();
  if (file >= 0) {
    what = "write";
    if (write_all(file, layout->bytes, layout->length)) {
      what = "seal";
      if (fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        what = "executable map";
        *base = map(file, layout->length);
      }
    }
  }
  int code = errno;
  if (file >= 0) close(file);
  if (*base != MAP_FAILED) return ESPER_OK;
  return es_fail(err, code == ENOMEM ? ESPER_ENOMEM : ESPER_EIO, "%zu bytes of code: %s failed: %s",
                 layout->length, what, strerror(code));
}

esper_status es_code_load(const void *object, size_t length, es_code **out, es_error *err) {
  *out = NULL;
  es_code *code = es_alloc(sizeof *code);
  if (!code) return es_fail(err, ESPER_ENOMEM, "out of memory for an image");
  esper_status status = es_elf_read(object, length, &code->layout, err);
  if (status == ESPER_OK) status = seal_and_map(&code->layout, &code->base, err);
  if (status != ESPER_OK) {
    es_layout_clear(&code->layout);
    es_free(code);
    return status;
  }
  es_free(code->layout.bytes);
  code->layout.bytes = NULL;
  atomic_init(&code->references, 1);
  *out = code;
  return ESPER_OK;
}

static int name_order(const void *name, const void *function) {
  return strcmp(name, ((const es_function *)function)->name);
}

void *es_code_symbol(const es_code *code, const char *name) {
  const es_function *found =
      bsearch(name, code->layout.functions, code->layout.function_count, sizeof *found, name_order);
  return found ? (char *)code->base + found->offset : NULL;
}

size_t es_code_bytes(const es_code *code) { return code->layout.length; }

es_code *es_code_retain(es_code *code) {
  atomic_fetch_add_explicit(&code->references, 1, memory_order_relaxed);
  return code;
}

void es_code_release(es_code *code) {
  if (!code || atomic_fetch_sub_explicit(&code->references, 1, memory_order_acq_rel) != 1) return;
  munmap(code->base, code->layout.length);
  es_layout_clear(&code->layout);
  es_free(code);
}
