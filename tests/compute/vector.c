/* Embeddings, loss, optimizer update and sums against naive twins; gradients. */
#include "checks.h"

#include "moire/compute/vector.h"

/* Sizes under, at and over a chunk of the kernels (65536), and one of several. */
static const int64_t lengths[] = { 0, 1, 7, 8, 33, 20000, 65535, 65536, 65537, 200001 };

static void compare_embedding(int64_t rows, int64_t sequence, int64_t dim, bool with_positions)
{
    const int64_t vocabulary = 11, first = 2;
    int32_t *tokens = random_tokens(rows, vocabulary);
    real *table = random_reals(vocabulary * dim),
         *positions = with_positions ? random_reals((sequence + first) * dim) : NULL;
    real *out = nan_reals(rows * dim), *d_out = random_reals(rows * dim),
         *d_table = random_reals(vocabulary * dim);
    real *d_positions = with_positions ? random_reals(sequence * dim) : NULL;
    double *out_wanted = zero_doubles(rows * dim), *d_table_wanted = copy_doubles(vocabulary * dim, d_table);
    double *d_positions_wanted = with_positions ? copy_doubles(sequence * dim, d_positions) : NULL;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < dim; i++) {
            out_wanted[r * dim + i] = (double)table[tokens[r] * dim + i];
            d_table_wanted[tokens[r] * dim + i] += (double)d_out[r * dim + i];
            if (!with_positions) continue;
            out_wanted[r * dim + i] += (double)positions[(first + r % sequence) * dim + i];
            d_positions_wanted[r % sequence * dim + i] += (double)d_out[r * dim + i];
        }
    new_case("embedding, %lld rows of %lld, S %lld, positions %d", (long long)rows, (long long)dim,
             (long long)sequence, with_positions);
    moire_embedding_forward(rows, sequence, dim, tokens, table, positions, first, out);
    moire_embedding_backward(rows, sequence, dim, tokens, d_out, d_table, d_positions);
    expect_close(rows * dim, out, out_wanted);
    expect_close(vocabulary * dim, d_table, d_table_wanted);
    if (with_positions) expect_close(sequence * dim, d_positions, d_positions_wanted);
    release_all();
}

static void embedding(void)
{
    const int64_t sizes[][3] = { { 0, 5, 8 }, { 1, 1, 1 }, { 6, 3, 13 }, { 33, 11, 64 }, { 62, 31, 330 } };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int n = 0; n < COUNT(sizes); n++)
            for (int with_positions = 0; with_positions < 2; with_positions++)
                compare_embedding(sizes[n][0], sizes[n][1], sizes[n][2], with_positions);
    }
}

/* Rows of logits cut into pieces of `width` columns, as the head of a model does it. */
struct loss_case {
    int64_t rows, vocabulary, width;
    int32_t *targets;
    real *logits; /* [rows, V] */
    real scale;
    /* pieces [rows, columns] one after the other; their maxima [rows] */
    real *pieces, *maxima;
    struct moire_softmax *softmax;
    double *losses;
};

static struct loss_case loss_case(int64_t rows, int64_t vocabulary, int64_t width)
{
    return (struct loss_case){ rows,
                               vocabulary,
                               width,
                               random_tokens(rows, vocabulary),
                               random_reals(rows * vocabulary),
                               (real)0.25,
                               nan_reals(rows * vocabulary),
                               nan_reals((vocabulary + width - 1) / width * rows),
                               hold(rows, sizeof(struct moire_softmax)),
                               zero_doubles(rows) };
}

static void cut(struct loss_case *c, int64_t first, int64_t columns)
{
    for (int64_t r = 0; r < c->rows; r++)
        memcpy(c->pieces + c->rows * first + r * columns, c->logits + r * c->vocabulary + first,
               (size_t)columns * sizeof(real));
}

static void piecewise_losses(struct loss_case *c)
{
    moire_softmax_start(c->rows, c->softmax);
    for (int64_t first = 0; first < c->vocabulary; first += c->width) {
        int64_t columns = c->vocabulary - first < c->width ? c->vocabulary - first : c->width;
        cut(c, first, columns);
        moire_softmax_add(c->rows, columns, first, c->targets, c->pieces + c->rows * first,
                          c->maxima + first / c->width * c->rows, c->softmax);
    }
    moire_softmax_losses(c->rows, c->softmax, c->losses);
}

