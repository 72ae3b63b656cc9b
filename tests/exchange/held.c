/* A rank that comes late, at every point of a transfer, with every back end: nobody may hang. Messages are
 * small (copied on their way) and large (fetched by the receiver, while the sender must help). Between begin
 * and end all ranks pass a barrier of MPI, which moves no other library; so does the late rank alone before
 * the others end. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lane.h"

enum point { BEFORE_BEGIN, AFTER_BEGIN, BARRIER_WHILE_OPEN, PREPARE_WHILE_OPEN, BARRIER_AFTER_END, POINTS };

static int late_rank;

static void come_late(void)
{
    const struct timespec pause = { .tv_nsec = 200000000 };
    if (test_rank == late_rank) nanosleep(&pause, NULL);
}

static void pass_barrier(void)
{
    come_late();
    MPI_Barrier(MPI_COMM_WORLD);
}

/* lane_dispatch or lane_combine, and its end. */
static void transfer(struct lane *lane, struct lane *other, bool combine, enum point point)
{
    if (point == BEFORE_BEGIN) come_late();
    if (combine)
        lane_combine(lane, true);
    else
        lane_dispatch(lane, true);
    if (point == AFTER_BEGIN) come_late();
    if (point == BARRIER_WHILE_OPEN) pass_barrier();
    if (point == PREPARE_WHILE_OPEN) {
        come_late();
        lane_prepare(other);
    }
    lane_end(combine ? lane->combining : lane->dispatching);
    if (point == BARRIER_AFTER_END) pass_barrier();
    if (combine)
        lane_combine_compare(lane);
    else
        lane_dispatch_compare(lane);
}

static void check_width(int64_t width, int64_t round_rows)
{
    struct setup setup = float_setup(ONE_NODE, EVEN);
    struct lane lane, other;
    setup.width = width;
    setup.round_bytes = setup_round_bytes(&setup, round_rows);
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    lane_create(&other, &setup);
    route_uniform(&lane.route, &setup, 32, 2);
    route_uniform(&other.route, &setup, 8, 1);
    lane_prepare(&lane);
    for (int point = 0; point < POINTS; point++)
        for (int combine = 0; combine < 2; combine++) {
            late_rank = (point + combine) % test_ranks;
            transfer(&lane, &other, combine, point);
        }
    lane_check(&lane);
    lane_free(&lane);
    lane_free(&other);
    setup_free(&setup);
}

static void check_small(void)
{
    check_width(6, 4);
}

static void check_large(void)
{
    check_width(4096, 1 << 20);
}

static void test_small(void)
{
    for_each_backend(check_small);
}

static void test_large(void)
{
    for_each_backend(check_large);
}

/* Rank 0 sends more than the system's buffers hold before anybody receives, and then goes into a barrier:
 * nothing of it may be left behind in a buffer that only rank 0 empties. */
static void check_far_ahead(void)
{
    struct setup setup = float_setup(NODE_EACH, EVEN);
    struct lane lane;
    setup.width = 1700;
    setup.round_bytes = setup_round_bytes(&setup, 1);
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    route_clear(&lane.route);
    for (int token = 0; test_rank == 0 && token < MOST_TOKENS; token++) {
        route_slot(&lane.route);
        route_target(&lane.route, setup.placement.instances - 1);
        route_token_end(&lane.route);
    }
    lane_prepare(&lane);
    late_rank = test_ranks - 1;
    come_late();
    fill_random(&lane.rows, lane.route.routing.tokens);
    for (int again = 0; again < 40; again++) {
        expect_ok(moire_dispatch_begin(lane.plan, &lane.rows, NULL, &lane.received, NULL, &lane.dispatching));
        lane_end(lane.dispatching);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    lane.numbers_out = false;
    lane_dispatch_compare(&lane);
    lane_free(&lane);
    setup_free(&setup);
}

static void test_far_ahead(void)
{
    for_each_backend(check_far_ahead);
}

/* As between nodes without InfiniBand. */
static void test_tcp(void)
{
    backend_under_test = &moire_backend_ucx;
    setenv("UCX_TLS", "tcp,self", 1);
    check_small();
    check_large();
    check_far_ahead();
    unsetenv("UCX_TLS");
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "a late rank, small messages", test_small },
        { "a late rank, large messages", test_large },
        { "a rank far ahead", test_far_ahead },
        { "the same over TCP", test_tcp },
    };
    return test_main(argc, argv, "2 3", tests, sizeof tests / sizeof *tests);
}
