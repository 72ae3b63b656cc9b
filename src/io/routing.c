#include "moire/io/routing.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io/hdf5.h"

enum { AXES = 4, SOURCE_AXES = 2, CHUNK_TOKENS = 65536, INDEX_BYTES = 256, SLACK_BYTES = 1 << 20 };
enum { STEP, LAYER, TOKEN, SLOT }; /* the axes */

static const char dataset_name[] = "experts", source_name[] = "source";

void moire_routing_free(struct moire_routing_file *file)
{
    moire_release(file->ids);
    moire_release(file->sources);
    *file = (struct moire_routing_file) { 0 };
}

/* Extent of the open dataset; false where it has other axes. */
static bool read_extent(hid_t dataset, int axes, hsize_t *extent)
{
    hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
    bool good = space >= 0 && type >= 0 && H5Sget_simple_extent_ndims(space) == axes &&
                H5Tget_class(type) == H5T_INTEGER && H5Sget_simple_extent_dims(space, extent, NULL) >= 0;
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    return good;
}

/* An open file with its dataset and what it says of itself. */
struct recording {
    const char *path;
    hid_t file, dataset, sources;
    hsize_t extent[AXES];
    int64_t experts, first_step;
};

static moire_status open_dataset(struct recording *recording)
{
    MOIRE_TRY(moire_hdf5_check_version(recording->file, recording->path, "record of routing",
                                       MOIRE_ROUTING_VERSION));
    MOIRE_TRY(moire_hdf5_get_number(recording->file, recording->path, "experts", H5T_NATIVE_INT64,
                                    &recording->experts));
    MOIRE_TRY(moire_hdf5_get_number(recording->file, recording->path, "first_step", H5T_NATIVE_INT64,
                                    &recording->first_step));
    recording->dataset = H5Dopen2(recording->file, dataset_name, H5P_DEFAULT);
    if (recording->dataset < 0) return moire_hdf5_fail(recording->path, "read the expert ids of");
    if (!read_extent(recording->dataset, AXES, recording->extent))
        return moire_fail(MOIRE_BAD_DATA,
                          "the expert ids of %s have other axes; expected int32 [step, layer, token, slot]; "
                          "try another file",
                          recording->path);
    recording->sources = H5Dopen2(recording->file, source_name, H5P_DEFAULT);
    if (recording->sources < 0) return moire_hdf5_fail(recording->path, "read the source ranks of");
    hsize_t extent[SOURCE_AXES];
    if (read_extent(recording->sources, SOURCE_AXES, extent) && extent[0] == recording->extent[STEP] &&
        extent[1] == recording->extent[TOKEN])
        return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "the source ranks of %s do not fit its expert ids; expected int32 [step, token]; "
                      "try another file",
                      recording->path);
}

static moire_status close_recording(struct recording *recording, moire_status status)
{
    if (recording->dataset >= 0 && H5Dclose(recording->dataset) < 0 && status == MOIRE_OK)
        status = moire_hdf5_fail(recording->path, "write");
    if (recording->sources >= 0 && H5Dclose(recording->sources) < 0 && status == MOIRE_OK)
        status = moire_hdf5_fail(recording->path, "write");
    if (H5Fclose(recording->file) < 0 && status == MOIRE_OK)
        status = moire_hdf5_fail(recording->path, "write");
    return status;
}

static moire_status open_recording(const char *path, bool writable, struct recording *recording)
{
    struct recording opened = { .path = path, .dataset = H5I_INVALID_HID, .sources = H5I_INVALID_HID };
    moire_hdf5_quiet();
    MOIRE_TRY(moire_hdf5_open(path, writable, &opened.file));
    moire_status status = open_dataset(&opened);
    if (status == MOIRE_OK)
        *recording = opened;
    else
        close_recording(&opened, status);
    return status;
}

/* All numbers of a dataset, each from -1 to most. The caller releases *numbers, also after a failure. */
static moire_status read_numbers(const char *path, hid_t dataset, const char *what, int64_t count,
                                 int64_t most, int32_t **numbers)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, count, sizeof **numbers, numbers));
    if (count > 0 && H5Dread(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, *numbers) < 0)
        return moire_hdf5_fail(path, "read the routing of");
    for (int64_t i = 0; i < count; i++)
        if ((*numbers)[i] < -1 || (*numbers)[i] > most)
            return moire_fail(MOIRE_BAD_DATA,
                              "%s holds a wrong %s; found %" PRId32 ", expected -1 to %" PRId64
                              "; try another file",
                              path, what, (*numbers)[i], most);
    return MOIRE_OK;
}

