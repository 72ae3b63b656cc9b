/* Attention and rotary positions against naive twins; gradients. */
#include "checks.h"

#include "moire/compute/attention.h"

static int64_t width_of(const struct moire_attention_shape *s)
{
    return (s->heads + 2 * s->kv_heads) * s->head_dim;
}

static int64_t rows_of(const struct moire_attention_shape *s)
{
    return s->sequences * s->sequence;
}

static void shape_case(const char *what, const struct moire_attention_shape *s)
{
    new_case("%s, B %lld, S %lld, H %lld, G %lld, A %lld, threads %d", what, (long long)s->sequences,
             (long long)s->sequence, (long long)s->heads, (long long)s->kv_heads, (long long)s->head_dim,
             omp_get_max_threads());
}

/* The columns of one query head and its key/value head in one sequence. */
struct place {
    int64_t q, k, v, out, saved;
};

static struct place place_of(const struct moire_attention_shape *s, int64_t b, int64_t h)
{
    int64_t row = b * s->sequence, at = row * width_of(s), g = h / (s->heads / s->kv_heads);
    return (struct place){ at + h * s->head_dim, at + (s->heads + g) * s->head_dim,
                           at + (s->heads + s->kv_heads + g) * s->head_dim,
                           (row * s->heads + h) * s->head_dim, row * s->heads + h };
}

static double dot(int64_t count, const real *x, const real *y)
{
    return inner_product(count, x, y);
}

/* p [S]: softmax of row i over the keys up to i. Returns the logarithm of the sum of exponentials. */
static double naive_softmax(const struct moire_attention_shape *s, const real *qkv, struct place at,
                            int64_t i, double *p)
{
    int64_t width = width_of(s);
    double sum = 0, most = -INFINITY;
    for (int64_t j = 0; j <= i; j++) {
        p[j] = dot(s->head_dim, qkv + at.q + i * width, qkv + at.k + j * width) / sqrt((double)s->head_dim);
        most = fmax(most, p[j]);
    }
    for (int64_t j = 0; j <= i; j++) sum += exp(p[j] - most);
    for (int64_t j = 0; j <= i; j++) p[j] = exp(p[j] - most) / sum;
    return most + log(sum);
}

static void naive_forward(const struct moire_attention_shape *s, const real *qkv, double *out, double *saved,
                          double *p)
{
    int64_t width = width_of(s), a = s->head_dim;
    for (int64_t b = 0; b < s->sequences; b++)
        for (int64_t h = 0; h < s->heads; h++) {
            struct place at = place_of(s, b, h);
            for (int64_t i = 0; i < s->sequence; i++) {
                saved[at.saved + i * s->heads] = naive_softmax(s, qkv, at, i, p);
                for (int64_t j = 0; j <= i; j++)
                    for (int64_t d = 0; d < a; d++)
                        out[at.out + i * s->heads * a + d] += p[j] * (double)qkv[at.v + j * width + d];
            }
        }
}

static void naive_backward(const struct moire_attention_shape *s, const real *qkv, const real *d_out,
                           double *gradient, double *p)
{
    int64_t width = width_of(s), a = s->head_dim;
    for (int64_t b = 0; b < s->sequences; b++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t i = 0; i < s->sequence; i++) {
                struct place at = place_of(s, b, h);
                const real *d_row = d_out + at.out + i * s->heads * a;
                double mean = 0;
                naive_softmax(s, qkv, at, i, p);
                for (int64_t j = 0; j <= i; j++) mean += p[j] * dot(a, d_row, qkv + at.v + j * width);
                for (int64_t j = 0; j <= i; j++) {
                    double d_score = p[j] * (dot(a, d_row, qkv + at.v + j * width) - mean) / sqrt((double)a);
                    for (int64_t d = 0; d < a; d++) {
                        gradient[at.v + j * width + d] += p[j] * (double)d_row[d];
                        gradient[at.q + i * width + d] += d_score * (double)qkv[at.k + j * width + d];
                        gradient[at.k + j * width + d] += d_score * (double)qkv[at.q + i * width + d];
                    }
                }
            }
}

