/* moire bench pack: packing and reduction of exchanged rows beside a copy of as many bytes.
 *
 * Each rank is alone with its experts, so that no row leaves it: what is measured is the work of the CPU that
 * every exchange does. A dispatch copies T K rows of D elements and as many weights; a combine sums K rows
 * into each of T. The copy beside each moves as many bytes, half of them read and half written, with memcpy
 * cut into one piece a thread, in memory of the same size:
 *
 *     move      bytes                               copy
 *     dispatch  2 T K (D + 1) elements              T (D + 1) elements, K times, to K places
 *     combine   (K + 1) T D elements                half of that from one half to the other
 *     both      their sum                           one after the other
 *
 * Reads for ownership of lines that are written (write-allocate) are not counted on either side. */
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "moire/base/file.h"
#include "moire/base/random.h"
#include "moire/exchange/exchange.h"

enum { MOST_SHAPES = 16, MOST_TOKENS = 1 << 20, MOST_DIM = 1 << 16, MOST_TOP_K = 64 };
enum { DISPATCH, COMBINE, BOTH, MOVES };
static const double sample_seconds = 2e-3; /* of which the start of a sample is a small part */
static const char *const move_names[MOVES] = { "dispatch", "combine", "both" };
static const char *const copy_names[MOVES] = { "copy of dispatch", "copy of combine", "copy of both" };
static const char reference_shapes[] = "1024x512x2,4096x512x2,1024x512x8,1024x4096x2";

struct shape {
    int64_t tokens, dim, top_k;
};

struct packing {
    struct shape shape;
    struct moire_communicator own; /* this rank alone */
    int node;
    struct moire_placement placement;
    struct moire_exchange *exchange;
    struct moire_plan *plan;
    int64_t *slot_begin, *targets;                /* owned, [T + 1], [T K] */
    struct moire_rows rows, weights;              /* [T, D], [T K, 1] */
    struct moire_rows received, received_weights; /* [T K, D], [T K, 1] */
    struct moire_rows sums;                       /* [T, D] */
    char *copies;                                 /* owned: what the copies read and write */
};

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- what is measured ---- */

static double bytes_of(const struct shape *shape, int move)
{
    const double slots = (double)shape->tokens * (double)shape->top_k;
    const double dispatch = 2 * slots * (double)(shape->dim + 1) * sizeof(real);
    const double combine =
        (double)(shape->top_k + 1) * (double)shape->tokens * (double)shape->dim * sizeof(real);
    return move == DISPATCH ? dispatch : move == COMBINE ? combine : dispatch + combine;
}

static moire_status run_dispatch(void *state)
{
    struct packing *packing = state;
    return moire_dispatch(packing->plan, &packing->rows, &packing->weights, &packing->received,
                          &packing->received_weights);
}

static moire_status run_combine(void *state)
{
    struct packing *packing = state;
    return moire_combine(packing->plan, &packing->received, NULL, &packing->sums, NULL);
}

static moire_status run_both(void *state)
{
    MOIRE_TRY(run_dispatch(state));
    return run_combine(state);
}

/* One piece a thread. */
static void copy(char *to, const char *from, int64_t bytes)
{
#pragma omp parallel
    {
        int64_t first, count = moire_share(bytes, omp_get_num_threads(), omp_get_thread_num(), &first);
        memcpy(to + first, from + first, (size_t)count);
    }
}

static moire_status copy_dispatch(void *state)
{
    struct packing *packing = state;
    const struct shape *shape = &packing->shape;
    const int64_t bytes = shape->tokens * (shape->dim + 1) * (int64_t)sizeof(real);
    for (int64_t k = 1; k <= shape->top_k; k++) copy(packing->copies + k * bytes, packing->copies, bytes);
    return MOIRE_OK;
}

/* Reads where the copy of the dispatch has written. */
static moire_status copy_combine(void *state)
{
    struct packing *packing = state;
    const struct shape *shape = &packing->shape;
    const int64_t half = (int64_t)bytes_of(shape, COMBINE) / 2;
    char *from = packing->copies + shape->tokens * (shape->dim + 1) * (int64_t)sizeof(real);
    copy(from + half, from, half);
    return MOIRE_OK;
}

static moire_status copy_both(void *state)
{
    MOIRE_TRY(copy_dispatch(state));
    return copy_combine(state);
}

/* ---- set-up ---- */

