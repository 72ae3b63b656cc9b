/* Pages of memory that other processes of the same machine can map: a file of memory (memfd_create), which
 * has no name anywhere and goes when the last process that holds or maps it is gone, however that ended. The
 * size of /dev/shm does not bound it. Linux. Not collective, no MPI. */
#ifndef MOIRE_BASE_PAGES_H
#define MOIRE_BASE_PAGES_H

#include "moire/base/memory.h"

/* A zeroed one, apart from the kind, holds nothing. */
struct moire_pages {
    void *data;     /* owned, starts at a page; NULL when bytes is 0 */
    int64_t bytes;  /* a multiple of the page, counted as one block of this kind */
    int descriptor; /* owned, closed on exec; meaningless when bytes is 0 */
    moire_memory_kind kind;
};

/* Makes them hold at least `bytes`, rounded up to whole pages, and never fewer than now. The contents stay,
 * what is new is zeroed, *data may move, also on failure. Every page is there afterwards, so that memory that
 * is missing is an error here and not a signal at the first touch: MOIRE_NO_MEMORY, with what was found and
 * what to raise, for more than the machine has available or `ulimit -f` allows, and for too many open files;
 * MOIRE_NO_FILE where the system has no memfd_create. Then they hold what they held. (A limit of a control
 * group ends the process, as with any memory.) */
moire_status moire_pages_grow(struct moire_pages *pages, int64_t bytes);
/* Other processes keep what they have mapped. Fine when it holds nothing. */
void moire_pages_free(struct moire_pages *pages);
/* `bytes` rounded up to what moire_pages_grow makes of them; INT64_MAX where that is no number. */
int64_t moire_pages_bytes(int64_t bytes);

/* The number by which /proc knows this process: it is not getpid() where /proc shows another PID namespace.
 * MOIRE_NO_FILE where there is no /proc. */
moire_status moire_pages_process(int *process);
/* What tells this machine, as it is running, from others: its boot's number, or its name. Always ends with a
 * zero byte. */
void moire_pages_machine(char *name, size_t name_bytes);

/* Maps the first `bytes` (at most as many as the owner has) of another process's pages for reading, given its
 * number in /proc and its descriptor. The mapping stays valid whatever the owner does, and shows what the
 * owner writes. Not counted: the memory is the owner's. MOIRE_NO_FILE when there is no such process or file,
 * or it may not be opened: the other process runs under another user or in another PID namespace;
 * MOIRE_NO_MEMORY for too many open files or mappings. */
moire_status moire_pages_map(int process, int descriptor, int64_t bytes, const void **data);
/* The same after the owner's have grown; *data may move. On failure it stays as it was. */
moire_status moire_pages_map_more(const void **data, int64_t bytes, int64_t more_bytes);
void moire_pages_unmap(const void *data, int64_t bytes); /* NULL is allowed */

#endif
