/* What is in a checkpoint and where: the only reader of its HDF5 structure. */
#include "io/checkpoint_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5.h"

void moire_catalogue_free(struct moire_catalogue *catalogue)
{
    moire_checkpoint_state_free(&catalogue->state);
    moire_release(catalogue->entries);
    moire_release(catalogue->checksums);
    *catalogue = (struct moire_catalogue){ 0 };
}

void moire_checkpoint_shape_text(int dimensions, const int64_t *shape, char *text, size_t bytes)
{
    size_t used = 0;
    snprintf(text, bytes, "%s", dimensions ? "" : "one value");
    for (int d = 0; d < dimensions && used < bytes; d++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%" PRId64, d ? " x " : "", shape[d]);
}

static int compare_names(const char *group, const char *name, const struct moire_catalogue_entry *entry)
{
    int order = strcmp(group, entry->group);
    return order ? order : strcmp(name, entry->name);
}

static int compare_entries(const void *left, const void *right)
{
    const struct moire_catalogue_entry *entry = left;
    return compare_names(entry->group, entry->name, right);
}

const struct moire_catalogue_entry *moire_catalogue_find(const struct moire_catalogue *catalogue,
                                                         const char *group, const char *name)
{
    int64_t low = 0, high = catalogue->count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        int order = compare_names(group, name, &catalogue->entries[middle]);
        if (order == 0) return &catalogue->entries[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

static moire_status get_state(hid_t file, const char *path, struct moire_checkpoint_state *state,
                              moire_element *element)
{
    char *name;
    MOIRE_TRY(moire_hdf5_check_version(file, path, "checkpoint of moire", MOIRE_CHECKPOINT_VERSION));
    MOIRE_TRY(moire_hdf5_get_number(file, path, "step", H5T_NATIVE_INT64, &state->step));
    MOIRE_TRY(moire_hdf5_get_number(file, path, "tokens", H5T_NATIVE_INT64, &state->tokens));
    MOIRE_TRY(moire_hdf5_get_number(file, path, "sequences", H5T_NATIVE_INT64, &state->sequences));
    MOIRE_TRY(moire_hdf5_get_number(file, path, "seed", H5T_NATIVE_UINT64, &state->seed));
    MOIRE_TRY(moire_hdf5_get_text(file, path, "element", &name));
    moire_status status = MOIRE_OK;
    if (strcmp(name, moire_element_name(MOIRE_FLOAT32)) == 0) *element = MOIRE_FLOAT32;
    else if (strcmp(name, moire_element_name(MOIRE_FLOAT64)) == 0) *element = MOIRE_FLOAT64;
    else
        status = moire_fail(MOIRE_BAD_DATA,
                            "%s has elements of another type; found %.40s, expected float32 or float64", path,
                            name);
    moire_release(name);
    if (status == MOIRE_OK) status = moire_hdf5_get_text(file, path, "config", &state->config);
    return status;
}

/* Type, shape and place of an open dataset. */
struct dataset_facts {
    bool is_float32, is_float64, is_checksum;
    int dimensions;
    hsize_t shape[MOIRE_TENSOR_DIMENSIONS];
    int64_t elements, offset, stored_bytes;
};

static bool read_facts(hid_t dataset, struct dataset_facts *facts)
{
    *facts = (struct dataset_facts){ .offset = -1 };
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    bool good = type >= 0 && space >= 0;
    if (good) {
        facts->is_float32 = H5Tequal(type, H5T_NATIVE_FLOAT) > 0;
        facts->is_float64 = H5Tequal(type, H5T_NATIVE_DOUBLE) > 0;
        facts->is_checksum = H5Tequal(type, H5T_NATIVE_UINT64) > 0;
        facts->dimensions = H5Sget_simple_extent_ndims(space);
        facts->elements = H5Sget_simple_extent_npoints(space);
        haddr_t address = H5Dget_offset(dataset);
        if (address != HADDR_UNDEF) facts->offset = (int64_t)address;
        facts->stored_bytes = (int64_t)H5Dget_storage_size(dataset);
        good = facts->dimensions >= 0 && facts->dimensions <= MOIRE_TENSOR_DIMENSIONS && facts->elements > 0
            && H5Sget_simple_extent_dims(space, facts->shape, NULL) >= 0;
    }
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return good;
}

/* Elements, shape and place of a tensor. */
static moire_status describe(hid_t group, const char *path, struct moire_catalogue_entry *entry)
{
    struct dataset_facts facts;
    hid_t dataset = H5Dopen2(group, entry->name, H5P_DEFAULT);
    if (dataset < 0) return moire_hdf5_fail(path, "read a tensor of");
    bool good = read_facts(dataset, &facts) && facts.dimensions > 0 && (facts.is_float32 || facts.is_float64);
    H5Dclose(dataset);
    entry->element = facts.is_float64 ? MOIRE_FLOAT64 : MOIRE_FLOAT32;
    entry->dimensions = facts.dimensions;
    for (int d = 0; d < facts.dimensions && good; d++) entry->shape[d] = (int64_t)facts.shape[d];
    entry->offset = facts.offset;
    entry->bytes = facts.stored_bytes;
    /* Stored bytes differ where the dataset is chunked or compressed, as after a foreign tool rewrote the
     * file. */
    if (good && facts.offset >= 0 &&
        entry->bytes == facts.elements * (int64_t)moire_element_bytes(entry->element))
        return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s/%s in %s is no tensor of a checkpoint; expected a contiguous dataset of 1 to %d "
                      "dimensions, float or double; try another file",
                      entry->group, entry->name, path, MOIRE_TENSOR_DIMENSIONS);
}

/* Appends the checksums of one tensor: one value, or one an expert. */
static moire_status read_checksums(hid_t file, const char *path, struct moire_catalogue *catalogue,
                                   struct moire_catalogue_entry *entry)
{
    struct dataset_facts facts;
    char name[2 * MOIRE_TENSOR_NAME + 32];
    snprintf(name, sizeof name, MOIRE_CHECKSUMS_GROUP "/%s/%s", entry->group, entry->name);
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) return moire_hdf5_fail(path, "read the checksum of a tensor of");
    moire_status status = MOIRE_OK;
    if (!read_facts(dataset, &facts) || !facts.is_checksum || facts.dimensions > 1
        || (facts.dimensions == 1 && (int64_t)facts.shape[0] != entry->shape[0]))
        status = moire_fail(MOIRE_BAD_DATA,
                            "%s in %s is no checksum; expected one number or one an expert; try another file",
                            name, path);
    if (status == MOIRE_OK)
        status = moire_grow(MOIRE_MEMORY_OTHER, &catalogue->checksums, &catalogue->checksum_capacity,
                            catalogue->checksum_count + facts.elements, sizeof *catalogue->checksums);
    if (status == MOIRE_OK && H5Dread(dataset, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                                      catalogue->checksums + catalogue->checksum_count) < 0)
        status = moire_hdf5_fail(path, "read the checksum of a tensor of");
    H5Dclose(dataset);
    if (status != MOIRE_OK) return status;
    entry->by_expert = facts.dimensions == 1;
    entry->slices = facts.elements;
    entry->first_checksum = catalogue->checksum_count;
    catalogue->checksum_count += facts.elements;
    return MOIRE_OK;
}

/* The name of link number `index`, in whatever order the file has. */
static moire_status link_name(hid_t group, const char *path, hsize_t index, char name[MOIRE_TENSOR_NAME])
{
    ssize_t length = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_NATIVE, index, name,
                                        MOIRE_TENSOR_NAME, H5P_DEFAULT);
    if (length < 0) return moire_hdf5_fail(path, "list");
    if (length < MOIRE_TENSOR_NAME) return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s holds a name that is too long; found %s..., expected less than %d letters; try "
                      "another file",
                      path, name, MOIRE_TENSOR_NAME);
}

