/* Conformance where something is wrong: failures are agreed on with one message, and the exchange stays
 * usable. */
#include <string.h>

#include "../support/capture.h"
#include "lane.h"

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

void test_failures(void)
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

void test_wrong_calls(void)
{
    for_each_backend(check_wrong_calls);
}

static moire_status create_with(struct setup *setup, const struct moire_exchange_settings *settings)
{
    struct moire_exchange *exchange = NULL;
    moire_status status =
        moire_exchange_create(settings, &setup->world, setup->node_of, NULL, &setup->placement, &exchange);
    moire_exchange_free(exchange);
    return status;
}

void test_create(void)
{
    backend_under_test = &moire_backend_alltoallv;
    struct setup setup = float_setup(ONE_NODE, EVEN);
    struct moire_placement other;
    struct capture capture;
    const struct moire_exchange_settings good = { .backend = "auto", .round_bytes = 1, .contexts = 16, .width = 1 },
                                         bad[] = { { .backend = "alltoalv", .round_bytes = 1, .contexts = 1, .width = 1 },
                                                   { .backend = "auto", .round_bytes = 0, .contexts = 1, .width = 1 },
                                                   { .backend = "auto", .round_bytes = 1, .contexts = 0, .width = 1 },
                                                   { .backend = "auto", .round_bytes = 1, .contexts = 17, .width = 1 },
                                                   { .backend = "auto", .round_bytes = 1, .contexts = 1, .width = 0 },
                                                   { .backend = "auto", .round_bytes = 1, .contexts = 1, .width = 1, .chunks = 65 } };
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
    expect(messages(&capture, "moire: ") == 7);
    expect(strcmp(moire_level_name(MOIRE_LEVEL_NODE), "in node") == 0);
    setup_free(&setup);
}
