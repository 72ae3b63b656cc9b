#include "moire/base/memory.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "moire/base/log.h"

enum { ALIGNMENT = 64 };
enum { HUGE_PAGE = 2 << 20 }; /* bytes; of x86-64, and of other processors with small pages of 4 KiB */

#define MAGIC_HELD UINT64_C(0x6d6f6972652b2b2b)
#define MAGIC_RELEASED UINT64_C(0x6d6f6972652d2d2d)
#define MAGIC_END UINT64_C(0x656e642b656e642b)

/* Stands in the 64 bytes before the payload. The magic is not at the start, where malloc keeps its own links
 * in a freed block, so that a second release is recognised. */
struct header {
    int64_t unused[4];
    uint64_t magic;
    int64_t bytes;
    int64_t kind;
    void *start; /* as calloc gave it, up to 63 bytes before */
};
_Static_assert(sizeof(struct header) == ALIGNMENT, "the payload must stay aligned");

static struct {
    _Atomic int64_t bytes, peak, blocks;
} held[MOIRE_MEMORY_KINDS];
static _Atomic int64_t allocations;

const char *moire_memory_kind_name(moire_memory_kind kind)
{
    static const char *const names[MOIRE_MEMORY_KINDS] = {
        [MOIRE_MEMORY_PARAMETERS] = "parameters", [MOIRE_MEMORY_GRADIENTS] = "gradients",
        [MOIRE_MEMORY_OPTIMIZER] = "optimizer", [MOIRE_MEMORY_ACTIVATIONS] = "activations",
        [MOIRE_MEMORY_EXCHANGE] = "exchange", [MOIRE_MEMORY_DATA] = "data", [MOIRE_MEMORY_OTHER] = "other",
    };
    return (int)kind >= 0 && kind < MOIRE_MEMORY_KINDS ? names[kind] : "unknown kind";
}

void moire_memory_adopt(moire_memory_kind kind, int64_t bytes)
{
    int64_t now = atomic_fetch_add(&held[kind].bytes, bytes) + bytes;
    int64_t peak = atomic_load(&held[kind].peak);
    while (now > peak && !atomic_compare_exchange_weak(&held[kind].peak, &peak, now)) { }
    atomic_fetch_add(&held[kind].blocks, 1);
    atomic_fetch_add(&allocations, 1);
}

void moire_memory_disown(moire_memory_kind kind, int64_t bytes)
{
    atomic_fetch_sub(&held[kind].bytes, bytes);
    atomic_fetch_sub(&held[kind].blocks, 1);
}

#ifdef MOIRE_DEBUG
enum { POISONED = 1 << 20 };       /* bytes at most: the rest of a large block may never have been touched */
enum { GUARD = sizeof(uint64_t) }; /* after the payload, to notice writes beyond the end */

static void write_guard(struct header *header)
{
    uint64_t end = MAGIC_END;
    memcpy((char *)(header + 1) + header->bytes, &end, sizeof end);
}

static void check_block(const struct header *header)
{
    bool released_twice = header->magic == MAGIC_RELEASED;
    bool start_overwritten = header->magic != MAGIC_HELD;
    moire_assert(!released_twice);
    moire_assert(!start_overwritten);
    uint64_t end;
    memcpy(&end, (const char *)(header + 1) + header->bytes, sizeof end);
    bool end_overwritten = end != MAGIC_END;
    moire_assert(!end_overwritten);
}
#else
enum { GUARD = 0 };
static void write_guard(struct header *header) { (void)header; }
static void check_block(const struct header *header) { (void)header; }
#endif

/* Products stride through large blocks: with pages of 4 KiB they wait for address translation. Only advice to
 * the kernel, so a failure does not matter; it has to come before the pages are touched. */
static void advise_huge_pages(char *start, int64_t bytes)
{
    int64_t skipped = (int64_t)(-(uintptr_t)start & (HUGE_PAGE - 1));
    int64_t whole = (bytes - skipped) / HUGE_PAGE;
    if (whole > 0) (void)madvise(start + skipped, (size_t)whole * HUGE_PAGE, MADV_HUGEPAGE);
}

