/* A run of rows that one product computes with one expert's matrices. */
#ifndef MOIRE_BASE_SEGMENT_H
#define MOIRE_BASE_SEGMENT_H

#include <stdint.h>

struct moire_segment {
    int64_t instance;        /* index of the instance on this rank: which matrix */
    int64_t first_row, rows; /* rows > 0 */
};

#endif
