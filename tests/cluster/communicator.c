#include "../support/harness.h"

#include <limits.h>
#include <stdlib.h>

#include "../support/capture.h"
#include "cluster/pieces.h"
#include "moire/cluster/communicator.h"

static struct moire_communicator world;

/* Added over ranks. */
static int sum_over_ranks(int value)
{
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    return value;
}

static void a_world_has_name_rank_size_and_returns_errors(void)
{
    char name[MPI_MAX_OBJECT_NAME];
    int length, same;
    MPI_Errhandler handler;
    expect_ok(moire_communicator_world(&world));
    expect(world.rank == test_rank && world.size == test_ranks);
    expect(strcmp(world.name, "world") == 0);
    MPI_Comm_get_name(world.mpi, name, &length);
    expect(strcmp(name, "world") == 0);
    MPI_Comm_compare(world.mpi, MPI_COMM_WORLD, &same);
    expect(same == MPI_CONGRUENT);
    MPI_Comm_get_errhandler(world.mpi, &handler);
    expect(handler == MPI_ERRORS_RETURN);
    MPI_Errhandler_free(&handler);
    moire_communicator_free(&world);
    expect(world.size == 0 && world.mpi == MPI_COMM_NULL);
    moire_communicator_free(&world);
    memset(&world, 0, sizeof world);
    moire_communicator_free(&world);
}

static void an_mpi_error_names_operation_and_communicator(void)
{
    int value = 0;
    expect_ok(moire_communicator_world(&world));
    int result = MPI_Bcast(&value, 1, MPI_INT, test_ranks + 3, world.mpi);
    expect_failure(moire_mpi_check(result, &world, "MPI_Bcast"), MOIRE_MPI_ERROR,
                   "MPI_Bcast failed on communicator world: MPI_ERR_ROOT");
    expect_failure(moire_broadcast(&world, &value, sizeof value, test_ranks), MOIRE_MPI_ERROR,
                   "MPI_ERR_ROOT");
    expect_failure(moire_mpi_check(MPI_ERR_TYPE, NULL, "MPI_Send"), MOIRE_MPI_ERROR, "unnamed");
    expect_ok(moire_mpi_check(MPI_SUCCESS, &world, "MPI_Bcast"));
    moire_communicator_free(&world);
}

static void narrowing_takes_what_fits(void)
{
    int narrow = -7;
    expect_ok(moire_narrow(0, "rows", &narrow));
    expect(narrow == 0);
    expect_ok(moire_narrow(INT_MAX, "rows", &narrow));
    expect(narrow == INT_MAX);
    expect_failure(moire_narrow((int64_t)INT_MAX + 1, "rows", &narrow), MOIRE_FAILED, "rows");
    expect_failure(moire_narrow((int64_t)1 << 32, "rows", &narrow), MOIRE_FAILED,
                   "found 4294967296, expected 0 to");
    expect_failure(moire_narrow(-1, "rows", &narrow), MOIRE_FAILED, "found -1");
    expect(narrow == INT_MAX);
}

static void splits_and_copies(void)
{
    struct moire_communicator half, none, node, copy;
    expect_ok(moire_communicator_world(&world));
    expect_ok(moire_communicator_split(&world, "half", test_rank % 2, -test_rank, &half));
    int members = (test_ranks + 1 - test_rank % 2) / 2;
    expect(half.size == members);
    expect(half.rank == members - 1 - test_rank / 2); /* the key turns the order round */
    expect(strcmp(half.name, "half") == 0);
    expect_ok(moire_communicator_split(&world, "none", test_rank == 0 ? 0 : MPI_UNDEFINED, 0, &none));
    expect(none.size == (test_rank == 0 ? 1 : 0));
    expect_ok(moire_communicator_split_node(&world, "node", &node));
    expect(node.size == test_ranks && node.rank == test_rank); /* tests run on one machine */
    expect_ok(moire_communicator_copy(&half, "copy", &copy));
    expect(copy.rank == half.rank && copy.size == half.size && copy.mpi != half.mpi);
    moire_communicator_free(&copy);
    moire_communicator_free(&node);
    moire_communicator_free(&none);
    moire_communicator_free(&half);
    moire_communicator_free(&world);
}

/* All ranks agree; `fails` says which rank brings which status. What they print is captured and counted. */
static void agree_once(moire_status (*fails)(int rank), int lowest, moire_status expected)
{
    struct capture capture;
    char own[64];
    moire_status status = fails(test_rank);
    snprintf(own, sizeof own, "cause on rank %d", test_rank);
    if (status != MOIRE_OK) moire_fail(status, "%s", own);
    capture_begin(&capture, 2);
    moire_status agreed = moire_agree(&world, status);
    capture_end(&capture);
    expect(agreed == expected);
    expect(moire_error_is_agreed());
    expect(moire_error_text()[0] == '\0');
    expect(sum_over_ranks(count_text(capture.text, "cause on rank")) == 1);
    expect(test_rank == lowest ? strstr(capture.text, own) != NULL : capture.text[0] == '\0');
    moire_error_clear();
}

static moire_status all_fail(int rank)
{
    return rank == 0 ? MOIRE_NO_FILE : MOIRE_USAGE;
}

static moire_status last_fails(int rank)
{
    return rank == test_ranks - 1 ? MOIRE_NO_MEMORY : MOIRE_OK;
}

static moire_status all_but_first_fail(int rank)
{
    return rank > 0 ? MOIRE_BAD_DATA : MOIRE_OK;
}

