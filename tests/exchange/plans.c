/* Very many small plans: any subset of ranks without rows or without instances, every back end, wire, number
 * of chunks and contexts. All of them are checked by values that a rank knows by itself; now and then one is
 * compared with the naive twin bit by bit. And what exchange.check finds. */
#include <string.h>

#include "../support/capture.h"
#include "exchange/private.h"
#include "lane.h"

/* Plans of a back end at one number of ranks: with four numbers of ranks and five back ends 12 800 in all. */
enum { EXCHANGES = 32, TURNS = 10, LANES = 2, COMPARED_OF = 16 };
enum { FEW_TOKENS = 12 };

static double get(const struct moire_rows *buffer, int64_t i)
{
    return buffer->element == MOIRE_FLOAT64 ? ((const double *)buffer->data)[i]
                                            : (double)((const float *)buffer->data)[i];
}

static void put(struct moire_rows *buffer, int64_t i, double value)
{
    if (buffer->element == MOIRE_FLOAT64)
        ((double *)buffer->data)[i] = value;
    else
        ((float *)buffer->data)[i] = (float)value;
}

/* Small enough that the sum of a token's copies, at most 12, is exact in bfloat16: at most 252. */
static double row_value(int64_t token, int64_t column)
{
    const int64_t value = 1 + (5 * test_rank + token) % 21;
    return (double)(column % 2 ? 22 - value : value);
}

static double number_value(int64_t slot)
{
    return (double)(1 + (11 * test_rank + slot) % 97);
}

static int64_t targets_of(const struct route *route, int64_t first_slot, int64_t end_slot)
{
    if (!route->routing.target_begin) return end_slot - first_slot;
    return route->target_begin[end_slot] - route->target_begin[first_slot];
}

static int64_t copies_of(const struct route *route, int64_t token)
{
    return targets_of(route, route->slot_begin[token], route->slot_begin[token + 1]);
}

/* A random routing, or none: `empty` has a bit for each rank. */
static void route_some(struct route *route, const struct setup *setup, int64_t empty)
{
    if (empty >> test_rank & 1)
        route_clear(route);
    else
        route_random(route, setup, FEW_TOKENS);
}

static void fill(struct lane *lane)
{
    const struct moire_routing *routing = &lane->route.routing;
    const int64_t width = lane->setup->width;
    for (int64_t i = 0; i < routing->tokens * width; i++)
        put(&lane->rows, i, row_value(i / width, i % width));
    for (int64_t n = 0; n < routing->slots; n++) put(&lane->numbers, n, number_value(n));
    for (int64_t i = 0; i < MOST_TOKENS * width; i++) put(&lane->sums, i, -1);
    for (int64_t n = 0; n < MOST_SLOTS; n++) put(&lane->number_sums, n, -1);
}

/* What has left in rows less what has arrived, of all moves so far: nothing, once all ranks are added. */
static int64_t balance;

static void weigh(const struct lane *lane, bool numbers)
{
    const struct moire_routing *routing = &lane->route.routing;
    const int64_t width = lane->setup->width;
    for (int64_t t = 0; t < routing->tokens; t++)
        balance += copies_of(&lane->route, t) * (int64_t)row_value(t, 0);
    for (int64_t i = 0; i < lane->plan->received_rows; i++)
        balance -= (int64_t)get(&lane->received, i * width);
    for (int64_t n = 0; n < routing->slots && numbers; n++)
        balance += targets_of(&lane->route, n, n + 1) * (int64_t)number_value(n);
    for (int64_t i = 0; i < lane->plan->received_rows && numbers; i++)
        balance -= (int64_t)get(&lane->received_numbers, i);
}

/* Rows come back as they went out, so a token's sum is its row times its copies. */
static void check_sums(const struct lane *lane, bool numbers)
{
    const struct moire_routing *routing = &lane->route.routing;
    const int64_t width = lane->setup->width;
    int64_t wrong = 0;
    for (int64_t i = 0; i < routing->tokens * width; i++)
        wrong += get(&lane->sums, i) !=
                 (double)copies_of(&lane->route, i / width) * row_value(i / width, i % width);
    for (int64_t n = 0; n < routing->slots && numbers; n++)
        wrong += get(&lane->number_sums, n) != (double)targets_of(&lane->route, n, n + 1) * number_value(n);
    expect(wrong == 0);
}

static void copy_received(struct lane *lane)
{
    const size_t element = moire_element_bytes(lane->setup->element),
                 rows = (size_t)lane->plan->received_rows;
    memcpy(lane->outputs.data, lane->received.data, rows * (size_t)lane->setup->width * element);
    memcpy(lane->output_numbers.data, lane->received_numbers.data, rows * element);
}

