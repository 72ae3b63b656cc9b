#include "lane.h"

#include <stdlib.h>
#include <string.h>

#include "moire/base/random.h"

int64_t local_below(int64_t bound)
{
    static uint64_t draws;
    return (int64_t)moire_random_below(test_seed, 1000 + (uint64_t)test_rank, draws++, (uint64_t)bound);
}

const struct moire_backend *backend_under_test;

void for_each_backend(void (*test)(void))
{
    for (int i = 0; i < moire_backend_count; i++) {
        backend_under_test = moire_backends[i];
        test();
    }
}

struct setup float_setup(enum nodes nodes, enum places places)
{
    struct setup setup = { .backend = backend_under_test,
                           .element = MOIRE_FLOAT32,
                           .width = 6,
                           .round_bytes = 1 << 30,
                           .contexts = 1 };
    setup_nodes(&setup, nodes);
    setup_places(&setup, places);
    return setup;
}

void setup_nodes(struct setup *setup, enum nodes nodes)
{
    for (int r = 0; r < MOST_RANKS; r++)
        setup->node_of[r] = nodes == ONE_NODE     ? 0
                            : nodes == NODE_EACH  ? r
                            : nodes == TWO_A_NODE ? r / 2
                            : nodes == TWO_LEAVES ? 9 - r % 4
                                                  : r % 3 == 1;
    for (int r = 0; r < MOST_RANKS; r++) setup->leaf_of[r] = nodes == TWO_LEAVES ? 7 - r % 2 : 0;
}

/* Three experts; each rank has every other one. */
static void place_replicas(struct setup *setup)
{
    int64_t experts[2 * MOST_RANKS + 3], count = 0;
    int ranks[2 * MOST_RANKS + 3];
    for (int r = 0; r < test_ranks; r++)
        for (int e = 0; e < 3; e++)
            if ((r + e) % 2 == 0) {
                experts[count] = e;
                ranks[count++] = r;
            }
    expect_ok(moire_placement_create(3, test_ranks, count, experts, ranks, &setup->placement));
}

void setup_places(struct setup *setup, enum places places)
{
    const int64_t experts[4] = { 2, 0, 3, 1 };
    const int last[4] = { test_ranks - 1, test_ranks - 1, test_ranks - 1, test_ranks - 1 };
    switch (places) {
    case EVEN:
        expect_ok(moire_placement_even(2 * test_ranks + 1, test_ranks, &setup->placement));
        break;
    case FEWER_THAN_RANKS:
        expect_ok(moire_placement_even(test_ranks > 3 ? test_ranks - 2 : 1, test_ranks, &setup->placement));
        break;
    case REPLICAS:
        place_replicas(setup);
        break;
    default:
        expect_ok(moire_placement_create(4, test_ranks, 4, experts, last, &setup->placement));
    }
}

void setup_random_places(struct setup *setup, int64_t experts, int64_t instances)
{
    int64_t expert[64];
    int rank[64], count[MOST_RANKS] = { 0 };
    for (int64_t i = 0; i < instances; i++) {
        expert[i] = test_random_below(experts);
        count[test_random_below(test_ranks)]++;
    }
    for (int64_t i = 0, r = 0, used = 0; i < instances; i++) {
        while (used == count[r]) r++, used = 0;
        rank[i] = (int)r;
        used++;
    }
    expect_ok(moire_placement_create(experts, test_ranks, instances, expert, rank, &setup->placement));
}

int64_t setup_round_bytes(const struct setup *setup, int64_t rows)
{
    const int64_t element = (int64_t)moire_element_bytes(setup->element);
    return rows * (setup->width * (setup->wire == MOIRE_WIRE_BF16 ? 2 : element) + element);
}

static moire_status create(struct setup *setup, const char *backend)
{
    const struct moire_exchange_settings settings = { .backend = backend,
                                                      .round_bytes = setup->round_bytes,
                                                      .contexts = setup->contexts,
                                                      .element = setup->element,
                                                      .width = setup->width,
                                                      .wire = setup->wire,
                                                      .chunks = setup->chunks,
                                                      .peers_in_flight = setup->peers_in_flight,
                                                      .deduplicate = setup->deduplicate,
                                                      .check = setup->check };
    return moire_exchange_create(&settings, &setup->world, setup->node_of, setup->leaf_of, &setup->placement,
                                 &setup->exchange);
}

