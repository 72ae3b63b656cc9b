/* The measuring loop on a clock that stands still unless a variant moves it, so that every sample is known. */
#include "../support/harness.h"

#include <math.h>
#include <string.h>

#include "fake_clock.h"
#include "moire/base/memory.h"
#include "moire/base/random.h"
#include "moire/observe/measure.h"

enum { CALLS = 4096 };

/* A variant that lasts as long as `seconds` says: start + (calls so far) * drift, and noise. */
struct job {
    int number;
    double start, drift, noise;
    int64_t calls, fail_at;
};
static int order[CALLS]; /* the numbers of the jobs, as they ran */
static int64_t ran;
static int64_t blocks_at_start, blocks_changed;

static moire_status work(void *state)
{
    struct job *job = state;
    if (ran < CALLS) order[ran] = job->number;
    if (ran++ == 0) blocks_at_start = moire_memory_allocations();
    else if (moire_memory_allocations() != blocks_at_start) blocks_changed++;
    double random = moire_random_uniform(7, (uint64_t)job->number, (uint64_t)job->calls) - 0.5;
    double factor = fmax(1, 4 - job->drift * (double)job->calls) + job->noise * random;
    fake_seconds += job->start * factor;
    job->calls++;
    if (job->fail_at && job->calls == job->fail_at) return moire_fail(MOIRE_FAILED, "the job failed");
    return MOIRE_OK;
}

static void start(void)
{
    ran = blocks_changed = 0;
    fake_stands = true;
    fake_seconds = 1000;
}

static struct moire_measure a_measure(const struct moire_communicator *world, struct moire_variant *variants,
                                      int count)
{
    return (struct moire_measure){
        .communicator = world,
        .variants = variants,
        .count = count,
        .most_samples = 100,
        .most_seconds = 1e9,
        .seed = 3,
    };
}

static void steady_variants_converge_at_once(void)
{
    struct moire_communicator world;
    if (test_ranks > 1) return; /* ranks never meet on a clock that stands */
    struct job jobs[3] = { { .number = 0, .start = 1, .drift = 4 },
                           { .number = 1, .start = 2, .drift = 4 },
                           { .number = 2, .start = 4, .drift = 4 } };
    struct moire_variant variants[3] = { { .name = "a", .run = work, .state = &jobs[0] },
                                         { .name = "b", .run = work, .state = &jobs[1] },
                                         { .name = "c", .run = work, .state = &jobs[2] } };
    expect_ok(moire_communicator_world(&world));
    struct moire_measure measure = a_measure(&world, variants, 3);
    start();
    expect_ok(moire_measure_run(&measure));
    fake_stands = false;
    /* the first call is four times as long, the others are alike: the median has settled in the fourth round */
    expect(measure.warmup == 4 && measure.samples == 6 && blocks_changed == 0);
    bool repeated = true;
    for (int i = 0; i < 3; i++) {
        expect(variants[i].converged && variants[i].calls == 1 && jobs[i].calls == 10);
        expect_near(variants[i].median.middle, jobs[i].start, 1e-6);
        expect_near(variants[i].minimum, jobs[i].start, 1e-6);
        expect_near(variants[i].by_rank[3], jobs[i].start, 1e-6);
    }
    for (int round = 0; round < 10; round++) {
        int seen = 0;
        for (int i = 0; i < 3; i++) seen |= 1 << order[3 * round + i];
        expect(seen == 7); /* every round has every variant once */
        if (memcmp(order, order + 3 * round, 3 * sizeof *order) != 0) repeated = false;
    }
    expect(!repeated); /* and the rounds are not all in one order */
    struct moire_interval ratio = moire_measure_ratio(&measure, 2, 0);
    expect_near(ratio.middle, 4, 1e-5);
    expect_near(ratio.low, 4, 1e-5);
    expect_near(ratio.high, 4, 1e-5);
    moire_measure_free(&measure);
    moire_communicator_free(&world);
}