static void begin(struct lane *lane, bool combine, bool numbers)
{
    struct moire_rows *n = &lane->numbers, *received = &lane->received_numbers,
                      *outputs = &lane->output_numbers, *sums = &lane->number_sums;
    if (!numbers) n = received = outputs = sums = NULL;
    if (combine) {
        copy_received(lane);
        if (lane->setup->chunks % 2)
            expect_ok(
                moire_combine_open(lane->plan, &lane->outputs, outputs, &lane->sums, sums, &lane->combining));
        else
            expect_ok(moire_combine_begin(lane->plan, &lane->outputs, outputs, &lane->sums, sums,
                                          &lane->combining));
    } else {
        expect_ok(
            moire_dispatch_begin(lane->plan, &lane->rows, n, &lane->received, received, &lane->dispatching));
    }
}

/* Chunk by chunk, before anything is waited for: another rank may end its transfers in another order. */
static void tell_chunks(struct lane *lane)
{
    const int chunks = lane->setup->chunks;
    for (int chunk = 0; chunk < chunks; chunk++)
        if (chunk + 1 == chunks || chunk % 2 == 0) expect_ok(moire_transfer_chunk(lane->combining, chunk));
}

static void end(struct lane *lane, bool combine)
{
    struct moire_transfer *transfer = combine ? lane->combining : lane->dispatching;
    if (lane->setup->chunks > 1) expect_ok(moire_transfer_chunk(transfer, lane->setup->chunks / 2));
    expect_ok(moire_transfer_end(transfer));
}

/* One move of both plans: at once where there are contexts for it, then ended in another order on every other
 * rank. */
static void move(struct lane lanes[LANES], bool combine, bool numbers)
{
    if (lanes->setup->contexts == 1) {
        for (int i = 0; i < LANES; i++) {
            begin(&lanes[i], combine, numbers);
            end(&lanes[i], combine);
        }
        return;
    }
    for (int i = 0; i < LANES; i++) begin(&lanes[i], combine, numbers);
    for (int i = 0; i < LANES && combine; i++) tell_chunks(&lanes[i]);
    for (int i = 0; i < LANES; i++) end(&lanes[(i + test_rank) % LANES], combine);
}

/* Forward: weights out with the rows; backward: the gradients of weights back with the rows. */
static void check_moves(struct lane lanes[LANES])
{
    for (int i = 0; i < LANES; i++) fill(&lanes[i]);
    for (int backward = 0; backward < 2; backward++) {
        move(lanes, false, !backward);
        for (int i = 0; i < LANES; i++) weigh(&lanes[i], !backward);
        move(lanes, true, backward);
        for (int i = 0; i < LANES; i++) check_sums(&lanes[i], backward);
    }
}

static struct setup small_setup(void)
{
    static const int64_t widths[] = { 1, 2, 3, 5 };
    struct setup setup = { .backend = backend_under_test,
                           .element = test_random_below(4) == 0 ? MOIRE_FLOAT64 : MOIRE_FLOAT32,
                           .width = widths[test_random_below(4)],
                           .contexts = (int)(1 + test_random_below(3)),
                           .chunks = (int)test_random_below(5),
                           .peers_in_flight = (int)test_random_below(3),
                           .wire = test_random_below(2) ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32 };
    const int64_t nodes = backend_under_test == &moire_backend_shared ? 1 : 1 + test_random_below(4);
    setup.deduplicate = test_random_below(2);
    setup.check = test_random_below(2);
    setup.round_bytes = test_random_below(2) ? 1 << 30 : setup_round_bytes(&setup, 1 + test_random_below(4));
    for (int r = 0; r < MOST_RANKS; r++) setup.node_of[r] = (int)test_random_below(nodes);
    for (int r = 0; r < MOST_RANKS; r++) setup.leaf_of[r] = setup.node_of[r] / 2;
    setup_random_places(&setup, 1 + test_random_below(6), test_random_below(10));
    return setup;
}

/* Plans that were prepared. */
static int64_t turn(struct lane lanes[LANES])
{
    const bool compared = test_random_below(COMPARED_OF) == 0;
    for (int i = 0; i < LANES; i++) {
        const int64_t all = INT64_C(1) << test_ranks, empty = test_random_below(all) & test_random_below(all);
        route_some(&lanes[i].route, lanes[i].setup, test_random_below(8) == 0 ? all - 1 : empty);
        if (compared)
            lane_prepare(&lanes[i]);
        else
            expect_ok(moire_exchange_prepare(lanes[i].plan, &lanes[i].route.routing, MOIRE_OK));
        if (compared) lane_check(&lanes[i]);
    }
    check_moves(lanes);
    return LANES;
}

