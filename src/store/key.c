/* Keys: what an artifact is found by. Invariant: the hash is injective over (graph, hashed texts), because it is taken
 * over the hashes of the fields, which have one length; and it changes when the list of fields does. */
#include <string.h>
#include "store/inside.h"

const char **es_key_field(es_key *key, int32_t index) {
  const char **const fields[ES_FIELDS] = { &key->name,   &key->hyper,  &key->mode, &key->dtype,
                                           &key->target, &key->passes, &key->build };
  return fields[index];
}

void es_key_hash(const es_key *key, es_hash *out) {
  static const char domain[] = "esper key 1";
  es_hash parts[ES_FIELDS + 1];
  es_key copy = *key;
  es_hash_of(domain, sizeof domain - 1, &parts[0]);
  parts[1] = key->graph;
  for (int32_t k = 1; k < ES_FIELDS; k++) { /* 0 is the name */
    const char *text = *es_key_field(&copy, k);
    es_hash_of(text ? text : "", text ? strlen(text) : 0, &parts[k + 1]);
  }
  es_hash_of(parts, sizeof parts, out);
}

static int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool es_key_parse(const char *hex, es_hash *out) {
  if (!hex || strlen(hex) != 2 * ES_HASH_BYTES) return false;
  for (int k = 0; k < ES_HASH_BYTES; k++) {
    int high = digit(hex[2 * k]), low = digit(hex[2 * k + 1]);
    if (high < 0 || low < 0) return false;
    out->bytes[k] = (uint8_t)(high << 4 | low);
  }
  return true;
}
