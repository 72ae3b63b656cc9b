/* Indexed data sets of Megatron: PREFIX.bin holds tokens, PREFIX.idx says where each sequence lies. Sequences
 * are joined in the order of the index, so that windows cross the borders of documents, as in Megatron's own
 * training. Each pair is a domain, named by its prefix; with data.domain=kind all are joined in the order of
 * their paths to "megatron". */
#include "io/private.h"

#include <inttypes.h>
#include <string.h>

static moire_status fail_index_size(const char *path, int64_t found, uint64_t sequences, uint64_t documents)
{
    return moire_fail(MOIRE_BAD_DATA, "%s has the wrong size, it may be truncated; found %" PRId64 " bytes, "
                      "expected %d + 12 x %" PRIu64 " sequences + 8 x %" PRIu64 " entries of documents, as "
                      "its header says; try to copy or make the file again", path, found,
                      MOIRE_MEGATRON_HEADER_BYTES, sequences, documents);
}

static moire_status check_header(const char *path, const struct moire_file_map *map)
{
    if (map->bytes < MOIRE_MEGATRON_HEADER_BYTES)
        return moire_fail(MOIRE_BAD_DATA, "%s is %s; found %" PRId64 " bytes, expected at least %d for the "
                          "header of a Megatron index; try to copy or make the file again", path,
                          map->bytes ? "too short" : "empty", map->bytes, MOIRE_MEGATRON_HEADER_BYTES);
    if (memcmp(map->data, MOIRE_MEGATRON_MAGIC, MOIRE_MEGATRON_MAGIC_BYTES) != 0)
        return moire_fail(MOIRE_BAD_DATA, "%s is not a Megatron index; found other bytes at its start, "
                          "expected the magic MMIDIDX; try data.source=llmc or text, or make one with moire "
                          "data build", path);
    uint64_t version = moire_read_64(map->data + 9);
    if (version != MOIRE_MEGATRON_VERSION)
        return moire_fail(MOIRE_BAD_DATA, "%s has another version of the Megatron index; found %" PRIu64 ", "
                          "expected %d; try to make the file again with this version", path, version,
                          MOIRE_MEGATRON_VERSION);
    int code = map->data[17];
    if (code != MOIRE_MEGATRON_UINT16 && code != MOIRE_MEGATRON_INT32)
        return moire_fail(MOIRE_BAD_DATA, "%s has tokens of another type; found code %d, expected %d "
                          "(uint16) or %d (int32, which holds every uint32 id in use); try to make the files "
                          "again with one of these", path, code, MOIRE_MEGATRON_UINT16, MOIRE_MEGATRON_INT32);
    return MOIRE_OK;
}

int64_t moire_megatron_size(const struct moire_megatron_index *index, int64_t sequence)
{
    return (int32_t)moire_read_32(index->sizes + 4 * sequence);
}

static int64_t pointer_of(const struct moire_megatron_index *index, int64_t sequence)
{
    return (int64_t)moire_read_64(index->pointers + 8 * sequence);
}

static int64_t document_of(const struct moire_megatron_index *index, int64_t entry)
{
    return (int64_t)moire_read_64(index->documents + 8 * entry);
}

static moire_status check_arrays(const struct moire_megatron_index *index)
{
    int64_t before = 0;
    for (int64_t i = 0; i < index->sequences; i++)
        if (moire_megatron_size(index, i) < 0)
            return moire_fail(MOIRE_BAD_DATA, "%s is damaged; found %" PRId64 " tokens in sequence %" PRId64
                              ", expected 0 or more; try to copy or make the file again", index->path,
                              moire_megatron_size(index, i), i);
    for (int64_t i = 0; i < index->document_entries; i++) {
        int64_t first = document_of(index, i);
        if (first < before || first > index->sequences)
            return moire_fail(MOIRE_BAD_DATA, "%s is damaged; found document %" PRId64 " to start at "
                              "sequence %" PRId64 ", expected %" PRId64 " to %" PRId64 "; try to copy or "
                              "make the file again", index->path, i, first, before, index->sequences);
        before = first;
    }
    return MOIRE_OK;
}

static moire_status read_index(const char *path, const struct moire_file_map *map,
                               struct moire_megatron_index *index)
{
    MOIRE_TRY(check_header(path, map));
    uint64_t sequences = moire_read_64(map->data + 18), documents = moire_read_64(map->data + 26);
    uint64_t most = (uint64_t)map->bytes;
    /* The first two comparisons keep the third from overflowing. */
    if (sequences > most || documents > most
        || MOIRE_MEGATRON_HEADER_BYTES + 12 * sequences + 8 * documents != most)
        return fail_index_size(path, map->bytes, sequences, documents);
    struct moire_megatron_index found = {
        .map = *map, .path = path, .code = map->data[17],
        .width = map->data[17] == MOIRE_MEGATRON_UINT16 ? 2 : 4,
        .sequences = (int64_t)sequences, .document_entries = (int64_t)documents,
        .sizes = map->data + MOIRE_MEGATRON_HEADER_BYTES,
    };
    found.pointers = found.sizes + 4 * sequences;
    found.documents = found.pointers + 8 * sequences;
    MOIRE_TRY(check_arrays(&found));
    *index = found;
    return MOIRE_OK;
}

