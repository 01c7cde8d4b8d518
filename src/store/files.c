/* The store's directory and the small files beside data.mdb: made with the right permissions whatever the umask is,
 * and never half-written. Used while a store opens, under the directory's lock.
 * Invariant: the secret, once there, is never replaced; losing it only turns every record into a miss. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>
#include "store/inside.h"

bool es_files_path(char *out, const char *directory, const char *name) {
  int n = snprintf(out, PATH_MAX, "%s/%s", directory, name);
  return n > 0 && n < PATH_MAX;
}

/* One directory, private; an existing one is left as it is. */
static bool make(const char *path) {
  if (mkdir(path, 0700) == 0) return chmod(path, 0700) == 0; /* the umask may have taken bits away */
  return errno == EEXIST || errno == EISDIR;
}

esper_status es_files_directory(const char *path, es_error *err) {
  char part[PATH_MAX];
  size_t length = strlen(path);
  if (length == 0 || length >= PATH_MAX - NAME_MAX)
    return es_fail(err, ESPER_EARG, "store: path of %zu characters; give a directory", length);
  struct stat info;
  if (stat(path, &info) == 0) {
    if (S_ISDIR(info.st_mode)) return ESPER_OK;
    return es_fail(err, ESPER_EIO, "store %s: is a file, not a directory", path);
  }
  for (size_t k = 1; k <= length; k++) {
    if (path[k] != '/' && path[k] != 0) continue;
    memcpy(part, path, k);
    part[k] = 0;
    if (stat(part, &info) == 0) continue;
    if (!make(part)) {
      esper_status status = errno == ENOSPC || errno == EDQUOT ? ESPER_ENOSPACE : ESPER_EIO;
      return es_fail(err, status, "store %s: cannot make %s: %s", path, part, strerror(errno));
    }
  }
  return ESPER_OK;
}

esper_status es_files_local(const char *path, es_error *err) {
  static const struct { unsigned long type; const char *name; } remote[] = {
    { NFS_SUPER_MAGIC, "NFS" },  { SMB_SUPER_MAGIC, "SMB" },   { CIFS_SUPER_MAGIC, "CIFS" },
    { SMB2_SUPER_MAGIC, "SMB" }, { V9FS_MAGIC, "9P" },         { FUSE_SUPER_MAGIC, "FUSE" },
    { AFS_SUPER_MAGIC, "AFS" },  { CODA_SUPER_MAGIC, "Coda" }, { CEPH_SUPER_MAGIC, "Ceph" },
    { OCFS2_SUPER_MAGIC, "OCFS2" }, { 0x0BD00BD0, "Lustre" },  { 0x47504653, "GPFS" },
  };
  struct statfs info;
  if (statfs(path, &info)) return es_fail(err, ESPER_EIO, "store %s: %s", path, strerror(errno));
  const char *force = secure_getenv("ESPER_STORE_FORCE");
  if (force && strcmp(force, "1") == 0) return ESPER_OK;
  for (size_t k = 0; k < sizeof remote / sizeof *remote; k++)
    if ((unsigned long)info.f_type == remote[k].type)
      return es_fail(err, ESPER_EIO, "store %s: lies on a network file system (%s), where LMDB loses data; "
                     "choose a local directory, or set ESPER_STORE_FORCE=1", path, remote[k].name);
  return ESPER_OK;
}

int es_files_create(const char *directory, const char *name, int64_t bytes) {
  char path[PATH_MAX];
  if (!es_files_path(path, directory, name)) return ENAMETOOLONG;
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return errno == EEXIST ? 0 : errno;
  int rc = fchmod(fd, 0600) ? errno : bytes ? posix_fallocate(fd, 0, bytes) : 0;
  close(fd);
  if (rc) unlink(path);
  return rc;
}

static esper_status read_secret(const char *path, uint8_t out[ES_SECRET_BYTES], es_error *err) {
  uint8_t bytes[ES_SECRET_BYTES + 1];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return ESPER_ENOTFOUND;
  if (fd < 0) return es_fail(err, ESPER_EIO, "store: cannot read its secret %s: %s", path, strerror(errno));
  ssize_t n = read(fd, bytes, sizeof bytes);
  close(fd);
  if (n != ES_SECRET_BYTES)
    return es_fail(err, ESPER_ECORRUPT, "store: its secret %s has not %d bytes; delete the file, records are then made anew",
                   path, ES_SECRET_BYTES);
  memcpy(out, bytes, ES_SECRET_BYTES);
  sodium_memzero(bytes, sizeof bytes);
  return ESPER_OK;
}

/* Written in full under another name, then renamed: whoever sees the file sees all of it. The lock on the directory,
 * held while a store opens, keeps a second opener from replacing the first one's. */
static esper_status make_secret(const char *directory, const char *path, es_error *err) {
  char fresh[PATH_MAX];
  uint8_t bytes[ES_SECRET_BYTES];
  if (!es_files_path(fresh, directory, "secret.new")) return es_fail(err, ESPER_EARG, "store: path too long");
  unlink(fresh); /* left by a process killed here; the directory's lock is held */
  randombytes_buf(bytes, sizeof bytes);
  int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  bool done = fd >= 0 && fchmod(fd, 0600) == 0 && write(fd, bytes, sizeof bytes) == sizeof bytes && fsync(fd) == 0;
  int reason = errno;
  if (fd >= 0) close(fd);
  sodium_memzero(bytes, sizeof bytes);
  if (done && rename(fresh, path)) {
    done = false;
    reason = errno;
  }
  if (done) return ESPER_OK;
  unlink(fresh);
  return es_fail(err, reason == ENOSPC || reason == EDQUOT ? ESPER_ENOSPACE : ESPER_EIO,
                 "store: cannot write its secret %s: %s", path, strerror(reason));
}

esper_status es_files_secret(const char *directory, bool readonly, uint8_t out[ES_SECRET_BYTES], es_error *err) {
  char path[PATH_MAX];
  if (!es_files_path(path, directory, "secret")) return es_fail(err, ESPER_EARG, "store: path too long");
  esper_status status = read_secret(path, out, err);
  if (status != ESPER_ENOTFOUND) return status;
  if (readonly)
    return es_fail(err, ESPER_ENOTFOUND, "store %s: holds no secret and cannot be written; there is no store here", directory);
  status = make_secret(directory, path, err);
  return status ? status : read_secret(path, out, err);
}
