/* The LMDB environment under a store: the only includer of lmdb.h. Keys are 32-byte digests in three tables: records,
 * quarantine and index; every call is one short transaction.
 * Invariants: default (synchronous) durability, no WRITEMAP, no nested transactions, no duplicates. The environment is
 * replaced (grown, reopened after a failed write, taken anew when the file was set aside) only with `lock` held for
 * writing, that is with no transaction of this process alive; transactions hold it for reading. */
#include <errno.h>
#include <limits.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include "base/memory.h"
#include "store/inside.h"

enum { READERS = 1024, LOCK_BYTES = 128 + 64 * READERS, TRIES = 8, READER_CHECK_SECONDS = 60 };
static const size_t largest_map = (size_t)64 << 30; /* sparse: address space only */
static const size_t smallest_map = (size_t)16 << 20;
static const char *const table_names[ES_TABLE_COUNT] = { "records", "quarantine", "index" };
static const MDB_dbi absent = (MDB_dbi)-1; /* table of a store that is only read and was made before there was one */

struct es_env {
  char directory[PATH_MAX];
  bool readonly;
  pthread_rwlock_t lock;
  MDB_env *mdb;          /* NULL while it could not be reopened */
  MDB_dbi dbi[ES_TABLE_COUNT];
  size_t size;           /* of the map */
  dev_t dev;
  ino_t ino;             /* of data.mdb */
  _Atomic time_t checked; /* when dead readers were last cleared */
};

static esper_status fail(const char *directory, int rc, const char *doing, es_error *err) {
  struct statvfs disk;
  esper_status status = ESPER_EIO;
  const char *remedy = "";
  /* LMDB reports a write cut short by a full disk as EIO. */
  if (rc == ENOSPC || rc == EDQUOT || rc == EFBIG ||
      (rc == EIO && statvfs(directory, &disk) == 0 && disk.f_bavail < 64)) {
    status = ESPER_ENOSPACE;
    remedy = "; free some space, what is stored stays readable";
  } else if (rc == MDB_MAP_FULL) {
    status = ESPER_ENOSPACE;
    remedy = "; run gc, or allow the process more address space";
  } else if (rc == ENOMEM) {
    status = ESPER_ENOMEM;
  } else if (rc == EACCES || rc == EROFS || rc == EPERM) {
    remedy = "; the store can only be read";
  } else if (rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH ||
             rc == MDB_CURSOR_FULL || rc == MDB_INCOMPATIBLE || rc == MDB_BAD_VALSIZE) {
    status = ESPER_ECORRUPT;
    remedy = "; close and open the store to have it examined";
  }
  return es_fail(err, status, "store %s: cannot %s: %s%s", directory, doing, mdb_strerror(rc), remedy);
}

/* Opens with the largest map the process may have, up to *size. */
static int open_map(const char *directory, unsigned flags, size_t *size, MDB_env **out) {
  for (;;) {
    MDB_env *mdb;
    int rc = mdb_env_create(&mdb);
    if (rc) return rc;
    rc = mdb_env_set_maxreaders(mdb, READERS);
    if (!rc) rc = mdb_env_set_maxdbs(mdb, ES_TABLE_COUNT);
    if (!rc) rc = mdb_env_set_mapsize(mdb, *size);
    if (!rc) rc = mdb_env_open(mdb, directory, MDB_NOTLS | flags, 0600);
    if (!rc) {
      *out = mdb;
      return 0;
    }
    mdb_env_close(mdb);
    if (rc == ENOMEM && *size > smallest_map) *size /= 2;
    /* Somebody else's directory: without its lock file only reading is left. */
    else if ((flags & MDB_RDONLY) && !(flags & MDB_NOLOCK) && (rc == EACCES || rc == EROFS)) flags |= MDB_NOLOCK;
    else return rc;
  }
}