moire_status moire_megatron_open_index(const char *path, struct moire_megatron_index *index)
{
    struct moire_file_map map;
    MOIRE_TRY(moire_file_map(path, &map));
    moire_status status = read_index(path, &map, index);
    if (status != MOIRE_OK) moire_file_unmap(&map);
    return status;
}

static bool has_ending(const char *path, const char *ending)
{
    size_t bytes = strlen(path), ending_bytes = strlen(ending);
    return bytes > ending_bytes && strcmp(path + bytes - ending_bytes, ending) == 0;
}

moire_status moire_data_token_path(const char *path, const char *ending, struct moire_text *changed)
{
    size_t kept = strlen(path);
    if (has_ending(path, "**")) return moire_text_add(changed, "%s/*%s", path, ending); /* at any depth */
    if (has_ending(path, ".bin") || has_ending(path, ".idx")) kept -= 4;
    return moire_text_add(changed, "%.*s%s", (int)kept, path, ending);
}

static moire_status fail_sequence(const struct moire_megatron_index *index, const char *bin, int64_t sequence,
                                  int64_t bin_bytes)
{
    return moire_fail(MOIRE_BAD_DATA, "%s points beyond %s, which may be truncated or of another index; "
                      "found sequence %" PRId64 " at byte %" PRId64 " with %" PRId64 " tokens of %d bytes, "
                      "expected its end within %" PRId64 " bytes; try to copy or make both files again",
                      index->path, bin, sequence, pointer_of(index, sequence),
                      moire_megatron_size(index, sequence), index->width, bin_bytes);
}

static moire_status add_sequences(struct moire_data *data, const struct moire_megatron_index *index,
                                  int64_t file)
{
    const char *bin = data->files[file].path;
    int64_t bin_bytes = data->files[file].map.bytes, tokens = 0;
    if (bin_bytes == 0)
        return moire_fail(MOIRE_BAD_DATA, "%s is empty; found 0 bytes, expected the tokens of %s; try to "
                          "copy or make both files again", bin, index->path);
    for (int64_t i = 0; i < index->sequences; i++) {
        int64_t size = moire_megatron_size(index, i), pointer = pointer_of(index, i);
        if (pointer < 0 || size * index->width > bin_bytes - pointer)
            return fail_sequence(index, bin, i, bin_bytes);
        if (pointer % index->width != 0)
            return moire_fail(MOIRE_BAD_DATA, "%s is damaged; found sequence %" PRId64 " at byte %" PRId64
                              ", expected a multiple of %d; try to copy or make the file again", index->path,
                              i, pointer, index->width);
        MOIRE_TRY(moire_data_add_piece(data, file, pointer, size));
        tokens += size;
    }
    if (tokens > 0) return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA, "%s has no tokens; found %" PRId64 " sequences, all empty; try to make "
                      "the files again", index->path, index->sequences);
}

moire_status moire_data_add_megatron(struct moire_data *data, const char *index_path)
{
    struct moire_megatron_index index;
    struct moire_text bin = { 0 };
    int64_t file;
    MOIRE_TRY(moire_megatron_open_index(index_path, &index));
    moire_status status = moire_data_token_path(index_path, ".bin", &bin);
    if (status == MOIRE_OK) status = moire_data_add_file(data, bin.data, index.width, &file);
    if (status == MOIRE_OK) status = add_sequences(data, &index, file);
    moire_text_free(&bin);
    moire_file_unmap(&index.map);
    return status;
}

static moire_status add_pairs(struct moire_data *data, const struct moire_paths *indices, bool join)
{
    for (int64_t i = 0; i < indices->count; i++) {
        if (i == 0 || !join) MOIRE_TRY(moire_data_add_domain(data, join ? "megatron" : indices->list[i]));
        char *name = data->domains[data->domain_count - 1].name;
        if (!join && has_ending(name, ".idx")) name[strlen(name) - 4] = 0;
        MOIRE_TRY(moire_data_add_megatron(data, indices->list[i]));
    }
    return moire_data_finish_stored(data);
}

/* Each pattern may name the .bin, the .idx or the prefix of both. Returns the .idx files that match. */
static moire_status find_indices(const char *patterns, struct moire_paths *indices)
{
    struct moire_paths list = { 0 };
    struct moire_text changed = { 0 };
    moire_status status = moire_paths_split(patterns, &list);
    for (int64_t i = 0; i < list.count && status == MOIRE_OK; i++) {
        if (i > 0) status = moire_text_add(&changed, ",");
        if (status == MOIRE_OK) status = moire_data_token_path(list.list[i], ".idx", &changed);
    }
    if (status == MOIRE_OK) status = moire_paths_match(changed.data ? changed.data : "", indices);
    moire_text_free(&changed);
    moire_paths_free(&list);
    return status;
}

static moire_status open_megatron(const struct moire_config *config, struct moire_data *data)
{
    struct moire_paths indices = { 0 };
    MOIRE_TRY(moire_data_path_given(config));
    MOIRE_TRY(find_indices(config->data_path, &indices));
    moire_status status = add_pairs(data, &indices, config->data_domain == MOIRE_DOMAIN_KIND);
    moire_paths_free(&indices);
    return status;
}

const struct moire_source moire_source_megatron = {
    .name = "megatron", .help = "Megatron .bin and .idx pairs, uint16 or int32 tokens", .open = open_megatron,
    .fetch = moire_data_fetch_stored,
};
