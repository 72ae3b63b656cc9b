#include "moire/base/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Newer than some headers; where the kernel does not know them either, it says EINVAL. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

int64_t moire_pages_bytes(int64_t bytes)
{
    int64_t page = sysconf(_SC_PAGESIZE);
    return bytes > INT64_MAX - page ? INT64_MAX : (bytes + page - 1) / page * page;
}

/* The start of a file of /proc, as text; "" where it cannot be read. */
static void read_start(const char *path, char *text, size_t text_bytes)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = descriptor >= 0 ? read(descriptor, text, text_bytes - 1) : 0;
    if (descriptor >= 0) close(descriptor);
    text[got > 0 ? got : 0] = 0;
}

/* ---- this process's pages ---- */

/* What the machine can still give, without swapping; INT64_MAX where it does not say. The kernel itself takes
 * any size for a file of memory and ends some process when it finds no page. */
static int64_t available_bytes(void)
{
    char text[4096];
    read_start("/proc/meminfo", text, sizeof text);
    const char *line = strstr(text, "MemAvailable:");
    return line ? strtoll(line + strlen("MemAvailable:"), NULL, 10) * 1024 : INT64_MAX;
}

static moire_status check_limits(const struct moire_pages *pages, int64_t bytes)
{
    struct rlimit limit;
    /* Beyond it the kernel would not only refuse but send SIGXFSZ. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        (uint64_t)bytes > limit.rlim_cur)
        return moire_fail(MOIRE_NO_MEMORY,
                          "memory for other ranks to read (%s) is over the limit on sizes of files; found a "
                          "limit of %llu bytes, expected at least %" PRId64 "; try ulimit -f unlimited, or "
                          "exchange.backend = pairwise",
                          moire_memory_kind_name(pages->kind), (unsigned long long)limit.rlim_cur, bytes);
    int64_t available = available_bytes(), more = bytes - pages->bytes;
    if (more > available)
        return moire_fail(MOIRE_NO_MEMORY,
                          "out of memory for %s; found %" PRId64 " bytes available on this machine, expected "
                          "at least %" PRId64 " (this rank holds %" PRId64 " of that kind); try a smaller "
                          "train.batch, more train.accumulate or more nodes",
                          moire_memory_kind_name(pages->kind), available, more,
                          moire_memory_bytes(pages->kind));
    return MOIRE_OK;
}

static moire_status create_file(int *descriptor)
{
    int made = memfd_create("moire", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (made < 0 && errno == EINVAL) made = memfd_create("moire", MFD_CLOEXEC);
    if (made < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
        return moire_fail(MOIRE_NO_MEMORY,
                          "cannot make memory for other ranks to read; found: %s; try a higher limit "
                          "(ulimit -n)",
                          strerror(errno));
    if (made < 0)
        return moire_fail(MOIRE_NO_FILE,
                          "cannot make memory for other ranks to read; found: memfd_create: %s, expected "
                          "Linux 3.17 or later and no filter against it; try another kernel or container, or "
                          "exchange.backend = pairwise",
                          strerror(errno));
    *descriptor = made;
    return MOIRE_OK;
}

/* Zero, or what the system said. Touching the pages also enters them into this process's tables, which a
 * reservation does not; but only the reservation says why there are none. */
static int take_pages(const struct moire_pages *pages, int64_t bytes)
{
    size_t more = (size_t)(bytes - pages->bytes);
    if (madvise((char *)pages->data + pages->bytes, more, MADV_POPULATE_WRITE) == 0) return 0;
    return posix_fallocate(pages->descriptor, pages->bytes, bytes - pages->bytes);
}

/* Zero, or what the system said; then the pages are as before, at another address perhaps. */
static int extend(struct moire_pages *pages, int64_t bytes)
{
    if (ftruncate(pages->descriptor, bytes) != 0) return errno;
    void *data = pages->bytes > 0
                     ? mremap(pages->data, (size_t)pages->bytes, (size_t)bytes, MREMAP_MAYMOVE)
                     : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pages->descriptor, 0);
    int error = data == MAP_FAILED ? errno : 0;
    if (!error) {
        pages->data = data;
        error = take_pages(pages, bytes);
        if (error) munmap((char *)data + pages->bytes, (size_t)(bytes - pages->bytes));
    }
    if (!error)
        pages->bytes = bytes;
    else if (ftruncate(pages->descriptor, pages->bytes) != 0)
        return errno;
    return error;
}

