/* HDF5 lays the file out in memory, in a sparse file without a name; what it wrote there is then copied to
 * the disk. HDF5 must not meet a full disk itself: when its last write fails, it faults at the end of the
 * process (seen with 1.10.8). */
#include "io/checkpoint_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <fcntl.h>

#include "io/hdf5.h"

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

/* Copies the pieces of a sparse file that hold something. */
static moire_status copy_pieces(int from, int to, const char *path, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; ) {
        int64_t start = lseek(from, at, SEEK_DATA);
        if (start < 0 && errno == ENXIO) break; /* nothing more */
        int64_t end = start < 0 ? -1 : lseek(from, start, SEEK_HOLE);
        if (end < 0)
            return moire_fail(MOIRE_FAILED, "cannot walk through the layout of %s; found: %s", path,
                              strerror(errno));
        void *piece = mmap(NULL, (size_t)(end - start), PROT_READ, MAP_SHARED, from, start);
        if (piece == MAP_FAILED)
            return moire_fail(MOIRE_NO_MEMORY, "cannot map the layout of %s; found: %s", path,
                              strerror(errno));
        moire_status status = moire_file_pwrite(to, path, piece, end - start, start);
        munmap(piece, (size_t)(end - start));
        if (status != MOIRE_OK) return status;
        at = end;
    }
    return MOIRE_OK;
}

/* The space is reserved first: a full disk is found while nothing else was touched. */
static moire_status copy_to_disk(int memory, const char *path)
{
    int descriptor = -1;
    int64_t bytes = lseek(memory, 0, SEEK_END);
    MOIRE_TRY(moire_file_open(path, O_WRONLY | O_CREAT | O_TRUNC, &descriptor));
    moire_status status = moire_file_reserve(descriptor, path, bytes);
    if (status == MOIRE_OK && ftruncate(descriptor, bytes) < 0) /* for file systems that cannot reserve */
        status =
            moire_fail(MOIRE_NO_SPACE, "cannot make %s %lld bytes long; found: %s; try another file system",
                       path, (long long)bytes, strerror(errno));
    if (status == MOIRE_OK) status = copy_pieces(memory, descriptor, path, bytes);
    if (close(descriptor) < 0 && errno != EINTR && status == MOIRE_OK)
        status = moire_fail(MOIRE_NO_SPACE, "cannot close %s; found: %s; try another file system", path,
                            strerror(errno));
    if (status != MOIRE_OK) unlink(path);
    return status;
}

moire_status moire_checkpoint_lay_out(const char *path, const struct moire_tensors *tensors,
                                      moire_element element, const struct moire_checkpoint_group *groups,
                                      int group_count, const struct moire_checkpoint_state *state,
                                      struct moire_checkpoint_place *places)
{
    char memory_path[64];
    hid_t file;
    moire_hdf5_quiet();
    int memory = memfd_create("moire checkpoint", MFD_CLOEXEC);
    if (memory < 0)
        return moire_fail(MOIRE_NO_MEMORY,
                          "cannot lay out %s in memory; found: %s; try with less memory in use", path,
                          strerror(errno));
    snprintf(memory_path, sizeof memory_path, "/proc/self/fd/%d", memory);
    moire_status status = moire_hdf5_create(memory_path, &file);
    if (status != MOIRE_OK) goto close_memory;
    status = put_state(file, path, element, state);
    if (status == MOIRE_OK) status = make_groups(file, path, tensors, element, groups, group_count, places);
    if (H5Fclose(file) < 0 && status == MOIRE_OK) status = moire_hdf5_fail(path, "lay out");
    if (status == MOIRE_OK) status = copy_to_disk(memory, path);
close_memory:
    close(memory);
    return status;
}