static moire_status link_count(hid_t group, const char *path, hsize_t *count)
{
    H5G_info_t about;
    if (H5Gget_info(group, &about) < 0) return moire_hdf5_fail(path, "list");
    *count = about.nlinks;
    return MOIRE_OK;
}

static moire_status list_tensors(hid_t file, hid_t group, const char *path, const char *group_name,
                                 struct moire_catalogue *catalogue)
{
    hsize_t count = 0;
    MOIRE_TRY(link_count(group, path, &count));
    for (hsize_t i = 0; i < count; i++) {
        MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &catalogue->entries, &catalogue->capacity,
                             catalogue->count + 1, sizeof *catalogue->entries));
        struct moire_catalogue_entry *entry = &catalogue->entries[catalogue->count];
        *entry = (struct moire_catalogue_entry){ 0 };
        snprintf(entry->group, sizeof entry->group, "%s", group_name);
        MOIRE_TRY(link_name(group, path, i, entry->name));
        MOIRE_TRY(describe(group, path, entry));
        MOIRE_TRY(read_checksums(file, path, catalogue, entry));
        if (entry->element != catalogue->element)
            return moire_fail(MOIRE_BAD_DATA,
                              "%s/%s in %s has another element than the file says; found %s, expected %s; "
                              "try another file",
                              entry->group, entry->name, path, moire_element_name(entry->element),
                              moire_element_name(catalogue->element));
        catalogue->count++;
    }
    return MOIRE_OK;
}

