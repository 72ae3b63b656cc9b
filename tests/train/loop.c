/* The ends of a run: signals, failures of one rank, differences between ranks; evaluation against a naive
 * one. The program is linked so that token fetches, the data's checksum and the ends of each step pass
 * through here. */
#include "../support/harness.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../support/capture.h"
#include "moire/base/file.h"
#include "moire/io/checkpoint.h"
#include "moire/train/train.h"

enum { BATCH = 6, LONGEST = 256 };

/* ---- what passes through ---- */

enum action { NOTHING, FAIL, RAISE };
static struct {
    enum action action;
    enum moire_split split;
    int rank;
    int64_t number; /* acts from this sequence on */
    int signal;
    int64_t steps, allocations_before, allocations; /* since the second step: steps, and in them */
    int64_t poisoned_step;                          /* after which a parameter is not a number */
    uint64_t checksum_of_last;                      /* added to the data's checksum on the last rank */
} hook;

moire_status __real_moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                                     int32_t *tokens, int *domain);
moire_status __wrap_moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                                     int32_t *tokens, int *domain);
moire_status __real_moire_model_loss(struct moire_model *model, const struct moire_batch *batch,
                                     bool backward, struct moire_losses *losses);
moire_status __wrap_moire_model_loss(struct moire_model *model, const struct moire_batch *batch,
                                     bool backward, struct moire_losses *losses);
void __real_moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                                   double gradient_scale, const real *gradients, real *parameters);
void __wrap_moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                                   double gradient_scale, const real *gradients, real *parameters);
uint64_t __real_moire_data_checksum(const struct moire_data *data);
uint64_t __wrap_moire_data_checksum(const struct moire_data *data);

moire_status __wrap_moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                                     int32_t *tokens, int *domain)
{
    if (hook.action == NOTHING || hook.rank != test_rank || hook.split != split || number < hook.number)
        return __real_moire_data_fetch(data, split, number, tokens, domain);
    if (hook.action == FAIL) return moire_fail(MOIRE_BAD_DATA, "sequence %lld is torn", (long long)number);
    if (hook.action == RAISE) {
        hook.action = NOTHING;
        raise(hook.signal);
    }
    return __real_moire_data_fetch(data, split, number, tokens, domain);
}

uint64_t __wrap_moire_data_checksum(const struct moire_data *data)
{
    return __real_moire_data_checksum(data) + (test_rank == test_ranks - 1 ? hook.checksum_of_last : 0);
}

/* A rank that always has sequences, and is not rank 0 where there is another. */
static int some_rank(void)
{
    return test_ranks > 1 ? 1 : 0;
}

static void hook_fetch(int rank, enum action action, enum moire_split split, int64_t number)
{
    memset(&hook, 0, sizeof hook);
    hook.action = action;
    hook.split = split;
    hook.rank = rank;
    hook.number = number;
}

moire_status __wrap_moire_model_loss(struct moire_model *model, const struct moire_batch *batch,
                                     bool backward, struct moire_losses *losses)
{
    if (batch->part == 0) hook.allocations_before = moire_memory_allocations();
    return __real_moire_model_loss(model, batch, backward, losses);
}

void __wrap_moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                                   double gradient_scale, const real *gradients, real *parameters)
{
    __real_moire_optimizer_update(optimizer, step, rate, gradient_scale, gradients, parameters);
    const struct moire_tensor *poisoned =
        moire_tensors_find(optimizer->tensors, "layers.0.attention.qkv.weight");
    if (step == hook.poisoned_step && test_rank == hook.rank) parameters[poisoned->offset + 5] = (real)NAN;
    if (step == 1) return;
    hook.steps++;
    hook.allocations += moire_memory_allocations() - hook.allocations_before;
}

/* ---- a tiny run ---- */

static char scratch[64];

static void set(struct moire_config *config, const char *name, const char *value)
{
    expect_ok(moire_config_set(config, name, value, MOIRE_FROM_COMMAND));
}

static void make_config(struct moire_config *config)
{
    static const char *const values[][2] = {
        { "model.layers", "1" },       { "model.dim", "16" },          { "model.heads", "2" },
        { "model.sequence", "8" },     { "model.vocabulary", "128" },  { "moe.experts", "3" },
        { "moe.expert_hidden", "8" },  { "train.batch", "6" },         { "train.steps", "10" },
        { "train.warmup", "0" },       { "data.source", "synthetic" }, { "data.synthetic_sequences", "300" },
        { "evaluate.every", "never" }, { "evaluate.sequences", "5" },  { "checkpoint.every", "never" },
        { "run.progress", "no" },
    };
    memset(&hook, 0, sizeof hook);
    expect_ok(moire_config_create(config));
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) set(config, values[i][0], values[i][1]);
    snprintf(scratch, sizeof scratch, "/tmp/moire-test-loop-XXXXXX");
    if (test_rank == 0 && !mkdtemp(scratch)) abort();
    MPI_Bcast(scratch, sizeof scratch, MPI_CHAR, 0, MPI_COMM_WORLD);
    set(config, "run.dir", scratch);
}