/* Once for each reason. */
static void note_skipped(const char *name, const char *why)
{
    static char last[200];
    char line[200];
    snprintf(line, sizeof line, "%s: %s", name, why);
    if (strcmp(line, last) == 0) return;
    strcpy(last, line);
    printf("# skipped %s\n", line);
}

/* Pretended nodes may be smaller than those of the machine but not span them: where ranks are on several,
 * each part of a pretended node is a node. The order of nodes stays. */
static void split_nodes(struct setup *setup)
{
    struct moire_communicator node;
    int lowest = test_rank, of_rank[MOST_RANKS];
    expect_ok(moire_communicator_split_node(&setup->world, "node", &node));
    MPI_Bcast(&lowest, 1, MPI_INT, 0, node.mpi);
    MPI_Allgather(&lowest, 1, MPI_INT, of_rank, 1, MPI_INT, MPI_COMM_WORLD);
    moire_communicator_free(&node);
    for (int r = 0; r < test_ranks; r++)
        if (of_rank[test_ranks - 1] > 0) setup->node_of[r] = setup->node_of[r] * MOST_RANKS + of_rank[r];
}

/* Whether it is applicable is asked of an exchange of the same shape with the reference, which always is. */
bool setup_create(struct setup *setup)
{
    char why[160] = "";
    expect_ok(moire_communicator_world(&setup->world));
    split_nodes(setup);
    expect_ok(create(setup, "alltoallv"));
    if (setup->backend == &moire_backend_alltoallv) return true;
    bool applicable = setup->backend->applicable(setup->exchange, why, sizeof why);
    moire_exchange_free(setup->exchange);
    setup->exchange = NULL;
    if (applicable) {
        expect_ok(create(setup, setup->backend->name));
        return true;
    }
    note_skipped(setup->backend->name, why);
    setup_free(setup);
    return false;
}

void setup_free(struct setup *setup)
{
    moire_exchange_free(setup->exchange);
    setup->exchange = NULL;
    moire_placement_free(&setup->placement);
    moire_communicator_free(&setup->world);
}

/* The bits of one draw make size, sign and fraction. */
static double random_value(uint64_t *draws)
{
    uint64_t bits = moire_random_bits(test_seed, 2000 + (uint64_t)test_rank, (*draws)++);
    if (bits % 8 == 0) return -0.0;
    double size = (double)(1 << (bits >> 4) % 24) / 4096;
    double value = (double)(bits >> 16) / (double)(UINT64_C(1) << 48) * size;
    return bits & 8 ? -value : value;
}

void fill_random(struct moire_rows *buffer, int64_t rows)
{
    static uint64_t draws;
    for (int64_t i = 0; i < rows * buffer->width; i++)
        if (buffer->element == MOIRE_FLOAT64)
            ((double *)buffer->data)[i] = random_value(&draws);
        else
            ((float *)buffer->data)[i] = (float)random_value(&draws);
}

static int64_t buffer_bytes(const struct moire_rows *buffer, int64_t rows)
{
    return rows * buffer->width * (int64_t)moire_element_bytes(buffer->element);
}

static void poison(struct moire_rows *buffer, int64_t rows)
{
    memset(buffer->data, 0xA5, (size_t)buffer_bytes(buffer, rows));
}

static void compare(const struct moire_rows *buffer, void *expected, int64_t rows, const char *what)
{
    const bool same = memcmp(buffer->data, expected, (size_t)buffer_bytes(buffer, rows)) == 0;
    test_expect(same, what, __FILE__, __LINE__);
    free(expected);
}

