/* A bump allocator over one counted block: planned once, reused every step. Not collective, not thread safe.
 */
#ifndef MOIRE_BASE_ARENA_H
#define MOIRE_BASE_ARENA_H

#include "moire/base/memory.h"

struct moire_arena {
    unsigned char *base; /* owned; NULL while measuring */
    int64_t capacity_bytes;
    int64_t used_bytes;
    int64_t peak_bytes; /* most ever used: what a measuring pass needs */
    bool measuring;
};

/* A measuring arena holds no memory: moire_arena_take returns a non-NULL pointer that must not be followed,
 * and counts. Run the same calls first on a measuring arena, then create one of its peak_bytes. */
void moire_arena_measure(struct moire_arena *arena);
/* The capacity is rounded up to a multiple of 64. */
moire_status moire_arena_create(struct moire_arena *arena, moire_memory_kind kind, int64_t capacity_bytes);
/* `count` elements of `bytes_each`, aligned to 64 bytes, contents undefined. NULL (and a recorded error that
 * gives wanted and free bytes) when it does not fit. The arena owns it. */
void *moire_arena_take(struct moire_arena *arena, int64_t count, size_t bytes_each);
/* Stack discipline: everything taken since the mark is given back. */
int64_t moire_arena_mark(const struct moire_arena *arena);
void moire_arena_reset(struct moire_arena *arena, int64_t mark);
void moire_arena_free(struct moire_arena *arena);

#endif