static void compare(struct moire_attention_shape shape)
{
    int64_t rows = rows_of(&shape), width = width_of(&shape), out_width = shape.heads * shape.head_dim;
    real *qkv = random_reals(rows * width), *out = nan_reals(rows * out_width),
         *saved = nan_reals(rows * shape.heads);
    real *d_out = random_reals(rows * out_width), *gradient = nan_reals(rows * width);
    real *scratch = nan_reals(moire_attention_scratch(&shape));
    double *out_wanted = zero_doubles(rows * out_width), *saved_wanted = zero_doubles(rows * shape.heads);
    double *gradient_wanted = zero_doubles(rows * width), *p = zero_doubles(shape.sequence);
    for (int64_t i = 0; i < rows * width; i++) qkv[i] *= 2;
    shape_case("attention", &shape);
    naive_forward(&shape, qkv, out_wanted, saved_wanted, p);
    naive_backward(&shape, qkv, d_out, gradient_wanted, p);
    moire_attention_forward(&shape, qkv, out, saved, scratch);
    moire_attention_backward(&shape, qkv, out, saved, d_out, gradient, scratch);
    expect_close(rows * out_width, out, out_wanted);
    expect_close(rows * shape.heads, saved, saved_wanted);
    expect_close(rows * width, gradient, gradient_wanted);
    release_all();
}

static void sizes(void)
{
    const int64_t sequences[] = { 1, 2, 3, 7, 31, 33, 64, 65, 130 };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int i = 0; i < COUNT(sequences); i++)
            for (int64_t ratio = 1; ratio <= 4; ratio *= 2)
                compare((struct moire_attention_shape){ 2, sequences[i], 4, 4 / ratio,
                                                        2 * (1 + test_random_below(9)) });
        compare((struct moire_attention_shape){ 0, 33, 4, 2, 8 });
        compare((struct moire_attention_shape){ 5, 40, 1, 1, 33 });
    }
}

/* Around the edges of the blocks: 64 x 448 in forward, 48 x 240 in backward. */
static void edges(void)
{
    const int64_t sequences[] = { 47,  48,  49,  63,  66,  95,  96,  97,  239, 240,
                                  241, 287, 288, 289, 447, 449, 480, 481, 512, 530 };
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        for (int i = 0; i < COUNT(sequences); i++) {
            int64_t kv_heads = 1 + i % 2;
            compare((struct moire_attention_shape){ 1, sequences[i], 2, kv_heads, 7 + i });
        }
    }
}

/* Scores so large that exponentials without their maximum would overflow, and that grow with every block of
 * keys or fall, so that what was summed before counts for nothing or all. */
static void large_scores_of(int64_t sequence, double first, double last)
{
    struct moire_attention_shape shape = { 1, sequence, 2, 1, 8 };
    int64_t rows = rows_of(&shape), width = width_of(&shape), out_width = shape.heads * shape.head_dim;
    real *qkv = random_reals(rows * width), *out = nan_reals(rows * out_width),
         *saved = nan_reals(rows * shape.heads);
    real *gradient = nan_reals(rows * width), *scratch = nan_reals(moire_attention_scratch(&shape));
    for (int64_t i = 0; i < rows * width; i++)
        qkv[i] *= (real)(first + (last - first) * (double)(i / width) / (double)rows);
    moire_attention_forward(&shape, qkv, out, saved, scratch);
    moire_attention_backward(&shape, qkv, out, saved, out, gradient, scratch);
    for (int64_t i = 0; i < rows * out_width; i++) expect(fabs(out[i]) <= 101);
    for (int64_t i = 0; i < rows * width; i++) expect(isfinite(gradient[i]));
    release_all();
}

