/* Products against naive ones; gradients. */
#include "products.h"

static void gemm(void)
{
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        compare_gemm_sizes();
        compare_gemm(false, true, 65, 129, 257, 1, 0);
    }
}

/* y = x W^T + b and its gradients, all against naive products. */
static void compare_linear(int64_t rows, int64_t inputs, int64_t outputs, bool with_bias)
{
    real *x = random_reals(rows * inputs), *w = random_reals(outputs * inputs),
         *b = with_bias ? random_reals(outputs) : NULL;
    real *y = nan_reals(rows * outputs), *dy = random_reals(rows * outputs);
    double *y_wanted = zero_doubles(rows * outputs);
    new_case("%lld rows, %lld to %lld, bias %d", (long long)rows, (long long)inputs, (long long)outputs,
             with_bias);
    naive_gemm(false, true, rows, outputs, inputs, 1, x, inputs, w, inputs, 0, y_wanted, outputs);
    for (int64_t i = 0; with_bias && i < rows * outputs; i++) y_wanted[i] += (double)b[i % outputs];
    moire_linear_forward(rows, inputs, outputs, x, w, b, y);
    expect_close(rows * outputs, y, y_wanted);

    for (int accumulate = 0; accumulate < 2; accumulate++) {
        real *dx = accumulate ? random_reals(rows * inputs) : nan_reals(rows * inputs);
        double *dx_wanted = copy_doubles(rows * inputs, dx);
        naive_gemm(false, false, rows, inputs, outputs, 1, dy, outputs, w, inputs, accumulate, dx_wanted,
                   inputs);
        moire_linear_backward_input(rows, inputs, outputs, dy, w, accumulate, dx);
        expect_close(rows * inputs, dx, dx_wanted);
    }

    real *dw = random_reals(outputs * inputs), *db = with_bias ? random_reals(outputs) : NULL;
    double *dw_wanted = copy_doubles(outputs * inputs, dw),
           *db_wanted = with_bias ? copy_doubles(outputs, db) : NULL;
    naive_gemm(true, false, outputs, inputs, rows, 1, dy, outputs, x, inputs, 1, dw_wanted, inputs);
    for (int64_t i = 0; with_bias && i < rows * outputs; i++) db_wanted[i % outputs] += (double)dy[i];
    moire_linear_backward_weight(rows, inputs, outputs, x, dy, dw, db);
    expect_close(outputs * inputs, dw, dw_wanted);
    if (with_bias) expect_close(outputs, db, db_wanted);
    release_all();
}

static void linear(void)
{
    const int64_t rows[] = { 0, 1, 2, 3, 7, 31, 33, 300 };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int i = 0; i < COUNT(rows); i++)
            for (int with_bias = 0; with_bias < 2; with_bias++) {
                compare_linear(rows[i], 1 + test_random_below(70), 1 + test_random_below(70), with_bias);
                compare_linear(rows[i], 5, 130, with_bias);
            }
    }
}

/* Rows in segments with a gap after each, one of them long; instances with several segments and with none. */
static void compare_grouped(int64_t inputs, int64_t outputs)
{
    const int64_t instances = 5;
    const struct moire_segment segments[] = {
        { 0, 0, 3 }, { 3, 4, 1 }, { 0, 6, 7 }, { 4, 15, 2 }, { 1, 18, 513 }
    };
    const int64_t total = 532;
    real *x = random_reals(total * inputs), *w = random_reals(instances * outputs * inputs),
         *y = random_reals(total * outputs);
    real *dy = random_reals(total * outputs), *dx = random_reals(total * inputs),
         *added = copy_reals(total * inputs, dx);
    double *y_wanted = copy_doubles(total * outputs, y), *dx_wanted = copy_doubles(total * inputs, dx);
    double *added_wanted = copy_doubles(total * inputs, dx);
    new_case("grouped, %lld to %lld", (long long)inputs, (long long)outputs);
    for (int i = 0; i < COUNT(segments); i++) {
        const struct moire_segment *s = &segments[i];
        const real *matrix = w + s->instance * outputs * inputs, *rows = dy + s->first_row * outputs;
        naive_gemm(false, true, s->rows, outputs, inputs, 1, x + s->first_row * inputs, inputs, matrix,
                   inputs, 0, y_wanted + s->first_row * outputs, outputs);
        naive_gemm(false, false, s->rows, inputs, outputs, 1, rows, outputs, matrix, inputs, 0,
                   dx_wanted + s->first_row * inputs, inputs);
        naive_gemm(false, false, s->rows, inputs, outputs, 1, rows, outputs, matrix, inputs, 1,
                   added_wanted + s->first_row * inputs, inputs);
    }
    moire_grouped_forward(segments, COUNT(segments), inputs, outputs, x, w, y);
    moire_grouped_backward_input(segments, COUNT(segments), inputs, outputs, dy, w, false, dx);
    moire_grouped_backward_input(segments, COUNT(segments), inputs, outputs, dy, w, true, added);
    moire_grouped_forward(segments, 0, inputs, outputs, x, w, y);
    expect_close(total * outputs, y, y_wanted);
    expect_close(total * inputs, dx, dx_wanted);
    expect_close(total * inputs, added, added_wanted);
    release_all();
}

