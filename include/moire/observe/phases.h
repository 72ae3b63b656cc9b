/* Nested phase timers, always on: two clock reads a phase and no allocation, so they cost nothing beside what
 * they time. A phase is a place in a tree: "forward/layer/experts" and "backward/layer/experts" are two. One
 * tree a process, used by the main thread only. begin and end are not collective. */
#ifndef MOIRE_OBSERVE_PHASES_H
#define MOIRE_OBSERVE_PHASES_H

#include "moire/cluster/communicator.h"

/* The names; observe/phases.c has their texts. Adding one is one line in each. */
typedef enum {
    MOIRE_PHASE_STEP, MOIRE_PHASE_DATA, MOIRE_PHASE_FORWARD, MOIRE_PHASE_BACKWARD, MOIRE_PHASE_EMBEDDING,
    MOIRE_PHASE_NORM, MOIRE_PHASE_ATTENTION, MOIRE_PHASE_FEED_FORWARD, MOIRE_PHASE_ROUTER,
    MOIRE_PHASE_PREPARE, MOIRE_PHASE_DISPATCH, MOIRE_PHASE_EXPERTS, MOIRE_PHASE_COMBINE, MOIRE_PHASE_HEAD,
    MOIRE_PHASE_GRADIENT_SYNC, MOIRE_PHASE_OPTIMIZER, MOIRE_PHASE_PARAMETER_SYNC, MOIRE_PHASE_EVALUATION,
    MOIRE_PHASE_CHECKPOINT, MOIRE_PHASE_METRICS,
    MOIRE_PHASES
} moire_phase;

const char *moire_phase_name(moire_phase phase);

/* Sets moire_where.phase too. */
void moire_phase_begin(moire_phase phase);
/* Ends the innermost open phase, which must be `phase`; after a failure it may be one around it, and what the
 * failure left open inside ends too. Returns its seconds this time (0 beyond 16 open phases). */
double moire_phase_end(moire_phase phase);
/* Seconds and calls so far of a phase over all its places in the tree, inclusive of what is nested in it.
 * What is still open does not count yet. */
double moire_phase_seconds(moire_phase phase);
int64_t moire_phase_calls(moire_phase phase);
/* Forgets everything; no phase may be open. Closes what an error left open. */
void moire_phases_reset(void);

/* One row of the table over ranks: a place in the tree. */
struct moire_phase_row {
    moire_phase phase;
    int depth;                     /* 0: outermost */
    int64_t calls;                 /* of rank 0 */
    double seconds_minimum, seconds_mean, seconds_maximum; /* over ranks, inclusive */
    int rank_of_maximum;
};
/* The tree in depth-first order, same on all ranks (places that only some ranks entered count zero
 * elsewhere). *rows is owned by the caller. No phase should be open: what is open does not count yet.
 * Collective. */
moire_status moire_phases_gather(const struct moire_communicator *communicator,
                                 struct moire_phase_row **rows, int *count);
/* The end-of-run table, 80 columns: phase (indented), calls, min, mean, max seconds, rank of the max, share
 * of the whole (the outermost phases together). Prints on rank 0 to standard output. Collective. */
moire_status moire_phases_print(const struct moire_communicator *communicator);

#endif
