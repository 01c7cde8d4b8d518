/* Counter-based random numbers: every number is a pure function of (seed, stream, step, index), so
 * compiled kernels, the oracle, libtorch and parameter initialisation draw the same values in any order.
 * Generator: Threefry-2x32, 20 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
 * as 1, 2, 3", SC11; rotations and key schedule from its table 2 and section 3). */
#ifndef ES_RANDOM_H
#define ES_RANDOM_H
#include <stddef.h>
#include <stdint.h>

void es_threefry(const uint32_t key[2], uint32_t c0, uint32_t c1, uint32_t out[2]);

/* Key of one random op: threefry(key = (seed low, seed high), counter = (stream, step mod 2^32)). */
void es_random_key(uint64_t seed, uint32_t stream, uint64_t step, uint32_t key[2]);

/* Element i draws w = threefry(key, i mod 2^32, i / 2^32).
 * uniform: (w0 >> 8) * 2^-24, in [0, 1).
 * normal (Box-Muller): sqrt(-2 ln(((w0 >> 8) + 1) * 2^-24)) * cos(2 pi * (w1 >> 8) * 2^-24). */
double es_random_uniform(const uint32_t key[2], uint64_t index);
double es_random_normal(const uint32_t key[2], uint64_t index);

/* Stream of a named parameter: first four bytes (little endian) of BLAKE2b-256 of its name. */
uint32_t es_random_stream(const char *name);
#endif
