/* What every back end of the table must do, compared bit by bit with the naive twin. A back end that is not
 * applicable is skipped with its reason. Failures are in failures.c. */
#include "lane.h"

#include <omp.h>
#include <string.h>

#include "../support/capture.h"

/* Every element, node map and placement with every pattern; wires, chunks, de-duplication, and rounds of 1 and
 * 4 rows and none, in turn. */
static void check_patterns_of(struct setup *setup)
{
    struct lane lane;
    if (!setup_create(setup)) return;
    lane_create(&lane, setup);
    for (int p = 0; p < pattern_count; p++) {
        patterns[p].fill(&lane.route, setup);
        lane_prepare(&lane);
        lane_check(&lane);
        moire_exchange_release(lane.plan);
    }
    lane_free(&lane);
    setup_free(setup);
}

static void check_patterns(void)
{
    const int64_t round_rows[] = { 1 << 20, 1, 4 };
    int turn = 0;
    for (int element = 0; element < 2; element++)
        for (int nodes = 0; nodes < NODE_MAPS; nodes++)
            for (int places = 0; places < PLACE_MAPS; places++) {
                struct setup setup = float_setup(nodes, places);
                setup.element = element ? MOIRE_FLOAT64 : MOIRE_FLOAT32;
                setup.wire = turn / 2 % 2 ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32;
                setup.chunks = turn % 4;
                setup.deduplicate = turn / 4 % 2;
                setup.round_bytes = setup_round_bytes(&setup, round_rows[turn++ % 3]);
                check_patterns_of(&setup);
            }
}

static void test_patterns(void)
{
    for_each_backend(check_patterns);
}

static struct setup random_setup(void)
{
    const int64_t widths[] = { 1, 2, 5, 17, 300 };
    struct setup setup = { .backend = backend_under_test,
                           .element = test_random_below(2) ? MOIRE_FLOAT64 : MOIRE_FLOAT32 };
    setup.width = widths[test_random_below(5)];
    setup.contexts = (int)(1 + test_random_below(4));
    setup.chunks = (int)test_random_below(6);
    setup.peers_in_flight = (int)test_random_below(4);
    setup.wire = test_random_below(2) ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32;
    setup.deduplicate = test_random_below(2);
    setup.check = test_random_below(2);
    setup.round_bytes = test_random_below(2) ? 1 << 30 : 1 + test_random_below(setup_round_bytes(&setup, 8));
    for (int r = 0; r < MOST_RANKS; r++) setup.node_of[r] = (int)test_random_below(7);
    for (int r = 0; r < MOST_RANKS; r++) setup.leaf_of[r] = setup.node_of[r] % 3;
    setup_random_places(&setup, 1 + test_random_below(6), test_random_below(13));
    return setup;
}

static void check_random(void)
{
    for (int i = 0; i < 40; i++) {
        struct setup setup = random_setup();
        struct lane lane;
        if (!setup_create(&setup)) continue;
        lane_create(&lane, &setup);
        for (int again = 0; again < 3; again++) {
            route_random(&lane.route, &setup, 30);
            lane_prepare(&lane);
            lane_check(&lane);
        }
        lane_free(&lane);
        setup_free(&setup);
    }
}

static void test_random_cases(void)
{
    for_each_backend(check_random);
}

