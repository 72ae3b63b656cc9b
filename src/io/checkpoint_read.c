/* Reading a checkpoint on any mesh. Rank 0 finds out what is where; then every rank reads its own bytes. */
#include "moire/io/checkpoint.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/checkpoint_file.h"

/* What all ranks need to know of the file, [group_count * tensors->count], by group, then tensor. */
struct index {
    int64_t *offsets;    /* owned */
    uint64_t *checksums; /* owned; of each tensor in turn: one, or E */
    int64_t count, checksum_count;
    struct moire_checkpoint_state state;
    int64_t config_bytes; /* with the zero */
};

/* What is read, and into what. */
struct reading {
    const struct moire_tensors *tensors;
    int64_t element_bytes;
    const struct moire_checkpoint_group *groups;
    int group_count;
    const char *path;
    int descriptor;
    const struct moire_mesh *mesh;
};

moire_status moire_checkpoint_compare(const char *path, const char *group, const char *name, int64_t expert,
                                      uint64_t found, uint64_t expected)
{
    char which[32] = "";
    if (found == expected) return MOIRE_OK;
    if (expert >= 0) snprintf(which, sizeof which, ", expert %" PRId64 ",", expert);
    return moire_fail(MOIRE_BAD_DATA,
                      "wrong checksum of %s/%s%s in %s; found %016" PRIx64 ", expected %016" PRIx64 "; the "
                      "file is damaged, try an older checkpoint",
                      group, name, which, path, found, expected);
}

static int64_t slices_of(const struct moire_tensor *tensor)
{
    return tensor->sharding == MOIRE_BY_EXPERT ? tensor->shape[0] : 1;
}

static void free_index(struct index *index)
{
    moire_checkpoint_state_free(&index->state);
    moire_release(index->offsets);
    moire_release(index->checksums);
}

static moire_status make_index(const struct moire_tensors *tensors, int group_count, struct index *index)
{
    int64_t slices = 0;
    for (int t = 0; t < tensors->count; t++) slices += slices_of(&tensors->list[t]);
    index->count = (int64_t)group_count * tensors->count;
    index->checksum_count = group_count * slices;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, index->count, sizeof *index->offsets, &index->offsets));
    return moire_allocate(MOIRE_MEMORY_OTHER, index->checksum_count, sizeof *index->checksums,
                          &index->checksums);
}

static moire_status check_entry(const char *path, const struct moire_tensor *tensor,
                                const struct moire_catalogue_entry *entry)
{
    char found[80], expected[80];
    bool same = entry->dimensions == tensor->dimensions;
    for (int d = 0; d < tensor->dimensions && same; d++) same = entry->shape[d] == tensor->shape[d];
    if (!same) {
        moire_checkpoint_shape_text(entry->dimensions, entry->shape, found, sizeof found);
        moire_checkpoint_shape_text(tensor->dimensions, tensor->shape, expected, sizeof expected);
        return moire_fail(MOIRE_BAD_DATA,
                          "%s/%s in %s has another shape; found %s, expected %s; try the configuration "
                          "that the checkpoint was written with (moire inspect %s)",
                          entry->group, entry->name, path, found, expected, path);
    }
    if (entry->by_expert == (tensor->sharding == MOIRE_BY_EXPERT)) return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s/%s in %s has another kind of checksum; found one %s, expected one %s; try "
                      "another file",
                      entry->group, entry->name, path, entry->by_expert ? "an expert" : "a tensor",
                      entry->by_expert ? "a tensor" : "an expert");
}

