#include "moire/io/samples.h"

#include "io/hdf5.h"

enum { AXES = 2, SLACK_BYTES = 1 << 17 }; /* what groups and headers of a variant take, with room to spare */

moire_status moire_samples_create(const char *path, int ranks, const char *config)
{
    const int64_t version = MOIRE_SAMPLES_VERSION, count = ranks;
    hid_t file;
    moire_hdf5_quiet();
    MOIRE_TRY(moire_hdf5_create(path, SLACK_BYTES, &file));
    moire_status status = moire_hdf5_put_number(file, path, "format_version", H5T_NATIVE_INT64, &version);
    if (status == MOIRE_OK) status = moire_hdf5_put_number(file, path, "ranks", H5T_NATIVE_INT64, &count);
    if (status == MOIRE_OK) status = moire_hdf5_put_text(file, path, "config", config);
    if (H5Fclose(file) < 0 && status == MOIRE_OK) status = moire_hdf5_fail(path, "write");
    return status;
}

static hid_t open_group(hid_t parent, const char *name)
{
    if (H5Lexists(parent, name, H5P_DEFAULT) > 0) return H5Gopen2(parent, name, H5P_DEFAULT);
    return H5Gcreate2(parent, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
}

static moire_status put_dataset(hid_t group, const char *path, const char *name, const hsize_t extent[AXES],
                                const double *numbers)
{
    hid_t space = H5Screate_simple(AXES, extent, NULL), dataset = H5I_INVALID_HID;
    if (space >= 0)
        dataset = H5Dcreate2(group, name, H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool good =
        dataset >= 0 && H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers) >= 0;
    moire_status status = good ? MOIRE_OK : moire_hdf5_fail(path, "write samples to");
    if (dataset >= 0) H5Dclose(dataset);
    if (space >= 0) H5Sclose(space);
    return status;
}

static moire_status put_variant(hid_t file, const char *path, const char *name, const char *variant,
                                const hsize_t extent[AXES], const double *end, const double *skew)
{
    hid_t outer = open_group(file, name), inner = H5I_INVALID_HID;
    if (outer >= 0) inner = open_group(outer, variant);
    moire_status status = inner < 0 ? moire_hdf5_fail(path, "make a group in") : MOIRE_OK;
    if (status == MOIRE_OK) status = put_dataset(inner, path, "end", extent, end);
    if (status == MOIRE_OK) status = put_dataset(inner, path, "skew", extent, skew);
    if (inner >= 0) H5Gclose(inner);
    if (outer >= 0) H5Gclose(outer);
    return status;
}

moire_status moire_samples_add(const char *path, const char *name, const char *variant, int64_t samples,
                               int ranks, const double *end, const double *skew)
{
    const hsize_t extent[AXES] = { (hsize_t)samples, (hsize_t)ranks };
    int64_t bytes = 0;
    hid_t file;
    moire_hdf5_quiet();
    MOIRE_TRY(moire_file_bytes(path, &bytes));
    bytes += 2 * samples * ranks * (int64_t)sizeof(double) + SLACK_BYTES;
    MOIRE_TRY(moire_hdf5_reserve(path, bytes));
    MOIRE_TRY(moire_hdf5_open(path, true, &file));
    moire_status status = moire_hdf5_check_version(file, path, "file of samples", MOIRE_SAMPLES_VERSION);
    if (status == MOIRE_OK) status = put_variant(file, path, name, variant, extent, end, skew);
    if (H5Fclose(file) < 0 && status == MOIRE_OK) status = moire_hdf5_fail(path, "write");
    return status;
}
