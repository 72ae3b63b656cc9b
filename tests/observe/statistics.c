#include "../support/harness.h"

#include <stdlib.h>

#include "moire/base/random.h"
#include "moire/observe/statistics.h"

/* Few distinct values, so that ranks often tie. */
static double value_of(int rank, int i)
{
    return (double)moire_random_below(test_seed, (uint64_t)rank + 1, (uint64_t)i, 4) - 2 +
           (i % 3 ? 0 : 0.01 * rank);
}

static void check(const struct moire_communicator *world, int count)
{
    double *values = calloc((size_t)count + 1, sizeof *values);
    struct moire_statistic *found = calloc((size_t)count + 1, sizeof *found);
    for (int i = 0; i < count; i++) values[i] = value_of(test_rank, i);
    expect_ok(moire_statistics(world, values, count, found));
    for (int i = 0; i < count; i++) {
        int lowest = 0, highest = 0;
        double sum = 0;
        for (int rank = 0; rank < test_ranks; rank++) {
            sum += value_of(rank, i);
            if (value_of(rank, i) < value_of(lowest, i)) lowest = rank;
            if (value_of(rank, i) > value_of(highest, i)) highest = rank;
        }
        expect(found[i].minimum == value_of(lowest, i) && found[i].rank_of_minimum == lowest);
        expect(found[i].maximum == value_of(highest, i) && found[i].rank_of_maximum == highest);
        expect_near(found[i].mean, sum / test_ranks, 1e-14);
        expect(values[i] == value_of(test_rank, i));
    }
    expect(found[count].maximum == 0 && found[count].mean == 0);
    free(found);
    free(values);
}

static void statistics_over_ranks(void)
{
    static const int counts[] = { 0, 1, 2, 63, 64, 65, 128, 300 };
    struct moire_communicator world;
    expect_ok(moire_communicator_world(&world));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) check(&world, counts[i]);
    moire_communicator_free(&world);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = { { "statistics over ranks", statistics_over_ranks } };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
