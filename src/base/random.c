/* Counter-based random numbers. Pure functions: no state, any thread, any order. */
#include "base/random.h"
#include <math.h>
#include <string.h>
#include "base/hash.h"

static uint32_t rotate(uint32_t x, unsigned by) { return x << by | x >> (32 - by); }

void es_threefry(const uint32_t key[2], uint32_t c0, uint32_t c1, uint32_t out[2]) {
  static const unsigned rotation[8] = { 13, 15, 26, 6, 17, 29, 16, 24 }; /* SC11, table 2 */
  const uint32_t schedule[3] = { key[0], key[1], UINT32_C(0x1BD11BDA) ^ key[0] ^ key[1] };
  uint32_t x0 = c0 + schedule[0], x1 = c1 + schedule[1];
  for (unsigned round = 0; round < 20; round++) {
    x0 += x1;
    x1 = rotate(x1, rotation[round % 8]) ^ x0;
    if (round % 4 == 3) { /* key injection after every fourth round */
      uint32_t injection = round / 4 + 1;
      x0 += schedule[injection % 3];
      x1 += schedule[(injection + 1) % 3] + injection;
    }
  }
  out[0] = x0;
  out[1] = x1;
}

void es_random_key(uint64_t seed, uint32_t stream, uint64_t step, uint32_t key[2]) {
  const uint32_t words[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
  es_threefry(words, stream, (uint32_t)step, key);
}

double es_random_uniform(const uint32_t key[2], uint64_t index) {
  uint32_t w[2];
  es_threefry(key, (uint32_t)index, (uint32_t)(index >> 32), w);
  return (w[0] >> 8) * 0x1p-24;
}

double es_random_normal(const uint32_t key[2], uint64_t index) {
  static const double two_pi = 6.283185307179586476925;
  uint32_t w[2];
  es_threefry(key, (uint32_t)index, (uint32_t)(index >> 32), w);
  double radius = sqrt(-2 * log(((w[0] >> 8) + 1) * 0x1p-24));
  return radius * cos(two_pi * ((w[1] >> 8) * 0x1p-24));
}

uint32_t es_random_stream(const char *name) {
  es_hash hash;
  es_hash_of(name, strlen(name), &hash);
  const uint8_t *b = hash.bytes;
  return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
