/* What the object parser hands to the image maker: bytes that are final except for their address. */
#ifndef ES_ELF_H
#define ES_ELF_H
#include "base/error.h"

typedef struct es_function {
  const char *name; /* inside es_layout.names */
  size_t offset;    /* from the start of the image */
} es_function;

typedef struct es_layout {
  uint8_t *bytes;   /* code, constants, stubs; relocated; the three blocks are the caller's to es_free */
  size_t length;
  es_function *functions; /* global functions, sorted by name */
  size_t function_count;
  char *names;
} es_layout;

/* Accepts what jit.h describes and nothing else: ECORRUPT names the first thing that is not as it must be. */
esper_status es_elf_read(const void *object, size_t length, es_layout *out, es_error *err);
void es_layout_clear(es_layout *layout);
#endif
