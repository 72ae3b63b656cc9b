/* Checkpoints that cannot be read: what is said, and on which rank. */
#include "../support/harness.h"

#include <hdf5.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../support/capture.h"
#include "checkpoint_fixture.h"
#include "io/checkpoint_file.h"

static char folder[256];
static struct fixture fixture;

static const struct fixture_shape standard = { .parallel_expert = MOIRE_ALL, .experts = 5, .width = 24 };

/* A folder with step 1, and with step 2 as "two.h5" for damage. */
static void open_folder(void)
{
    folder_make(folder);
    fixture_open(standard, &fixture);
    fixture_fill(&fixture, 1);
    expect_ok(fixture_write(&fixture, 1, "[run]\n", folder, 9));
    on_root(copy_file(in_folder(folder, "step-00000001.h5"), in_folder(folder, "two.h5"), -1));
}

static void close_folder(void)
{
    fixture_close(&fixture);
    folder_remove(folder);
}

static moire_status read_two(void)
{
    struct moire_checkpoint_state state = { 0 };
    moire_status status =
        moire_checkpoint_read(&fixture.mesh, &fixture.tensors, fixture.element, fixture.groups,
                              FIXTURE_GROUPS, in_folder(folder, "two.h5"), &state);
    if (status != MOIRE_OK) expect(state.config == NULL);
    moire_checkpoint_state_free(&state);
    return status;
}

/* Place of a slice of a tensor; the same on all ranks. */
static int64_t place_of(const char *group, const char *name, int64_t slice)
{
    struct moire_catalogue catalogue;
    int64_t place = -1;
    expect_ok(moire_catalogue_read(in_folder(folder, "step-00000001.h5"), NULL, 0, &catalogue));
    const struct moire_catalogue_entry *entry = moire_catalogue_find(&catalogue, group, name);
    expect(entry != NULL);
    if (entry) place = entry->offset + slice * (entry->bytes / entry->slices);
    moire_catalogue_free(&catalogue);
    MPI_Barrier(MPI_COMM_WORLD);
    return place;
}

/* `shown` names the place, for instance "parameters/embedding in". */
static void expect_flip_found(const char *group, const char *name, int64_t slice, int64_t at,
                              const char *shown)
{
    int64_t place = place_of(group, name, slice) + at;
    on_root(flip_byte(in_folder(folder, "two.h5"), place));
    expect_agreed(read_two(), MOIRE_BAD_DATA, shown);
    on_root(expect_failure(moire_checkpoint_verify(in_folder(folder, "two.h5")), MOIRE_BAD_DATA, shown));
    on_root(flip_byte(in_folder(folder, "two.h5"), place));
}

static void a_flipped_byte_is_found_and_named(void)
{
    open_folder();
    expect_flip_found("parameters", "embedding", 0, 0, "wrong checksum of parameters/embedding in ");
    expect_flip_found("parameters", "embedding", 0, 257 * 24 * 4 - 1, "parameters/embedding in ");
    expect_flip_found("second_moment", "layers.0.norm", 0, 17,
                      "wrong checksum of second_moment/layers.0.norm in ");
    expect_flip_found("first_moment", "head", 0, 5, "wrong checksum of first_moment/head in ");
    for (int64_t expert = 0; expert < 5; expert++) {
        char shown[80];
        snprintf(shown, sizeof shown, "first_moment/layers.0.experts.w2, expert %d, in ", (int)expert);
        expect_flip_found("first_moment", "layers.0.experts.w2", expert, 4 * 13 * 24 - 1, shown);
    }
    expect_flip_found("parameters", "layers.0.experts.bias", 4, 0,
                      "parameters/layers.0.experts.bias, expert 4, in ");
    expect_ok(read_two());
    expect(fixture_equal(&fixture, 1, FIXTURE_GROUPS));
    close_folder();
}

/* Other experts are read on other ranks: two of them fail, one speaks. */
static void two_ranks_that_fail_leave_together(void)
{
    open_folder();
    int64_t first = place_of("parameters", "layers.0.experts.w1", 0),
            last = place_of("parameters", "layers.0.experts.w1", 4);
    on_root(flip_byte(in_folder(folder, "two.h5"), first); flip_byte(in_folder(folder, "two.h5"), last));
    expect_agreed(read_two(), MOIRE_BAD_DATA, "layers.0.experts.w1, expert 0, in ");
    close_folder();
}