/* Handles of the tables; makes them where they are missing and `create`, else only the first `needed` must be there. */
static int open_tables(MDB_env *mdb, MDB_dbi dbi[ES_TABLE_COUNT], bool create, int needed) {
  MDB_txn *txn;
  int rc = mdb_txn_begin(mdb, NULL, create ? 0 : MDB_RDONLY, &txn);
  if (rc) return rc;
  for (int t = 0; t < ES_TABLE_COUNT && !rc; t++) {
    rc = mdb_dbi_open(txn, table_names[t], create ? MDB_CREATE : 0, &dbi[t]);
    if (rc == MDB_NOTFOUND && t >= needed) {
      dbi[t] = absent;
      rc = 0;
    }
  }
  if (!rc) return mdb_txn_commit(txn); /* of a reader too: keeps the handles */
  mdb_txn_abort(txn);
  return rc;
}

static int identity(const char *directory, dev_t *dev, ino_t *ino) {
  char path[PATH_MAX];
  struct stat info;
  if (!es_files_path(path, directory, "data.mdb")) return ENAMETOOLONG;
  if (stat(path, &info)) return errno;
  *dev = info.st_dev;
  *ino = info.st_ino;
  return 0;
}

/* Closes and opens. Needs the lock for writing, or nobody else to know the env. */
static int reopen(es_env *env, size_t size) {
  if (env->mdb) mdb_env_close(env->mdb);
  env->mdb = NULL;
  MDB_env *mdb;
  int rc = 0;
  if (!env->readonly) { /* readers write into the mapped lock file: a hole in it would be a SIGBUS on a full disk */
    rc = es_files_create(env->directory, "lock.mdb", LOCK_BYTES);
    if (!rc) rc = es_files_create(env->directory, "data.mdb", 0);
  }
  if (!rc) rc = open_map(env->directory, env->readonly ? MDB_RDONLY : 0, &size, &mdb);
  if (rc) return rc;
  int dead;
  mdb_reader_check(mdb, &dead);
  rc = open_tables(mdb, env->dbi, false, env->readonly ? 1 : ES_TABLE_COUNT);
  if (rc == MDB_NOTFOUND && !env->readonly) rc = open_tables(mdb, env->dbi, true, ES_TABLE_COUNT);
  if (!rc) rc = identity(env->directory, &env->dev, &env->ino);
  if (rc) {
    mdb_env_close(mdb);
    return rc;
  }
  env->mdb = mdb;
  env->size = size;
  env->checked = time(NULL);
  return 0;
}

esper_status es_env_open(const char *directory, bool readonly, es_env **out, es_error *err) {
  *out = NULL;
  es_env *env = es_alloc(sizeof *env);
  if (!env) return es_fail(err, ESPER_ENOMEM, "store %s: out of memory", directory);
  pthread_rwlockattr_t attributes;
  pthread_rwlockattr_init(&attributes);
  /* Else a stream of readers keeps the one who must grow the map waiting for ever. */
  pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init(&env->lock, &attributes);
  pthread_rwlockattr_destroy(&attributes);
  snprintf(env->directory, sizeof env->directory, "%s", directory);
  env->readonly = readonly;
  int rc = reopen(env, largest_map);
  if (rc) {
    es_env_close(env);
    if (readonly && (rc == MDB_NOTFOUND || rc == ENOENT))
      return es_fail(err, ESPER_ENOTFOUND, "store %s: nothing there yet, and it cannot be written", directory);
    return fail(directory, rc, "open it", err);
  }
  *out = env;
  return ESPER_OK;
}

void es_env_close(es_env *env) {
  if (!env) return;
  if (env->mdb) mdb_env_close(env->mdb);
  pthread_rwlock_destroy(&env->lock);
  es_free(env);
}

typedef int (*work)(es_env *env, MDB_txn *txn, void *arg);

/* True when the file under the environment is no longer the directory's: another process set it aside. */
static bool moved(const es_env *env) {
  dev_t dev;
  ino_t ino;
  return identity(env->directory, &dev, &ino) || dev != env->dev || ino != env->ino;
}