/* K different experts of E for each token, all sets equally likely (Floyd). */
static void choose_experts(struct packing *packing, int64_t experts, uint64_t seed)
{
    const struct shape *shape = &packing->shape;
    for (int64_t token = 0; token <= shape->tokens; token++)
        packing->slot_begin[token] = token * shape->top_k;
    for (int64_t token = 0; token < shape->tokens; token++) {
        int64_t *targets = packing->targets + token * shape->top_k;
        for (int64_t k = 0; k < shape->top_k; k++) {
            const int64_t last = experts - shape->top_k + k;
            int64_t chosen =
                (int64_t)moire_random_below(seed, (uint64_t)token, (uint64_t)k, (uint64_t)last + 1);
            for (int64_t i = 0; i < k; i++)
                if (targets[i] == chosen) chosen = last;
            targets[k] = chosen;
        }
    }
}

static moire_status create_rows(struct packing *packing, int64_t width, int64_t count,
                                struct moire_rows *rows)
{
    MOIRE_TRY(moire_rows_create(packing->exchange, MOIRE_MEMORY_OTHER, width, count, rows));
    real *x = rows->data;
    for (int64_t i = 0; i < width * count; i++)
        x[i] = (real)(1 - 2 * moire_random_uniform(1, (uint64_t)width, (uint64_t)i));
    return MOIRE_OK;
}

static moire_status create_buffers(struct packing *packing)
{
    const struct shape *shape = &packing->shape;
    const int64_t slots = shape->tokens * shape->top_k;
    const int64_t bytes = (shape->top_k + 2) * shape->tokens * (shape->dim + 1) * (int64_t)sizeof(real);
    MOIRE_TRY(create_rows(packing, shape->dim, shape->tokens, &packing->rows));
    MOIRE_TRY(create_rows(packing, 1, slots, &packing->weights));
    MOIRE_TRY(create_rows(packing, shape->dim, slots, &packing->received));
    MOIRE_TRY(create_rows(packing, 1, slots, &packing->received_weights));
    MOIRE_TRY(create_rows(packing, shape->dim, shape->tokens, &packing->sums));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, bytes, 1, &packing->copies));
    memset(packing->copies, 1, (size_t)bytes);
    return MOIRE_OK;
}

static moire_status create_exchange(struct packing *packing, const struct moire_config *config)
{
    const struct moire_exchange_settings settings = {
        .backend = config->exchange_backend,
        .round_bytes = config->exchange_round_bytes,
        .contexts = 1,
        .chunks = 1,
        .element = MOIRE_REAL_ELEMENT,
        .width = packing->shape.dim,
    };
    const struct moire_routing routing = {
        .tokens = packing->shape.tokens,
        .slots = packing->shape.tokens * packing->shape.top_k,
        .slot_begin = packing->slot_begin,
        .targets = packing->targets,
    };
    MOIRE_TRY(moire_exchange_create(&settings, &packing->own, &packing->node, NULL, &packing->placement,
                                    &packing->exchange));
    MOIRE_TRY(create_buffers(packing));
    MOIRE_TRY(moire_plan_create(packing->exchange, NULL, 0, &packing->plan));
    return moire_exchange_prepare(packing->plan, &routing, MOIRE_OK);
}

static moire_status create(struct packing *packing, const struct moire_bench_run *run)
{
    const struct shape *shape = &packing->shape;
    const int64_t experts = largest(run->config->moe_experts, shape->top_k);
    MOIRE_TRY(moire_placement_even(experts, 1, &packing->placement));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, shape->tokens + 1, sizeof(int64_t), &packing->slot_begin));
    MOIRE_TRY(
        moire_allocate(MOIRE_MEMORY_OTHER, shape->tokens * shape->top_k, sizeof(int64_t), &packing->targets));
    choose_experts(packing, experts, (uint64_t)run->config->run_seed);
    return create_exchange(packing, run->config);
}

static void destroy(struct packing *packing)
{
    struct moire_rows *const rows[] = { &packing->rows, &packing->weights, &packing->received,
                                        &packing->received_weights, &packing->sums };
    if (packing->plan) moire_plan_free(packing->plan);
    for (int i = 0; i < 5; i++) moire_rows_free(packing->exchange, rows[i]);
    if (packing->exchange) moire_exchange_free(packing->exchange);
    moire_release(packing->copies);
    moire_release(packing->targets);
    moire_release(packing->slot_begin);
    moire_placement_free(&packing->placement);
}

