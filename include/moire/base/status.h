/* Status codes, and the one pending error of this process.
 *
 * The function that first knows a cause calls moire_fail(), which records the message and returns the code;
 * callers pass the code on. Nothing is printed there: in a collective region the ranks first agree
 * (cluster/communicator.h, moire_agree), then exactly one of the failing ranks prints. Only train and cli end
 * the process. */
#ifndef MOIRE_BASE_STATUS_H
#define MOIRE_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    MOIRE_OK = 0,
    MOIRE_FAILED,  /* anything without a code of its own */
    MOIRE_USAGE,   /* command line or configuration */
    MOIRE_STOPPED, /* stopped by a signal or by train.stop_after, with a valid checkpoint */
    MOIRE_NO_MEMORY,
    MOIRE_NO_SPACE, /* the disk is full */
    MOIRE_NO_FILE,  /* missing, unreadable or not writable */
    MOIRE_BAD_DATA, /* wrong magic, version, size, checksum or token */
    MOIRE_MPI_ERROR,
    MOIRE_NOT_FINITE, /* a loss or gradient is infinite or not a number */
    MOIRE_STATUS_COUNT
} moire_status;

/* Process exit codes: 0 done, 1 failed, 2 usage or configuration, 75 stopped and may be requeued. */
int moire_status_exit_code(moire_status status);
const char *moire_status_name(moire_status status);

/* Where this process is. Read when a message is formatted: "moire: rank 17 (node3), step 120, layer 4,
 * dispatch: ...". Unknown parts (negative numbers, empty or NULL text) are left out. Set by cluster (rank,
 * node), train (step), model (layer) and observe (phase). */
struct moire_where {
    int rank;
    int64_t step;
    int layer;
    const char *phase;
    char node[64];
};
extern struct moire_where moire_where;

/* Records the first error since the last clear and returns `status`. The text says: cause; found X, expected
 * Y; try Z. It carries no "moire:" prefix and no newline. A second failure before the first was printed is
 * dropped: it is a consequence. Not collective. */
moire_status moire_fail(moire_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The recorded message with its prefix, or "" where none is pending. */
const char *moire_error_text(void);
/* Prints the pending message to standard error, once, and clears it. Does nothing where none is pending. */
void moire_error_print(void);
/* Forgets the message and the agreement on it: the failure was dealt with. */
void moire_error_clear(void);

/* Whether all ranks know of the failure that is on its way up (set by moire_agree). An agreed failure leaves
 * through MPI_Finalize on all ranks; one that is not ends the job with MPI_Abort. */
bool moire_error_is_agreed(void);
void moire_error_set_agreed(bool agreed);

/* Passes a failure on. */
#define MOIRE_TRY(expression)                                                                                \
    do {                                                                                                     \
        moire_status moire_try_status = (expression);                                                        \
        if (moire_try_status != MOIRE_OK) return moire_try_status;                                           \
    } while (0)

/* Assertions are for developers: compiled in with --enable-debug. Checks of user input never use them. */
#ifdef MOIRE_DEBUG
void moire_assert_failed(const char *text, const char *file, int line) __attribute__((noreturn));
#define moire_assert(condition) ((condition) ? (void)0 : moire_assert_failed(#condition, __FILE__, __LINE__))
#else
#define moire_assert(condition) ((void)sizeof(condition))
#endif

#endif
