/* Content hashes: the only includer of libsodium's generic hash. Stateless after es_hash_start. */
#include "base/hash.h"
#include <sodium.h>
#include <string.h>

_Static_assert(ES_HASH_BYTES == crypto_generichash_BYTES, "es_hash is BLAKE2b-256");

bool es_hash_start(void) { return sodium_init() >= 0; } /* idempotent and thread-safe */

void es_hash_of(const void *bytes, size_t length, es_hash *out) {
  crypto_generichash(out->bytes, sizeof out->bytes, bytes, length, NULL, 0);
}

void es_hash_keyed(const uint8_t key[32], const void *bytes, size_t length, es_hash *out) {
  crypto_generichash(out->bytes, sizeof out->bytes, bytes, length, key, 32);
}

bool es_hash_equal(const es_hash *a, const es_hash *b) {
  return sodium_memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

void es_hash_hex(const es_hash *hash, char out[65]) {
  sodium_bin2hex(out, 65, hash->bytes, sizeof hash->bytes);
}
