#include "moire/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

moire_status moire_paths_add(struct moire_paths *paths, const char *path)
{
    char *copy = NULL;
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &paths->list, &paths->capacity, paths->count + 1,
                         sizeof *paths->list));
    MOIRE_TRY(moire_copy_text(path, &copy));
    paths->list[paths->count++] = copy;
    return MOIRE_OK;
}

void moire_paths_free(struct moire_paths *paths)
{
    for (int64_t i = 0; i < paths->count; i++) moire_release(paths->list[i]);
    moire_release(paths->list);
    *paths = (struct moire_paths){ 0 };
}

static int compare_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_unique(struct moire_paths *paths)
{
    if (paths->count == 0) return;
    qsort(paths->list, (size_t)paths->count, sizeof *paths->list, compare_bytes);
    int64_t kept = 1;
    for (int64_t i = 1; i < paths->count; i++) {
        if (strcmp(paths->list[i], paths->list[kept - 1]) == 0) moire_release(paths->list[i]);
        else paths->list[kept++] = paths->list[i];
    }
    paths->count = kept;
}

/* Names in a directory ("" is the current one), in no order. Missing: none where `may_be_missing`. */
static moire_status read_names(const char *directory, bool may_be_missing, struct moire_paths *names)
{
    DIR *stream = opendir(directory[0] ? directory : ".");
    if (!stream && may_be_missing && (errno == ENOENT || errno == ENOTDIR)) return MOIRE_OK;
    if (!stream)
        return moire_fail(MOIRE_NO_FILE,
                          "cannot read the directory %s; found: %s; try a path that you may read",
                          directory, strerror(errno));
    moire_status status = MOIRE_OK;
    struct dirent *entry;
    while (status == MOIRE_OK && (errno = 0, entry = readdir(stream)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = moire_paths_add(names, entry->d_name);
    if (status == MOIRE_OK && errno != 0)
        status = moire_fail(MOIRE_NO_FILE, "cannot read the directory %s; found: %s; try again", directory,
                            strerror(errno));
    closedir(stream);
    return status;
}

moire_status moire_paths_list(const char *directory, struct moire_paths *paths)
{
    struct moire_paths names = { 0 };
    moire_status status = read_names(directory, false, &names);
    if (status != MOIRE_OK) {
        moire_paths_free(&names);
        return status;
    }
    sort_unique(&names);
    *paths = names;
    return MOIRE_OK;
}

struct match {
    struct moire_paths *found;
    int64_t files, directories; /* that this pattern matched */
};

static moire_status match_rest(struct match *match, const char *base, const char *rest);

/* `base` and `name` as one path; the caller frees it with moire_text_free. */
static moire_status join(const char *base, const char *name, struct moire_text *path)
{
    size_t length = strlen(base);
    return moire_text_add(path, "%s%s%s", base, length && base[length - 1] != '/' ? "/" : "", name);
}

static bool is_directory(const char *path, bool follow)
{
    struct stat about;
    return (follow ? stat(path, &about) : lstat(path, &about)) == 0 && S_ISDIR(about.st_mode);
}

/* One name of a directory against the first part of a pattern; `rest` is what follows the part. */
static moire_status match_name(struct match *match, const char *base, const char *name, const char *part,
                               const char *rest)
{
    bool any_depth = strcmp(part, "**") == 0;
    struct moire_text path = { 0 };
    if (any_depth ? name[0] == '.' : fnmatch(part, name, FNM_PERIOD) != 0) return MOIRE_OK;
    moire_status status = join(base, name, &path);
    if (status != MOIRE_OK) goto release_path;
    if (!any_depth) {
        status = match_rest(match, path.data, rest);
    } else if (is_directory(path.data, false)) { /* links to directories are not entered: no loops */
        struct moire_text again = { 0 };
        status = moire_text_add(&again, "**/%s", rest);
        if (status == MOIRE_OK) status = match_rest(match, path.data, again.data);
        moire_text_free(&again);
    } else if (!rest[0]) {
        status = match_rest(match, path.data, "");
    }
release_path:
    moire_text_free(&path);
    return status;
}

static moire_status match_names(struct match *match, const char *base, const char *part, const char *rest)
{
    struct moire_paths names = { 0 };
    moire_status status = read_names(base, true, &names);
    for (int64_t i = 0; i < names.count && status == MOIRE_OK; i++)
        status = match_name(match, base, names.list[i], part, rest);
    moire_paths_free(&names);
    return status;
}

/* The whole pattern is used up: `path` counts when it exists. */
static moire_status match_end(struct match *match, const char *path)
{
    if (!moire_file_exists(path)) return MOIRE_OK;
    if (is_directory(path, true)) {
        match->directories++;
        return MOIRE_OK;
    }
    match->files++;
    return moire_paths_add(match->found, path);
}

/* Adds what matches the pattern `rest` under the directory `base`. */
static moire_status match_rest(struct match *match, const char *base, const char *rest)
{
    while (*rest == '/') rest++;
    if (!*rest) return match_end(match, base);
    size_t length = strcspn(rest, "/");
    struct moire_text part = { 0 }, path = { 0 };
    moire_status status = moire_text_add(&part, "%.*s", (int)length, rest);
    rest += length;
    while (*rest == '/') rest++;
    if (status != MOIRE_OK) goto release;
    if (strcmp(part.data, ".") == 0) {
        status = match_rest(match, base, rest);
    } else if (strpbrk(part.data, "*?[\\")) {
        status = match_names(match, base, part.data, rest);
        if (status == MOIRE_OK && *rest && strcmp(part.data, "**") == 0)
            status = match_rest(match, base, rest);
    } else {
        status = join(base, part.data, &path);
        if (status == MOIRE_OK) status = match_rest(match, path.data, rest);
    }
release:
    moire_text_free(&part);
    moire_text_free(&path);
    return status;
}

static moire_status match_pattern(const char *pattern, struct moire_paths *found)
{
    struct match match = { .found = found };
    MOIRE_TRY(match_rest(&match, pattern[0] == '/' ? "/" : "", pattern));
    if (match.files > 0) return MOIRE_OK;
    if (match.directories > 0)
        return moire_fail(MOIRE_NO_FILE,
                          "the pattern '%s' matches only directories; expected files; try '%s/**'", pattern,
                          pattern);
    return moire_fail(MOIRE_NO_FILE,
                      "no file matches the pattern '%s'; try another path (relative ones start where moire "
                      "was started; ** matches folders at any depth)", pattern);
}

moire_status moire_paths_match(const char *patterns, struct moire_paths *paths)
{
    struct moire_paths list = { 0 }, found = { 0 };
    MOIRE_TRY(moire_paths_split(patterns, &list));
    moire_status status = MOIRE_OK;
    if (list.count == 0)
        status = moire_fail(MOIRE_USAGE, "the list of file patterns is empty; expected some, such as "
                            "src/**/*.c, doc/*.md");
    for (int64_t i = 0; i < list.count && status == MOIRE_OK; i++)
        status = match_pattern(list.list[i], &found);
    moire_paths_free(&list);
    if (status != MOIRE_OK) {
        moire_paths_free(&found);
        return status;
    }
    sort_unique(&found);
    *paths = found;
    return MOIRE_OK;
}
