/* compare_checkpoints A B: succeeds when B has the datasets of A, each with the same bytes, and no
 * others. Prints what differs. */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct comparison {
    hid_t other;
    long datasets, differences;
};

/* The bytes of a dataset in its own type; NULL where there is none of that name. */
static void *read_bytes(hid_t file, const char *name, size_t *bytes)
{
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0) return NULL;
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), type = H5Dget_type(dataset),
          space = H5Dget_space(dataset);
    *bytes = (size_t)H5Sget_simple_extent_npoints(space) * H5Tget_size(type);
    void *data = malloc(*bytes + 1);
    if (!data || H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) exit(2);
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(dataset);
    return data;
}

static void compare(hid_t file, const char *name, struct comparison *comparison)
{
    size_t bytes = 0, other_bytes = 0;
    void *data = read_bytes(file, name, &bytes), *other = read_bytes(comparison->other, name, &other_bytes);
    comparison->datasets++;
    if (!other || bytes != other_bytes || memcmp(data, other, bytes) != 0) {
        printf("%s: %s\n", name, !other ? "missing" : bytes != other_bytes ? "other size" : "other bytes");
        comparison->differences++;
    }
    free(other);
    free(data);
}

static herr_t visit(hid_t file, const char *name, const H5O_info_t *information, void *context)
{
    if (information->type == H5O_TYPE_DATASET) compare(file, name, context);
    return 0;
}

static herr_t count(hid_t file, const char *name, const H5O_info_t *information, void *context)
{
    (void)file, (void)name;
    if (information->type == H5O_TYPE_DATASET) ++*(long *)context;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    hid_t first = H5Fopen(argv[1], H5F_ACC_RDONLY, H5P_DEFAULT),
          second = H5Fopen(argv[2], H5F_ACC_RDONLY, H5P_DEFAULT);
    if (first < 0 || second < 0) return 2;
    struct comparison comparison = { .other = second };
    long others = 0;
    H5Ovisit(first, H5_INDEX_NAME, H5_ITER_NATIVE, visit, &comparison);
    H5Ovisit(second, H5_INDEX_NAME, H5_ITER_NATIVE, count, &others);
    H5Fclose(second);
    H5Fclose(first);
    printf("%ld datasets, %ld differ, the other has %ld\n", comparison.datasets, comparison.differences,
           others);
    return comparison.differences || comparison.datasets == 0 || comparison.datasets != others;
}
