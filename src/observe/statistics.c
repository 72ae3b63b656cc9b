#include "moire/observe/statistics.h"

enum { BLOCK = 64 }; /* values reduced at a time, so that nothing is allocated */

/* The layout of MPI_DOUBLE_INT. */
struct ranked {
    double value;
    int rank;
};

/* Of equal values MPI_MINLOC takes the lowest rank. The maximum is the minimum of the negated values, so that
 * one reduction serves both. */
static moire_status reduce_block(const struct moire_communicator *communicator, const double *values,
                                 int count, struct moire_statistic *statistics)
{
    struct ranked extremes[2 * BLOCK];
    double sums[BLOCK];
    for (int i = 0; i < count; i++) {
        extremes[2 * i] = (struct ranked){ values[i], communicator->rank };
        extremes[2 * i + 1] = (struct ranked){ -values[i], communicator->rank };
        sums[i] = values[i];
    }
    int result = MPI_Allreduce(MPI_IN_PLACE, extremes, 2 * count, MPI_DOUBLE_INT, MPI_MINLOC,
                               communicator->mpi);
    MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Allreduce"));
    MOIRE_TRY(moire_sum(communicator, sums, count, MOIRE_FLOAT64));
    for (int i = 0; i < count; i++)
        statistics[i] = (struct moire_statistic){
            .minimum = extremes[2 * i].value,
            .mean = sums[i] / communicator->size,
            .maximum = -extremes[2 * i + 1].value,
            .rank_of_minimum = extremes[2 * i].rank,
            .rank_of_maximum = extremes[2 * i + 1].rank,
        };
    return MOIRE_OK;
}

moire_status moire_statistics(const struct moire_communicator *communicator, const double *values, int count,
                              struct moire_statistic *statistics)
{
    for (int first = 0; first < count; first += BLOCK) {
        int now = count - first < BLOCK ? count - first : BLOCK;
        MOIRE_TRY(reduce_block(communicator, values + first, now, statistics + first));
    }
    return MOIRE_OK;
}