static void large_scores(void)
{
    large_scores_of(33, 100, 100);
    large_scores_of(500, 1, 100);
    large_scores_of(500, 100, 1);
}

/* NaN in a key of the first block reaches every row that sees it, and no other. */
static void not_finite(void)
{
    struct moire_attention_shape shape = { 1, 300, 1, 1, 4 };
    const int64_t bad = 5, width = width_of(&shape), a = shape.head_dim;
    real *qkv = random_reals(shape.sequence * width), *out = nan_reals(shape.sequence * a),
         *saved = nan_reals(shape.sequence), *scratch = nan_reals(moire_attention_scratch(&shape));
    qkv[bad * width + a] = (real)NAN;
    moire_attention_forward(&shape, qkv, out, saved, scratch);
    for (int64_t r = 0; r < shape.sequence; r++)
        expect(isnan(out[r * a]) == (r >= bad) && isnan(saved[r]) == (r >= bad));
    release_all();
}

static void step(void)
{
    const struct moire_attention_shape shapes[] = { { 1, 70, 4, 2, 6 },
                                                    { 1, 1, 2, 2, 8 },
                                                    { 1, 7, 4, 1, 10 } };
    for (int n = 0; n < COUNT(shapes); n++) {
        struct moire_attention_shape s = shapes[n];
        int64_t width = width_of(&s), a = s.head_dim, kv = s.kv_heads * a, last = s.sequence - 1;
        real *qkv = random_reals(s.sequence * width), *out = nan_reals(s.heads * a),
             *scratch = nan_reals(s.sequence);
        real *keys = nan_reals(s.sequence * kv), *values = nan_reals(s.sequence * kv);
        double *wanted = zero_doubles(s.sequence * s.heads * a), *saved = zero_doubles(s.sequence * s.heads),
               *p = zero_doubles(s.sequence);
        for (int64_t r = 0; r < s.sequence; r++) {
            memcpy(keys + r * kv, qkv + r * width + s.heads * a, (size_t)kv * sizeof *keys);
            memcpy(values + r * kv, qkv + r * width + s.heads * a + kv, (size_t)kv * sizeof *values);
        }
        shape_case("step", &s);
        naive_forward(&s, qkv, wanted, saved, p);
        moire_attention_step(&s, s.sequence, qkv + last * width, keys, values, out, scratch);
        expect_close(s.heads * a, out, wanted + last * s.heads * a);
        release_all();
    }
}

static void naive_rotary(const struct moire_attention_shape *s, double theta, int64_t first, double sign,
                         double *qkv)
{
    int64_t a = s->head_dim;
    for (int64_t r = 0; r < rows_of(s); r++)
        for (int64_t h = 0; h < s->heads + s->kv_heads; h++)
            for (int64_t i = 0; i < a / 2; i++) {
                double *low = qkv + r * width_of(s) + h * a + i, *high = low + a / 2, x = *low, y = *high;
                double angle =
                    sign * (double)(first + r % s->sequence) * pow(theta, -2 * (double)i / (double)a);
                *low = x * cos(angle) - y * sin(angle);
                *high = x * sin(angle) + y * cos(angle);
            }
}

static void rotary(void)
{
    const struct moire_attention_shape shapes[] = {
        { 2, 7, 4, 2, 10 }, { 3, 33, 2, 2, 64 }, { 1, 3, 1, 1, 140 }, { 0, 5, 2, 1, 8 }, { 4, 65, 6, 3, 34 }
    };
    for (int t = 0; t < COUNT(thread_counts); t++)
        for (int n = 0; n < COUNT(shapes); n++) {
            const struct moire_attention_shape *s = &shapes[n];
            int64_t count = rows_of(s) * width_of(s), first = n == 0 ? 0 : 1000;
            real *qkv = random_reals(count);
            double *original = copy_doubles(count, qkv), *wanted = copy_doubles(count, qkv);
            omp_set_num_threads(thread_counts[t]);
            shape_case("rotary", s);
            naive_rotary(s, 10000, first, 1, wanted);
            moire_rotary(s, 10000, first, false, qkv);
            expect_close(count, qkv, wanted);
            moire_rotary(s, 10000, first, true, qkv);
            expect_close(count, qkv, original);
            release_all();
        }
}

