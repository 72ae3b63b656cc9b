/* Counter-based random numbers: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
 * as 1, 2, 3", SC11). A number is a pure function of (seed, stream, index), so weights and data order are the
 * same for any number of ranks and any order of calls. No state, thread safe, not collective. */
#ifndef MOIRE_BASE_RANDOM_H
#define MOIRE_BASE_RANDOM_H

#include <stdint.h>

/* The bijection itself, for the published test vectors. */
void moire_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A stream's number from a name: the same name gives the same stream everywhere. */
uint64_t moire_random_stream(const char *name);

uint64_t moire_random_bits(uint64_t seed, uint64_t stream, uint64_t index);
double moire_random_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* in [0, 1), 53 bits */
/* In [0, bound), without bias that matters (128-bit multiply); bound > 0. */
uint64_t moire_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);
double moire_random_normal(uint64_t seed, uint64_t stream,
                           uint64_t index); /* mean 0, deviation 1; Box-Muller */
/* The normals of indices 2 pair and 2 pair + 1 for the price of one. */
void moire_random_normal_pair(uint64_t seed, uint64_t stream, uint64_t pair, double out[2]);
/* The image of `index` under a pseudo-random permutation of [0, count), without storing it (Feistel network
 * with cycle walking). */
uint64_t moire_random_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count);

#endif