moire_status moire_routing_read(const char *path, struct moire_routing_file *file)
{
    struct recording recording;
    MOIRE_TRY(open_recording(path, false, &recording));
    const hsize_t *extent = recording.extent;
    struct moire_routing_file read = {
        .steps = (int64_t)extent[STEP],
        .layers = (int64_t)extent[LAYER],
        .tokens = (int64_t)extent[TOKEN],
        .top_k = (int64_t)extent[SLOT],
        .experts = recording.experts,
        .first_step = recording.first_step,
    };
    moire_status status =
        read_numbers(path, recording.dataset, "expert id",
                     read.steps * read.layers * read.tokens * read.top_k, read.experts - 1, &read.ids);
    if (status == MOIRE_OK)
        status = read_numbers(path, recording.sources, "source rank", read.steps * read.tokens, INT32_MAX - 1,
                              &read.sources);
    status = close_recording(&recording, status);
    for (int64_t i = 0; status == MOIRE_OK && i < read.steps * read.tokens; i++)
        if (read.sources[i] >= read.ranks) read.ranks = read.sources[i] + 1;
    if (status == MOIRE_OK)
        *file = read;
    else
        moire_routing_free(&read);
    return status;
}

/* One step of all ranks, on rank 0. */
struct row {
    int64_t step, layers, tokens, top_k, experts;
    int *counts, *places; /* owned; ids of a layer by rank, and where they go */
    int32_t *ids;         /* owned, [layers, tokens, K] */
    int32_t *sources;     /* owned, [tokens]: the rank of each */
};

static void free_row(struct row *row)
{
    moire_release(row->counts);
    moire_release(row->places);
    moire_release(row->ids);
    moire_release(row->sources);
}

/* The tokens of each rank become counts and places; rank 0 alone. */
static moire_status count_row(const int64_t *tokens, int ranks, struct row *row)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, ranks, sizeof *row->counts, &row->counts));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, ranks, sizeof *row->places, &row->places));
    for (int r = 0; r < ranks; r++) {
        MOIRE_TRY(
            moire_narrow(tokens[r] * row->top_k, "the recorded expert ids of a layer", &row->counts[r]));
        MOIRE_TRY(
            moire_narrow(row->tokens * row->top_k, "the recorded expert ids of a layer", &row->places[r]));
        row->tokens += tokens[r];
    }
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, row->tokens, sizeof *row->sources, &row->sources));
    for (int64_t r = 0, token = 0; r < ranks; r++)
        for (int64_t end = token + tokens[r]; token < end; token++) row->sources[token] = (int32_t)r;
    return moire_allocate(MOIRE_MEMORY_DATA, row->layers * row->tokens * row->top_k, sizeof *row->ids,
                          &row->ids);
}

static moire_status gather(const struct moire_communicator *communicator, int64_t local_tokens,
                           const int32_t *ids, struct row *row)
{
    int64_t *tokens = NULL;
    int local = 0;
    bool root = communicator->rank == 0;
    moire_status status =
        root ? moire_allocate(MOIRE_MEMORY_DATA, communicator->size, sizeof *tokens, &tokens) : MOIRE_OK;
    if (status == MOIRE_OK)
        status = moire_narrow(local_tokens * row->top_k, "the recorded expert ids of a layer", &local);
    status = moire_agree(communicator, status);
    if (status != MOIRE_OK) goto release_tokens;
    int result = MPI_Gather(&local_tokens, 1, MPI_INT64_T, tokens, 1, MPI_INT64_T, 0, communicator->mpi);
    status = moire_mpi_check(result, communicator, "MPI_Gather");
    if (root && status == MOIRE_OK) status = count_row(tokens, communicator->size, row);
    status = moire_agree(communicator, status);
    for (int64_t layer = 0; layer < row->layers && status == MOIRE_OK; layer++) {
        int32_t *to = root ? row->ids + layer * row->tokens * row->top_k : NULL;
        result = MPI_Gatherv(ids + layer * local, local, MPI_INT32_T, to, row->counts, row->places,
                             MPI_INT32_T, 0, communicator->mpi);
        status = moire_mpi_check(result, communicator, "MPI_Gatherv");
    }
release_tokens:
    moire_release(tokens);
    return status;
}

