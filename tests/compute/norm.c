/* Norms against a naive twin; gradients. */
#include "checks.h"

#include "moire/compute/norm.h"

static const double epsilon = 1e-5;

/* bias NULL: rms. normal [rows, dim] and inverse [rows] are what backward needs. */
static void naive_forward(int64_t rows, int64_t dim, const real *x, const real *weight, const real *bias,
                          double *y, double *normal, double *mean, double *inverse)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < dim; i++) sum += (double)x[r * dim + i];
        mean[r] = bias ? sum / (double)dim : 0;
        for (int64_t i = 0; i < dim; i++) squares += pow((double)x[r * dim + i] - mean[r], 2);
        inverse[r] = 1 / sqrt(squares / (double)dim + epsilon);
        for (int64_t i = 0; i < dim; i++) {
            normal[r * dim + i] = ((double)x[r * dim + i] - mean[r]) * inverse[r];
            y[r * dim + i] = (double)weight[i] * normal[r * dim + i] + (bias ? (double)bias[i] : 0);
        }
    }
}

static void naive_backward(int64_t rows, int64_t dim, bool layer, const real *weight, const real *dy,
                           const double *normal, const double *inverse, double *dx, double *dw, double *db)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, along = 0;
        for (int64_t i = 0; i < dim; i++) {
            double g = (double)dy[r * dim + i] * (double)weight[i];
            sum += layer ? g : 0;
            along += g * normal[r * dim + i];
            dw[i] += (double)dy[r * dim + i] * normal[r * dim + i];
            if (layer) db[i] += (double)dy[r * dim + i];
        }
        for (int64_t i = 0; i < dim; i++)
            dx[r * dim + i] += inverse[r] * ((double)dy[r * dim + i] * (double)weight[i] - sum / (double)dim -
                                             normal[r * dim + i] * along / (double)dim);
    }
}

static void compare(int64_t rows, int64_t dim, bool layer)
{
    real *x = random_reals(rows * dim), *weight = random_reals(dim), *bias = layer ? random_reals(dim) : NULL;
    real *y = nan_reals(rows * dim), *saved = nan_reals(rows * 2), *dy = random_reals(rows * dim);
    real *dx = random_reals(rows * dim), *dw = random_reals(dim), *db = layer ? random_reals(dim) : NULL;
    double *y_wanted = zero_doubles(rows * dim), *normal = zero_doubles(rows * dim),
           *saved_wanted = zero_doubles(2 * rows);
    double *mean = zero_doubles(rows), *inverse = zero_doubles(rows);
    double *dx_wanted = copy_doubles(rows * dim, dx), *dw_wanted = copy_doubles(dim, dw),
           *db_wanted = layer ? copy_doubles(dim, db) : NULL;
    new_case("%s, %lld rows of %lld", layer ? "layer" : "rms", (long long)rows, (long long)dim);
    naive_forward(rows, dim, x, weight, bias, y_wanted, normal, mean, inverse);
    naive_backward(rows, dim, layer, weight, dy, normal, inverse, dx_wanted, dw_wanted, db_wanted);
    for (int64_t r = 0; r < rows; r++) saved_wanted[2 * r] = mean[r], saved_wanted[2 * r + 1] = inverse[r];
    moire_norm_forward(rows, dim, epsilon, x, weight, bias, y, saved);
    moire_norm_backward(rows, dim, x, weight, saved, dy, dx, dw, db);
    /* A row of two may be nearly constant; its deviation is then a difference of near numbers. */
    double tolerance = dim < 4 ? 100 * TOLERANCE : TOLERANCE;
    expect_close_within(rows * dim, y, y_wanted, tolerance);
    expect_close_within(2 * rows, saved, saved_wanted, tolerance);
    expect_close_within(rows * dim, dx, dx_wanted, tolerance);
    expect_close_within(dim, dw, dw_wanted, tolerance);
    if (layer) expect_close_within(dim, db, db_wanted, tolerance);
    release_all();
}

static void sizes(void)
{
    const int64_t rows[] = { 0, 1, 2, 3, 7, 31, 33, 150 }, dims[] = { 3, 8, 13, 64, 100, 517, 1100 };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int i = 0; i < COUNT(rows); i++)
            for (int j = 0; j < COUNT(dims); j++)
                for (int layer = 0; layer < 2; layer++) compare(rows[i], dims[j], layer);
    }
}

