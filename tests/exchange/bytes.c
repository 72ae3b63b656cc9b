/* Bytes by level against what a routing says they must be: a copy of a token to each far node that has some
 * of its experts, or a copy a slot; numbers by slot; both directions; half of it in bf16. And what one copy a
 * node saves of random routing against its formula. */
#include <math.h>
#include <string.h>

#include "lane.h"
#include "moire/moe/traffic.h"

enum { TOKENS = 512, MOST_TOP_K = 8, EXPERTS = 256, WIDTH = 4, SIGMAS = 5 };

/* What a dispatch sends from this rank. */
struct counts {
    int64_t rows[MOST_RANKS], copies[MOST_RANKS]; /* to each rank; copies: numbers */
    /* over the tokens: far nodes and far copies of each, to tell the error of their ratio by */
    double pairs, slots, squared_pairs, squared_slots, product;
};

static int64_t slot_begin[TOKENS + 1], targets[TOKENS * MOST_TOP_K];

/* Uniform choices: `top_k` distinct ones of all experts, for tokens of this rank alone. */
static struct moire_routing random_routing(int64_t top_k)
{
    static int32_t ids[TOKENS * MOST_TOP_K];
    struct moire_traffic traffic;
    const struct moire_traffic_setting setting = {
        .kind = "uniform", .experts = EXPERTS, .top_k = top_k, .seed = test_seed, .layers = 1
    };
    const struct moire_traffic_batch batch = { .first_token = test_rank * TOKENS, .tokens = TOKENS };
    expect_ok(moire_traffic_create(&setting, &traffic));
    expect_ok(moire_traffic_generate(&traffic, &batch, ids));
    moire_traffic_free(&traffic);
    for (int64_t t = 0; t <= TOKENS; t++) slot_begin[t] = t * top_k;
    for (int64_t n = 0; n < TOKENS * top_k; n++) targets[n] = ids[n];
    return (struct moire_routing) {
        .tokens = TOKENS, .slots = TOKENS * top_k, .slot_begin = slot_begin, .targets = targets
    };
}

static int level_of(const struct setup *setup, int rank)
{
    return rank == test_rank                                   ? MOIRE_LEVEL_SELF
           : setup->node_of[rank] == setup->node_of[test_rank] ? MOIRE_LEVEL_NODE
           : setup->leaf_of[rank] == setup->leaf_of[test_rank] ? MOIRE_LEVEL_FAR
                                                               : MOIRE_LEVEL_SPINE;
}

static bool is_far(int level)
{
    return level == MOIRE_LEVEL_FAR || level == MOIRE_LEVEL_SPINE;
}

/* On the node of `rank`, the rank with the place that this one has in its node, modulo the size there. The
 * ranks of a node follow each other. */
static int relay_of(const struct setup *setup, int rank)
{
    int place = 0, first = test_ranks, size = 0;
    for (int r = test_ranks - 1; r >= 0; r--) {
        if (setup->node_of[r] == setup->node_of[test_rank]) place += r < test_rank;
        if (setup->node_of[r] != setup->node_of[rank]) continue;
        first = r;
        size++;
    }
    return first + place % size;
}

static void count_token(const struct setup *setup, const struct moire_routing *routing, int64_t token,
                        struct counts *counts)
{
    const bool relays = setup->backend == &moire_backend_hierarchical;
    bool seen[MOST_RANKS] = { false };
    int pairs = 0, slots = 0;
    for (int64_t n = routing->slot_begin[token]; n < routing->slot_begin[token + 1]; n++) {
        const int rank = setup->placement.instance_rank[routing->targets[n]];
        const bool far = is_far(level_of(setup, rank)), again = far && seen[setup->node_of[rank]];
        const int to = relays && far ? relay_of(setup, rank) : rank;
        counts->copies[to]++;
        counts->rows[to] += !(relays && setup->deduplicate && again);
        pairs += far && !again;
        slots += far;
        seen[setup->node_of[rank]] = true;
    }
    counts->pairs += pairs;
    counts->slots += slots;
    counts->squared_pairs += pairs * pairs;
    counts->squared_slots += slots * slots;
    counts->product += pairs * slots;
}

static struct counts count_routing(const struct setup *setup, const struct moire_routing *routing)
{
    struct counts counts = { 0 };
    for (int64_t t = 0; t < routing->tokens; t++) count_token(setup, routing, t, &counts);
    return counts;
}

