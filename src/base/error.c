/* Failure records: formats the one line a caller is told. The base of every layer; depends on
 * nothing. Invariant: the text is one line of terminated UTF-8, whatever bytes the arguments held.
 */
#include "base/error.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Drops a character that the cut at `length` split: at most three trailing bytes and their lead
 * byte. */
static size_t whole_characters(const char *text, size_t length) {
  size_t lead = length;
  while (lead > 0 && length - lead < 4) {
    unsigned char byte = (unsigned char)text[--lead];
    if (byte < 0x80) return length;
    if (byte >= 0xC0) {
      size_t want = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
      return length - lead < want ? lead : length;
    }
  }
  return length;
}

esper_status es_fail(es_error *err, esper_status status, const char *fmt, ...) {
  if (!err) return status;
  va_list list;
  va_start(list, fmt);
  int want = vsnprintf(err->text, sizeof err->text, fmt, list);
  va_end(list);
  if (want < 0)
    strcpy(err->text, "message could not be formatted");
  else if ((size_t)want >= sizeof err->text)
    err->text[whole_characters(err->text, sizeof err->text - 1)] = 0;
  for (char *c = err->text; *c; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7F)
      *c = ' '; /* a name may hold a newline or an escape */
  err->status = (int)status;
  return status;
}

const char *es_status_name(esper_status status) {
  switch (status) {
#define ROW(name, value, text)                                                                     \
  case ESPER_##name: return #name;
    ESPER_STATUS_LIST(ROW)
#undef ROW
  }
  return "EUNKNOWN";
}
