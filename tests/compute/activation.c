/* Activations against a naive twin; gradients. */
#include "checks.h"

#include "moire/compute/activation.h"

static double naive_gelu(double u)
{
    return u / 2 * (1 + tanh(sqrt(2 / M_PI) * (u + 0.044715 * u * u * u)));
}

static double naive_gelu_slope(double u)
{
    double t = tanh(sqrt(2 / M_PI) * (u + 0.044715 * u * u * u));
    return (1 + t) / 2 + u / 2 * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * u * u);
}

static double naive_silu(double g)
{
    return g / (1 + exp(-g));
}

static double naive_silu_slope(double g)
{
    double s = 1 / (1 + exp(-g));
    return s + g * s * (1 - s);
}

/* Inputs from -6 to 6. */
static real *wide_reals(int64_t count)
{
    real *x = random_reals(count);
    for (int64_t i = 0; i < count; i++) x[i] *= 6;
    return x;
}

static void compare_gelu(int64_t rows, int64_t size, bool weighted, bool in_place)
{
    int64_t count = rows * size;
    real *up = wide_reals(count), *weights = weighted ? random_reals(rows) : NULL, *hidden = nan_reals(count);
    real *dh = random_reals(count), *du = in_place ? copy_reals(count, dh) : nan_reals(count),
         *again = nan_reals(count), *dw = weighted ? nan_reals(rows) : NULL;
    double *hidden_wanted = zero_doubles(count), *du_wanted = zero_doubles(count),
           *dw_wanted = zero_doubles(rows);
    for (int64_t i = 0; i < count; i++) {
        double w = weighted ? (double)weights[i / size] : 1, u = (double)up[i];
        hidden_wanted[i] = w * naive_gelu(u);
        du_wanted[i] = w * (double)dh[i] * naive_gelu_slope(u);
        dw_wanted[i / size] += (double)dh[i] * naive_gelu(u);
    }
    new_case("gelu, %lld rows of %lld, weights %d, in place %d", (long long)rows, (long long)size, weighted,
             in_place);
    moire_gelu_forward(rows, size, up, weights, hidden);
    moire_gelu_backward(rows, size, up, weights, in_place ? du : dh, du, again, dw);
    expect_close(count, hidden, hidden_wanted);
    expect_close(count, again, hidden_wanted);
    expect_close(count, du, du_wanted);
    if (weighted) expect_close_sums(rows, dw, dw_wanted, sqrt((double)size));
    release_all();
}

static void compare_swiglu(int64_t rows, int64_t size, bool weighted, bool in_place)
{
    int64_t count = rows * size;
    real *gate = wide_reals(count), *up = random_reals(count),
         *weights = weighted ? random_reals(rows) : NULL, *hidden = nan_reals(count);
    real *dh = random_reals(count), *du = in_place ? copy_reals(count, dh) : nan_reals(count),
         *dg = in_place ? copy_reals(count, gate) : nan_reals(count);
    real *again = nan_reals(count), *dw = weighted ? nan_reals(rows) : NULL;
    double *hidden_wanted = zero_doubles(count), *du_wanted = zero_doubles(count),
           *dg_wanted = zero_doubles(count);
    double *dw_wanted = zero_doubles(rows);
    for (int64_t i = 0; i < count; i++) {
        double w = weighted ? (double)weights[i / size] : 1, g = (double)gate[i], u = (double)up[i];
        hidden_wanted[i] = w * naive_silu(g) * u;
        dg_wanted[i] = w * (double)dh[i] * u * naive_silu_slope(g);
        du_wanted[i] = w * (double)dh[i] * naive_silu(g);
        dw_wanted[i / size] += (double)dh[i] * naive_silu(g) * u;
    }
    new_case("swiglu, %lld rows of %lld, weights %d, in place %d", (long long)rows, (long long)size, weighted,
             in_place);
    moire_swiglu_forward(rows, size, gate, up, weights, hidden);
    moire_swiglu_backward(rows, size, in_place ? dg : gate, up, weights, in_place ? du : dh, dg, du, again,
                          dw);
    expect_close(count, hidden, hidden_wanted);
    expect_close(count, again, hidden_wanted);
    expect_close(count, du, du_wanted);
    expect_close(count, dg, dg_wanted);
    if (weighted) expect_close_sums(rows, dw, dw_wanted, sqrt((double)size));
    release_all();
}

static void sizes(void)
{
    const int64_t rows[] = { 0, 1, 2, 3, 7, 31, 33 }, widths[] = { 1, 8, 13, 100, 517, 1100 };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int i = 0; i < COUNT(rows); i++)
            for (int j = 0; j < COUNT(widths); j++)
                for (int kind = 0; kind < 4; kind++) {
                    compare_gelu(rows[i], widths[j], kind & 1, kind & 2);
                    compare_swiglu(rows[i], widths[j], kind & 1, kind & 2);
                }
    }
}

