/* Growable text, and numbers that print and read alike under every locale of the host.
 * Invariant: bytes[length] == 0 whenever bytes is not NULL. */
#include "base/text.h"
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/memory.h"

/* Makes room for `more` bytes and the terminator. */
static bool reserve(es_text *text, size_t more) {
  if (text->failed) return false;
  size_t want;
  if (__builtin_add_overflow(text->length, more, &want) || want == SIZE_MAX)
    return !(text->failed = true);
  if (++want <= text->room) return true;
  size_t room = text->room ? text->room : 128;
  while (room < want && room < SIZE_MAX / 2) room *= 2;
  char *bytes = room < want ? NULL : es_realloc(text->bytes, room);
  if (!bytes) return !(text->failed = true);
  text->bytes = bytes;
  text->room = room;
  return true;
}

void es_text_bytes(es_text *text, const void *bytes, size_t length) {
  if (!reserve(text, length)) return;
  if (length) memcpy(text->bytes + text->length, bytes, length);
  text->length += length;
  text->bytes[text->length] = 0;
}

void es_text_string(es_text *text, const char *string) { es_text_bytes(text, string, strlen(string)); }

void es_text_integer(es_text *text, int64_t value) {
  char digits[20]; /* -2^63 has 19 and a sign */
  char *end = digits + sizeof digits, *at = end;
  uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  do *--at = (char)('0' + rest % 10);
  while ((rest /= 10) != 0);
  if (value < 0) *--at = '-';
  es_text_bytes(text, at, (size_t)(end - at));
}

void es_text_add(es_text *text, const char *fmt, ...) {
  va_list list, again;
  if (!reserve(text, 64)) return; /* mostly enough, so that one pass does */
  va_start(list, fmt);
  va_copy(again, list);
  size_t spare = text->room - text->length;
  int want = vsnprintf(text->bytes + text->length, spare, fmt, list);
  va_end(list);
  if (want < 0)
    text->failed = true;
  else if ((size_t)want < spare)
    text->length += (size_t)want;
  else if (reserve(text, (size_t)want)) {
    vsnprintf(text->bytes + text->length, (size_t)want + 1, fmt, again);
    text->length += (size_t)want;
  }
  va_end(again);
  if (text->bytes) text->bytes[text->length] = 0; /* also when memory ran out in the second step */
}

/* The C locale; glibc and musl hand out a static object for it, so it is never freed. */
static locale_t plain_locale(void) { return newlocale(LC_ALL_MASK, "C", (locale_t)0); }

void es_text_number(es_text *text, double value) {
  if (isnan(value)) {
    es_text_bytes(text, "nan", 3);
    return;
  } /* sign and payload are not kept */
  char digits[40];
  locale_t plain = plain_locale();
  if (!plain) {
    text->failed = true;
    return;
  }
  locale_t before = uselocale(plain);
  for (int precision = 15; precision <= 17; precision++) {
    snprintf(digits, sizeof digits, "%.*g", precision, value);
    if (strtod(digits, NULL) == value) break;
  }
  uselocale(before);
  es_text_bytes(text, digits, strlen(digits));
}

bool es_number_read(const char *text, const char **end, double *out) {
  locale_t plain = plain_locale();
  if (!plain) return false;
  locale_t before = uselocale(plain);
  char *stop;
  *out = strtod(text, &stop);
  uselocale(before);
  *end = stop;
  return stop != text;
}

char *es_text_take(es_text *text) {
  if (!text->bytes && !text->failed) es_text_bytes(text, "", 0);
  char *bytes = text->failed ? NULL : text->bytes;
  if (bytes) text->bytes = NULL;
  es_text_clear(text);
  return bytes;
}

void es_text_clear(es_text *text) {
  es_free(text->bytes);
  *text = (es_text){ 0 };
}