static void clear_dead_readers(es_env *env) {
  int dead;
  env->checked = time(NULL);
  mdb_reader_check(env->mdb, &dead);
}

static int attempt(es_env *env, bool write, work fn, void *arg) {
  MDB_txn *txn;
  if (!env->mdb || (write && moved(env))) return ESTALE;
  if (write && time(NULL) - env->checked > READER_CHECK_SECONDS) clear_dead_readers(env);
  int rc = mdb_txn_begin(env->mdb, NULL, write ? 0 : MDB_RDONLY, &txn);
  if (rc == MDB_READERS_FULL) {
    clear_dead_readers(env);
    rc = mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &txn);
  }
  if (rc) return rc;
  rc = fn(env, txn, arg);
  if (!rc && write) return mdb_txn_commit(txn);
  mdb_txn_abort(txn);
  return rc;
}

/* Makes another try worth while, or returns why not. `size`: of the map that failed. */
static int recover(es_env *env, int rc, size_t size, MDB_env *used) {
  if (rc != MDB_MAP_FULL && rc != MDB_MAP_RESIZED && rc != MDB_PANIC && rc != ESTALE) return rc;
  if (rc == MDB_MAP_FULL && size >= largest_map) return rc;
  if (rc == MDB_MAP_FULL) {
    pthread_rwlock_rdlock(&env->lock);
    if (env->mdb) clear_dead_readers(env); /* pages they held come free */
    pthread_rwlock_unlock(&env->lock);
  }
  pthread_rwlock_wrlock(&env->lock);
  int again = 0;
  if (env->mdb == used) { /* else another thread was faster */
    bool grow = rc == MDB_MAP_FULL || rc == MDB_MAP_RESIZED;
    again = reopen(env, grow ? size * 2 : size ? size : largest_map);
    if (!again && rc == MDB_MAP_FULL && env->size <= size) again = rc; /* no address space for more */
  }
  pthread_rwlock_unlock(&env->lock);
  return again;
}

static esper_status transact(es_env *env, bool write, const char *doing, work fn, void *arg, es_error *err) {
  int rc = EACCES;
  for (int try = 0; try < TRIES && (!write || !env->readonly); try++) {
    pthread_rwlock_rdlock(&env->lock);
    size_t size = env->size;
    MDB_env *used = env->mdb;
    rc = attempt(env, write, fn, arg);
    pthread_rwlock_unlock(&env->lock);
    if (rc == 0) return ESPER_OK;
    int again = recover(env, rc, size, used);
    if (again) {
      rc = again;
      break;
    }
  }
  if (rc == MDB_NOTFOUND) return es_fail(err, ESPER_ENOTFOUND, "store %s: no such record", env->directory);
  return fail(env->directory, rc, doing, err);
}

static MDB_val key_value(const es_hash *key) {
  return (MDB_val){ .mv_size = ES_HASH_BYTES, .mv_data = (void *)(uintptr_t)key->bytes };
}

typedef struct intake {
  const es_item *items;
  size_t count;
} intake;

static int put_work(es_env *env, MDB_txn *txn, void *arg) {
  const intake *in = arg;
  int rc = 0;
  for (size_t k = 0; k < in->count && !rc; k++) {
    const es_item *item = &in->items[k];
    MDB_val key = key_value(item->key), value = { item->length, (void *)(uintptr_t)item->bytes };
    rc = mdb_put(txn, env->dbi[item->table], &key, &value, 0);
  }
  return rc;
}

esper_status es_env_put(es_env *env, const es_item *items, size_t count, es_error *err) {
  intake in = { items, count };
  return transact(env, true, "write a record", put_work, &in, err);
}

typedef struct item { /* one value on its way out */
  es_table table;
  const es_hash *key;
  void *out;
  size_t length;
} item;

