/* The frame of every test program: cmocka under MPI.
 *
 * All ranks run the same tests. Only rank 0 prints (TAP). A check inside a collective region must not leave
 * the function, or the other ranks hang: use expect(), which counts and goes on. When a test function
 * returns, the counts of all ranks are added, counted allocations must be back where they were, and no error
 * may be pending; then cmocka passes or fails the test on all ranks alike. cmocka's own assert_* are for
 * tests of one rank. */
#ifndef MOIRE_TESTS_HARNESS_H
#define MOIRE_TESTS_HARNESS_H

#include <mpi.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

struct moire_test {
    const char *name;
    void (*run)(void);
};

/* Ranks of this run; 0 and 1 without MPI. */
extern int test_rank, test_ranks;
/* Seed of this run: MOIRE_TEST_SEED, or from the clock; the same on all ranks, printed at the start as a
 * comment. */
extern uint64_t test_seed;

/* `ranks`: rank counts that tests/support/run-mpi starts the program with, such as "1 2 3 4 5"; "" is one
 * process that never initialises MPI. Returns what main returns. */
int test_main(int argc, char **argv, const char *ranks, const struct moire_test *tests, size_t count);

void test_expect(bool condition, const char *text, const char *file, int line);
/* Counts a failure, prints where, goes on. */
#define expect(condition) test_expect((condition), #condition, __FILE__, __LINE__)
/* The call must return MOIRE_OK; prints the pending error otherwise. */
#define expect_ok(call) test_expect_status((call), MOIRE_OK, #call, __FILE__, __LINE__)
/* The call must fail with `status`; the pending error must contain `text` and is cleared. */
#define expect_failure(call, status, text)                                                                   \
    test_expect_failure((call), (status), (text), #call, __FILE__, __LINE__)
void test_expect_status(int status, int expected, const char *call, const char *file, int line);
void test_expect_failure(int status, int expected, const char *text, const char *call, const char *file,
                         int line);
/* |found - wanted| <= tolerance * max(1, |wanted|); prints both otherwise. */
#define expect_near(found, wanted, tolerance)                                                                \
    test_expect_near((found), (wanted), (tolerance), #found, __FILE__, __LINE__)
void test_expect_near(double found, double wanted, double tolerance, const char *text, const char *file,
                      int line);

/* A random number in [-1, 1) from the test's seed; the same sequence on all ranks as long as they draw alike.
 */
double test_random(void);
/* In [0, bound). */
int64_t test_random_below(int64_t bound);

#endif
