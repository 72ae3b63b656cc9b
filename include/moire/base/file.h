/* Files and text: with HDF5 (io) this is the only place that opens a file or parses text. Every failure names
 * the path, what was wrong and what to try. Not collective. */
#ifndef MOIRE_BASE_FILE_H
#define MOIRE_BASE_FILE_H

#include "moire/base/memory.h"

/* The whole file, with a zero byte after the end that *bytes does not count. The caller releases *data. */
moire_status moire_file_read(const char *path, char **data, int64_t *bytes);
/* Written to a temporary name beside it, synced, renamed, directory synced: a reader sees the old or the new
 * file. */
moire_status moire_file_write(const char *path, const void *data, int64_t bytes);
/* Exactly `bytes` at `offset`, in pieces, restarted when interrupted. A short file is MOIRE_BAD_DATA, a full
 * disk MOIRE_NO_SPACE. `path` is for the message. */
moire_status moire_file_pread(int descriptor, const char *path, void *data, int64_t bytes, int64_t offset);
moire_status moire_file_pwrite(int descriptor, const char *path, const void *data, int64_t bytes,
                               int64_t offset);
/* open(2) with the message; flags as there, mode 0666. */
moire_status moire_file_open(const char *path, int flags, int *descriptor);
/* Reserves the blocks (posix_fallocate), so that a full disk is found before anything is written. */
moire_status moire_file_reserve(int descriptor, const char *path, int64_t bytes);
/* fsync of a file descriptor, and of the directory that holds `path` (after a rename). */
moire_status moire_file_sync(int descriptor, const char *path);
moire_status moire_file_sync_directory(const char *path);
/* mkdir -p, then a check that a file can be created in it. */
moire_status moire_directory_make(const char *path);
bool moire_file_exists(const char *path);
moire_status moire_file_bytes(const char *path, int64_t *bytes);

/* A whole file, read only. */
struct moire_file_map {
    const unsigned char *data; /* owned; valid also for an empty file */
    int64_t bytes;
    bool mapped; /* else it is small and was read: a process may have only so many mappings */
};
/* Regular files only. A file that is cut while it is mapped kills the process that reads it (SIGBUS). */
moire_status moire_file_map(const char *path, struct moire_file_map *map);
/* Fine for a zeroed one. */
void moire_file_unmap(struct moire_file_map *map);

/* A sorted list of paths. */
struct moire_paths {
    char **list; /* owned */
    int64_t count;
    int64_t capacity;
};
/* Paths that match a comma-separated list of patterns ("src/" "**" "/x.c" means any depth, also none), each
 * once, sorted by bytes, so that the order is the same on every machine. A pattern that matches nothing is an
 * error that names it. Only files match, directories do not; a last "**" matches all files below. Wildcards
 * and "**" skip hidden names, and
 * "**" enters no linked directories. A comma in a name is written "\,". *paths is overwritten. */
moire_status moire_paths_match(const char *patterns, struct moire_paths *paths);
/* The patterns of such a list, in their order, as they stand, without the blanks around them. *list is
 * overwritten. */
moire_status moire_paths_split(const char *patterns, struct moire_paths *list);
/* Names (without the directory) of the entries of one directory, sorted, without "." and "..". *paths is
 * overwritten. */
moire_status moire_paths_list(const char *directory, struct moire_paths *paths);
moire_status moire_paths_add(struct moire_paths *paths, const char *path);
void moire_paths_free(struct moire_paths *paths);

/* A growing text. */
struct moire_text {
    char *data; /* owned; always ends with a zero byte once something was added */
    int64_t bytes;
    int64_t capacity;
};
moire_status moire_text_add(struct moire_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void moire_text_free(struct moire_text *text);

/* Numbers from a text, the whole of it: integers may end in k, M, G (powers of 1000) or Ki, Mi, Gi. False:
 * not one. */
bool moire_parse_integer(const char *text, int64_t *value);
bool moire_parse_real(const char *text, double *value);

/* The name of `names` nearest to `name` by edit distance, or NULL where none is near enough to be meant. */
const char *moire_nearest_name(const char *name, const char *const *names, int64_t count);
/* Index of `name` in `names`; else fails with MOIRE_USAGE: "unknown KIND 'x'; did you mean 'y'? known: a, b,
 * c". */
moire_status moire_name_find(const char *kind, const char *name, const char *const *names, int64_t count,
                             int64_t *index);

#endif
