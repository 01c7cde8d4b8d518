/* C text -> ELF object, by libtcc. The only file that includes libtcc.h. Between the unit and the
 * loader (elf.c).
 * Invariants: libtcc never makes executable memory here (output type OBJ, never tcc_relocate), sees
 * no file and no directory (-nostdlib -nostdinc, text from memory), and runs under one lock, since it
 * keeps globals of its own, and in the C locale, since it reads numbers with strtod and the host may
 * use a decimal comma. */
#include <errno.h>
#include <libtcc.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jit/jit.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

typedef struct diagnostic {
  char text[400]; /* the first one; "" while there is none */
} diagnostic;

static void collect(void *user, const char *message) {
  diagnostic *first = user;
  if (first->text[0] == 0) snprintf(first->text, sizeof first->text, "%s", message);
}

/* libtcc writes objects to a file by name only: `file` is memory, reached through its name under
 * /proc. */
static esper_status write_object(TCCState *state, int file, const diagnostic *first,
                                 es_error *err) {
  char path[40];
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  if (tcc_output_file(state, path) == 0) return ESPER_OK;
  return es_fail(err, ESPER_ECOMPILE, "libtcc wrote no object: %s",
                 first->text[0] ? first->text : "it does not say why");
}

static esper_status read_object(int file, es_text *object, es_error *err) {
  struct stat info;
  if (fstat(file, &info) != 0 || info.st_size <= 0)
    return es_fail(err, ESPER_ECOMPILE, "libtcc wrote an empty object; is /proc mounted?");
  struct rlimit limit; /* of files, memory files too; libtcc does not look at what its writes return */
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && (rlim_t)info.st_size >= limit.rlim_cur)
    return es_fail(err, ESPER_ENOSPACE, "object code is cut off at the %llu bytes that RLIMIT_FSIZE allows a file",
                   (unsigned long long)limit.rlim_cur);
  size_t size = (size_t)info.st_size;
  void *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
  if (bytes == MAP_FAILED)
    return es_fail(err, ESPER_ENOMEM, "object of %zu bytes cannot be mapped: %s", size,
                   strerror(errno));
  es_text_bytes(object, bytes, size);
  munmap(bytes, size);
  return object->failed
             ? es_fail(err, ESPER_ENOMEM, "out of memory for an object of %zu bytes", size)
             : ESPER_OK;
}

static esper_status compile(const char *c_text, int file, es_error *err) {
  diagnostic first = {{0}};
  TCCState *state = tcc_new();
  if (!state) return es_fail(err, ESPER_ENOMEM, "libtcc cannot start: out of memory");
  tcc_set_error_func(state, &first, collect);
  /* A warning in generated text is a defect of the generator, so it is an error. */
  tcc_set_options(state, "-nostdlib -nostdinc -Werror -Wimplicit-function-declaration");
  esper_status status = ESPER_OK;
  if (tcc_set_output_type(state, TCC_OUTPUT_OBJ) != 0 || tcc_compile_string(state, c_text) != 0)
    status = es_fail(err, ESPER_ECOMPILE, "libtcc: %s",
                     first.text[0] ? first.text : "compilation failed");
  if (status == ESPER_OK) status = write_object(state, file, &first, err);
  tcc_delete(state);
  return status;
}

esper_status es_jit_compile(const char *c_text, es_text *object, es_error *err) {
  int file = memfd_create("esper-object", MFD_CLOEXEC);
  if (file < 0) return es_fail(err, ESPER_EIO, "memfd_create for an object: %s", strerror(errno));
  locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* a static object, never freed */
  locale_t before = plain ? uselocale(plain) : (locale_t)0;
  pthread_mutex_lock(&lock);
  esper_status status =
      plain ? compile(c_text, file, err) : es_fail(err, ESPER_ENOMEM, "no C locale: out of memory");
  pthread_mutex_unlock(&lock);
  if (plain) uselocale(before);
  if (status == ESPER_OK) status = read_object(file, object, err);
  close(file);
  return status;
}
