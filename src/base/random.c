#include "moire/base/random.h"

#include <math.h>

#include "moire/base/status.h"

/* Constants of the paper: the multipliers of philox4x32 and the Weyl sequence of its key. */
#define MULTIPLIER_0 UINT32_C(0xD2511F53)
#define MULTIPLIER_1 UINT32_C(0xCD9E8D57)
#define KEY_STEP_0 UINT32_C(0x9E3779B9) /* golden ratio */
#define KEY_STEP_1 UINT32_C(0xBB67AE85) /* sqrt(3) - 1 */

/* Set one bit pattern apart, so that the normals and the permutation of a stream are not made from the same
 * blocks as its uniform numbers. */
#define NORMALS UINT64_C(0x4e6f726d616c7321)
#define PERMUTATION UINT64_C(0x5065726d75746521)

enum { PHILOX_ROUNDS = 10, FEISTEL_ROUNDS = 8 };

void moire_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
    uint32_t key_0 = key[0], key_1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t first = (uint64_t)MULTIPLIER_0 * a, second = (uint64_t)MULTIPLIER_1 * c;
        a = (uint32_t)(second >> 32) ^ b ^ key_0;
        b = (uint32_t)second;
        c = (uint32_t)(first >> 32) ^ d ^ key_1;
        d = (uint32_t)first;
        key_0 += KEY_STEP_0;
        key_1 += KEY_STEP_1;
    }
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
}

/* 128 bits for (seed, stream, index). */
static void random_block(uint64_t seed, uint64_t stream, uint64_t index, uint64_t out[2])
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const uint32_t counter[4] = { (uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                                  (uint32_t)(stream >> 32) };
    uint32_t words[4];
    moire_philox(counter, key, words);
    out[0] = words[0] | (uint64_t)words[1] << 32;
    out[1] = words[2] | (uint64_t)words[3] << 32;
}

/* FNV-1a, 64 bits; philox does the mixing. */
uint64_t moire_random_stream(const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        hash = (hash ^ *c) * UINT64_C(0x100000001b3);
    return hash;
}

uint64_t moire_random_bits(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t block[2];
    random_block(seed, stream, index, block);
    return block[0];
}

double moire_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return (double)(moire_random_bits(seed, stream, index) >> 11) * 0x1p-53;
}

uint64_t moire_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound)
{
    moire_assert(bound > 0);
    return (uint64_t)((unsigned __int128)moire_random_bits(seed, stream, index) * bound >> 64);
}

void moire_random_normal_pair(uint64_t seed, uint64_t stream, uint64_t pair, double out[2])
{
    uint64_t block[2];
    random_block(seed, stream ^ NORMALS, pair, block);
    double radius = sqrt(-2 * log((double)((block[0] >> 11) + 1) * 0x1p-53)); /* of a number in (0, 1] */
    double angle = 6.283185307179586476925286766559 * ((double)(block[1] >> 11) * 0x1p-53);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

double moire_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    double pair[2];
    moire_random_normal_pair(seed, stream, index / 2, pair);
    return pair[index % 2];
}

/* Half of the bits that number [0, count): the Feistel network permutes [0, 4^half), less than 4 count. */
static int half_of_bits(uint64_t count)
{
    int bits = count > 1 ? 64 - __builtin_clzll(count - 1) : 0;
    return (bits + 1) / 2;
}

static uint64_t feistel(uint64_t seed, uint64_t stream, uint64_t value, int half)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t mask = (uint32_t)((UINT64_C(1) << half) - 1);
    uint32_t left = (uint32_t)(value >> half) & mask, right = (uint32_t)value & mask;
    for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
        const uint32_t counter[4] = { right, round, (uint32_t)stream, (uint32_t)(stream >> 32) };
        uint32_t words[4];
        moire_philox(counter, key, words);
        uint32_t next = left ^ (words[0] & mask);
        left = right;
        right = next;
    }
    return (uint64_t)left << half | right;
}

uint64_t moire_random_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count)
{
    moire_assert(index < count);
    int half = half_of_bits(count);
    if (half == 0) return index;
    uint64_t image = index;
    do image = feistel(seed, stream ^ PERMUTATION, image, half);
    while (image >= count); /* the walk stays on one cycle, which holds index < count, so it ends */
    return image;
}