/* Every tensor of the table must be in the file. */
static moire_status fill_index(const struct reading *reading, const struct moire_catalogue *catalogue,
                               struct index *index)
{
    int64_t at = 0, checksums = 0;
    for (int g = 0; g < reading->group_count; g++)
        for (int t = 0; t < reading->tensors->count; t++) {
            const struct moire_tensor *tensor = &reading->tensors->list[t];
            const char *group = reading->groups[g].name;
            const struct moire_catalogue_entry *entry = moire_catalogue_find(catalogue, group, tensor->name);
            if (!entry)
                return moire_fail(MOIRE_BAD_DATA,
                                  "%s has no tensor %s/%s; found %" PRId64 " tensors, expected %" PRId64
                                  "; try the configuration that it was written with (moire inspect %s)",
                                  reading->path, group, tensor->name, catalogue->count, index->count,
                                  reading->path);
            MOIRE_TRY(check_entry(reading->path, tensor, entry));
            index->offsets[at++] = entry->offset;
            memcpy(index->checksums + checksums, catalogue->checksums + entry->first_checksum,
                   (size_t)entry->slices * sizeof *index->checksums);
            checksums += entry->slices;
        }
    return MOIRE_OK;
}

/* And every tensor of these groups in the table. */
static moire_status check_unexpected(const struct reading *reading, const struct moire_catalogue *catalogue)
{
    for (int64_t i = 0; i < catalogue->count; i++) {
        const struct moire_catalogue_entry *entry = &catalogue->entries[i];
        if (!moire_tensors_find(reading->tensors, entry->name))
            return moire_fail(MOIRE_BAD_DATA,
                              "%s is of another model; found the tensor %s/%s, expected none of that name; "
                              "try the configuration that it was "
                              "written with (moire inspect %s)",
                              reading->path, entry->group, entry->name, reading->path);
    }
    return MOIRE_OK;
}

/* Rank 0 alone. */
static moire_status read_index(const struct reading *reading, moire_element element, struct index *index)
{
    struct moire_catalogue catalogue;
    MOIRE_TRY(moire_catalogue_read(reading->path, reading->groups, reading->group_count, &catalogue));
    moire_status status = MOIRE_OK;
    if (catalogue.element != element)
        status =
            moire_fail(MOIRE_BAD_DATA,
                       "%s has another element; found %s, expected %s; try the build of moire that wrote it",
                       reading->path, moire_element_name(catalogue.element), moire_element_name(element));
    if (status == MOIRE_OK) status = fill_index(reading, &catalogue, index);
    if (status == MOIRE_OK) status = check_unexpected(reading, &catalogue);
    if (status == MOIRE_OK) {
        index->state = catalogue.state;
        index->config_bytes = (int64_t)strlen(catalogue.state.config) + 1;
        catalogue.state.config = NULL; /* moved */
    }
    moire_catalogue_free(&catalogue);
    return status;
}

/* Numbers first, then what their sizes are known for. */
static moire_status share_index(const struct moire_communicator *world, struct index *index)
{
    struct {
        struct moire_checkpoint_state state;
        int64_t config_bytes;
    } numbers = { index->state, index->config_bytes };
    char *config = index->state.config;
    MOIRE_TRY(moire_broadcast(world, &numbers, sizeof numbers, 0));
    moire_status status =
        config ? MOIRE_OK : moire_allocate(MOIRE_MEMORY_OTHER, numbers.config_bytes, 1, &config);
    index->state = numbers.state;
    index->state.config = config;
    MOIRE_TRY(moire_agree(world, status));
    MOIRE_TRY(moire_broadcast(world, config, numbers.config_bytes, 0));
    MOIRE_TRY(moire_broadcast(world, index->offsets, index->count * (int64_t)sizeof *index->offsets, 0));
    return moire_broadcast(world, index->checksums, index->checksum_count * (int64_t)sizeof *index->checksums,
                           0);
}

static moire_status read_slice(const struct reading *reading, const char *group,
                               const struct moire_tensor *tensor, int64_t expert, void *data, int64_t bytes,
                               int64_t offset, uint64_t checksum)
{
    MOIRE_TRY(moire_file_pread(reading->descriptor, reading->path, data, bytes, offset));
    return moire_checkpoint_compare(reading->path, group, tensor->name, expert,
                                    XXH3_64bits(data, (size_t)bytes), checksum);
}

