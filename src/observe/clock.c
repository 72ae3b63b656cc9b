#include "moire/observe/clock.h"

#include <string.h>
#include <time.h>

#include "moire/base/memory.h"

static double read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double moire_seconds(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

double moire_wall_seconds(void)
{
    return read_clock(CLOCK_REALTIME);
}

void moire_wall_text(char text[24])
{
    time_t now = (time_t)moire_wall_seconds();
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(text, 24, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

enum { TAG = 1 };

struct estimate {
    double offset, uncertainty;
};

static moire_status send_values(const struct moire_communicator *communicator, int rank, const void *values,
                                int count)
{
    int result = MPI_Send(values, count, MPI_DOUBLE, rank, TAG, communicator->mpi);
    return moire_mpi_check(result, communicator, "MPI_Send");
}

static moire_status receive_values(const struct moire_communicator *communicator, int rank, void *values,
                                   int count)
{
    int result = MPI_Recv(values, count, MPI_DOUBLE, rank, TAG, communicator->mpi, MPI_STATUS_IGNORE);
    return moire_mpi_check(result, communicator, "MPI_Recv");
}

/* Rank 0's side. The other clock is read between two readings here, so half the trip bounds the error. */
static moire_status measure(const struct moire_communicator *communicator, int rank, int rounds,
                            struct estimate *best)
{
    for (int round = 0; round < rounds; round++) {
        double there, sent = moire_seconds();
        MOIRE_TRY(send_values(communicator, rank, &sent, 1));
        MOIRE_TRY(receive_values(communicator, rank, &there, 1));
        double received = moire_seconds(), uncertainty = (received - sent) / 2;
        if (round == 0 || uncertainty < best->uncertainty)
            *best = (struct estimate){ .offset = there - (sent + received) / 2, .uncertainty = uncertainty };
    }
    return send_values(communicator, rank, best, 2);
}

static moire_status answer(const struct moire_communicator *communicator, int rounds, struct estimate *result)
{
    for (int round = 0; round < rounds; round++) {
        double there;
        MOIRE_TRY(receive_values(communicator, 0, &there, 1));
        there = moire_seconds();
        MOIRE_TRY(send_values(communicator, 0, &there, 1));
    }
    return receive_values(communicator, 0, result, 2);
}

static moire_status measure_all(const struct moire_communicator *communicator, int rounds,
                                struct moire_clock *clock)
{
    for (int rank = 1; rank < communicator->size; rank++) {
        struct estimate best = { 0, 0 };
        MOIRE_TRY(measure(communicator, rank, rounds, &best));
        clock->offsets[rank] = best.offset;
        clock->uncertainties[rank] = best.uncertainty;
    }
    return MOIRE_OK;
}

static moire_status allocate(int ranks, struct moire_clock *clock)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *clock->offsets, &clock->offsets));
    return moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *clock->uncertainties, &clock->uncertainties);
}

moire_status moire_clock_synchronise(const struct moire_communicator *communicator, int rounds,
                                     struct moire_clock *clock)
{
    struct moire_clock new = { 0, 0, NULL, NULL };
    struct estimate mine = { 0, 0 };
    if (rounds < 1) rounds = 1;
    moire_status status = communicator->rank == 0 ? allocate(communicator->size, &new) : MOIRE_OK;
    status = moire_agree(communicator, status);
    if (status != MOIRE_OK) goto free_clock;
    if (communicator->rank == 0)
        status = measure_all(communicator, rounds, &new);
    else
        status = answer(communicator, rounds, &mine);
    if (status != MOIRE_OK) goto free_clock;
    new.offset_seconds = mine.offset;
    new.uncertainty_seconds = mine.uncertainty;
    *clock = new;
    return MOIRE_OK;

free_clock:
    moire_clock_free(&new);
    return status;
}

void moire_clock_free(struct moire_clock *clock)
{
    moire_release(clock->uncertainties);
    moire_release(clock->offsets);
    memset(clock, 0, sizeof *clock);
}
