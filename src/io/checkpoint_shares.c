/* Arenas of which a rank has only shares: tensors are collected where they are written, and of what is read
 * each rank keeps its part. */
#include <string.h>
#include <xxhash.h>

#include "io/checkpoint_file.h"

static const struct moire_shares *shares_of(const struct moire_checkpoint_group *group,
                                            const struct moire_tensor *tensor)
{
    return tensor->sharding == MOIRE_REPLICATED ? group->dense : group->experts;
}

bool moire_checkpoint_is_shared(const struct moire_checkpoint_group *group, const struct moire_tensor *tensor)
{
    const struct moire_shares *shares = shares_of(group, tensor);
    return shares && shares->communicator;
}

/* This rank's share of the run that the tensor is in, and where that run begins in a whole arena. */
static char *share_of(const struct moire_tensors *tensors, const struct moire_checkpoint_group *group,
                      const struct moire_tensor *tensor, int64_t element_bytes, int64_t *run)
{
    bool dense = tensor->sharding == MOIRE_REPLICATED;
    *run = dense ? 0 : tensors->dense_elements;
    return (char *)group->arena + (dense ? 0 : group->dense->count) * element_bytes;
}

/* ---- writing ---- */

/* Of what is collected; extents stand in the order in which tensors are visited. */
static void *next_collected(const struct moire_checkpoint_job *job, int64_t *next)
{
    while (!job->extents[*next].collected) ++*next;
    return job->extents[(*next)++].collected;
}

static moire_status collect_experts(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    const struct moire_tensors *tensors, const struct moire_tensor *tensor,
                                    const struct moire_checkpoint_group *group,
                                    const struct moire_checkpoint_job *job, int64_t *next)
{
    int64_t run, each = moire_tensor_expert_elements(tensor);
    int64_t instance = placement->rank_begin[mesh->expert.rank];
    const char *share =
        share_of(tensors, group, tensor, (int64_t)moire_element_bytes(group->experts->element), &run);
    for (int64_t i = 0; i < tensors->local_experts; i++, instance++) {
        int64_t expert = placement->instance_expert[instance];
        if (placement->expert_instances[placement->expert_begin[expert]] != instance) continue;
        void *range =
            moire_checkpoint_writes_expert(mesh, placement, instance) ? next_collected(job, next) : NULL;
        /* the ranks of `data` are in the order of their groups */
        MOIRE_TRY(moire_shares_collect(group->experts, share, tensor->offset - run + i * each, each,
                                       (int)(expert % mesh->groups), range));
    }
    return MOIRE_OK;
}

moire_status moire_checkpoint_collect(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                      const struct moire_tensors *tensors,
                                      const struct moire_checkpoint_group *groups, int group_count,
                                      const struct moire_checkpoint_place *places,
                                      const struct moire_checkpoint_job *job)
{
    int64_t next = 0;
    for (int64_t i = 0; i < (int64_t)group_count * tensors->count; i++) {
        const struct moire_checkpoint_group *group = &groups[i / tensors->count];
        const struct moire_tensor *tensor = &tensors->list[i % tensors->count];
        if (!moire_checkpoint_is_shared(group, tensor)) continue;
        if (tensor->sharding == MOIRE_BY_EXPERT) {
            MOIRE_TRY(collect_experts(mesh, placement, tensors, tensor, group, job, &next));
            continue;
        }
        void *range = places[i].writer == mesh->world.rank ? next_collected(job, &next) : NULL;
        MOIRE_TRY(moire_shares_collect(group->dense, group->arena, tensor->offset, tensor->elements,
                                       places[i].writer, range));
    }
    return MOIRE_OK;
}

/* ---- reading ---- */

enum { BUFFER_BYTES = 1 << 20 };

/* Where the bytes of a slice go: those from `first` on, `count` of them, to `to`. */
struct target {
    char *to;
    int64_t first, count;
};

static moire_status hash_and_copy(const struct moire_checkpoint_slice *slice, const struct target *target,
                                  XXH3_state_t *hash, char *buffer)
{
    XXH3_64bits_reset(hash);
    for (int64_t done = 0; done < slice->bytes; done += BUFFER_BYTES) {
        int64_t from, now = slice->bytes - done < BUFFER_BYTES ? slice->bytes - done : BUFFER_BYTES;
        MOIRE_TRY(moire_file_pread(slice->descriptor, slice->path, buffer, now, slice->offset + done));
        XXH3_64bits_update(hash, buffer, (size_t)now);
        int64_t common = moire_overlap(done, now, target->first, target->count, &from);
        if (common > 0)
            memcpy(target->to + (from - target->first), buffer + (from - done), (size_t)common);
    }
    return moire_checkpoint_compare(slice->path, slice->group, slice->tensor->name, slice->expert,
                                    XXH3_64bits_digest(hash), slice->checksum);
}

static moire_status read_and_verify(const struct moire_checkpoint_slice *slice, const struct target *target)
{
    char *buffer = NULL;
    XXH3_state_t *hash = XXH3_createState();
    moire_status status =
        hash ? MOIRE_OK : moire_fail(MOIRE_NO_MEMORY, "no memory for a checksum of %s", slice->path);
    if (status == MOIRE_OK) status = moire_allocate(MOIRE_MEMORY_OTHER, BUFFER_BYTES, 1, &buffer);
    if (status == MOIRE_OK) status = hash_and_copy(slice, target, hash, buffer);
    moire_release(buffer);
    XXH3_freeState(hash);
    return status;
}

moire_status moire_checkpoint_read_shared(const struct moire_checkpoint_slice *slice,
                                          const struct moire_tensors *tensors,
                                          const struct moire_checkpoint_group *group, int64_t element_bytes,
                                          int64_t at, bool verify)
{
    const struct moire_shares *shares = shares_of(group, slice->tensor);
    int64_t run, from;
    char *share = share_of(tensors, group, slice->tensor, element_bytes, &run);
    int64_t first = at - run; /* of the slice, in the run */
    int64_t common =
        moire_overlap(first, slice->bytes / element_bytes, shares->first, shares->count, &from);
    const struct target target = {
        .to = share + (from - shares->first) * element_bytes,
        .first = (from - first) * element_bytes,
        .count = common * element_bytes,
    };
    if (verify) return read_and_verify(slice, &target);
    if (common == 0) return MOIRE_OK;
    return moire_file_pread(slice->descriptor, slice->path, target.to, target.count,
                            slice->offset + target.first);
}
