/* What an exchange is measured against: the rows of a plan by MPI_Alltoallv alone, and their copies alone.
 *
 * Every copy (slot, instance) is one row of the wire type, with its number behind it where numbers travel, as
 * in the back end alltoallv. Rows stand in contiguous memory by rank, those of this rank among them. Three
 * steps, each for itself:
 *
 *     pack    gathers rows for other ranks with memcpy: dispatch from `rows`, combine from `received`
 *     move    one MPI_Alltoallv, this rank's own rows with it
 *     unpack  puts rows of other ranks where they belong with memcpy: dispatch in `received`, combine in
 * `sums` (one over the other, where the exchange adds them)
 *
 * Nothing is converted: with a narrow wire type the first bytes of each row travel. For measurement only. */
#ifndef MOIRE_EXCHANGE_BASELINE_H
#define MOIRE_EXCHANGE_BASELINE_H

#include "moire/exchange/exchange.h"

struct moire_baseline {
    const struct moire_plan *plan; /* borrowed */
    int64_t row_bytes, wire_bytes; /* of a row in the buffers; under way, with its number */
    bool with_numbers;
    char *rows, *numbers;              /* owned: [T, D], [N] */
    char *received, *received_numbers; /* owned: [R, D], [R] */
    char *sums, *number_sums;          /* owned: [T, D], [N] */
    char *out, *in;                    /* owned: [copies], [R] rows under way, by rank */
    int *counts;                       /* owned, [4 P]: MPI's arguments, in units */
    MPI_Datatype unit;                 /* a byte, or a row where bytes do not fit an int */
};

/* For a prepared plan, which must be prepared, always with the same routing, while the baseline is used.
 * Buffers hold zeros. Failures are agreed. Collective over the exchange's communicator. */
moire_status moire_baseline_create(const struct moire_plan *plan, bool with_numbers,
                                   struct moire_baseline *baseline);
/* Fine for a zeroed one. Not collective. */
void moire_baseline_free(struct moire_baseline *baseline);
/* `combine`: the way back. */
void moire_baseline_pack(struct moire_baseline *baseline, bool combine);
moire_status moire_baseline_move(struct moire_baseline *baseline, bool combine); /* collective */
void moire_baseline_unpack(struct moire_baseline *baseline, bool combine);

#endif
