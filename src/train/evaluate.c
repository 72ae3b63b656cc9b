/* Validation loss. */
#include <math.h>
#include <string.h>

#include "moire/observe/phases.h"
#include "train/private.h"

/* The most sequences that moire_share can spread so that no rank gets more than the model takes there. Rank r
 * of P takes its share of n as long as n <= capacity P + r. */
static moire_status find_capacity(const struct moire_model *model, int64_t *capacity)
{
    const struct moire_communicator *world = &model->mesh->world;
    int64_t least = -(model->sequences * world->size + world->rank);
    MOIRE_TRY(moire_max_integers(world, &least, 1));
    moire_status status = MOIRE_OK;
    if (least == 0 && world->rank == 0)
        status =
            moire_fail(MOIRE_FAILED, "the model takes no sequence on rank 0; found 0, expected 1 or more");
    MOIRE_TRY(moire_agree(world, status));
    *capacity = -least;
    return MOIRE_OK;
}

/* What the ranks sum, in one reduction: loss and tokens by domain, slots by expert, and failed fetches. */
static double *loss_sums(struct moire_evaluation *evaluation)
{
    return evaluation->sums;
}

static double *token_sums(struct moire_evaluation *evaluation)
{
    return evaluation->sums + evaluation->domains;
}

static double *load_sums(struct moire_evaluation *evaluation)
{
    return evaluation->sums + 2 * evaluation->domains;
}

static double *failures(struct moire_evaluation *evaluation)
{
    return evaluation->sums + 2 * evaluation->domains + evaluation->experts;
}

static int64_t sum_count(const struct moire_evaluation *evaluation)
{
    return 2 * evaluation->domains + evaluation->experts + 1;
}

static moire_status allocate(const struct moire_model *model, struct moire_evaluation *evaluation)
{
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    int64_t domains = evaluation->domains;
    int64_t tokens = model->sequences * (model->sequence + 1);
    MOIRE_TRY(moire_allocate(kind, domains, sizeof(double), &evaluation->domain_loss));
    MOIRE_TRY(moire_allocate(kind, domains, sizeof(int64_t), &evaluation->domain_tokens));
    MOIRE_TRY(moire_allocate(kind, sum_count(evaluation), sizeof(double), &evaluation->sums));
    MOIRE_TRY(moire_allocate(kind, evaluation->experts, sizeof(double), &evaluation->load));
    MOIRE_TRY(moire_allocate(kind, model->sequences, sizeof(int), &evaluation->batch_domains));
    return moire_allocate(MOIRE_MEMORY_DATA, tokens, sizeof(int32_t), &evaluation->batch);
}

moire_status moire_evaluation_create(const struct moire_data *data, const struct moire_model *model,
                                     struct moire_evaluation *evaluation)
{
    struct moire_evaluation new = {
        .domains = moire_data_domains(data),
        .loss = NAN,
        .experts = model->moe_layers > 0 ? model->config.moe_experts : 0,
    };
    MOIRE_TRY(find_capacity(model, &new.capacity));
    moire_status status = moire_agree(&model->mesh->world, allocate(model, &new));
    if (status == MOIRE_OK)
        *evaluation = new;
    else
        moire_evaluation_free(&new);
    return status;
}

void moire_evaluation_free(struct moire_evaluation *evaluation)
{
    moire_release(evaluation->load);
    moire_release(evaluation->batch);
    moire_release(evaluation->batch_domains);
    moire_release(evaluation->sums);
    moire_release(evaluation->domain_tokens);
    moire_release(evaluation->domain_loss);
    memset(evaluation, 0, sizeof *evaluation);
}

static void add_losses(const struct moire_model *model, int64_t sequences,
                       struct moire_evaluation *evaluation)
{
    for (int64_t i = 0; i < sequences; i++) {
        int domain = evaluation->batch_domains[i];
        double sum = 0;
        for (int64_t t = 0; t < model->sequence; t++) sum += model->losses[i * model->sequence + t];
        loss_sums(evaluation)[domain] += sum;
        token_sums(evaluation)[domain] += (double)model->sequence;
    }
}

