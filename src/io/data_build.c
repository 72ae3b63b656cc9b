/* `moire data build`: token files from text. */
#include "io/private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "moire/base/log.h"

/* A file that grows under a temporary name beside its own, so that a reader never sees a part of it. */
struct output {
    const char *path;
    const char *stale;           /* removed before it stands, or NULL: an old index of other tokens */
    struct moire_text temporary;
    int descriptor;
    int64_t bytes;
};

static moire_status begin_output(struct output *output, const char *path, const char *stale,
                                 int64_t total_bytes)
{
    *output = (struct output){ .path = path, .stale = stale, .descriptor = -1 };
    MOIRE_TRY(moire_text_add(&output->temporary, "%s.%ld.tmp", path, (long)getpid()));
    MOIRE_TRY(moire_file_open(output->temporary.data, O_WRONLY | O_CREAT | O_TRUNC, &output->descriptor));
    return moire_file_reserve(output->descriptor, output->temporary.data, total_bytes);
}

static moire_status put(struct output *output, const void *bytes, int64_t count)
{
    MOIRE_TRY(moire_file_pwrite(output->descriptor, output->temporary.data, bytes, count, output->bytes));
    output->bytes += count;
    return MOIRE_OK;
}

static moire_status rename_output(const struct output *output)
{
    if (output->stale) unlink(output->stale);
    if (rename(output->temporary.data, output->path) == 0) return moire_file_sync_directory(output->path);
    return moire_fail(MOIRE_NO_FILE, "cannot rename %s to %s; found: %s; try another path",
                      output->temporary.data, output->path, strerror(errno));
}

/* Gives the file its name, or removes it where `status` is a failure. */
static moire_status end_output(struct output *output, moire_status status)
{
    if (status == MOIRE_OK) status = moire_file_sync(output->descriptor, output->temporary.data);
    if (output->descriptor >= 0) close(output->descriptor);
    if (status == MOIRE_OK) status = rename_output(output);
    if (status != MOIRE_OK && output->descriptor >= 0) unlink(output->temporary.data);
    moire_text_free(&output->temporary);
    return status;
}

/* Bytes as uint16 tokens. */
static moire_status put_bytes(struct output *output, const struct moire_file_map *map)
{
    unsigned char tokens[2 * MOIRE_DATA_BLOCK];
    for (int64_t done = 0; done < map->bytes; ) {
        int64_t count = map->bytes - done < MOIRE_DATA_BLOCK ? map->bytes - done : MOIRE_DATA_BLOCK;
        for (int64_t i = 0; i < count; i++) moire_write_number(tokens + 2 * i, map->data[done + i], 2);
        MOIRE_TRY(put(output, tokens, 2 * count));
        done += count;
    }
    return MOIRE_OK;
}

static int64_t count_bytes(const struct moire_data *data)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < data->file_count; i++) bytes += data->files[i].map.bytes;
    return bytes;
}

static moire_status write_tokens(const struct moire_data *data, const char *path, const char *stale,
                                 const void *header, int64_t header_bytes)
{
    struct output output;
    moire_status status = begin_output(&output, path, stale, header_bytes + 2 * count_bytes(data));
    if (status == MOIRE_OK) status = put(&output, header, header_bytes);
    for (int64_t i = 0; i < data->file_count && status == MOIRE_OK; i++)
        status = put_bytes(&output, &data->files[i].map);
    return end_output(&output, status);
}

static moire_status build_llmc(const struct moire_data *data, const char *output)
{
    unsigned char header[MOIRE_LLMC_HEADER_BYTES] = { 0 };
    struct moire_text path = { 0 };
    int64_t tokens = count_bytes(data);
    if (tokens > INT32_MAX)
        return moire_fail(MOIRE_USAGE, "too many tokens for one llm.c file; found %" PRId64 ", expected at "
                          "most %d; try several files, or the megatron format", tokens, INT32_MAX);
    moire_write_number(header, MOIRE_LLMC_MAGIC, 4);
    moire_write_number(header + 4, MOIRE_LLMC_VERSION, 4);
    moire_write_number(header + 8, (uint64_t)tokens, 4);
    moire_status status = moire_data_token_path(output, ".bin", &path);
    if (status == MOIRE_OK) status = write_tokens(data, path.data, NULL, header, sizeof header);
    moire_text_free(&path);
    return status;
}

