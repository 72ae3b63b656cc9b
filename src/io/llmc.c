/* Token files of llm.c. Each file is a shard and a domain; with data.domain=kind the shards are joined in the
 * order of their paths to one domain, "llmc". */
#include "io/private.h"

#include <inttypes.h>

/* A header that is right, and a size that agrees with it. */
static moire_status check(const char *path, const struct moire_file_map *map, int64_t *tokens)
{
    if (map->bytes < MOIRE_LLMC_HEADER_BYTES)
        return moire_fail(MOIRE_BAD_DATA, "%s is %s; found %" PRId64 " bytes, expected at least %d for the "
                          "header of an llm.c file; try to copy or make the file again", path,
                          map->bytes ? "too short" : "empty", map->bytes, MOIRE_LLMC_HEADER_BYTES);
    int32_t magic = (int32_t)moire_read_32(map->data), version = (int32_t)moire_read_32(map->data + 4);
    int32_t count = (int32_t)moire_read_32(map->data + 8);
    if (magic != MOIRE_LLMC_MAGIC)
        return moire_fail(MOIRE_BAD_DATA, "%s is not an llm.c file; found magic number %" PRId32 ", expected "
                          "%d; try data.source=megatron or text, or make one with moire data build", path,
                          magic, MOIRE_LLMC_MAGIC);
    if (version != MOIRE_LLMC_VERSION)
        return moire_fail(MOIRE_BAD_DATA, "%s has another version of the llm.c format; found %" PRId32 ", "
                          "expected %d (uint16 tokens); try to make the file again with this version", path,
                          version, MOIRE_LLMC_VERSION);
    if (count <= 0)
        return moire_fail(MOIRE_BAD_DATA, "%s has no tokens; found a count of %" PRId32 ", expected at least "
                          "1; try to make the file again", path, count);
    int64_t expected = MOIRE_LLMC_HEADER_BYTES + 2 * (int64_t)count;
    if (map->bytes != expected)
        return moire_fail(MOIRE_BAD_DATA, "%s %s; found %" PRId64 " bytes, expected %" PRId64 " (header and %"
                          PRId32 " tokens of 2 bytes); try to copy or make the file again", path,
                          map->bytes < expected ? "is truncated" : "is too long", map->bytes, expected,
                          count);
    *tokens = count;
    return MOIRE_OK;
}

moire_status moire_data_add_llmc(struct moire_data *data, const char *path)
{
    int64_t index, tokens = 0;
    MOIRE_TRY(moire_data_add_file(data, path, 2, &index));
    data->files[index].header_bytes = MOIRE_LLMC_HEADER_BYTES;
    MOIRE_TRY(check(path, &data->files[index].map, &tokens));
    return moire_data_add_piece(data, index, MOIRE_LLMC_HEADER_BYTES, tokens);
}

static moire_status add_shards(struct moire_data *data, const struct moire_paths *paths, bool join)
{
    for (int64_t i = 0; i < paths->count; i++) {
        if (i == 0 || !join) MOIRE_TRY(moire_data_add_domain(data, join ? "llmc" : paths->list[i]));
        MOIRE_TRY(moire_data_add_llmc(data, paths->list[i]));
    }
    return moire_data_finish_stored(data);
}

static moire_status open_llmc(const struct moire_config *config, struct moire_data *data)
{
    struct moire_paths paths = { 0 };
    MOIRE_TRY(moire_data_path_given(config));
    MOIRE_TRY(moire_paths_match(config->data_path, &paths));
    moire_status status = add_shards(data, &paths, config->data_domain == MOIRE_DOMAIN_KIND);
    moire_paths_free(&paths);
    return status;
}

const struct moire_source moire_source_llmc = {
    .name = "llmc", .help = "llm.c .bin files, uint16 tokens", .open = open_llmc,
    .fetch = moire_data_fetch_stored,
};