void lane_create(struct lane *lane, struct setup *setup)
{
    struct moire_exchange *exchange = setup->exchange;
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    memset(lane, 0, sizeof *lane);
    lane->setup = setup;
    route_clear(&lane->route);
    expect_ok(moire_rows_create(exchange, kind, setup->width, MOST_TOKENS, &lane->rows));
    expect_ok(moire_rows_create(exchange, kind, 1, MOST_SLOTS, &lane->numbers));
    expect_ok(moire_rows_create(exchange, kind, setup->width, MOST_TOKENS, &lane->sums));
    expect_ok(moire_rows_create(exchange, kind, 1, MOST_SLOTS, &lane->number_sums));
    expect_ok(moire_rows_create(exchange, kind, setup->width, 0, &lane->received));
    expect_ok(moire_rows_create(exchange, kind, 1, 0, &lane->received_numbers));
    expect_ok(moire_rows_create(exchange, kind, setup->width, 0, &lane->outputs));
    expect_ok(moire_rows_create(exchange, kind, 1, 0, &lane->output_numbers));
    struct moire_rows *buffers[] = { &lane->received, &lane->received_numbers, &lane->outputs,
                                     &lane->output_numbers };
    expect_ok(moire_plan_create(exchange, buffers, 4, &lane->plan));
}

void lane_free(struct lane *lane)
{
    struct moire_exchange *exchange = lane->setup->exchange;
    twin_free(&lane->twin);
    moire_exchange_release(lane->plan);
    moire_plan_free(lane->plan);
    moire_rows_free(exchange, &lane->rows);
    moire_rows_free(exchange, &lane->numbers);
    moire_rows_free(exchange, &lane->sums);
    moire_rows_free(exchange, &lane->number_sums);
    moire_rows_free(exchange, &lane->received);
    moire_rows_free(exchange, &lane->received_numbers);
    moire_rows_free(exchange, &lane->outputs);
    moire_rows_free(exchange, &lane->output_numbers);
}

/* Segments cover the received rows in order, none is empty, none crosses an instance. */
static void check_segments(const struct moire_plan *plan)
{
    int64_t row = 0;
    for (int64_t s = 0; s < plan->segment_count; s++) {
        const struct moire_segment *segment = &plan->segments[s];
        expect(segment->rows > 0 && segment->first_row == row);
        expect(segment->instance >= 0 && segment->instance < plan->local_instances);
        expect(plan->instance_begin[segment->instance] <= row);
        row += segment->rows;
        expect(row <= plan->instance_begin[segment->instance + 1]);
    }
    expect(row == plan->received_rows);
}

/* Chunks are runs of segments; instance i of n is in chunk floor(i C / n). */
static void check_chunks(const struct lane *lane)
{
    const struct moire_plan *plan = lane->plan;
    const int chunks = lane->setup->chunks > 0 ? lane->setup->chunks : 1;
    expect(plan->chunk_segment[0] == 0 && plan->chunk_segment[chunks] == plan->segment_count);
    for (int chunk = 0; chunk < chunks; chunk++)
        for (int64_t s = plan->chunk_segment[chunk]; s < plan->chunk_segment[chunk + 1]; s++)
            expect(plan->segments[s].instance * chunks / plan->local_instances == chunk);
}

static void check_plan(const struct lane *lane)
{
    const struct moire_plan *plan = lane->plan;
    const struct moire_placement *placement = &lane->setup->placement;
    int64_t maximum = 0, first = placement->rank_begin[test_rank], sent = 0, copies = 0;
    expect(plan->prepared);
    expect(plan->local_instances == moire_placement_local(placement, test_rank));
    expect(plan->instance_begin[0] == 0);
    for (int64_t i = 0; i < plan->local_instances; i++) {
        int64_t rows = 0;
        for (int64_t c = 0; c < lane->twin.count; c++) rows += lane->twin.copies[c].instance == first + i;
        expect(plan->instance_begin[i + 1] - plan->instance_begin[i] == rows);
    }
    for (int r = 0; r < test_ranks; r++)
        if (lane->twin.received[r] > maximum) maximum = lane->twin.received[r];
    for (int64_t c = 0; c < lane->twin.count; c++) copies += lane->twin.copies[c].source == test_rank;
    for (int level = 0; level < MOIRE_LEVELS; level++) sent += plan->rows_out[level];
    expect(plan->received_rows == lane->twin.received[test_rank]);
    expect(plan->received_rows_maximum == maximum);
    expect(plan->copies == copies && sent <= copies && (sent > 0) == (copies > 0));
    check_segments(plan);
    check_chunks(lane);
}