/* One sequence and one document a file, in the order of the .bin. */
static void fill_index(const struct moire_data *data, unsigned char *index)
{
    uint64_t sequences = (uint64_t)data->file_count, pointer = 0;
    unsigned char *sizes = index + MOIRE_MEGATRON_HEADER_BYTES, *pointers = sizes + 4 * sequences;
    unsigned char *documents = pointers + 8 * sequences;
    memcpy(index, MOIRE_MEGATRON_MAGIC, MOIRE_MEGATRON_MAGIC_BYTES);
    moire_write_number(index + 9, MOIRE_MEGATRON_VERSION, 8);
    index[17] = MOIRE_MEGATRON_UINT16;
    moire_write_number(index + 18, sequences, 8);
    moire_write_number(index + 26, sequences + 1, 8);
    for (uint64_t i = 0; i < sequences; i++) {
        uint64_t tokens = (uint64_t)data->files[i].map.bytes;
        moire_write_number(sizes + 4 * i, tokens, 4);
        moire_write_number(pointers + 8 * i, pointer, 8);
        moire_write_number(documents + 8 * i, i, 8);
        pointer += 2 * tokens;
    }
    moire_write_number(documents + 8 * sequences, sequences, 8);
}

static moire_status write_pair(const struct moire_data *data, const char *bin, const char *idx)
{
    int64_t index_bytes = MOIRE_MEGATRON_HEADER_BYTES + 20 * data->file_count + 8;
    unsigned char *index = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, index_bytes, 1, &index));
    fill_index(data, index);
    moire_status status = write_tokens(data, bin, idx, "", 0);
    if (status == MOIRE_OK) status = moire_file_write(idx, index, index_bytes);
    moire_release(index);
    return status;
}

static moire_status build_megatron(const struct moire_data *data, const char *output)
{
    struct moire_text bin = { 0 }, idx = { 0 };
    for (int64_t i = 0; i < data->file_count; i++)
        if (data->files[i].map.bytes > INT32_MAX)
            return moire_fail(MOIRE_USAGE, "%s is too large for one document; found %" PRId64 " bytes, "
                              "expected at most %d; try to split it", data->files[i].path,
                              data->files[i].map.bytes, INT32_MAX);
    moire_status status = moire_data_token_path(output, ".bin", &bin);
    if (status == MOIRE_OK) status = moire_data_token_path(output, ".idx", &idx);
    if (status == MOIRE_OK) status = write_pair(data, bin.data, idx.data);
    moire_text_free(&bin);
    moire_text_free(&idx);
    return status;
}

moire_status moire_data_build(const char *patterns, const char *format, const char *output)
{
    static const char *const formats[] = { "llmc", "megatron" };
    struct moire_data data = { 0 };
    int64_t index;
    MOIRE_TRY(moire_name_find("format of a token file", format, formats, 2, &index));
    if (!output[0])
        return moire_fail(MOIRE_USAGE, "the name of the token file is empty; expected a path such as "
                          "data/tokens.bin");
    moire_status status = moire_data_add_text_files(&data, patterns);
    if (status == MOIRE_OK) status = (index == 0 ? build_llmc : build_megatron)(&data, output);
    if (status == MOIRE_OK)
        moire_log("%" PRId64 " tokens of %" PRId64 " files are written to %s in the %s format",
                  count_bytes(&data), data.file_count, output, format);
    moire_data_free_contents(&data);
    return status;
}
