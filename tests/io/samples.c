/* samples.h5: what was written is there, case by case. */
#include "../support/harness.h"

#include <hdf5.h>

#include "checkpoint_fixture.h"
#include "moire/io/samples.h"

enum { SAMPLES = 7, RANKS = 3, NUMBERS = SAMPLES * RANKS };

static char folder[256];

static void fill(double first, double *numbers)
{
    for (int i = 0; i < NUMBERS; i++) numbers[i] = first + i;
}

static void expect_dataset(hid_t file, const char *name, double first)
{
    double found[NUMBERS] = { 0 };
    hsize_t extent[2] = { 0, 0 };
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
    expect(H5Sget_simple_extent_ndims(space) == 2);
    H5Sget_simple_extent_dims(space, extent, NULL);
    expect(extent[0] == SAMPLES && extent[1] == RANKS);
    expect(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, found) >= 0);
    for (int i = 0; i < NUMBERS; i++) expect(found[i] == first + i);
    H5Sclose(space);
    H5Dclose(dataset);
}

static void written_samples_are_there(void)
{
    folder_make(folder);
    const char *path = in_folder(folder, "samples.h5");
    double end[NUMBERS], skew[NUMBERS];
    fill(0.5, skew);
    expect_ok(moire_samples_create(path, RANKS, "[run]\n"));
    fill(100, end);
    expect_ok(moire_samples_add(path, "64", "alltoallv dispatch", SAMPLES, RANKS, end, skew));
    fill(200, end);
    expect_ok(moire_samples_add(path, "64", "alltoallv combine", SAMPLES, RANKS, end, skew));
    fill(300, end);
    expect_ok(moire_samples_add(path, "layer 1", "alltoallv dispatch", SAMPLES, RANKS, end, skew));
    expect(moire_samples_add(path, "64", "alltoallv combine", SAMPLES, RANKS, end, skew) == MOIRE_BAD_DATA);
    moire_error_clear();
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    expect_dataset(file, "/64/alltoallv dispatch/end", 100);
    expect_dataset(file, "/64/alltoallv combine/end", 200);
    expect_dataset(file, "/64/alltoallv combine/skew", 0.5);
    expect_dataset(file, "/layer 1/alltoallv dispatch/end", 300);
    H5Fclose(file);
    folder_remove(folder);
}

static void nowhere(void)
{
    expect(moire_samples_create("/nowhere/samples.h5", 1, "") == MOIRE_NO_FILE);
    moire_error_clear();
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "written samples are there", written_samples_are_there },
        { "no such folder", nowhere },
    };
    return test_main(argc, argv, "1", tests, sizeof tests / sizeof *tests);
}
