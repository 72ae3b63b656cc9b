#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>

#include "../support/capture.h"
#include "fake_clock.h"
#include "moire/base/memory.h"
#include "moire/base/random.h"
#include "moire/observe/phases.h"

static struct moire_communicator world;

static void start(void)
{
    moire_phases_reset();
    fake_stands = true;
    fake_seconds = 1000;
    expect_ok(moire_communicator_world(&world));
}

static void finish(void)
{
    fake_stands = false;
    moire_phases_reset();
    moire_communicator_free(&world);
}

static double spend(moire_phase phase, double seconds)
{
    moire_phase_begin(phase);
    fake_seconds += seconds;
    return moire_phase_end(phase);
}

static bool phase_is(const char *name)
{
    return name ? moire_where.phase && strcmp(moire_where.phase, name) == 0 : moire_where.phase == NULL;
}

static void every_phase_has_a_name(void)
{
    for (int phase = 0; phase < MOIRE_PHASES; phase++) {
        const char *name = moire_phase_name((moire_phase)phase);
        expect(name != NULL && name[0] != '\0' && strlen(name) < 24);
        for (int other = 0; other < phase; other++)
            expect(strcmp(name, moire_phase_name((moire_phase)other)) != 0);
    }
    expect(strcmp(moire_phase_name(MOIRE_PHASE_GRADIENT_SYNC), "gradient sync") == 0);
    expect(strcmp(moire_phase_name(MOIRE_PHASES), "unknown phase") == 0);
}

static void phases_nest(void)
{
    start();
    moire_phase_begin(MOIRE_PHASE_STEP);
    expect(phase_is("step"));
    for (int pass = 0; pass < 2; pass++) {
        moire_phase around = pass ? MOIRE_PHASE_BACKWARD : MOIRE_PHASE_FORWARD;
        moire_phase_begin(around);
        fake_seconds += 1;
        expect_near(spend(MOIRE_PHASE_EXPERTS, pass ? 4 : 2), pass ? 4 : 2, 1e-6);
        expect(phase_is(pass ? "backward" : "forward"));
        expect_near(spend(MOIRE_PHASE_EXPERTS, 0.5), 0.5, 1e-6);
        moire_phase_end(around);
    }
    expect_near(moire_phase_end(MOIRE_PHASE_STEP), 9, 1e-6);
    expect(phase_is(NULL));
    expect_near(moire_phase_seconds(MOIRE_PHASE_STEP), 9, 1e-6);
    expect_near(moire_phase_seconds(MOIRE_PHASE_FORWARD), 3.5, 1e-6);
    expect_near(moire_phase_seconds(MOIRE_PHASE_EXPERTS), 7, 1e-6);
    expect(moire_phase_calls(MOIRE_PHASE_EXPERTS) == 4 && moire_phase_calls(MOIRE_PHASE_STEP) == 1);
    expect(moire_phase_calls(MOIRE_PHASE_DATA) == 0 && moire_phase_seconds(MOIRE_PHASE_DATA) == 0);
    moire_phases_reset();
    expect(moire_phase_calls(MOIRE_PHASE_EXPERTS) == 0 && moire_phase_seconds(MOIRE_PHASE_STEP) == 0);
    finish();
}

static void a_phase_within_itself_counts_its_seconds_once(void)
{
    start();
    moire_phase_begin(MOIRE_PHASE_NORM);
    fake_seconds += 1;
    spend(MOIRE_PHASE_NORM, 2);
    moire_phase_end(MOIRE_PHASE_NORM);
    expect_near(moire_phase_seconds(MOIRE_PHASE_NORM), 3, 1e-6);
    expect(moire_phase_calls(MOIRE_PHASE_NORM) == 2);
    finish();
}

static void a_failure_may_leave_phases_open(void)
{
    start();
    moire_phase_begin(MOIRE_PHASE_STEP);
    moire_phase_begin(MOIRE_PHASE_FORWARD);
    moire_phase_begin(MOIRE_PHASE_DISPATCH);
    fake_seconds += 2;
    expect(moire_fail(MOIRE_FAILED, "on purpose") == MOIRE_FAILED);
    expect(strstr(moire_error_text(), "dispatch: on purpose") != NULL);
    expect_near(moire_phase_end(MOIRE_PHASE_STEP), 2, 1e-6);
    expect(phase_is(NULL));
    expect_near(moire_phase_seconds(MOIRE_PHASE_DISPATCH), 2, 1e-6);
    expect(moire_phase_end(MOIRE_PHASE_STEP) == 0); /* none open */
    moire_phase_begin(MOIRE_PHASE_STEP);
    moire_phases_reset();
    expect(phase_is(NULL));
    expect(moire_phase_end(MOIRE_PHASE_STEP) == 0);
    moire_error_clear();
    finish();
}

