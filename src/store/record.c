/* Records: the bytes of an artifact and back. Stands between the store's callers and LMDB, and is what an export holds.
 *
 * Layout, integers little endian:
 *   "ESPR"  u32 version  u64 total length  i64 created  graph hash[32]
 *   7 texts: u32 length, bytes, 0                    name hyper mode dtype target passes build
 *   u32 count of sections (7), per section: u64 length, BLAKE2b-256[32]
 *   the sections, each starting at a multiple of 16 (zeros between)
 *   keyed BLAKE2b-256 of everything before
 * Invariant: one record has one encoding; decode reads no byte outside `length` whatever the bytes are. */
#include <string.h>
#include <time.h>
#include "base/memory.h"
#include "store/inside.h"

enum { VERSION = 1, HEAD_BYTES = 24 + ES_HASH_BYTES, VERSION_AT = 4 };
static const char magic[4] = { 'E', 'S', 'P', 'R' };

static void put_int(es_text *out, uint64_t value, int bytes) {
  uint8_t b[8];
  for (int k = 0; k < bytes; k++) b[k] = (uint8_t)(value >> (8 * k));
  es_text_bytes(out, b, (size_t)bytes);
}

static void pad(es_text *out) {
  static const char zeros[16];
  es_text_bytes(out, zeros, -out->length & 15);
}

static bool plain(const char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) return false;
  return true;
}

static esper_status check(const es_record *record, es_error *err) {
  size_t total = 4096;
  es_key key = record->key;
  for (int32_t k = 0; k < ES_FIELDS; k++) {
    const char *text = *es_key_field(&key, k);
    if (text && !plain(text))
      return es_fail(err, ESPER_EARG, "text %d of a key holds a control character; keys are plain text", k);
    if (text && __builtin_add_overflow(total, strlen(text), &total)) total = SIZE_MAX;
  }
  for (int k = 0; k < ES_SECTION_COUNT; k++) {
    if (record->length[k] && !record->bytes[k])
      return es_fail(err, ESPER_EARG, "section %d has a length and no bytes", k);
    if (total > ES_RECORD_MAX || record->length[k] > ES_RECORD_MAX - total)
      return es_fail(err, ESPER_ELIMIT, "record of more than %d MiB; the store takes no larger one", ES_RECORD_MAX >> 20);
    total += record->length[k];
  }
  return ESPER_OK;
}

esper_status es_record_encode(const es_record *record, const uint8_t secret[ES_SECRET_BYTES], es_text *out, es_error *err) {
  esper_status status = check(record, err);
  if (status) return status;
  es_key key = record->key;
  es_text_bytes(out, magic, sizeof magic);
  put_int(out, VERSION, 4);
  put_int(out, 0, 8); /* total length, known at the end */
  put_int(out, (uint64_t)(record->created ? record->created : (int64_t)time(NULL)), 8);
  es_text_bytes(out, key.graph.bytes, ES_HASH_BYTES);
  for (int32_t k = 0; k < ES_FIELDS; k++) {
    const char *text = *es_key_field(&key, k);
    size_t length = text ? strlen(text) : 0;
    put_int(out, length, 4);
    es_text_bytes(out, text ? text : "", length + 1);
  }
  put_int(out, ES_SECTION_COUNT, 4);
  for (int k = 0; k < ES_SECTION_COUNT; k++) {
    es_hash hash;
    es_hash_of(record->bytes[k], record->length[k], &hash);
    put_int(out, record->length[k], 8);
    es_text_bytes(out, hash.bytes, ES_HASH_BYTES);
  }
  for (int k = 0; k < ES_SECTION_COUNT; k++) {
    pad(out);
    es_text_bytes(out, record->bytes[k], record->length[k]);
  }
  if (out->failed) return es_fail(err, ESPER_ENOMEM, "out of memory for a record to be stored");
  uint64_t total = out->length + ES_HASH_BYTES;
  for (int k = 0; k < 8; k++) out->bytes[8 + k] = (char)(total >> (8 * k));
  es_hash mac;
  es_hash_keyed(secret, out->bytes, out->length, &mac);
  es_text_bytes(out, mac.bytes, ES_HASH_BYTES);
  return out->failed ? es_fail(err, ESPER_ENOMEM, "out of memory for a record to be stored") : ESPER_OK;
}

