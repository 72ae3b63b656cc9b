#include "moire/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One read or write moves at most so much: some systems refuse more than 2 GiB. */
enum { PIECE_BYTES = 1 << 30 };

/* Records what the system said about `path`, with the code and the advice that belong to it. */
static moire_status fail_system(const char *path, const char *doing, int error)
{
    switch (error) {
    case ENOSPC: case EDQUOT: case EFBIG:
        return moire_fail(MOIRE_NO_SPACE,
                          "cannot %s %s; found: %s; try another file system or free some space there", doing,
                          path, strerror(error));
    case ENOENT: case ENOTDIR:
        return moire_fail(MOIRE_NO_FILE,
                          "cannot %s %s; found: %s; try another path (relative ones start where moire was "
                          "started)", doing, path, strerror(error));
    case EACCES: case EPERM: case EROFS:
        return moire_fail(MOIRE_NO_FILE,
                          "cannot %s %s; found: %s; try a path that you may use, or change its permissions",
                          doing, path, strerror(error));
    case ENOMEM:
        return moire_fail(MOIRE_NO_MEMORY, "cannot %s %s; found: %s; try again with less memory in use",
                          doing, path, strerror(error));
    case EMFILE: case ENFILE:
        return moire_fail(MOIRE_NO_FILE, "cannot %s %s; found: %s; try a higher limit (ulimit -n)", doing,
                          path, strerror(error));
    default:
        return moire_fail(MOIRE_NO_FILE, "cannot %s %s; found: %s; try another path or file system", doing,
                          path, strerror(error));
    }
}

moire_status moire_file_open(const char *path, int flags, int *descriptor)
{
    int opened;
    do opened = open(path, flags | O_CLOEXEC, 0666);
    while (opened < 0 && errno == EINTR);
    const char *doing = flags & O_CREAT ? "create" : flags & (O_WRONLY | O_RDWR) ? "write" : "read";
    if (opened < 0) return fail_system(path, doing, errno);
    *descriptor = opened;
    return MOIRE_OK;
}

static size_t piece(int64_t left)
{
    return (size_t)(left < PIECE_BYTES ? left : PIECE_BYTES);
}