void lane_prepare(struct lane *lane)
{
    twin_free(&lane->twin);
    const struct setup *setup = lane->setup;
    const struct twin_map map = { setup->node_of, setup->leaf_of, setup->wire == MOIRE_WIRE_BF16 };
    twin_create(&lane->twin, &lane->route.routing, &setup->placement, &map);
    expect_ok(moire_exchange_prepare(lane->plan, &lane->route.routing, MOIRE_OK));
    expect(lane->received.capacity_rows >= lane->plan->received_rows);
    expect(lane->output_numbers.capacity_rows >= lane->plan->received_rows);
    check_plan(lane);
}

void lane_dispatch(struct lane *lane, bool with_numbers)
{
    const bool n = lane->numbers_out = with_numbers;
    fill_random(&lane->rows, lane->route.routing.tokens);
    fill_random(&lane->numbers, lane->route.routing.slots);
    poison(&lane->received, lane->plan->received_rows);
    poison(&lane->received_numbers, lane->plan->received_rows);
    int64_t allocations = moire_memory_allocations();
    expect_ok(moire_dispatch_begin(lane->plan, &lane->rows, n ? &lane->numbers : NULL, &lane->received,
                                   n ? &lane->received_numbers : NULL, &lane->dispatching));
    expect(moire_memory_allocations() == allocations);
}

void lane_end(struct moire_transfer *transfer)
{
    int64_t allocations = moire_memory_allocations();
    expect_ok(moire_transfer_end(transfer));
    expect(moire_memory_allocations() == allocations);
}

void lane_dispatch_compare(struct lane *lane)
{
    const int64_t rows = lane->twin.received[test_rank];
    compare(&lane->received, twin_dispatch_rows(&lane->twin, &lane->rows, lane->route.routing.tokens), rows,
            "received rows");
    void *numbers = twin_dispatch_numbers(&lane->twin, &lane->numbers, lane->route.routing.slots);
    if (lane->numbers_out)
        compare(&lane->received_numbers, numbers, rows, "received numbers");
    else
        free(numbers);
}

void lane_combine(struct lane *lane, bool with_numbers)
{
    const bool n = lane->numbers_back = with_numbers;
    fill_random(&lane->outputs, lane->plan->received_rows);
    fill_random(&lane->output_numbers, lane->plan->received_rows);
    poison(&lane->sums, lane->route.routing.tokens);
    poison(&lane->number_sums, lane->route.routing.slots);
    int64_t allocations = moire_memory_allocations();
    expect_ok(moire_combine_begin(lane->plan, &lane->outputs, n ? &lane->output_numbers : NULL, &lane->sums,
                                  n ? &lane->number_sums : NULL, &lane->combining));
    expect(moire_memory_allocations() == allocations);
}

void lane_combine_compare(struct lane *lane)
{
    const int64_t tokens = lane->route.routing.tokens, slots = lane->route.routing.slots;
    compare(&lane->sums, twin_combine_rows(&lane->twin, &lane->outputs, tokens), tokens, "summed rows");
    void *numbers = twin_combine_numbers(&lane->twin, &lane->output_numbers, slots);
    if (lane->numbers_back)
        compare(&lane->number_sums, numbers, slots, "summed numbers");
    else
        free(numbers);
}

/* The rows of a chunk. */
static int64_t chunk_rows(const struct lane *lane, int chunk, int64_t *first)
{
    const struct moire_plan *plan = lane->plan;
    const int64_t begin = plan->chunk_segment[chunk], end = plan->chunk_segment[chunk + 1];
    *first = begin < end ? plan->segments[begin].first_row : 0;
    return begin < end ? plan->segments[end - 1].first_row + plan->segments[end - 1].rows - *first : 0;
}

static char *row_at(const struct moire_rows *buffer, int64_t row)
{
    return (char *)buffer->data + buffer_bytes(buffer, row);
}

