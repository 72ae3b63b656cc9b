/* Writing a checkpoint: the three parts of moire/io/checkpoint.h, and the decision who writes what. */
#include "moire/io/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/checkpoint_file.h"

enum { BLOCK_BYTES = 1 << 20 }; /* of one write: in the second cache with what else is there */

void moire_checkpoint_state_free(struct moire_checkpoint_state *state)
{
    moire_release(state->config);
    *state = (struct moire_checkpoint_state){ 0 };
}

void moire_checkpoint_job_free(struct moire_checkpoint_job *job)
{
    moire_checkpoint_paths_free(&job->paths);
    for (int64_t i = 0; i < job->count; i++) moire_release(job->extents[i].collected);
    moire_release(job->extents);
    *job = (struct moire_checkpoint_job){ 0 };
}

/* data NULL: it is collected later. */
static moire_status add_extent(struct moire_checkpoint_job *job, const void *data, int64_t bytes,
                               int64_t offset, int64_t checksum_offset)
{
    void *collected = NULL;
    MOIRE_TRY(
        moire_grow(MOIRE_MEMORY_OTHER, &job->extents, &job->capacity, job->count + 1, sizeof *job->extents));
    if (!data) MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, bytes, 1, &collected));
    job->extents[job->count++] = (struct moire_checkpoint_extent){
        .data = data ? data : collected,
        .collected = collected,
        .bytes = bytes,
        .offset = offset,
        .checksum_offset = checksum_offset,
    };
    return MOIRE_OK;
}

/* Replicated tensors stand in a row, by group, then tensor; the row is cut into one piece of bytes a rank,
 * and a tensor goes to the rank in whose piece its middle lies. No rank has more than an even share and one
 * tensor; all ranks decide alike. */
static int writer_of(int64_t before, int64_t elements, int64_t all, int ranks)
{
    return (int)((unsigned __int128)(before + elements / 2) * (unsigned)ranks / (unsigned __int128)all);
}

static void choose_writers(const struct moire_tensors *tensors, int group_count, int ranks,
                           struct moire_checkpoint_place *places)
{
    int64_t all = 0, before = 0;
    for (int t = 0; t < tensors->count; t++)
        if (tensors->list[t].sharding == MOIRE_REPLICATED)
            all += tensors->list[t].elements;
    all *= group_count;
    for (int g = 0; g < group_count; g++)
        for (int t = 0; t < tensors->count; t++) {
            const struct moire_tensor *tensor = &tensors->list[t];
            if (tensor->sharding != MOIRE_REPLICATED) continue;
            places[(int64_t)g * tensors->count + t].writer = writer_of(before, tensor->elements, all, ranks);
            before += tensor->elements;
        }
}

static moire_status add_replicated(const struct moire_mesh *mesh, const struct moire_tensor *tensor,
                                   size_t element_bytes, const struct moire_checkpoint_group *group,
                                   const struct moire_checkpoint_place *place,
                                   struct moire_checkpoint_job *job)
{
    const char *data = (const char *)group->arena + tensor->offset * (int64_t)element_bytes;
    if (place->writer != mesh->world.rank) return MOIRE_OK;
    return add_extent(job, moire_checkpoint_is_shared(group, tensor) ? NULL : data,
                      tensor->elements * (int64_t)element_bytes, place->data, place->checksums);
}

/* Of the copies of an expert, that of one expert group is written, in turn; inside it the first instance. */
bool moire_checkpoint_writes_expert(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    int64_t instance)
{
    int64_t expert = placement->instance_expert[instance];
    return expert % mesh->groups == mesh->group &&
           placement->expert_instances[placement->expert_begin[expert]] == instance;
}

static moire_status add_experts(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                const struct moire_tensors *tensors, const struct moire_tensor *tensor,
                                size_t element_bytes, const struct moire_checkpoint_group *group,
                                const struct moire_checkpoint_place *place, struct moire_checkpoint_job *job)
{
    int64_t bytes = moire_tensor_expert_elements(tensor) * (int64_t)element_bytes;
    int64_t first = placement->rank_begin[mesh->expert.rank],
            count = moire_placement_local(placement, mesh->expert.rank);
    int64_t before = group->dense ? group->dense->count : tensors->dense_elements; /* in the arena */
    const char *data = (const char *)group->arena
                       + (before + tensor->offset - tensors->dense_elements) * (int64_t)element_bytes;
    bool shared = moire_checkpoint_is_shared(group, tensor);
    for (int64_t i = 0; i < count; i++) {
        int64_t expert = placement->instance_expert[first + i];
        if (!moire_checkpoint_writes_expert(mesh, placement, first + i)) continue;
        MOIRE_TRY(add_extent(job, shared ? NULL : data + i * bytes, bytes, place->data + expert * bytes,
                             place->checksums + expert * (int64_t)sizeof(uint64_t)));
    }
    return MOIRE_OK;
}