/* A sum of -0.0 is -0.0; a token without copies gets 0.0. */
static void check_negative_zeros(void)
{
    struct setup setup = float_setup(TWO_A_NODE, REPLICAS);
    struct lane lane;
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    route_random(&lane.route, &setup, 30);
    lane_prepare(&lane);
    float *rows = lane.outputs.data, *numbers = lane.output_numbers.data;
    for (int64_t i = 0; i < lane.plan->received_rows * setup.width; i++) rows[i] = -0.0f;
    for (int64_t i = 0; i < lane.plan->received_rows; i++) numbers[i] = -0.0f;
    expect_ok(moire_combine_begin(lane.plan, &lane.outputs, &lane.output_numbers, &lane.sums,
                                  &lane.number_sums, &lane.combining));
    lane.numbers_back = true;
    lane_end(lane.combining);
    lane_combine_compare(&lane);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_negative_zeros(void)
{
    for_each_backend(check_negative_zeros);
}

/* Rows long enough for several threads and several pieces of a sum. */
static void check_wide_rows(void)
{
    struct setup setup = float_setup(TWO_A_NODE, REPLICAS);
    struct lane lane;
    const int threads = omp_get_max_threads();
    setup.width = 1500;
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    route_uniform(&lane.route, &setup, MOST_TOKENS, 3);
    lane_prepare(&lane);
    omp_set_num_threads(2);
    lane_check(&lane);
    omp_set_num_threads(threads);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_wide_rows(void)
{
    for_each_backend(check_wide_rows);
}

/* Plans of all layers are prepared at once; one plan serves forward and backward, any number of times. */
static void check_several_plans(void)
{
    struct setup setup = float_setup(TWO_A_NODE, EVEN);
    struct lane lanes[3];
    if (!setup_create(&setup)) return;
    for (int i = 0; i < 3; i++) {
        lane_create(&lanes[i], &setup);
        route_uniform(&lanes[i].route, &setup, 5 + 15 * i, 1 + i);
        lane_prepare(&lanes[i]);
    }
    for (int again = 0; again < 3; again++)
        for (int i = 2; i >= 0; i--) lane_check(&lanes[i]);
    for (int i = 0; i < 3; i++) lane_free(&lanes[i]);
    setup_free(&setup);
}

static void test_several_plans(void)
{
    for_each_backend(check_several_plans);
}

/* Three open transfers of two plans, with rounds; ended in an order that differs between ranks. */
static void check_several_contexts(void)
{
    struct setup setup = float_setup(UNEVEN_NODES, EVEN);
    struct lane a, b;
    struct moire_transfer *fourth = NULL;
    setup.contexts = 3;
    setup.round_bytes = setup_round_bytes(&setup, 2);
    if (!setup_create(&setup)) return;
    lane_create(&a, &setup);
    lane_create(&b, &setup);
    route_uniform(&a.route, &setup, 30, 2);
    route_uniform(&b.route, &setup, MOST_TOKENS, 4);
    lane_prepare(&a);
    lane_prepare(&b);
    for (int again = 0; again < 3; again++) {
        lane_dispatch(&a, true);
        lane_dispatch(&b, again == 1);
        lane_combine(&a, again == 2);
        expect_failure(moire_dispatch_begin(b.plan, &b.rows, NULL, &b.outputs, NULL, &fourth), MOIRE_FAILED,
                       "contexts");
        for (int tile = 0; tile < 2; tile++) expect_ok(moire_exchange_progress(setup.exchange));
        if (test_rank % 2) lane_end(a.combining);
        lane_end(b.dispatching);
        if (test_rank % 2 == 0) lane_end(a.combining);
        lane_end(a.dispatching);
        lane_dispatch_compare(&a);
        lane_combine_compare(&a);
        lane_dispatch_compare(&b);
    }
    lane_free(&a);
    lane_free(&b);
    setup_free(&setup);
}

static void test_several_contexts(void)
{
    for_each_backend(check_several_contexts);
}

/* A second plan is prepared, larger, while the first is in flight; and what must not be prepared then. */
static void check_prepare_while_open(void)
{
    struct setup setup = float_setup(TWO_A_NODE, EVEN);
    struct lane a, b;
    struct moire_plan *sharing = NULL;
    struct capture capture;
    setup.contexts = 2;
    setup.round_bytes = setup_round_bytes(&setup, 1);
    if (!setup_create(&setup)) return;
    lane_create(&a, &setup);
    lane_create(&b, &setup);
    struct moire_rows *shared[] = { &a.received };
    expect_ok(moire_plan_create(setup.exchange, shared, 1, &sharing));
    route_uniform(&a.route, &setup, 10, 2);
    lane_prepare(&a);
    lane_dispatch(&a, true);
    route_uniform(&b.route, &setup, MOST_TOKENS, 4);
    lane_prepare(&b);
    lane_combine(&b, true);
    capture_begin(&capture, 2);
    expect_failure(moire_exchange_prepare(a.plan, &a.route.routing, MOIRE_OK), MOIRE_FAILED, "");
    expect_failure(moire_exchange_prepare(sharing, &b.route.routing, MOIRE_OK), MOIRE_FAILED, "");
    capture_end(&capture);
    lane_end(a.dispatching);
    lane_dispatch_compare(&a);
    lane_end(b.combining);
    lane_combine_compare(&b);
    lane_prepare(&a);
    lane_check(&a);
    lane_check(&b);
    moire_plan_free(sharing);
    lane_free(&a);
    lane_free(&b);
    setup_free(&setup);
}

/* A rank that waits in prepare must move its open transfers on, or one that ends such a transfer first never
 * comes. */
static void check_prepare_before_end(void)
{
    struct setup setup = float_setup(TWO_A_NODE, EVEN);
    struct lane a, b;
    setup.round_bytes = setup_round_bytes(&setup, 1);
    if (!setup_create(&setup)) return;
    lane_create(&a, &setup);
    lane_create(&b, &setup);
    route_uniform(&a.route, &setup, MOST_TOKENS, 3);
    route_uniform(&b.route, &setup, 10, 2);
    lane_prepare(&a);
    lane_prepare(&b);
    lane_dispatch(&a, true);
    if (test_rank % 2) lane_end(a.dispatching);
    expect_ok(moire_exchange_prepare(b.plan, &b.route.routing, MOIRE_OK));
    if (test_rank % 2 == 0) lane_end(a.dispatching);
    lane_dispatch_compare(&a);
    lane_check(&b);
    lane_free(&a);
    lane_free(&b);
    setup_free(&setup);
}

static void test_prepare_while_open(void)
{
    for_each_backend(check_prepare_while_open);
    for_each_backend(check_prepare_before_end);
}

/* Sizes that grow and shrink; a size that was there before allocates nothing. */
static void check_prepare_again(void)
{
    const int64_t tokens[] = { 3, 40, 10, MOST_TOKENS, 0, 1 };
    struct setup setup = float_setup(TWO_A_NODE, EVEN);
    struct lane lane;
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        route_uniform(&lane.route, &setup, tokens[i], 3);
        lane_prepare(&lane);
        lane_check(&lane);
        int64_t allocations = moire_memory_allocations(), growths = moire_exchange_growths(setup.exchange);
        moire_exchange_release(lane.plan);
        expect(!lane.plan->prepared);
        lane_prepare(&lane);
        expect(moire_memory_allocations() == allocations);
        expect(moire_exchange_growths(setup.exchange) == growths);
        lane_check(&lane);
    }
    expect(moire_exchange_growths(setup.exchange) > 0);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_prepare_again(void)
{
    for_each_backend(check_prepare_again);
}

/* What leaves one rank arrives at another; the description says who it is. */
static void check_volume(void)
{
    struct setup setup = float_setup(UNEVEN_NODES, EVEN);
    struct lane lane;
    struct moire_stage stages[16];
    struct moire_exchange_bytes before, after;
    char line[160];
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    route_uniform(&lane.route, &setup, 10 + test_rank, 2);
    lane_prepare(&lane);
    int count = moire_exchange_volume(lane.plan, stages, 16);
    expect(count > 0 && count <= 16 && moire_exchange_volume(lane.plan, NULL, 0) == count);
    for (int i = 0; i < count; i++) {
        const struct moire_stage *s = &stages[i];
        int64_t sums[] = { s->bytes_out, -s->bytes_in, s->node_bytes_out, -s->node_bytes_in };
        MPI_Allreduce(MPI_IN_PLACE, sums, 4, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
        expect(sums[0] + sums[1] == 0 && sums[2] + sums[3] == 0);
        expect(s->name && s->waits_for < i && s->level >= 0 && s->level < MOIRE_LEVELS);
        expect(s->node_bytes_out <= s->bytes_out && s->node_bytes_in <= s->bytes_in
               && (s->bytes_out > 0) == (s->messages > 0));
    }
    moire_exchange_bytes(setup.exchange, &before);
    lane_check(&lane);
    moire_exchange_bytes(setup.exchange, &after);
    for (int level = 0; level < MOIRE_LEVELS; level++)
        expect(lane.plan->rows_out[level] > 0 ? after.rows[level] > before.rows[level]
                                              : after.rows[level] >= before.rows[level]);
    moire_exchange_describe(setup.exchange, line, sizeof line);
    expect(strstr(line, backend_under_test->name)
           && strcmp(moire_exchange_backend(setup.exchange), backend_under_test->name) == 0);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_volume(void)
{
    for_each_backend(check_volume);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "patterns of traffic, nodes and placements", test_patterns },
        { "random cases", test_random_cases },
        { "negative zeros", test_negative_zeros },
        { "wide rows, two threads", test_wide_rows },
        { "several plans at once", test_several_plans },
        { "several contexts, ended out of order", test_several_contexts },
        { "prepare while another plan is in flight", test_prepare_while_open },
        { "prepare again, larger and smaller", test_prepare_again },
        { "failures are agreed on", test_failures },
        { "wrong calls start nothing", test_wrong_calls },
        { "volume", test_volume },
        { "create", test_create },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
