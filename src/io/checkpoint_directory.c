#include "io/checkpoint_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "moire/base/log.h"

enum { NAME_BYTES = 64 };

static const char latest_name[] = "latest", latest_partial_name[] = ".latest.partial";

static void step_name(int64_t step, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "step-%08" PRId64 ".h5", step);
}

/* The text between a start and an end that a name must have; false where it has others or is too long. */
static bool name_inside(const char *name, const char *start, const char *end, char inner[NAME_BYTES])
{
    size_t length = strlen(name), first = strlen(start), last = strlen(end);
    if (length < first + last || length - first - last >= NAME_BYTES) return false;
    if (strncmp(name, start, first) != 0 || strcmp(name + length - last, end) != 0) return false;
    snprintf(inner, NAME_BYTES, "%.*s", (int)(length - first - last), name + first);
    return true;
}

/* The step of a file that has exactly the name we would give it. */
static bool name_step(const char *name, int64_t *step)
{
    char again[NAME_BYTES], digits[NAME_BYTES];
    int64_t number;
    if (!name_inside(name, "step-", ".h5", digits) || !moire_parse_integer(digits, &number)) return false;
    step_name(number, again);
    if (strcmp(name, again) != 0) return false;
    *step = number;
    return true;
}

/* DIRECTORY/NAME; the caller releases it. */
static moire_status join(const char *directory, const char *name, char **path)
{
    struct moire_text text = { 0 };
    moire_status status = moire_text_add(&text, "%s/%s", directory, name);
    if (status == MOIRE_OK) *path = text.data;
    else moire_text_free(&text);
    return status;
}

moire_status moire_checkpoint_paths_create(const char *directory, int64_t step,
                                           struct moire_checkpoint_paths *paths)
{
    struct moire_checkpoint_paths made = { 0 };
    char name[NAME_BYTES], partial[NAME_BYTES + 16];
    step_name(step, name);
    snprintf(partial, sizeof partial, ".%s.partial", name);
    moire_status status = join(directory, name, &made.final);
    if (status == MOIRE_OK) status = join(directory, partial, &made.partial);
    if (status == MOIRE_OK) *paths = made;
    else moire_checkpoint_paths_free(&made);
    return status;
}

void moire_checkpoint_paths_free(struct moire_checkpoint_paths *paths)
{
    moire_release(paths->final);
    moire_release(paths->partial);
    *paths = (struct moire_checkpoint_paths){ 0 };
}

/* Whether a killed writer left it: a checkpoint, the link that was about to become "latest", or the file by
 * which moire_directory_make finds out whether one can write. */
static bool is_left_over(const char *name)
{
    char inner[NAME_BYTES];
    int64_t number;
    if (strcmp(name, latest_partial_name) == 0) return true;
    if (name_inside(name, ".", ".partial", inner)) return name_step(inner, &number);
    return name_inside(name, ".moire.", ".tmp", inner) && moire_parse_integer(inner, &number);
}

static moire_status remove_file(const char *directory, const char *name)
{
    char *path;
    MOIRE_TRY(join(directory, name, &path));
    moire_status status = MOIRE_OK;
    if (unlink(path) < 0 && errno != ENOENT)
        status = moire_fail(MOIRE_NO_FILE, "cannot remove %s; found: %s; try to remove it by hand", path,
                            strerror(errno));
    moire_release(path);
    return status;
}

moire_status moire_checkpoint_prepare_directory(const char *directory)
{
    struct moire_paths names;
    MOIRE_TRY(moire_directory_make(directory));
    MOIRE_TRY(moire_paths_list(directory, &names));
    moire_status status = MOIRE_OK;
    for (int64_t i = 0; i < names.count && status == MOIRE_OK; i++)
        if (is_left_over(names.list[i])) status = remove_file(directory, names.list[i]);
    moire_paths_free(&names);
    return status;
}

static moire_status rename_synced(const char *from, const char *to)
{
    if (rename(from, to) < 0)
        return moire_fail(MOIRE_NO_FILE, "cannot rename %s to %s; found: %s; try another directory", from, to,
                          strerror(errno));
    return moire_file_sync_directory(to);
}

/* A link made under another name and renamed: there is no moment without "latest". */
static moire_status point_latest(const char *directory, int64_t step)
{
    char target[NAME_BYTES], *link = NULL, *partial = NULL;
    step_name(step, target);
    moire_status status = join(directory, latest_name, &link);
    if (status == MOIRE_OK) status = join(directory, latest_partial_name, &partial);
    if (status != MOIRE_OK) goto release_paths;
    if (symlink(target, partial) < 0) {
        status = moire_fail(MOIRE_NO_FILE,
                            "cannot make the link %s; found: %s; try a file system with symbolic links",
                            partial, strerror(errno));
        goto release_paths;
    }
    status = rename_synced(partial, link);
    if (status != MOIRE_OK) unlink(partial);
release_paths:
    moire_release(partial);
    moire_release(link);
    return status;
}