/* The balance of a layer counts in training only. */
static void add_load(const struct moire_model *model, int64_t sequences, struct moire_evaluation *evaluation)
{
    int64_t slots = sequences * model->sequence * model->config.moe_top_k;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        const struct moire_block *block = &model->blocks[layer];
        if (!block->is_moe) continue;
        for (int64_t slot = 0; slot < slots; slot++)
            if (block->moe.selection.experts[slot] >= 0)
                load_sums(evaluation)[block->moe.selection.experts[slot]] += 1;
    }
}

/* Fills the batch with `count` of the `chosen` sequences, from the one numbered `first` on. They lie evenly
 * over the validation split: it is stored domain by domain, and its beginning would be one of them. */
static moire_status fetch_chosen(const struct moire_data *data, int64_t first, int64_t count, int64_t chosen,
                                 int64_t length, struct moire_evaluation *evaluation)
{
    int64_t all = moire_data_sequences(data, MOIRE_VALIDATION);
    moire_status status = MOIRE_OK;
    for (int64_t i = 0; i < count; i++) {
        int64_t number = (int64_t)((__int128)(first + i) * all / chosen);
        moire_status fetched = moire_fetch(data, MOIRE_VALIDATION, number, length,
                                           evaluation->batch + i * length, &evaluation->batch_domains[i]);
        if (status == MOIRE_OK) status = fetched;
    }
    return status;
}

/* Sequences [first, first + count) of the `all` chosen ones, count <= capacity. A rank whose fetch failed
 * goes on with zeros: *local is agreed on at the end. */
static moire_status evaluate_part(struct moire_model *model, const struct moire_data *data, int64_t first,
                                  int64_t count, int64_t all, struct moire_evaluation *evaluation,
                                  moire_status *local)
{
    const struct moire_communicator *world = &model->mesh->world;
    struct moire_losses losses;
    struct moire_batch batch = { .global_sequences = count,
                                 .step_sequences = all,
                                 .tokens = evaluation->batch };
    batch.sequences = moire_share(count, world->size, world->rank, &batch.first_sequence);
    moire_status fetched = fetch_chosen(data, first + batch.first_sequence, batch.sequences, all,
                                        model->sequence + 1, evaluation);
    if (*local == MOIRE_OK) *local = fetched;
    MOIRE_TRY(moire_model_loss(model, &batch, false, &losses));
    add_losses(model, batch.sequences, evaluation);
    add_load(model, batch.sequences, evaluation);
    return MOIRE_OK;
}

/* From sums to means. */
static void finish(struct moire_evaluation *evaluation)
{
    double loss = 0, tokens = 0;
    for (int d = 0; d < evaluation->domains; d++) {
        double domain_loss = loss_sums(evaluation)[d], domain_tokens = token_sums(evaluation)[d];
        evaluation->domain_loss[d] = domain_tokens > 0 ? domain_loss / domain_tokens : 0;
        evaluation->domain_tokens[d] = (int64_t)domain_tokens;
        loss += domain_loss;
        tokens += domain_tokens;
    }
    for (int64_t e = 0; e < evaluation->experts; e++) evaluation->load[e] = load_sums(evaluation)[e];
    evaluation->tokens = (int64_t)tokens;
    evaluation->loss = tokens > 0 ? loss / tokens : NAN;
}

moire_status moire_evaluate(struct moire_model *model, const struct moire_data *data, int64_t sequences,
                            struct moire_evaluation *evaluation)
{
    const struct moire_communicator *world = &model->mesh->world;
    int64_t all = moire_data_sequences(data, MOIRE_VALIDATION);
    moire_status local = MOIRE_OK;
    if (sequences != MOIRE_ALL && sequences < all) all = sequences;
    moire_phase_begin(MOIRE_PHASE_EVALUATION);
    memset(evaluation->sums, 0, (size_t)sum_count(evaluation) * sizeof *evaluation->sums);
    for (int64_t first = 0; first < all; first += evaluation->capacity) {
        int64_t count = all - first < evaluation->capacity ? all - first : evaluation->capacity;
        MOIRE_TRY(evaluate_part(model, data, first, count, all, evaluation, &local));
    }
    *failures(evaluation) = local != MOIRE_OK;
    MOIRE_TRY(moire_sum(world, evaluation->sums, sum_count(evaluation), MOIRE_FLOAT64));
    if (*failures(evaluation) > 0) return moire_agree(world, local);
    finish(evaluation);
    moire_phase_end(MOIRE_PHASE_EVALUATION);
    return MOIRE_OK;
}
