/* The exponential of row loops against the C library's, and sums along rows. */
#include "checks.h"

#include "compute/sums.h"

static void scan_exponential(void)
{
    const double allowed = sizeof(real) == sizeof(float) ? 2e-7 : 1e-15;
    double worst = 0;
    /* Over all normal results, and finer where softmax and activations live. */
    for (int64_t i = -870000; i <= 880000; i++) {
        real x = (real)((double)i * 1e-4 + 1e-5 * test_random());
        double wanted = exp((double)x);
        worst = fmax(worst, fabs((double)moire_exp(x) - wanted) / wanted);
    }
    for (int64_t i = 0; i < 1000000; i++) {
        real x = (real)(2 * test_random());
        double wanted = exp((double)x);
        worst = fmax(worst, fabs((double)moire_exp(x) - wanted) / wanted);
    }
    printf("# largest relative error of the exponential: %.3g\n", worst);
    expect(worst <= allowed);
}

static void ends_of_exponential(void)
{
    expect(moire_exp((real)0) == 1);
    expect(moire_exp((real)-INFINITY) == 0);
    expect(moire_exp((real)-1e6) == 0);
    expect(isinf(moire_exp((real)INFINITY)));
    expect(isinf(moire_exp((real)1e4)));
    expect(isnan(moire_exp((real)NAN)));
    if (sizeof(real) == sizeof(float)) {
        expect(isinf(moire_exp((real)88.8)));
        expect(isfinite(moire_exp((real)88.7)));
        expect_near((double)moire_exp((real)-100.0) / exp(-100.0), 1,
                    0.02); /* subnormal: few bits are left */
    }
}

static void scan_sigmoid(void)
{
    const double allowed = sizeof(real) == sizeof(float) ? 3e-7 : 1e-15;
    double worst = 0;
    for (int64_t i = -80000; i <= 80000; i++) {
        real x = (real)((double)i * 1e-3);
        double wanted = 1 / (1 + exp(-(double)x));
        worst = fmax(worst, fabs((double)moire_sigmoid(x) - wanted) / wanted);
    }
    printf("# largest relative error of the sigmoid: %.3g\n", worst);
    expect(worst <= allowed);
    expect(moire_sigmoid((real)-1e5) == 0);
    expect(moire_sigmoid((real)1e5) == 1);
    expect(isnan(moire_sigmoid((real)NAN)));
}

static void sums(void)
{
    for (int64_t n = 0; n < 1200; n += n < 70 ? 1 : 97) {
        real *x = random_reals(n), *y = random_reals(n);
        double sum = 0, dot = 0, around = 0, size = 1e-300,
               tolerance = sizeof(real) == sizeof(float) ? 3e-7 : 1e-14;
        for (int64_t i = 0; i < n; i++) {
            sum += (double)x[i];
            dot += (double)x[i] * (double)y[i];
            around += ((double)x[i] - 0.5) * ((double)y[i] + 0.25);
            size += 1;
        }
        expect(fabs(moire_sum(n, x) - sum) <= tolerance * size);
        expect(fabs(moire_dot(n, x, 0, y, 0) - dot) <= tolerance * size);
        expect(fabs(moire_dot(n, x, (real)0.5, y, (real)-0.25) - around) <= 2 * tolerance * size);
        release_all();
    }
}

/* The bits of a sum do not depend on where the row lies. */
static void sums_at_any_address(void)
{
    const int64_t n = 777;
    real *x = random_reals(n), *moved = hold(n + 16, sizeof *moved);
    for (int64_t shift = 0; shift < 16; shift++) {
        memcpy(moved + shift, x, (size_t)n * sizeof *x);
        expect(moire_sum(n, moved + shift) == moire_sum(n, x));
        expect(moire_dot(n, moved + shift, 0, x, 0) == moire_dot(n, x, 0, x, 0));
    }
    release_all();
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "exponential against the C library", scan_exponential },
        { "exponential at its ends", ends_of_exponential },
        { "sigmoid against the C library", scan_sigmoid },
        { "sums along a row", sums },
        { "sums at any address", sums_at_any_address },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
