/* What every back end of the table must do, compared bit by bit with the naive twin. A back end that is not
 * applicable is skipped with its reason. */
#include "lane.h"

#include <stdlib.h>
#include <string.h>

#include "../support/capture.h"

static const struct moire_backend *backend; /* under test */

static void for_each_backend(void (*test)(void))
{
    for (int i = 0; i < moire_backend_count; i++) {
        backend = moire_backends[i];
        test();
    }
}

static struct setup float_setup(enum nodes nodes, enum places places)
{
    struct setup setup = {
        .backend = backend, .element = MOIRE_FLOAT32, .width = 6, .round_bytes = 1 << 30, .contexts = 1
    };
    setup_nodes(&setup, nodes);
    setup_places(&setup, places);
    return setup;
}

/* Every element, node map and placement with every pattern; rounds of 1 and 4 rows, and none. */
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
    struct setup setup = { .backend = backend,
                           .element = test_random_below(2) ? MOIRE_FLOAT64 : MOIRE_FLOAT32 };
    setup.width = widths[test_random_below(5)];
    setup.contexts = (int)(1 + test_random_below(4));
    setup.round_bytes = test_random_below(2) ? 1 << 30 : 1 + test_random_below(setup_round_bytes(&setup, 8));
    for (int r = 0; r < MOST_RANKS; r++) setup.node_of[r] = (int)test_random_below(7);
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
    route_random(&b.route, &setup, 30);
    lane_prepare(&a);
    lane_prepare(&b);
    for (int again = 0; again < 3; again++) {
        lane_dispatch(&a, true);
        lane_dispatch(&b, again == 1);
        lane_combine(&a, again == 2);
        expect_failure(moire_dispatch_begin(b.plan, &b.rows, NULL, &b.outputs, NULL, &fourth), MOIRE_FAILED,
                       "contexts");
        for (int tile = 0; tile < 5; tile++) expect_ok(moire_exchange_progress(setup.exchange));
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

static void test_prepare_while_open(void)
{
    for_each_backend(check_prepare_while_open);
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

/* Messages on all ranks with `text`. */
static int messages(const struct capture *capture, const char *text)
{
    int count = count_text(capture->text, text), all = 0;
    MPI_Allreduce(&count, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    return all;
}

/* prepare must fail alike on all ranks, with one message that has `text`; then the exchange works as before.
 */
static void check_failing_prepare(struct lane *lane, struct moire_plan *plan,
                                  const struct moire_routing *routing, moire_status local,
                                  moire_status expected, const char *text)
{
    static struct capture capture;
    capture_begin(&capture, 2);
    moire_status status = moire_exchange_prepare(plan, routing, local);
    bool agreed = moire_error_is_agreed();
    moire_error_clear();
    capture_end(&capture);
    expect(status == expected);
    expect(agreed && !plan->prepared);
    expect(messages(&capture, text) > 0);
    expect(messages(&capture, "moire: ") == 1);
    lane_prepare(lane);
    lane_check(lane);
}

static moire_status fail_where(bool condition, moire_status status)
{
    return condition ? moire_fail(status, "the test has failed on purpose; try nothing") : MOIRE_OK;
}

static void check_targets(struct lane *lane)
{
    const int64_t instances = lane->setup->placement.instances, bad[] = { instances, -1, INT64_MAX };
    for (int i = 0; i < 3; i++) {
        struct route route;
        route_clear(&route);
        route_slot(&route);
        route_target(&route, test_rank == test_ranks / 2 ? bad[i] : 0);
        route_token_end(&route);
        check_failing_prepare(lane, lane->plan, &route.routing, MOIRE_OK, MOIRE_FAILED, "instance");
    }
    struct route route;
    route_uniform(&route, lane->setup, 4, 1);
    if (test_rank == 0) route.slot_begin[2] = 0; /* token 1 has -1 slots */
    check_failing_prepare(lane, lane->plan, &route.routing, MOIRE_OK, MOIRE_FAILED, "token 1");
}

/* A buffer so wide that two rows of it cannot be had: every rank without rows succeeds, and must fail with
 * the rest. */
static void check_growth(struct lane *lane)
{
    struct moire_exchange *exchange = lane->setup->exchange;
    struct moire_rows huge;
    struct moire_plan *plan = NULL;
    struct route route;
    expect_ok(moire_rows_create(exchange, MOIRE_MEMORY_OTHER, INT64_C(1) << 60, 0, &huge));
    struct moire_rows *buffers[] = { &huge };
    expect_ok(moire_plan_create(exchange, buffers, 1, &plan));
    route_clear(&route);
    for (int i = 0; i < 3 && test_rank == 0; i++) {
        route_slot(&route);
        route_target(&route, lane->setup->placement.instances - 1);
        route_token_end(&route);
    }
    check_failing_prepare(lane, plan, &route.routing, MOIRE_OK, MOIRE_NO_MEMORY, "too large");
    moire_plan_free(plan);
    moire_rows_free(exchange, &huge);
}

static void check_failures(void)
{
    struct setup setup = float_setup(TWO_A_NODE, EVEN);
    struct lane lane;
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    route_uniform(&lane.route, &setup, 8, 2);
    const bool last = test_rank == test_ranks - 1;
    const struct moire_routing *routing = &lane.route.routing;
    check_failing_prepare(&lane, lane.plan, NULL, fail_where(true, MOIRE_BAD_DATA), MOIRE_BAD_DATA,
                          "on purpose");
    check_failing_prepare(&lane, lane.plan, last ? NULL : routing, fail_where(last, MOIRE_NOT_FINITE),
                          MOIRE_NOT_FINITE, "on purpose");
    moire_status two = test_rank == 0 ? MOIRE_NO_FILE : MOIRE_MPI_ERROR; /* the lowest rank's status counts */
    check_failing_prepare(&lane, lane.plan, routing, fail_where(test_rank == 0 || last, two), MOIRE_NO_FILE,
                          "on purpose");
    check_targets(&lane);
    check_growth(&lane);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_failures(void)
{
    for_each_backend(check_failures);
}

/* Wrong calls start nothing. */
static void check_wrong_calls(void)
{
    struct setup setup = float_setup(ONE_NODE, EVEN);
    struct lane lane;
    struct moire_rows narrow, none;
    struct moire_transfer *transfer = NULL;
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    expect_ok(moire_rows_create(setup.exchange, MOIRE_MEMORY_OTHER, setup.width - 1, MOST_TOKENS, &narrow));
    expect_ok(moire_rows_create(setup.exchange, MOIRE_MEMORY_OTHER, setup.width, 0, &none));
    expect_failure(moire_dispatch_begin(lane.plan, &lane.rows, NULL, &lane.received, NULL, &transfer),
                   MOIRE_FAILED, "not prepared");
    expect_failure(moire_combine_begin(lane.plan, &lane.outputs, NULL, &lane.sums, NULL, &transfer),
                   MOIRE_FAILED, "not prepared");
    route_uniform(&lane.route, &setup, MOST_TOKENS, 2);
    lane_prepare(&lane);
    expect_failure(moire_dispatch_begin(lane.plan, &narrow, NULL, &lane.received, NULL, &transfer),
                   MOIRE_FAILED, "rows of 5");
    expect_failure(moire_dispatch_begin(lane.plan, &none, NULL, &lane.received, NULL, &transfer),
                   MOIRE_FAILED, "0 rows");
    expect_failure(
        moire_dispatch_begin(lane.plan, &lane.rows, &lane.numbers, &lane.received, NULL, &transfer),
        MOIRE_FAILED, "one side");
    lane_check(&lane);
    moire_exchange_release(lane.plan);
    expect_failure(moire_dispatch_begin(lane.plan, &lane.rows, NULL, &lane.received, NULL, &transfer),
                   MOIRE_FAILED, "not prepared");
    expect(transfer == NULL);
    moire_rows_free(setup.exchange, &narrow);
    moire_rows_free(setup.exchange, &none);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_wrong_calls(void)
{
    for_each_backend(check_wrong_calls);
}

/* What leaves one rank arrives at another; the description says who it is. */
static void check_volume(void)
{
    struct setup setup = float_setup(UNEVEN_NODES, EVEN);
    struct lane lane;
    struct moire_stage stages[16];
    int64_t before[MOIRE_LEVELS], after[MOIRE_LEVELS];
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
    moire_exchange_bytes(setup.exchange, before);
    lane_check(&lane);
    moire_exchange_bytes(setup.exchange, after);
    for (int level = 0; level < MOIRE_LEVELS; level++)
        expect((after[level] > before[level]) == (lane.plan->rows_out[level] > 0) || test_ranks > 1);
    moire_exchange_describe(setup.exchange, line, sizeof line);
    expect(strstr(line, backend->name) && strcmp(moire_exchange_backend(setup.exchange), backend->name) == 0);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_volume(void)
{
    for_each_backend(check_volume);
}

static moire_status create_with(struct setup *setup, const struct moire_exchange_settings *settings)
{
    struct moire_exchange *exchange = NULL;
    moire_status status =
        moire_exchange_create(settings, &setup->world, setup->node_of, &setup->placement, &exchange);
    moire_exchange_free(exchange);
    return status;
}

static void test_create(void)
{
    backend = &moire_backend_alltoallv;
    struct setup setup = float_setup(ONE_NODE, EVEN);
    struct moire_placement other;
    struct capture capture;
    const struct moire_exchange_settings good = { "auto", 1, 16, MOIRE_FLOAT32, 1 },
                                         bad[] = { { "alltoalv", 1, 1, MOIRE_FLOAT32, 1 },
                                                   { "auto", 0, 1, MOIRE_FLOAT32, 1 },
                                                   { "auto", 1, 0, MOIRE_FLOAT32, 1 },
                                                   { "auto", 1, 17, MOIRE_FLOAT32, 1 },
                                                   { "auto", 1, 1, MOIRE_FLOAT32, 0 } };
    expect_ok(moire_communicator_world(&setup.world));
    expect_ok(moire_exchange_check_backend("auto"));
    expect_ok(moire_exchange_check_backend("alltoallv"));
    expect_failure(moire_exchange_check_backend("alltoalv"), MOIRE_USAGE, "did you mean 'alltoallv'");
    expect_ok(create_with(&setup, &good));
    expect_ok(moire_placement_even(1, test_ranks + 1, &other));
    capture_begin(&capture, 2);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_failure(create_with(&setup, &bad[i]), MOIRE_USAGE, "");
    moire_placement_free(&setup.placement);
    setup.placement = other;
    expect_failure(create_with(&setup, &good), MOIRE_USAGE, "");
    capture_end(&capture);
    expect(messages(&capture, "moire: ") == 6);
    expect(strcmp(moire_level_name(MOIRE_LEVEL_NODE), "in node") == 0);
    setup_free(&setup);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "patterns of traffic, nodes and placements", test_patterns },
        { "random cases", test_random_cases },
        { "negative zeros", test_negative_zeros },
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
