/* What the files of the store share; nobody else includes it. Order of dependence:
 * store -> {transfer, health, files} -> index -> lmdb -> {pages, record} -> key. */
#ifndef ES_STORE_INSIDE_H
#define ES_STORE_INSIDE_H
#include <sys/types.h>
#include "store/store.h"

enum { ES_SECRET_BYTES = 32, ES_RECORD_MAX = 64 << 20, ES_FIELDS = 7 };

/* key.c: the texts of a key in record order: name first, then the hashed ones. */
const char **es_key_field(es_key *key, int32_t index);

/* record.c: bytes of a record and back. */
esper_status es_record_encode(const es_record *record, const uint8_t secret[ES_SECRET_BYTES], es_text *out, es_error *err);
bool es_record_authentic(const void *bytes, size_t length, const uint8_t secret[ES_SECRET_BYTES]);
/* Views into `bytes`, which must be 16-byte aligned; nothing is owned. Safe on hostile bytes. ENOTFOUND: other
 * format version. ECORRUPT: not a record, or (hashes = true) a section that does not fit its hash. */
esper_status es_record_decode(const void *bytes, size_t length, bool hashes, es_record *out, es_error *err);

/* lmdb.c: the environment. Keys are 32 bytes; every call is one transaction. */
typedef enum es_table { ES_TABLE_records, ES_TABLE_quarantine, ES_TABLE_index, ES_TABLE_COUNT } es_table;
typedef struct es_env es_env;
typedef struct es_item { /* one value on its way in */
  es_table table;
  const es_hash *key;
  const void *bytes;
  size_t length;
} es_item;
esper_status es_env_open(const char *directory, bool readonly, es_env **out, es_error *err);
void es_env_close(es_env *env);
esper_status es_env_put(es_env *env, const es_item *items, size_t count, es_error *err); /* all of them or none */
/* A copy (es_free), made before anything looks at it. */
esper_status es_env_get(es_env *env, es_table table, const es_hash *key, void **bytes, size_t *length, es_error *err);
esper_status es_env_quarantine(es_env *env, const es_hash *key, es_error *err);
esper_status es_env_delete(es_env *env, es_table table, const es_hash *keys, size_t count, int64_t *deleted, es_error *err);
esper_status es_env_keys(es_env *env, es_table table, es_hash **keys, size_t *count, es_error *err);

/* What a child saw of a store in doubt. */
typedef struct es_findings {
  int32_t sound;         /* 1: structure whole, LMDB walked it */
  int64_t records, bad;  /* records read; of those, not authentic */
  char text[200];        /* what is wrong with the structure */
} es_findings;
/* lmdb.c: only for a process that may die of it. Takes no memory from es_alloc. */
void es_env_examine(const char *directory, const uint8_t secret[ES_SECRET_BYTES], es_findings *out);
/* pages.c: the structure of the file as of a transaction, page by page; txnid NULL: the meta pages alone, which is what
 * LMDB must not be given wrong when it opens. NULL when sound, else what is wrong;
 * AGAIN when a writer moved on and the caller should take a new snapshot; UNABLE when files or memory ran out. */
#define ES_PAGES_AGAIN ((const char *)1)
#define ES_PAGES_UNABLE ((const char *)2)
const char *es_pages_check(const char *file, const uint64_t *txnid);

/* health.c */
esper_status es_health_examine(const char *directory, const uint8_t secret[ES_SECRET_BYTES], es_findings *out, es_error *err);
esper_status es_health_set_aside(const char *directory, char *name, size_t room, es_error *err);
typedef enum es_mark { ES_MARK_clean = 'c', ES_MARK_busy = 'b', ES_MARK_doubt = 'd' } es_mark;
bool es_mark_fits(int fd, const char *directory, bool alone); /* data.mdb is as the marker says, and was left in order */
void es_mark_write(int fd, const char *directory, es_mark mark);

/* files.c */
esper_status es_files_directory(const char *path, es_error *err); /* makes it and its parents, 0700 */
esper_status es_files_local(const char *path, es_error *err);     /* refuses network file systems */
esper_status es_files_secret(const char *directory, bool readonly, uint8_t out[ES_SECRET_BYTES], es_error *err);
/* 0600, `bytes` zeros with their disk space reserved; unless it is there. 0 or errno. */
int es_files_create(const char *directory, const char *name, int64_t bytes);
bool es_files_path(char *out, const char *directory, const char *name); /* PATH_MAX; false when too long */

/* store.c, for transfer.c */
esper_status es_store_usable(es_store *store, bool write, es_error *err);
esper_status es_store_read(es_store *store, const es_hash *key, bool hashes, es_record *out, es_error *err);
esper_status es_store_keys(es_store *store, es_hash **keys, size_t *count, es_error *err);

/* index.c: entries, and what of the index is of no use. */
enum { ES_ENTRY_HEAD = 2 * ES_HASH_BYTES, ES_ENTRY_MAX = ES_ENTRY_HEAD + 256 };
esper_status es_entry_encode(const es_source *source, const es_hash *key, const uint8_t secret[ES_SECRET_BYTES],
                             uint8_t out[ES_ENTRY_MAX], size_t *length, es_error *err);
/* False for anything but an entry made with this secret for this source. Safe on hostile bytes. */
bool es_entry_decode(const es_hash *source, const void *bytes, size_t length, const uint8_t secret[ES_SECRET_BYTES],
                     es_hash *key, char name[ES_SOURCE_NAME_MAX + 1]);
typedef struct es_index_report {
  es_hash *useless;         /* entries that lead nowhere or fail their check; es_free */
  size_t count, bad, total; /* of those; of them not authentic; of all */
} es_index_report;
/* `records`: keys of all records, ascending. */
esper_status es_index_sift(es_env *env, const uint8_t secret[ES_SECRET_BYTES], const es_hash *records, size_t count,
                           es_index_report *out, es_error *err);
#endif