static moire_status list_group(hid_t file, const char *path, const char *name,
                               struct moire_catalogue *catalogue)
{
    hid_t group;
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0)
        return moire_fail(MOIRE_BAD_DATA, "%s has no group %s; try a checkpoint that holds it", path, name);
    group = H5Gopen2(file, name, H5P_DEFAULT);
    if (group < 0) return moire_hdf5_fail(path, "open a group of");
    moire_status status = list_tensors(file, group, path, name, catalogue);
    H5Gclose(group);
    return status;
}

static moire_status list_all_groups(hid_t file, const char *path, struct moire_catalogue *catalogue)
{
    hsize_t count = 0;
    char name[MOIRE_TENSOR_NAME];
    MOIRE_TRY(link_count(file, path, &count));
    for (hsize_t i = 0; i < count; i++) {
        MOIRE_TRY(link_name(file, path, i, name));
        if (strcmp(name, MOIRE_CHECKSUMS_GROUP) != 0) MOIRE_TRY(list_group(file, path, name, catalogue));
    }
    return MOIRE_OK;
}

static moire_status check_extents(const char *path, const struct moire_catalogue *catalogue)
{
    int64_t bytes;
    MOIRE_TRY(moire_file_bytes(path, &bytes));
    for (int64_t i = 0; i < catalogue->count; i++) {
        const struct moire_catalogue_entry *entry = &catalogue->entries[i];
        if (entry->bytes > bytes || entry->offset > bytes - entry->bytes)
            return moire_fail(MOIRE_BAD_DATA,
                              "%s is truncated: %s/%s ends beyond it; found %" PRId64 " bytes; try an "
                              "older checkpoint",
                              path, entry->group, entry->name, bytes);
    }
    return MOIRE_OK;
}

moire_status moire_catalogue_read(const char *path, const struct moire_checkpoint_group *groups,
                                  int group_count, struct moire_catalogue *catalogue)
{
    struct moire_catalogue read = { 0 };
    hid_t file;
    moire_hdf5_quiet();
    MOIRE_TRY(moire_hdf5_open(path, false, &file));
    moire_status status = get_state(file, path, &read.state, &read.element);
    if (status == MOIRE_OK && !groups) status = list_all_groups(file, path, &read);
    for (int g = 0; groups && g < group_count && status == MOIRE_OK; g++)
        status = list_group(file, path, groups[g].name, &read);
    H5Fclose(file);
    if (status == MOIRE_OK) status = check_extents(path, &read);
    if (status == MOIRE_OK) {
        if (read.count > 1) qsort(read.entries, (size_t)read.count, sizeof *read.entries, compare_entries);
        *catalogue = read;
    } else {
        moire_catalogue_free(&read);
    }
    return status;
}

moire_status moire_checkpoint_read_state(const char *path, struct moire_checkpoint_state *state)
{
    struct moire_checkpoint_state read = { 0 };
    moire_element element;
    hid_t file;
    moire_hdf5_quiet();
    MOIRE_TRY(moire_hdf5_open(path, false, &file));
    moire_status status = get_state(file, path, &read, &element);
    H5Fclose(file);
    if (status == MOIRE_OK) *state = read;
    else moire_checkpoint_state_free(&read);
    return status;
}

static bool has_attributes(hid_t file)
{
    static const char *const names[] = { "format_version", "step", "tokens", "sequences", "element" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (H5Aexists(file, names[i]) <= 0) return false;
    return true;
}

/* True for another version too: reading it then says so. */
bool moire_checkpoint_is(const char *path)
{
    bool pending = moire_error_text()[0] != 0, agreed = moire_error_is_agreed(), is = false;
    hid_t file;
    moire_hdf5_quiet();
    if (moire_hdf5_open(path, false, &file) == MOIRE_OK) {
        is = has_attributes(file);
        H5Fclose(file);
    }
    if (!pending) moire_error_clear(); /* a no is not an error */
    moire_error_set_agreed(agreed);
    return is;
}