/* Far out the functions are 0 or the identity, and nothing overflows into NaN. */
static void ends(void)
{
    const real far[] = { -1000, -30, 0, 30, 1000 }, ones[] = { 1, 1, 1, 1, 1 };
    real hidden[5], again[5], du[5], dg[5];
    moire_gelu_forward(1, 5, far, NULL, hidden);
    moire_gelu_backward(1, 5, far, NULL, ones, du, again, NULL);
    expect_same(5, again, hidden);
    for (int i = 0; i < 5; i++) {
        expect_near((double)hidden[i], i > 2 ? (double)far[i] : 0, 1e-6);
        expect_near((double)du[i], i == 2 ? 0.5 : i > 2, 1e-6);
    }
    moire_swiglu_forward(1, 5, far, ones, NULL, hidden);
    moire_swiglu_backward(1, 5, far, ones, NULL, ones, dg, du, again, NULL);
    expect_same(5, again, hidden);
    for (int i = 0; i < 5; i++) {
        expect_near((double)hidden[i], i > 2 ? (double)far[i] : 0, 1e-6);
        expect_near((double)dg[i], i == 2 ? 0.5 : i > 2, 1e-6);
    }
}

/* The bits of a row depend neither on its place nor on threads. */
static void bits(void)
{
    const int64_t rows = 33, size = 1033, count = rows * size;
    real *gate = wide_reals(count), *up = random_reals(count), *weights = random_reals(rows),
         *dh = random_reals(count);
    real *again = nan_reals(count), *hidden[3], *dg[3], *du[3], *dw[3];
    for (int n = 0; n < 3; n++) {
        hidden[n] = nan_reals(count), dg[n] = nan_reals(count), du[n] = nan_reals(count),
        dw[n] = nan_reals(rows);
        omp_set_num_threads(n == 0 ? 3 : n);
        moire_swiglu_forward(rows, size, gate, up, weights, hidden[n]);
        moire_swiglu_backward(rows, size, gate, up, weights, dh, dg[n], du[n], again, dw[n]);
        new_case("swiglu, run %d", n);
        expect_same(count, hidden[n], hidden[0]);
        expect_same(count, again, hidden[0]);
        expect_same(count, dg[n], dg[0]);
        expect_same(count, du[n], du[0]);
        expect_same(rows, dw[n], dw[0]);
    }
    real *one = nan_reals(size), *one_du = nan_reals(size), *whole = nan_reals(count),
         *whole_du = nan_reals(count), one_dw;
    int64_t at = 5 * size;
    moire_gelu_forward(rows, size, up, weights, whole);
    moire_gelu_backward(rows, size, up, weights, dh, whole_du, again, dw[0]);
    expect_same(count, again, whole);
    moire_gelu_forward(1, size, up + at, weights + 5, one);
    moire_gelu_backward(1, size, up + at, weights + 5, dh + at, one_du, again, &one_dw);
    new_case("a row alone");
    expect_same(size, one, whole + at);
    expect_same(size, again, whole + at);
    expect_same(size, one_du, whole_du + at);
    expect_same(1, &one_dw, dw[0] + 5);
    release_all();
}

#ifdef MOIRE_REAL_DOUBLE
struct activation_case {
    int64_t rows, size;
    real *gate, *up, *weights, *hidden, *dh;
};

static double loss(void *context)
{
    struct activation_case *c = context;
    if (c->gate)
        moire_swiglu_forward(c->rows, c->size, c->gate, c->up, c->weights, c->hidden);
    else
        moire_gelu_forward(c->rows, c->size, c->up, c->weights, c->hidden);
    return inner_product(c->rows * c->size, c->dh, c->hidden);
}

static void gradients(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct activation_case c = { 4, 13, NULL, NULL, NULL, NULL, NULL };
        int64_t count = c.rows * c.size;
        bool weighted = kind & 1;
        c.gate = kind & 2 ? wide_reals(count) : NULL, c.up = wide_reals(count),
        c.weights = weighted ? random_reals(c.rows) : NULL;
        c.hidden = nan_reals(count), c.dh = random_reals(count);
        real *dg = nan_reals(count), *du = nan_reals(count), *again = nan_reals(count), *dw = nan_reals(c.rows);
        new_case("%s, weights %d", c.gate ? "swiglu" : "gelu", weighted);
        if (c.gate)
            moire_swiglu_backward(c.rows, c.size, c.gate, c.up, c.weights, c.dh, dg, du, again, dw);
        else
            moire_gelu_backward(c.rows, c.size, c.up, c.weights, c.dh, du, again, dw);
        if (c.gate) expect_gradient(count, c.gate, dg, loss, &c);
        expect_gradient(count, c.up, du, loss, &c);
        if (weighted) expect_gradient(c.rows, c.weights, dw, loss, &c);
        release_all();
    }
}
#endif

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "activations against a naive twin", sizes },
        { "activations far from zero", ends },
        { "the same bits", bits },
#ifdef MOIRE_REAL_DOUBLE
        { "gradients", gradients },
#endif
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
