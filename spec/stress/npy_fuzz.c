/* Stress: damaged .npy files. Header and file must be refused with a typed one-line error, or be read to exactly the
 * bytes that stand in the file.
 *     npy_fuzz N SEED [plant]      one line: name seed n fail metric
 * "plant" looks for the data one byte further on: the proof that wrong bytes are seen. Works in $TMPDIR. */
#include <unistd.h>
#include "base/memory.h"
#include "fuzz.h"
#include "run/npy.h"

static char path[100];

static bool write_file(const uint8_t *bytes, size_t length) {
  FILE *file = fopen(path, "wb");
  bool good = file && fwrite(bytes, 1, length, file) == length;
  return (file ? fclose(file) == 0 : false) && good;
}

static size_t sample(uint8_t *bytes, size_t room) {
  int64_t shape[ES_RANK_MAX];
  double data[256] = { 0 };
  int32_t rank = below(4), dtype = below(2) ? ES_f32 : ES_f64;
  for (int32_t a = 0; a < rank; a++) shape[a] = below(6);
  for (size_t i = 0; i < 256; i++) data[i] = (double)below(1000);
  if (es_npy_write(path, dtype, rank, shape, data, NULL)) return 0;
  FILE *file = fopen(path, "rb");
  size_t length = file ? fread(bytes, 1, room, file) : 0;
  if (file) fclose(file);
  return length;
}

static bool typed(const es_error *err) {
  return err->status != ESPER_OK && err->status != ESPER_EINTERNAL && err->text[0] && !strchr(err->text, '\n');
}

/* The header alone from memory of exactly that length; then the whole file. */
static bool right(const uint8_t *bytes, size_t length, bool plant, int64_t *accepted) {
  es_npy head, again;
  es_error err = { 0 };
  void *data = NULL;
  esper_status parsed = es_npy_parse(bytes, length, "fuzz.npy", &head, &err);
  if (parsed != ESPER_OK && !typed(&err)) return false;
  err = (es_error){ 0 };
  if (es_npy_read(path, &again, &data, &err) != ESPER_OK) return data == NULL && typed(&err);
  size_t at = (size_t)again.data_at + (plant ? 1 : 0), count = (size_t)again.bytes;
  (*accepted)++;
  int64_t elements = 1;
  for (int32_t a = 0; a < again.rank; a++) elements *= again.shape[a];
  bool good = parsed == ESPER_OK && again.data_at == head.data_at && again.bytes == head.bytes &&
              again.bytes == elements * es_dtype_bytes(again.dtype) && (size_t)again.data_at + count == length &&
              (count == 0 || (at + count <= length && memcmp(data, bytes + at, count) == 0));
  es_free(data);
  return good;
}

int main(int argc, char **argv) {
  int64_t rounds, wrong = 0, accepted = 0;
  uint64_t seed;
  bool plant = argc > 3 && strcmp(argv[3], "plant") == 0;
  uint8_t bytes[4096];
  arguments(argc, argv, &rounds, &seed);
  snprintf(path, sizeof path, "%.60s/esper-npy-fuzz-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  int file = mkstemp(path);
  if (file < 0) return 2;
  close(file);
  int64_t live = es_memory_live();
  for (int64_t n = 0; n < rounds; n++) {
    start_round(seed, n);
    size_t length = sample(bytes, sizeof bytes);
    length = mutate(bytes, length < 160 || below(2) ? length : 160); /* half the time in the header only */
    uint8_t *copy = exact(bytes, length);
    if (!write_file(copy, length)) return 2;
    if (!right(copy, length, plant, &accepted) && wrong++ < 3 && !plant) fprintf(stderr, "npy_fuzz: round %lld\n", (long long)n);
    free(copy);
  }
  int64_t leaked = es_memory_live() - live;
  unlink(path);
  printf("npy_fuzz %llu %lld %lld accepted=%lld leaked=%lld\n", (unsigned long long)seed, (long long)rounds,
         (long long)wrong, (long long)accepted, (long long)leaked);
  return wrong || leaked || (rounds >= 1000 && (accepted == 0 || accepted == rounds));
}
