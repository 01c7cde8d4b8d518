/* One failure: its status and one line that names the place and the remedy.
 * Fallible internal functions take an `es_error *` last; NULL is allowed and drops the text. */
#ifndef ES_ERROR_H
#define ES_ERROR_H
#include "esper.h"

typedef struct es_error {
  int status;      /* esper_status; ESPER_OK while nothing failed */
  char text[1020]; /* UTF-8, cut at a character, always terminated */
} es_error;

/* Records the failure and returns `status`, so `return es_fail(err, ESPER_ESHAPE, "...")` works. */
esper_status es_fail(es_error *err, esper_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
const char *es_status_name(esper_status status); /* "ESHAPE" */
#endif