moire_status moire_file_pread(int descriptor, const char *path, void *data, int64_t bytes, int64_t offset)
{
    for (int64_t done = 0; done < bytes; ) {
        ssize_t got = pread(descriptor, (char *)data + done, piece(bytes - done), offset + done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_system(path, "read", errno);
        if (got == 0)
            return moire_fail(MOIRE_BAD_DATA,
                              "%s is too short; found its end at byte %" PRId64 ", expected %" PRId64
                              " bytes from byte %" PRId64 " on; try to copy or make the file again",
                              path, offset + done, bytes, offset);
        done += got;
    }
    return MOIRE_OK;
}

moire_status moire_file_pwrite(int descriptor, const char *path, const void *data, int64_t bytes,
                               int64_t offset)
{
    for (int64_t done = 0; done < bytes; ) {
        ssize_t put = pwrite(descriptor, (const char *)data + done, piece(bytes - done), offset + done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return fail_system(path, "write", errno);
        if (put == 0) return fail_system(path, "write", ENOSPC);
        done += put;
    }
    return MOIRE_OK;
}

moire_status moire_file_reserve(int descriptor, const char *path, int64_t bytes)
{
    int error;
    if (bytes == 0) return MOIRE_OK; /* posix_fallocate takes no empty range */
    do error = posix_fallocate(descriptor, 0, bytes);
    while (error == EINTR);
    /* Not every file system can; then a full disk is found by the write. */
    if (error == 0 || error == EOPNOTSUPP || error == EINVAL) return MOIRE_OK;
    return fail_system(path, "reserve space for", error);
}

moire_status moire_file_sync(int descriptor, const char *path)
{
    int result;
    do result = fsync(descriptor);
    while (result < 0 && errno == EINTR);
    /* Pipes and some special files cannot be synced; they hold nothing that a crash could lose. */
    if (result == 0 || errno == EINVAL || errno == EROFS) return MOIRE_OK;
    return fail_system(path, "sync", errno);
}

/* The directory part of `path`, "." where it has none; the caller releases it. */
static moire_status directory_of(const char *path, char **directory)
{
    const char *last = strrchr(path, '/');
    char *copy = NULL;
    MOIRE_TRY(moire_copy_text(last ? path : ".", &copy));
    if (last) copy[last == path ? 1 : last - path] = 0;
    *directory = copy;
    return MOIRE_OK;
}

moire_status moire_file_sync_directory(const char *path)
{
    char *directory = NULL;
    int descriptor = -1;
    MOIRE_TRY(directory_of(path, &directory));
    moire_status status = moire_file_open(directory, O_RDONLY | O_DIRECTORY, &descriptor);
    if (status != MOIRE_OK) goto release_directory;
    status = moire_file_sync(descriptor, directory);
    close(descriptor);
release_directory:
    moire_release(directory);
    return status;
}

/* Reads to the end of something whose size the system does not know (pipe, /proc). */
static moire_status read_rest(int descriptor, const char *path, char **data, int64_t *bytes,
                              int64_t *capacity)
{
    for (;;) {
        MOIRE_TRY(moire_grow(MOIRE_MEMORY_DATA, data, capacity, *bytes + 4096, 1));
        ssize_t got = read(descriptor, *data + *bytes, piece(*capacity - *bytes - 1));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_system(path, "read", errno);
        if (got == 0) break;
        *bytes += got;
    }
    (*data)[*bytes] = 0;
    return MOIRE_OK;
}

moire_status moire_file_read(const char *path, char **data, int64_t *bytes)
{
    int descriptor = -1;
    struct stat about;
    char *content = NULL;
    int64_t read_bytes = 0, capacity = 0;
    MOIRE_TRY(moire_file_open(path, O_RDONLY, &descriptor));
    moire_status status = MOIRE_OK;
    if (fstat(descriptor, &about) < 0) status = fail_system(path, "read", errno);
    else if (S_ISDIR(about.st_mode))
        status = moire_fail(MOIRE_NO_FILE,
                            "cannot read %s; found a directory, expected a file; try a file inside it", path);
    else if (about.st_size > 0)
        status = moire_grow(MOIRE_MEMORY_DATA, &content, &capacity, about.st_size + 4096 + 1, 1);
    if (status == MOIRE_OK) status = read_rest(descriptor, path, &content, &read_bytes, &capacity);
    close(descriptor);
    if (status != MOIRE_OK) {
        moire_release(content);
        return status;
    }
    *data = content;
    *bytes = read_bytes;
    return MOIRE_OK;
}

static moire_status write_temporary(const char *path, const void *data, int64_t bytes)
{
    int descriptor = -1;
    MOIRE_TRY(moire_file_open(path, O_WRONLY | O_CREAT | O_TRUNC, &descriptor));
    moire_status status = moire_file_pwrite(descriptor, path, data, bytes, 0);
    if (status == MOIRE_OK) status = moire_file_sync(descriptor, path);
    if (close(descriptor) < 0 && status == MOIRE_OK && errno != EINTR)
        status = fail_system(path, "write", errno);
    if (status != MOIRE_OK) unlink(path);
    return status;
}

moire_status moire_file_write(const char *path, const void *data, int64_t bytes)
{
    struct moire_text temporary = { 0 };
    moire_status status = moire_text_add(&temporary, "%s.%ld.tmp", path, (long)getpid());
    if (status == MOIRE_OK) status = write_temporary(temporary.data, data, bytes);
    if (status == MOIRE_OK && rename(temporary.data, path) < 0) {
        status = fail_system(path, "write", errno);
        unlink(temporary.data);
    }
    if (status == MOIRE_OK) status = moire_file_sync_directory(path);
    moire_text_free(&temporary);
    return status;
}

static moire_status make_one_directory(const char *path)
{
    struct stat about;
    if (mkdir(path, 0777) == 0) return MOIRE_OK;
    int error = errno; /* EEXIST, but on some systems EACCES or EROFS for one that exists */
    if (stat(path, &about) < 0) return fail_system(path, "make the directory", error);
    if (S_ISDIR(about.st_mode)) return MOIRE_OK;
    return moire_fail(MOIRE_NO_FILE,
                      "cannot make the directory %s; found a file of that name; try another path", path);
}

/* Whether a file can be created in it: a full or read-only file system is found before a run starts. */
static moire_status probe_directory(const char *path)
{
    struct moire_text probe = { 0 };
    int descriptor = -1;
    moire_status status = moire_text_add(&probe, "%s/.moire.%ld.tmp", path, (long)getpid());
    if (status == MOIRE_OK) status = moire_file_open(probe.data, O_WRONLY | O_CREAT, &descriptor);
    if (status == MOIRE_OK) {
        close(descriptor);
        unlink(probe.data);
    }
    moire_text_free(&probe);
    return status;
}

moire_status moire_directory_make(const char *path)
{
    char *copy;
    if (!path[0]) return moire_fail(MOIRE_NO_FILE, "cannot make a directory without a name; expected a path");
    MOIRE_TRY(moire_copy_text(path, &copy));
    moire_status status = MOIRE_OK;
    for (char *slash = copy + 1; *slash && status == MOIRE_OK; slash++) {
        if (*slash != '/') continue;
        *slash = 0;
        status = make_one_directory(copy);
        *slash = '/';
    }
    if (status == MOIRE_OK) status = make_one_directory(copy);
    moire_release(copy);
    return status == MOIRE_OK ? probe_directory(path) : status;
}

bool moire_file_exists(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0;
}

moire_status moire_file_bytes(const char *path, int64_t *bytes)
{
    struct stat about;
    if (stat(path, &about) < 0) return fail_system(path, "read", errno);
    *bytes = about.st_size;
    return MOIRE_OK;
}
