/* The ends of a run: signals, failures of one rank, differences between ranks. */
#include "../support/harness.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../support/capture.h"
#include "hooks.h"
#include "moire/base/file.h"
#include "moire/io/checkpoint.h"
#include "moire/train/train.h"
#include "tiny.h"

static void begin(struct moire_config *config)
{
    memset(&hook, 0, sizeof hook);
    make_config(config);
}

/* Trains with both outputs kept back; what this rank wrote to standard error is in `said`. */
static struct capture said;
static moire_status train(const struct moire_config *config)
{
    static struct capture printed;
    capture_begin(&printed, 1);
    capture_begin(&said, 2);
    moire_status status = moire_train(config);
    capture_end(&said);
    capture_end(&printed);
    return status;
}

/* All ranks fail with `status`, agreed, and the ranks together say `text` once. */
static void expect_agreed(moire_status found, moire_status status, const char *text)
{
    int count = count_text(said.text, text), others = count_text(said.text, "moire: rank");
    expect(found == status);
    expect(moire_error_is_agreed());
    expect(moire_error_text()[0] == '\0');
    MPI_Allreduce(MPI_IN_PLACE, &count, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &others, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    expect(count == 1);
    expect(others == 1);
    if (count != 1 || others != 1) printf("# rank %d said: %s\n", test_rank, said.text);
    moire_error_clear();
}

/* Steps done in the latest checkpoint; -1: none. */
static int64_t latest_step(void)
{
    struct moire_checkpoint_state state = { 0 };
    char *path = NULL;
    int64_t step = -1;
    if (!moire_file_exists(in_scratch("checkpoints"))) return step;
    expect_ok(moire_checkpoint_latest(in_scratch("checkpoints"), &path));
    if (!path) return step;
    expect_ok(moire_checkpoint_read_state(path, &state));
    step = state.step;
    expect(state.sequences == step * BATCH && state.tokens == step * BATCH * 8);
    moire_checkpoint_state_free(&state);
    moire_release(path);
    return step;
}

static int64_t metrics_lines(void)
{
    char *text = NULL;
    int64_t bytes = 0, lines = 0;
    if (!moire_file_exists(in_scratch("metrics.jsonl"))) return -1;
    expect_ok(moire_file_read(in_scratch("metrics.jsonl"), &text, &bytes));
    for (int64_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    moire_release(text);
    return lines;
}

/* ---- ends ---- */

static void a_run_ends_with_a_checkpoint(void)
{
    struct moire_config config;
    begin(&config);
    expect_ok(train(&config));
    expect(latest_step() == 10);
    expect(metrics_lines() == 10);
    clean(&config);
}

static void what_is_due_is_done_once(void)
{
    struct moire_config config;
    begin(&config);
    set(&config, "evaluate.every", "5");
    set(&config, "checkpoint.every", "2");
    expect_ok(train(&config));
    expect(hook.evaluations == 2);
    expect(hook.checkpoints == 5);
    set(&config, "train.steps", "11");
    set(&config, "evaluate.every", "never");
    set(&config, "checkpoint.every", "never");
    expect_ok(train(&config));
    expect(hook.evaluations == 3 && hook.checkpoints == 6);
    expect_ok(train(&config)); /* nothing to train */
    expect(hook.evaluations == 4 && hook.checkpoints == 6);
    clean(&config);
}

static void every_sequence_is_fetched_once(void)
{
    static const char *const accumulates[] = { "1", "2", "4", "9" };
    for (int i = 0; i < 4; i++) {
        struct moire_config config;
        begin(&config);
        set(&config, "train.accumulate", accumulates[i]);
        expect_ok(train(&config));
        MPI_Allreduce(MPI_IN_PLACE, hook.fetched, HOOKED_SEQUENCES, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
        for (int number = 0; number < HOOKED_SEQUENCES; number++) expect(hook.fetched[number] == 1);
        clean(&config);
    }
}

static void check_signal(int number)
{
    struct moire_config config;
    struct sigaction after;
    begin(&config);
    signal(number, SIG_IGN);                                   /* what the run has to put back */
    hook_fetch(some_rank(), RAISE, MOIRE_TRAINING, 4 * BATCH); /* in step 5 */
    hook.signal = number;
    expect(train(&config) == MOIRE_STOPPED);
    expect(moire_error_is_agreed());
    moire_error_clear();
    expect(latest_step() == 5);
    expect(metrics_lines() == 5);
    sigaction(number, NULL, &after);
    expect(after.sa_handler == SIG_IGN);
    signal(number, SIG_DFL);
    expect_ok(train(&config)); /* it goes on from there */
    expect(latest_step() == 10);
    clean(&config);
}

static void a_signal_to_one_rank_stops_all(void)
{
    check_signal(SIGTERM);
    check_signal(SIGUSR1);
}

static void a_stop_in_the_last_step_is_no_stop(void)
{
    struct moire_config config;
    begin(&config);
    set(&config, "train.stop_after", "10");
    hook_fetch(some_rank(), RAISE, MOIRE_TRAINING, 9 * BATCH);
    hook.signal = SIGTERM;
    expect_ok(train(&config));
    expect(latest_step() == 10);
    clean(&config);
}

/* ---- failures ---- */

static void one_rank_without_data_ends_all(void)
{
    struct moire_config config;
    begin(&config);
    set(&config, "checkpoint.every", "2");
    set(&config, "train.accumulate", "2");
    hook_fetch(some_rank(), FAIL, MOIRE_TRAINING, 4 * BATCH);
    expect_agreed(train(&config), MOIRE_BAD_DATA, "step 5, data: sequence ");
    expect(latest_step() == 4);
    expect(metrics_lines() == 4);
    clean(&config);
}

static void one_rank_without_validation_data_ends_all(void)
{
    struct moire_config config;
    begin(&config);
    set(&config, "evaluate.every", "3");
    hook_fetch(some_rank(), FAIL, MOIRE_VALIDATION, 0);
    expect_agreed(train(&config), MOIRE_BAD_DATA, "step 3, evaluation: sequence ");
    expect(metrics_lines() == 2);
    expect(latest_step() == -1);
    clean(&config);
}

static void a_loss_that_is_no_number_ends_all(void)
{
    struct moire_config config;
    char text[2 * LONGEST];
    begin(&config);
    set(&config, "checkpoint.every", "2");
    hook.poisoned_step = 5;
    hook.rank = some_rank();
    snprintf(text, sizeof text,
             "step 6: the loss is nan; found first at parameter layers.0.attention.qkv.weight; try a lower "
             "train.learning_rate or train.clip, or a longer train.warmup; the last good checkpoint is "
             "%s/checkpoints/step-00000004.h5",
             scratch);
    expect_agreed(train(&config), MOIRE_NOT_FINITE, text);
    expect(!strstr(said.text, "moire: rank") || test_rank == some_rank()); /* warnings may stand there */
    expect(latest_step() == 4);
    expect(metrics_lines() == 5);
    clean(&config);
}

static void ranks_must_have_the_same_configuration(void)
{
    struct moire_config config;
    if (test_ranks == 1) return;
    begin(&config);
    if (test_rank == test_ranks - 1) set(&config, "parallel.expert", "1");
    expect_agreed(train(&config), MOIRE_USAGE, "the configuration differs between ranks");
    expect(!moire_file_exists(in_scratch("checkpoints")));
    clean(&config);
}

static void ranks_must_have_the_same_data(void)
{
    struct moire_config config;
    if (test_ranks == 1) return;
    begin(&config);
    hook.checksum_of_last = 1;
    expect_agreed(train(&config), MOIRE_USAGE, "the data differs between ranks");
    expect(!moire_file_exists(in_scratch("checkpoints")));
    clean(&config);
}

static void a_directory_that_cannot_be_made_is_named(void)
{
    struct moire_config config;
    begin(&config);
    if (test_rank == 0) expect_ok(moire_file_write(in_scratch("file"), "x", 1));
    set(&config, "run.dir", in_scratch("file"));
    expect_agreed(train(&config), MOIRE_NO_FILE, "/file");
    clean(&config);
}

static void metrics_that_cannot_be_written_are_named(void)
{
    struct moire_config config;
    begin(&config);
    if (test_rank == 0) expect_ok(moire_directory_make(in_scratch("metrics.jsonl")));
    expect_agreed(train(&config), MOIRE_NO_FILE, "metrics.jsonl");
    clean(&config);
}

static void wrong_settings_are_named(void)
{
    static const char *const wrong[][3] = {
        { "train.schedule", "cosin", "did you mean 'cosine'" },
        { "moe.top_k", "7", "top_k" },
        { "data.source", "synthetc", "did you mean 'synthetic'" },
        { "parallel.expert", "11", "parallel.expert does not divide" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct moire_config config;
        begin(&config);
        set(&config, wrong[i][0], wrong[i][1]);
        expect_agreed(train(&config), MOIRE_USAGE, wrong[i][2]);
        expect(!moire_file_exists(in_scratch("checkpoints")));
        clean(&config);
    }
}

static void recording_needs_whole_batches(void)
{
    struct moire_config config;
    begin(&config);
    set(&config, "moe.record", "yes");
    set(&config, "train.accumulate", "2");
    expect_agreed(train(&config), MOIRE_USAGE, "train.accumulate = 2, expected 1");
    clean(&config);
}

static void a_recording_has_every_step(void)
{
    struct moire_config config;
    struct moire_routing_file file = { 0 };
    begin(&config);
    set(&config, "moe.record", "yes");
    set(&config, "evaluate.every", "3");
    expect_ok(train(&config));
    expect_ok(moire_routing_read(in_scratch("routing.h5"), &file));
    expect(file.steps == 10 && file.first_step == 0);
    expect(file.layers == 1 && file.tokens == BATCH * 8 && file.top_k == 2 && file.experts == 3);
    for (int64_t i = 0; i < file.steps * file.tokens * 2; i++) expect(file.ids[i] >= 0 && file.ids[i] < 3);
    moire_routing_free(&file);
    clean(&config);
}

/* ---- memory ---- */

static void steps_do_not_allocate(void)
{
    static const char *const accumulates[] = { "1", "3" };
    for (int i = 0; i < 2; i++) {
        struct moire_config config;
        begin(&config);
        set(&config, "train.accumulate", accumulates[i]);
        set(&config, "moe.router", "forced"); /* always as many rows: no buffer has to grow */
        expect_ok(train(&config));
        expect(hook.steps == 9);
        expect(hook.allocations == 0);
        clean(&config);
    }
}

static void a_run_without_validation_data_is_fine(void)
{
    struct moire_config config;
    begin(&config);
    set(&config, "data.validation", "0");
    set(&config, "evaluate.every", "2");
    expect_ok(train(&config));
    expect(metrics_lines() == 10);
    clean(&config);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "a run ends with a checkpoint and one line a step", a_run_ends_with_a_checkpoint },
        { "what is due is done once", what_is_due_is_done_once },
        { "every sequence is fetched once, by one rank", every_sequence_is_fetched_once },
        { "a signal to one rank stops all, with a checkpoint", a_signal_to_one_rank_stops_all },
        { "a stop in the last step is no stop", a_stop_in_the_last_step_is_no_stop },
        { "one rank without data ends all", one_rank_without_data_ends_all },
        { "one rank without validation data ends all", one_rank_without_validation_data_ends_all },
        { "a loss that is no number ends all and names where", a_loss_that_is_no_number_ends_all },
        { "ranks must have the same configuration", ranks_must_have_the_same_configuration },
        { "ranks must have the same data", ranks_must_have_the_same_data },
        { "a directory that cannot be made is named", a_directory_that_cannot_be_made_is_named },
        { "metrics that cannot be written are named", metrics_that_cannot_be_written_are_named },
        { "wrong settings are named", wrong_settings_are_named },
        { "recording needs whole batches", recording_needs_whole_batches },
        { "a recording has every step", a_recording_has_every_step },
        { "steps do not allocate", steps_do_not_allocate },
        { "a run without validation data is fine", a_run_without_validation_data_is_fine },
    };
    return test_main(argc, argv, "1 2 3 5", tests, sizeof tests / sizeof *tests);
}
