/* From one C unit to callable code: libtcc makes an object, a checked loader places it in sealed memory.
 * No page is ever writable and executable. Objects for equal text are byte-equal. */
#ifndef ES_JIT_H
#define ES_JIT_H
#include "base/error.h"
#include "base/text.h"

/* C text -> ELF object bytes (appended to `object`). libtcc runs with -nostdlib -nostdinc under one process-wide
 * lock. ECOMPILE carries the first diagnostic with its line. */
esper_status es_jit_compile(const char *c_text, es_text *object, es_error *err);

typedef struct es_code es_code; /* an image mapped read+execute; counted */
/* Checks and relocates the object (x86-64 relocatable, sections .text/.rodata/.data.rel-free, PC32/PLT32 only) into a
 * sealed memfd and maps it. Undefined symbols must be on the allow-list (memcpy memmove memset sqrtf sqrt fmaf fma
 * rintf rint __floatundisf __floatundidf): they get stubs inside the image. Anything else is ECORRUPT, never a crash. */
esper_status es_code_load(const void *object, size_t length, es_code **out, es_error *err);
void *es_code_symbol(const es_code *code, const char *name); /* NULL when absent; lives as long as the image */
size_t es_code_bytes(const es_code *code);
es_code *es_code_retain(es_code *code);
void es_code_release(es_code *code);
#endif
