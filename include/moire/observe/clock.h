/* The only place that reads clocks. */
#ifndef MOIRE_OBSERVE_CLOCK_H
#define MOIRE_OBSERVE_CLOCK_H

#include "moire/cluster/communicator.h"

double moire_seconds(void);       /* monotonic, of this rank; not collective */
double moire_wall_seconds(void);  /* since 1970 */
/* "2026-01-31T12:00:00Z", 21 bytes with the zero. */
void moire_wall_text(char text[24]);

struct moire_clock {
    double offset_seconds;        /* this rank's clock minus rank 0's */
    double uncertainty_seconds;   /* half of the shortest round trip seen */
    double *offsets, *uncertainties; /* owned, [size], on rank 0 only, else NULL */
};
/* Ping-pongs with rank 0, the shortest of `rounds` counts (Cristian 1989). Collective; rank 0 measures the
 * ranks in turn, so it takes some 10 microseconds a rank and round. */
moire_status moire_clock_synchronise(const struct moire_communicator *communicator, int rounds,
                                     struct moire_clock *clock);
void moire_clock_free(struct moire_clock *clock);

#endif
