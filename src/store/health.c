/* Is data.mdb fit to be handed to LMDB? The marker says so cheaply; a child that may die of the file says so for
 * certain; a file found damaged is set aside. Used by store.c while a store opens, under the directory's lock.
 * Invariant: the parent survives whatever the file makes the child do, and deletes nothing.
 *
 * Marker ("clean", one line): state, inode, size and mtime of data.mdb. State c: closed in order by its last user.
 * b: in use, or its user died; d: LMDB complained. Rewritten after every commit, without fsync: a stale marker costs
 * one examination. It is no secret: who can write the directory can forge it, which is why records carry MACs. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "store/inside.h"

enum { MARK_BYTES = 112, NOTHING_YET = 0 };

/* The marker for data.mdb as it is now; false when there is no data to speak of. */
static bool describe(const char *directory, es_mark mark, char line[MARK_BYTES]) {
  char path[PATH_MAX];
  struct stat info;
  memset(line, ' ', MARK_BYTES);
  if (!es_files_path(path, directory, "data.mdb") || stat(path, &info) || info.st_size == NOTHING_YET) return false;
  snprintf(line, MARK_BYTES, "esper-store 1 %c %llu %lld %lld.%09ld\n", (int)mark, (unsigned long long)info.st_ino,
           (long long)info.st_size, (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  return true;
}

bool es_mark_fits(int fd, const char *directory, bool alone) {
  char want[MARK_BYTES], got[MARK_BYTES];
  if (!describe(directory, ES_MARK_clean, want)) return true; /* a new store */
  if (fd < 0 || pread(fd, got, sizeof got, 0) != sizeof got) return false;
  if (memcmp(want, got, strlen(want)) == 0) return true;
  /* "In use" is in order while somebody uses it. */
  return !alone && describe(directory, ES_MARK_busy, want) && memcmp(want, got, strlen(want)) == 0;
}

void es_mark_write(int fd, const char *directory, es_mark mark) {
  char line[MARK_BYTES];
  if (fd < 0 || !describe(directory, mark, line)) return;
  if (pwrite(fd, line, sizeof line, 0) != sizeof line) return; /* stale: the next open examines */
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The child. After fork in a threaded host only the C library's own heap is safe, so nothing here uses es_alloc. */
static _Noreturn void examine(const char *directory, const uint8_t *secret, int pipe_end) {
  static const int fatal[] = { SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP, SIGALRM };
  sigset_t none;
  struct rlimit no_core = { 0, 0 };
  es_findings found;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (size_t k = 0; k < sizeof fatal / sizeof *fatal; k++) signal(fatal[k], SIG_DFL); /* not the host's handlers */
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setrlimit(RLIMIT_CORE, &no_core);
  int silence = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (silence >= 0) dup2(silence, STDERR_FILENO); /* LMDB prints before it aborts */
  es_env_examine(directory, secret, &found);
  ssize_t written = write(pipe_end, &found, sizeof found); /* less than PIPE_BUF: all or nothing */
  _exit(written == sizeof found ? 0 : 1);
}

typedef enum hearing { SPOKE, ENDED, LATE } hearing;

/* Waits until the child has spoken or ended. Not by the end of the pipe alone (another thread's fork may hold it open)
 * and not by waitpid alone (the host may reap our child). *state: as of waitpid, 0 when that is not known. */
static hearing await(pid_t child, int pipe_end, double limit, es_findings *out, int *state) {
  double end = seconds() + limit;
  bool reaped = false, ended = false;
  hearing result = LATE;
  while (seconds() < end) {
    struct pollfd p = { .fd = pipe_end, .events = POLLIN };
    if (poll(&p, 1, ended ? 0 : 10) > 0) {
      result = (p.revents & POLLIN) && read(pipe_end, out, sizeof *out) == sizeof *out ? SPOKE : ENDED;
      break;
    }
    result = ended ? ENDED : LATE;
    if (ended) break;
    reaped = waitpid(child, state, WNOHANG) == child;
    ended = reaped || (kill(child, 0) < 0 && errno == ESRCH);
  }
  if (result == LATE) kill(child, SIGKILL);
  if (!reaped) while (waitpid(child, state, 0) < 0 && errno == EINTR) {}
  return result;
}

static double time_limit(const char *directory) {
  char path[PATH_MAX];
  struct stat info;
  if (!es_files_path(path, directory, "data.mdb") || stat(path, &info)) return 5;
  return 5 + (double)info.st_size / 50e6; /* a slow disk reads 50 MB/s */
}

esper_status es_health_examine(const char *directory, const uint8_t secret[ES_SECRET_BYTES], es_findings *out, es_error *err) {
  int ends[2], state = 0;
  memset(out, 0, sizeof *out);
  if (pipe2(ends, O_CLOEXEC)) return es_fail(err, ESPER_EIO, "store %s: no pipe: %s", directory, strerror(errno));
  pid_t child = fork();
  if (child == 0) examine(directory, secret, ends[1]);
  int reason = errno;
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return es_fail(err, ESPER_EIO, "store %s: cannot start the examination it needs: %s", directory, strerror(reason));
  }
  hearing heard = await(child, ends[0], time_limit(directory), out, &state);
  close(ends[0]);
  int killer = WIFSIGNALED(state) ? WTERMSIG(state) : 0;
  if (heard == LATE || (heard == ENDED && killer == SIGKILL))
    return es_fail(err, ESPER_EIO, "store %s: its examination %s; try again", directory,
                   heard == LATE ? "did not end in time" : "was killed");
  if (heard == ENDED) {
    out->sound = 0;
    snprintf(out->text, sizeof out->text, "LMDB died of signal %d on it", killer);
  }
  if (out->sound < 0) return es_fail(err, ESPER_EIO, "store %s: cannot be examined: %.150s", directory, out->text);
  return ESPER_OK;
}

/* data.mdb and its lock file get the first free number; a process still using them keeps using that pair. */
esper_status es_health_set_aside(const char *directory, char *name, size_t room, es_error *err) {
  char from[PATH_MAX], to[PATH_MAX], lock_name[40];
  for (int n = 1; n < 10000; n++) {
    snprintf(name, room, "data.mdb.corrupt-%d", n);
    if (!es_files_path(to, directory, name)) break;
    if (access(to, F_OK) == 0) continue;
    if (!es_files_path(from, directory, "data.mdb") || rename(from, to)) break;
    snprintf(lock_name, sizeof lock_name, "lock.mdb.corrupt-%d", n);
    if (!es_files_path(from, directory, "lock.mdb") || !es_files_path(to, directory, lock_name)) break;
    if (rename(from, to) == 0 || errno == ENOENT) return ESPER_OK;
    break;
  }
  return es_fail(err, ESPER_EIO, "store %s: is damaged and cannot be set aside: %s; move its data.mdb away", directory,
                 strerror(errno));
}