/* gradient [rows, V]; fresh: from the logits again, not from the exponentials. */
static void piecewise_gradient(struct loss_case *c, bool fresh, real *gradient)
{
    for (int64_t first = 0; first < c->vocabulary; first += c->width) {
        int64_t columns = c->vocabulary - first < c->width ? c->vocabulary - first : c->width;
        real *piece = c->pieces + c->rows * first;
        if (fresh) cut(c, first, columns);
        moire_softmax_gradient(c->rows, columns, first, c->targets, c->scale, c->softmax,
                               fresh ? NULL : c->maxima + first / c->width * c->rows, piece);
        for (int64_t r = 0; r < c->rows; r++)
            memcpy(gradient + r * c->vocabulary + first, piece + r * columns, (size_t)columns * sizeof(real));
    }
}

static void compare_cross_entropy(int64_t rows, int64_t vocabulary, int64_t width, double size, double offset)
{
    struct loss_case c = loss_case(rows, vocabulary, width);
    real *gradient = nan_reals(rows * vocabulary), *fresh = nan_reals(rows * vocabulary);
    double *wanted = zero_doubles(rows * vocabulary);
    for (int64_t i = 0; i < rows * vocabulary; i++)
        c.logits[i] = (real)((double)c.logits[i] * size + offset);
    new_case("cross entropy, %lld rows of %lld, pieces of %lld, size %g, offset %g", (long long)rows,
             (long long)vocabulary, (long long)width, size, offset);
    piecewise_losses(&c);
    piecewise_gradient(&c, false, gradient);
    piecewise_gradient(&c, true, fresh);
    for (int64_t r = 0; r < rows; r++) {
        const real *row = c.logits + r * vocabulary;
        double most = -INFINITY, sum = 0;
        for (int64_t i = 0; i < vocabulary; i++) most = fmax(most, (double)row[i]);
        for (int64_t i = 0; i < vocabulary; i++) sum += exp((double)row[i] - most);
        for (int64_t i = 0; i < vocabulary; i++)
            wanted[r * vocabulary + i] = 0.25 * (exp((double)row[i] - most) / sum - (i == c.targets[r]));
        expect_near(c.losses[r], most + log(sum) - (double)row[c.targets[r]],
                    sizeof(real) == sizeof(float) ? 3e-7 : 1e-13);
    }
    expect_close(rows * vocabulary, gradient, wanted);
    expect_close(rows * vocabulary, fresh, wanted);
    release_all();
}

static void cross_entropy(void)
{
    const int64_t rows[] = { 0, 1, 2, 7, 33 }, sizes[] = { 1, 2, 13, 256, 1031 },
                  widths[] = { 1, 64, 500, 2000 };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int i = 0; i < COUNT(rows); i++)
            for (int j = 0; j < COUNT(sizes); j++)
                for (int k = 0; k < COUNT(widths); k++) {
                    compare_cross_entropy(rows[i], sizes[j], widths[k], 3, 0);
                    /* would overflow without its maximum */
                    compare_cross_entropy(rows[i], sizes[j], widths[k], 3, 500);
                }
        /* most probabilities underflow, those of whole pieces too */
        compare_cross_entropy(3, 257, 300, 200, 0);
        compare_cross_entropy(3, 257, 5, 200, 0);
    }
}

static void cross_entropy_not_finite(void)
{
    const real values[] = { (real)NAN, INFINITY };
    for (int64_t width = 1; width <= 4; width++)
        for (int n = 0; n < COUNT(values); n++)
            for (int64_t at = 1; at < 4; at++) {
                struct loss_case c = loss_case(1, 4, width);
                real gradient[4];
                c.targets[0] = 0;
                c.logits[at] = values[n];
                piecewise_losses(&c);
                piecewise_gradient(&c, false, gradient);
                expect(!isfinite(c.losses[0]));
                expect(moire_find_not_finite(4, gradient) >= 0);
                release_all();
            }
}