static void noise_takes_samples(void)
{
    struct moire_communicator world;
    if (test_ranks > 1) return; /* ranks never meet on a clock that stands */
    struct job jobs[2] = { { .number = 0, .start = 1, .drift = 4, .noise = 0.16 },
                           { .number = 1, .start = 3, .drift = 4, .noise = 0.16 } };
    struct moire_variant variants[2] = { { .name = "a", .run = work, .state = &jobs[0] },
                                         { .name = "b", .run = work, .state = &jobs[1] } };
    expect_ok(moire_communicator_world(&world));
    struct moire_measure measure = a_measure(&world, variants, 2);
    start();
    expect_ok(moire_measure_run(&measure));
    expect(measure.samples > 6 && measure.samples < 100 && variants[0].converged && variants[1].converged);
    struct moire_interval ratio = moire_measure_ratio(&measure, 1, 0);
    expect(ratio.low < ratio.middle && ratio.middle < ratio.high && ratio.low > 2.5 && ratio.high < 3.5);
    for (int i = 0; i < 2; i++) {
        const struct moire_interval *median = &variants[i].median;
        expect(median->low >= 0.97 * median->middle && median->high <= 1.03 * median->middle);
        expect(variants[i].minimum <= median->low && median->low <= median->middle);
    }
    moire_measure_free(&measure);
    moire_communicator_free(&world);
    fake_stands = false;
}

static void limits_hold(void)
{
    struct moire_communicator world;
    if (test_ranks > 1) return; /* ranks never meet on a clock that stands */
    struct job job = { .start = 1, .drift = 4, .noise = 1.8 };
    struct moire_variant variant = { .name = "noisy", .run = work, .state = &job };
    expect_ok(moire_communicator_world(&world));
    struct moire_measure measure = a_measure(&world, &variant, 1);
    start();
    measure.most_samples = 12;
    expect_ok(moire_measure_run(&measure));
    expect(measure.samples == 12 && !variant.converged && measure.warmup >= 3 && measure.warmup <= 50);
    moire_measure_free(&measure);
    measure.most_samples = 1000;
    measure.most_seconds = 100; /* seconds of the job: about a hundred calls */
    start();
    expect_ok(moire_measure_run(&measure));
    expect(!variant.converged && measure.seconds > 100 && measure.seconds < 110 && measure.samples < 100);
    moire_measure_free(&measure);
    measure.most_seconds = 0; /* and still what an interval needs */
    start();
    expect_ok(moire_measure_run(&measure));
    expect(measure.warmup == 3 && measure.samples == 6);
    moire_measure_free(&measure);
    job = (struct job){ .start = 1, .drift = 0.01 }; /* falls for three hundred calls: slowly, it has settled */
    measure.most_seconds = 1e9;
    start();
    expect_ok(moire_measure_run(&measure));
    expect(measure.warmup == 3);
    moire_measure_free(&measure);
    moire_communicator_free(&world);
    fake_stands = false;
}

static void short_calls_are_repeated(void)
{
    struct moire_communicator world;
    if (test_ranks > 1) return; /* ranks never meet on a clock that stands */
    struct job job = { .start = 0.25, .drift = 4 };
    struct moire_variant variant = { .name = "short", .run = work, .state = &job };
    expect_ok(moire_communicator_world(&world));
    struct moire_measure measure = a_measure(&world, &variant, 1);
    measure.sample_seconds = 8; /* the first call takes a second */
    start();
    expect_ok(moire_measure_run(&measure));
    expect(variant.calls == 8);
    expect(job.calls == 1 + 8 * (measure.warmup - 1 + measure.samples));
    expect_near(variant.median.middle, 0.25, 1e-6);
    moire_measure_free(&measure);
    moire_communicator_free(&world);
    fake_stands = false;
}

static void a_failure_ends_the_run(void)
{
    struct moire_communicator world;
    if (test_ranks > 1) return; /* ranks never meet on a clock that stands */
    struct job job = { .start = 1, .drift = 4, .fail_at = 5 };
    struct moire_variant variant = { .name = "fails", .run = work, .state = &job };
    expect_ok(moire_communicator_world(&world));
    struct moire_measure measure = a_measure(&world, &variant, 1);
    start();
    expect(moire_measure_run(&measure) == MOIRE_FAILED);
    moire_error_clear();
    moire_measure_free(&measure);
    moire_communicator_free(&world);
    fake_stands = false;
}

