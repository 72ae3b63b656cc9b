/* Phases of all ranks. Ranks may have entered different places: the tree of rank 0 is sent to all, then,
 * while a rank misses one of its places in what was sent, that of the lowest such rank. As a rule one round
 * does. */
#include <stdio.h>
#include <string.h>

#include "moire/base/memory.h"
#include "moire/observe/statistics.h"
#include "observe/phases.h"

/* A tree as it travels. */
struct packed_tree {
    int count;
    struct {
        int parent, phase;
    } places[PLACES + 1];
};

static void pack(const struct phase_tree *tree, struct packed_tree *packed)
{
    memset(packed, 0, sizeof *packed);
    packed->count = tree->count;
    for (int i = 1; i < tree->count; i++) {
        packed->places[i].parent = tree->places[i].parent;
        packed->places[i].phase = (int)tree->places[i].phase;
    }
}

static void merge(struct phase_tree *all, const struct packed_tree *packed)
{
    int place[PLACES + 1] = { 0 };
    for (int i = 1; i < packed->count; i++) {
        moire_phase phase = (moire_phase)packed->places[i].phase;
        place[i] = phase_tree_place(all, place[packed->places[i].parent], phase);
    }
}

/* Where this rank's places are in the tree of all: place[i]. False when one is missing. */
static bool locate(const struct phase_tree *all, int place[PLACES + 1])
{
    const struct phase_tree *own = phases_own_tree();
    place[0] = 0;
    for (int i = 1; i < own->count; i++) {
        place[i] = phase_tree_find(all, place[own->places[i].parent], own->places[i].phase);
        if (!place[i]) return false;
    }
    return true;
}

static moire_status unite(const struct moire_communicator *communicator, struct phase_tree *all,
                          int place[PLACES + 1])
{
    int64_t wanting = communicator->size; /* size - the lowest rank that misses a place; rank 0 begins */
    while (wanting > 0) {
        struct packed_tree packed;
        pack(phases_own_tree(), &packed);
        MOIRE_TRY(moire_broadcast(communicator, &packed, sizeof packed, communicator->size - (int)wanting));
        moire_status status = moire_grow(MOIRE_MEMORY_OTHER, &all->places, &all->capacity,
                                         (int64_t)all->count + packed.count, sizeof *all->places);
        MOIRE_TRY(moire_agree(communicator, status));
        merge(all, &packed);
        wanting = locate(all, place) ? 0 : communicator->size - communicator->rank;
        MOIRE_TRY(moire_max_integers(communicator, &wanting, 1));
    }
    return MOIRE_OK;
}

/* The place after `place` in depth-first order, 0 at the end; *depth follows. */
static int next_place(const struct phase_tree *all, int place, int *depth)
{
    if (all->places[place].first_child) {
        (*depth)++;
        return all->places[place].first_child;
    }
    while (place && !all->places[place].next_sibling) {
        place = all->places[place].parent;
        (*depth)--;
    }
    return all->places[place].next_sibling;
}

/* Working arrays, by place of the tree of all. */
struct values {
    double *seconds;
    int64_t *calls;
    struct moire_statistic *statistics;
};

static moire_status allocate(struct values *values, int places, struct moire_phase_row **rows)
{
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    MOIRE_TRY(moire_allocate(kind, places, sizeof *values->seconds, &values->seconds));
    MOIRE_TRY(moire_allocate(kind, places, sizeof *values->calls, &values->calls));
    MOIRE_TRY(moire_allocate(kind, places, sizeof *values->statistics, &values->statistics));
    return moire_allocate(kind, places, sizeof **rows, rows);
}

static moire_status reduce(const struct moire_communicator *communicator, const int place[PLACES + 1],
                           int places, struct values *values)
{
    const struct phase_tree *own = phases_own_tree();
    for (int i = 1; i < own->count; i++) {
        values->seconds[place[i]] = own->places[i].seconds;
        values->calls[place[i]] = own->places[i].calls;
    }
    MOIRE_TRY(moire_broadcast(communicator, values->calls, places * (int64_t)sizeof *values->calls, 0));
    return moire_statistics(communicator, values->seconds, places, values->statistics);
}

static void fill_rows(const struct phase_tree *all, const struct values *values, struct moire_phase_row *rows)
{
    int depth = -1;
    for (int place = next_place(all, 0, &depth); place; place = next_place(all, place, &depth)) {
        const struct moire_statistic *statistic = &values->statistics[place];
        *rows++ = (struct moire_phase_row){
            .phase = all->places[place].phase,
            .depth = depth,
            .calls = values->calls[place],
            .seconds_minimum = statistic->minimum,
            .seconds_mean = statistic->mean,
            .seconds_maximum = statistic->maximum,
            .rank_of_maximum = statistic->rank_of_maximum,
        };
    }
}

moire_status moire_phases_gather(const struct moire_communicator *communicator, struct moire_phase_row **rows,
                                 int *count)
{
    struct phase_tree all = { NULL, 1, 0 };
    struct values values = { NULL, NULL, NULL };
    struct moire_phase_row *new_rows = NULL;
    int place[PLACES + 1];
    moire_status status = unite(communicator, &all, place);
    if (status != MOIRE_OK) goto release_all;
    status = moire_agree(communicator, allocate(&values, all.count, &new_rows));
    if (status != MOIRE_OK) goto release_all;
    status = reduce(communicator, place, all.count, &values);
    if (status != MOIRE_OK) goto release_all;
    fill_rows(&all, &values, new_rows);
    *rows = new_rows;
    *count = all.count - 1;
    new_rows = NULL;

release_all:
    moire_release(new_rows);
    moire_release(values.statistics);
    moire_release(values.calls);
    moire_release(values.seconds);
    moire_release(all.places);
    return status;
}

enum { NAME_WIDTH = 24 };

/* Nine columns at any size. */
static void print_seconds(double seconds)
{
    printf(" %9.*f", seconds < 99999 ? 3 : seconds < 9999999 ? 1 : 0, seconds);
}

static void print_row(const struct moire_phase_row *row, double whole)
{
    const char *name = moire_phase_name(row->phase);
    int indent = 2 * row->depth, room = NAME_WIDTH - (int)strlen(name);
    if (indent > room) indent = room;
    printf("%*s%-*s %8lld", indent, "", NAME_WIDTH - indent, name, (long long)row->calls);
    print_seconds(row->seconds_minimum);
    print_seconds(row->seconds_mean);
    print_seconds(row->seconds_maximum);
    printf(" %7d", row->rank_of_maximum);
    if (whole > 0) printf(" %5.1f %%", 100 * row->seconds_mean / whole);
    putchar('\n');
}

moire_status moire_phases_print(const struct moire_communicator *communicator)
{
    struct moire_phase_row *rows;
    int count;
    MOIRE_TRY(moire_phases_gather(communicator, &rows, &count));
    if (communicator->rank == 0) {
        double whole = 0; /* the outermost rows together */
        for (int i = 0; i < count; i++)
            if (rows[i].depth == 0) whole += rows[i].seconds_mean;
        printf("%-*s %8s %9s %9s %9s %7s %7s\n", NAME_WIDTH, "phase", "calls", "min s", "mean s", "max s",
               "at rank", "share");
        for (int i = 0; i < count; i++) print_row(&rows[i], whole);
        fflush(stdout);
    }
    moire_release(rows);
    return MOIRE_OK;
}
