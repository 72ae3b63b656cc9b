#include "moire/base/arena.h"

#include <inttypes.h>
#include <string.h>

enum { ALIGNMENT = 64 };

void moire_arena_measure(struct moire_arena *arena)
{
    *arena = (struct moire_arena){ .measuring = true };
}

moire_status moire_arena_create(struct moire_arena *arena, moire_memory_kind kind, int64_t capacity_bytes)
{
    unsigned char *base;
    if (capacity_bytes > 0 && capacity_bytes <= INT64_MAX - ALIGNMENT)
        capacity_bytes = (capacity_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    MOIRE_TRY(moire_allocate(kind, capacity_bytes, 1, &base));
    *arena = (struct moire_arena){ .base = base, .capacity_bytes = capacity_bytes };
    return MOIRE_OK;
}

/* Bytes that `count` elements take, a multiple of the alignment; -1 where they cannot be counted. */
static int64_t rounded_bytes(int64_t count, size_t bytes_each)
{
    int64_t bytes;
    if (count < 0 || bytes_each > INT64_MAX || __builtin_mul_overflow(count, (int64_t)bytes_each, &bytes)
        || bytes > INT64_MAX - ALIGNMENT) return -1;
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void *moire_arena_take(struct moire_arena *arena, int64_t count, size_t bytes_each)
{
    int64_t bytes = rounded_bytes(count, bytes_each), used;
    bool countable = bytes >= 0 && !__builtin_add_overflow(arena->used_bytes, bytes, &used);
    if (!countable || (!arena->measuring && used > arena->capacity_bytes)) {
        int64_t left = arena->measuring ? INT64_MAX : arena->capacity_bytes - arena->used_bytes;
        moire_fail(MOIRE_NO_MEMORY,
                   "an arena is too small; wanted %" PRId64 " elements of %zu bytes, %" PRId64
                   " of its %" PRId64 " bytes are free; try a measuring pass over the same calls first",
                   count, bytes_each, left, arena->capacity_bytes);
        return NULL;
    }
    /* A measuring arena gives addresses in the never mapped first pages and beyond: any use of them stops the
     * program early on. They are as aligned and as different from each other as real ones. */
    uintptr_t start = arena->measuring ? ALIGNMENT : (uintptr_t)arena->base;
    void *taken = (void *)(start + (uintptr_t)arena->used_bytes);
#ifdef MOIRE_DEBUG
    if (!arena->measuring) memset(taken, 0xFF, (size_t)bytes); /* reads before a write give NaN or -1 */
#endif
    arena->used_bytes = used;
    if (used > arena->peak_bytes) arena->peak_bytes = used;
    return taken;
}

int64_t moire_arena_mark(const struct moire_arena *arena)
{
    return arena->used_bytes;
}

void moire_arena_reset(struct moire_arena *arena, int64_t mark)
{
    moire_assert(mark >= 0 && mark <= arena->used_bytes);
    arena->used_bytes = mark;
}

void moire_arena_free(struct moire_arena *arena)
{
    moire_release(arena->base);
    *arena = (struct moire_arena){ 0 };
}
