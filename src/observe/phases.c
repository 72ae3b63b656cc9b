#include "observe/phases.h"

#include <string.h>

#include "moire/observe/clock.h"

enum { DEPTH = 16 }; /* phases open at once */

static const char *const names[MOIRE_PHASES] = {
    [MOIRE_PHASE_STEP] = "step",
    [MOIRE_PHASE_DATA] = "data",
    [MOIRE_PHASE_FORWARD] = "forward",
    [MOIRE_PHASE_BACKWARD] = "backward",
    [MOIRE_PHASE_EMBEDDING] = "embedding",
    [MOIRE_PHASE_NORM] = "norm",
    [MOIRE_PHASE_ATTENTION] = "attention",
    [MOIRE_PHASE_FEED_FORWARD] = "feed-forward",
    [MOIRE_PHASE_ROUTER] = "router",
    [MOIRE_PHASE_PREPARE] = "prepare",
    [MOIRE_PHASE_DISPATCH] = "dispatch",
    [MOIRE_PHASE_EXPERTS] = "experts",
    [MOIRE_PHASE_COMBINE] = "combine",
    [MOIRE_PHASE_HEAD] = "head",
    [MOIRE_PHASE_GRADIENT_SYNC] = "gradient sync",
    [MOIRE_PHASE_OPTIMIZER] = "optimizer",
    [MOIRE_PHASE_PARAMETER_SYNC] = "parameter sync",
    [MOIRE_PHASE_EVALUATION] = "evaluation",
    [MOIRE_PHASE_CHECKPOINT] = "checkpoint",
    [MOIRE_PHASE_METRICS] = "metrics",
};

struct open_phase {
    moire_phase phase;
    int place;       /* where it counts; the root when it does not */
    double started;
};

static struct place places[PLACES + 1];
static struct phase_tree tree = { places, 1, PLACES + 1 };
static struct open_phase open_phases[DEPTH];
static int depth; /* open phases; those beyond DEPTH are counted but not timed */

/* By phase, over all places; a phase within itself counts once. Right also when the tree is full. */
static struct total {
    double seconds;
    int64_t calls;
    int open;
} totals[MOIRE_PHASES];

const char *moire_phase_name(moire_phase phase)
{
    return (int)phase >= 0 && phase < MOIRE_PHASES ? names[phase] : "unknown phase";
}

const struct phase_tree *phases_own_tree(void)
{
    return &tree;
}

int phase_tree_find(const struct phase_tree *in, int parent, moire_phase phase)
{
    int place = in->places[parent].first_child;
    while (place && in->places[place].phase != phase) place = in->places[place].next_sibling;
    return place;
}

int phase_tree_place(struct phase_tree *in, int parent, moire_phase phase)
{
    int place = phase_tree_find(in, parent, phase);
    if (place || in->count == in->capacity) return place;
    place = in->count++;
    in->places[place] = (struct place){ .phase = phase, .parent = parent };
    int last = in->places[parent].last_child;
    if (last)
        in->places[last].next_sibling = place;
    else
        in->places[parent].first_child = place;
    in->places[parent].last_child = place;
    return place;
}

void moire_phase_begin(moire_phase phase)
{
    moire_where.phase = moire_phase_name(phase);
    if (depth < DEPTH) {
        struct open_phase *this = &open_phases[depth];
        int parent = depth ? this[-1].place : 0;
        /* Within a phase without a place this one gets none either: it would stand in a wrong one. */
        this->place = depth && !parent ? 0 : phase_tree_place(&tree, parent, phase);
        this->phase = phase;
        totals[phase].open++;
        this->started = moire_seconds();
    }
    depth++;
}

/* The phase around the ended one is where the process is now. */
static double end_innermost(double now)
{
    depth--;
    int within = depth < DEPTH ? depth : DEPTH;
    moire_where.phase = within ? moire_phase_name(open_phases[within - 1].phase) : NULL;
    if (depth >= DEPTH) return 0;
    const struct open_phase *this = &open_phases[depth];
    double seconds = now - this->started;
    if (this->place) {
        tree.places[this->place].seconds += seconds;
        tree.places[this->place].calls++;
    }
    struct total *total = &totals[this->phase];
    if (--total->open == 0) total->seconds += seconds;
    total->calls++;
    return seconds;
}

double moire_phase_end(moire_phase phase)
{
    double now = moire_seconds();
    if (depth > DEPTH) return end_innermost(now);
    int place = depth - 1;
    while (place >= 0 && open_phases[place].phase != phase) place--;
    /* A failure that passes through leaves phases open: they end with the one around them. */
    moire_assert((place >= 0 && place == depth - 1) || moire_error_is_agreed() || moire_error_text()[0]);
    double seconds = 0;
    while (place >= 0 && depth > place) seconds = end_innermost(now);
    return seconds;
}

double moire_phase_seconds(moire_phase phase)
{
    return totals[phase].seconds;
}

int64_t moire_phase_calls(moire_phase phase)
{
    return totals[phase].calls;
}

void moire_phases_reset(void)
{
    memset(places, 0, sizeof places);
    memset(totals, 0, sizeof totals);
    tree.count = 1;
    depth = 0;
    moire_where.phase = NULL;
}
