/* Stress: random damage to data.mdb; no wrong record may be accepted and no host may die.
 *     store_flip N SEED [forge]        one line: name seed n fail metric; exit status 1 when anything failed
 * Works below $TMPDIR; a tmpfs (/dev/shm) is a hundred times faster.
 * Each of the N damaged copies is opened and used (read all, write, delete, clean up, verify) by a host process of
 * its own. "forge" puts the file's times back, so that the store believes its marker and LMDB meets the damage
 * unprepared: wrong records must still be 0, but LMDB may die; those deaths are reported and not counted as failures. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "store/store.h"

enum { RECORDS = 150, BYTES_MAX = 9000, WRONG = 10, REFUSED = 11 };
static uint64_t state;
static char directory[100];

static uint64_t draw(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static void make(es_record *record, int64_t n, unsigned char *bytes) {
  memset(record, 0, sizeof *record);
  record->key = (es_key){ .name = "stress/flip", .mode = "eval", .dtype = "f32", .target = "cpu/scalar" };
  memcpy(record->key.graph.bytes, &n, sizeof n);
  size_t length = n % 3 ? (size_t)(n * 7919 % 600) : (size_t)(n * 7919 % BYTES_MAX); /* most lie inside the tree's pages */
  for (size_t k = 0; k < length; k++) bytes[k] = (unsigned char)(n * 31 + (int64_t)k * 7);
  record->created = 1000 + n;
  record->bytes[ES_SECTION_object] = bytes;
  record->length[ES_SECTION_object] = length;
}

/* The source of record n; some names are long, so that entries differ in size. */
static es_source source_of(int64_t n) {
  es_source source = { .name = n % 4 ? "stress/flip" : "stress/a_rather_long_name_for_a_blueprint_but_one_that_fits" };
  es_hash_of(&n, sizeof n, &source.hash);
  return source;
}

static bool put(es_store *store, int64_t n, unsigned char *bytes) {
  es_record record;
  es_source source = source_of(n);
  make(&record, n, bytes);
  return es_store_put(store, &record, &source, NULL) == ESPER_OK;
}

/* False when the index leads elsewhere than to record n; a miss is fine. */
static bool led_right(es_store *store, int64_t n, const es_hash *key) {
  char name[ES_SOURCE_NAME_MAX + 1];
  es_hash found;
  es_source source = source_of(n);
  if (es_store_find(store, &source.hash, &found, name, NULL)) return true;
  return es_hash_equal(&found, key) && strcmp(name, source.name) == 0;
}

static bool fill(void) {
  unsigned char bytes[BYTES_MAX];
  es_store *store;
  es_record record;
  es_hash key;
  bool good = es_store_open(directory, &store, NULL) == ESPER_OK;
  for (int64_t n = 0; good && n < RECORDS + 30; n++) good = put(store, n, bytes);
  for (int64_t n = RECORDS; good && n < RECORDS + 30; n++) { /* leaves free pages */
    make(&record, n, bytes);
    es_key_hash(&record.key, &key);
    good = es_store_delete(store, &key, NULL) == ESPER_OK;
  }
  es_store_close(store);
  return good;
}

/* What a host does with the store. Exit status 0, WRONG or REFUSED. */
static _Noreturn void host(void) {
  unsigned char bytes[BYTES_MAX];
  es_store *store;
  es_error err = { 0 };
  es_store_report report;
  int64_t deleted;
  int verdict = 0;
  struct rlimit no_core = { 0, 0 }, little_time = { 20, 20 }; /* LMDB can run away on a forged file: a death too */
  setrlimit(RLIMIT_CORE, &no_core);
  setrlimit(RLIMIT_CPU, &little_time);
  if (freopen("/dev/null", "w", stderr) == NULL) _exit(1); /* LMDB's last words */
  if (es_store_open(directory, &store, &err)) _exit(REFUSED);
  for (int pass = 0; pass < 2; pass++) {
    for (int64_t n = 0; n < RECORDS; n++) {
      es_record want, got;
      es_hash key;
      make(&want, n, bytes);
      es_key_hash(&want.key, &key);
      if (!led_right(store, n, &key)) verdict = WRONG;
      if (es_store_get(store, &key, &got, NULL)) continue;
      if (got.created != want.created || got.length[ES_SECTION_object] != want.length[ES_SECTION_object] ||
          (want.length[ES_SECTION_object] &&
           memcmp(got.bytes[ES_SECTION_object], bytes, want.length[ES_SECTION_object])))
        verdict = WRONG;
      es_record_free(&got);
      if (n % 10 == 0) es_store_delete(store, &key, NULL);
    }
    for (int64_t n = 0; n < RECORDS; n += 5) put(store, n, bytes);
    es_store_verify(store, &report, NULL);
    es_store_gc(store, -1, 100000, &deleted, NULL);
  }
  es_store_close(store);
  _exit(verdict);
}