static int get_work(es_env *env, MDB_txn *txn, void *arg) {
  item *it = arg;
  MDB_val key = key_value(it->key), value;
  if (env->dbi[it->table] == absent) return MDB_NOTFOUND;
  int rc = mdb_get(txn, env->dbi[it->table], &key, &value);
  if (rc) return rc;
  if (value.mv_size > ES_RECORD_MAX) return MDB_CORRUPTED;
  it->out = es_alloc(value.mv_size);
  if (!it->out) return ENOMEM;
  memcpy(it->out, value.mv_data, value.mv_size);
  it->length = value.mv_size;
  return 0;
}

esper_status es_env_get(es_env *env, es_table table, const es_hash *key, void **bytes, size_t *length, es_error *err) {
  item it = { .table = table, .key = key };
  esper_status status = transact(env, false, "read a record", get_work, &it, err);
  *bytes = it.out;
  *length = it.length;
  return status;
}

/* The value is copied out first: a write may move the page it lies on. */
static int quarantine_work(es_env *env, MDB_txn *txn, void *arg) {
  item *it = arg;
  int rc = get_work(env, txn, it);
  if (rc) return rc;
  MDB_val key = key_value(it->key), value = { it->length, it->out };
  rc = mdb_put(txn, env->dbi[ES_TABLE_quarantine], &key, &value, 0);
  if (!rc) rc = mdb_del(txn, env->dbi[ES_TABLE_records], &key, NULL);
  es_free(it->out);
  it->out = NULL;
  return rc;
}

esper_status es_env_quarantine(es_env *env, const es_hash *key, es_error *err) {
  item it = { .table = ES_TABLE_records, .key = key };
  return transact(env, true, "move a record to quarantine", quarantine_work, &it, err);
}

typedef struct list {
  es_table table;
  const es_hash *in;
  es_hash *out;
  size_t count, room;
  int64_t deleted;
} list;

static int delete_work(es_env *env, MDB_txn *txn, void *arg) {
  list *l = arg;
  l->deleted = 0;
  for (size_t k = 0; k < l->count; k++) {
    MDB_val key = key_value(&l->in[k]);
    int rc = mdb_del(txn, env->dbi[l->table], &key, NULL);
    if (rc && rc != MDB_NOTFOUND) return rc;
    l->deleted += rc == 0;
  }
  return 0;
}

esper_status es_env_delete(es_env *env, es_table table, const es_hash *keys, size_t count, int64_t *deleted, es_error *err) {
  *deleted = 0;
  /* A transaction uses pages freed two commits earlier. On a full disk there are few: begin with one record, so that
   * what the first transactions free carries the later ones, and the puts after them. */
  enum { BATCH_MAX = 1000 };
  for (size_t at = 0, batch = 1; at < count; at += batch, batch = batch * 2 < BATCH_MAX ? batch * 2 : BATCH_MAX) {
    list l = { .table = table, .in = keys + at, .count = count - at < batch ? count - at : batch };
    esper_status status = transact(env, true, "delete records", delete_work, &l, err);
    if (status) return status;
    *deleted += l.deleted;
  }
  return ESPER_OK;
}

static int keys_work(es_env *env, MDB_txn *txn, void *arg) {
  list *l = arg;
  MDB_cursor *cursor;
  MDB_val key, value;
  l->count = 0;
  if (env->dbi[l->table] == absent) return 0;
  int rc = mdb_cursor_open(txn, env->dbi[l->table], &cursor);
  if (rc) return rc;
  while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
    if (key.mv_size != ES_HASH_BYTES) rc = MDB_CORRUPTED;
    if (!rc && l->count == l->room) {
      size_t room = l->room ? 2 * l->room : 64;
      es_hash *more = room > SIZE_MAX / sizeof *more ? NULL : es_realloc(l->out, room * sizeof *more);
      if (!more) rc = ENOMEM;
      else l->out = more, l->room = room;
    }
    if (rc) break;
    memcpy(l->out[l->count++].bytes, key.mv_data, ES_HASH_BYTES);
  }
  mdb_cursor_close(cursor);
  return rc == MDB_NOTFOUND ? 0 : rc;
}

