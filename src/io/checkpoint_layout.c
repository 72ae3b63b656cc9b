/* Rank 0 lays a checkpoint out: every dataset gets its place, and none its contents. */
#include "io/checkpoint_file.h"

#include <string.h>
#include <unistd.h>

#include "io/hdf5.h"

/* More than HDF5 needs beside the elements: its tables, attributes, and gaps between datasets. */
enum { METADATA_BYTES = 1 << 20, DATASET_BYTES = 1 << 13 };

static hid_t native_type(moire_element element)
{
    return element == MOIRE_FLOAT64 ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT;
}

/* Contiguous, with its place in the file now, and no time stamps: equal states give equal files. */
static hid_t dataset_creation(void)
{
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (creation < 0) return creation;
    if (H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0 && H5Pset_obj_track_times(creation, false) >= 0)
        return creation;
    H5Pclose(creation);
    return H5I_INVALID_HID;
}

static moire_status make_group(hid_t parent, const char *path, const char *name, hid_t *group)
{
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE), made = H5I_INVALID_HID;
    if (creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0)
        made = H5Gcreate2(parent, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    moire_status status = made < 0 ? moire_hdf5_fail(path, "make a group in") : MOIRE_OK;
    if (creation >= 0) H5Pclose(creation);
    if (status == MOIRE_OK) *group = made;
    return status;
}

/* A dataset of `dimensions` (0: one value) and its place. */
static moire_status make_dataset(hid_t group, const char *path, const char *name, hid_t type, int dimensions,
                                 const int64_t *shape, int64_t *offset)
{
    hsize_t extent[MOIRE_TENSOR_DIMENSIONS] = { 0 };
    for (int d = 0; d < dimensions; d++) extent[d] = (hsize_t)shape[d];
    hid_t space = dimensions ? H5Screate_simple(dimensions, extent, NULL) : H5Screate(H5S_SCALAR);
    hid_t creation = dataset_creation(), dataset = H5I_INVALID_HID;
    haddr_t address = HADDR_UNDEF;
    if (space >= 0 && creation >= 0)
        dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (dataset >= 0) address = H5Dget_offset(dataset);
    moire_status status = address == HADDR_UNDEF ? moire_hdf5_fail(path, "make a dataset in") : MOIRE_OK;
    if (dataset >= 0) H5Dclose(dataset);
    if (creation >= 0) H5Pclose(creation);
    if (space >= 0) H5Sclose(space);
    if (status == MOIRE_OK) *offset = (int64_t)address;
    return status;
}

static moire_status make_datasets(hid_t data, hid_t checksums, const char *path,
                                  const struct moire_tensors *tensors, moire_element element,
                                  struct moire_checkpoint_place *places)
{
    for (int t = 0; t < tensors->count; t++) {
        const struct moire_tensor *tensor = &tensors->list[t];
        bool by_expert = tensor->sharding == MOIRE_BY_EXPERT;
        MOIRE_TRY(make_dataset(data, path, tensor->name, native_type(element), tensor->dimensions,
                               tensor->shape, &places[t].data));
        MOIRE_TRY(make_dataset(checksums, path, tensor->name, H5T_NATIVE_UINT64, by_expert, tensor->shape,
                               &places[t].checksums));
    }
    return MOIRE_OK;
}

static moire_status put_state(hid_t file, const char *path, moire_element element,
                              const struct moire_checkpoint_state *state)
{
    int64_t version = MOIRE_CHECKPOINT_VERSION;
    MOIRE_TRY(moire_hdf5_put_number(file, path, "format_version", H5T_NATIVE_INT64, &version));
    MOIRE_TRY(moire_hdf5_put_number(file, path, "step", H5T_NATIVE_INT64, &state->step));
    MOIRE_TRY(moire_hdf5_put_number(file, path, "tokens", H5T_NATIVE_INT64, &state->tokens));
    MOIRE_TRY(moire_hdf5_put_number(file, path, "sequences", H5T_NATIVE_INT64, &state->sequences));
    MOIRE_TRY(moire_hdf5_put_number(file, path, "seed", H5T_NATIVE_UINT64, &state->seed));
    MOIRE_TRY(moire_hdf5_put_text(file, path, "element", moire_element_name(element)));
    return moire_hdf5_put_text(file, path, "config", state->config ? state->config : "");
}

static moire_status make_groups(hid_t file, const char *path, const struct moire_tensors *tensors,
                                moire_element element, const struct moire_checkpoint_group *groups,
                                int group_count, struct moire_checkpoint_place *places)
{
    hid_t all_checksums;
    MOIRE_TRY(make_group(file, path, MOIRE_CHECKSUMS_GROUP, &all_checksums));
    moire_status status = MOIRE_OK;
    for (int g = 0; g < group_count && status == MOIRE_OK; g++) {
        hid_t data = H5I_INVALID_HID, checksums = H5I_INVALID_HID;
        status = make_group(file, path, groups[g].name, &data);
        if (status == MOIRE_OK) status = make_group(all_checksums, path, groups[g].name, &checksums);
        if (status == MOIRE_OK)
            status =
                make_datasets(data, checksums, path, tensors, element, places + (int64_t)g * tensors->count);
        if (checksums >= 0) H5Gclose(checksums);
        if (data >= 0) H5Gclose(data);
    }
    H5Gclose(all_checksums);
    return status;
}

/* The elements of the file and enough for everything else. */
static int64_t enough_bytes(const struct moire_tensors *tensors, moire_element element, int group_count,
                            const struct moire_checkpoint_state *state)
{
    int64_t group_bytes = 0;
    for (int t = 0; t < tensors->count; t++) {
        const struct moire_tensor *tensor = &tensors->list[t];
        int64_t checksums = tensor->sharding == MOIRE_BY_EXPERT ? tensor->shape[0] : 1;
        group_bytes += moire_tensor_global_elements(tensor) * (int64_t)moire_element_bytes(element) +
                       checksums * (int64_t)sizeof(uint64_t) + 2 * DATASET_BYTES;
    }
    return group_count * group_bytes + METADATA_BYTES +
           2 * (int64_t)(state->config ? strlen(state->config) : 0);
}

moire_status moire_checkpoint_lay_out(const char *path, const struct moire_tensors *tensors,
                                      moire_element element, const struct moire_checkpoint_group *groups,
                                      int group_count, const struct moire_checkpoint_state *state,
                                      struct moire_checkpoint_place *places)
{
    int64_t bytes = 0;
    hid_t file;
    moire_hdf5_quiet();
    MOIRE_TRY(moire_hdf5_create(path, enough_bytes(tensors, element, group_count, state), &file));
    moire_status status = put_state(file, path, element, state);
    if (status == MOIRE_OK) status = make_groups(file, path, tensors, element, groups, group_count, places);
    if (H5Fclose(file) < 0 && status == MOIRE_OK) status = moire_hdf5_fail(path, "lay out");
    if (status == MOIRE_OK) status = moire_file_bytes(path, &bytes);
    if (status == MOIRE_OK) status = moire_hdf5_reserve(path, bytes); /* should the tables have outgrown us */
    if (status != MOIRE_OK) unlink(path);
    return status;
}