/* Wider than the pieces that threads share, and narrower. */
static const int64_t grouped_sides[][2] = { { 13, 21 }, { 7, 1037 }, { 1037, 5 } };

static void grouped(void)
{
    for (int t = 0; t < COUNT(thread_counts); t++)
        for (int n = 0; n < COUNT(grouped_sides); n++) {
            omp_set_num_threads(thread_counts[t]);
            compare_grouped(grouped_sides[n][0], grouped_sides[n][1]);
        }
}

static void compare_grouped_weight(int64_t inputs, int64_t outputs)
{
    const int64_t instances = 6;
    const int64_t begin[] = { 1, 4, 4, 11, 12, 12, 525 };
    real *x = random_reals(525 * inputs), *dy = random_reals(525 * outputs),
         *dw = random_reals(instances * outputs * inputs);
    double *dw_wanted = copy_doubles(instances * outputs * inputs, dw);
    new_case("grouped weight, %lld to %lld", (long long)inputs, (long long)outputs);
    for (int64_t i = 0; i < instances; i++)
        naive_gemm(true, false, outputs, inputs, begin[i + 1] - begin[i], 1, dy + begin[i] * outputs, outputs,
                   x + begin[i] * inputs, inputs, 1, dw_wanted + i * outputs * inputs, inputs);
    moire_grouped_backward_weight(begin, instances, inputs, outputs, x, dy, dw);
    expect_close(instances * outputs * inputs, dw, dw_wanted);
    moire_grouped_backward_weight(begin, 0, inputs, outputs, x, dy, dw);
    release_all();
}

static void grouped_weight(void)
{
    for (int t = 0; t < COUNT(thread_counts); t++)
        for (int n = 0; n < COUNT(grouped_sides); n++) {
            omp_set_num_threads(thread_counts[t]);
            compare_grouped_weight(grouped_sides[n][0], grouped_sides[n][1]);
        }
}

/* A segment's bits do not depend on what other segments are in the call. */
static void grouped_bits(void)
{
    const int64_t inputs = 70, outputs = 1100;
    const struct moire_segment segments[] = { { 0, 0, 37 }, { 1, 37, 600 }, { 2, 637, 5 } };
    real *x = random_reals(642 * inputs), *w = random_reals(3 * outputs * inputs);
    real *together = nan_reals(642 * outputs), *apart = nan_reals(642 * outputs);
    omp_set_num_threads(3);
    new_case("grouped, together and apart");
    moire_grouped_forward(segments, 3, inputs, outputs, x, w, together);
    for (int i = 0; i < 3; i++) moire_grouped_forward(segments + i, 1, inputs, outputs, x, w, apart);
    expect_same(642 * outputs, apart, together);
    release_all();
}

