#include "moire/observe/measure.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "moire/base/memory.h"
#include "moire/base/random.h"
#include "moire/observe/clock.h"

enum { LEAST_SAMPLES = 6, LEAST_WARMUP = 3, MOST_WARMUP = 50, MOST_CALLS = 1 << 20, CLOCK_ROUNDS = 20 };
static const double settled = 0.02, precise = 0.03; /* of the median */
static const double clock_seconds = 5;              /* after which the clocks are compared again */
static const double lead_seconds = 30e-6;           /* from the last rank's arrival to the common start */

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Largest k with P(Binomial(count, 1/2) < k) <= 0.025; 0: none. */
static int64_t rank_of_bound(int64_t count)
{
    double term = ldexp(1, -(int)count), below = 0;
    int64_t k = 0;
    while (k < count && below + term <= 0.025) {
        below += term;
        term *= (double)(count - k) / (double)(k + 1);
        k++;
    }
    return k;
}

struct moire_interval moire_median_interval(double *numbers, int64_t count)
{
    if (count == 0) return (struct moire_interval){ NAN, -INFINITY, INFINITY };
    qsort(numbers, (size_t)count, sizeof *numbers, compare);
    double middle = (numbers[(count - 1) / 2] + numbers[count / 2]) / 2;
    int64_t k = rank_of_bound(count);
    if (k == 0) return (struct moire_interval){ middle, -INFINITY, INFINITY };
    return (struct moire_interval){ middle, numbers[k - 1], numbers[count - k] };
}

double moire_quantile(double *numbers, int64_t count, double part)
{
    qsort(numbers, (size_t)count, sizeof *numbers, compare);
    int64_t rank = (int64_t)ceil(part * (double)count);
    return numbers[rank < 1 ? 0 : rank > count ? count - 1 : rank - 1];
}

/* The run while it goes on. */
struct loop {
    struct moire_measure *measure;
    struct moire_clock clock;
    double synchronised, started;
    double *times;  /* [ranks, 2]: start and end of each rank, on rank 0's clock */
    double *work;   /* [most samples]: for medians */
    double *before; /* [count]: running median, one round ago */
};

static double now(const struct loop *loop)
{
    return moire_seconds() - loop->clock.offset_seconds;
}

static moire_status synchronise(struct loop *loop)
{
    moire_clock_free(&loop->clock);
    MOIRE_TRY(moire_clock_synchronise(loop->measure->communicator, CLOCK_ROUNDS, &loop->clock));
    loop->synchronised = now(loop);
    return MOIRE_OK;
}

/* Ranks that share a core must yield to those that they wait for. */
static void wait_until(const struct loop *loop, double start)
{
    while (now(loop) < start) sched_yield();
}

/* All ranks start together: a little after the last one has come. */
static moire_status meet(const struct loop *loop)
{
    const struct moire_communicator *communicator = loop->measure->communicator;
    double arrival = now(loop);
    if (communicator->size == 1) return MOIRE_OK;
    MOIRE_TRY(moire_max_reals(communicator, &arrival, 1));
    wait_until(loop, arrival + lead_seconds);
    return MOIRE_OK;
}

/* Sample number `sample` of a variant; seconds a call. */
static moire_status take(const struct loop *loop, struct moire_variant *variant, int64_t sample)
{
    const struct moire_communicator *communicator = loop->measure->communicator;
    const int ranks = communicator->size;
    moire_status status = MOIRE_OK;
    double own[2], first = -INFINITY, last = -INFINITY;
    if (variant->before) MOIRE_TRY(moire_agree(communicator, variant->before(variant->state)));
    MOIRE_TRY(meet(loop));
    own[0] = now(loop);
    for (int64_t call = 0; status == MOIRE_OK && call < variant->calls; call++)
        status = variant->run(variant->state);
    own[1] = now(loop);
    if (status != MOIRE_OK && moire_error_is_agreed()) return status;
    MOIRE_TRY(moire_agree(communicator, status));
    int result = MPI_Allgather(own, 2, MPI_DOUBLE, loop->times, 2, MPI_DOUBLE, communicator->mpi);
    MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Allgather"));
    for (int rank = 0; rank < ranks; rank++) {
        first = fmax(first, loop->times[2 * rank]);
        last = fmax(last, loop->times[2 * rank + 1]);
    }
    const double calls = (double)variant->calls;
    variant->samples[sample] = (last - first) / calls;
    for (int rank = 0; rank < ranks; rank++) {
        variant->by_rank[sample * ranks + rank] = (loop->times[2 * rank + 1] - first) / calls;
        variant->skew[sample * ranks + rank] = first - loop->times[2 * rank];
    }
    return MOIRE_OK;
}