static void elementwise(void)
{
    for (int t = 0; t < COUNT(thread_counts); t++)
        for (int n = 0; n < COUNT(lengths); n++) {
            int64_t count = lengths[n];
            real *x = random_reals(count), *y = random_reals(count), *z = nan_reals(count);
            double *added = copy_doubles(count, y), *scaled = copy_doubles(count, x),
                   *filled = zero_doubles(count);
            omp_set_num_threads(thread_counts[t]);
            new_case("%lld elements", (long long)count);
            for (int64_t i = 0; i < count; i++) added[i] += (double)x[i], scaled[i] *= 0.3, filled[i] = -1.5;
            moire_add(count, x, y);
            moire_scale(count, (real)0.3, x);
            moire_fill(count, (real)-1.5, z);
            expect_close(count, y, added);
            expect_close(count, x, scaled);
            expect_close(count, z, filled);
            release_all();
        }
}

static void sum_of_squares(void)
{
    for (int n = 0; n < COUNT(lengths); n++) {
        int64_t count = lengths[n];
        real *x = random_reals(count);
        double wanted = 0, found[3];
        for (int64_t i = 0; i < count; i++) wanted += (double)x[i] * (double)x[i];
        for (int t = 0; t < 3; t++) {
            omp_set_num_threads(t + 1);
            found[t] = moire_sum_of_squares(count, x);
        }
        expect_near(found[0], wanted, 1e-12);
        expect(found[0] == found[1] && found[0] == found[2]); /* for any threads */
        release_all();
    }
}

static void not_finite(void)
{
    const real values[] = { (real)NAN, INFINITY, -INFINITY };
    for (int t = 0; t < COUNT(thread_counts); t++)
        for (int n = 0; n < COUNT(lengths); n++) {
            int64_t count = lengths[n];
            real *x = random_reals(count);
            omp_set_num_threads(thread_counts[t]);
            expect(moire_find_not_finite(count, x) == -1);
            for (int k = 0; count > 0 && k < 20; k++) {
                int64_t one = test_random_below(count), other = test_random_below(count);
                real kept_one = x[one], kept_other = x[other];
                x[one] = x[other] = values[k % 3];
                expect(moire_find_not_finite(count, x) == (one < other ? one : other));
                x[one] = kept_one;
                x[other] = kept_other;
            }
            release_all();
        }
}

/* Three steps as the header writes them, one number at a time. */
static void adamw(void)
{
    for (int t = 0; t < COUNT(thread_counts); t++)
        for (int n = 0; n < COUNT(lengths); n++) {
            int64_t count = lengths[n];
            real *p = random_reals(count), *m = hold(count, sizeof *m), *v = hold(count, sizeof *v);
            double *p_wanted = copy_doubles(count, p), *m_wanted = zero_doubles(count),
                   *v_wanted = zero_doubles(count);
            omp_set_num_threads(thread_counts[t]);
            new_case("adamw, %lld elements", (long long)count);
            for (int step = 1; step <= 3; step++) {
                struct moire_adamw a = { 0.01, 0.9, 0.95, 1e-8, 0.1, 1 - pow(0.9, step), 1 - pow(0.95, step),
                                         0.5 };
                real *gradient = random_reals(count);
                for (int64_t i = 0; i < count; i++) {
                    double g = (double)gradient[i] * a.gradient_scale;
                    m_wanted[i] = a.beta1 * m_wanted[i] + (1 - a.beta1) * g;
                    v_wanted[i] = a.beta2 * v_wanted[i] + (1 - a.beta2) * g * g;
                    p_wanted[i] -= a.rate * (m_wanted[i] / a.correction1 /
                                                 (sqrt(v_wanted[i] / a.correction2) + a.epsilon) +
                                             a.decay * p_wanted[i]);
                }
                moire_adamw_update(&a, count, gradient, p, m, v);
            }
            expect_close(count, p, p_wanted);
            expect_close(count, m, m_wanted);
            expect_close(count, v, v_wanted);
            release_all();
        }
}

