/* The head in chunks of rows and pieces of the vocabulary against a naive twin, and the sizes it chooses. */
#include <math.h>
#include <string.h>

#include "../compute/checks.h"
#include "model/private.h"
#include "small.h"

enum { MOST_TOKENS = 33, MOST_VOCABULARY = 1031 };

/* How the head is cut. */
struct cuts {
    int64_t rows, columns;
    bool recomputes;
};

static void naive_head(const struct moire_model *model, int64_t tokens, double scale, double *losses,
                       double *rows_gradient, double *gradient)
{
    int64_t dim = model->dim, vocabulary = model->vocabulary;
    const real *weight = model->parameters + model->tensors.list[model->head].offset;
    double p[MOST_VOCABULARY];
    for (int64_t t = 0; t < tokens; t++) {
        const real *row = model->final_rows + t * dim;
        double most = -INFINITY, sum = 0;
        for (int64_t v = 0; v < vocabulary; v++)
            most = fmax(most, p[v] = inner_product(dim, row, weight + v * dim));
        losses[t] = most - p[model->targets[t]];
        for (int64_t v = 0; v < vocabulary; v++) sum += p[v] = exp(p[v] - most);
        losses[t] += log(sum);
        for (int64_t v = 0; v < vocabulary; v++) {
            double d = scale * (p[v] / sum - (v == model->targets[t]));
            for (int64_t i = 0; i < dim; i++) {
                rows_gradient[t * dim + i] += d * (double)weight[v * dim + i];
                gradient[v * dim + i] += d * (double)row[i];
            }
        }
    }
}

/* Buffers of their own instead of the model's: just as long as these cuts need. */
static void set_cuts(struct moire_model *model, const struct cuts *cuts)
{
    int64_t pieces = (model->vocabulary + cuts->columns - 1) / cuts->columns;
    model->head_rows = cuts->rows;
    model->head_columns = cuts->columns;
    model->head_recomputes = cuts->recomputes;
    model->logits = nan_reals(cuts->rows * (cuts->recomputes ? cuts->columns : model->vocabulary));
    model->piece_maxima = nan_reals(cuts->rows * (cuts->recomputes ? 1 : pieces));
    model->head_softmax = hold(cuts->rows, sizeof *model->head_softmax);
}

static void compare(struct moire_model *model, int64_t tokens, const struct cuts *cuts)
{
    int64_t dim = model->dim, matrix = model->vocabulary * dim;
    real *gradient = model->gradients + model->tensors.list[model->head].offset;
    double *losses = zero_doubles(tokens), *rows_wanted = zero_doubles(tokens * dim);
    const struct moire_model own = *model;
    set_cuts(model, cuts);
    for (int64_t i = 0; i < tokens * dim; i++) model->final_rows[i] = (real)(3 * test_random());
    for (int64_t t = 0; t < tokens; t++) model->targets[t] = (int32_t)test_random_below(model->vocabulary);
    for (int64_t i = 0; i < matrix; i++) gradient[i] = (real)test_random();
    double *wanted = copy_doubles(matrix, gradient), *losses_alone = zero_doubles(tokens);
    new_case("head, %lld rows, V %lld, chunks of %lld, pieces of %lld, recomputes %d", (long long)tokens,
             (long long)model->vocabulary, (long long)cuts->rows, (long long)cuts->columns, cuts->recomputes);
    naive_head(model, tokens, 0.2, losses, rows_wanted, wanted);
    moire_head(model, tokens, false, 0);
    memcpy(losses_alone, model->losses, (size_t)tokens * sizeof(double));
    moire_head(model, tokens, true, (real)0.2);
    for (int64_t t = 0; t < tokens; t++)
        expect_near(model->losses[t], losses[t], sizeof(real) == sizeof(float) ? 1e-5 : 1e-12);
    expect(memcmp(losses_alone, model->losses, (size_t)tokens * sizeof(double)) == 0);
    expect_close(tokens * dim, model->rows_gradient, rows_wanted);
    expect_close(matrix, gradient, wanted);
    *model = own;
    release_all();
}

