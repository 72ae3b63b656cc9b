/* Shares of a run: every element has one owner, and the pieces come together again. */
#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>

#include "cluster/pieces.h"
#include "moire/base/memory.h"
#include "moire/cluster/shares.h"

static struct moire_communicator world;

static const int64_t sizes[] = { 0, 16, 32, 48, 160, 16 * 37 };
enum { SIZES = sizeof sizes / sizeof *sizes };

static double value_at(int64_t i)
{
    return (double)(i * 7 % 1001) + 0.5;
}

static void fill(const struct moire_shares *shares, double *run)
{
    for (int64_t i = 0; i < shares->elements; i++)
        run[i] = i >= shares->first && i < shares->first + shares->count ? value_at(i) : -1;
}

static void every_element_has_one_owner(void)
{
    expect_ok(moire_communicator_world(&world));
    for (int s = 0; s < SIZES; s++) {
        struct moire_shares shares;
        expect_ok(moire_shares_create(&world, sizes[s], MOIRE_FLOAT64, &shares));
        int64_t sum = shares.count, first = shares.count;
        expect(shares.first % 16 == 0 && shares.count % 16 == 0);
        expect_ok(moire_sum_integers(&world, &sum, 1));
        expect_ok(moire_prefix_sum_integers(&world, &first, 1));
        expect(sum == sizes[s] && first == shares.first);
        moire_shares_free(&shares);
    }
    moire_communicator_free(&world);
}

static void check_gather(int64_t elements)
{
    struct moire_shares shares;
    double *run = malloc(sizeof *run * (size_t)(elements + 1));
    expect_ok(moire_shares_create(&world, elements, MOIRE_FLOAT64, &shares));
    fill(&shares, run);
    run[elements] = -2;
    int64_t before = moire_memory_allocations();
    expect_ok(moire_shares_gather(&shares, run));
    expect(moire_memory_allocations() == before);
    bool same = run[elements] == -2;
    for (int64_t i = 0; i < elements; i++) same = same && run[i] == value_at(i);
    expect(same);
    moire_shares_free(&shares);
    free(run);
}

static void check_collect(int64_t elements, int64_t first, int64_t count, int root)
{
    struct moire_shares shares;
    double *run = malloc(sizeof *run * (size_t)(elements + 1)), *range = calloc((size_t)count + 1, sizeof *range);
    expect_ok(moire_shares_create(&world, elements, MOIRE_FLOAT64, &shares));
    fill(&shares, run);
    if (test_ranks > 1)
        expect_ok(moire_shares_collect(&shares, run + shares.first, first, count, root,
                                       test_rank == root ? range : NULL));
    bool same = range[count] == 0;
    for (int64_t i = 0; i < count && test_rank == root && test_ranks > 1; i++)
        same = same && range[i] == value_at(first + i);
    expect(same);
    moire_shares_free(&shares);
    free(range);
    free(run);
}

static void shares_come_together(void)
{
    static const int64_t pieces[] = { 1, 24, 300, (int64_t)1 << 30 };
    int64_t before = moire_piece_bytes;
    expect_ok(moire_communicator_world(&world));
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        moire_piece_bytes = pieces[p];
        for (int s = 0; s < SIZES; s++) {
            check_gather(sizes[s]);
            for (int root = 0; root < test_ranks; root++) {
                check_collect(sizes[s], 0, sizes[s], root);
                if (sizes[s] > 5) check_collect(sizes[s], 3, sizes[s] - 5, root);
                if (sizes[s] > 5) check_collect(sizes[s], sizes[s] - 2, 1, root);
            }
        }
    }
    moire_piece_bytes = before;
    moire_communicator_free(&world);
}

static void a_run_that_is_not_cut_stays(void)
{
    struct moire_shares shares;
    double run[16] = { 3 };
    expect_ok(moire_shares_create(NULL, 16, MOIRE_FLOAT64, &shares));
    expect(shares.first == 0 && shares.count == 16 && !shares.communicator);
    expect_ok(moire_shares_gather(&shares, run));
    expect(run[0] == 3);
    moire_shares_free(&shares);
    expect_failure(moire_shares_create(NULL, 17, MOIRE_FLOAT64, &shares), MOIRE_FAILED, "multiple of 16");
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "every element has one owner", every_element_has_one_owner },
        { "shares come together, in pieces of any size", shares_come_together },
        { "a run that is not cut stays", a_run_that_is_not_cut_stays },
    };
    return test_main(argc, argv, "1 2 3 5", tests, sizeof tests / sizeof *tests);
}
