#include "moire/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Up to so many a copy costs no more than a mapping, of which a process may have only some 65,000. */
enum { SMALL_BYTES = 1 << 16 };

static moire_status map_descriptor(int descriptor, const char *path, int64_t bytes,
                                   struct moire_file_map *map)
{
    void *data = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED)
        return moire_fail(errno == ENOMEM ? MOIRE_NO_MEMORY : MOIRE_NO_FILE,
                          "cannot map %s; found: %s; try fewer or smaller files", path, strerror(errno));
    *map = (struct moire_file_map){ .data = data, .bytes = bytes, .mapped = true };
    return MOIRE_OK;
}

static moire_status read_small(const char *path, struct moire_file_map *map)
{
    char *data = NULL;
    int64_t bytes = 0;
    MOIRE_TRY(moire_file_read(path, &data, &bytes));
    *map = (struct moire_file_map){ .data = (const unsigned char *)data, .bytes = bytes };
    return MOIRE_OK;
}

moire_status moire_file_map(const char *path, struct moire_file_map *map)
{
    int descriptor = -1;
    struct stat about;
    /* Without O_NONBLOCK the opening of a pipe would wait for a writer. */
    MOIRE_TRY(moire_file_open(path, O_RDONLY | O_NONBLOCK, &descriptor));
    moire_status status = MOIRE_OK;
    if (fstat(descriptor, &about) < 0)
        status = moire_fail(MOIRE_NO_FILE, "cannot read %s; found: %s; try another path", path,
                            strerror(errno));
    else if (!S_ISREG(about.st_mode))
        status = moire_fail(MOIRE_NO_FILE, "cannot read %s; found a %s, expected a regular file; try %s",
                            path, S_ISDIR(about.st_mode) ? "directory" : "special file",
                            S_ISDIR(about.st_mode) ? "a file inside it" : "a copy of its contents");
    else if (about.st_size > SMALL_BYTES)
        status = map_descriptor(descriptor, path, about.st_size, map);
    else
        status = read_small(path, map);
    close(descriptor);
    return status;
}

void moire_file_unmap(struct moire_file_map *map)
{
    if (map->mapped) munmap((void *)map->data, (size_t)map->bytes);
    else moire_release((void *)map->data);
    *map = (struct moire_file_map){ 0 };
}
