/* The measuring loop: variants of one run, interleaved in random order.
 *
 * A sample starts when all ranks have come to a common start and lasts from the latest start to the latest
 * end over ranks, on synchronised clocks; it is never taken from the exit of a barrier. The clocks are
 * synchronised anew every few seconds, between samples, so that their drift stays below what is measured.
 *
 * Rounds: each runs every variant once, in an order drawn from (seed, round). The warm-up ends after the
 * round in which the running median of every variant moved by less than 2 % (3 to 50 rounds). The run ends
 * when the 95 % interval of every variant's median (order statistics: it needs no distribution) lies within
 * 3 % of it, or at the limit of samples or of seconds: then what has not converged says so. */
#ifndef MOIRE_OBSERVE_MEASURE_H
#define MOIRE_OBSERVE_MEASURE_H

#include "moire/cluster/communicator.h"

enum { MOIRE_MEASURE_SAMPLES = 1000 }; /* most that can be asked for */

/* A number with its 95 % interval. */
struct moire_interval {
    double middle, low, high;
};

struct moire_variant {
    const char *name;
    moire_status (*run)(void *state); /* what is measured; all ranks call it */
    moire_status (*before)(void *state); /* before every sample, not measured; NULL: nothing */
    void *state;
    /* results, seconds a call, the same on all ranks */
    struct moire_interval median;
    double minimum;
    int64_t calls;     /* in a sample: more than one where one would be too short for the clock */
    bool converged;
    double *samples;   /* owned, [samples]: maximum over ranks, in order */
    double *by_rank;   /* owned, [samples, ranks]: from the latest start to the end of each rank */
    double *skew;      /* owned, [samples, ranks]: from the start of each rank to the latest start of the sample */
};

struct moire_measure {
    const struct moire_communicator *communicator; /* borrowed */
    struct moire_variant *variants;                /* borrowed, [count] */
    int count;
    int64_t most_samples;   /* a variant; 6 to MOIRE_MEASURE_SAMPLES */
    double most_seconds;    /* of the run, warm-up included; at least 6 samples are taken */
    double sample_seconds;  /* calls are repeated until a sample lasts so long; 0: one call a sample */
    uint64_t seed;
    void (*warmed)(void *state); /* called between warm-up and samples; may be NULL */
    void *warmed_state;
    /* results */
    int64_t warmup;  /* rounds */
    int64_t samples; /* of each variant */
    double seconds;
    int *order;      /* owned: scratch */
    double *scratch; /* owned */
};

/* Fills the results of *measure and of its variants. Nothing is allocated from the first sample to the last.
 * A failure of `run` on this rank is agreed on before the ranks leave. Collective over the communicator. */
moire_status moire_measure_run(struct moire_measure *measure);
/* Also after a failure. Not collective. */
void moire_measure_free(struct moire_measure *measure);

/* Ratio of the seconds of two variants: median of the ratios within rounds, with its interval. Not
 * collective. */
struct moire_interval moire_measure_ratio(const struct moire_measure *measure, int numerator,
                                          int denominator);
/* Median and 95 % interval of `count` numbers, which are sorted in place: the order statistics k and
 * count + 1 - k with the largest k for which 2 P(Binomial(count, 1/2) < k) <= 0.05 (David, Nagaraja, "Order
 * Statistics", section 7.1); with less than 6 numbers no such k exists and the interval is infinite. Not
 * collective. */
struct moire_interval moire_median_interval(double *numbers, int64_t count);
/* The smallest of `count` > 0 numbers that at least a share `part` (above 0, at most 1) of them does not exceed;
 * sorts them. Not collective. */
double moire_quantile(double *numbers, int64_t count, double part);

#endif