static void clean(struct moire_config *config)
{
    char command[LONGEST];
    moire_config_free(config);
    memset(&hook, 0, sizeof hook);
    MPI_Barrier(MPI_COMM_WORLD);
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    if (test_rank == 0 && system(command) != 0) abort();
}

static const char *in_scratch(const char *name)
{
    static char path[LONGEST];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
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
    make_config(&config);
    expect_ok(train(&config));
    expect(latest_step() == 10);
    expect(metrics_lines() == 10);
    clean(&config);
}

static void check_signal(int number)
{
    struct moire_config config;
    struct sigaction before, after;
    make_config(&config);
    sigaction(number, NULL, &before);
    hook_fetch(some_rank(), RAISE, MOIRE_TRAINING, 4 * BATCH); /* in step 5 */
    hook.signal = number;
    expect(train(&config) == MOIRE_STOPPED);
    expect(moire_error_is_agreed());
    moire_error_clear();
    expect(latest_step() == 5);
    expect(metrics_lines() == 5);
    sigaction(number, NULL, &after);
    expect(before.sa_handler == after.sa_handler);
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
    make_config(&config);
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
    make_config(&config);
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
    make_config(&config);
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
    make_config(&config);
    set(&config, "checkpoint.every", "2");
    hook.poisoned_step = 5;
    hook.rank = some_rank();
    snprintf(text, sizeof text,
             "step 6: the loss is nan; found first at parameter layers.0.attention.qkv.weight; try a lower "
             "train.learning_rate or train.clip, or a longer train.warmup; the last good checkpoint is "
             "%s/checkpoints/step-00000004.h5",
             scratch);
    expect_agreed(train(&config), MOIRE_NOT_FINITE, text);
    expect(said.text[0] == '\0' || test_rank == some_rank());
    expect(latest_step() == 4);
    expect(metrics_lines() == 5);
    clean(&config);
}

static void ranks_must_have_the_same_configuration(void)
{
    struct moire_config config;
    if (test_ranks == 1) return;
    make_config(&config);
    if (test_rank == test_ranks - 1) set(&config, "parallel.expert", "1");
    expect_agreed(train(&config), MOIRE_USAGE, "the configuration differs between ranks");
    expect(!moire_file_exists(in_scratch("checkpoints")));
    clean(&config);
}

static void ranks_must_have_the_same_data(void)
{
    struct moire_config config;
    if (test_ranks == 1) return;
    make_config(&config);
    hook.checksum_of_last = 1;
    expect_agreed(train(&config), MOIRE_USAGE, "the data differs between ranks");
    expect(!moire_file_exists(in_scratch("checkpoints")));
    clean(&config);
}

static void a_directory_that_cannot_be_made_is_named(void)
{
    struct moire_config config;
    make_config(&config);
    if (test_rank == 0) expect_ok(moire_file_write(in_scratch("file"), "x", 1));
    set(&config, "run.dir", in_scratch("file"));
    expect_agreed(train(&config), MOIRE_NO_FILE, "/file");
    clean(&config);
}

static void metrics_that_cannot_be_written_are_named(void)
{
    struct moire_config config;
    make_config(&config);
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
        make_config(&config);
        set(&config, wrong[i][0], wrong[i][1]);
        expect_agreed(train(&config), MOIRE_USAGE, wrong[i][2]);
        expect(!moire_file_exists(in_scratch("checkpoints")));
        clean(&config);
    }
}

static void recording_needs_whole_batches(void)
{
    struct moire_config config;
    make_config(&config);
    set(&config, "moe.record", "yes");
    set(&config, "train.accumulate", "2");
    expect_agreed(train(&config), MOIRE_USAGE, "train.accumulate = 2, expected 1");
    clean(&config);
}

/* ---- memory ---- */

static void steps_do_not_allocate(void)
{
    static const char *const accumulates[] = { "1", "3" };
    for (int i = 0; i < 2; i++) {
        struct moire_config config;
        make_config(&config);
        set(&config, "train.accumulate", accumulates[i]);
        set(&config, "moe.router", "forced"); /* always as many rows: no buffer has to grow */
        expect_ok(train(&config));
        expect(hook.steps == 9);
        expect(hook.allocations == 0);
        clean(&config);
    }
}