static void deep_nesting_is_survived(void)
{
    enum { DEEP = 40 };
    start();
    for (int i = 0; i < DEEP; i++) {
        moire_phase_begin((moire_phase)(i % MOIRE_PHASES));
        fake_seconds += 1;
    }
    for (int i = DEEP - 1; i >= 0; i--) {
        int known = i < 16 || i == DEEP - 1 ? i : 15; /* of those too deep only the innermost */
        expect(phase_is(moire_phase_name((moire_phase)(known % MOIRE_PHASES))));
        expect_near(moire_phase_end((moire_phase)(i % MOIRE_PHASES)), i < 16 ? DEEP - i : 0, 1e-6);
    }
    expect(phase_is(NULL));
    expect_near(spend(MOIRE_PHASE_STEP, 3), 3, 1e-6);
    expect(moire_phase_calls((moire_phase)16) == 0); /* too deep to be timed */
    finish();
}

static void a_full_tree_counts_in_the_place_around(void)
{
    struct moire_phase_row *rows;
    int count;
    start();
    int64_t allocations = moire_memory_allocations();
    for (int outer = 0; outer < MOIRE_PHASES; outer++) {
        moire_phase_begin((moire_phase)outer);
        for (int inner = 0; inner < MOIRE_PHASES; inner++) spend((moire_phase)inner, 1);
        expect_near(moire_phase_end((moire_phase)outer), MOIRE_PHASES, 1e-6);
    }
    expect(moire_memory_allocations() == allocations);
    for (int phase = 0; phase < MOIRE_PHASES; phase++) {
        expect(moire_phase_calls((moire_phase)phase) == MOIRE_PHASES + 1);
        expect_near(moire_phase_seconds((moire_phase)phase), 2 * MOIRE_PHASES - 1, 1e-6);
    }
    expect_ok(moire_phases_gather(&world, &rows, &count));
    expect(count == 128);
    for (int i = 0; i < count; i++)
        if (rows[i].depth == 0) expect_near(rows[i].seconds_mean, MOIRE_PHASES, 1e-6);
    moire_release(rows);
    finish();
}

/* Random trees of at most three levels of four phases, another one on every rank. A place has a code: the
 * digits of its path in base 5. */
enum { KINDS = 4, CODES = 125 };
struct tally {
    double seconds[CODES];
    double calls[CODES];
};

static void grow_tree(int code, int depth, int rank, uint64_t *draws, struct tally *tally)
{
    int children = (int)moire_random_below(test_seed, (uint64_t)rank, (*draws)++, depth ? 3 : 5);
    for (int i = 0; i < children; i++) {
        int kind = (int)moire_random_below(test_seed, (uint64_t)rank, (*draws)++, KINDS);
        int own = code * (KINDS + 1) + kind + 1;
        moire_phase phase = (moire_phase)(kind * 4 + 2);
        double began = fake_seconds;
        moire_phase_begin(phase);
        fake_seconds +=
            1 + rank + (double)moire_random_below(test_seed, (uint64_t)rank, (*draws)++, 100) / 100;
        if (depth < 2) grow_tree(own, depth + 1, rank, draws, tally);
        moire_phase_end(phase);
        tally->seconds[own] += fake_seconds - began;
        tally->calls[own]++;
    }
}

/* Codes of the rows, from depths and phases; every place once, children under their parents. */
static bool find_codes(const struct moire_phase_row *rows, int count, int *codes)
{
    int path[4] = { 0, 0, 0, 0 };
    bool seen[CODES] = { false };
    for (int i = 0; i < count; i++) {
        if (rows[i].depth < 0 || rows[i].depth > (i ? rows[i - 1].depth + 1 : 0) || rows[i].depth > 2)
            return false;
        int code = path[rows[i].depth] * (KINDS + 1) + ((int)rows[i].phase - 2) / 4 + 1;
        if (seen[code]) return false;
        seen[code] = true;
        codes[i] = path[rows[i].depth + 1] = code;
    }
    return true;
}

static void check_row(const struct moire_phase_row *row, int code, const struct tally *all)
{
    double minimum = 1e300, maximum = -1, sum = 0;
    int rank_of_maximum = 0;
    for (int rank = 0; rank < test_ranks; rank++) {
        double seconds = all[rank].seconds[code];
        if (seconds < minimum) minimum = seconds;
        if (seconds > maximum + 1e-6) {
            maximum = seconds;
            rank_of_maximum = rank;
        }
        sum += seconds;
    }
    expect_near(row->seconds_minimum, minimum, 1e-6);
    expect_near(row->seconds_maximum, maximum, 1e-6);
    expect_near(row->seconds_mean, sum / test_ranks, 1e-6);
    expect(row->rank_of_maximum == rank_of_maximum);
    expect(row->calls == (int64_t)all[0].calls[code]);
}

