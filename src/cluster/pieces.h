/* How collective calls are cut. */
#ifndef CLUSTER_PIECES_H
#define CLUSTER_PIECES_H

#include <stdint.h>

/* Most bytes in one reduction or broadcast: 2^30, so that every count fits an int. Tests make it small. */
extern int64_t moire_piece_bytes;

#endif