static void known_intervals(void)
{
    double five[] = { 3, 1, 2, 5, 4 }, six[] = { 6, 1, 5, 2, 4, 3 }, many[100];
    struct moire_interval found = moire_median_interval(five, 5);
    expect(found.middle == 3 && isinf(found.low) && isinf(found.high));
    found = moire_median_interval(six, 6);
    expect(found.middle == 3.5 && found.low == 1 && found.high == 6);
    for (int i = 0; i < 100; i++) many[i] = (double)(i * 37 % 100 + 1);
    found = moire_median_interval(many, 100); /* the tables have 40 and 61 */
    expect(found.middle == 50.5 && found.low == 40 && found.high == 61);
}

static void known_quantiles(void)
{
    double one[] = { 7 }, many[100];
    for (int i = 0; i < 100; i++) many[i] = (double)(i * 37 % 100 + 1);
    expect(moire_quantile(one, 1, 0.99) == 7);
    expect(moire_quantile(many, 100, 0.99) == 99 && moire_quantile(many, 100, 1) == 100);
    expect(moire_quantile(many, 100, 0.5) == 50 && moire_quantile(many, 3, 0.01) == 1);
}

/* Several ranks: the true clock, shifted on every rank, and one rank that is late. */
static moire_status late(void *state)
{
    double *seconds = state, until = *seconds * test_rank;
    struct timespec begin, now;
    __real_clock_gettime(CLOCK_MONOTONIC, &begin);
    do __real_clock_gettime(CLOCK_MONOTONIC, &now);
    while ((double)(now.tv_sec - begin.tv_sec) + 1e-9 * (double)(now.tv_nsec - begin.tv_nsec) < until);
    return MOIRE_OK;
}

static moire_status fails_on_the_last(void *state)
{
    (void)state;
    return test_rank == test_ranks - 1 ? moire_fail(MOIRE_FAILED, "not here") : MOIRE_OK;
}

static void ranks_meet(void)
{
    struct moire_communicator world;
    double seconds = 2e-3;
    struct moire_variant variants[2] = { { .name = "late", .run = late, .state = &seconds },
                                         { .name = "fails", .run = fails_on_the_last } };
    expect_ok(moire_communicator_world(&world));
    struct moire_measure measure = a_measure(&world, variants, 1);
    measure.most_samples = 6;
    fake_shift = 500.0 * test_rank;
    expect_ok(moire_measure_run(&measure));
    for (int64_t i = 0; i < measure.samples; i++) {
        double longest = 0, least = 400, most = 0;
        for (int rank = 0; rank < test_ranks; rank++) {
            longest = fmax(longest, variants[0].by_rank[i * test_ranks + rank]);
            least = fmin(least, variants[0].skew[i * test_ranks + rank]);
            most = fmax(most, variants[0].skew[i * test_ranks + rank]);
        }
        expect(least == 0 && most < 400); /* one rank is the last to start */
        expect(variants[0].samples[i] == longest && fabs(longest) < 400); /* the shifts do not show */
    }
    double medians[2] = { variants[0].median.middle, -variants[0].median.middle };
    expect_ok(moire_max_reals(&world, medians, 2));
    expect(medians[0] == -medians[1]); /* all ranks know the same */
    moire_measure_free(&measure);
    measure.variants = &variants[1];
    moire_status status = moire_measure_run(&measure);
    expect(status == MOIRE_FAILED);
    moire_error_clear();
    moire_measure_free(&measure);
    fake_shift = 0;
    moire_communicator_free(&world);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "steady variants converge at once, in random order", steady_variants_converge_at_once },
        { "noise takes more samples, and a ratio has its interval", noise_takes_samples },
        { "limits of samples and seconds hold", limits_hold },
        { "short calls are repeated", short_calls_are_repeated },
        { "a failure ends the run", a_failure_ends_the_run },
        { "intervals of the median are those of the tables", known_intervals },
        { "known quantiles", known_quantiles },
        { "ranks meet and agree", ranks_meet },
    };
    return test_main(argc, argv, "1 2 3", tests, sizeof tests / sizeof *tests);
}