/* A copy of an expert is verified in one expert group, in turn. */
static moire_status read_shared(const struct reading *reading, const struct moire_checkpoint_group *group,
                                const struct moire_tensor *tensor, bool root, int64_t offset,
                                const uint64_t *checksums)
{
    int64_t each = moire_tensor_expert_elements(tensor);
    struct moire_checkpoint_slice slice = {
        reading->path, reading->descriptor, group->name, tensor, -1, each * reading->element_bytes, offset,
        checksums[0]
    };
    if (tensor->sharding == MOIRE_REPLICATED)
        return moire_checkpoint_read_shared(&slice, reading->tensors, group, reading->element_bytes,
                                            tensor->offset, root);
    for (int64_t i = 0; i < reading->tensors->local_experts; i++) {
        slice.expert = reading->tensors->experts[i];
        slice.offset = offset + slice.expert * slice.bytes;
        slice.checksum = checksums[slice.expert];
        bool verify = !group->experts->communicator
                      || slice.expert % reading->mesh->groups == reading->mesh->group;
        MOIRE_TRY(moire_checkpoint_read_shared(&slice, reading->tensors, group, reading->element_bytes,
                                               tensor->offset + i * each, verify));
    }
    return MOIRE_OK;
}

/* The experts of this rank; rank 0 also reads what is replicated. */
static moire_status read_tensor(const struct reading *reading, const struct moire_checkpoint_group *group,
                                const struct moire_tensor *tensor, bool root, int64_t offset,
                                const uint64_t *checksums)
{
    char *data = (char *)group->arena + tensor->offset * reading->element_bytes;
    int64_t bytes = moire_tensor_expert_elements(tensor) * reading->element_bytes;
    if (group->dense) return read_shared(reading, group, tensor, root, offset, checksums);
    if (tensor->sharding == MOIRE_REPLICATED)
        return root ? read_slice(reading, group->name, tensor, -1, data, bytes, offset, checksums[0])
                    : MOIRE_OK;
    for (int64_t i = 0; i < reading->tensors->local_experts; i++) {
        int64_t expert = reading->tensors->experts[i];
        MOIRE_TRY(read_slice(reading, group->name, tensor, expert, data + i * bytes, bytes,
                             offset + expert * bytes, checksums[expert]));
    }
    return MOIRE_OK;
}

static moire_status read_own(struct reading *reading, const struct index *index, bool root)
{
    const uint64_t *checksums = index->checksums;
    bool shares = false;
    for (int g = 0; g < reading->group_count; g++) shares = shares || reading->groups[g].dense;
    if (!root && !shares && reading->tensors->local_experts == 0) return MOIRE_OK;
    MOIRE_TRY(moire_file_open(reading->path, O_RDONLY, &reading->descriptor));
    moire_status status = MOIRE_OK;
    for (int64_t i = 0; i < index->count && status == MOIRE_OK; i++) {
        const struct moire_tensor *tensor = &reading->tensors->list[i % reading->tensors->count];
        const struct moire_checkpoint_group *group = &reading->groups[i / reading->tensors->count];
        status = read_tensor(reading, group, tensor, root, index->offsets[i], checksums);
        checksums += slices_of(tensor);
    }
    close(reading->descriptor);
    return status;
}

moire_status moire_checkpoint_read(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                                   moire_element element, const struct moire_checkpoint_group *groups,
                                   int group_count, const char *path, struct moire_checkpoint_state *state)
{
    const struct moire_communicator *world = &mesh->world;
    struct reading reading = {
        tensors, (int64_t)moire_element_bytes(element), groups, group_count, path, -1, mesh
    };
    struct index index = { 0 };
    bool root = world->rank == 0;
    moire_status status = make_index(tensors, group_count, &index);
    if (root && status == MOIRE_OK) status = read_index(&reading, element, &index);
    status = moire_agree(world, status);
    if (status == MOIRE_OK) status = share_index(world, &index);
    if (status != MOIRE_OK) goto free_index;
    status = moire_agree(world, read_own(&reading, &index, root));
    /* Replicated tensors are one run at the start of an arena. */
    for (int g = 0; g < group_count && status == MOIRE_OK; g++)
        if (!groups[g].dense) status = moire_broadcast(world, groups[g].arena, tensors->dense_elements * reading.element_bytes, 0);
    if (status != MOIRE_OK) goto free_index;
    *state = index.state;
    index.state.config = NULL; /* moved */
free_index:
    free_index(&index);
    return status;
}
