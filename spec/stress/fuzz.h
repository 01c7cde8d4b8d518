/* What the fuzzers share: a counter-based generator, so that a program number alone replays it, and byte mutation. */
#ifndef STRESS_FUZZ_H
#define STRESS_FUZZ_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t fuzz_state;

static uint64_t draw(void) { /* splitmix64 */
  uint64_t z = fuzz_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static inline int32_t below(int32_t n) { return (int32_t)(draw() % (uint64_t)n); }

/* Round n of a seed always draws the same numbers. */
static inline void start_round(uint64_t seed, int64_t n) { fuzz_state = seed * 0xd1342543de82ef95u + (uint64_t)n * 0x2545f4914f6cdd1du; }

static inline void arguments(int argc, char **argv, int64_t *rounds, uint64_t *seed) {
  *rounds = argc > 1 ? atoll(argv[1]) : 1000;
  *seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
}

/* A value that decoders tend to get wrong. */
static inline uint64_t odd_number(void) {
  static const uint64_t odd[] = { 0, 1, 7, 8, 63, 64, 127, 128, 255, 256, 0xffff, 0x7fffffff, 0x80000000u, 0xffffffffu,
                                  0x100000000u, 0x7fffffffffffffff, 0x8000000000000000u, 0xffffffffffffffffu };
  uint64_t pick = odd[draw() % (sizeof odd / sizeof *odd)];
  return below(3) ? pick : pick - (uint64_t)below(40);
}

/* Damages `length` bytes in place: bits, bytes, whole fields, copies of other places; sometimes cuts. Returns the new length. */
static inline size_t mutate(uint8_t *bytes, size_t length) {
  for (int32_t n = 1 + below(below(4) ? 3 : 12); n > 0 && length > 8; n--) {
    size_t at = draw() % (length - 8);
    uint64_t value = odd_number();
    switch (below(6)) {
      case 0: bytes[at] ^= (uint8_t)(1u << below(8)); break;
      case 1: bytes[at] = (uint8_t)draw(); break;
      case 2: memcpy(bytes + at, &value, 4); break;
      case 3: memcpy(bytes + at / 8 * 8, &value, 8); break;
      case 4: memmove(bytes + at, bytes + draw() % (length - 8), 1 + draw() % 8); break;
      default: bytes[at] = (uint8_t)(bytes[at] + below(5) - 2); break;
    }
  }
  return below(20) ? length : draw() % (length + 1);
}

/* Every decoder is handed memory of exactly the length it is told, so that valgrind and ASan see a read past it. */
static inline uint8_t *exact(const void *bytes, size_t length) {
  uint8_t *copy = malloc(length ? length : 1);
  if (copy && length) memcpy(copy, bytes, length);
  return copy;
}
#endif