/* What HDF5 may write for so many more rows: whole chunks, and an entry of its index for each. */
static int64_t row_bytes(const struct row *row, int64_t rows)
{
    const int64_t chunk = row->tokens < CHUNK_TOKENS ? row->tokens : CHUNK_TOKENS;
    const int64_t chunks = chunk ? (row->tokens + chunk - 1) / chunk : 0;
    const int64_t number_bytes = (row->layers * row->top_k + 1) * chunks * chunk * (int64_t)sizeof(int32_t);
    return rows * (number_bytes + (row->layers + 1) * chunks * INDEX_BYTES) + SLACK_BYTES;
}

/* Room for one more row in an existing file. */
static moire_status reserve_row(const char *path, const struct row *row)
{
    int64_t bytes;
    MOIRE_TRY(moire_file_bytes(path, &bytes));
    return moire_hdf5_reserve(path, bytes + row_bytes(row, 1));
}

/* No steps yet; extent[0] is 0. */
static hid_t make_dataset(hid_t file, const char *name, int axes, const hsize_t *extent, const hsize_t *chunk)
{
    const int32_t none = -1;
    hsize_t most[AXES] = { H5S_UNLIMITED };
    for (int axis = 1; axis < axes; axis++) most[axis] = extent[axis];
    hid_t space = H5Screate_simple(axes, extent, most), creation = H5Pcreate(H5P_DATASET_CREATE),
          dataset = H5I_INVALID_HID;
    if (space >= 0 && creation >= 0 && H5Pset_chunk(creation, axes, chunk) >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0 &&
        H5Pset_fill_value(creation, H5T_NATIVE_INT32, &none) >= 0)
        dataset = H5Dcreate2(file, name, H5T_STD_I32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (creation >= 0) H5Pclose(creation);
    if (space >= 0) H5Sclose(space);
    return dataset;
}

static moire_status make_datasets(struct recording *made)
{
    const hsize_t *extent = made->extent;
    const hsize_t tokens = extent[TOKEN] < CHUNK_TOKENS ? extent[TOKEN] : CHUNK_TOKENS;
    const hsize_t chunk[AXES] = { 1, 1, tokens, extent[SLOT] };
    const hsize_t source_extent[SOURCE_AXES] = { 0, extent[TOKEN] },
                  source_chunk[SOURCE_AXES] = { 1, tokens };
    made->dataset = make_dataset(made->file, dataset_name, AXES, extent, chunk);
    if (made->dataset < 0) return moire_hdf5_fail(made->path, "make the expert ids of");
    made->sources = make_dataset(made->file, source_name, SOURCE_AXES, source_extent, source_chunk);
    return made->sources < 0 ? moire_hdf5_fail(made->path, "make the source ranks of") : MOIRE_OK;
}

/* With room for `rows` of them; *row is the first. */
static moire_status create_recording(const char *path, const struct row *row, int64_t rows,
                                     struct recording *recording)
{
    int64_t version = MOIRE_ROUTING_VERSION;
    struct recording made = { .path = path,
                              .dataset = H5I_INVALID_HID,
                              .sources = H5I_INVALID_HID,
                              .experts = row->experts,
                              .first_step = row->step,
                              .extent = { 0, (hsize_t)row->layers, (hsize_t)row->tokens,
                                          (hsize_t)row->top_k } };
    moire_hdf5_quiet();
    MOIRE_TRY(moire_hdf5_create(path, row_bytes(row, rows), &made.file));
    moire_status status =
        moire_hdf5_put_number(made.file, path, "format_version", H5T_NATIVE_INT64, &version);
    if (status == MOIRE_OK)
        status = moire_hdf5_put_number(made.file, path, "experts", H5T_NATIVE_INT64, &made.experts);
    if (status == MOIRE_OK)
        status = moire_hdf5_put_number(made.file, path, "first_step", H5T_NATIVE_INT64, &made.first_step);
    if (status == MOIRE_OK) status = make_datasets(&made);
    if (status == MOIRE_OK)
        *recording = made;
    else
        close_recording(&made, status);
    return status;
}

static moire_status check_row(const struct recording *recording, const struct row *row)
{
    const hsize_t *extent = recording->extent;
    if ((int64_t)extent[LAYER] == row->layers && (int64_t)extent[TOKEN] == row->tokens &&
        (int64_t)extent[SLOT] == row->top_k && recording->experts == row->experts)
        return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s was recorded with other sizes; found %" PRId64 " layers, %" PRId64 " tokens, "
                      "top-%" PRId64 ", %" PRId64 " experts, expected %" PRId64 ", %" PRId64 ", %" PRId64
                      ", %" PRId64 "; try another run.dir",
                      recording->path, (int64_t)extent[LAYER], (int64_t)extent[TOKEN], (int64_t)extent[SLOT],
                      recording->experts, row->layers, row->tokens, row->top_k, row->experts);
}

