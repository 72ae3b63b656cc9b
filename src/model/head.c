/* The head: projection and softmax cross-entropy, in chunks of rows and pieces of the vocabulary, so that
 * [T, V] logits never exist. */
#include "model/private.h"
#include "moire/compute/linear.h"
#include "moire/observe/phases.h"

/* Training keeps the exponentials of a chunk of rows from the loss to the gradient: [rows, V], in so many
 * bytes at most. Every chunk reads the whole matrix twice and its gradient once, so short ones are slow: with
 * D 384 and V 50257 chunks of 256 rows take 1.01 times as long as those of 512, 128 1.05 and 64 1.2 times. */
#define KEPT_BYTES ((int64_t)64 << 20)
/* Logits of a piece of the vocabulary go from product to product within the caches. */
#define PIECE_BYTES ((int64_t)2 << 20)
/* More rows win nothing. */
#define MOST_ROWS 512
/* Where so few rows would be kept, it is faster to compute logits again: four products in place of three. */
#define FEWEST_ROWS 48
/* Sizes are multiples of what a product takes at once. */
#define ROW_UNIT 16
#define COLUMN_UNIT 64

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t round_up(int64_t count, int64_t unit)
{
    return (count + unit - 1) / unit * unit;
}

/* Cuts `whole` into as few parts as `most` allows, and those of one size. */
static int64_t even_part(int64_t whole, int64_t most, int64_t unit)
{
    if (whole <= most) return whole;
    most = most < unit ? unit : most / unit * unit;
    int64_t parts = (whole + most - 1) / most;
    return round_up((whole + parts - 1) / parts, unit);
}

void moire_head_set_sizes(struct moire_model *model)
{
    int64_t tokens = model->sequences * model->sequence, vocabulary = model->vocabulary;
    int64_t kept_rows = KEPT_BYTES / (vocabulary * (int64_t)sizeof(real));
    model->head_recomputes = kept_rows < least(tokens, FEWEST_ROWS);
    model->head_rows =
        even_part(tokens, model->head_recomputes ? MOST_ROWS : least(MOST_ROWS, kept_rows), ROW_UNIT);
    model->head_columns =
        model->head_rows == 0
            ? 0
            : even_part(vocabulary, PIECE_BYTES / (model->head_rows * (int64_t)sizeof(real)), COLUMN_UNIT);
}

static int64_t count_pieces(const struct moire_model *model)
{
    return model->head_rows == 0 ? 0 : (model->vocabulary + model->head_columns - 1) / model->head_columns;
}

void moire_head_take(struct moire_model *model)
{
    bool keeps = model->training && !model->head_recomputes;
    int64_t rows = model->head_rows;
    struct moire_arena *arena = &model->activations;
    model->logits =
        moire_arena_take(arena, rows * (keeps ? model->vocabulary : model->head_columns), sizeof(real));
    model->piece_maxima = moire_arena_take(arena, rows * (keeps ? count_pieces(model) : 1), sizeof(real));
    model->head_softmax = moire_arena_take(arena, rows, sizeof *model->head_softmax);
}

/* Columns [first, first + columns) of the logits of a chunk of rows. */
struct piece {
    int64_t first, columns;
    const real *weight;
    real *logits, *maxima;
};

static struct piece piece_at(const struct moire_model *model, int64_t rows, int64_t first, bool kept)
{
    int64_t index = kept ? first / model->head_columns : 0;
    return (struct piece){
        .first = first,
        .columns = least(model->head_columns, model->vocabulary - first),
        .weight = model->parameters + model->tensors.list[model->head].offset + first * model->dim,
        .logits = model->logits + (kept ? rows * first : 0),
        .maxima = model->piece_maxima + index * model->head_rows,
    };
}

/* Losses of the rows [begin, begin + rows). `kept`: exponentials and maxima of all pieces stay. */
static void losses(struct moire_model *model, int64_t begin, int64_t rows, bool kept)
{
    const real *input = model->final_rows + begin * model->dim;
    moire_softmax_start(rows, model->head_softmax);
    for (int64_t first = 0; first < model->vocabulary; first += model->head_columns) {
        struct piece piece = piece_at(model, rows, first, kept);
        moire_linear_forward(rows, model->dim, piece.columns, input, piece.weight, NULL, piece.logits);
        moire_softmax_add(rows, piece.columns, piece.first, model->targets + begin, piece.logits,
                          piece.maxima, model->head_softmax);
    }
    moire_softmax_losses(rows, model->head_softmax, model->losses + begin);
}

/* Gradients of the rows [begin, begin + rows) and of the matrix, after their losses. */
static void gradients(struct moire_model *model, int64_t begin, int64_t rows, bool kept, real scale)
{
    const int64_t dim = model->dim;
    const real *input = model->final_rows + begin * dim;
    real *gradient = model->gradients + model->tensors.list[model->head].offset;
    for (int64_t first = 0; first < model->vocabulary; first += model->head_columns) {
        struct piece piece = piece_at(model, rows, first, kept);
        if (!kept) moire_linear_forward(rows, dim, piece.columns, input, piece.weight, NULL, piece.logits);
        moire_softmax_gradient(rows, piece.columns, piece.first, model->targets + begin, scale,
                               model->head_softmax, kept ? piece.maxima : NULL, piece.logits);
        moire_linear_backward_input(rows, dim, piece.columns, piece.logits, piece.weight, first > 0,
                                    model->rows_gradient + begin * dim);
        moire_linear_backward_weight(rows, dim, piece.columns, input, piece.logits, gradient + first * dim,
                                     NULL);
    }
}

void moire_head(struct moire_model *model, int64_t tokens, bool backward, real scale)
{
    bool kept = backward && !model->head_recomputes;
    moire_phase_begin(MOIRE_PHASE_HEAD);
    for (int64_t begin = 0; begin < tokens; begin += model->head_rows) {
        int64_t rows = least(model->head_rows, tokens - begin);
        losses(model, begin, rows, kept);
        if (backward) gradients(model, begin, rows, kept, scale);
    }
    moire_phase_end(MOIRE_PHASE_HEAD);
}