/* Chunks are asked for in order, now and then one is left out; those before it must be there too. */
void lane_dispatch_chunks(struct lane *lane, bool with_numbers)
{
    lane_dispatch(lane, with_numbers);
    char *expected = twin_dispatch_rows(&lane->twin, &lane->rows, lane->route.routing.tokens);
    for (int chunk = 0; chunk < lane->setup->chunks; chunk++) {
        int64_t first, rows = chunk_rows(lane, chunk, &first);
        if (chunk % 3 == 1) continue;
        expect_ok(moire_transfer_chunk(lane->dispatching, chunk));
        expect(memcmp(row_at(&lane->received, first), expected + buffer_bytes(&lane->received, first),
                      (size_t)buffer_bytes(&lane->received, rows)) == 0);
    }
    free(expected);
    lane_end(lane->dispatching);
    lane_dispatch_compare(lane);
}

static void *duplicate(const struct moire_rows *buffer, int64_t rows)
{
    const size_t bytes = (size_t)buffer_bytes(buffer, rows);
    void *copy = malloc(bytes + 1);
    if (copy) memcpy(copy, buffer->data, bytes);
    return copy;
}

static void restore(const struct moire_rows *buffer, const char *from, int64_t first, int64_t rows)
{
    memcpy(row_at(buffer, first), from + buffer_bytes(buffer, first), (size_t)buffer_bytes(buffer, rows));
}

void lane_combine_chunks(struct lane *lane, bool with_numbers)
{
    const bool n = lane->numbers_back = with_numbers;
    const int64_t received = lane->plan->received_rows;
    fill_random(&lane->outputs, received);
    fill_random(&lane->output_numbers, received);
    char *rows = duplicate(&lane->outputs, received), *numbers = duplicate(&lane->output_numbers, received);
    poison(&lane->outputs, received);
    poison(&lane->output_numbers, received);
    poison(&lane->sums, lane->route.routing.tokens);
    poison(&lane->number_sums, lane->route.routing.slots);
    expect_ok(moire_combine_open(lane->plan, &lane->outputs, n ? &lane->output_numbers : NULL, &lane->sums,
                                 n ? &lane->number_sums : NULL, &lane->combining));
    for (int chunk = 0; chunk < lane->setup->chunks; chunk++) {
        int64_t first, count = chunk_rows(lane, chunk, &first);
        expect_ok(moire_exchange_progress(lane->setup->exchange));
        restore(&lane->outputs, rows, first, count);
        restore(&lane->output_numbers, numbers, first, count);
        if (chunk % 3 != 1) expect_ok(moire_transfer_chunk(lane->combining, chunk));
    }
    lane_end(lane->combining);
    lane_combine_compare(lane);
    free(rows);
    free(numbers);
}

void lane_dispatch_blocking(struct lane *lane, bool with_numbers)
{
    const bool n = lane->numbers_out = with_numbers;
    fill_random(&lane->rows, lane->route.routing.tokens);
    fill_random(&lane->numbers, lane->route.routing.slots);
    poison(&lane->received, lane->plan->received_rows);
    poison(&lane->received_numbers, lane->plan->received_rows);
    expect_ok(moire_dispatch(lane->plan, &lane->rows, n ? &lane->numbers : NULL, &lane->received,
                             n ? &lane->received_numbers : NULL));
    lane_dispatch_compare(lane);
}

void lane_combine_blocking(struct lane *lane, bool with_numbers)
{
    const bool n = lane->numbers_back = with_numbers;
    fill_random(&lane->outputs, lane->plan->received_rows);
    fill_random(&lane->output_numbers, lane->plan->received_rows);
    poison(&lane->sums, lane->route.routing.tokens);
    poison(&lane->number_sums, lane->route.routing.slots);
    expect_ok(moire_combine(lane->plan, &lane->outputs, n ? &lane->output_numbers : NULL, &lane->sums,
                            n ? &lane->number_sums : NULL));
    lane_combine_compare(lane);
}

void lane_check(struct lane *lane)
{
    for (int numbers = 1; numbers >= 0; numbers--) {
        lane_dispatch(lane, numbers);
        lane_end(lane->dispatching);
        lane_dispatch_compare(lane);
        lane_combine(lane, numbers);
        lane_end(lane->combining);
        lane_combine_compare(lane);
        lane_dispatch_blocking(lane, numbers);
        lane_combine_blocking(lane, numbers);
        if (lane->setup->chunks < 2) continue;
        lane_dispatch_chunks(lane, numbers);
        lane_combine_chunks(lane, numbers);
    }
}
