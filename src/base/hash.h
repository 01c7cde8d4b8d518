/* BLAKE2b-256 (libsodium): content hashes, and keyed MACs of stored records. */
#ifndef ES_HASH_H
#define ES_HASH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ES_HASH_BYTES = 32 };
typedef struct es_hash { uint8_t bytes[ES_HASH_BYTES]; } es_hash;

bool es_hash_start(void); /* initialises libsodium once; false when it cannot */
void es_hash_of(const void *bytes, size_t length, es_hash *out);
void es_hash_keyed(const uint8_t key[32], const void *bytes, size_t length, es_hash *out);
bool es_hash_equal(const es_hash *a, const es_hash *b); /* constant time */
void es_hash_hex(const es_hash *hash, char out[65]);
#endif
