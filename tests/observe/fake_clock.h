/* The clock of observe under the test's control; link with -Wl,--wrap=clock_gettime. */
#ifndef MOIRE_TESTS_FAKE_CLOCK_H
#define MOIRE_TESTS_FAKE_CLOCK_H

#include <stdbool.h>
#include <time.h>

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

static double fake_shift; /* added to the true time */
static bool fake_stands;  /* the time is fake_seconds alone */
static double fake_seconds;

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = __real_clock_gettime(clock, now);
    double seconds =
        fake_stands ? fake_seconds : (double)now->tv_sec + 1e-9 * (double)now->tv_nsec + fake_shift;
    now->tv_sec = (time_t)seconds;
    now->tv_nsec = (long)((seconds - (double)now->tv_sec) * 1e9);
    return result;
}

#endif
