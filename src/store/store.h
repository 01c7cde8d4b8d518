/* The artifact store: one LMDB environment, records checked by a keyed MAC before any byte is used.
 * Durability: LMDB default (synchronous); one write transaction per record. See docs for the record format. */
#ifndef ES_STORE_H
#define ES_STORE_H
#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"

/* Fields of a key, in hashing order; kept in the record so that `why` can say which one differs. */
typedef struct es_key {
  es_hash graph;           /* canonical graph text */
  const char *name;        /* blueprint name (not hashed) */
  const char *hyper;       /* "dim=384 expand=4", sorted */
  const char *mode;        /* train | eval */
  const char *dtype;       /* f32 | f64 */
  const char *target;      /* cpu/scalar, cpu/avx2 ... */
  const char *passes;      /* pass list with versions */
  const char *build;       /* compiler build: library version + hash of embedded Lua + libtcc build */
} es_key;
void es_key_hash(const es_key *key, es_hash *out);

typedef enum es_section { ES_SECTION_graph, ES_SECTION_c, ES_SECTION_object, ES_SECTION_plan, ES_SECTION_certificate,
                          ES_SECTION_tuning, ES_SECTION_signature, ES_SECTION_COUNT } es_section;
typedef struct es_record { /* views into caller's memory on put; into `owner` on get */
  es_key key;
  int64_t created;         /* unix seconds */
  const void *bytes[ES_SECTION_COUNT];
  size_t length[ES_SECTION_COUNT];
  void *owner;             /* es_record_free frees it */
} es_record;
void es_record_free(es_record *record);

typedef struct es_store es_store;
/* Opens (creates) the store in directory `path`; one environment per directory and process (shared, counted). */
esper_status es_store_open(const char *path, es_store **out, es_error *err);
void es_store_close(es_store *store);
esper_status es_store_put(es_store *store, const es_record *record, es_error *err); /* idempotent; on disk when it returns OK */
/* ENOTFOUND; ECORRUPT when present but not authentic (the record is moved to quarantine: a miss for the caller). */
esper_status es_store_get(es_store *store, const es_hash *key, es_record *out, es_error *err);
esper_status es_store_delete(es_store *store, const es_hash *key, es_error *err);
/* Calls visit for each authentic record's key fields, in key order; stops when it returns false. */
typedef bool (*es_store_visit)(void *user, const es_hash *key, const es_record *record);
esper_status es_store_each(es_store *store, es_store_visit visit, void *user, es_error *err);
typedef struct es_store_report { int64_t records, bytes, bad, quarantined, file_bytes; } es_store_report;
esper_status es_store_verify(es_store *store, es_store_report *out, es_error *err);
/* Deletes records older than `older` seconds and quarantine, oldest first until `bytes` fit; -1 = no limit. */
esper_status es_store_gc(es_store *store, int64_t older, int64_t bytes, int64_t *deleted, es_error *err);
/* One file holding all (or one) records, signed hashes inside; import checks and re-MACs under this store's key. */
esper_status es_store_export(es_store *store, const es_hash *key_or_null, const char *file, int64_t *count, es_error *err);
esper_status es_store_import(es_store *store, const char *file, int64_t *count, es_error *err);
#endif