moire_status moire_allocate(moire_memory_kind kind, int64_t count, size_t bytes_each, void *out)
{
    int64_t bytes, total;
    if (count < 0 || bytes_each > INT64_MAX || __builtin_mul_overflow(count, (int64_t)bytes_each, &bytes)
        || __builtin_add_overflow(bytes, (int64_t)sizeof(struct header) + GUARD + ALIGNMENT - 1, &total))
        return moire_fail(MOIRE_NO_MEMORY,
                          "a block of %s is too large to count; found %" PRId64 " elements of %zu bytes, "
                          "expected less than 2^63 bytes; try smaller sizes",
                          moire_memory_kind_name(kind), count, bytes_each);
    /* Not aligned_alloc and memset: calloc leaves large blocks, which come as zeros, untouched. */
    char *start = (uint64_t)total <= SIZE_MAX ? calloc(1, (size_t)total) : NULL;
    if (!start)
        return moire_fail(MOIRE_NO_MEMORY,
                          "out of memory for %s; wanted %" PRId64 " bytes (%" PRId64 " elements of %zu), "
                          "this rank holds %" PRId64 " of that kind; try a smaller train.batch, more "
                          "train.accumulate or more nodes",
                          moire_memory_kind_name(kind), bytes, count, bytes_each, moire_memory_bytes(kind));
    advise_huge_pages(start, total);
    void *aligned = start + (-(uintptr_t)start & (ALIGNMENT - 1));
    struct header *header = aligned;
    *header = (struct header){ .magic = MAGIC_HELD, .bytes = bytes, .kind = kind, .start = start };
    write_guard(header);
    moire_memory_adopt(kind, bytes);
    void *payload = header + 1;
    memcpy(out, &payload, sizeof payload);
    return MOIRE_OK;
}

moire_status moire_grow(moire_memory_kind kind, void *pointer, int64_t *capacity, int64_t count,
                        size_t bytes_each)
{
    void *old, *fresh = NULL;
    memcpy(&old, pointer, sizeof old);
    if (old && count <= *capacity) return MOIRE_OK;
    int64_t kept = old ? *capacity : 0;
    int64_t wanted = count;
    if (kept <= INT64_MAX / 2 && wanted < kept + kept / 2 + 1) wanted = kept + kept / 2 + 1;
    MOIRE_TRY(moire_allocate(kind, wanted, bytes_each, &fresh));
    if (old) memcpy(fresh, old, (size_t)kept * bytes_each);
    moire_release(old);
    memcpy(pointer, &fresh, sizeof fresh);
    *capacity = wanted;
    return MOIRE_OK;
}

void moire_release(void *pointer)
{
    if (!pointer) return;
    struct header *header = (struct header *)pointer - 1;
    check_block(header);
    moire_memory_disown((moire_memory_kind)header->kind, header->bytes);
#ifdef MOIRE_DEBUG
    /* A use after the release does not go unnoticed. */
    memset(pointer, 0xA5, (size_t)(header->bytes < POISONED ? header->bytes : POISONED));
    *(volatile uint64_t *)&header->magic = MAGIC_RELEASED;
#endif
    free(header->start);
}

moire_status moire_copy_text(const char *text, char **out)
{
    size_t bytes = strlen(text) + 1;
    char *copy = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, (int64_t)bytes, 1, &copy));
    memcpy(copy, text, bytes);
    *out = copy;
    return MOIRE_OK;
}

int64_t moire_memory_bytes(moire_memory_kind kind)
{
    return atomic_load(&held[kind].bytes);
}

int64_t moire_memory_peak_bytes(moire_memory_kind kind)
{
    return atomic_load(&held[kind].peak);
}

int64_t moire_memory_blocks(void)
{
    int64_t blocks = 0;
    for (int kind = 0; kind < MOIRE_MEMORY_KINDS; kind++) blocks += atomic_load(&held[kind].blocks);
    return blocks;
}

int64_t moire_memory_allocations(void)
{
    return atomic_load(&allocations);
}

void moire_memory_reset_peaks(void)
{
    for (int kind = 0; kind < MOIRE_MEMORY_KINDS; kind++)
        atomic_store(&held[kind].peak, atomic_load(&held[kind].bytes));
}

int64_t moire_memory_report_leaks(void)
{
    int64_t all = 0;
    for (int kind = 0; kind < MOIRE_MEMORY_KINDS; kind++) {
        int64_t blocks = atomic_load(&held[kind].blocks);
        if (blocks != 0)
            moire_log_rank("memory not given back: %s, %" PRId64 " bytes in %" PRId64 " blocks",
                           moire_memory_kind_name((moire_memory_kind)kind),
                           moire_memory_bytes((moire_memory_kind)kind), blocks);
        all += blocks;
    }
    return all;
}
