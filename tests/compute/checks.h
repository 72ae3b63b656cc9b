/* What the tests of kernels share: random arrays that are given back together, comparison with a naive
 * twin in double, and gradients against central differences. */
#ifndef MOIRE_TESTS_COMPUTE_CHECKS_H
#define MOIRE_TESTS_COMPUTE_CHECKS_H

#include "../support/harness.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

#include "moire/base/memory.h"
#include "moire/base/real.h"

/* Allowed distance from a twin that computes in double, relative and norm-wise; norms under 0.1 (a few
 * numbers that happen to be small) count as 0.1. */
#define TOLERANCE (sizeof(real) == sizeof(float) ? 2e-6 : 1e-13)
#define COUNT(array) ((int64_t)(sizeof(array) / sizeof((array)[0])))

/* Arrays of the case at hand. */
static void *held[256];
static int64_t held_count;
/* Printed with a failure. */
static char case_text[160];

#define new_case(...) ((void)snprintf(case_text, sizeof case_text, __VA_ARGS__))

static inline void *hold(int64_t count, size_t bytes_each)
{
    void *array = NULL;
    if (held_count == COUNT(held) ||
        moire_allocate(MOIRE_MEMORY_OTHER, count, bytes_each, &array) != MOIRE_OK)
        abort();
    return held[held_count++] = array;
}

static inline void release_all(void)
{
    while (held_count > 0) moire_release(held[--held_count]);
}

static inline real *random_reals(int64_t count)
{
    real *x = hold(count, sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = (real)test_random();
    return x;
}

/* For results that are overwritten: whatever reads them first shows. */
static inline real *nan_reals(int64_t count)
{
    real *x = hold(count, sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = (real)NAN;
    return x;
}

static inline real *copy_reals(int64_t count, const real *from)
{
    real *x = hold(count, sizeof *x);
    memcpy(x, from, (size_t)count * sizeof *x);
    return x;
}

static inline double *zero_doubles(int64_t count)
{
    return hold(count, sizeof(double));
}

/* The twin's array for a result that is added to. */
static inline double *copy_doubles(int64_t count, const real *from)
{
    double *x = zero_doubles(count);
    for (int64_t i = 0; i < count; i++) x[i] = (double)from[i];
    return x;
}

static inline int32_t *random_tokens(int64_t count, int64_t vocabulary)
{
    int32_t *tokens = hold(count, sizeof *tokens);
    for (int64_t i = 0; i < count; i++) tokens[i] = (int32_t)test_random_below(vocabulary);
    return tokens;
}

static inline void check_close(int64_t count, const real *found, const double *wanted, double tolerance,
                               double least, const char *name, const char *file, int line)
{
    char text[400];
    double off = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        double difference = (double)found[i] - wanted[i];
        off += difference * difference;
        size += wanted[i] * wanted[i];
    }
    snprintf(text, sizeof text, "%s near its twin: relative distance %.3g within %.3g (%s)", name,
             sqrt(off / size), tolerance, case_text);
    test_expect(sqrt(off) <= tolerance * fmax(sqrt(size), least), text, file, line);
}
#define expect_close(count, found, wanted) \
    check_close((count), (found), (wanted), TOLERANCE, 0.1, #found, __FILE__, __LINE__)
#define expect_close_within(count, found, wanted, tolerance) \
    check_close((count), (found), (wanted), (tolerance), 0.1, #found, __FILE__, __LINE__)
/* For sums that may cancel: norms under `least` count as that. */
#define expect_close_sums(count, found, wanted, least) \
    check_close((count), (found), (wanted), TOLERANCE, (least), #found, __FILE__, __LINE__)

static inline void check_same(int64_t count, const real *found, const real *wanted, const char *name,
                              const char *file, int line)
{
    char text[300];
    snprintf(text, sizeof text, "%s to have the same bits (%s)", name, case_text);
    test_expect(memcmp(found, wanted, (size_t)count * sizeof *found) == 0, text, file, line);
}
#define expect_same(count, found, wanted) check_same((count), (found), (wanted), #found, __FILE__, __LINE__)

/* <c, y>: with c as the gradient of y this is the loss whose gradient backward gives. */
static inline double inner_product(int64_t count, const real *c, const real *y)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)c[i] * (double)y[i];
    return sum;
}

/* Compares gradient [count] of loss(context) with central differences over x [count], which loss reads; at
 * most 60 elements are tried. Only the double build is exact enough. */
static inline void check_gradient(int64_t count, real *x, const real *gradient, double (*loss)(void *),
                                  void *context, const char *name, const char *file, int line)
{
    const double step = 1e-5;
    char text[400];
    double off = 0, size = 0;
    for (int64_t n = 0; n < (count < 60 ? count : 60); n++) {
        int64_t i = count <= 60 ? n : test_random_below(count);
        real kept = x[i];
        x[i] = kept + (real)step;
        double up = loss(context);
        x[i] = kept - (real)step;
        double down = loss(context);
        x[i] = kept;
        double difference = (double)gradient[i] - (up - down) / (2 * step);
        off += difference * difference;
        size += (double)gradient[i] * (double)gradient[i];
    }
    snprintf(text, sizeof text, "%s near differences: relative distance %.3g within 1e-6 (%s)", name,
             sqrt(off / size), case_text);
    test_expect(sqrt(off) <= 1e-6 * sqrt(size), text, file, line);
}
#define expect_gradient(count, x, gradient, loss, context) \
    check_gradient((count), (x), (gradient), (loss), (context), #gradient, __FILE__, __LINE__)

/* Every test runs with these numbers of threads. */
static const int thread_counts[] = { 1, 3 };

#endif
