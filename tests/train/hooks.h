/* Functions that pass through a test on their way: it is linked with -Wl,--wrap=FUNCTION for each. */
#ifndef TESTS_TRAIN_HOOKS_H
#define TESTS_TRAIN_HOOKS_H

#include "moire/io/data.h"

enum { HOOKED_SEQUENCES = 60 };
enum action { NOTHING, FAIL, RAISE };
struct hook {
    enum action action;
    enum moire_split split;
    int rank;
    int64_t number; /* acts from this sequence on */
    int signal;
    int64_t steps, allocations_before, allocations; /* since the second step: steps, and in them */
    int64_t step;                                   /* of the last update */
    int64_t poisoned_step;                          /* after which a parameter is not a number */
    int64_t fetched[HOOKED_SEQUENCES];              /* how often each training sequence was fetched */
    int64_t evaluations, checkpoints;
    uint64_t checksum_of_last; /* added to the data's checksum on the last rank */
};
extern struct hook hook;

/* A rank that always has sequences, and is not rank 0 where there is another. */
int some_rank(void);
/* From sequence `number` of a split on, `action` on a rank. Clears the rest. */
void hook_fetch(int rank, enum action action, enum moire_split split, int64_t number);

#endif
