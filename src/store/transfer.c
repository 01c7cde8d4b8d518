/* Export and import: records as one file that another store can take over. Beside store.c; uses its records and keys.
 *
 * "ESPRPACK"  u32 version  u32 0  u64 count, per record: u64 length, bytes of record.c (MAC under a zero key),
 * then a digest: BLAKE2b-256 chained over the parts, d = H(d, H(part)).
 * Invariant: an export appears under its name complete or not at all; nothing of a file is imported before all of it
 * was read and found whole. The digest tells damage, not origin. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/memory.h"
#include "store/inside.h"

enum { HEAD_BYTES = 24, VERSION = 1 };
static const char magic[8] = "ESPRPACK";
static const uint8_t zero_key[ES_SECRET_BYTES];

static void put_u64(uint8_t *p, uint64_t value) {
  for (int k = 0; k < 8; k++) p[k] = (uint8_t)(value >> (8 * k));
}

static uint64_t get_u64(const uint8_t *p) {
  uint64_t value = 0;
  for (int k = 0; k < 8; k++) value |= (uint64_t)p[k] << (8 * k);
  return value;
}

static void chain(es_hash *digest, const void *bytes, size_t length) {
  es_hash parts[2] = { *digest };
  es_hash_of(bytes, length, &parts[1]);
  es_hash_of(parts, sizeof parts, digest);
}

static void make_head(uint8_t head[HEAD_BYTES], uint64_t count) {
  memset(head, 0, HEAD_BYTES);
  memcpy(head, magic, sizeof magic);
  head[8] = VERSION;
  put_u64(head + 16, count);
}

/* One record without its store's MAC; ENOTFOUND when it is gone or not authentic. */
static esper_status write_record(es_store *store, const es_hash *key, FILE *file, es_hash *digest, es_error *err) {
  es_record record;
  es_text bytes = { 0 };
  uint8_t length[8];
  esper_status status = es_store_read(store, key, true, &record, err);
  if (status) return status == ESPER_ECORRUPT ? ESPER_ENOTFOUND : status;
  status = es_record_encode(&record, zero_key, &bytes, err);
  if (!status) {
    put_u64(length, bytes.length);
    if (fwrite(length, 1, 8, file) != 8 || fwrite(bytes.bytes, 1, bytes.length, file) != bytes.length)
      status = es_fail(err, errno == ENOSPC || errno == EDQUOT ? ESPER_ENOSPACE : ESPER_EIO, "export: %s", strerror(errno));
    chain(digest, bytes.bytes, bytes.length);
  }
  es_text_clear(&bytes);
  es_record_free(&record);
  return status;
}

/* Records first, then the head, whose count is known only then; its part comes last in the chain. */
static esper_status write_all(es_store *store, const es_hash *keys, size_t count, FILE *file, int64_t *written, es_error *err) {
  uint8_t head[HEAD_BYTES] = { 0 };
  es_hash digest = { { 0 } };
  esper_status status = ESPER_OK;
  bool good = fwrite(head, 1, sizeof head, file) == sizeof head;
  for (size_t k = 0; k < count && good && !status; k++) {
    status = write_record(store, &keys[k], file, &digest, err);
    *written += !status;
    if (status == ESPER_ENOTFOUND && count > 1) status = ESPER_OK;
  }
  if (status) return status;
  make_head(head, (uint64_t)*written);
  chain(&digest, head, sizeof head);
  good = good && fwrite(digest.bytes, 1, ES_HASH_BYTES, file) == ES_HASH_BYTES && fseeko(file, 0, SEEK_SET) == 0 &&
         fwrite(head, 1, sizeof head, file) == sizeof head && fflush(file) == 0 && fsync(fileno(file)) == 0;
  if (good) return ESPER_OK;
  return es_fail(err, errno == ENOSPC || errno == EDQUOT ? ESPER_ENOSPACE : ESPER_EIO, "export: %s", strerror(errno));
}