/* Makes step `at` the last one of the dataset and writes it; extent [axes], of which the first is ignored. */
static moire_status write_step(const char *path, hid_t dataset, int axes, hsize_t at, hsize_t *extent,
                               const int32_t *numbers)
{
    const hsize_t start[AXES] = { at };
    extent[STEP] = at;
    if (H5Dset_extent(dataset, extent) < 0) return moire_hdf5_fail(path, "cut"); /* forgets what follows */
    extent[STEP] = at + 1;
    if (H5Dset_extent(dataset, extent) < 0) return moire_hdf5_fail(path, "extend");
    extent[STEP] = 1;
    hid_t memory = H5Screate_simple(axes, extent, NULL), space = H5Dget_space(dataset);
    bool good = memory >= 0 && space >= 0 &&
                H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL) >= 0 &&
                H5Dwrite(dataset, H5T_NATIVE_INT32, memory, space, H5P_DEFAULT, numbers) >= 0;
    moire_status status = good ? MOIRE_OK : moire_hdf5_fail(path, "write routing to");
    if (space >= 0) H5Sclose(space);
    if (memory >= 0) H5Sclose(memory);
    return status;
}

/* Makes the row the last one and writes it. */
static moire_status write_row(struct recording *recording, const struct row *row)
{
    const hsize_t at = (hsize_t)(row->step - recording->first_step);
    hsize_t extent[AXES] = { 0, (hsize_t)row->layers, (hsize_t)row->tokens, (hsize_t)row->top_k };
    hsize_t source_extent[SOURCE_AXES] = { 0, (hsize_t)row->tokens };
    MOIRE_TRY(write_step(recording->path, recording->dataset, AXES, at, extent, row->ids));
    return write_step(recording->path, recording->sources, SOURCE_AXES, at, source_extent, row->sources);
}

static moire_status record(const char *path, const struct row *row)
{
    struct recording recording;
    bool exists = moire_file_exists(path);
    moire_status status = MOIRE_OK;
    if (row->layers * row->tokens * row->top_k == 0) return MOIRE_OK; /* nothing is routed */
    if (exists) {
        MOIRE_TRY(open_recording(path, false, &recording));
        exists = row->step >= recording.first_step;
        MOIRE_TRY(close_recording(&recording, exists ? check_row(&recording, row) : MOIRE_OK));
    }
    if (exists) MOIRE_TRY(reserve_row(path, row));
    MOIRE_TRY(exists ? open_recording(path, true, &recording) : create_recording(path, row, 1, &recording));
    status = write_row(&recording, row);
    return close_recording(&recording, status);
}

moire_status moire_routing_append(const struct moire_communicator *communicator, const char *path,
                                  int64_t step, int64_t layers, int64_t local_tokens, int64_t top_k,
                                  int64_t experts, const int32_t *ids)
{
    struct row row = { .step = step, .layers = layers, .top_k = top_k, .experts = experts };
    moire_status status = gather(communicator, local_tokens, ids, &row);
    if (status == MOIRE_OK) {
        if (communicator->rank == 0) status = record(path, &row);
        status = moire_agree(communicator, status);
    }
    free_row(&row);
    return status;
}

moire_status moire_routing_write(const char *path, const struct moire_routing_file *file)
{
    const int64_t slots = file->layers * file->tokens * file->top_k;
    struct row row = { .step = file->first_step,
                       .layers = file->layers,
                       .tokens = file->tokens,
                       .top_k = file->top_k,
                       .experts = file->experts };
    struct recording recording;
    MOIRE_TRY(create_recording(path, &row, file->steps, &recording));
    moire_status status = MOIRE_OK;
    for (int64_t step = 0; status == MOIRE_OK && step < file->steps; step++) {
        row.step = file->first_step + step;
        row.ids = file->ids + step * slots;
        row.sources = file->sources + step * file->tokens;
        status = write_row(&recording, &row);
    }
    status = close_recording(&recording, status);
    if (status != MOIRE_OK) unlink(path);
    return status;
}

bool moire_routing_is(const char *path)
{
    const bool clean = !moire_error_text()[0];
    hid_t file;
    moire_hdf5_quiet();
    if (moire_hdf5_open(path, false, &file) != MOIRE_OK) {
        if (clean) moire_error_clear();
        return false;
    }
    bool found = H5Lexists(file, dataset_name, H5P_DEFAULT) > 0;
    H5Fclose(file);
    return found;
}