/* The same for any threads: every result has one writer, and its products are the same. */
static void bits(void)
{
    struct moire_attention_shape shape = { 3, 250, 4, 2, 20 };
    int64_t rows = rows_of(&shape), width = width_of(&shape), out_width = shape.heads * shape.head_dim;
    real *qkv = random_reals(rows * width), *d_out = random_reals(rows * out_width), *out[4], *saved[4],
         *gradient[4];
    for (int n = 0; n < 4; n++) {
        omp_set_num_threads(n < 2 ? 3 : n - 1);
        out[n] = nan_reals(rows * out_width), saved[n] = nan_reals(rows * shape.heads),
        gradient[n] = nan_reals(rows * width);
        real *scratch = nan_reals(moire_attention_scratch(&shape));
        moire_attention_forward(&shape, qkv, out[n], saved[n], scratch);
        moire_attention_backward(&shape, qkv, out[n], saved[n], d_out, gradient[n], scratch);
        new_case("attention, run %d", n);
        expect_same(rows * out_width, out[n], out[0]);
        expect_same(rows * shape.heads, saved[n], saved[0]);
        expect_same(rows * width, gradient[n], gradient[0]);
    }
    release_all();
}

#ifdef MOIRE_REAL_DOUBLE
struct attention_case {
    struct moire_attention_shape shape;
    bool turn;
    real *qkv, *turned, *out, *saved, *d_out, *scratch;
};

static double loss(void *context)
{
    struct attention_case *c = context;
    memcpy(c->turned, c->qkv, (size_t)(rows_of(&c->shape) * width_of(&c->shape)) * sizeof(real));
    if (c->turn) moire_rotary(&c->shape, 10000, 3, false, c->turned);
    moire_attention_forward(&c->shape, c->turned, c->out, c->saved, c->scratch);
    return inner_product(rows_of(&c->shape) * c->shape.heads * c->shape.head_dim, c->d_out, c->out);
}

/* With rotary positions before attention: its backward is the inverse turn. */
static void gradients(void)
{
    const int64_t sequences[] = { 5, 70, 250 };
    for (int n = 0; n < COUNT(sequences); n++) {
        int64_t kv_heads = 4 >> n;
        struct attention_case c = { .shape = { 2, sequences[n], 4, kv_heads, 6 }, .turn = n != 1 };
        int64_t count = rows_of(&c.shape) * width_of(&c.shape),
                out_count = rows_of(&c.shape) * c.shape.heads * c.shape.head_dim;
        omp_set_num_threads(3);
        c.qkv = random_reals(count), c.turned = nan_reals(count), c.out = nan_reals(out_count),
        c.d_out = random_reals(out_count);
        c.saved = nan_reals(rows_of(&c.shape) * c.shape.heads),
        c.scratch = nan_reals(moire_attention_scratch(&c.shape));
        real *gradient = nan_reals(count);
        shape_case("gradients", &c.shape);
        loss(&c);
        moire_attention_backward(&c.shape, c.turned, c.out, c.saved, c.d_out, gradient, c.scratch);
        if (c.turn) moire_rotary(&c.shape, 10000, 3, true, gradient);
        expect_gradient(count, c.qkv, gradient, loss, &c);
        release_all();
    }
}
#endif

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "attention against a naive twin", sizes },
        { "edges of blocks", edges },
        { "large scores", large_scores },
        { "a number that is not finite", not_finite },
        { "a step against a cache", step },
        { "rotary positions", rotary },
        { "the same bits", bits },
#ifdef MOIRE_REAL_DOUBLE
        { "gradients", gradients },
#endif
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