static void trees_of_all_ranks_are_united(void)
{
    static struct tally all[16];
    for (int round = 0; round < 20; round++) {
        struct tally own = { { 0 }, { 0 } };
        struct moire_phase_row *rows;
        int count, codes[CODES], places = 0;
        uint64_t draws = (uint64_t)round * 1000;
        start();
        grow_tree(0, 0, test_rank, &draws, &own);
        MPI_Allgather(&own, 2 * CODES, MPI_DOUBLE, all, 2 * CODES, MPI_DOUBLE, MPI_COMM_WORLD);
        for (int code = 1; code < CODES; code++)
            for (int rank = 0; rank < test_ranks; rank++)
                if (all[rank].calls[code] > 0) {
                    places++;
                    break;
                }
        expect_ok(moire_phases_gather(&world, &rows, &count));
        expect(count == places);
        if (count <= CODES && find_codes(rows, count, codes))
            for (int i = 0; i < count; i++) check_row(&rows[i], codes[i], all);
        else
            expect(!"a tree in depth-first order");
        moire_release(rows);
        finish();
    }
}

static void no_phases_no_rows(void)
{
    struct moire_phase_row *rows;
    int count = -1;
    start();
    expect_ok(moire_phases_gather(&world, &rows, &count));
    expect(count == 0);
    moire_release(rows);
    finish();
}

/* A training run in outline, a little slower on higher ranks. */
static void act_out_a_run(void)
{
    double slower = 1 + 0.01 * test_rank;
    for (int step = 0; step < 20; step++) {
        moire_phase_begin(MOIRE_PHASE_STEP);
        spend(MOIRE_PHASE_DATA, 0.0004);
        for (int pass = 0; pass < 2; pass++) {
            moire_phase_begin(pass ? MOIRE_PHASE_BACKWARD : MOIRE_PHASE_FORWARD);
            for (int layer = 0; layer < 4; layer++) {
                spend(MOIRE_PHASE_ATTENTION, 0.01 * slower);
                moire_phase_begin(MOIRE_PHASE_FEED_FORWARD);
                spend(MOIRE_PHASE_DISPATCH, 0.003);
                spend(MOIRE_PHASE_EXPERTS, (1 + pass) * 0.02 * slower);
                spend(MOIRE_PHASE_COMBINE, 0.003);
                moire_phase_end(MOIRE_PHASE_FEED_FORWARD);
            }
            moire_phase_end(pass ? MOIRE_PHASE_BACKWARD : MOIRE_PHASE_FORWARD);
        }
        spend(MOIRE_PHASE_GRADIENT_SYNC, 0.01);
        spend(MOIRE_PHASE_OPTIMIZER, 0.007);
        moire_phase_end(MOIRE_PHASE_STEP);
    }
    spend(MOIRE_PHASE_CHECKPOINT, 123456.7);
}

static void the_table_fits_80_columns(void)
{
    struct capture capture;
    start();
    act_out_a_run();
    capture_begin(&capture, 1);
    expect_ok(moire_phases_print(&world));
    capture_end(&capture);
    finish();
    if (test_rank > 0) {
        expect(capture.text[0] == '\0');
        return;
    }
    if (getenv("MOIRE_TEST_SHOW")) fputs(capture.text, stderr);
    expect(strncmp(capture.text, "phase ", 6) == 0);
    expect(count_text(capture.text, "\n") == 18);
    expect(strstr(capture.text, "\n  gradient sync  ") != NULL);
    expect(strstr(capture.text, "\n      experts  ") != NULL);
    expect(strstr(capture.text, "123456.7") != NULL && strstr(capture.text, "100.0 %\n") != NULL);
    for (char *line = strtok(capture.text, "\n"); line; line = strtok(NULL, "\n")) expect(strlen(line) <= 80);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "every phase has a name", every_phase_has_a_name },
        { "phases nest", phases_nest },
        { "a phase within itself counts its seconds once", a_phase_within_itself_counts_its_seconds_once },
        { "a failure may leave phases open", a_failure_may_leave_phases_open },
        { "deep nesting is survived", deep_nesting_is_survived },
        { "a full tree counts in the place around", a_full_tree_counts_in_the_place_around },
        { "trees of all ranks are united", trees_of_all_ranks_are_united },
        { "no phases, no rows", no_phases_no_rows },
        { "the table fits 80 columns", the_table_fits_80_columns },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
