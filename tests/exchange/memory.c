/* The memory of an exchange is what moire_exchange_memory says, for every back end. By hand it prints how it
 * grows with the number of ranks: mpirun -n 64 tests/exchange/memory. */
#include <stdlib.h>
#include <string.h>

#include "../support/harness.h"
#include "moire/base/memory.h"
#include "moire/base/pages.h"
#include "moire/base/random.h"
#include "moire/exchange/backend.h"

enum { TOKENS = 256, TOP_K = 4, SLOTS = TOKENS * TOP_K, INSTANCES = 64, WIDTH = 16, PLANS = 2, BUFFERS = 6 };

struct shape {
    const struct moire_backend *backend;
    int node_ranks; /* of each node; the last may have fewer */
    enum moire_wire wire;
    int chunks, contexts;
    bool deduplicate;
};

static int64_t slot_begin[TOKENS + 1], targets[SLOTS];

static struct moire_routing random_routing(void)
{
    for (int64_t t = 0; t <= TOKENS; t++) slot_begin[t] = t * TOP_K;
    for (int64_t n = 0; n < SLOTS; n++)
        targets[n] = (int64_t)moire_random_below(test_seed, 1 + (uint64_t)test_rank, (uint64_t)n, INSTANCES);
    return (struct moire_routing) {
        .tokens = TOKENS, .slots = SLOTS, .slot_begin = slot_begin, .targets = targets
    };
}

static int64_t held(void)
{
    return moire_memory_bytes(MOIRE_MEMORY_EXCHANGE);
}

/* As many plans, each with a dispatch and a combine; buffers are of another kind. */
static int64_t measure(struct moire_exchange *exchange, int64_t before, struct moire_plan_rows most[PLANS])
{
    struct moire_rows buffers[BUFFERS], *grown[] = { &buffers[2], &buffers[3], &buffers[4], &buffers[5] };
    const int64_t rows[BUFFERS] = { TOKENS, SLOTS };
    const struct moire_routing routing = random_routing();
    struct moire_plan *plans[PLANS];
    struct moire_transfer *transfer = NULL;
    for (int i = 0; i < BUFFERS; i++)
        expect_ok(moire_rows_create(exchange, MOIRE_MEMORY_OTHER, i % 2 ? 1 : WIDTH, rows[i], &buffers[i]));
    for (int i = 0; i < PLANS; i++) {
        expect_ok(moire_plan_create(exchange, grown, 4, &plans[i]));
        expect_ok(moire_exchange_prepare(plans[i], &routing, MOIRE_OK));
        expect_ok(
            moire_dispatch_begin(plans[i], &buffers[0], &buffers[1], &buffers[2], &buffers[3], &transfer));
        expect_ok(moire_transfer_end(transfer));
        expect_ok(
            moire_combine_begin(plans[i], &buffers[2], &buffers[3], &buffers[0], &buffers[1], &transfer));
        expect_ok(moire_transfer_end(transfer));
        most[i] = plans[i]->most;
    }
    const int64_t bytes = held() - before;
    for (int i = 0; i < PLANS; i++) moire_plan_free(plans[i]);
    for (int i = 0; i < BUFFERS; i++) moire_rows_free(exchange, &buffers[i]);
    return bytes;
}

static int64_t predict(const struct shape *shape, const struct moire_placement *placement,
                       const struct moire_plan_rows *most)
{
    const int first = test_rank / shape->node_ranks * shape->node_ranks, rest = test_ranks - first;
    const struct moire_exchange_sizes sizes = {
        .backend = shape->backend->name,
        .wire = shape->wire,
        .chunks = shape->chunks,
        .ranks = test_ranks,
        .nodes = (test_ranks + shape->node_ranks - 1) / shape->node_ranks,
        .ranks_in_node = rest < shape->node_ranks ? rest : shape->node_ranks,
        .buffers = BUFFERS,
        .instances = INSTANCES,
        .local_instances = moire_placement_local(placement, test_rank),
        .contexts = shape->contexts,
        .width = WIDTH,
        .element = MOIRE_FLOAT32,
        .plans = PLANS,
        .rows = most,
    };
    return moire_exchange_memory(&sizes);
}

/* Of the rank that holds the most. */
static void print(const struct shape *shape, int64_t measured, int64_t predicted)
{
    int64_t most = measured;
    MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
    int64_t of_it = measured == most ? predicted : 0;
    MPI_Allreduce(MPI_IN_PLACE, &of_it, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
    printf("# %-12s %2d ranks, %2d a node, %d contexts, %d chunks: measured %9lld bytes, predicted %9lld\n",
           shape->backend->name, test_ranks, shape->node_ranks, shape->contexts, shape->chunks,
           (long long)most, (long long)of_it);
}

static void check(const struct shape *shape)
{
    int *node_of = calloc((size_t)test_ranks, sizeof *node_of);
    struct moire_communicator world;
    struct moire_placement placement;
    struct moire_exchange *exchange = NULL;
    struct moire_plan_rows most[PLANS];
    const struct moire_exchange_settings settings = { .backend = shape->backend->name,
                                                      .round_bytes = 1 << 30,
                                                      .contexts = shape->contexts,
                                                      .element = MOIRE_FLOAT32,
                                                      .width = WIDTH,
                                                      .wire = shape->wire,
                                                      .chunks = shape->chunks,
                                                      .deduplicate = shape->deduplicate };
    for (int r = 0; r < test_ranks; r++) node_of[r] = r / shape->node_ranks;
    expect_ok(moire_communicator_world(&world));
    expect_ok(moire_placement_even(INSTANCES, test_ranks, &placement));
    const int64_t before = held();
    expect_ok(moire_exchange_create(&settings, &world, node_of, NULL, &placement, &exchange));
    const int64_t measured = measure(exchange, before, most), predicted = predict(shape, &placement, most),
                  error = measured > predicted ? measured - predicted : predicted - measured;
    expect(error * 20 <= measured);
    print(shape, measured, predicted);
    moire_exchange_free(exchange);
    moire_placement_free(&placement);
    moire_communicator_free(&world);
    free(node_of);
}

static void check_backend(const struct moire_backend *backend)
{
    const int sizes[] = { test_ranks, 4, 2, 1 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (i > 0 && sizes[i] >= test_ranks) continue;
        if (backend == &moire_backend_shared && sizes[i] < test_ranks) continue;
        const struct shape plain = { backend, sizes[i], MOIRE_WIRE_FP32, 1, 1, true },
                           other = { backend, sizes[i], MOIRE_WIRE_BF16, 4, 3, false };
        check(&plain);
        if (test_ranks <= 8) check(&other);
    }
}

static void test_memory(void)
{
    for (int i = 0; i < moire_backend_count; i++)
        if (!moire_backends[i]->missing) check_backend(moire_backends[i]);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = { { "an exchange holds what was predicted", test_memory } };
    return test_main(argc, argv, "1 3 8", tests, sizeof tests / sizeof *tests);
}