esper_status es_env_keys(es_env *env, es_table table, es_hash **keys, size_t *count, es_error *err) {
  list l = { .table = table };
  esper_status status = transact(env, false, "list records", keys_work, &l, err);
  if (status) {
    es_free(l.out);
    l = (list){ 0 };
  }
  *keys = l.out;
  *count = l.count;
  return status;
}

/* --- the examination, in a child ------------------------------------------------------------------- */

/* Reads all there is the way LMDB reads it; MACs of the first MAC_BYTES only, because a record that fails is refused
 * when it is read anyway, and opening a large store should not wait for a hash of all of it. */
static int examine_tables(MDB_txn *txn, const uint8_t secret[ES_SECRET_BYTES], es_findings *out) {
  enum { MAC_BYTES = 64 << 20 };
  size_t hashed = 0;
  for (int t = 0; t < ES_TABLE_COUNT; t++) {
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_dbi_open(txn, table_names[t], 0, &dbi);
    if (rc == MDB_NOTFOUND) continue; /* killed before it was made */
    if (!rc) rc = mdb_cursor_open(txn, dbi, &cursor);
    if (rc) return rc;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
      if (t != ES_TABLE_records) continue;
      out->records++;
      if (hashed < MAC_BYTES && !es_record_authentic(value.mv_data, value.mv_size, secret)) out->bad++;
      hashed += value.mv_size;
    }
    if (rc != MDB_NOTFOUND) return rc;
    mdb_cursor_close(cursor);
  }
  return 0;
}

/* Structure as of one snapshot, then all records. */
static const char *examine_snapshot(MDB_env *mdb, const char *path, const uint8_t *secret, es_findings *out, int *rc) {
  MDB_txn *txn = NULL;
  const char *wrong = ES_PAGES_AGAIN;
  *rc = mdb_txn_begin(mdb, NULL, MDB_RDONLY, &txn);
  for (int try = 0; !*rc && try < 100 && wrong == ES_PAGES_AGAIN; try++) {
    if (try) {
      mdb_txn_reset(txn);
      *rc = mdb_txn_renew(txn);
    }
    uint64_t id = mdb_txn_id(txn);
    if (!*rc) wrong = es_pages_check(path, &id);
  }
  if (wrong == ES_PAGES_AGAIN) wrong = "no meta page of its transaction";
  if (!*rc && !wrong) *rc = examine_tables(txn, secret, out);
  if (txn) mdb_txn_abort(txn); /* else its reader slot keeps pages from being used again */
  return wrong;
}

void es_env_examine(const char *directory, const uint8_t secret[ES_SECRET_BYTES], es_findings *out) {
  char path[PATH_MAX];
  size_t size = largest_map;
  MDB_env *mdb = NULL;
  int dead, rc = 0;
  memset(out, 0, sizeof *out);
  const char *wrong = es_files_path(path, directory, "data.mdb") ? es_pages_check(path, NULL) : ES_PAGES_UNABLE;
  if (!wrong) rc = open_map(directory, MDB_RDONLY, &size, &mdb);
  if (!wrong && !rc) rc = mdb_reader_check(mdb, &dead);
  if (!wrong && !rc) wrong = examine_snapshot(mdb, path, secret, out, &rc);
  if (mdb) mdb_env_close(mdb);
  if (!rc && wrong == ES_PAGES_UNABLE) rc = EMFILE;
  if (rc) wrong = mdb_strerror(rc);
  /* A lack of memory, rights or reader slots says nothing about the file; most of LMDB's own codes (negative) do. */
  bool unrelated = (rc > 0 && rc != EIO && rc != EINVAL) || rc == MDB_READERS_FULL || rc == MDB_MAP_RESIZED;
  out->sound = !wrong ? 1 : unrelated ? -1 : 0;
  if (wrong) snprintf(out->text, sizeof out->text, "%s", wrong);
}