static int64_t check_exchange(void)
{
    struct setup setup = small_setup();
    struct lane lanes[LANES];
    int64_t plans = 0, all = 0;
    if (!setup_create(&setup)) return 0;
    for (int i = 0; i < LANES; i++) lane_create(&lanes[i], &setup);
    balance = 0;
    for (int i = 0; i < TURNS; i++) plans += turn(lanes);
    MPI_Allreduce(&balance, &all, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    expect(all == 0);
    for (int i = 0; i < LANES; i++) lane_free(&lanes[i]);
    setup_free(&setup);
    return plans;
}

static void check_plans(void)
{
    int64_t plans = 0;
    for (int i = 0; i < EXCHANGES; i++) plans += check_exchange();
    printf("# %s: %lld plans\n", backend_under_test->name, (long long)plans);
}

static void test_small_plans(void)
{
    for_each_backend(check_plans);
}

/* What a back end that counts wrong would do: the receiver `liar` expects `more` rows of `about`, or (out)
 * the sender `liar` means to send so many more to it. */
static struct {
    const struct moire_backend *true_one;
    int liar, about;
    int64_t more;
    bool out;
} lie;

static moire_status lying_prepare(struct moire_plan *plan, moire_status local)
{
    struct moire_order *order = plan->private_state;
    moire_status status = lie.true_one->prepare(plan, local);
    int64_t *begin = lie.out ? order->out_begin : order->in_begin;
    if (test_rank == lie.liar)
        for (int rank = lie.about + 1; rank <= test_ranks; rank++) begin[rank] += lie.more;
    return status;
}

/* Found on all ranks with one message that names both ranks and both counts; nothing has moved. */
static void check_lie(struct lane *lane, bool out, int64_t more)
{
    static struct capture capture;
    const struct moire_order *order = lane->plan->private_state;
    struct moire_exchange *exchange = lane->setup->exchange;
    struct moire_exchange_bytes before, after;
    char expected[200];
    lie.out = out;
    lie.more = more;
    lie.liar = out ? 0 : test_ranks - 1;
    lie.about = test_ranks - 1 - lie.liar;
    int64_t rows = order->out_begin[test_ranks] - order->out_begin[test_ranks - 1];
    MPI_Bcast(&rows, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
    snprintf(expected, sizeof expected, "rank 0 of exchange sends %lld rows to rank %d, which expects %lld;",
             (long long)(out ? rows + more : rows), test_ranks - 1, (long long)(out ? rows : rows + more));
    moire_exchange_bytes(exchange, &before);
    capture_begin(&capture, STDERR_FILENO);
    moire_status status = moire_exchange_prepare(lane->plan, &lane->route.routing, MOIRE_OK);
    const bool agreed = moire_error_is_agreed();
    moire_error_clear();
    capture_end(&capture);
    moire_exchange_bytes(exchange, &after);
    int found[2] = { count_text(capture.text, "moire: "), count_text(capture.text, expected) }, all[2];
    MPI_Allreduce(found, all, 2, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    expect(status == MOIRE_FAILED && agreed && !lane->plan->prepared);
    expect(all[0] == 1 && all[1] == 1);
    expect(memcmp(before.rows, after.rows, sizeof before.rows) == 0);
    expect_failure(
        moire_dispatch_begin(lane->plan, &lane->rows, NULL, &lane->received, NULL, &lane->dispatching),
        MOIRE_FAILED, "not prepared");
}

static void check_lies(void)
{
    struct setup setup =
        float_setup(backend_under_test == &moire_backend_shared ? ONE_NODE : TWO_A_NODE, EVEN);
    struct moire_backend lying = *backend_under_test;
    struct lane lane;
#ifndef MOIRE_DEBUG
    setup.check = true; /* --enable-debug always checks */
#endif
    if (!setup_create(&setup)) return;
    lie.true_one = backend_under_test;
    lying.prepare = lying_prepare;
    lane_create(&lane, &setup);
    route_uniform(&lane.route, &setup, 20, 2);
    lane_prepare(&lane);
    setup.exchange->backend = &lying;
    check_lie(&lane, false, 1);
    check_lie(&lane, false, -1);
    check_lie(&lane, true, 3);
    setup.exchange->backend = backend_under_test;
    lane_prepare(&lane);
    lane_check(&lane);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_lies(void)
{
    for_each_backend(check_lies);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "thousands of small plans", test_small_plans },
        { "senders and receivers that disagree are found before rows move", test_lies },
    };
    return test_main(argc, argv, "2 3 4 5", tests, sizeof tests / sizeof *tests);
}
