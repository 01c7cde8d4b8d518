/* The store as its users see it. Ties the environment (lmdb.c), the codec (record.c) and the state of the file
 * (health.c) together, and keeps the process-wide table of open stores.
 * Invariants: one es_store per directory and process, because a second LMDB environment on one file breaks its locks;
 * no byte of a record reaches a caller before its MAC was checked, and then only from our own copy. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/memory.h"
#include "store/inside.h"

enum { OPEN_WAIT_SECONDS = 60 };

struct es_store {
  es_store *next;        /* in `open_stores` */
  int64_t users;
  dev_t dev;
  ino_t ino;             /* of the directory */
  pid_t pid;             /* that opened it */
  bool readonly;
  int marker;            /* file "clean", share-locked while the store is open; -1 none */
  es_env *env;
  uint8_t secret[ES_SECRET_BYTES];
  char directory[PATH_MAX], note[400];
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static es_store *open_stores;

/* Openers of one directory take turns, also those of other processes. */
static esper_status take_turn(const char *directory, int fd, es_error *err) {
  const struct timespec moment = { .tv_nsec = 5000000 };
  for (int n = 0; flock(fd, LOCK_EX | LOCK_NB); n++) {
    if (errno != EWOULDBLOCK && errno != EINTR)
      return es_fail(err, ESPER_EIO, "store %s: cannot be locked: %s", directory, strerror(errno));
    if (n > OPEN_WAIT_SECONDS * 200)
      return es_fail(err, ESPER_EIO, "store %s: another process has been opening it for %d s; see what it does",
                     directory, OPEN_WAIT_SECONDS);
    nanosleep(&moment, NULL);
  }
  return ESPER_OK;
}