esper_status es_store_export(es_store *store, const es_hash *key, const char *path, int64_t *count, es_error *err) {
  char fresh[PATH_MAX];
  es_hash *keys = NULL;
  size_t known = 0;
  int64_t written = 0;
  if (count) *count = 0;
  esper_status status = es_store_usable(store, false, err);
  if (status) return status;
  int n = snprintf(fresh, sizeof fresh, "%s.new-%d", path, (int)getpid());
  if (n < 0 || n >= PATH_MAX) return es_fail(err, ESPER_EARG, "export: path too long");
  if (!key && (status = es_store_keys(store, &keys, &known, err))) return status;
  int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  FILE *file = fd < 0 ? NULL : fdopen(fd, "wb");
  if (!file) {
    status = es_fail(err, errno == ENOSPC ? ESPER_ENOSPACE : ESPER_EIO, "export: cannot write %s: %s", fresh, strerror(errno));
    if (fd >= 0) close(fd);
  } else {
    status = write_all(store, key ? key : keys, key ? 1 : known, file, &written, err);
    if (fclose(file) && !status) status = es_fail(err, ESPER_EIO, "export: cannot write %s: %s", fresh, strerror(errno));
    if (!status && rename(fresh, path))
      status = es_fail(err, ESPER_EIO, "export: cannot rename %s to %s: %s", fresh, path, strerror(errno));
    if (status) unlink(fresh);
  }
  es_free(keys);
  if (count && !status) *count = written;
  return status;
}

static esper_status damaged(const char *path, const char *what, es_error *err) {
  return es_fail(err, ESPER_ECORRUPT, "import: %s %s; nothing was imported, export it again", path, what);
}

/* Goes over the records of a file; store NULL: only checks them. `left`: bytes of the file. */
static esper_status pass(es_store *store, FILE *file, const char *path, uint64_t left, int64_t *count, es_error *err) {
  uint8_t head[HEAD_BYTES], expected[HEAD_BYTES], word[8];
  es_hash digest = { { 0 } }, stored;
  if (left < HEAD_BYTES + ES_HASH_BYTES || fread(head, 1, sizeof head, file) != sizeof head)
    return damaged(path, "is too short to be an export", err);
  uint64_t records = get_u64(head + 16);
  make_head(expected, records);
  if (memcmp(head, expected, sizeof head)) return damaged(path, "is not an export this Esper can read", err);
  left -= HEAD_BYTES + ES_HASH_BYTES;
  for (uint64_t k = 0; k < records; k++) {
    uint64_t length = fread(word, 1, 8, file) == 8 && left >= 8 ? get_u64(word) : 0;
    if (length == 0 || length > ES_RECORD_MAX || length > left - 8) return damaged(path, "is cut short", err);
    left -= 8 + length;
    void *bytes = es_alloc((size_t)length);
    if (!bytes) return es_fail(err, ESPER_ENOMEM, "import: out of memory for a record of %llu bytes", (unsigned long long)length);
    es_record record;
    esper_status status = ESPER_OK;
    if (fread(bytes, 1, (size_t)length, file) != length) status = damaged(path, "is cut short", err);
    if (!status && !es_record_authentic(bytes, (size_t)length, zero_key)) status = damaged(path, "holds a damaged record", err);
    if (!status) status = es_record_decode(bytes, (size_t)length, true, &record, err);
    if (!status && store) status = es_store_put(store, &record, NULL, err);
    chain(&digest, bytes, (size_t)length);
    es_free(bytes);
    if (status) return status;
    *count += 1;
  }
  chain(&digest, head, sizeof head);
  if (left || fread(stored.bytes, 1, ES_HASH_BYTES, file) != ES_HASH_BYTES || !es_hash_equal(&stored, &digest))
    return damaged(path, "does not fit its digest", err);
  return ESPER_OK;
}

esper_status es_store_import(es_store *store, const char *path, int64_t *count, es_error *err) {
  struct stat info;
  int64_t seen = 0, taken = 0;
  if (count) *count = 0;
  esper_status status = es_store_usable(store, true, err);
  if (status) return status;
  FILE *file = fopen(path, "rbe");
  if (!file || fstat(fileno(file), &info) || !S_ISREG(info.st_mode)) {
    status = es_fail(err, ESPER_EIO, "import: cannot read %s: %s", path, file ? "not a plain file" : strerror(errno));
  } else {
    status = pass(NULL, file, path, (uint64_t)info.st_size, &seen, err);
    if (!status && fseeko(file, 0, SEEK_SET)) status = es_fail(err, ESPER_EIO, "import: %s: %s", path, strerror(errno));
    if (!status) status = pass(store, file, path, (uint64_t)info.st_size, &taken, err);
  }
  if (file) fclose(file);
  if (count) *count = taken;
  return status;
}
