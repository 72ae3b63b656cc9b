/* Minimum, mean and maximum over ranks, with the ranks of the extremes. Collective; every rank gets the
 * result. */
#ifndef MOIRE_OBSERVE_STATISTICS_H
#define MOIRE_OBSERVE_STATISTICS_H

#include "moire/cluster/communicator.h"

struct moire_statistic {
    double minimum, mean, maximum;
    int rank_of_minimum, rank_of_maximum; /* the lowest such rank */
};
moire_status moire_statistics(const struct moire_communicator *communicator, const double *values, int count,
                              struct moire_statistic *statistics);

#endif