/* A dispatch and a combine give every row K times itself, summed one by one. */
static moire_status check(struct packing *packing)
{
    const struct shape *shape = &packing->shape;
    MOIRE_TRY(run_both(packing));
    const real *row = packing->rows.data, *sum = packing->sums.data;
    for (int64_t i = 0; i < shape->tokens * shape->dim; i++) {
        real expected = row[i];
        for (int64_t k = 1; k < shape->top_k; k++) expected += row[i];
        if (sum[i] != expected)
            return moire_fail(MOIRE_FAILED,
                              "exchanged rows do not add up; found %.9g at token %lld, expected %.9g; try "
                              "another exchange.backend",
                              (double)sum[i], (long long)(i / shape->dim), (double)expected);
    }
    return MOIRE_OK;
}

/* ---- the list of shapes ---- */

static moire_status bad_shapes(const char *found)
{
    return moire_fail(
        MOIRE_USAGE,
        "bench.shapes must be auto or TOKENSxDIMxTOP_K, separated by commas; found '%s', expected "
        "at most %d shapes of 1 to %d tokens, dim 1 to %d and top 1 to %d; try bench.shapes = "
        "1024x512x2",
        found, MOST_SHAPES, MOST_TOKENS, MOST_DIM, MOST_TOP_K);
}

static bool read_shape(char *text, struct shape *shape)
{
    const int64_t most[] = { MOST_TOKENS, MOST_DIM, MOST_TOP_K };
    int64_t *const values[] = { &shape->tokens, &shape->dim, &shape->top_k };
    for (int i = 0; i < 3; i++) {
        char *end = text + strcspn(text, "x");
        if ((*end == 0) != (i == 2)) return false;
        *end = 0;
        if (!moire_parse_integer(text, values[i]) || *values[i] < 1 || *values[i] > most[i]) return false;
        text = end + 1;
    }
    return true;
}

static moire_status read_shapes(const char *text, struct shape shapes[MOST_SHAPES], int *count)
{
    struct moire_paths list;
    MOIRE_TRY(moire_paths_split(text, &list)); /* words between commas */
    bool good = list.count > 0 && list.count <= MOST_SHAPES;
    for (int64_t i = 0; good && i < list.count; i++) good = read_shape(list.list[i], &shapes[i]);
    *count = (int)list.count;
    moire_paths_free(&list);
    return good ? MOIRE_OK : bad_shapes(text);
}

/* What a rank of the configuration brings, or where there is none the shapes of the compute table. */
static moire_status find_shapes(const struct moire_bench_run *run, struct shape shapes[MOST_SHAPES],
                                int *count)
{
    const struct moire_config *config = run->config;
    int64_t first;
    if (strcmp(config->bench_shapes, "auto") != 0) return read_shapes(config->bench_shapes, shapes, count);
    if (!run->has_file) return read_shapes(reference_shapes, shapes, count);
    const int64_t sequences = moire_share(config->train_batch, run->mesh.world.size, 0, &first);
    shapes[0] = (struct shape) { sequences * config->model_sequence, config->model_dim, config->moe_top_k };
    *count = 1;
    return MOIRE_OK;
}

/* ---- the measurement ---- */

static moire_status report_move(struct moire_bench_run *run, const struct shape *shape,
                                const struct moire_measure *measure, int move)
{
    const struct moire_variant *found = &measure->variants[move], *copied = &measure->variants[MOVES + move];
    const struct moire_interval share = moire_measure_ratio(measure, MOVES + move, move);
    const double bytes = bytes_of(shape, move), ranks = run->mesh.world.size;
    const struct moire_bench_cell cells[] = {
        { .words = move_names[move] },
        { .number = (double)shape->tokens },
        { .number = (double)shape->dim },
        { .number = (double)shape->top_k },
        { .number = bytes / 1048576 },
        { .number = 1e3 * found->median.middle },
        { .number = ranks * bytes / found->median.middle / 1e9 },
        { .number = ranks * bytes / copied->median.middle / 1e9 },
        { .number = share.middle },
        { .number = share.low },
        { .number = share.high },
        { .words = found->converged && copied->converged ? "yes" : "no" },
    };
    return moire_bench_row(run->report, cells);
}