static void ranks_agree_on_the_lowest_failure(void)
{
    expect_ok(moire_communicator_world(&world));
    expect_ok(moire_agree(&world, MOIRE_OK));
    expect(!moire_error_is_agreed());
    agree_once(all_fail, 0, MOIRE_NO_FILE);
    agree_once(last_fails, test_ranks - 1, MOIRE_NO_MEMORY);
    if (test_ranks > 1) agree_once(all_but_first_fail, 1, MOIRE_BAD_DATA);
    expect_ok(moire_agree(&world, MOIRE_OK));
    moire_communicator_free(&world);
}

static void a_failure_without_message_prints_nothing(void)
{
    struct capture capture;
    expect_ok(moire_communicator_world(&world));
    capture_begin(&capture, 2);
    expect(moire_agree(&world, MOIRE_FAILED) == MOIRE_FAILED);
    capture_end(&capture);
    expect(capture.text[0] == '\0');
    moire_error_clear();
    moire_communicator_free(&world);
}

/* Element `i` of rank `rank`: every rank can say what every other one has. */
static int64_t integer_of(int rank, int64_t i)
{
    return (((int64_t)1 << 54) + 1) / (rank + 1) * (i % 3 ? 1 : -1) + i;
}

static double real_of(int rank, int64_t i)
{
    return (rank + 1) * 0.37 - (double)(i % 17) * 0.11;
}

static void check_integers(int64_t count)
{
    int64_t *sums = calloc((size_t)count * 3 + 1, sizeof *sums), *maxima = sums + count,
            *prefix = maxima + count;
    for (int64_t i = 0; i < count; i++) sums[i] = maxima[i] = prefix[i] = integer_of(test_rank, i);
    expect_ok(moire_sum_integers(&world, sums, count));
    expect_ok(moire_max_integers(&world, maxima, count));
    expect_ok(moire_prefix_sum_integers(&world, prefix, count));
    bool same = true;
    for (int64_t i = 0; i < count; i++) {
        int64_t sum = 0, maximum = INT64_MIN, before = 0;
        for (int rank = 0; rank < test_ranks; rank++) {
            int64_t value = integer_of(rank, i);
            if (rank == test_rank) before = sum;
            sum += value;
            if (value > maximum) maximum = value;
        }
        same = same && sums[i] == sum && maxima[i] == maximum && prefix[i] == before;
    }
    expect(same);
    free(sums);
}

static void check_reals(int64_t count)
{
    double *sums = calloc((size_t)count * 2 + 1, sizeof *sums), *maxima = sums + count;
    float *small = calloc((size_t)count + 1, sizeof *small);
    for (int64_t i = 0; i < count; i++) small[i] = (float)(sums[i] = maxima[i] = real_of(test_rank, i));
    expect_ok(moire_sum(&world, sums, count, MOIRE_FLOAT64));
    expect_ok(moire_sum(&world, small, count, MOIRE_FLOAT32));
    expect_ok(moire_max_reals(&world, maxima, count));
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int rank = 0; rank < test_ranks; rank++) sum += real_of(rank, i);
        expect_near(sums[i], sum, 1e-14);
        expect_near(small[i], sum, 1e-6);
        expect(maxima[i] == real_of(test_ranks - 1, i));
    }
    free(small);
    free(sums);
}

static void check_broadcast(int64_t bytes)
{
    unsigned char *data = malloc((size_t)bytes + 1);
    for (int root = 0; root < test_ranks; root++) {
        for (int64_t i = 0; i <= bytes; i++)
            data[i] = (unsigned char)(test_rank == root ? i * 7 + root : 0xee);
        expect_ok(moire_broadcast(&world, data, bytes, root));
        bool same = true;
        for (int64_t i = 0; i < bytes; i++) same = same && data[i] == (unsigned char)(i * 7 + root);
        expect(same);
        expect(test_rank == root || data[bytes] == 0xee);
    }
    free(data);
}

static void reductions_and_broadcasts_are_cut(void)
{
    static const int64_t counts[] = { 0, 1, 2, 3, 7, 100 }, pieces[] = { 1, 24, 64, (int64_t)1 << 30 };
    int64_t before = moire_piece_bytes;
    expect(before == (int64_t)1 << 30);
    expect_ok(moire_communicator_world(&world));
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        moire_piece_bytes = pieces[p];
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            check_integers(counts[c]);
            check_reals(counts[c]);
            check_broadcast(counts[c]);
        }
    }
    moire_piece_bytes = before;
    moire_communicator_free(&world);
}

static void values_that_differ_are_found(void)
{
    struct capture capture;
    expect_ok(moire_communicator_world(&world));
    expect_ok(moire_check_same(&world, UINT64_MAX, "the seed"));
    for (int odd = 1; odd < test_ranks; odd++) { /* ranks from `odd` on have another value */
        capture_begin(&capture, 2);
        moire_status status = moire_check_same(&world, test_rank < odd ? 5 : 6, "the configuration");
        capture_end(&capture);
        expect(status == MOIRE_USAGE);
        expect(moire_error_is_agreed());
        expect(test_rank == odd ? strstr(capture.text, "the configuration differs between ranks") != NULL
                                : capture.text[0] == '\0');
        moire_error_clear();
    }
    moire_communicator_free(&world);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "a world has name, rank, size and returns errors", a_world_has_name_rank_size_and_returns_errors },
        { "an MPI error names operation and communicator", an_mpi_error_names_operation_and_communicator },
        { "narrowing takes what fits", narrowing_takes_what_fits },
        { "splits and copies", splits_and_copies },
        { "ranks agree on the lowest failure", ranks_agree_on_the_lowest_failure },
        { "a failure without message prints nothing", a_failure_without_message_prints_nothing },
        { "reductions and broadcasts are cut", reductions_and_broadcasts_are_cut },
        { "values that differ are found", values_that_differ_are_found },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