static moire_status add_extents(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                const struct moire_tensors *tensors, size_t element_bytes,
                                const struct moire_checkpoint_group *groups, int group_count,
                                const struct moire_checkpoint_place *places, struct moire_checkpoint_job *job)
{
    for (int64_t i = 0; i < (int64_t)group_count * tensors->count; i++) {
        const struct moire_checkpoint_group *group = &groups[i / tensors->count];
        const struct moire_tensor *tensor = &tensors->list[i % tensors->count];
        if (tensor->sharding == MOIRE_REPLICATED)
            MOIRE_TRY(add_replicated(mesh, tensor, element_bytes, group, &places[i], job));
        else
            MOIRE_TRY(add_experts(mesh, placement, tensors, tensor, element_bytes, group, &places[i], job));
    }
    return MOIRE_OK;
}

/* The placement must say of this rank what the table says, and leave no expert out of the file. */
static moire_status check_placement(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    const struct moire_tensors *tensors)
{
    for (int t = 0; t < tensors->count; t++) {
        const struct moire_tensor *tensor = &tensors->list[t];
        if (tensor->sharding == MOIRE_BY_EXPERT && tensor->shape[0] != placement->experts)
            return moire_fail(MOIRE_FAILED,
                              "tensor %s does not fit the placement; found %" PRId64 " experts, expected %"
                              PRId64,
                              tensor->name, tensor->shape[0], placement->experts);
    }
    for (int64_t e = 0; e < placement->experts; e++)
        if (placement->expert_begin[e] == placement->expert_begin[e + 1])
            return moire_fail(MOIRE_FAILED, "expert %" PRId64 " lives on no rank and cannot be written", e);
    int64_t first = placement->rank_begin[mesh->expert.rank],
            count = moire_placement_local(placement, mesh->expert.rank);
    bool same = count == tensors->local_experts;
    for (int64_t i = 0; i < count && same; i++)
        same = placement->instance_expert[first + i] == tensors->experts[i];
    if (same) return MOIRE_OK;
    return moire_fail(MOIRE_FAILED,
                      "the table of tensors does not hold the experts of the placement; found %" PRId64 " "
                      "experts, expected %" PRId64,
                      tensors->local_experts, count);
}

static bool has_experts(const struct moire_tensors *tensors)
{
    for (int t = 0; t < tensors->count; t++)
        if (tensors->list[t].sharding == MOIRE_BY_EXPERT) return true;
    return false;
}

moire_status moire_checkpoint_begin(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    const struct moire_tensors *tensors, moire_element element,
                                    const struct moire_checkpoint_group *groups, int group_count,
                                    const struct moire_checkpoint_state *state, const char *directory,
                                    struct moire_checkpoint_job *job)
{
    const struct moire_communicator *world = &mesh->world;
    struct moire_checkpoint_job made = { 0 };
    struct moire_checkpoint_place *places = NULL;
    int64_t count = (int64_t)group_count * tensors->count;
    bool laid_out = false;
    moire_status status = has_experts(tensors) ? check_placement(mesh, placement, tensors) : MOIRE_OK;
    if (status == MOIRE_OK) status = moire_checkpoint_paths_create(directory, state->step, &made.paths);
    if (status == MOIRE_OK) status = moire_allocate(MOIRE_MEMORY_OTHER, count, sizeof *places, &places);
    status = moire_agree(world, status);
    if (status != MOIRE_OK) goto release_places;
    if (world->rank == 0) {
        status = moire_checkpoint_prepare_directory(directory);
        if (status == MOIRE_OK)
            status = moire_checkpoint_lay_out(made.paths.partial, tensors, element, groups, group_count,
                                              state, places);
        laid_out = status == MOIRE_OK;
    }
    status = moire_agree(world, status);
    if (status == MOIRE_OK) status = moire_broadcast(world, places, count * (int64_t)sizeof *places, 0);
    if (status != MOIRE_OK) goto remove_partial;
    choose_writers(tensors, group_count, world->size, places);
    status = add_extents(mesh, placement, tensors, moire_element_bytes(element), groups, group_count, places,
                         &made);
    status = moire_agree(world, status);
    if (status == MOIRE_OK)
        status = moire_checkpoint_collect(mesh, placement, tensors, groups, group_count, places, &made);
remove_partial:
    if (status != MOIRE_OK && laid_out) unlink(made.paths.partial);
release_places:
    moire_release(places);
    if (status == MOIRE_OK) *job = made;
    else moire_checkpoint_job_free(&made);
    return status;
}

