#include "harness.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "moire/base/memory.h"
#include "moire/base/random.h"

int test_rank = 0, test_ranks = 1;
uint64_t test_seed;

static uint64_t draws;
static long failures;
static bool with_mpi;

void test_expect(bool condition, const char *text, const char *file, int line)
{
    if (condition) return;
    failures++;
    fprintf(stderr, "# rank %d: %s:%d: expected %s\n", test_rank, file, line, text);
}

void test_expect_status(int status, int expected, const char *call, const char *file, int line)
{
    if (status == expected) return;
    failures++;
    fprintf(stderr, "# rank %d: %s:%d: %s gave %s, expected %s: %s\n", test_rank, file, line, call,
            moire_status_name((moire_status)status), moire_status_name((moire_status)expected),
            moire_error_text());
    moire_error_clear();
}

void test_expect_failure(int status, int expected, const char *text, const char *call, const char *file,
                         int line)
{
    if (status != expected || strstr(moire_error_text(), text) == NULL) {
        failures++;
        fprintf(stderr, "# rank %d: %s:%d: %s gave %s, expected %s with '%s'; message: %s\n", test_rank, file,
                line, call, moire_status_name((moire_status)status),
                moire_status_name((moire_status)expected), text, moire_error_text());
    }
    moire_error_clear();
}

void test_expect_near(double found, double wanted, double tolerance, const char *text, const char *file,
                      int line)
{
    double difference = found > wanted ? found - wanted : wanted - found;
    double scale = wanted > 1 ? wanted : wanted < -1 ? -wanted : 1;
    if (difference <= tolerance * scale) return; /* false for NaN too */
    failures++;
    fprintf(stderr, "# rank %d: %s:%d: %s is %.17g, expected %.17g within %.3g\n", test_rank, file, line,
            text, found, wanted, tolerance);
}

double test_random(void)
{
    return 2 * moire_random_uniform(test_seed, 0, draws++) - 1;
}

int64_t test_random_below(int64_t bound)
{
    return (int64_t)moire_random_below(test_seed, 0, draws++, (uint64_t)bound);
}

/* The frame of one test; cmocka calls it with the test as its state. */
static void run_one(void **state)
{
    const struct moire_test *test = *state;
    int64_t blocks = moire_memory_blocks();
    failures = 0;
    draws = 0;
    moire_error_clear();
    test->run();
    if (moire_memory_blocks() != blocks) {
        failures++;
        fprintf(stderr, "# rank %d: %s: %lld counted allocations left\n", test_rank, test->name,
                (long long)(moire_memory_blocks() - blocks));
    }
    if (moire_error_text()[0]) {
        failures++;
        fprintf(stderr, "# rank %d: %s: error left pending: %s\n", test_rank, test->name, moire_error_text());
        moire_error_clear();
    }
    long all = failures;
    if (with_mpi) MPI_Allreduce(&failures, &all, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    if (all)
        fail_msg("%ld expectations failed over %d ranks (MOIRE_TEST_SEED=%llu)", all, test_ranks,
                 (unsigned long long)test_seed);
}

static void start_mpi(int *argc, char ***argv)
{
    int provided;
    with_mpi = true;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &test_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &test_ranks);
    moire_where.rank = test_rank;
    MPI_Bcast(&test_seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (test_rank > 0 && !freopen("/dev/null", "w", stdout)) abort();
}

int test_main(int argc, char **argv, const char *ranks, const struct moire_test *tests, size_t count)
{
    if (getenv("MOIRE_TEST_ASK_RANKS")) {
        puts(ranks);
        return 0;
    }
    const char *seed = getenv("MOIRE_TEST_SEED");
    test_seed = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    if (*ranks) start_mpi(&argc, &argv);
    printf("# MOIRE_TEST_SEED=%llu\n", (unsigned long long)test_seed);
    fflush(stdout);

    struct CMUnitTest *units = calloc(count, sizeof *units);
    if (!units) abort();
    for (size_t i = 0; i < count; i++)
        units[i] = (struct CMUnitTest) { .name = tests[i].name,
                                         .test_func = run_one,
                                         .initial_state = (void *)(uintptr_t)&tests[i] };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = _cmocka_run_group_tests(argv[0], units, count, NULL, NULL);
    free(units);
    if (with_mpi) MPI_Finalize();
    return failed ? 1 : 0;
}