/* Every variant once, in random order (Fisher and Yates). */
static moire_status take_round(struct loop *loop, uint64_t round, int64_t sample)
{
    const struct moire_measure *measure = loop->measure;
    int *order = measure->order;
    for (int i = 0; i < measure->count; i++) order[i] = i;
    for (int i = measure->count - 1; i > 0; i--) {
        int other = (int)moire_random_below(measure->seed, round, (uint64_t)i, (uint64_t)i + 1);
        int kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    for (int i = 0; i < measure->count; i++)
        MOIRE_TRY(take(loop, &measure->variants[order[i]], sample));
    return MOIRE_OK;
}

/* Rank 0's seconds since the start, the same on all ranks; compares the clocks where it is time to. */
static moire_status look_at_clock(struct loop *loop, double *elapsed)
{
    const struct moire_communicator *communicator = loop->measure->communicator;
    double seconds[2] = { now(loop) - loop->started, now(loop) - loop->synchronised };
    if (communicator->size > 1) {
        MOIRE_TRY(moire_broadcast(communicator, seconds, sizeof seconds, 0));
        if (seconds[1] > clock_seconds) MOIRE_TRY(synchronise(loop));
    }
    *elapsed = seconds[0];
    return MOIRE_OK;
}

static struct moire_interval interval_of(const struct loop *loop, const double *samples, int64_t count)
{
    memcpy(loop->work, samples, (size_t)count * sizeof *samples);
    return moire_median_interval(loop->work, count);
}

/* So many calls that a sample is long beside what the clocks can tell. The sample is the maximum over ranks:
 * all find the same number. */
static void choose_calls(const struct moire_measure *measure)
{
    for (int i = 0; i < measure->count; i++) {
        struct moire_variant *variant = &measure->variants[i];
        double wanted = measure->sample_seconds / fmax(variant->samples[0], 1e-9);
        variant->calls = (int64_t)fmin(fmax(ceil(wanted), 1), MOST_CALLS);
    }
}

/* Whether no running median moved; they are kept for the next round. */
static bool has_settled(struct loop *loop, int64_t round)
{
    bool all = true;
    for (int i = 0; i < loop->measure->count; i++) {
        double median = interval_of(loop, loop->measure->variants[i].samples, round + 1).middle;
        if (!(fabs(median - loop->before[i]) < settled * loop->before[i])) all = false;
        loop->before[i] = median;
    }
    return all;
}

static moire_status warm_up(struct loop *loop)
{
    struct moire_measure *measure = loop->measure;
    double elapsed = 0;
    int64_t round = 0;
    for (bool done = false; !done; round++) {
        MOIRE_TRY(take_round(loop, (uint64_t)round, round));
        if (round == 0 && measure->sample_seconds > 0) choose_calls(measure);
        bool still = has_settled(loop, round);
        MOIRE_TRY(look_at_clock(loop, &elapsed));
        done = round + 1 >= LEAST_WARMUP
               && (still || round + 1 >= MOST_WARMUP || elapsed > measure->most_seconds);
    }
    measure->warmup = round;
    return MOIRE_OK;
}

static bool is_precise(const struct moire_interval *interval)
{
    const double middle = interval->middle;
    return interval->high <= (1 + precise) * middle && interval->low >= (1 - precise) * middle;
}

static bool summarise(const struct loop *loop)
{
    bool all = true;
    for (int i = 0; i < loop->measure->count; i++) {
        struct moire_variant *variant = &loop->measure->variants[i];
        variant->median = interval_of(loop, variant->samples, loop->measure->samples);
        variant->minimum = loop->work[0];
        variant->converged = is_precise(&variant->median);
        all = all && variant->converged;
    }
    return all;
}

static moire_status sample(struct loop *loop)
{
    struct moire_measure *measure = loop->measure;
    double elapsed = 0;
    for (bool done = false; !done;) {
        MOIRE_TRY(take_round(loop, (uint64_t)(measure->warmup + measure->samples), measure->samples));
        measure->samples++;
        bool converged = summarise(loop);
        MOIRE_TRY(look_at_clock(loop, &elapsed));
        done = measure->samples >= LEAST_SAMPLES
               && (converged || measure->samples >= measure->most_samples || elapsed > measure->most_seconds);
    }
    measure->seconds = elapsed;
    return MOIRE_OK;
}

static int64_t capacity_of(const struct moire_measure *measure)
{
    return measure->most_samples > MOST_WARMUP ? measure->most_samples : MOST_WARMUP;
}

static moire_status allocate(struct loop *loop)
{
    struct moire_measure *measure = loop->measure;
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    const int64_t ranks = measure->communicator->size, capacity = capacity_of(measure);
    MOIRE_TRY(moire_allocate(kind, measure->count, sizeof *measure->order, &measure->order));
    MOIRE_TRY(moire_allocate(kind, 2 * ranks + capacity + measure->count, sizeof(double), &measure->scratch));
    loop->times = measure->scratch;
    loop->work = loop->times + 2 * ranks;
    loop->before = loop->work + capacity;
    for (int i = 0; i < measure->count; i++) {
        struct moire_variant *variant = &measure->variants[i];
        MOIRE_TRY(moire_allocate(kind, capacity, sizeof(double), &variant->samples));
        MOIRE_TRY(moire_allocate(kind, capacity * ranks, sizeof(double), &variant->by_rank));
        MOIRE_TRY(moire_allocate(kind, capacity * ranks, sizeof(double), &variant->skew));
    }
    return MOIRE_OK;
}

static void clear(struct moire_measure *measure)
{
    if (measure->most_samples < LEAST_SAMPLES) measure->most_samples = LEAST_SAMPLES;
    if (measure->most_samples > MOIRE_MEASURE_SAMPLES) measure->most_samples = MOIRE_MEASURE_SAMPLES;
    measure->warmup = measure->samples = 0;
    measure->order = NULL;
    measure->scratch = NULL;
    for (int i = 0; i < measure->count; i++) {
        measure->variants[i].calls = 1;
        measure->variants[i].samples = measure->variants[i].by_rank = measure->variants[i].skew = NULL;
    }
}

moire_status moire_measure_run(struct moire_measure *measure)
{
    struct loop loop = { .measure = measure };
    clear(measure);
    MOIRE_TRY(moire_agree(measure->communicator, allocate(&loop)));
    moire_status status = synchronise(&loop);
    loop.started = now(&loop);
    if (status == MOIRE_OK) status = warm_up(&loop);
    if (status == MOIRE_OK && measure->warmed) measure->warmed(measure->warmed_state);
    if (status == MOIRE_OK) status = sample(&loop);
    moire_clock_free(&loop.clock);
    return status;
}

void moire_measure_free(struct moire_measure *measure)
{
    for (int i = 0; i < measure->count; i++) {
        moire_release(measure->variants[i].skew);
        moire_release(measure->variants[i].by_rank);
        moire_release(measure->variants[i].samples);
        measure->variants[i].samples = measure->variants[i].by_rank = measure->variants[i].skew = NULL;
    }
    moire_release(measure->scratch);
    moire_release(measure->order);
    measure->scratch = NULL;
    measure->order = NULL;
}

struct moire_interval moire_measure_ratio(const struct moire_measure *measure, int numerator,
                                          int denominator)
{
    const double *above = measure->variants[numerator].samples;
    const double *below = measure->variants[denominator].samples;
    double *ratios = measure->scratch; /* what the loop needed before; it has room for every sample */
    for (int64_t i = 0; i < measure->samples; i++) ratios[i] = above[i] / below[i];
    return moire_median_interval(ratios, measure->samples);
}
