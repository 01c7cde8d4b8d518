/* Growable text. The first failure sticks (`failed`), so appends need no checks until the end. */
#ifndef ES_TEXT_H
#define ES_TEXT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct es_text {
  char *bytes;   /* always terminated once something was appended; owned */
  size_t length, room;
  bool failed;   /* memory ran out: contents are cut */
} es_text;

void es_text_add(es_text *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void es_text_bytes(es_text *text, const void *bytes, size_t length);
void es_text_string(es_text *text, const char *string);
void es_text_integer(es_text *text, int64_t value); /* decimal; these two cost a tenth of es_text_add */
/* The shortest of 15..17 digits that reads back as the same double; "inf", "-inf", "nan"; '.' in every locale. */
void es_text_number(es_text *text, double value);
char *es_text_take(es_text *text); /* owned by the caller (es_free); NULL when failed; text is empty again */
void es_text_clear(es_text *text);

/* Reads a number as es_text_number writes it (also decimal and hexadecimal forms of C), in every locale. */
bool es_number_read(const char *text, const char **end, double *out);
#endif