/* A mean far from zero must not eat the deviation. */
static void far_from_zero(void)
{
    const int64_t dim = 100;
    real *x = random_reals(dim), *weight = random_reals(dim), *bias = random_reals(dim), *y = nan_reals(dim),
         *saved = nan_reals(2);
    double *wanted = zero_doubles(dim), *normal = zero_doubles(dim), mean, inverse;
    for (int64_t i = 0; i < dim; i++) x[i] += 1000;
    new_case("far from zero");
    naive_forward(1, dim, x, weight, bias, wanted, normal, &mean, &inverse);
    moire_norm_forward(1, dim, epsilon, x, weight, bias, y, saved);
    expect_close_within(dim, y, wanted, 500 * TOLERANCE); /* x - mean has lost ten bits */
    release_all();
}

/* The bits of a row depend neither on its place nor on threads; the sums over rows do not depend on
 * threads. */
static void bits(void)
{
    const int64_t rows = 150, dim = 333;
    real *x = random_reals(rows * dim), *weight = random_reals(dim), *bias = random_reals(dim),
         *dy = random_reals(rows * dim);
    real *y[3], *dx[3], *dw[3], *db[3], *saved = nan_reals(2 * rows);
    for (int n = 0; n < 3; n++) {
        y[n] = nan_reals(rows * dim), dx[n] = hold(rows * dim, sizeof(real)), dw[n] = hold(dim, sizeof(real)),
        db[n] = hold(dim, sizeof(real));
        omp_set_num_threads(n == 0 ? 3 : n);
        moire_norm_forward(rows, dim, epsilon, x, weight, bias, y[n], saved);
        moire_norm_backward(rows, dim, x, weight, saved, dy, dx[n], dw[n], db[n]);
        new_case("layer norm, run %d", n);
        expect_same(rows * dim, y[n], y[0]);
        expect_same(rows * dim, dx[n], dx[0]);
        expect_same(dim, dw[n], dw[0]);
        expect_same(dim, db[n], db[0]);
    }
    real *one = nan_reals(dim), *one_saved = nan_reals(2), *one_dx = hold(dim, sizeof *one_dx);
    moire_norm_forward(1, dim, epsilon, x + 5 * dim, weight, bias, one, one_saved);
    moire_norm_backward(1, dim, x + 5 * dim, weight, one_saved, dy + 5 * dim, one_dx, dw[1], db[1]);
    new_case("a row alone");
    expect_same(dim, one, y[0] + 5 * dim);
    expect_same(dim, one_dx, dx[0] + 5 * dim);
    release_all();
}

#ifdef MOIRE_REAL_DOUBLE
struct norm_case {
    int64_t rows, dim;
    real *x, *weight, *bias, *y, *saved, *dy;
};

static double norm_loss(void *context)
{
    struct norm_case *c = context;
    moire_norm_forward(c->rows, c->dim, epsilon, c->x, c->weight, c->bias, c->y, c->saved);
    return inner_product(c->rows * c->dim, c->dy, c->y);
}

static void gradients(void)
{
    for (int layer = 0; layer < 2; layer++) {
        struct norm_case c = { 3, 19, NULL, NULL, NULL, NULL, NULL, NULL };
        c.x = random_reals(c.rows * c.dim), c.weight = random_reals(c.dim),
        c.bias = layer ? random_reals(c.dim) : NULL;
        c.y = nan_reals(c.rows * c.dim), c.saved = nan_reals(2 * c.rows), c.dy = random_reals(c.rows * c.dim);
        real *dx = hold(c.rows * c.dim, sizeof *dx), *dw = hold(c.dim, sizeof *dw),
             *db = layer ? hold(c.dim, sizeof *db) : NULL;
        norm_loss(&c);
        moire_norm_backward(c.rows, c.dim, c.x, c.weight, c.saved, c.dy, dx, dw, db);
        new_case(layer ? "layer" : "rms");
        expect_gradient(c.rows * c.dim, c.x, dx, norm_loss, &c);
        expect_gradient(c.dim, c.weight, dw, norm_loss, &c);
        if (layer) expect_gradient(c.dim, c.bias, db, norm_loss, &c);
        release_all();
    }
}
#endif

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "norms against a naive twin", sizes },
        { "rows far from zero", far_from_zero },
        { "the same bits", bits },
#ifdef MOIRE_REAL_DOUBLE
        { "gradients", gradients },
#endif
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
