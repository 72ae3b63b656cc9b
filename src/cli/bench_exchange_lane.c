/* moire bench exchange: a back end with its buffers, and the check that it moves what it must. */
#include <math.h>
#include <string.h>

#include "cli/bench_exchange.h"
#include "moire/base/random.h"

const char *const moire_bench_way_names[MOIRE_BENCH_WAYS] = { "dispatch", "combine", "prepare" };

/* ---- what is measured ---- */

static moire_status dispatch(struct moire_bench_lane *lane)
{
    const bool numbers = lane->what->run->config->bench_numbers;
    return moire_dispatch(lane->plan, &lane->rows, numbers ? &lane->numbers : NULL, &lane->received,
                          numbers ? &lane->received_numbers : NULL);
}

/* What was received goes back as it is. */
static moire_status combine(struct moire_bench_lane *lane)
{
    const bool numbers = lane->what->run->config->bench_numbers;
    return moire_combine(lane->plan, &lane->received, numbers ? &lane->received_numbers : NULL, &lane->sums,
                         numbers ? &lane->number_sums : NULL);
}

moire_status moire_bench_lane_run(struct moire_bench_lane *lane, enum moire_bench_way way)
{
    if (way == MOIRE_BENCH_PREPARE) return moire_exchange_prepare(lane->plan, &lane->what->routing, MOIRE_OK);
    return way == MOIRE_BENCH_DISPATCH ? dispatch(lane) : combine(lane);
}

/* ---- contents ---- */

/* Plus or minus a power of two: exact in every wire type, and so are its small multiples, which sums are. */
static real value_of(uint64_t bits)
{
    return (real)ldexp(bits & 1 ? -1 : 1, (int)(bits >> 1 & 15));
}

/* A row is known by its first element and the step from each element to the next one. */
struct pattern {
    uint64_t bits, step;
};

static struct pattern pattern_of(int source, int64_t item)
{
    const uint64_t bits = moire_random_bits(3, (uint64_t)source, (uint64_t)item);
    return (struct pattern) { bits, bits >> 32 | 1 };
}

static real element_of(const struct pattern *pattern, int64_t element)
{
    return value_of((pattern->bits + (uint64_t)element * pattern->step) >> 7 & 31);
}

/* Of the number of a slot. */
static real number_of(int source, int64_t slot)
{
    return value_of(moire_random_bits(4, (uint64_t)source, (uint64_t)slot));
}

static void fill(struct moire_bench_lane *lane)
{
    const struct moire_routing *routing = &lane->what->routing;
    const int64_t width = lane->what->width;
    const int own = lane->what->run->mesh.expert.rank;
    real *rows = lane->rows.data, *numbers = lane->numbers.data;
    for (int64_t token = 0; token < routing->tokens; token++) {
        const struct pattern pattern = pattern_of(own, token);
        for (int64_t i = 0; i < width; i++) rows[token * width + i] = element_of(&pattern, i);
    }
    for (int64_t slot = 0; slot < routing->slots; slot++) numbers[slot] = number_of(own, slot);
}

/* ---- the check ---- */

static moire_status wrong_row(const struct moire_bench_lane *lane, const char *what, int64_t row,
                              int64_t element, double found, double expected, int source, int64_t token)
{
    return moire_fail(
        MOIRE_FAILED,
        "%s moved a wrong %s to rank %d; found %.9g in row %lld, element %lld, expected %.9g, of "
        "token %lld of rank %d of the expert group; try another of bench.backends",
        moire_exchange_backend(lane->exchange), what, lane->what->run->mesh.world.rank, found, (long long)row,
        (long long)element, expected, (long long)token, source);
}

static moire_status check_row(const struct moire_bench_lane *lane, int64_t row, int source, int64_t slot)
{
    const int64_t width = lane->what->width, token = slot / lane->what->top_k;
    const struct pattern pattern = pattern_of(source, token);
    const real *found = (const real *)lane->received.data + row * width;
    const real *number = (const real *)lane->received_numbers.data + row;
    for (int64_t i = 0; i < width; i++) {
        const real expected = element_of(&pattern, i);
        if (found[i] != expected) return wrong_row(lane, "row", row, i, found[i], expected, source, token);
    }
    if (lane->what->run->config->bench_numbers && *number != number_of(source, slot))
        return wrong_row(lane, "number", row, 0, *number, number_of(source, slot), source, token);
    return MOIRE_OK;
}

