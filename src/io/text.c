/* Text: a token is a byte. A domain is a file, or all files whose names end alike. Files of one kind are
 * joined in the order of their paths, with nothing between: most end in a newline, and no token is
 * invented. */
#include "io/private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "moire/base/log.h"

/* Whether a pattern without wildcards names the path. */
static moire_status is_named(const char *patterns, const char *path, bool *named)
{
    struct moire_paths list = { 0 }, match = { 0 };
    MOIRE_TRY(moire_paths_split(patterns, &list));
    moire_status status = MOIRE_OK;
    bool found = false;
    for (int64_t i = 0; i < list.count && status == MOIRE_OK && !found; i++) {
        if (strpbrk(list.list[i], "*?[")) continue;
        status = moire_paths_match(list.list[i], &match);
        found = status == MOIRE_OK && match.count == 1 && strcmp(match.list[0], path) == 0;
        moire_paths_free(&match);
    }
    moire_paths_free(&list);
    if (status == MOIRE_OK) *named = found;
    return status;
}

/* The last file, just added, is empty. */
static moire_status skip_empty(struct moire_data *data, const char *patterns)
{
    struct moire_data_file *file = &data->files[data->file_count - 1];
    bool named = false;
    MOIRE_TRY(is_named(patterns, file->path, &named));
    if (named)
        return moire_fail(MOIRE_BAD_DATA, "%s is empty; found 0 bytes, expected text; try to copy or make "
                          "the file again, or take it from the list", file->path);
    moire_file_unmap(&file->map);
    moire_release(file->path);
    data->file_count--;
    data->empty_files++;
    return MOIRE_OK;
}

static moire_status add_files(struct moire_data *data, const char *patterns, const struct moire_paths *paths)
{
    for (int64_t i = 0; i < paths->count; i++) {
        int64_t index;
        MOIRE_TRY(moire_data_add_file(data, paths->list[i], 1, &index));
        if (data->files[index].map.bytes == 0) MOIRE_TRY(skip_empty(data, patterns));
    }
    if (data->file_count == 0)
        return moire_fail(MOIRE_BAD_DATA, "every file that matches '%s' is empty; found %" PRId64 " files of "
                          "0 bytes, expected text; try another pattern", patterns, data->empty_files);
    if (data->empty_files > 0) moire_warn("empty files skipped: %" PRId64, data->empty_files);
    return MOIRE_OK;
}

moire_status moire_data_add_text_files(struct moire_data *data, const char *patterns)
{
    struct moire_paths paths = { 0 };
    MOIRE_TRY(moire_paths_match(patterns, &paths));
    moire_status status = add_files(data, patterns, &paths);
    moire_paths_free(&paths);
    return status;
}

/* "c" of "src/base/file.c"; "other" where there is no ending, also for ".profile" and "name.". */
static const char *kind_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    return dot && dot != name && dot[1] ? dot + 1 : "other";
}

struct entry {
    const char *domain;
    int64_t file;
};

static int compare_entries(const void *a, const void *b)
{
    const struct entry *one = a, *other = b;
    int order = strcmp(one->domain, other->domain);
    return order ? order : (one->file > other->file) - (one->file < other->file);
}

static moire_status add_domains(struct moire_data *data, struct entry *entries)
{
    qsort(entries, (size_t)data->file_count, sizeof *entries, compare_entries);
    for (int64_t i = 0; i < data->file_count; i++) {
        if (i == 0 || strcmp(entries[i].domain, entries[i - 1].domain) != 0)
            MOIRE_TRY(moire_data_add_domain(data, entries[i].domain));
        MOIRE_TRY(moire_data_add_piece(data, entries[i].file, 0, data->files[entries[i].file].map.bytes));
    }
    return moire_data_finish_stored(data);
}

static moire_status open_text(const struct moire_config *config, struct moire_data *data)
{
    struct entry *entries = NULL;
    MOIRE_TRY(moire_data_path_given(config));
    MOIRE_TRY(moire_data_add_text_files(data, config->data_path));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, data->file_count, sizeof *entries, &entries));
    for (int64_t i = 0; i < data->file_count; i++) {
        const char *path = data->files[i].path;
        entries[i] = (struct entry){ config->data_domain == MOIRE_DOMAIN_KIND ? kind_of(path) : path, i };
    }
    moire_status status = add_domains(data, entries);
    moire_release(entries);
    return status;
}

const struct moire_source moire_source_text = {
    .name = "text", .help = "bytes of files as tokens", .open = open_text, .fetch = moire_data_fetch_stored,
};