/* Puts the sound bytes back in place and damages a few. */
static bool damage(const unsigned char *sound, size_t size, bool forge) {
  char path[120];
  struct stat info;
  snprintf(path, sizeof path, "%s/data.mdb", directory);
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  bool good = fd >= 0 && ftruncate(fd, (off_t)size) == 0 && pwrite(fd, sound, size, 0) == (ssize_t)size;
  if (good && forge) { /* a marker that fits the sound file */
    es_store *store;
    good = es_store_open(directory, &store, NULL) == ESPER_OK;
    es_store_close(store);
  }
  good = good && fstat(fd, &info) == 0;
  size_t pages = size / 4096;
  for (uint64_t n = 1 + draw() % 4; good && n > 0; n--) {
    size_t at = (size_t)(draw() % size);
    if (draw() % 2) at = (draw() % 4 ? (size_t)(draw() % pages) : (size_t)(draw() % 2)) * 4096 + (size_t)(draw() % 160);
    unsigned char byte = (unsigned char)(sound[at] ^ (1 + draw() % 255));
    good = pwrite(fd, &byte, 1, (off_t)at) == 1;
  }
  if (good && draw() % 50 == 0) good = ftruncate(fd, (off_t)(draw() % size)) == 0;
  struct timespec times[2] = { info.st_atim, info.st_mtim };
  if (good && forge) good = futimens(fd, times) == 0;
  if (fd >= 0) close(fd);
  return good;
}

/* All but data.mdb, lock.mdb, secret: what hosts set aside. */
static void tidy(void) {
  char command[200];
  snprintf(command, sizeof command, "rm -f %s/*.corrupt-* ", directory);
  if (system(command)) state++; /* cannot matter: names are numbered on */
}

static unsigned char *load(size_t *size) {
  char path[120];
  struct stat info;
  snprintf(path, sizeof path, "%s/data.mdb", directory);
  int fd = open(path, O_RDONLY);
  if (fd < 0 || fstat(fd, &info)) return NULL;
  unsigned char *bytes = malloc((size_t)info.st_size);
  *size = (size_t)info.st_size;
  bool good = bytes && read(fd, bytes, *size) == (ssize_t)*size;
  close(fd);
  return good ? bytes : NULL;
}

int main(int argc, char **argv) {
  int64_t rounds = argc > 1 ? atoll(argv[1]) : 1000, wrong = 0, died = 0, refused = 0, other = 0;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  bool forge = argc > 3 && strcmp(argv[3], "forge") == 0;
  size_t size;
  state = seed;
  snprintf(directory, sizeof directory, "%.60s/esper-store-flip-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  if (!mkdtemp(directory) || !fill()) return 2;
  unsigned char *sound = load(&size);
  if (!sound) return 2;
  for (int64_t k = 0; k < rounds; k++) {
    int ended;
    if (!damage(sound, size, forge)) return 2;
    pid_t child = fork();
    if (child == 0) host();
    if (child < 0 || waitpid(child, &ended, 0) != child) return 2;
    wrong += WIFEXITED(ended) && WEXITSTATUS(ended) == WRONG;
    refused += WIFEXITED(ended) && WEXITSTATUS(ended) == REFUSED;
    other += WIFEXITED(ended) && WEXITSTATUS(ended) != WRONG && WEXITSTATUS(ended) != REFUSED && WEXITSTATUS(ended) != 0;
    if (WIFSIGNALED(ended) && ++died && !forge)
      fprintf(stderr, "round %lld: host died of signal %d\n", (long long)k, WTERMSIG(ended));
    tidy();
  }
  int64_t fail = wrong + refused + other + (forge ? 0 : died);
  printf("store_flip%s %llu %lld %lld wrong=%lld host_deaths=%lld refused=%lld\n", forge ? "_forged" : "",
         (unsigned long long)seed, (long long)rounds, (long long)fail, (long long)wrong, (long long)died, (long long)refused);
  char command[200];
  snprintf(command, sizeof command, "rm -rf %s", directory);
  free(sound);
  return system(command) != 0 || fail != 0;
}
