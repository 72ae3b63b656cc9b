/* Evaluation against one sequence after the other, on one rank. */
#include "../support/harness.h"

#include <math.h>
#include <string.h>

#include "../support/capture.h"
#include "moire/train/train.h"
#include "tiny.h"

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
    int64_t all = moire_data_sequences(setting->data, MOIRE_VALIDATION); /* evaluated ones lie evenly in it */
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
        expect_ok(moire_data_fetch(setting->data, MOIRE_VALIDATION, i * all / sequences, buffer, &domain));
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

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "evaluation is that of single sequences", evaluation_is_that_of_single_sequences },
        { "evaluation of nothing is no number", evaluation_of_nothing_is_no_number },
    };
    return test_main(argc, argv, "1 2 3 5", tests, sizeof tests / sizeof *tests);
}
