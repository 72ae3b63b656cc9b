/* Which sequences of the run a rank brings to a step. A batch is the same sequences whatever the number of
 * ranks is: it is cut into micro-batches, and each of these over the ranks, in order and as evenly as
 * can be. */
#include <string.h>

#include "train/private.h"

/* What this rank brings to a micro-batch. */
struct share {
    int64_t first_of_part; /* within the step */
    int64_t of_part;       /* sequences of the micro-batch, all ranks */
    int64_t first, count;  /* of this rank, within the micro-batch */
};

static struct share share_of(const struct moire_config *config, const struct moire_mesh *mesh, int64_t part)
{
    struct share share;
    /* accumulate is at most 2^20 */
    share.of_part =
        moire_share(config->train_batch, (int)config->train_accumulate, (int)part, &share.first_of_part);
    share.count = moire_share(share.of_part, mesh->world.size, mesh->world.rank, &share.first);
    return share;
}

int64_t moire_train_local_sequences(const struct moire_config *config, const struct moire_mesh *mesh)
{
    return share_of(config, mesh, 0).count; /* the first micro-batch is the largest */
}

moire_status moire_step_tokens_create(const struct moire_config *config, const struct moire_mesh *mesh,
                                      struct moire_step_tokens *tokens)
{
    struct moire_step_tokens new = { .length = config->model_sequence + 1 };
    int64_t sequences = 0;
    for (int64_t part = 0; part < config->train_accumulate; part++)
        sequences += share_of(config, mesh, part).count;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, sequences * new.length, sizeof *new.tokens, &new.tokens));
    *tokens = new;
    return MOIRE_OK;
}

void moire_step_tokens_free(struct moire_step_tokens *tokens)
{
    moire_release(tokens->tokens);
    *tokens = (struct moire_step_tokens){ .tokens = NULL };
}

moire_status moire_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                         int64_t length, int32_t *tokens, int *domain)
{
    *domain = 0;
    moire_status status = moire_data_fetch(data, split, number, tokens, domain);
    if (status != MOIRE_OK) memset(tokens, 0, (size_t)length * sizeof *tokens);
    return status;
}

moire_status moire_step_tokens_fetch(const struct moire_config *config, const struct moire_mesh *mesh,
                                     const struct moire_data *data, int64_t first,
                                     struct moire_step_tokens *tokens)
{
    moire_status status = MOIRE_OK;
    int32_t *at = tokens->tokens;
    for (int64_t part = 0; part < config->train_accumulate; part++) {
        struct share share = share_of(config, mesh, part);
        int64_t number = first + share.first_of_part + share.first;
        for (int64_t i = 0; i < share.count; i++, at += tokens->length) {
            int domain;
            moire_status fetched = moire_fetch(data, MOIRE_TRAINING, number + i, tokens->length, at, &domain);
            if (status == MOIRE_OK) status = fetched;
        }
    }
    return status;
}

struct moire_batch moire_step_tokens_part(const struct moire_config *config, const struct moire_mesh *mesh,
                                          const struct moire_step_tokens *tokens, int64_t step, int64_t part)
{
    const int32_t *at = tokens->tokens;
    for (int64_t before = 0; before < part; before++)
        at += share_of(config, mesh, before).count * tokens->length;
    struct share share = share_of(config, mesh, part);
    return (struct moire_batch){
        .sequences = share.count,
        .first_sequence = share.first,
        .global_sequences = share.of_part,
        .step_sequences = config->train_batch,
        .tokens = at,
        .step = step,
        .part = part,
    };
}
