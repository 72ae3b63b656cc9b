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

static void compare_cross_entropy(int64_t rows, int64_t vocabulary, double size, double offset)
{
    real *logits = random_reals(rows * vocabulary), *kept, *gradient;
    int32_t *targets = random_tokens(rows, vocabulary);
    double *losses = zero_doubles(rows), *losses_again = zero_doubles(rows),
           *wanted = zero_doubles(rows * vocabulary);
    for (int64_t i = 0; i < rows * vocabulary; i++) logits[i] = (real)((double)logits[i] * size + offset);
    kept = copy_reals(rows * vocabulary, logits);
    gradient = copy_reals(rows * vocabulary, logits);
    new_case("cross entropy, %lld rows of %lld, size %g, offset %g", (long long)rows, (long long)vocabulary,
             size, offset);
    moire_cross_entropy(rows, vocabulary, targets, (real)0.25, false, logits, losses);
    moire_cross_entropy(rows, vocabulary, targets, (real)0.25, true, gradient, losses_again);
    expect_same(rows * vocabulary, logits, kept);
    for (int64_t r = 0; r < rows; r++) {
        const real *row = kept + r * vocabulary;
        double most = -INFINITY, sum = 0;
        for (int64_t i = 0; i < vocabulary; i++) most = fmax(most, (double)row[i]);
        for (int64_t i = 0; i < vocabulary; i++) sum += exp((double)row[i] - most);
        for (int64_t i = 0; i < vocabulary; i++)
            wanted[r * vocabulary + i] = 0.25 * (exp((double)row[i] - most) / sum - (i == targets[r]));
        expect_near(losses[r], most + log(sum) - (double)row[targets[r]],
                    sizeof(real) == sizeof(float) ? 3e-7 : 1e-13);
        expect(losses[r] == losses_again[r]);
    }
    expect_close(rows * vocabulary, gradient, wanted);
    release_all();
}

static void cross_entropy(void)
{
    const int64_t rows[] = { 0, 1, 2, 7, 33 }, sizes[] = { 1, 2, 13, 256, 1031 };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int i = 0; i < COUNT(rows); i++)
            for (int j = 0; j < COUNT(sizes); j++) {
                compare_cross_entropy(rows[i], sizes[j], 3, 0);
                compare_cross_entropy(rows[i], sizes[j], 3, 500); /* would overflow without its maximum */
            }
        compare_cross_entropy(3, 257, 200, 0); /* most probabilities underflow */
    }
}

static void cross_entropy_not_finite(void)
{
    real logits[4] = { 1, (real)NAN, 2, 3 };
    int32_t target = 0;
    double loss = 0;
    moire_cross_entropy(1, 4, &target, 1, false, logits, &loss);
    expect(isnan(loss));
    logits[1] = INFINITY;
    moire_cross_entropy(1, 4, &target, 1, true, logits, &loss);
    expect(!isfinite(loss));
    expect(moire_find_not_finite(4, logits) >= 0);
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

struct loss_case {
    int64_t rows, vocabulary;
    int32_t *targets;
    real *logits;
    double *losses;
};

static double cross_entropy_loss(void *context)
{
    struct loss_case *c = context;
    double sum = 0;
    moire_cross_entropy(c->rows, c->vocabulary, c->targets, 1, false, c->logits, c->losses);
    for (int64_t r = 0; r < c->rows; r++) sum += c->losses[r] / 3;
    return sum;
}

static void cross_entropy_gradient(void)
{
    struct loss_case c = { 5, 11, random_tokens(5, 11), random_reals(5 * 11), zero_doubles(5) };
    real *gradient = copy_reals(5 * 11, c.logits);
    moire_cross_entropy(c.rows, c.vocabulary, c.targets, (real)(1.0 / 3), true, gradient, c.losses);
    new_case("cross entropy");
    expect_gradient(5 * 11, c.logits, gradient, cross_entropy_loss, &c);
    release_all();
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
#ifdef MOIRE_REAL_DOUBLE
        { "embedding gradients", embedding_gradients },
        { "cross entropy gradient", cross_entropy_gradient },
#endif
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