/* ---- evaluation ---- */

struct setting {
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_data *data;
    struct moire_model model;
    struct moire_evaluation evaluation;
};

static void make_setting(const char *batch, const char *validation, bool training, struct setting *setting)
{
    make_config(&setting->config);
    set(&setting->config, "train.batch", batch);
    set(&setting->config, "data.validation", validation);
    expect_ok(moire_mesh_create(&setting->config, &setting->mesh));
    expect_ok(moire_train_open_data(&setting->config, &setting->mesh, &setting->data));
    int64_t sequences = moire_train_local_sequences(&setting->config, &setting->mesh);
    expect_ok(moire_model_create(&setting->config, &setting->mesh, sequences, training, &setting->model));
    expect_ok(moire_evaluation_create(setting->data, &setting->model, &setting->evaluation));
}

static void clean_setting(struct setting *setting)
{
    moire_evaluation_free(&setting->evaluation);
    moire_model_free(&setting->model);
    moire_data_close(setting->data);
    moire_mesh_free(&setting->mesh);
    clean(&setting->config);
}

/* One sequence after the other, on rank 0: sums by domain. */
static void naive(struct setting *setting, int64_t sequences, double *loss, double *tokens)
{
    int32_t buffer[9];
    for (int64_t i = 0; i < sequences; i++) {
        struct moire_batch batch = {
            .sequences = test_rank == 0,
            .first_sequence = test_rank != 0,
            .global_sequences = 1,
            .step_sequences = 1,
            .tokens = buffer,
        };
        struct moire_losses losses;
        int domain;
        expect_ok(moire_data_fetch(setting->data, MOIRE_VALIDATION, i, buffer, &domain));
        expect_ok(moire_model_loss(&setting->model, &batch, false, &losses));
        MPI_Bcast(&losses.cross_entropy, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        loss[domain] += losses.cross_entropy;
        tokens[domain] += 8;
    }
}

static void compare_evaluation(struct setting *setting, int64_t asked, int64_t sequences)
{
    struct moire_evaluation *found = &setting->evaluation;
    double loss[16] = { 0 }, tokens[16] = { 0 }, sum = 0, slots = 0;
    expect_ok(moire_evaluate(&setting->model, setting->data, asked, found));
    expect(found->domains <= 16);
    naive(setting, sequences, loss, tokens);
    for (int d = 0; d < found->domains; d++) {
        sum += loss[d];
        expect((double)found->domain_tokens[d] == tokens[d]);
        expect_near(found->domain_loss[d], tokens[d] > 0 ? loss[d] / tokens[d] : 0, 1e-5);
    }
    expect(found->tokens == sequences * 8);
    expect_near(found->loss, sum / ((double)sequences * 8), 1e-5);
    for (int64_t e = 0; e < found->experts; e++) slots += found->load[e];
    expect(found->experts == 3 && slots == (double)sequences * 8 * 2);
}

static void evaluation_is_that_of_single_sequences(void)
{
    static const char *const batches[] = { "1", "2", "4", "7" };
    for (int i = 0; i < 4; i++) {
        struct setting setting;
        make_setting(batches[i], "0.1", i % 2, &setting);
        int64_t all = moire_data_sequences(setting.data, MOIRE_VALIDATION);
        compare_evaluation(&setting, 1, 1);
        compare_evaluation(&setting, 11, 11);
        compare_evaluation(&setting, MOIRE_ALL, all);
        compare_evaluation(&setting, all + 5, all);
        clean_setting(&setting);
    }
}

static void evaluation_of_nothing_is_no_number(void)
{
    struct setting setting;
    struct capture printed;
    make_setting("6", "0", true, &setting);
    expect_ok(moire_evaluate(&setting.model, setting.data, MOIRE_ALL, &setting.evaluation));
    expect(setting.evaluation.tokens == 0 && isnan(setting.evaluation.loss));
    capture_begin(&printed, 1);
    moire_evaluation_print(&setting.evaluation, setting.data);
    capture_end(&printed);
    if (test_rank == 0) expect(strstr(printed.text, "no sequences") != NULL);
    clean_setting(&setting);
}

static void a_run_without_validation_data_is_fine(void)
{
    struct moire_config config;
    make_config(&config);
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
        { "steps do not allocate", steps_do_not_allocate },
        { "evaluation is that of single sequences", evaluation_is_that_of_single_sequences },
        { "evaluation of nothing is no number", evaluation_of_nothing_is_no_number },
        { "a run without validation data is fine", a_run_without_validation_data_is_fine },
    };
    return test_main(argc, argv, "1 2 3 5", tests, sizeof tests / sizeof *tests);
}
