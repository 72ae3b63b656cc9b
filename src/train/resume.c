/* Checkpoints of a run: written, found again, and what must or should agree with the configuration. */
#include <string.h>

#include "moire/base/log.h"
#include "moire/compute/emulate.h"
#include "moire/io/checkpoint.h"
#include "moire/observe/phases.h"
#include "train/private.h"

enum { GROUPS = 3 };

/* What a checkpoint holds; without an optimizer the parameters alone. */
static void describe_groups(const struct moire_model *model, const struct moire_optimizer *optimizer,
                            struct moire_checkpoint_group groups[GROUPS])
{
    static const char *const names[GROUPS] = { "parameters", "first_moment", "second_moment" };
    for (int g = 0; g < GROUPS; g++) groups[g] = (struct moire_checkpoint_group){ .name = names[g] };
    groups[0].arena = model->parameters;
    if (!optimizer) return;
    groups[1].arena = optimizer->first_moment;
    groups[2].arena = optimizer->second_moment;
    for (int g = 1; g < GROUPS && moire_optimizer_is_shared(optimizer); g++) {
        groups[g].dense = &optimizer->dense;
        groups[g].experts = &optimizer->experts;
    }
}

/* ---- reading ---- */

/* The configuration that the checkpoint was written with. One of another version of moire may have keys that
 * this one does not know: then there is nothing to compare, and *known is false. The caller frees *config
 * where it is true. */
static void parse_config(const char *path, const struct moire_checkpoint_state *state,
                         struct moire_config *config, bool *known)
{
    *known = false;
    moire_status status = moire_config_create(config);
    if (status == MOIRE_OK) status = moire_config_parse(config, path, state->config, MOIRE_FROM_FILE);
    if (status == MOIRE_OK) {
        *known = true;
        return;
    }
    moire_error_clear();
    moire_config_free(config);
}

/* With as many key/value heads as heads, the number of heads is in no tensor's shape. */
static moire_status check_heads(const char *path, const struct moire_model *model,
                                const struct moire_checkpoint_state *state)
{
    struct moire_config saved;
    bool known;
    parse_config(path, state, &saved, &known);
    if (!known) return MOIRE_OK;
    int64_t heads = saved.model_heads;
    moire_config_free(&saved);
    if (heads == model->heads) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE,
                      "%s: the checkpoint is of another model; found model.heads = %lld, expected %lld; try "
                      "--model.heads=%lld, or checkpoint.resume = never",
                      path, (long long)heads, (long long)model->heads, (long long)heads);
}

static moire_status load(const char *path, struct moire_model *model, struct moire_optimizer *optimizer,
                         struct moire_checkpoint_state *state)
{
    struct moire_checkpoint_group groups[GROUPS];
    describe_groups(model, optimizer, groups);
    MOIRE_TRY(moire_checkpoint_read(model->mesh, &model->tensors, MOIRE_REAL_ELEMENT, groups,
                                    optimizer ? GROUPS : 1, path, state));
    moire_status status = moire_agree(&model->mesh->world, check_heads(path, model, state));
    if (status != MOIRE_OK) moire_checkpoint_state_free(state);
    return status;
}

moire_status moire_train_load(const char *path, struct moire_model *model, struct moire_optimizer *optimizer,
                              int64_t *step, int64_t *sequences)
{
    struct moire_checkpoint_state state = { 0 };
    MOIRE_TRY(load(path, model, optimizer, &state));
    if (step) *step = state.step;
    if (sequences) *sequences = state.sequences;
    moire_checkpoint_state_free(&state);
    return MOIRE_OK;
}

/* ---- what differs ---- */

static bool has_section(const struct moire_parameter *parameter, const char *section)
{
    return strcmp(parameter->section, section) == 0;
}

/* Whether another value of it makes another run: other data or another order of it, or another loss. */
static bool matters(const struct moire_parameter *parameter)
{
    const char *key = parameter->key;
    if (has_section(parameter, "model") || has_section(parameter, "data")) return true;
    if (has_section(parameter, "moe")) return strcmp(key, "record") != 0;
    if (has_section(parameter, "run")) return strcmp(key, "seed") == 0;
    return has_section(parameter, "train") && strcmp(key, "batch") == 0;
}

/* Adds ", section.key = NOW (it was BEFORE)" where they differ. */
static moire_status add_difference(const struct moire_parameter *parameter, const struct moire_config *saved,
                                   const struct moire_config *now, struct moire_text *list)
{
    struct moire_text old_value = { 0 }, value = { 0 };
    moire_status status = moire_config_value(saved, parameter, &old_value);
    if (status == MOIRE_OK) status = moire_config_value(now, parameter, &value);
    /* nothing added: no text */
    const char *before = old_value.data ? old_value.data : "", *after = value.data ? value.data : "";
    if (status == MOIRE_OK && strcmp(before, after) != 0)
        status = moire_text_add(list, "%s%s.%s = %s (it was %s)", list->bytes ? ", " : "", parameter->section,
                                parameter->key, after, before);
    moire_text_free(&value);
    moire_text_free(&old_value);
    return status;
}

