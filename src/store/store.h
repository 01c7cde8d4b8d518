/* The artifact store: one LMDB environment, records checked by a keyed MAC before any byte is used.
 * Durability: LMDB default (synchronous); one write transaction per record.
 *
 * A store is a directory (0700) with data.mdb, lock.mdb (LMDB), secret (32 random bytes, 0600: the key of the MACs),
 * clean (what data.mdb looked like when it was last left in order) and data.mdb.corrupt-N (files set aside).
 * LMDB trusts its file and dies on a damaged one, so a store that was not closed in order, or whose file is not the
 * one `clean` describes, is first examined in a forked child (structure page by page, then records). When that finds
 * the structure broken, the file is set aside, nothing is deleted, and the store starts empty; es_store_note says so.
 * Every status below can also be EIO, ENOSPACE or ENOMEM. Handles may be used from many threads, not after fork. */
#ifndef ES_STORE_H
#define ES_STORE_H
#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"

/* Fields of a key, in hashing order; kept in the record so that `why` can say which one differs.
 * Texts: NULL counts as ""; no control characters. */
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
bool es_key_parse(const char *hex, es_hash *out); /* 64 hex digits, as es_hash_hex prints them */

typedef enum es_section { ES_SECTION_graph, ES_SECTION_c, ES_SECTION_object, ES_SECTION_plan, ES_SECTION_certificate,
                          ES_SECTION_tuning, ES_SECTION_signature, ES_SECTION_COUNT } es_section;
typedef struct es_record { /* views into caller's memory on put; into `owner` on get */
  es_key key;
  int64_t created;         /* unix seconds; 0 on put = now */
  const void *bytes[ES_SECTION_COUNT]; /* on get 16-byte aligned; NULL when the section is empty */
  size_t length[ES_SECTION_COUNT];
  void *owner;             /* es_record_free frees it */
} es_record;
void es_record_free(es_record *record);

/* What was asked for, before its graph is known. A source that always gives one graph has an entry in the index, which
 * leads to the record without building anything. */
enum { ES_SOURCE_NAME_MAX = 100 };
typedef struct es_source {
  es_hash hash;            /* over all that decides the record: text, hyper-parameters given, mode, dtype, target, passes, build */
  const char *name;        /* of its blueprint; records of equal graphs share one key */
} es_source;

typedef struct es_store es_store;
/* Opens (creates) the store in directory `path`; one environment per directory and process (shared, counted). A
 * directory that cannot be written is opened for reading. Refuses network file systems, where LMDB loses data, unless
 * $ESPER_STORE_FORCE=1. Errors: ENOTFOUND nothing there and not writable; ECORRUPT damaged and not writable; EIO. */
esper_status es_store_open(const char *path, es_store **out, es_error *err);
void es_store_close(es_store *store); /* NULL is fine; in a child of fork it does nothing */
/* What opening found worth telling (set aside, read-only, records that fail their check); "" when nothing. */
const char *es_store_note(const es_store *store);
/* Idempotent; on disk when it returns OK, and with it in one transaction the index entry of `source` (NULL: none).
 * Errors: EARG a text is not plain or too long; ELIMIT record over 64 MiB. */
esper_status es_store_put(es_store *store, const es_record *record, const es_source *source, es_error *err);
/* ENOTFOUND (also for a record of another format version); ECORRUPT when present but not authentic: the record is
 * moved to quarantine and is a miss for the caller. */
esper_status es_store_get(es_store *store, const es_hash *key, es_record *out, es_error *err);
/* The key of the record a source leads to, and the source's name (terminated). ENOTFOUND: no entry, or none that fits its
 * MAC. The record may be gone all the same. */
esper_status es_store_find(es_store *store, const es_hash *source, es_hash *key, char name[ES_SOURCE_NAME_MAX + 1], es_error *err);
/* Adds the entry of a source whose record is there already. */
esper_status es_store_index(es_store *store, const es_source *source, const es_hash *key, es_error *err);
esper_status es_store_delete(es_store *store, const es_hash *key, es_error *err); /* gc takes its index entries out */
/* Calls visit for each authentic record, in key order; stops when it returns false. The record lives until visit
 * returns; visit may call the store. */
typedef bool (*es_store_visit)(void *user, const es_hash *key, const es_record *record);
esper_status es_store_each(es_store *store, es_store_visit visit, void *user, es_error *err);
/* One line per authentic record, in key order, fields separated by tabs:
 * key  created  bytes  name  hyper  mode  dtype  target  passes  build  graph (key and graph in hex)  "certified" or nothing. */
esper_status es_store_list(es_store *store, es_text *out, es_error *err);
typedef struct es_store_report {
  int64_t records, bytes, bad, quarantined, file_bytes;
  int64_t indexed, orphans, index_bad; /* entries of the index; those without a record; those not authentic */
} es_store_report;
/* Reads everything: structure in a child, MAC and section hashes of every record and MAC of every index entry here.
 * Changes nothing. ECORRUPT when the structure is damaged; bad records and entries are only counted. */
esper_status es_store_verify(es_store *store, es_store_report *out, es_error *err);
/* Deletes quarantine, records that fail their check, records older than `older` seconds, then the oldest until the
 * rest fits into `bytes`; -1 = no limit; then index entries that lead nowhere, which *deleted does not count. The file
 * keeps its size; its pages are used again. */
esper_status es_store_gc(es_store *store, int64_t older, int64_t bytes, int64_t *deleted, es_error *err);
/* One file holding all (or one) records with their hashes; written beside `file`, then renamed onto it. */
esper_status es_store_export(es_store *store, const es_hash *key_or_null, const char *file, int64_t *count, es_error *err);
/* Takes over all records of an export, with MACs under this store's secret; an export has no index, entries come as
 * the records are first asked for. The hashes tell damage, not origin: import
 * only what you would run, since a record holds machine code. ECORRUPT: nothing was imported. */
esper_status es_store_import(es_store *store, const char *file, int64_t *count, es_error *err);
#endif