moire_status moire_pages_grow(struct moire_pages *pages, int64_t bytes)
{
    bytes = moire_pages_bytes(bytes);
    int64_t before = pages->bytes;
    if (bytes <= before) return MOIRE_OK;
    MOIRE_TRY(check_limits(pages, bytes));
    if (before == 0) MOIRE_TRY(create_file(&pages->descriptor));
    int error = extend(pages, bytes);
    if (error) {
        if (before == 0) close(pages->descriptor);
        if (before == 0) pages->data = NULL;
        return moire_fail(MOIRE_NO_MEMORY,
                          "out of memory for %s that other ranks read; found: %s, expected %" PRId64
                          " bytes (this rank holds %" PRId64 " of that kind); try a smaller train.batch, "
                          "more train.accumulate or more nodes",
                          moire_memory_kind_name(pages->kind), strerror(error), bytes,
                          moire_memory_bytes(pages->kind));
    }
    if (before > 0) moire_memory_disown(pages->kind, before);
    moire_memory_adopt(pages->kind, bytes);
    return MOIRE_OK;
}

void moire_pages_free(struct moire_pages *pages)
{
    if (pages->bytes > 0) {
        munmap(pages->data, (size_t)pages->bytes);
        close(pages->descriptor);
        moire_memory_disown(pages->kind, pages->bytes);
    }
    *pages = (struct moire_pages){ .kind = pages->kind };
}

/* ---- other processes' ---- */

moire_status moire_pages_process(int *process)
{
    char text[32];
    ssize_t got = readlink("/proc/self", text, sizeof text - 1);
    if (got <= 0)
        return moire_fail(
            MOIRE_NO_FILE,
            "cannot find this process in /proc; found: %s; try to mount /proc in the container, "
            "or exchange.backend = pairwise",
            strerror(errno));
    text[got] = 0;
    *process = (int)strtol(text, NULL, 10);
    return MOIRE_OK;
}

void moire_pages_machine(char *name, size_t name_bytes)
{
    read_start("/proc/sys/kernel/random/boot_id", name, name_bytes);
    if (!name[0]) gethostname(name, name_bytes - 1);
    name[name_bytes - 1] = 0;
    name[strcspn(name, "\n")] = 0;
}

static moire_status fail_map(const char *path, int error)
{
    bool full = error == ENOMEM || error == EMFILE || error == ENFILE;
    return moire_fail(full ? MOIRE_NO_MEMORY : MOIRE_NO_FILE,
                      "cannot map another rank's memory, %s; found: %s, expected to open it; try %s", path,
                      strerror(error),
                      full ? "higher limits (ulimit -n, ulimit -v, sysctl vm.max_map_count)"
                           : "the same user and PID namespace for all ranks of a node, or exchange.backend = "
                             "pairwise");
}

/* Pages are better entered into the tables at once here than one by one in the first transfer. Where this
 * fails they come one by one. */
static void enter_pages(const void *data, int64_t bytes)
{
    (void)madvise((void *)data, (size_t)bytes, MADV_POPULATE_READ);
}

moire_status moire_pages_map(int process, int descriptor, int64_t bytes, const void **data)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", process, descriptor);
    /* Where this is not the file that was meant, a pipe must not block. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (opened < 0) return fail_map(path, errno);
    struct stat about;
    void *mapped = MAP_FAILED;
    int error = ENOENT;
    if (fstat(opened, &about) == 0 && S_ISREG(about.st_mode) && about.st_size >= bytes) {
        mapped = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, opened, 0);
        error = errno;
    }
    close(opened);
    if (mapped == MAP_FAILED) return fail_map(path, error);
    enter_pages(mapped, bytes);
    *data = mapped;
    return MOIRE_OK;
}

moire_status moire_pages_map_more(const void **data, int64_t bytes, int64_t more_bytes)
{
    void *mapped = mremap((void *)*data, (size_t)bytes, (size_t)more_bytes, MREMAP_MAYMOVE);
    if (mapped == MAP_FAILED) return fail_map("which has grown", errno);
    enter_pages((const char *)mapped + bytes, more_bytes - bytes);
    *data = mapped;
    return MOIRE_OK;
}

void moire_pages_unmap(const void *data, int64_t bytes)
{
    if (data) munmap((void *)data, (size_t)bytes);
}