/* Nothing here is worth a failure. */
static void warn_of_differences(const struct moire_run *run, const char *path,
                                const struct moire_checkpoint_state *state)
{
    struct moire_config saved;
    struct moire_text list = { 0 };
    bool known;
    parse_config(path, state, &saved, &known);
    if (!known) {
        moire_warn("%s: its configuration is not that of this version of moire and was not compared", path);
        return;
    }
    moire_status status = MOIRE_OK;
    for (int i = 0; i < moire_parameter_count && status == MOIRE_OK; i++)
        if (matters(&moire_parameters[i]))
            status = add_difference(&moire_parameters[i], &saved, run->config, &list);
    if (status != MOIRE_OK) moire_error_clear();
    if (list.bytes) moire_warn("the run goes on with other settings than %s: %s", path, list.data);
    moire_text_free(&list);
    moire_config_free(&saved);
}

/* ---- going on ---- */

static bool resumes_latest(const struct moire_run *run)
{
    return strcmp(run->config->checkpoint_resume, "auto") == 0;
}

/* On rank 0: the path, or NULL where the run begins anew. */
static moire_status find(const struct moire_run *run, char **path)
{
    const char *resume = run->config->checkpoint_resume;
    *path = NULL;
    if (run->mesh.world.rank != 0 || strcmp(resume, "never") == 0) return MOIRE_OK;
    return resumes_latest(run) ? moire_checkpoint_latest(run->checkpoints, path)
                               : moire_copy_text(resume, path);
}

/* Every rank gets rank 0's text, or NULL; the others bring NULL. On a failure nobody has one. */
static moire_status share_text(const struct moire_communicator *world, char **text)
{
    int64_t bytes = *text ? (int64_t)strlen(*text) + 1 : 0;
    MOIRE_TRY(moire_broadcast(world, &bytes, sizeof bytes, 0));
    if (bytes == 0) return MOIRE_OK;
    moire_status status = MOIRE_OK;
    if (world->rank != 0) status = moire_allocate(MOIRE_MEMORY_OTHER, bytes, 1, text);
    status = moire_agree(world, status);
    if (status == MOIRE_OK) status = moire_broadcast(world, *text, bytes, 0);
    if (status == MOIRE_OK) return MOIRE_OK;
    moire_release(*text);
    *text = NULL;
    return status;
}

moire_status moire_run_resume(struct moire_run *run)
{
    struct moire_checkpoint_state state = { 0 };
    char *path;
    moire_status status = find(run, &path);
    MOIRE_TRY(moire_agree(&run->mesh.world, status));
    MOIRE_TRY(share_text(&run->mesh.world, &path));
    if (!path) return MOIRE_OK;
    status = load(path, &run->model, &run->optimizer, &state);
    if (status != MOIRE_OK) {
        moire_release(path);
        return status;
    }
    run->resumed = path;
    run->step = state.step;
    run->sequences = state.sequences;
    run->tokens_seen = state.tokens;
    if (resumes_latest(run)) run->checkpoint_step = state.step; /* another path may be of another directory */
    moire_log("going on from %s, step %lld", path, (long long)state.step);
    if (run->mesh.world.rank == 0) warn_of_differences(run, path, &state);
    moire_checkpoint_state_free(&state);
    return MOIRE_OK;
}

/* ---- writing ---- */

moire_status moire_run_write_checkpoint(const struct moire_run *run, const char *directory, int64_t keep)
{
    const struct moire_config *config = run->config;
    struct moire_checkpoint_group groups[GROUPS];
    describe_groups(&run->model, &run->optimizer, groups);
    struct moire_text text = { 0 };
    moire_status status = moire_agree(&run->mesh.world, moire_config_text(config, false, &text));
    const struct moire_checkpoint_state state = {
        .step = run->step,
        .tokens = run->tokens_seen,
        .sequences = run->sequences,
        .seed = (uint64_t)config->run_seed,
        .config = text.data,
    };
    if (status == MOIRE_OK)
        status = moire_checkpoint_write(&run->mesh, &run->model.moe.placement, &run->model.tensors,
                                        MOIRE_REAL_ELEMENT, groups, GROUPS, &state, directory, keep);
    moire_text_free(&text);
    return status;
}

moire_status moire_run_checkpoint(struct moire_run *run)
{
    if (moire_is_emulated() || run->checkpoint_step == run->step) return MOIRE_OK;
    moire_phase_begin(MOIRE_PHASE_CHECKPOINT);
    MOIRE_TRY(moire_run_write_checkpoint(run, run->checkpoints, run->config->checkpoint_keep));
    moire_phase_end(MOIRE_PHASE_CHECKPOINT);
    run->checkpoint_step = run->step;
    return MOIRE_OK;
}