static void bits(void)
{
    grouped_bits();
    const int64_t rows = 301, inputs = 60, outputs = 130;
    real *x = random_reals(rows * inputs), *dy = random_reals(rows * outputs), *sums[3];
    new_case("bias gradient, threads");
    for (int n = 0; n < 3; n++) {
        real *dw = hold(outputs * inputs, sizeof *dw);
        sums[n] = hold(outputs, sizeof(real));
        omp_set_num_threads(n == 0 ? 3 : n);
        moire_linear_backward_weight(rows, inputs, outputs, x, dy, dw, sums[n]);
    }
    expect_same(outputs, sums[1], sums[0]);
    expect_same(outputs, sums[2], sums[0]);
    real *once = nan_reals(rows * outputs), *again = nan_reals(rows * outputs),
         *w = random_reals(outputs * inputs);
    moire_linear_forward(rows, inputs, outputs, x, w, NULL, once);
    moire_linear_forward(rows, inputs, outputs, x, w, NULL, again);
    expect_same(rows * outputs, again, once);
    release_all();
}

static void description(void)
{
    omp_set_num_threads(3);
    expect(strstr(moire_blas_description(), "OpenBLAS") != NULL);
    printf("# %s, OpenMP variant: %s\n", moire_blas_description(), moire_blas_is_openmp() ? "yes" : "no");
    expect(moire_compute_threads() == 3);
}

#ifdef MOIRE_REAL_DOUBLE
struct linear_case {
    int64_t rows, inputs, outputs;
    real *x, *w, *b, *y, *dy;
};

static double linear_loss(void *context)
{
    struct linear_case *c = context;
    moire_linear_forward(c->rows, c->inputs, c->outputs, c->x, c->w, c->b, c->y);
    return inner_product(c->rows * c->outputs, c->dy, c->y);
}

static void linear_gradients(void)
{
    struct linear_case c = { 7, 13, 11, NULL, NULL, NULL, NULL, NULL };
    c.x = random_reals(c.rows * c.inputs), c.w = random_reals(c.outputs * c.inputs),
    c.b = random_reals(c.outputs);
    c.y = nan_reals(c.rows * c.outputs), c.dy = random_reals(c.rows * c.outputs);
    real *dx = nan_reals(c.rows * c.inputs), *dw = hold(c.outputs * c.inputs, sizeof *dw),
         *db = hold(c.outputs, sizeof *db);
    moire_linear_backward_input(c.rows, c.inputs, c.outputs, c.dy, c.w, false, dx);
    moire_linear_backward_weight(c.rows, c.inputs, c.outputs, c.x, c.dy, dw, db);
    new_case("linear");
    expect_gradient(c.rows * c.inputs, c.x, dx, linear_loss, &c);
    expect_gradient(c.outputs * c.inputs, c.w, dw, linear_loss, &c);
    expect_gradient(c.outputs, c.b, db, linear_loss, &c);
    release_all();
}

static const struct moire_segment gradient_segments[] = { { 0, 0, 3 }, { 0, 3, 2 }, { 2, 5, 4 } };
static const int64_t gradient_begin[] = { 0, 5, 5, 9 };

static double grouped_loss(void *context)
{
    struct linear_case *c = context;
    moire_grouped_forward(gradient_segments, 3, c->inputs, c->outputs, c->x, c->w, c->y);
    return inner_product(c->rows * c->outputs, c->dy, c->y);
}

static void grouped_gradients(void)
{
    struct linear_case c = { 9, 5, 6, NULL, NULL, NULL, NULL, NULL };
    c.x = random_reals(c.rows * c.inputs), c.w = random_reals(3 * c.outputs * c.inputs);
    c.y = nan_reals(c.rows * c.outputs), c.dy = random_reals(c.rows * c.outputs);
    real *dx = nan_reals(c.rows * c.inputs), *dw = hold(3 * c.outputs * c.inputs, sizeof *dw);
    moire_grouped_backward_input(gradient_segments, 3, c.inputs, c.outputs, c.dy, c.w, false, dx);
    moire_grouped_backward_weight(gradient_begin, 3, c.inputs, c.outputs, c.x, c.dy, dw);
    new_case("grouped");
    expect_gradient(c.rows * c.inputs, c.x, dx, grouped_loss, &c);
    expect_gradient(3 * c.outputs * c.inputs, c.w, dw, grouped_loss, &c);
    release_all();
}
#endif

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "products", gemm },
        { "linear forward and backward", linear },
        { "grouped products", grouped },
        { "grouped weight gradient", grouped_weight },
        { "the same bits", bits },
        { "description of BLAS", description },
#ifdef MOIRE_REAL_DOUBLE
        { "linear gradients", linear_gradients },
        { "grouped gradients", grouped_gradients },
#endif
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
