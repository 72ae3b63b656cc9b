/* moire bench gemm: products of the shapes that a configuration uses. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "moire/base/file.h"
#include "moire/base/random.h"
#include "moire/compute/linear.h"
#include "moire/compute/vector.h"

enum { MOST_ROWS = 8192, ROW_COUNTS = 64, SHAPES = 8, MOST_BYTES = 256 * 1024 * 1024 };
enum { FORWARD, INPUT, WEIGHT, PRODUCTS };
static const double sample_seconds = 200e-6;
static const char *const product_names[PRODUCTS] = { "forward", "input", "weight" };

struct shape {
    const char *name;
    int64_t inputs, outputs;
};

/* Of a shape: what products read, and one place for what they write. */
struct buffers {
    real *x, *y, *weight, *result;
};

/* One variant: a shape, a product, a number of rows. */
struct product {
    const struct shape *shape;
    int kind;
    int64_t rows;
    const struct buffers *buffers;
};


static void add(struct shape *shapes, int *count, const char *name, int64_t inputs, int64_t outputs)
{
    shapes[(*count)++] = (struct shape){ name, inputs, outputs };
}

static moire_status find_shapes(const struct moire_config *config, struct shape shapes[SHAPES], int *count)
{
    const int64_t dim = config->model_dim, heads = config->model_heads;
    const int64_t kv_heads = config->model_kv_heads == MOIRE_AUTO ? heads : config->model_kv_heads;
    bool *is_moe, experts = false, dense = false;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, config->model_layers, sizeof *is_moe, &is_moe));
    moire_status status = moire_config_moe_layers(config, is_moe);
    for (int64_t layer = 0; status == MOIRE_OK && layer < config->model_layers; layer++) {
        experts = experts || is_moe[layer];
        dense = dense || !is_moe[layer];
    }
    moire_release(is_moe);
    MOIRE_TRY(status);
    *count = 0;
    add(shapes, count, "attention.qkv", dim, (heads + 2 * kv_heads) * (dim / heads));
    add(shapes, count, "attention.output", dim, dim);
    if (dense) add(shapes, count, "feed_forward.up", dim, config->model_ffn_hidden);
    if (dense) add(shapes, count, "feed_forward.down", config->model_ffn_hidden, dim);
    if (experts) add(shapes, count, "router", dim, config->moe_experts);
    if (experts) add(shapes, count, "experts.up", dim, config->moe_expert_hidden);
    if (experts) add(shapes, count, "experts.down", config->moe_expert_hidden, dim);
    add(shapes, count, "head", dim, config->model_vocabulary);
    return MOIRE_OK;
}

static moire_status bad_rows(const char *found)
{
    return moire_fail(MOIRE_USAGE,
                      "bench.rows must be auto or numbers of rows, separated by commas; found '%s', "
                      "expected at most %d numbers from 1 to %d; try bench.rows = 1,16,256",
                      found, ROW_COUNTS, MOST_ROWS);
}

static moire_status read_rows(const char *text, int64_t rows[ROW_COUNTS], int *count)
{
    struct moire_paths list;
    *count = 0;
    if (strcmp(text, "auto") == 0) {
        for (int64_t r = 1; r <= MOST_ROWS; r *= 2) rows[(*count)++] = r;
        return MOIRE_OK;
    }
    MOIRE_TRY(moire_paths_split(text, &list)); /* words between commas */
    bool good = list.count > 0 && list.count <= ROW_COUNTS;
    for (int64_t i = 0; good && i < list.count; i++) {
        int64_t value;
        good = moire_parse_integer(list.list[i], &value) && value >= 1 && value <= MOST_ROWS;
        if (good) rows[(*count)++] = value;
    }
    moire_paths_free(&list);
    return good ? MOIRE_OK : bad_rows(text);
}

static moire_status run_product(void *state)
{
    const struct product *product = state;
    const struct buffers *b = product->buffers;
    const int64_t rows = product->rows, inputs = product->shape->inputs, outputs = product->shape->outputs;
    if (product->kind == FORWARD)
        moire_linear_forward(rows, inputs, outputs, b->x, b->weight, NULL, b->result);
    else if (product->kind == INPUT)
        moire_linear_backward_input(rows, inputs, outputs, b->y, b->weight, false, b->result);
    else
        moire_linear_backward_weight(rows, inputs, outputs, b->x, b->y, b->result, NULL);
    return MOIRE_OK;
}