static void sum_over_ranks(int64_t *values)
{
    MPI_Allreduce(MPI_IN_PLACE, values, MOIRE_LEVELS, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
}

/* What this rank has sent, by level. */
struct moved {
    struct moire_exchange_bytes out, back; /* one dispatch, one combine */
    int64_t prepare[MOIRE_LEVELS];
};

static struct moire_exchange_bytes difference(const struct moire_exchange_bytes *after,
                                              const struct moire_exchange_bytes *before)
{
    struct moire_exchange_bytes bytes = *after;
    for (int level = 0; level < MOIRE_LEVELS; level++) {
        bytes.rows[level] -= before->rows[level];
        bytes.numbers[level] -= before->numbers[level];
        bytes.index[level] -= before->index[level];
    }
    return bytes;
}

static struct moved move_rows(struct moire_exchange *exchange, struct moire_plan *plan,
                              struct moire_rows buffers[4])
{
    struct moire_exchange_bytes prepared, out, back;
    struct moire_transfer *transfer = NULL;
    struct moved moved;
    moire_exchange_bytes(exchange, &prepared);
    expect_ok(moire_dispatch_begin(plan, &buffers[0], &buffers[1], &buffers[2], &buffers[3], &transfer));
    expect_ok(moire_transfer_end(transfer));
    moire_exchange_bytes(exchange, &out);
    expect_ok(moire_combine_begin(plan, &buffers[2], &buffers[3], &buffers[0], &buffers[1], &transfer));
    expect_ok(moire_transfer_end(transfer));
    moire_exchange_bytes(exchange, &back);
    moved = (struct moved) { .out = difference(&out, &prepared), .back = difference(&back, &out) };
    memcpy(moved.prepare, prepared.index, sizeof moved.prepare);
    return moved;
}

/* Prepare, dispatch and combine of a new exchange. */
static struct moved move(const struct setup *setup, const struct moire_routing *routing)
{
    struct moire_exchange *exchange = setup->exchange;
    struct moire_rows buffers[4], *grown[] = { &buffers[2], &buffers[3] };
    struct moire_plan *plan = NULL;
    const int64_t rows[] = { TOKENS, TOKENS * MOST_TOP_K, 0, 0 };
    for (int i = 0; i < 4; i++)
        expect_ok(moire_rows_create(exchange, MOIRE_MEMORY_OTHER, i % 2 ? 1 : WIDTH, rows[i], &buffers[i]));
    expect_ok(moire_plan_create(exchange, grown, 2, &plan));
    fill_random(&buffers[0], TOKENS);
    fill_random(&buffers[1], TOKENS * MOST_TOP_K);
    expect_ok(moire_exchange_prepare(plan, routing, MOIRE_OK));
    struct moved moved = move_rows(exchange, plan, buffers);
    moire_plan_free(plan);
    for (int i = 0; i < 4; i++) moire_rows_free(exchange, &buffers[i]);
    return moved;
}

/* Ranks in `groups` nodes of as many each, two nodes under a leaf. */
static struct setup grouped(int groups, enum moire_wire wire, bool deduplicate)
{
    struct setup setup = { .backend = backend_under_test,
                           .element = MOIRE_FLOAT32,
                           .width = WIDTH,
                           .round_bytes = 1 << 30,
                           .contexts = 1,
                           .wire = wire,
                           .deduplicate = deduplicate };
    for (int r = 0; r < test_ranks; r++) {
        setup.node_of[r] = r * groups / test_ranks;
        setup.leaf_of[r] = setup.node_of[r] / 2;
    }
    expect_ok(moire_placement_even(EXPERTS, test_ranks, &setup.placement));
    return setup;
}

/* Between nodes, by level: rows and numbers that go to, or (back) return to, each rank. */
static void check_level(const struct setup *setup, const struct moire_exchange_bytes *bytes,
                        const int64_t *rows, const int64_t *numbers)
{
    int64_t row_bytes[MOIRE_LEVELS] = { 0 }, number_bytes[MOIRE_LEVELS] = { 0 };
    for (int rank = 0; rank < test_ranks; rank++) {
        const int level = level_of(setup, rank);
        row_bytes[level] +=
            rows[rank] * WIDTH * (setup->wire == MOIRE_WIRE_BF16 ? 2 : (int64_t)sizeof(float));
        number_bytes[level] += numbers[rank] * (int64_t)sizeof(float);
    }
    for (int level = MOIRE_LEVEL_FAR; level < MOIRE_LEVELS; level++)
        expect(bytes->rows[level] == row_bytes[level] && bytes->numbers[level] == number_bytes[level] &&
               bytes->index[level] == 0);
}

/* What came from a rank goes back to it. */
static void check_rows(const struct setup *setup, const struct moved *moved, const struct counts *counts)
{
    int64_t rows[MOST_RANKS], numbers[MOST_RANKS];
    check_level(setup, &moved->out, counts->rows, counts->copies);
    MPI_Alltoall(counts->rows, 1, MPI_INT64_T, rows, 1, MPI_INT64_T, MPI_COMM_WORLD);
    MPI_Alltoall(counts->copies, 1, MPI_INT64_T, numbers, 1, MPI_INT64_T, MPI_COMM_WORLD);
    check_level(setup, &moved->back, rows, numbers);
}

/* Counts of all instances to all ranks; lists: which row each far copy is. */
static void check_prepare(const struct setup *setup, const struct moved *moved, const struct counts *counts)
{
    int64_t words[MOIRE_LEVELS] = { 0 }, copies[MOIRE_LEVELS] = { 0 };
    for (int rank = 0; rank < test_ranks; rank++) {
        const int level = level_of(setup, rank);
        words[level] += 1 + setup->backend->extra_words + moire_placement_local(&setup->placement, rank);
        if (setup->backend == &moire_backend_hierarchical && is_far(level))
            copies[level] += counts->copies[rank];
    }
    for (int level = 0; level < MOIRE_LEVELS; level++)
        expect(moved->prepare[level] ==
               words[level] * (int64_t)sizeof(int64_t) + copies[level] * (int64_t)sizeof(int32_t));
}

static void check_grouped(int groups, enum moire_wire wire, bool deduplicate)
{
    struct setup setup = grouped(groups, wire, deduplicate);
    const struct moire_routing routing = random_routing(MOST_TOP_K);
    if (!setup_create(&setup)) return;
    const struct counts counts = count_routing(&setup, &routing);
    const struct moved moved = move(&setup, &routing);
    check_rows(&setup, &moved, &counts);
    check_prepare(&setup, &moved, &counts);
    setup_free(&setup);
}

static void check_bytes(void)
{
    for (int groups = 1; groups <= test_ranks; groups *= 2)
        for (int variant = 0; variant < 4; variant++)
            check_grouped(groups, variant % 2 ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32, variant / 2);
}

static void test_bytes(void)
{
    for_each_backend(check_bytes);
}

/* Bytes of rows that a dispatch of all ranks sends to other nodes. */
static int64_t far_bytes(const struct moire_backend *backend, int groups, const struct moire_routing *routing,
                         struct counts *counts)
{
    backend_under_test = backend;
    struct setup setup = grouped(groups, MOIRE_WIRE_FP32, true);
    if (!setup_create(&setup)) return 0;
    *counts = count_routing(&setup, routing);
    struct moved moved = move(&setup, routing);
    sum_over_ranks(moved.out.rows);
    setup_free(&setup);
    return moved.out.rows[MOIRE_LEVEL_FAR] + moved.out.rows[MOIRE_LEVEL_SPINE];
}

/* Standard deviation of the ratio of pairs to slots, over all tokens. */
static double deviation(const struct counts *counts)
{
    double sums[] = { counts->pairs, counts->slots, counts->squared_pairs, counts->squared_slots,
                      counts->product };
    MPI_Allreduce(MPI_IN_PLACE, sums, 5, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    const double ratio = sums[0] / sums[1];
    return sqrt(sums[2] - 2 * ratio * sums[4] + ratio * ratio * sums[3]) / sums[1];
}

/* Experts are spread evenly, so far nodes are as the own one: the share that one copy a node saves is that of
 * the formula for all nodes. */
static void check_redundancy(int groups, int64_t top_k)
{
    struct counts counts = { 0 };
    const struct moire_routing routing = random_routing(top_k);
    const double all = (double)far_bytes(&moire_backend_alltoallv, groups, &routing, &counts),
                 once = (double)far_bytes(&moire_backend_hierarchical, groups, &routing, &counts),
                 found = 1 - once / all, sigma = deviation(&counts),
                 expected = 1 - moire_traffic_expected_distinct(EXPERTS, groups, top_k) / (double)top_k;
    printf("# E %d, K %lld, %d nodes: saved %.2f %%, formula %.2f %%, sigma %.2f %%\n", EXPERTS,
           (long long)top_k, groups, 100 * found, 100 * expected, 100 * sigma);
    expect(fabs(found - expected) <= SIGMAS * sigma);
}

static void test_redundancy(void)
{
    expect_near(1 - moire_traffic_expected_distinct(EXPERTS, 4, 8) / 8, 0.548, 0.0005);
    for (int groups = 4; groups <= test_ranks; groups *= 2)
        for (int64_t top_k = 2; top_k <= MOST_TOP_K; top_k += 2) check_redundancy(groups, top_k);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "bytes by level are those of the routing", test_bytes },
        { "one copy a node saves what the formula says", test_redundancy },
    };
    return test_main(argc, argv, "3 4 8", tests, sizeof tests / sizeof *tests);
}