static moire_status report(struct moire_bench_run *run, const struct shape *shape,
                           const struct moire_measure *measure)
{
    char name[64];
    snprintf(name, sizeof name, "%lldx%lldx%lld", (long long)shape->tokens, (long long)shape->dim,
             (long long)shape->top_k);
    for (int move = 0; move < MOVES; move++) MOIRE_TRY(report_move(run, shape, measure, move));
    return moire_bench_describe(run, name, measure);
}

static moire_status measure_shape(struct moire_bench_run *run, struct packing *packing)
{
    static moire_status (*const runs[2 * MOVES])(void *) = { run_dispatch,  run_combine,  run_both,
                                                             copy_dispatch, copy_combine, copy_both };
    struct moire_variant variants[2 * MOVES];
    struct moire_measure measure = { 0 };
    for (int i = 0; i < 2 * MOVES; i++)
        variants[i] = (struct moire_variant) { .name = i < MOVES ? move_names[i] : copy_names[i - MOVES],
                                               .run = runs[i],
                                               .state = packing };
    moire_status status = moire_bench_measure(run, variants, 2 * MOVES, sample_seconds, &measure);
    if (status == MOIRE_OK) status = moire_agree(&run->mesh.world, report(run, &packing->shape, &measure));
    moire_measure_free(&measure);
    return status;
}

static moire_status run_shape(struct moire_bench_run *run, const struct shape *shape)
{
    const struct moire_communicator *world = &run->mesh.world;
    struct packing packing = { .shape = *shape };
    MOIRE_TRY(moire_communicator_split(world, "own", world->rank, 0, &packing.own));
    moire_status status = create(&packing, run);
    if (status == MOIRE_OK) status = check(&packing);
    status = moire_agree(world, status);
    if (status == MOIRE_OK) status = measure_shape(run, &packing);
    if (status == MOIRE_OK || moire_error_is_agreed()) {
        destroy(&packing);
        moire_communicator_free(&packing.own);
    }
    return status;
}

static moire_status start(struct moire_bench_run *run)
{
    static const struct moire_bench_column columns[] = {
        { "move", 8, MOIRE_BENCH_WORDS },
        { "tokens", 6, 0 },
        { "dim", 5, 0 },
        { "k", 2, 0 },
        { "MiB", 7, 2 },
        { "ms", 8, 3 },
        { "GB/s", 5, 1 },
        { "copy", 5, 1 },
        { "share", 5, 3 },
        { "low", 5, 3 },
        { "high", 5, 3 },
        { "conv", 4, MOIRE_BENCH_WORDS },
    };
    MOIRE_TRY(
        moire_bench_header(run->report, "moves",
                           "rows of a rank to its own %lld experts (as many as top_k at least) and back; "
                           "dispatch: T k rows copied with their weights, combine: k rows summed into "
                           "each of T, both: one after the other",
                           (long long)run->config->moe_experts));
    MOIRE_TRY(moire_bench_header(run->report, "bytes",
                                 "dispatch 2 T k (dim + 1), combine (k + 1) T dim elements of %d bytes, read "
                                 "and written; write-allocate not counted",
                                 (int)sizeof(real)));
    MOIRE_TRY(
        moire_bench_header(run->report, "copy",
                           "GB/s of memcpy, as many bytes in as much memory, one piece a thread, in "
                           "turn with the move; share: of that, each beside the copy of its round, with "
                           "its 95 %% interval; ranks work at once; calls shorter than %g us are repeated",
                           1e6 * sample_seconds));
    return moire_bench_table(run->report, "result", columns, sizeof columns / sizeof *columns);
}

static moire_status run_pack(struct moire_bench_run *run)
{
    struct shape shapes[MOST_SHAPES];
    int count = 0;
    moire_status status = find_shapes(run, shapes, &count);
    if (status == MOIRE_OK) status = start(run);
    status = moire_agree(&run->mesh.world, status);
    for (int i = 0; status == MOIRE_OK && i < count; i++) status = run_shape(run, &shapes[i]);
    return status;
}

const struct moire_bench moire_bench_pack = {
    .part = { .name = "pack",
              .arguments = "[FILE.ini] [--section.key=value ...]",
              .details = "pack measures how rows of a rank are copied to its experts and summed back, in\n"
                         "turn with memcpy of as many bytes: for the tokens, dim and top_k of FILE.ini, or\n"
                         "those of bench.shapes.\n"
                         "\n"
                         "  OMP_NUM_THREADS=2 moire bench pack --bench.shapes=1024x512x2,4096x512x2" },
    .file_optional = true,
    .run = run_pack,
};