moire_status moire_checkpoint_rename(const char *directory, int64_t step,
                                     const struct moire_checkpoint_paths *paths)
{
    MOIRE_TRY(rename_synced(paths->partial, paths->final));
    return point_latest(directory, step);
}

/* Steps of the checkpoints in a directory, in ascending order. */
static moire_status list_steps(const char *directory, int64_t **steps, int64_t *count)
{
    struct moire_paths names;
    int64_t *list = NULL, found = 0;
    MOIRE_TRY(moire_paths_list(directory, &names));
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, names.count, sizeof *list, &list);
    if (status == MOIRE_OK)
        for (int64_t i = 0; i < names.count; i++)
            if (name_step(names.list[i], &list[found])) found++;
    moire_paths_free(&names);
    if (status != MOIRE_OK) return status;
    for (int64_t i = 1; i < found; i++) /* nearly sorted: names sort as numbers up to eight digits */
        for (int64_t j = i; j > 0 && list[j] < list[j - 1]; j--) {
            int64_t other = list[j];
            list[j] = list[j - 1];
            list[j - 1] = other;
        }
    *steps = list;
    *count = found;
    return MOIRE_OK;
}

/* Steps above `step` go first, the highest first, then the lowest ones. */
static moire_status remove_beyond(const char *directory, const int64_t *steps, int64_t count, int64_t step,
                                  int64_t keep)
{
    char name[NAME_BYTES];
    int64_t low = 0, high = count;
    while (high - low > keep) {
        step_name(steps[high - 1] > step ? steps[--high] : steps[low++], name);
        MOIRE_TRY(remove_file(directory, name));
    }
    return MOIRE_OK;
}

void moire_checkpoint_remove_old(const char *directory, int64_t step, int64_t keep)
{
    int64_t *steps, count;
    if (keep < 1) return; /* all */
    moire_status status = list_steps(directory, &steps, &count);
    if (status == MOIRE_OK) {
        status = remove_beyond(directory, steps, count, step, keep);
        moire_release(steps);
    }
    if (status == MOIRE_OK) return;
    moire_warn("an old checkpoint stays: %s", moire_error_text());
    moire_error_clear();
}

/* Where a link points to, NULL when there is no such link. */
static moire_status read_link(const char *link, char **target)
{
    char found[4096];
    ssize_t length = readlink(link, found, sizeof found - 1);
    *target = NULL;
    if (length < 0 && errno == ENOENT) return MOIRE_OK;
    if (length < 0)
        return moire_fail(MOIRE_NO_FILE,
                          "cannot follow %s; found: %s, expected a symbolic link to a checkpoint; try to "
                          "remove it or to give the checkpoint's path",
                          link, strerror(errno));
    found[length] = 0;
    return moire_copy_text(found, target);
}

/* The highest step whose file opens; *path = NULL when there is none. */
static moire_status newest_complete(const char *directory, char **path)
{
    int64_t *steps, count;
    char name[NAME_BYTES];
    moire_status status = list_steps(directory, &steps, &count);
    *path = NULL;
    if (status != MOIRE_OK) return status;
    while (count > 0 && status == MOIRE_OK) {
        step_name(steps[--count], name);
        status = join(directory, name, path);
        if (status != MOIRE_OK || moire_checkpoint_is(*path)) break;
        moire_release(*path);
        *path = NULL;
    }
    moire_release(steps);
    return status;
}

moire_status moire_checkpoint_latest(const char *directory, char **path)
{
    char *link, *target = NULL, *found = NULL;
    MOIRE_TRY(join(directory, latest_name, &link));
    moire_status status = read_link(link, &target);
    if (status != MOIRE_OK) goto release_link;
    if (target) {
        status = target[0] == '/' ? moire_copy_text(target, &found) : join(directory, target, &found);
        if (status != MOIRE_OK || moire_file_exists(found)) goto release_link;
        moire_release(found);
        found = NULL;
    }
    if (moire_file_exists(directory)) status = newest_complete(directory, &found);
    if (status == MOIRE_OK && target)
        moire_warn("%s points to %s, which is missing; going on with %s", link, target,
                   found ? found : "nothing");
    if (status == MOIRE_OK && !target && found) /* a kill came between the first file and its link */
        moire_warn("%s is missing; going on with %s", link, found);
release_link:
    moire_release(target);
    moire_release(link);
    if (status == MOIRE_OK) *path = found;
    return status;
}