/* The sums over rows and the update have the same bits for any threads, twice. */
static void bits(void)
{
    const int64_t rows = 330, dim = 130, vocabulary = 7, count = rows * dim;
    int32_t *tokens = random_tokens(rows, vocabulary);
    real *d_out = random_reals(count), *d_table[4], *d_positions[4], *p[4];
    struct moire_adamw a = { 0.01, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 1 };
    real *start = random_reals(count);
    for (int n = 0; n < 4; n++) {
        real *m = hold(count, sizeof *m), *v = hold(count, sizeof *v);
        omp_set_num_threads(n < 2 ? 3 : n - 1);
        d_table[n] = hold(vocabulary * dim, sizeof(real)), d_positions[n] = hold(33 * dim, sizeof(real)),
        p[n] = copy_reals(count, start);
        moire_embedding_backward(rows, 33, dim, tokens, d_out, d_table[n], d_positions[n]);
        moire_adamw_update(&a, count, d_out, p[n], m, v);
        new_case("run %d", n);
        expect_same(vocabulary * dim, d_table[n], d_table[0]);
        expect_same(33 * dim, d_positions[n], d_positions[0]);
        expect_same(count, p[n], p[0]);
    }
    release_all();
}

static void cross_entropy_bits(void)
{
    struct loss_case c = loss_case(65, 1031, 700);
    real *gradient[3];
    double *losses[3];
    for (int n = 0; n < 3; n++) {
        omp_set_num_threads(n + 1);
        gradient[n] = nan_reals(65 * 1031), losses[n] = c.losses = zero_doubles(65);
        piecewise_losses(&c);
        piecewise_gradient(&c, false, gradient[n]);
        new_case("%d threads", n + 1);
        expect_same(65 * 1031, gradient[n], gradient[0]);
        expect(memcmp(losses[n], losses[0], 65 * sizeof(double)) == 0);
    }
    release_all();
}

#ifdef MOIRE_REAL_DOUBLE
struct embedding_case {
    int64_t rows, sequence, dim;
    int32_t *tokens;
    real *table, *positions, *out, *d_out;
};

static double embedding_loss(void *context)
{
    struct embedding_case *c = context;
    moire_embedding_forward(c->rows, c->sequence, c->dim, c->tokens, c->table, c->positions, 0, c->out);
    return inner_product(c->rows * c->dim, c->d_out, c->out);
}

static void embedding_gradients(void)
{
    struct embedding_case c = { 12,
                                4,
                                5,
                                random_tokens(12, 6),
                                random_reals(6 * 5),
                                random_reals(4 * 5),
                                nan_reals(12 * 5),
                                random_reals(12 * 5) };
    real *d_table = hold(6 * 5, sizeof *d_table), *d_positions = hold(4 * 5, sizeof *d_positions);
    moire_embedding_backward(c.rows, c.sequence, c.dim, c.tokens, c.d_out, d_table, d_positions);
    new_case("embedding");
    expect_gradient(6 * 5, c.table, d_table, embedding_loss, &c);
    expect_gradient(4 * 5, c.positions, d_positions, embedding_loss, &c);
    release_all();
}

static double cross_entropy_loss(void *context)
{
    struct loss_case *c = context;
    double sum = 0;
    piecewise_losses(c);
    for (int64_t r = 0; r < c->rows; r++) sum += c->losses[r] / 4;
    return sum;
}

static void cross_entropy_gradient(void)
{
    for (int64_t width = 3; width <= 12; width += 4) {
        struct loss_case c = loss_case(5, 11, width);
        real *gradient = nan_reals(5 * 11);
        piecewise_losses(&c);
        piecewise_gradient(&c, false, gradient);
        new_case("cross entropy, pieces of %lld", (long long)width);
        expect_gradient(5 * 11, c.logits, gradient, cross_entropy_loss, &c);
        release_all();
    }
}
#endif

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "embedding", embedding },
        { "cross entropy", cross_entropy },
        { "cross entropy of what is not finite", cross_entropy_not_finite },
        { "add, scale, fill", elementwise },
        { "sum of squares", sum_of_squares },
        { "first number that is not finite", not_finite },
        { "adamw", adamw },
        { "the same bits", bits },
        { "cross entropy, the same bits", cross_entropy_bits },
#ifdef MOIRE_REAL_DOUBLE
        { "embedding gradients", embedding_gradients },
        { "cross entropy gradient", cross_entropy_gradient },
#endif
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
