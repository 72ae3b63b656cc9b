#include "moire/compute/emulate.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "moire/base/status.h"
#include "moire/observe/clock.h"

/* Seconds. Sleeping for less than LEAST takes longer than was asked for. */
#define LEAST 50e-6
#define LONGEST_CREDIT 1e-3
#define PIECE_IN_FLIGHT 200e-6
#define PIECE_IDLE 50e-3

static struct {
    double rate; /* 0: off */
    double flop;
    double debt; /* seconds still to wait; below zero: slept too long */
    bool (*progress)(void *context);
    void *context;
} emulation;

void moire_emulate_start(double rate)
{
    moire_assert(rate > 0);
    moire_emulate_stop();
    emulation.rate = rate;
}

void moire_emulate_stop(void)
{
    emulation.rate = emulation.flop = emulation.debt = 0;
    moire_emulate_progress(NULL, NULL);
}

void moire_emulate_progress(bool (*progress)(void *context), void *context)
{
    emulation.progress = progress;
    emulation.context = context;
}

bool moire_is_emulated(void)
{
    return emulation.rate > 0;
}

static void sleep_seconds(double seconds)
{
    struct timespec time = { .tv_sec = (time_t)seconds };
    time.tv_nsec = (long)((seconds - floor(seconds)) * 1e9);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL); /* an early end is seen on the clock */
}

static void pay(void)
{
    const double start = moire_seconds(), end = start + emulation.debt;
    double now = start;
    while (now < end) {
        bool in_flight = emulation.progress && emulation.progress(emulation.context);
        sleep_seconds(fmin(end - now, in_flight ? PIECE_IN_FLIGHT : PIECE_IDLE));
        now = moire_seconds();
    }
    emulation.debt = fmax(end - now, -LONGEST_CREDIT);
}

bool moire_emulate_work(double flop)
{
    if (!moire_is_emulated()) return false;
    emulation.flop += flop;
    emulation.debt += flop / emulation.rate;
    if (emulation.debt >= LEAST) pay();
    return true;
}

void moire_emulate_settle(void)
{
    if (emulation.debt > 0) pay();
    emulation.debt = 0;
}

double moire_emulate_flop(void)
{
    return emulation.flop;
}

/* 1e12, not the 1e+12 of printf. */
void moire_emulate_describe(char *text, size_t bytes)
{
    char rate[32], *to = rate;
    snprintf(rate, sizeof rate, "%.6g", emulation.rate);
    for (const char *from = rate; *from; from++)
        if (*from != '+') *to++ = *from;
    *to = '\0';
    if (moire_is_emulated())
        snprintf(text, bytes, "emulated at %s FLOP/s", rate);
    else
        snprintf(text, bytes, "real");
}