/* Rows of one source: within each instance they follow those of nearer sources, by token and slot. `next` is
 * the next row of each local instance. */
static moire_status check_source(const struct moire_bench_lane *lane, int source, int64_t *next)
{
    const struct moire_bench_case *what = lane->what;
    const int own = what->run->mesh.expert.rank;
    const int64_t first = what->placement->rank_begin[own], end = what->placement->rank_begin[own + 1];
    const int64_t slots = moire_bench_case_tokens(what, source) * what->top_k;
    MOIRE_TRY(moire_bench_case_choose(what, source, what->choices));
    for (int64_t slot = 0; slot < slots; slot++) {
        const int64_t instance = what->choices[slot];
        if (instance < first || instance >= end) continue;
        if (next[instance - first] >= lane->plan->instance_begin[instance - first + 1])
            return moire_fail(
                MOIRE_FAILED,
                "%s has fewer rows of instance %lld on rank %d than were sent; found "
                "%lld, expected more; try another of bench.backends",
                moire_exchange_backend(lane->exchange), (long long)instance, what->run->mesh.world.rank,
                (long long)(next[instance - first] - lane->plan->instance_begin[instance - first]));
        MOIRE_TRY(check_row(lane, next[instance - first]++, source, slot));
    }
    return MOIRE_OK;
}

/* Near to far: this rank, its node, the others. */
static moire_status check_sources(const struct moire_bench_lane *lane, int64_t *next)
{
    const struct moire_mesh *mesh = &lane->what->run->mesh;
    const int own = mesh->expert.rank;
    MOIRE_TRY(check_source(lane, own, next));
    for (int near = 1; near >= 0; near--)
        for (int source = 0; source < mesh->expert.size; source++)
            if (source != own && (mesh->expert_node_of[source] == mesh->expert_node_of[own]) == near)
                MOIRE_TRY(check_source(lane, source, next));
    for (int64_t i = 0; i < lane->plan->local_instances; i++)
        if (next[i] != lane->plan->instance_begin[i + 1])
            return moire_fail(
                MOIRE_FAILED,
                "%s has more rows on rank %d than were sent; found %lld before the end of local "
                "instance %lld, expected %lld; try another of bench.backends",
                moire_exchange_backend(lane->exchange), mesh->world.rank,
                (long long)lane->plan->instance_begin[i + 1], (long long)i, (long long)next[i]);
    return MOIRE_OK;
}

static moire_status check_received(const struct moire_bench_lane *lane)
{
    const int64_t instances = lane->plan->local_instances;
    int64_t *next = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, instances, sizeof *next, &next));
    memcpy(next, lane->plan->instance_begin, (size_t)instances * sizeof *next);
    moire_status status = check_sources(lane, next);
    moire_release(next);
    return status;
}

/* Each copy comes back as it went. */
static moire_status check_sums(const struct moire_bench_lane *lane)
{
    const struct moire_bench_case *what = lane->what;
    const struct moire_routing *routing = &what->routing;
    const int own = what->run->mesh.expert.rank;
    const real *sums = lane->sums.data, *numbers = lane->number_sums.data;
    for (int64_t token = 0; token < routing->tokens; token++) {
        const int64_t slot = routing->slot_begin[token], end = routing->slot_begin[token + 1];
        const real copies = (real)(routing->target_begin[end] - routing->target_begin[slot]);
        const struct pattern pattern = pattern_of(own, token);
        for (int64_t i = 0; i < what->width; i++) {
            const real found = sums[token * what->width + i], expected = copies * element_of(&pattern, i);
            if (found != expected) return wrong_row(lane, "sum", token, i, found, expected, own, token);
        }
    }
    for (int64_t slot = 0; what->run->config->bench_numbers && slot < routing->slots; slot++) {
        const bool sent = routing->target_begin[slot + 1] > routing->target_begin[slot];
        const real expected = sent ? number_of(own, slot) : 0;
        if (numbers[slot] != expected)
            return wrong_row(lane, "sum of numbers", slot, 0, numbers[slot], expected, own,
                             slot / what->top_k);
    }
    return MOIRE_OK;
}

