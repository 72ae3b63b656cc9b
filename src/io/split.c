#include "io/private.h"

#include "moire/base/random.h"

/* Never to change: it would move sequences from validation to training when an old run goes on. */
#define SPLIT_SEED UINT64_C(0x6d6f6972652e6964)

/* How one domain falls out by chance alone, and what is put right. */
struct tally {
    int64_t windows, validation;
    int64_t lowest, highest;             /* windows with the lowest and highest number, */
    double lowest_number, highest_number; /* and these numbers */
    int64_t kept, freed;                 /* window moved to validation, to training; -1: none */
};

static double split_number(int64_t window)
{
    return moire_random_uniform(SPLIT_SEED, moire_random_stream("data split"), (uint64_t)window);
}

static void count_window(struct tally *tally, int64_t window, double number, double share)
{
    if (tally->windows == 0 || number < tally->lowest_number) {
        tally->lowest = window;
        tally->lowest_number = number;
    }
    if (tally->windows == 0 || number > tally->highest_number) {
        tally->highest = window;
        tally->highest_number = number;
    }
    tally->windows++;
    tally->validation += number < share;
}

/* Two windows or more: one stays for training, one is kept for validation. */
static void put_right(struct tally *tally)
{
    tally->kept = tally->freed = -1;
    if (tally->windows < 2) return;
    if (tally->validation == 0) tally->kept = tally->lowest;
    if (tally->validation == tally->windows) tally->freed = tally->highest;
    tally->validation += (tally->kept >= 0) - (tally->freed >= 0);
}

/* The same for the whole, which matters where every domain has one window. Returns validation windows. */
static int64_t put_whole_right(struct tally *tallies, const struct moire_data *data)
{
    struct tally *low = tallies, *high = tallies;
    int64_t validation = 0;
    for (int64_t d = 0; d < data->domain_count; d++) {
        validation += tallies[d].validation;
        if (tallies[d].lowest_number < low->lowest_number) low = &tallies[d];
        if (tallies[d].highest_number > high->highest_number) high = &tallies[d];
    }
    if (validation == data->windows) {
        high->freed = high->highest;
        high->validation--;
        return validation - 1;
    }
    if (validation == 0 && data->windows >= 2) {
        low->kept = low->lowest;
        low->validation++;
        return 1;
    }
    return validation;
}

static void fill(struct moire_data *data, const struct tally *tallies, double share)
{
    int64_t filled = 0;
    for (int64_t window = 0; window < data->windows; window++) {
        const struct tally *tally = &tallies[moire_data_domain_of(data, window)];
        if (window != tally->freed && (window == tally->kept || split_number(window) < share))
            data->validation[filled++] = window;
    }
    moire_assert(filled == data->validation_windows);
}

moire_status moire_data_split(struct moire_data *data, double share)
{
    struct tally *tallies = NULL;
    if (!(share > 0)) return MOIRE_OK;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, data->domain_count, sizeof *tallies, &tallies));
    for (int64_t window = 0; window < data->windows; window++)
        count_window(&tallies[moire_data_domain_of(data, window)], window, split_number(window), share);
    for (int64_t d = 0; d < data->domain_count; d++) put_right(&tallies[d]);
    int64_t validation = put_whole_right(tallies, data);
    moire_status status = moire_allocate(MOIRE_MEMORY_DATA, validation, sizeof *data->validation,
                                         &data->validation);
    if (status == MOIRE_OK) {
        data->validation_windows = validation;
        for (int64_t d = 0; d < data->domain_count; d++)
            data->domains[d].validation_windows = tallies[d].validation;
        fill(data, tallies, share);
    }
    moire_release(tallies);
    return status;
}