/* Only a hint: what it did not start, the sync at the end does. */
static void start_writing(int descriptor, int64_t offset, int64_t bytes)
{
#ifdef SYNC_FILE_RANGE_WRITE
    sync_file_range(descriptor, offset, bytes, SYNC_FILE_RANGE_WRITE);
#else
    (void)descriptor, (void)offset, (void)bytes;
#endif
}

/* A block is still in the cache when it is written: the checksum has just read it. And the disk begins with
 * it while the next one is read, instead of waiting for the sync at the end. */
static moire_status store_extent(const struct moire_checkpoint_extent *extent, int descriptor,
                                 const char *path, XXH3_state_t *state)
{
    XXH3_64bits_reset(state);
    for (int64_t done = 0; done < extent->bytes; done += BLOCK_BYTES) {
        const int64_t left = extent->bytes - done, bytes = left < BLOCK_BYTES ? left : BLOCK_BYTES;
        const char *block = (const char *)extent->data + done;
        XXH3_64bits_update(state, block, (size_t)bytes);
        MOIRE_TRY(moire_file_pwrite(descriptor, path, block, bytes, extent->offset + done));
        start_writing(descriptor, extent->offset + done, bytes);
    }
    const uint64_t checksum = XXH3_64bits_digest(state);
    return moire_file_pwrite(descriptor, path, &checksum, sizeof checksum, extent->checksum_offset);
}

static moire_status store_extents(const struct moire_checkpoint_job *job, int descriptor)
{
    const char *path = job->paths.partial;
    XXH3_state_t *state = XXH3_createState();
    moire_status status = MOIRE_OK;
    if (!state)
        return moire_fail(MOIRE_NO_MEMORY, "there is no memory for the checksums of %s; try smaller batches",
                          path);
    for (int64_t i = 0; status == MOIRE_OK && i < job->count; i++)
        status = store_extent(&job->extents[i], descriptor, path, state);
    XXH3_freeState(state);
    return status == MOIRE_OK ? moire_file_sync(descriptor, path) : status;
}

/* Opened for writing only: a client of NFS then sends the bytes that were written, not the whole pages around
 * them, in which other ranks have theirs. */
moire_status moire_checkpoint_store(const struct moire_checkpoint_job *job)
{
    int descriptor = -1;
    if (!moire_file_exists(job->paths.partial))
        return moire_fail(MOIRE_NO_FILE,
                          "%s is there on rank 0 but not here; try a directory that all nodes share",
                          job->paths.partial);
    MOIRE_TRY(moire_file_open(job->paths.partial, O_WRONLY, &descriptor));
    moire_status status = store_extents(job, descriptor);
    if (close(descriptor) < 0 && errno != EINTR && status == MOIRE_OK)
        status = moire_fail(MOIRE_NO_SPACE, "cannot close %s; found: %s; try another file system",
                            job->paths.partial, strerror(errno));
    return status;
}

moire_status moire_checkpoint_publish(const struct moire_mesh *mesh, const struct moire_checkpoint_job *job,
                                      moire_status status, int64_t step, const char *directory, int64_t keep)
{
    bool root = mesh->world.rank == 0;
    status = moire_agree(&mesh->world, status);
    if (status == MOIRE_OK) {
        if (root) status = moire_checkpoint_rename(directory, step, &job->paths);
        status = moire_agree(&mesh->world, status);
    }
    if (root && status != MOIRE_OK) unlink(job->paths.partial);
    if (root && status == MOIRE_OK) moire_checkpoint_remove_old(directory, step, keep);
    return status;
}

moire_status moire_checkpoint_write(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    const struct moire_tensors *tensors, moire_element element,
                                    const struct moire_checkpoint_group *groups, int group_count,
                                    const struct moire_checkpoint_state *state, const char *directory,
                                    int64_t keep)
{
    struct moire_checkpoint_job job;
    MOIRE_TRY(moire_checkpoint_begin(mesh, placement, tensors, element, groups, group_count, state, directory,
                                     &job));
    moire_status status = MOIRE_OK;
    if (job.count > 0 || mesh->world.rank == 0) status = moire_checkpoint_store(&job);
    status = moire_checkpoint_publish(mesh, &job, status, state->step, directory, keep);
    moire_checkpoint_job_free(&job);
    return status;
}