/* Wherever a byte is wrong: the checkpoint is refused, or the byte is one that nobody reads. */
static void any_flipped_byte_is_harmless(void)
{
    static struct capture captured;
    int refused = 0;
    int64_t bytes = 0;
    open_folder();
    on_root(expect_ok(moire_file_bytes(in_folder(folder, "two.h5"), &bytes)));
    MPI_Bcast(&bytes, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
    for (int i = 0; i < 120; i++) {
        /* The metadata is at the start; elsewhere mostly elements. */
        int64_t place = i % 2 ? test_random_below(bytes) : test_random_below(16384);
        on_root(flip_byte(in_folder(folder, "two.h5"), place));
        for (int g = 0; g < FIXTURE_GROUPS; g++)
            memset(fixture.arenas[g], 0, (size_t)moire_tensors_elements(&fixture.tensors) * sizeof(float));
        capture_begin(&captured, STDERR_FILENO);
        moire_status status = read_two();
        capture_end(&captured);
        expect(status == MOIRE_OK || status == MOIRE_BAD_DATA);
        if (status == MOIRE_OK) expect(fixture_equal(&fixture, 1, FIXTURE_GROUPS));
        refused += status != MOIRE_OK;
        moire_error_clear();
        on_root(flip_byte(in_folder(folder, "two.h5"), place));
    }
    expect(refused > 30);
    expect_ok(read_two());
    if (test_rank == 0) printf("# %d of 120 refused\n", refused);
    close_folder();
}

static void a_truncated_file_is_refused(void)
{
    int64_t bytes = 0, lengths[24];
    open_folder();
    on_root(expect_ok(moire_file_bytes(in_folder(folder, "step-00000001.h5"), &bytes)));
    MPI_Bcast(&bytes, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
    const int64_t fixed[] = {
        0, 1, 7, 8, 9, 48, 96, 512, 800, 2048, 4096, bytes / 2, bytes - 4096, bytes - 1
    };
    for (int i = 0; i < 24; i++) lengths[i] = i < 14 ? fixed[i] : test_random_below(bytes);
    for (int i = 0; i < 24; i++) {
        on_root(copy_file(in_folder(folder, "step-00000001.h5"), in_folder(folder, "two.h5"), lengths[i]));
        expect_agreed(read_two(), MOIRE_BAD_DATA, "two.h5");
        on_root(
            expect_failure(moire_checkpoint_verify(in_folder(folder, "two.h5")), MOIRE_BAD_DATA, "two.h5");
            expect(!moire_checkpoint_is(in_folder(folder, "two.h5"))));
    }
    on_root(copy_file(in_folder(folder, "step-00000001.h5"), in_folder(folder, "two.h5"), bytes - 1));
    expect_agreed(read_two(), MOIRE_BAD_DATA, "truncated");
    close_folder();
}

static void another_model_is_refused(void)
{
    open_folder();
    fixture_close(&fixture);
    const struct {
        struct fixture_shape shape;
        const char *text;
    } cases[] = {
        { { MOIRE_ALL, 5, 23, MOIRE_FLOAT32, NULL }, "another shape; found 257 x 24, expected 257 x 23;" },
        { { MOIRE_ALL, 4, 24, MOIRE_FLOAT32, NULL },
          "another shape; found 5 x 24 x 13, expected 4 x 24 x 13;" },
        { { MOIRE_ALL, 5, 24, MOIRE_FLOAT64, NULL }, "another element; found float32, expected float64;" },
        { { MOIRE_ALL, 5, 24, MOIRE_FLOAT32, "head" },
          "found the tensor first_moment/head, expected none of that name;" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture_open(cases[i].shape, &fixture);
        expect_agreed(read_two(), MOIRE_BAD_DATA, cases[i].text);
        fixture_close(&fixture);
    }
    fixture_open((struct fixture_shape) { MOIRE_ALL, 5, 24, MOIRE_FLOAT32, "layers.0.router" }, &fixture);
    expect_ok(fixture_write(&fixture, 2, "", folder, 9));
    fixture_close(&fixture);
    on_root(copy_file(in_folder(folder, "step-00000002.h5"), in_folder(folder, "two.h5"), -1));
    fixture_open(standard, &fixture);
    expect_agreed(read_two(), MOIRE_BAD_DATA, "two.h5 has no tensor parameters/layers.0.router;");
    close_folder();
}

/* Changes two.h5 with HDF5; rank 0. */
static void edit(void (*change)(hid_t file))
{
    on_root(copy_file(in_folder(folder, "step-00000001.h5"), in_folder(folder, "two.h5"), -1);
            hid_t file = H5Fopen(in_folder(folder, "two.h5"), H5F_ACC_RDWR, H5P_DEFAULT); change(file);
            H5Fclose(file));
}

static void put_version(hid_t file)
{
    int64_t version = 2;
    hid_t attribute = H5Aopen(file, "format_version", H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &version);
    H5Aclose(attribute);
}

static void drop_version(hid_t file)
{
    H5Adelete(file, "format_version");
}

static void put_text_step(hid_t file)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute;
    H5Adelete(file, "step");
    attribute = H5Acreate2(file, "step", H5T_C_S1, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_C_S1, "7");
    H5Aclose(attribute);
    H5Sclose(space);
}

static void put_many_steps(hid_t file)
{
    const hsize_t many = 1000;
    hid_t space = H5Screate_simple(1, &many, NULL), attribute;
    static int64_t steps[1000];
    H5Adelete(file, "step");
    attribute = H5Acreate2(file, "step", H5T_NATIVE_INT64, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, steps);
    H5Aclose(attribute);
    H5Sclose(space);
}

static void put_element(hid_t file)
{
    hid_t attribute = H5Aopen(file, "element", H5P_DEFAULT), type = H5Aget_type(attribute);
    H5Awrite(attribute, type, "bfloat1");
    H5Tclose(type);
    H5Aclose(attribute);
}

static void drop_config(hid_t file)
{
    H5Adelete(file, "config");
}

static void drop_tensor(hid_t file)
{
    H5Ldelete(file, "second_moment/head", H5P_DEFAULT);
}

static void drop_group(hid_t file)
{
    H5Ldelete(file, "first_moment", H5P_DEFAULT);
}

static void drop_checksum(hid_t file)
{
    H5Ldelete(file, "checksums/parameters/head", H5P_DEFAULT);
}

/* One dataset of these axes in place of another. */
static void replace(hid_t file, const char *name, hid_t type, int axes, const hsize_t *extent, bool chunked)
{
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE),
          space = axes ? H5Screate_simple(axes, extent, NULL) : H5Screate(H5S_SCALAR);
    if (chunked) H5Pset_chunk(creation, axes, extent);
    H5Ldelete(file, name, H5P_DEFAULT);
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(creation);
}

static void put_chunked(hid_t file)
{
    replace(file, "parameters/layers.0.norm", H5T_NATIVE_FLOAT, 1, (const hsize_t[]) { 24 }, true);
}

static void put_integers(hid_t file)
{
    replace(file, "parameters/layers.0.norm", H5T_NATIVE_INT, 1, (const hsize_t[]) { 24 }, false);
}

static void put_doubles(hid_t file)
{
    replace(file, "parameters/layers.0.norm", H5T_NATIVE_DOUBLE, 1, (const hsize_t[]) { 24 }, false);
}

static void put_four_axes(hid_t file)
{
    replace(file, "parameters/layers.0.norm", H5T_NATIVE_FLOAT, 4, (const hsize_t[]) { 2, 3, 2, 2 }, false);
}

static void put_one_checksum(hid_t file)
{
    replace(file, "checksums/parameters/layers.0.experts.w1", H5T_NATIVE_UINT64, 0, NULL, false);
}

static void put_short_checksums(hid_t file)
{
    replace(file, "checksums/parameters/layers.0.experts.w1", H5T_NATIVE_UINT64, 1, (const hsize_t[]) { 4 },
            false);
}

static void put_group(hid_t file)
{
    H5Gclose(H5Gcreate2(file, "parameters/extra", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}

static void a_foreign_structure_is_refused(void)
{
    static const struct {
        void (*change)(hid_t file);
        const char *text;
        bool verified;
    } cases[] = {
        { put_version, "two.h5 is a checkpoint of moire of another format; found version 2, expected 1;",
          true },
        { drop_version, "two.h5 is not a checkpoint of moire;", true },
        { put_text_step, "the attribute step of ", true },
        { put_many_steps, "the attribute step of ", true },
        { put_element, "has elements of another type; found bfloat1, expected", true },
        { drop_config, "cannot read the attribute config of ", true },
        { drop_tensor, "has no tensor second_moment/head;", false },
        { drop_group, "has no group first_moment;", false },
        { drop_checksum, "cannot read the checksum of a tensor of", true },
        { put_chunked, "parameters/layers.0.norm in ", true },
        { put_integers, "parameters/layers.0.norm in ", true },
        { put_doubles, "parameters/layers.0.norm in ", true },
        { put_four_axes, "parameters/layers.0.norm in ", true },
        { put_one_checksum, "another kind of checksum; found one a tensor, expected one an expert;", false },
        { put_short_checksums, "checksums/parameters/layers.0.experts.w1 in ", true },
        { put_group, "cannot read a tensor of", true },
    };
    open_folder();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        edit(cases[i].change);
        expect_agreed(read_two(), MOIRE_BAD_DATA, cases[i].text);
        if (cases[i].verified)
            on_root(expect_failure(moire_checkpoint_verify(in_folder(folder, "two.h5")), MOIRE_BAD_DATA,
                                   cases[i].text));
    }
    close_folder();
}

static void what_is_no_checkpoint_is_refused(void)
{
    struct moire_checkpoint_state state = { 0 };
    open_folder();
    on_root(expect_ok(moire_file_write(in_folder(folder, "two.h5"), "not a checkpoint at all", 23)));
    expect_agreed(read_two(), MOIRE_BAD_DATA, "is not HDF5;");
    on_root(expect_ok(moire_file_write(in_folder(folder, "two.h5"), "", 0)));
    expect_agreed(read_two(), MOIRE_BAD_DATA, "found 0 bytes;");
    on_root(expect(unlink(in_folder(folder, "two.h5")) == 0));
    expect_agreed(read_two(), MOIRE_NO_FILE, "No such file");
    on_root(expect(mkdir(in_folder(folder, "two.h5"), 0777) == 0));
    expect_agreed(read_two(), MOIRE_NO_FILE, "two.h5");
    on_root(
        expect(rmdir(in_folder(folder, "two.h5")) == 0 && mkfifo(in_folder(folder, "two.h5"), 0666) == 0));
    expect_agreed(read_two(), MOIRE_NO_FILE, "found no regular file,"); /* and does not wait for a writer */
    on_root(expect(!moire_checkpoint_is(in_folder(folder, "two.h5"))));
    /* A question leaves a pending error and its agreement alone. */
    expect(moire_fail(MOIRE_FAILED, "before") == MOIRE_FAILED);
    moire_error_set_agreed(true);
    expect(!moire_checkpoint_is(in_folder(folder, "missing")));
    expect(strstr(moire_error_text(), "before") && moire_error_is_agreed());
    moire_error_clear();
    expect_failure(moire_checkpoint_read_state(in_folder(folder, "missing"), &state), MOIRE_NO_FILE,
                   "missing");
    expect_failure(moire_checkpoint_print(in_folder(folder, "missing"), false), MOIRE_NO_FILE, "missing");
    close_folder();
}

/* Print shows every wrong tensor and fails. */
static void print_shows_damage(void)
{
    static struct capture captured;
    open_folder();
    int64_t first = place_of("parameters", "head", 0),
            second = place_of("second_moment", "layers.0.experts.w1", 3);
    if (test_rank == 0) {
        flip_byte(in_folder(folder, "two.h5"), first);
        flip_byte(in_folder(folder, "two.h5"), second);
        capture_begin(&captured, STDOUT_FILENO);
        moire_status status = moire_checkpoint_print(in_folder(folder, "two.h5"), true);
        capture_end(&captured);
        expect_failure(status, MOIRE_BAD_DATA, "wrong checksum of parameters/head in ");
        expect(count_text(captured.text, " WRONG\n") == 2 &&
               count_text(captured.text, " ok\n") == FIXTURE_GROUPS * 8 - 2);
    }
    close_folder();
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "a flipped byte is found and named", a_flipped_byte_is_found_and_named },
        { "two ranks that fail leave together", two_ranks_that_fail_leave_together },
        { "any flipped byte is harmless", any_flipped_byte_is_harmless },
        { "a truncated file is refused", a_truncated_file_is_refused },
        { "another model is refused", another_model_is_refused },
        { "a foreign structure is refused", a_foreign_structure_is_refused },
        { "what is no checkpoint is refused", what_is_no_checkpoint_is_refused },
        { "print shows damage", print_shows_damage },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
