#include "../support/harness.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "moire/base/random.h"

/* Known answers that were published with the generator. */
static void test_known_answers(void)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        moire_philox(known[i].counter, known[i].key, out);
        expect(memcmp(out, known[i].out, sizeof out) == 0);
    }
    expect(moire_random_bits(0, 0, 0) == UINT64_C(0xe169c58d6627e8d5));
}

static void test_arguments_matter(void)
{
    uint64_t base = moire_random_bits(1, 2, 3);
    expect(base == moire_random_bits(1, 2, 3));
    for (int bit = 0; bit < 64; bit++) {
        expect(base != moire_random_bits(1 ^ UINT64_C(1) << bit, 2, 3));
        expect(base != moire_random_bits(1, 2 ^ UINT64_C(1) << bit, 3));
        expect(base != moire_random_bits(1, 2, 3 ^ UINT64_C(1) << bit));
    }
    expect(moire_random_stream("layers.3.experts.w1") != moire_random_stream("layers.3.experts.w2"));
    expect(moire_random_stream("") != moire_random_stream("a"));
    expect(moire_random_stream("a") == UINT64_C(0xaf63dc4c8601ec8c)); /* FNV-1a: streams never change */
}

static void test_uniform(void)
{
    enum { DRAWS = 100000 };
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double u = moire_random_uniform(test_seed, 9, i);
        expect(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    expect_near(sum / DRAWS, 0.5, 0.005);        /* 5 deviations */
    expect_near(squares / DRAWS, 1.0 / 3, 0.005);
}

static void test_below(void)
{
    enum { DRAWS = 60000 };
    int64_t counts[6] = { 0 };
    for (uint64_t i = 0; i < DRAWS; i++) {
        uint64_t draw = moire_random_below(test_seed, 4, i, 6);
        expect(draw < 6);
        if (draw < 6) counts[draw]++;
    }
    for (int i = 0; i < 6; i++) expect(llabs(counts[i] - DRAWS / 6) < 550); /* 6 deviations */
    expect(moire_random_below(test_seed, 4, 0, 1) == 0);
    expect(moire_random_below(test_seed, 4, 0, UINT64_MAX) < UINT64_MAX);
}

static void test_normal(void)
{
    enum { DRAWS = 200000 };
    double sum = 0, squares = 0, cubes = 0, fourths = 0, neighbours = 0, previous = 0;
    int64_t inside = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double x = moire_random_normal(test_seed, 5, i);
        expect(isfinite(x) && fabs(x) < 9);
        sum += x;
        squares += x * x;
        cubes += x * x * x;
        fourths += x * x * x * x;
        neighbours += x * previous;
        inside += fabs(x) < 1;
        previous = x;
    }
    expect_near(sum / DRAWS, 0, 0.014);  /* 6 deviations each */
    expect_near(squares / DRAWS, 1, 0.02);
    expect_near(cubes / DRAWS, 0, 0.055);
    expect_near(fourths / DRAWS, 3, 0.045); /* relative */
    expect_near(neighbours / DRAWS, 0, 0.014);
    expect_near((double)inside / DRAWS, 0.6826895, 0.0065);
}

static void test_pairs(void)
{
    for (uint64_t pair = 0; pair < 100; pair++) {
        double both[2];
        moire_random_normal_pair(test_seed, 6, pair, both);
        expect(both[0] == moire_random_normal(test_seed, 6, 2 * pair));
        expect(both[1] == moire_random_normal(test_seed, 6, 2 * pair + 1));
    }
}

/* Every count up to 300 and some larger: each image once. */
static void test_permute_is_a_permutation(void)
{
    static const uint64_t large[] = { 1000, 1024, 1025, 4095, 4096, 4097, 65537, 100000 };
    for (uint64_t i = 1; i <= 300 + sizeof large / sizeof *large; i++) {
        uint64_t count = i <= 300 ? i : large[i - 301], distinct = 0;
        unsigned char *seen = calloc(count, 1);
        for (uint64_t index = 0; index < count; index++) {
            uint64_t image = moire_random_permute(test_seed, i, index, count);
            expect(image < count);
            if (image < count && !seen[image]++) distinct++;
        }
        expect(distinct == count);
        free(seen);
    }
}

static void test_permute_mixes(void)
{
    enum { COUNT = 10000 };
    int64_t fixed = 0, ascending = 0, other = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t image = moire_random_permute(test_seed, 1, i, COUNT);
        fixed += image == i;
        other += image == moire_random_permute(test_seed, 2, i, COUNT);
        if (i > 0) ascending += image > moire_random_permute(test_seed, 1, i - 1, COUNT);
    }
    expect(fixed < 15 && other < 15);       /* about 1 expected */
    expect(llabs(ascending - COUNT / 2) < 300); /* 10 deviations */
}

/* All 24 orders of 4 come about equally often over streams. */
static void test_permute_is_fair(void)
{
    enum { STREAMS = 24000 };
    int64_t counts[256] = { 0 }, orders = 0;
    for (uint64_t stream = 0; stream < STREAMS; stream++) {
        int order = 0;
        for (uint64_t i = 0; i < 4; i++)
            order = 4 * order + (int)moire_random_permute(test_seed, stream, i, 4);
        counts[order & 255]++;
    }
    for (int i = 0; i < 256; i++) {
        orders += counts[i] > 0;
        if (counts[i]) expect(counts[i] > 300);
    }
    expect(orders == 12 || orders == 24); /* a network over two bits makes even permutations only */
}

static void test_permute_large(void)
{
    uint64_t count = UINT64_MAX;
    for (uint64_t i = 0; i < 100; i++) {
        expect(moire_random_permute(test_seed, 3, i, count) < count);
        expect(moire_random_permute(test_seed, 3, i, UINT64_C(1) << 33) < UINT64_C(1) << 33);
        expect(moire_random_permute(test_seed, 3, i, count) !=
               moire_random_permute(test_seed, 3, i + 1, count));
    }
    expect(moire_random_permute(test_seed, 3, 0, 1) == 0);
}

static const struct moire_test tests[] = {
    { "known answers", test_known_answers },
    { "every bit of seed, stream and index matters", test_arguments_matter },
    { "uniform", test_uniform },
    { "below a bound", test_below },
    { "normal", test_normal },
    { "pairs of normals", test_pairs },
    { "a permutation has each image once", test_permute_is_a_permutation },
    { "a permutation mixes", test_permute_mixes },
    { "small permutations are fair", test_permute_is_fair },
    { "permutations of many", test_permute_large },
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
