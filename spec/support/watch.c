/* Watches the test process for memory that is writable and executable, from its start to its end: a seccomp filter stops
 * the system calls that could make a page both (mmap, mprotect, pkey_mprotect, shmat, and personality, which can make
 * every page executable), and a process beside the tests refuses them and writes them down. Built and loaded by watch.lua.
 * Invariant: no such page can come to be while the filter is there, so nothing between two looks is missed, in the test
 * process, its children and the programs they start. One exception: programs whose environment says ESPER_WATCH=peer, since
 * libtorch with oneDNN, which benchmarks measure beside Esper, makes such pages. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SHM_EXEC_FLAG = 0100000, IMPLIES_EXEC = 0x0400000, BOTH = PROT_WRITE | PROT_EXEC };

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(what, value, yes, no) BPF_JUMP(BPF_JMP | (what) | BPF_K, value, yes, no)
#define END(action) BPF_STMT(BPF_RET | BPF_K, action)

static struct sock_filter rules[] = {
    LOAD(arch), IF(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), END(SECCOMP_RET_ALLOW),
    LOAD(nr),
    IF(BPF_JEQ, __NR_mmap, 5, 0), IF(BPF_JEQ, __NR_mprotect, 4, 0), IF(BPF_JEQ, __NR_pkey_mprotect, 3, 0),
    IF(BPF_JEQ, __NR_shmat, 6, 0), IF(BPF_JEQ, __NR_personality, 7, 0), END(SECCOMP_RET_ALLOW),
    /* protection: third argument */
    LOAD(args[2]), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, BOTH), IF(BPF_JEQ, BOTH, 7, 8), END(SECCOMP_RET_ALLOW),
    /* shared memory: third argument */
    LOAD(args[2]), IF(BPF_JSET, SHM_EXEC_FLAG, 4, 5),
    /* personality: first argument; all ones asks only */
    LOAD(args[0]), IF(BPF_JEQ, 0xffffffff, 3, 0), IF(BPF_JSET, IMPLIES_EXEC, 1, 2), END(SECCOMP_RET_ALLOW),
    END(SECCOMP_RET_USER_NOTIF), END(SECCOMP_RET_ALLOW),
};

/* Up to `room` bytes of a file of /proc. */
static size_t read_proc(unsigned pid, const char *name, char *out, size_t room) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%u/%s", pid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  size_t length = 0;
  for (ssize_t n; fd >= 0 && length < room && (n = read(fd, out + length, room - length)) > 0;) length += (size_t)n;
  if (fd >= 0) close(fd);
  return length;
}

static bool is_peer(unsigned pid) {
  static const char word[] = "ESPER_WATCH=peer"; /* with its 0 */
  static char all[1 << 17];
  size_t length = read_proc(pid, "environ", all, sizeof all);
  return memmem(all, length, word, sizeof word) != NULL;
}

static void note(int notes, const struct seccomp_notif *call) {
  char line[256], name[32] = "?";
  size_t length = read_proc(call->pid, "comm", name, sizeof name - 1);
  name[length ? length - 1 : 0] = 0;
  int n = snprintf(line, sizeof line, "process %u (%s): system call %d would make memory writable and executable, from %llx\n",
                   call->pid, name, call->data.nr, call->data.instruction_pointer);
  if (write(notes, line, (size_t)n) != n) _exit(1); /* then every such call fails with ENOSYS, and its spec with it */
}

static _Noreturn void answer(int listener, int notes) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) {
    struct seccomp_notif call = {0};
    struct seccomp_notif_resp reply = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
      if (errno == EINTR || errno == ENOENT) continue; /* it was killed meanwhile */
      _exit(1);
    }
    reply.id = call.id;
    if (is_peer(call.pid)) reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    else reply.error = -EPERM, note(notes, &call);
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
  }
}

/* Starts watching; refusals are appended to the file before the call returns EPERM. 0, or errno when the system does not
 * allow it. */
int watch_start(const char *file) {
  const struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
  const unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  int notes = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (notes < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
  int listener = (int)syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  if (listener < 0) return errno;
  pid_t child = fork();
  if (child == 0) {
    int nothing = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(nothing, fd); /* who reads our output must not wait for this process */
    answer(listener, notes);
  }
  close(listener);
  close(notes);
  return child < 0 ? errno : 0;
}

/* Tries each way; how many of them were refused (4 when the watch works). */
int watch_try(void) {
  int count = 0;
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  count += page == MAP_FAILED;
  page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  count += mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0;
  count += syscall(__NR_pkey_mprotect, page, 4096, PROT_WRITE | PROT_EXEC, 0) < 0;
  count += syscall(__NR_personality, IMPLIES_EXEC) < 0;
  if (mprotect(page, 4096, PROT_READ | PROT_EXEC)) count = -1; /* one after the other is what LuaJIT does */
  munmap(page, 4096);
  return count;
}