bool es_record_authentic(const void *bytes, size_t length, const uint8_t secret[ES_SECRET_BYTES]) {
  if (length < HEAD_BYTES + ES_HASH_BYTES || length > ES_RECORD_MAX) return false;
  es_hash mac, stored;
  memcpy(stored.bytes, (const uint8_t *)bytes + length - ES_HASH_BYTES, ES_HASH_BYTES);
  es_hash_keyed(secret, bytes, length - ES_HASH_BYTES, &mac);
  return es_hash_equal(&mac, &stored);
}

/* A reader that stays inside its bytes; `failed` sticks. */
typedef struct reader {
  const uint8_t *bytes;
  size_t at, end;
  bool failed;
} reader;

static const uint8_t *take(reader *r, uint64_t length) {
  if (r->failed || length > r->end - r->at) {
    r->failed = true;
    return NULL;
  }
  const uint8_t *p = r->bytes + r->at;
  r->at += (size_t)length;
  return p;
}

static uint64_t get_int(reader *r, int bytes) {
  const uint8_t *p = take(r, (uint64_t)bytes);
  uint64_t value = 0;
  for (int k = 0; p && k < bytes; k++) value |= (uint64_t)p[k] << (8 * k);
  return value;
}

/* A text with its terminator; plain, and without a 0 inside. */
static const char *get_text(reader *r) {
  uint64_t length = get_int(r, 4);
  const char *text = (const char *)take(r, length + 1);
  if (text && (memchr(text, 0, (size_t)length + 1) != text + length || !plain(text))) r->failed = true;
  return text;
}

/* Zeros up to the next multiple of 16. */
static void skip_pad(reader *r) {
  size_t length = -r->at & 15;
  const uint8_t *p = take(r, length);
  for (size_t k = 0; p && k < length; k++)
    if (p[k]) r->failed = true;
}

esper_status es_record_decode(const void *bytes, size_t length, bool hashes, es_record *out, es_error *err) {
  memset(out, 0, sizeof *out);
  if (length < HEAD_BYTES + ES_HASH_BYTES || length > ES_RECORD_MAX || memcmp(bytes, magic, sizeof magic))
    return es_fail(err, ESPER_ECORRUPT, "not a record: %zu bytes without its magic", length);
  reader r = { bytes, VERSION_AT, length - ES_HASH_BYTES, false };
  uint64_t version = get_int(&r, 4);
  if (version != VERSION)
    return es_fail(err, ESPER_ENOTFOUND, "record has format %llu, this Esper reads %d; it is made anew",
                   (unsigned long long)version, VERSION);
  es_hash hash[ES_SECTION_COUNT];
  uint64_t total = get_int(&r, 8);
  out->created = (int64_t)get_int(&r, 8);
  memcpy(out->key.graph.bytes, take(&r, ES_HASH_BYTES), ES_HASH_BYTES); /* cannot fail: inside HEAD_BYTES */
  if (total != length) r.failed = true;
  for (int32_t k = 0; k < ES_FIELDS; k++) *es_key_field(&out->key, k) = get_text(&r);
  if (get_int(&r, 4) != ES_SECTION_COUNT) r.failed = true;
  for (int k = 0; k < ES_SECTION_COUNT; k++) {
    out->length[k] = (size_t)get_int(&r, 8);
    const uint8_t *stored = take(&r, ES_HASH_BYTES);
    if (stored) memcpy(hash[k].bytes, stored, ES_HASH_BYTES);
  }
  for (int k = 0; k < ES_SECTION_COUNT; k++) {
    skip_pad(&r);
    out->bytes[k] = take(&r, out->length[k]);
    if (out->length[k] == 0) out->bytes[k] = NULL;
    es_hash seen;
    if (!hashes || r.failed) continue;
    es_hash_of(out->bytes[k], out->length[k], &seen);
    if (!es_hash_equal(&seen, &hash[k])) r.failed = true;
  }
  if (!r.failed && r.at == r.end) return ESPER_OK;
  memset(out, 0, sizeof *out);
  return es_fail(err, ESPER_ECORRUPT, "not a record: its parts do not fit its %zu bytes", length);
}

void es_record_free(es_record *record) {
  if (!record) return;
  es_free(record->owner);
  memset(record, 0, sizeof *record);
}