/* One call that is counted, and whose result is looked at before the next one. */
static moire_status try_way(struct moire_bench_lane *lane, enum moire_bench_way way)
{
    const struct moire_communicator *world = &lane->what->run->mesh.world;
    struct moire_exchange_bytes before, *after = &lane->bytes[way];
    moire_exchange_bytes(lane->exchange, &before);
    MOIRE_TRY(moire_bench_lane_run(lane, way));
    moire_exchange_bytes(lane->exchange, after);
    for (int level = 0; level < MOIRE_LEVELS; level++) {
        after->rows[level] -= before.rows[level];
        after->numbers[level] -= before.numbers[level];
        after->index[level] -= before.index[level];
    }
    MOIRE_TRY(moire_sum_integers(world, after->rows, MOIRE_LEVELS));
    MOIRE_TRY(moire_sum_integers(world, after->numbers, MOIRE_LEVELS));
    MOIRE_TRY(moire_sum_integers(world, after->index, MOIRE_LEVELS));
    moire_status status = MOIRE_OK;
    if (way == MOIRE_BENCH_DISPATCH) status = check_received(lane);
    if (way == MOIRE_BENCH_COMBINE) status = check_sums(lane);
    return moire_agree(world, status);
}

/* ---- set-up ---- */

moire_status moire_bench_exchange_create(const struct moire_bench_case *what, const char *backend,
                                         struct moire_exchange **exchange)
{
    const struct moire_config *config = what->run->config;
    const struct moire_mesh *mesh = &what->run->mesh;
    const struct moire_exchange_settings settings = {
        .backend = backend,
        .round_bytes = config->exchange_round_bytes,
        .contexts = 1,
        .element = MOIRE_REAL_ELEMENT,
        .width = what->width,
        .wire = config->exchange_wire ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32,
        .chunks = moire_bench_chunks(config),
        .peers_in_flight = config->exchange_peers_in_flight > 0 ? (int)config->exchange_peers_in_flight : 0,
        .deduplicate = config->exchange_dedup,
        .check = config->exchange_check,
    };
    return moire_exchange_create(&settings, &mesh->expert, mesh->expert_node_of, mesh->expert_leaf_of,
                                 what->placement, exchange);
}

static moire_status create_rows(struct moire_bench_lane *lane, int64_t width, int64_t rows,
                                struct moire_rows *buffer)
{
    return moire_rows_create(lane->exchange, MOIRE_MEMORY_ACTIVATIONS, width, rows, buffer);
}

static moire_status create(struct moire_bench_lane *lane, const char *backend)
{
    const struct moire_bench_case *what = lane->what;
    struct moire_rows *grown[] = { &lane->received, &lane->received_numbers };
    MOIRE_TRY(moire_bench_exchange_create(what, backend, &lane->exchange));
    MOIRE_TRY(create_rows(lane, what->width, what->routing.tokens, &lane->rows));
    MOIRE_TRY(create_rows(lane, 1, what->routing.slots, &lane->numbers));
    MOIRE_TRY(create_rows(lane, what->width, 0, &lane->received));
    MOIRE_TRY(create_rows(lane, 1, 0, &lane->received_numbers));
    MOIRE_TRY(create_rows(lane, what->width, what->routing.tokens, &lane->sums));
    MOIRE_TRY(create_rows(lane, 1, what->routing.slots, &lane->number_sums));
    MOIRE_TRY(moire_plan_create(lane->exchange, grown, sizeof grown / sizeof *grown, &lane->plan));
    fill(lane);
    return MOIRE_OK;
}

moire_status moire_bench_lane_create(const struct moire_bench_case *what, const char *backend,
                                     struct moire_bench_lane *lane)
{
    static const enum moire_bench_way order[] = { MOIRE_BENCH_PREPARE, MOIRE_BENCH_DISPATCH,
                                                  MOIRE_BENCH_COMBINE };
    *lane = (struct moire_bench_lane) { .what = what };
    MOIRE_TRY(moire_agree(&what->run->mesh.world, create(lane, backend)));
    for (int i = 0; i < MOIRE_BENCH_WAYS; i++) MOIRE_TRY(try_way(lane, order[i]));
    return MOIRE_OK;
}

void moire_bench_lane_free(struct moire_bench_lane *lane)
{
    if (!lane->exchange) return;
    if (lane->plan) moire_plan_free(lane->plan);
    moire_rows_free(lane->exchange, &lane->number_sums);
    moire_rows_free(lane->exchange, &lane->sums);
    moire_rows_free(lane->exchange, &lane->received_numbers);
    moire_rows_free(lane->exchange, &lane->received);
    moire_rows_free(lane->exchange, &lane->numbers);
    moire_rows_free(lane->exchange, &lane->rows);
    moire_exchange_free(lane->exchange);
    *lane = (struct moire_bench_lane) { .what = NULL };
}
