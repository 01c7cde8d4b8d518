/* The index of a store: from a source (blueprint text and what was asked of it) to the key of its record, so that a hit
 * builds nothing. Beside the records, written with them in one transaction.
 *
 * Entry: key[32], keyed BLAKE2b-256[32] over domain, source, key and name, then the name's bytes.
 * Invariant: an entry is believed only with its MAC, which covers the source it lies under, so no entry can be made or
 * moved without the secret. What an entry says stays true for ever; its record may be gone, and is checked itself. */
#include <stdlib.h>
#include <string.h>
#include "base/memory.h"
#include "store/inside.h"

static const char domain[16] = "esper index 1"; /* no record begins like this */
_Static_assert(ES_ENTRY_HEAD + ES_SOURCE_NAME_MAX <= ES_ENTRY_MAX, "an entry holds the longest name");

static void mac_of(const es_hash *source, const es_hash *key, const char *name, size_t length,
                   const uint8_t secret[ES_SECRET_BYTES], es_hash *out) {
  uint8_t all[sizeof domain + 2 * ES_HASH_BYTES + ES_SOURCE_NAME_MAX];
  memcpy(all, domain, sizeof domain);
  memcpy(all + sizeof domain, source->bytes, ES_HASH_BYTES);
  memcpy(all + sizeof domain + ES_HASH_BYTES, key->bytes, ES_HASH_BYTES);
  memcpy(all + sizeof domain + 2 * ES_HASH_BYTES, name, length);
  es_hash_keyed(secret, all, sizeof domain + 2 * ES_HASH_BYTES + length, out);
}

esper_status es_entry_encode(const es_source *source, const es_hash *key, const uint8_t secret[ES_SECRET_BYTES],
                             uint8_t out[ES_ENTRY_MAX], size_t *length, es_error *err) {
  const char *name = source->name ? source->name : "";
  size_t bytes = strlen(name);
  es_hash mac;
  *length = 0;
  if (bytes > ES_SOURCE_NAME_MAX)
    return es_fail(err, ESPER_EARG, "a source's name has %zu bytes, at most %d are possible", bytes, ES_SOURCE_NAME_MAX);
  mac_of(&source->hash, key, name, bytes, secret, &mac);
  memcpy(out, key->bytes, ES_HASH_BYTES);
  memcpy(out + ES_HASH_BYTES, mac.bytes, ES_HASH_BYTES);
  memcpy(out + ES_ENTRY_HEAD, name, bytes);
  *length = ES_ENTRY_HEAD + bytes;
  return ESPER_OK;
}

bool es_entry_decode(const es_hash *source, const void *bytes, size_t length, const uint8_t secret[ES_SECRET_BYTES],
                     es_hash *key, char name[ES_SOURCE_NAME_MAX + 1]) {
  const uint8_t *at = bytes;
  es_hash stored, seen;
  if (length < ES_ENTRY_HEAD || length > ES_ENTRY_HEAD + ES_SOURCE_NAME_MAX) return false;
  memcpy(key->bytes, at, ES_HASH_BYTES);
  memcpy(stored.bytes, at + ES_HASH_BYTES, ES_HASH_BYTES);
  memcpy(name, at + ES_ENTRY_HEAD, length - ES_ENTRY_HEAD);
  name[length - ES_ENTRY_HEAD] = 0;
  mac_of(source, key, name, length - ES_ENTRY_HEAD, secret, &seen);
  return es_hash_equal(&stored, &seen);
}

static int by_bytes(const void *a, const void *b) { return memcmp(a, b, ES_HASH_BYTES); }

esper_status es_index_sift(es_env *env, const uint8_t secret[ES_SECRET_BYTES], const es_hash *records, size_t count,
                           es_index_report *out, es_error *err) {
  char name[ES_SOURCE_NAME_MAX + 1];
  memset(out, 0, sizeof *out);
  esper_status status = es_env_keys(env, ES_TABLE_index, &out->useless, &out->total, err);
  for (size_t k = 0; k < out->total && !status; k++) {
    void *bytes;
    size_t length;
    es_hash key;
    status = es_env_get(env, ES_TABLE_index, &out->useless[k], &bytes, &length, err);
    if (status == ESPER_ENOTFOUND) { /* taken out meanwhile */
      if (err) *err = (es_error){ 0 };
      status = ESPER_OK;
      continue;
    }
    bool good = !status && es_entry_decode(&out->useless[k], bytes, length, secret, &key, name);
    es_free(bytes);
    if (status) break;
    if (good && count && bsearch(&key, records, count, sizeof *records, by_bytes)) continue;
    out->bad += !good;
    out->useless[out->count++] = out->useless[k];
  }
  return status;
}