static void with_vocabulary(const char *vocabulary, void (*check)(struct moire_model *model))
{
    struct small small = small_combination(0);
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_model model;
    expect_ok(small_config(&small, &config));
    const char *const values[][2] = { { "moe.layers", "none" },
                                      { "model.dim", "12" },
                                      { "model.position", "learned" },
                                      { "model.sequence", "11" },
                                      { "model.vocabulary", vocabulary } };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        expect_ok(moire_config_set(&config, values[i][0], values[i][1], MOIRE_FROM_COMMAND));
    expect_ok(moire_mesh_create(&config, &mesh));
    moire_status status = moire_model_create(&config, &mesh, MOST_TOKENS / 11, true, &model);
    expect_ok(status);
    if (status == MOIRE_OK) {
        check(&model);
        moire_model_free(&model);
    }
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

static void check_pieces(struct moire_model *model)
{
    const int64_t tokens[] = { 0, 1, 2, 3, 7, 31, 33 }, rows[] = { 1, 5, 16, 33 },
                  columns[] = { 1, 7, 64, 500, MOST_VOCABULARY };
    for (int n = 0; n < COUNT(tokens); n++)
        for (int i = 0; i < COUNT(rows); i++)
            for (int j = 0; j < COUNT(columns); j++)
                for (int recomputes = 0; recomputes < 2; recomputes++) {
                    struct cuts cuts = { rows[i], columns[j], recomputes };
                    if (cuts.columns > 1 || model->vocabulary < 100) compare(model, tokens[n], &cuts);
                }
}

static void pieces(void)
{
    for (int t = 0; t < COUNT(thread_counts); t++) {
        omp_set_num_threads(thread_counts[t]);
        with_vocabulary("13", check_pieces);
        with_vocabulary("1031", check_pieces);
    }
}

static void check_own(struct moire_model *model)
{
    compare(model, MOST_TOKENS, &(struct cuts){ model->head_rows, model->head_columns, false });
    expect(model->head_rows == MOST_TOKENS && model->head_columns == model->vocabulary);
}

static void own_sizes(void)
{
    with_vocabulary("1031", check_own);
}

/* What is kept is bounded; the chunks and pieces cover everything; huge vocabularies are computed again. */
static void sizes(void)
{
    const int64_t sequences[] = { 0, 1, 5, 64, 1000 }, lengths[] = { 1, 64, 333, 1024 },
                  vocabularies[] = { 2, 256, 50257, 128256, 400000, 20000000 };
    for (int i = 0; i < COUNT(sequences); i++)
        for (int j = 0; j < COUNT(lengths); j++)
            for (int k = 0; k < COUNT(vocabularies); k++) {
                struct moire_model model = {
                    .sequences = sequences[i],
                    .sequence = lengths[j],
                    .vocabulary = vocabularies[k],
                    .training = true,
                };
                int64_t tokens = sequences[i] * lengths[j], most = (int64_t)64 << 20;
                moire_head_set_sizes(&model);
                moire_arena_measure(&model.activations);
                moire_head_take(&model);
                expect(model.activations.peak_bytes <= most + most / 16);
                expect(model.head_rows <= tokens && (model.head_rows > 0) == (tokens > 0));
                expect(model.head_columns <= model.vocabulary && (model.head_columns > 0) == (tokens > 0));
                expect(model.head_recomputes ==
                       (model.vocabulary * (int64_t)sizeof(real) * (tokens < 48 ? tokens : 48) > most));
                if (!model.head_recomputes) continue;
                model.training = false;
                moire_arena_measure(&model.activations);
                moire_head_take(&model);
                /* without gradient a piece is all there is */
                expect(model.activations.peak_bytes <= 3 << 20);
            }
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = { { "pieces against a naive twin", pieces },
                                               { "the sizes of a small model", own_sizes },
                                               { "sizes are bounded", sizes } };
    return test_main(argc, argv, "1", tests, sizeof tests / sizeof *tests);
}