/* Opens the marker; true when no other process has the store open. */
static bool take_marker(es_store *store) {
  char path[PATH_MAX];
  if (!es_files_path(path, store->directory, "clean")) return true;
  if (!store->readonly) es_files_create(store->directory, "clean", 0); /* without it every open examines */
  store->marker = open(path, (store->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
  return store->marker < 0 || flock(store->marker, LOCK_EX | LOCK_NB) == 0;
}

/* Has a file in doubt examined, and set aside when it is damaged. */
static esper_status examine(es_store *store, es_error *err) {
  es_findings found;
  char name[40];
  esper_status status = es_health_examine(store->directory, store->secret, &found, err);
  if (status) return status;
  if (found.sound) {
    if (found.bad)
      snprintf(store->note, sizeof store->note, "%lld of %lld records fail their check and will be made anew",
               (long long)found.bad, (long long)found.records);
    return ESPER_OK;
  }
  if (store->readonly)
    return es_fail(err, ESPER_ECORRUPT, "store %s: data.mdb is damaged (%s) and the directory cannot be written",
                   store->directory, found.text);
  status = es_health_set_aside(store->directory, name, sizeof name, err);
  if (status) return status;
  snprintf(store->note, sizeof store->note, "data.mdb was damaged (%s); it was set aside as %s and the store starts empty",
           found.text, name);
  return ESPER_OK;
}

static bool is_new(const char *directory) {
  char path[PATH_MAX];
  struct stat info;
  return es_files_path(path, directory, "data.mdb") && (stat(path, &info) || info.st_size == 0);
}

/* All of opening that needs its turn. `fd`: the directory. */
static esper_status open_turn(es_store *store, int fd, es_error *err) {
  esper_status status = es_files_secret(store->directory, store->readonly, store->secret, err);
  if (status) return status;
  bool alone = take_marker(store), fresh = is_new(store->directory);
  bool doubt = !es_mark_fits(store->marker, store->directory, alone);
  for (int try = 0; try < 2; try++) {
    if (doubt && (status = examine(store, err))) return status;
    status = es_env_open(store->directory, store->readonly, &store->env, err);
    if (!status) break;
    /* The marker may be right and the file damaged all the same: then it is set aside and there is a second try. */
    if (doubt || fresh || status == ESPER_ENOSPACE || status == ESPER_ENOTFOUND) return status;
    doubt = true;
  }
  if (status) return status;
  if (fresh || doubt) fsync(fd); /* names of the new files; LMDB syncs only what is in them */
  if (store->marker >= 0) {
    if (!store->readonly) es_mark_write(store->marker, store->directory, ES_MARK_busy);
    while (flock(store->marker, LOCK_SH) && errno == EINTR) {}
  }
  if (store->readonly && !store->note[0])
    snprintf(store->note, sizeof store->note, "the directory cannot be written; opened for reading");
  return ESPER_OK;
}

static void discard(es_store *store) {
  es_env_close(store->env);
  if (store->marker >= 0) close(store->marker);
  sodium_memzero(store->secret, sizeof store->secret);
  es_free(store);
}

static esper_status open_new(const char *path, const struct stat *info, es_store **out, es_error *err) {
  es_store *store = es_alloc(sizeof *store);
  if (!store) return es_fail(err, ESPER_ENOMEM, "store %s: out of memory", path);
  store->marker = -1;
  store->users = 1;
  store->dev = info->st_dev;
  store->ino = info->st_ino;
  store->pid = getpid();
  store->readonly = access(path, W_OK | X_OK) != 0;
  int fd = -1;
  esper_status status = ESPER_OK;
  if (!realpath(path, store->directory) || (fd = open(store->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
    status = es_fail(err, ESPER_EIO, "store %s: %s", path, strerror(errno));
  if (!status) status = es_files_local(store->directory, err);
  if (!status && !es_hash_start()) status = es_fail(err, ESPER_EINTERNAL, "libsodium cannot start");
  if (!status) status = take_turn(store->directory, fd, err);
  if (!status) status = open_turn(store, fd, err);
  if (fd >= 0) close(fd);
  if (status) discard(store);
  else *out = store;
  return status;
}

esper_status es_store_open(const char *path, es_store **out, es_error *err) {
  *out = NULL;
  if (!path) return es_fail(err, ESPER_EARG, "store: no path given");
  esper_status status = es_files_directory(path, err);
  if (status) return status;
  struct stat info;
  if (stat(path, &info)) return es_fail(err, ESPER_EIO, "store %s: %s", path, strerror(errno));
  pthread_mutex_lock(&table_lock);
  es_store *store = open_stores; /* what a parent of this process opened is not ours */
  while (store && (store->dev != info.st_dev || store->ino != info.st_ino || store->pid != getpid())) store = store->next;
  if (store) {
    store->users++;
  } else if (!(status = open_new(path, &info, &store, err))) {
    store->next = open_stores;
    open_stores = store;
  }
  pthread_mutex_unlock(&table_lock);
  *out = store;
  return status;
}

void es_store_close(es_store *store) {
  if (!store || store->pid != getpid()) return; /* closing in a child would drop the parent's locks */
  pthread_mutex_lock(&table_lock);
  bool last = --store->users == 0;
  if (last) {
    es_store **link = &open_stores;
    while (*link != store) link = &(*link)->next;
    *link = store->next;
    es_env_close(store->env);
    store->env = NULL;
    /* Under the table's lock, so that a new open of this process comes after it. */
    if (!store->readonly && store->marker >= 0 && flock(store->marker, LOCK_EX | LOCK_NB) == 0)
      es_mark_write(store->marker, store->directory, ES_MARK_clean);
    discard(store);
  }
  pthread_mutex_unlock(&table_lock);
}

const char *es_store_note(const es_store *store) { return store->note; }

esper_status es_store_usable(es_store *store, bool write, es_error *err) {
  if (store->pid != getpid())
    return es_fail(err, ESPER_EARG, "store %s: was opened by process %d, before a fork; open it again in this one",
                   store->directory, (int)store->pid);
  if (write && store->readonly)
    return es_fail(err, ESPER_EIO, "store %s: the directory cannot be written; it is open for reading", store->directory);
  return ESPER_OK;
}

/* Every outcome of the environment passes here: a complaint of LMDB makes the next open examine the file. */
static esper_status noted(es_store *store, esper_status status, bool wrote) {
  if (store->readonly) return status;
  if (status == ESPER_ECORRUPT) es_mark_write(store->marker, store->directory, ES_MARK_doubt);
  else if (wrote && !status) es_mark_write(store->marker, store->directory, ES_MARK_busy);
  return status;
}

/* Encodes the entry of `source` into `bytes` as the item behind `items[count]`. */
static esper_status add_entry(const es_store *store, const es_source *source, const es_hash *key, uint8_t bytes[ES_ENTRY_MAX],
                              es_item *item, es_error *err) {
  size_t length;
  esper_status status = es_entry_encode(source, key, store->secret, bytes, &length, err);
  *item = (es_item){ ES_TABLE_index, &source->hash, bytes, length };
  return status;
}

esper_status es_store_put(es_store *store, const es_record *record, const es_source *source, es_error *err) {
  es_text bytes = { 0 };
  es_hash key;
  uint8_t entry[ES_ENTRY_MAX];
  es_item items[2];
  esper_status status = es_store_usable(store, true, err);
  if (!status) status = es_record_encode(record, store->secret, &bytes, err);
  if (!status) {
    es_key_hash(&record->key, &key);
    items[0] = (es_item){ ES_TABLE_records, &key, bytes.bytes, bytes.length };
    if (source) status = add_entry(store, source, &key, entry, &items[1], err);
  }
  if (!status) status = noted(store, es_env_put(store->env, items, source ? 2 : 1, err), true);
  es_text_clear(&bytes);
  return status;
}

esper_status es_store_index(es_store *store, const es_source *source, const es_hash *key, es_error *err) {
  uint8_t entry[ES_ENTRY_MAX];
  es_item item;
  esper_status status = es_store_usable(store, true, err);
  if (!status) status = add_entry(store, source, key, entry, &item, err);
  return status ? status : noted(store, es_env_put(store->env, &item, 1, err), true);
}

esper_status es_store_find(es_store *store, const es_hash *source, es_hash *key, char name[ES_SOURCE_NAME_MAX + 1], es_error *err) {
  void *bytes = NULL;
  size_t length = 0;
  esper_status status = es_store_usable(store, false, err);
  if (!status) status = noted(store, es_env_get(store->env, ES_TABLE_index, source, &bytes, &length, err), false);
  if (!status && !es_entry_decode(source, bytes, length, store->secret, key, name))
    status = es_fail(err, ESPER_ENOTFOUND, "store %s: an index entry does not fit its MAC; it is treated as absent", store->directory);
  es_free(bytes);
  return status;
}

esper_status es_store_read(es_store *store, const es_hash *key, bool hashes, es_record *out, es_error *err) {
  void *bytes;
  size_t length;
  es_hash seen;
  memset(out, 0, sizeof *out);
  esper_status status = noted(store, es_env_get(store->env, ES_TABLE_records, key, &bytes, &length, err), false);
  if (status) return status;
  if (!es_record_authentic(bytes, length, store->secret))
    status = es_fail(err, ESPER_ECORRUPT, "store %s: a record does not fit its MAC; it is treated as absent", store->directory);
  else status = es_record_decode(bytes, length, hashes, out, err);
  if (!status) {
    es_key_hash(&out->key, &seen);
    if (!es_hash_equal(&seen, key)) /* a true record under somebody else's key */
      status = es_fail(err, ESPER_ECORRUPT, "store %s: a record lies under a wrong key", store->directory);
  }
  if (status) {
    es_free(bytes);
    memset(out, 0, sizeof *out);
  } else {
    out->owner = bytes;
  }
  return status;
}

esper_status es_store_get(es_store *store, const es_hash *key, es_record *out, es_error *err) {
  memset(out, 0, sizeof *out);
  esper_status status = es_store_usable(store, false, err);
  if (!status) status = es_store_read(store, key, false, out, err);
  if (status == ESPER_ECORRUPT && !store->readonly)
    noted(store, es_env_quarantine(store->env, key, NULL), true); /* best effort: it stays refused where it is */
  return status;
}

esper_status es_store_delete(es_store *store, const es_hash *key, es_error *err) {
  int64_t deleted;
  esper_status status = es_store_usable(store, true, err);
  if (!status) status = noted(store, es_env_delete(store->env, ES_TABLE_records, key, 1, &deleted, err), true);
  if (!status && !deleted) status = es_fail(err, ESPER_ENOTFOUND, "store %s: no such record", store->directory);
  return status;
}

/* A record that is gone meanwhile, of another version or not authentic is passed over where all are visited. */
static esper_status pass_over(esper_status status, es_error *err) {
  if (status != ESPER_ENOTFOUND && status != ESPER_ECORRUPT) return status;
  if (err) *err = (es_error){ 0 };
  return ESPER_OK;
}

esper_status es_store_keys(es_store *store, es_hash **keys, size_t *count, es_error *err) {
  return noted(store, es_env_keys(store->env, ES_TABLE_records, keys, count, err), false);
}

/* Reads one by one, so no transaction is open while the visitor works. */
esper_status es_store_each(es_store *store, es_store_visit visit, void *user, es_error *err) {
  es_hash *keys = NULL;
  size_t count = 0;
  esper_status status = es_store_usable(store, false, err);
  if (!status) status = es_store_keys(store, &keys, &count, err);
  bool more = true;
  for (size_t k = 0; k < count && more && !status; k++) {
    es_record record;
    status = es_store_read(store, &keys[k], false, &record, err);
    if (!status) more = visit(user, &keys[k], &record);
    es_record_free(&record);
    status = pass_over(status, err);
  }
  es_free(keys);
  return status;
}

static size_t record_bytes(const es_record *record) {
  size_t bytes = 0;
  for (int k = 0; k < ES_SECTION_COUNT; k++) bytes += record->length[k];
  return bytes;
}

static bool list_line(void *user, const es_hash *key, const es_record *record) {
  char key_hex[65], graph_hex[65];
  const es_key *k = &record->key;
  es_hash_hex(key, key_hex);
  es_hash_hex(&k->graph, graph_hex);
  es_text_add(user, "%s\t%lld\t%zu\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", key_hex, (long long)record->created,
              record_bytes(record), k->name, k->hyper, k->mode, k->dtype, k->target, k->passes, k->build, graph_hex,
              record->length[ES_SECTION_certificate] ? "certified" : "");
  return true;
}

esper_status es_store_list(es_store *store, es_text *out, es_error *err) {
  es_text_bytes(out, "", 0); /* an empty store gives an empty text, not none */
  esper_status status = es_store_each(store, list_line, out, err);
  if (!status && out->failed) status = es_fail(err, ESPER_ENOMEM, "store %s: out of memory", store->directory);
  return status;
}

static int64_t file_size(const es_store *store) {
  char path[PATH_MAX];
  struct stat info;
  return es_files_path(path, store->directory, "data.mdb") && stat(path, &info) == 0 ? (int64_t)info.st_size : 0;
}

esper_status es_store_verify(es_store *store, es_store_report *out, es_error *err) {
  es_hash *keys = NULL, *held = NULL;
  size_t count = 0, held_count = 0;
  es_findings found = { 0 };
  memset(out, 0, sizeof *out);
  esper_status status = es_store_usable(store, false, err);
  if (!status) status = es_health_examine(store->directory, store->secret, &found, err);
  if (!status && !found.sound)
    status = noted(store, es_fail(err, ESPER_ECORRUPT, "store %s: data.mdb is damaged: %s; it is set aside when the "
                                  "store is next opened", store->directory, found.text), false);
  if (!status) status = es_store_keys(store, &keys, &count, err);
  if (!status) status = es_env_keys(store->env, ES_TABLE_quarantine, &held, &held_count, err);
  for (size_t k = 0; k < count && !status; k++) {
    es_record record;
    status = es_store_read(store, &keys[k], true, &record, err);
    out->records += !status;
    out->bad += status == ESPER_ECORRUPT;
    out->bytes += (int64_t)record_bytes(&record);
    es_record_free(&record);
    status = pass_over(status, err);
  }
  es_index_report index = { 0 };
  if (!status) status = es_index_sift(store->env, store->secret, keys, count, &index, err);
  out->indexed = (int64_t)index.total;
  out->index_bad = (int64_t)index.bad;
  out->orphans = (int64_t)(index.count - index.bad);
  out->quarantined = (int64_t)held_count;
  out->file_bytes = file_size(store);
  es_free(index.useless);
  es_free(keys);
  es_free(held);
  return status;
}

typedef struct aged { es_hash key; int64_t created; size_t bytes; } aged;

static int younger(const void *a, const void *b) {
  int64_t x = ((const aged *)a)->created, y = ((const aged *)b)->created;
  return x < y ? 1 : x > y ? -1 : memcmp(a, b, ES_HASH_BYTES); /* key first in the struct: same order everywhere */
}

/* Moves the keys that must go to the front of `keys`; returns how many. `all` is sorted youngest first. */
static size_t choose(es_hash *keys, const aged *all, size_t count, int64_t older, int64_t limit) {
  int64_t now = (int64_t)time(NULL), kept = 0;
  size_t doomed = 0;
  for (size_t k = 0; k < count; k++) {
    bool bad = all[k].created == INT64_MIN, old = older >= 0 && !bad && now - all[k].created > older;
    bool over = limit >= 0 && kept + (int64_t)all[k].bytes > limit;
    if (bad || old || over) keys[doomed++] = all[k].key;
    else kept += (int64_t)all[k].bytes;
    if (over) limit = 0; /* nothing older than the first that does not fit is kept */
  }
  return doomed;
}

/* Takes the index entries out that lead to no record. One whose record another process puts back meanwhile is lost with
 * them, which costs that source one build. */
static esper_status prune(es_store *store, es_error *err) {
  es_hash *keys = NULL;
  size_t count = 0;
  int64_t deleted;
  es_index_report index = { 0 };
  esper_status status = es_store_keys(store, &keys, &count, err);
  if (!status) status = es_index_sift(store->env, store->secret, keys, count, &index, err);
  if (!status) status = es_env_delete(store->env, ES_TABLE_index, index.useless, index.count, &deleted, err);
  es_free(index.useless);
  es_free(keys);
  return status;
}

esper_status es_store_gc(es_store *store, int64_t older, int64_t limit, int64_t *deleted, es_error *err) {
  es_hash *keys = NULL, *held = NULL;
  size_t count = 0, held_count = 0;
  int64_t first = 0, second = 0;
  aged *all = NULL;
  if (deleted) *deleted = 0;
  esper_status status = es_store_usable(store, true, err);
  if (!status) status = es_store_keys(store, &keys, &count, err);
  if (!status && !(all = es_alloc_array(count, sizeof *all)))
    status = es_fail(err, ESPER_ENOMEM, "store %s: out of memory", store->directory);
  size_t known = 0;
  for (size_t k = 0; k < count && !status; k++) {
    es_record record;
    esper_status seen = es_store_read(store, &keys[k], false, &record, err);
    if (seen == ESPER_OK || seen == ESPER_ECORRUPT)
      all[known++] = (aged){ keys[k], seen ? INT64_MIN : record.created, record_bytes(&record) };
    status = pass_over(seen, err);
    es_record_free(&record);
  }
  if (!status) {
    qsort(all, known, sizeof *all, younger);
    status = es_env_delete(store->env, ES_TABLE_records, keys, choose(keys, all, known, older, limit), &first, err);
  }
  if (!status) status = es_env_keys(store->env, ES_TABLE_quarantine, &held, &held_count, err);
  if (!status) status = es_env_delete(store->env, ES_TABLE_quarantine, held, held_count, &second, err);
  if (!status) status = prune(store, err);
  if (deleted) *deleted = first + second;
  es_free(all);
  es_free(keys);
  es_free(held);
  return noted(store, status, true);
}