static void fill(int64_t count, uint64_t stream, real *x)
{
    for (int64_t i = 0; i < count; i++) x[i] = (real)(1 - 2 * moire_random_uniform(1, stream, (uint64_t)i));
}

static void free_buffers(struct buffers *buffers)
{
    moire_release(buffers->result);
    moire_release(buffers->weight);
    moire_release(buffers->y);
    moire_release(buffers->x);
}

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static moire_status create_buffers(const struct shape *shape, int64_t rows, struct buffers *buffers)
{
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    const int64_t matrix = shape->inputs * shape->outputs;
    const int64_t x = rows * shape->inputs, y = rows * shape->outputs;
    memset(buffers, 0, sizeof *buffers);
    MOIRE_TRY(moire_allocate(kind, x, sizeof(real), &buffers->x));
    MOIRE_TRY(moire_allocate(kind, y, sizeof(real), &buffers->y));
    MOIRE_TRY(moire_allocate(kind, matrix, sizeof(real), &buffers->weight));
    MOIRE_TRY(moire_allocate(kind, largest(matrix, largest(x, y)), sizeof(real), &buffers->result));
    fill(x, 1, buffers->x);
    fill(y, 2, buffers->y);
    fill(matrix, 3, buffers->weight);
    return MOIRE_OK;
}

/* A matrix as the sum over k sees it: element (i, k) is data[i * row + k * inner]. */
struct view {
    const real *data;
    int64_t row, inner;
};

/* Some elements of a product against sums in double. */
static moire_status check_product(struct product *product)
{
    enum { ELEMENTS = 16 };
    const struct buffers *b = product->buffers;
    const int64_t rows = product->rows, inputs = product->shape->inputs, outputs = product->shape->outputs;
    const struct view left[] = { { b->x, inputs, 1 }, { b->y, outputs, 1 }, { b->y, 1, outputs } };
    const struct view right[] = { { b->weight, inputs, 1 }, { b->weight, 1, inputs }, { b->x, 1, inputs } };
    const int64_t sides[][3] = {
        { rows, outputs, inputs },
        { rows, inputs, outputs },
        { outputs, inputs, rows },
    };
    const int kind = product->kind;
    const int64_t *side = sides[kind];
    moire_fill(side[0] * side[1], 0, b->result);
    run_product(product);
    for (uint64_t n = 0; n < ELEMENTS; n++) {
        const int64_t i = (int64_t)moire_random_below(2, 0, n, (uint64_t)side[0]);
        const int64_t j = (int64_t)moire_random_below(2, 1, n, (uint64_t)side[1]);
        const real *l = left[kind].data + i * left[kind].row, *r = right[kind].data + j * right[kind].row;
        double sum = 0, size = 0, found = b->result[i * side[1] + j];
        for (int64_t k = 0; k < side[2]; k++) {
            double term = (double)l[k * left[kind].inner] * (double)r[k * right[kind].inner];
            sum += term;
            size += fabs(term);
        }
        if (fabs(found - sum) > 1e-4 * size)
            return moire_fail(MOIRE_FAILED,
                              "a %s product of %s with %lld rows is wrong; found %.9g, expected %.9g; try "
                              "another BLAS",
                              product_names[kind], product->shape->name, (long long)rows, found, sum);
    }
    return MOIRE_OK;
}

static moire_status report(struct moire_bench_run *run, const struct moire_measure *measure)
{
    const double peak = moire_bench_peak(run, measure);
    for (int i = 0; i < measure->count - 1; i++) {
        const struct moire_variant *variant = &measure->variants[i];
        const struct product *product = variant->state;
        const double rows = (double)product->rows, inputs = (double)product->shape->inputs,
                     outputs = (double)product->shape->outputs, ranks = run->mesh.world.size;
        const double rate = ranks * 2 * rows * inputs * outputs / variant->median.middle;
        /* the gradient of the weights is read and written */
        const double elements =
            rows * inputs + rows * outputs + inputs * outputs * (product->kind == WEIGHT ? 2 : 1);
        const struct moire_bench_cell cells[] = {
            { .words = product->shape->name },
            { .words = product_names[product->kind] },
            { .number = rows },
            { .number = 1e6 * variant->median.middle },
            { .number = (variant->median.high - variant->median.low) / 2 / variant->median.middle * 100 },
            { .number = rate / 1e9 },
            { .number = rate / peak },
            { .number = elements * sizeof(real) / 1048576 },
            { .words = variant->converged ? "yes" : "no" },
        };
        MOIRE_TRY(moire_bench_row(run->report, cells));
    }
    return MOIRE_OK;
}

