/* Counted and tagged allocation. Every byte that Moire holds for more than one function is counted here by
 * kind, so that the end-of-run table can print measured peaks and every test is a leak test. Thread safe. Not
 * collective. */
#ifndef MOIRE_BASE_MEMORY_H
#define MOIRE_BASE_MEMORY_H

#include "moire/base/status.h"

typedef enum {
    MOIRE_MEMORY_PARAMETERS,
    MOIRE_MEMORY_GRADIENTS,
    MOIRE_MEMORY_OPTIMIZER,
    MOIRE_MEMORY_ACTIVATIONS,
    MOIRE_MEMORY_EXCHANGE,
    MOIRE_MEMORY_DATA,
    MOIRE_MEMORY_OTHER,
    MOIRE_MEMORY_KINDS
} moire_memory_kind;

const char *moire_memory_kind_name(moire_memory_kind kind);

/* Zeroed memory for `count` elements of `bytes_each`, aligned to 64 bytes; count 0 gives a valid pointer too.
 * On failure (also when the product overflows) *out is untouched and the message names kind and bytes.
 * The caller owns *out and gives it back with moire_release. */
moire_status moire_allocate(moire_memory_kind kind, int64_t count, size_t bytes_each, void *out);
/* Makes *pointer (NULL or from moire_allocate) hold at least `count` elements. *capacity, in elements, grows
 * geometrically (at least by half) and never shrinks; old contents are kept, new ones zeroed. */
moire_status moire_grow(moire_memory_kind kind, void *pointer, int64_t *capacity, int64_t count,
                        size_t bytes_each);
/* NULL is allowed. */
void moire_release(void *pointer);
/* Counts a block that did not come from moire_allocate (mapped pages), until it is disowned. */
void moire_memory_adopt(moire_memory_kind kind, int64_t bytes);
void moire_memory_disown(moire_memory_kind kind, int64_t bytes);
/* A counted copy of a text, kind OTHER. */
moire_status moire_copy_text(const char *text, char **out);

int64_t moire_memory_bytes(moire_memory_kind kind);      /* held now */
int64_t moire_memory_peak_bytes(moire_memory_kind kind); /* most ever held */
int64_t moire_memory_blocks(void);                       /* blocks not yet given back, all kinds */
int64_t moire_memory_allocations(void); /* calls that allocated since the start; the step adds none */
void moire_memory_reset_peaks(void);
/* Prints one line a kind with something left and returns the number of blocks left; with --enable-debug
 * `moire` exits with 1 when it is not zero. */
int64_t moire_memory_report_leaks(void);

#endif
