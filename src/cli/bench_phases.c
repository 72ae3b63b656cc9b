/* Where the time of a measured call goes: seconds by phase, beside the work that is done there. */
#include <math.h>
#include <stdio.h>

#include "cli/bench.h"

void moire_bench_forget_phases(void *unused)
{
    (void)unused;
    moire_phases_reset();
}

static double rate(double work, double seconds)
{
    return work > 0 && seconds > 0 ? work / seconds : NAN;
}

static moire_status add_row(struct moire_bench_run *run, const struct moire_phase_row *row, double calls,
                            double whole, double peak, double flops, double bytes)
{
    char name[64];
    const double seconds = row->seconds_mean / calls;
    snprintf(name, sizeof name, "%*s%s", 2 * row->depth, "", moire_phase_name(row->phase));
    const struct moire_bench_cell cells[] = {
        { .words = name },
        { .number = (double)row->calls / calls },
        { .number = 1e3 * row->seconds_minimum / calls },
        { .number = 1e3 * seconds },
        { .number = 1e3 * row->seconds_maximum / calls },
        { .number = row->seconds_mean / whole },
        { .number = rate(flops, seconds) / 1e9 },
        { .number = rate(flops, seconds) / peak },
        { .number = bytes > 0 ? bytes / 1048576 : NAN },
    };
    return moire_bench_row(run->report, cells);
}

static moire_status start(struct moire_bench_run *run)
{
    static const struct moire_bench_column columns[] = {
        { "phase", 19, MOIRE_BENCH_WORDS },
        { "calls", 5, 1 },
        { "ms_min", 8, 2 },
        { "ms_mean", 8, 2 },
        { "ms_max", 8, 2 },
        { "share", 5, 3 },
        { "GFLOP/s", 7, 1 },
        { "peak", 5, 3 },
        { "MiB", 7, 1 },
    };
    MOIRE_TRY(moire_bench_header(run->report, "phases",
                                 "a call, mean over samples; minimum, mean, maximum over ranks; share of the "
                                 "time; FLOP of products, all ranks together, in the mean time, and as share "
                                 "of the peak; MiB moved; -: no products, or not counted"));
    return moire_bench_table(run->report, "phases", columns, sizeof columns / sizeof *columns);
}

static enum moire_bench_direction direction_of(moire_phase phase)
{
    return phase == MOIRE_PHASE_FORWARD    ? MOIRE_BENCH_FORWARD
           : phase == MOIRE_PHASE_BACKWARD ? MOIRE_BENCH_BACKWARD
                                           : MOIRE_BENCH_NEITHER;
}

/* Rows come in the order of the tree: what is deeper than the last forward or backward stands in it. */
static moire_status add_rows(struct moire_bench_run *run, const struct moire_measure *measure,
                             const struct moire_bench_work *work, const struct moire_phase_row *rows,
                             int count)
{
    const double calls = (double)(measure->samples * measure->variants[0].calls);
    const double peak = moire_bench_peak(run, measure);
    enum moire_bench_direction direction = MOIRE_BENCH_NEITHER;
    double whole = 0;
    int depth = 0;
    for (int i = 0; i < count; i++) whole += rows[i].depth == 0 ? rows[i].seconds_mean : 0;
    for (int i = 0; i < count; i++) {
        const moire_phase phase = rows[i].phase;
        if (rows[i].depth <= depth) direction = MOIRE_BENCH_NEITHER;
        if (direction == MOIRE_BENCH_NEITHER) {
            direction = direction_of(phase);
            depth = rows[i].depth;
        }
        MOIRE_TRY(add_row(run, &rows[i], calls, whole, peak, work->flops[direction][phase],
                          work->bytes[direction][phase]));
    }
    return MOIRE_OK;
}

moire_status moire_bench_phases(struct moire_bench_run *run, const struct moire_measure *measure,
                                const struct moire_bench_work *work)
{
    struct moire_phase_row *rows;
    int count;
    MOIRE_TRY(moire_phases_gather(&run->mesh.world, &rows, &count));
    moire_status status = start(run);
    if (status == MOIRE_OK) status = add_rows(run, measure, work, rows, count);
    moire_release(rows);
    return status;
}
