/* Stress: two processes write to one store and are killed at random moments; what they had acknowledged must be there.
 *     store_kill N SEED [plant]        one line: name seed n fail metric; exit status 1 when anything failed
 * "plant" lets the writers acknowledge before they write, which the test must notice.
 * Works below $TMPDIR; a tmpfs (/dev/shm) gives many more writes per kill.
 * Record (writer, n) lies under key (writer, n mod SLOTS): the store stays small, old versions show up as lost. Every
 * version has an index entry of its own, written with it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "store/store.h"

enum { WRITERS = 2, SLOTS = 200, BYTES_MAX = 12000 };
static uint64_t state;

static uint64_t draw(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static double milliseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

/* Content of version n of a writer: its number, then bytes that follow from it. */
static void make(es_record *record, int writer, int64_t n, unsigned char *bytes) {
  static const char *const names[WRITERS] = { "stress/a", "stress/b" };
  memset(record, 0, sizeof *record);
  record->key = (es_key){ .name = names[writer], .mode = "eval", .dtype = "f32", .target = names[writer] };
  int64_t slot = n % SLOTS;
  memcpy(record->key.graph.bytes, &slot, sizeof slot);
  size_t length = sizeof n + (size_t)(n * 7919 % (BYTES_MAX - 8));
  memcpy(bytes, &n, sizeof n);
  for (size_t k = sizeof n; k < length; k++) bytes[k] = (unsigned char)(n * 31 + (int64_t)k * 7);
  record->bytes[ES_SECTION_object] = bytes;
  record->length[ES_SECTION_object] = length;
}

/* The source of version n leads to its slot's record. */
static es_source source_of(int writer, int64_t n) {
  const int64_t parts[2] = { writer, n };
  es_source source = { .name = "stress/kill" };
  es_hash_of(parts, sizeof parts, &source.hash);
  return source;
}

static _Noreturn void write_for_ever(const char *directory, int writer, volatile int64_t *acknowledged, bool plant) {
  static unsigned char bytes[BYTES_MAX];
  es_store *store;
  if (es_store_open(directory, &store, NULL)) _exit(3);
  for (int64_t n = *acknowledged + 1;; n++) {
    es_record record;
    make(&record, writer, n, bytes);
    es_source source = source_of(writer, n);
    if (plant) *acknowledged = n;
    if (es_store_put(store, &record, &source, NULL)) _exit(4);
    *acknowledged = n;
  }
}

/* Slots whose stored version is not the last acknowledged one (or the one that was being written). */
static void judge(es_store *store, int writer, int64_t acknowledged, int64_t *lost, int64_t *corrupt) {
  static unsigned char bytes[BYTES_MAX];
  for (int64_t n = acknowledged > SLOTS ? acknowledged - SLOTS + 1 : 1; n <= acknowledged; n++) {
    es_record want, got;
    es_hash key, found;
    char name[ES_SOURCE_NAME_MAX + 1];
    es_source source = source_of(writer, n);
    make(&want, writer, n, bytes);
    es_key_hash(&want.key, &key);
    if (es_store_find(store, &source.hash, &found, name, NULL)) ++*lost; /* its entry was acknowledged with it */
    else if (!es_hash_equal(&found, &key)) ++*corrupt;
    esper_status status = es_store_get(store, &key, &got, NULL);
    int64_t version = -1;
    if (!status && got.length[ES_SECTION_object] >= sizeof version) {
      memcpy(&version, got.bytes[ES_SECTION_object], sizeof version);
      if (version == acknowledged + 1) make(&want, writer, version, bytes);
      bool same = got.length[ES_SECTION_object] == want.length[ES_SECTION_object] &&
                  memcmp(got.bytes[ES_SECTION_object], bytes, want.length[ES_SECTION_object]) == 0;
      if (!same && version < n) ++*lost;
      else if (!same) ++*corrupt;
    } else if (status == ESPER_ENOTFOUND) ++*lost;
    else ++*corrupt;
    es_record_free(&got);
  }
}

static bool remove_all(const char *directory) {
  char command[200];
  snprintf(command, sizeof command, "rm -rf %s", directory);
  return system(command) == 0;
}

int main(int argc, char **argv) {
  int64_t kills = argc > 1 ? atoll(argv[1]) : 300, lost = 0, corrupt = 0, other = 0;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  bool plant = argc > 3 && strcmp(argv[3], "plant") == 0;
  char directory[100];
  double slowest = 0;
  state = seed;
  snprintf(directory, sizeof directory, "%.60s/esper-store-kill-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  int64_t *acknowledged = mmap(NULL, sizeof *acknowledged * WRITERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!mkdtemp(directory) || acknowledged == MAP_FAILED) return 2;
  for (int64_t k = 0; k < kills; k += WRITERS) {
    pid_t writers[WRITERS];
    for (int w = 0; w < WRITERS; w++)
      if ((writers[w] = fork()) == 0) write_for_ever(directory, w, &acknowledged[w], plant);
    for (int w = 0; w < WRITERS; w++) { /* one dies first, the other goes on for a while */
      usleep((useconds_t)(1000 + draw() % 29000));
      kill(writers[w], SIGKILL);
    }
    for (int w = 0; w < WRITERS; w++) {
      int ended;
      waitpid(writers[w], &ended, 0);
      if (!WIFSIGNALED(ended)) other++; /* it could not open or put */
    }
    es_store *store;
    es_error err = { 0 };
    double start = milliseconds();
    if (es_store_open(directory, &store, &err)) {
      fprintf(stderr, "kill %lld: %s\n", (long long)k, err.text);
      other++;
      continue;
    }
    if (milliseconds() - start > slowest) slowest = milliseconds() - start;
    if (*es_store_note(store)) {
      fprintf(stderr, "kill %lld: %s\n", (long long)k, es_store_note(store));
      other++;
    }
    for (int w = 0; w < WRITERS; w++) judge(store, w, acknowledged[w], &lost, &corrupt);
    es_store_report report;
    if (k % 20 == 0 && (es_store_verify(store, &report, &err) || report.bad || report.index_bad || report.orphans)) other++;
    es_store_close(store);
  }
  int64_t fail = lost + corrupt + other;
  printf("store_kill %llu %lld %lld acknowledged=%lld lost=%lld corrupt=%lld other=%lld slowest_open_ms=%.1f\n",
         (unsigned long long)seed, (long long)kills, (long long)fail, (long long)(acknowledged[0] + acknowledged[1]),
         (long long)lost, (long long)corrupt, (long long)other, slowest);
  return !remove_all(directory) || fail != 0;
}
