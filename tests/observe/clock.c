#include "../support/harness.h"

#include <math.h>
#include <string.h>

#include "fake_clock.h"
#include "moire/observe/clock.h"

static void clocks_run_forward(void)
{
    double before = moire_seconds();
    for (int i = 0; i < 1000; i++) {
        double now = moire_seconds();
        expect(now >= before);
        before = now;
    }
    expect(moire_wall_seconds() > 1.7e9 && moire_wall_seconds() < 1e11);
}

static void the_date_is_written_in_utc(void)
{
    char text[24];
    memset(text, 'x', sizeof text);
    fake_stands = true;
    fake_seconds = 1769860800.75;
    moire_wall_text(text);
    fake_stands = false;
    expect(strcmp(text, "2026-01-31T12:00:00Z") == 0);
}

/* On one machine all clocks are one, so that a true offset is known: what is added to it here. */
static void check_offsets(const struct moire_communicator *world, int rounds, double shift)
{
    struct moire_clock clock;
    fake_shift = shift * test_rank;
    expect_ok(moire_clock_synchronise(world, rounds, &clock));
    fake_shift = 0;
    expect(clock.uncertainty_seconds >= 0 && clock.uncertainty_seconds < 10);
    expect(fabs(clock.offset_seconds - shift * test_rank) <= clock.uncertainty_seconds + 1e-6);
    expect((clock.offsets != NULL) == (test_rank == 0) && (clock.uncertainties != NULL) == (test_rank == 0));
    double own[2] = { clock.offset_seconds, clock.uncertainty_seconds }, all[2 * 16];
    MPI_Gather(own, 2, MPI_DOUBLE, all, 2, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    for (int rank = 0; test_rank == 0 && rank < test_ranks; rank++)
        expect(clock.offsets[rank] == all[2 * rank] && clock.uncertainties[rank] == all[2 * rank + 1]);
    if (test_rank == 0) expect(clock.offset_seconds == 0 && clock.uncertainty_seconds == 0);
    moire_clock_free(&clock);
    expect(clock.offsets == NULL);
    moire_clock_free(&clock);
}

static void offsets_are_found_within_their_uncertainty(void)
{
    struct moire_communicator world;
    expect_ok(moire_communicator_world(&world));
    check_offsets(&world, 20, 0);
    check_offsets(&world, 20, 1000);
    check_offsets(&world, 1, -500);
    check_offsets(&world, 0, 0);
    moire_communicator_free(&world);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "clocks run forward", clocks_run_forward },
        { "the date is written in UTC", the_date_is_written_in_utc },
        { "offsets are found within their uncertainty", offsets_are_found_within_their_uncertainty },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