/* All products of a shape are one run, so that they share a peak. Rows that take more than MOST_BYTES are
 * left out (the head is computed in chunks of rows). */
static moire_status measure_shape(struct moire_bench_run *run, const struct shape *shape, const int64_t *rows,
                                  int row_count)
{
    struct product products[PRODUCTS * ROW_COUNTS];
    struct moire_variant variants[PRODUCTS * ROW_COUNTS + 1];
    struct moire_measure measure = { 0 };
    struct buffers buffers = { 0 };
    int64_t most = 1;
    int count = 0;
    for (int i = 0; i < row_count; i++) {
        const int64_t bytes = rows[i] * largest(shape->inputs, shape->outputs) * (int64_t)sizeof(real);
        for (int kind = 0; kind < PRODUCTS && bytes <= MOST_BYTES; kind++) {
            products[count] = (struct product){ shape, kind, rows[i], &buffers };
            variants[count] = (struct moire_variant){ .name = product_names[kind], .run = run_product };
            variants[count].state = &products[count];
            most = largest(most, rows[i]);
            count++;
        }
    }
    moire_status status = create_buffers(shape, most, &buffers);
    for (int i = 0; status == MOIRE_OK && i < count; i++) status = check_product(&products[i]);
    status = moire_agree(&run->mesh.world, status);
    if (status == MOIRE_OK) {
        status = moire_bench_measure_peak(run, variants, count, sample_seconds, &measure);
        if (status == MOIRE_OK) status = moire_agree(&run->mesh.world, report(run, &measure));
        if (status == MOIRE_OK)
            status = moire_agree(&run->mesh.world, moire_bench_describe(run, shape->name, &measure));
        moire_measure_free(&measure);
    }
    free_buffers(&buffers);
    return status;
}

static moire_status start(struct moire_bench_run *run)
{
    static const struct moire_bench_column columns[] = {
        { "shape", 17, MOIRE_BENCH_WORDS },
        { "product", 7, MOIRE_BENCH_WORDS },
        { "rows", 5, 0 },
        { "us", 10, 2 },
        { "+-%", 5, 1 },
        { "GFLOP/s", 8, 1 },
        { "share", 6, 3 },
        { "MiB", 7, 2 },
        { "conv", 4, MOIRE_BENCH_WORDS },
    };
    MOIRE_TRY(moire_bench_header(run->report, "products",
                                 "forward y = x W^T, input dx = dy W, weight dW += dy^T x; MiB: read and "
                                 "written at least; +-%%: half the 95 %% interval; calls shorter than %g us "
                                 "are repeated; ranks work at once",
                                 1e6 * sample_seconds));
    return moire_bench_table(run->report, "gemm", columns, sizeof columns / sizeof *columns);
}

static moire_status run_gemm(struct moire_bench_run *run)
{
    struct shape shapes[SHAPES];
    int64_t rows[ROW_COUNTS];
    int shape_count = 0, row_count = 0;
    moire_status status = read_rows(run->config->bench_rows, rows, &row_count);
    if (status == MOIRE_OK) status = find_shapes(run->config, shapes, &shape_count);
    if (status == MOIRE_OK) status = start(run);
    status = moire_agree(&run->mesh.world, status);
    for (int i = 0; status == MOIRE_OK && i < shape_count; i++) {
        status = moire_bench_header(run->report, shapes[i].name, "%lld -> %lld", (long long)shapes[i].inputs,
                                    (long long)shapes[i].outputs);
        if (status == MOIRE_OK) status = measure_shape(run, &shapes[i], rows, row_count);
    }
    return status;
}

const struct moire_bench moire_bench_gemm = {
    .part = { .name = "gemm",
              .arguments = "FILE.ini [--section.key=value ...]",
              .details = "gemm measures the products of the shapes that the configuration uses: forward,\n"
                         "and backward for the input and for the weights, by number of rows.\n"
                         "\n"
                         "  moire bench gemm examples/tiny.ini --bench.rows=1,16,256" },
    .run = run_gemm,
};
