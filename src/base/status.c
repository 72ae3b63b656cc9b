#include "moire/base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log_line.h"

struct moire_where moire_where = { .rank = -1, .step = -1, .layer = -1 };

/* The pending message lives in `message` while `pending`; the lock guards both. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char message[MOIRE_LINE_BYTES];
static bool pending;
static atomic_bool agreed;

int moire_status_exit_code(moire_status status)
{
    switch (status) {
    case MOIRE_OK: return 0;
    case MOIRE_USAGE: return 2;
    case MOIRE_STOPPED: return 75;
    default: return 1;
    }
}

const char *moire_status_name(moire_status status)
{
    static const char *const names[MOIRE_STATUS_COUNT] = {
        [MOIRE_OK] = "ok", [MOIRE_FAILED] = "failed", [MOIRE_USAGE] = "usage", [MOIRE_STOPPED] = "stopped",
        [MOIRE_NO_MEMORY] = "no memory", [MOIRE_NO_SPACE] = "no space", [MOIRE_NO_FILE] = "no file",
        [MOIRE_BAD_DATA] = "bad data", [MOIRE_MPI_ERROR] = "MPI error", [MOIRE_NOT_FINITE] = "not finite",
    };
    return (int)status >= 0 && status < MOIRE_STATUS_COUNT ? names[status] : "unknown status";
}

/* snprintf at the end of a text that is `used` long; returns the new length, which stays below `bytes`. */
__attribute__((format(printf, 4, 5)))
static size_t append(char *text, size_t bytes, size_t used, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(text + used, bytes - used, format, arguments);
    va_end(arguments);
    if (added < 0) return used;
    return used + (size_t)added < bytes ? used + (size_t)added : bytes - 1;
}

/* "moire: rank 17 (node3), step 120, layer 4, dispatch: ", or "moire: " where nothing is known. */
static size_t write_prefix(char *text, size_t bytes)
{
    const struct moire_where *where = &moire_where;
    size_t start = append(text, bytes, 0, "moire: "), used = start;
    const char *comma = "";
    if (where->rank >= 0) {
        used = append(text, bytes, used, "rank %d", where->rank);
        if (where->node[0]) used = append(text, bytes, used, " (%.63s)", where->node);
        comma = ", ";
    }
    if (where->step >= 0) {
        used = append(text, bytes, used, "%sstep %lld", comma, (long long)where->step);
        comma = ", ";
    }
    if (where->layer >= 0) {
        used = append(text, bytes, used, "%slayer %d", comma, where->layer);
        comma = ", ";
    }
    if (where->phase && where->phase[0]) used = append(text, bytes, used, "%s%.256s", comma, where->phase);
    return used > start ? append(text, bytes, used, ": ") : used;
}

moire_status moire_fail(moire_status status, const char *format, ...)
{
    pthread_mutex_lock(&lock);
    if (!pending) {
        size_t used = write_prefix(message, sizeof message);
        va_list arguments;
        va_start(arguments, format);
        int added = vsnprintf(message + used, sizeof message - used, format, arguments);
        va_end(arguments);
        if (added >= 0 && (size_t)added >= sizeof message - used) strcpy(message + sizeof message - 4, "...");
        pending = true;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

const char *moire_error_text(void)
{
    pthread_mutex_lock(&lock);
    const char *text = pending ? message : "";
    pthread_mutex_unlock(&lock);
    return text;
}

void moire_error_print(void)
{
    char text[MOIRE_LINE_BYTES] = "";
    pthread_mutex_lock(&lock);
    if (pending) memcpy(text, message, sizeof text);
    pending = false;
    pthread_mutex_unlock(&lock);
    if (text[0]) moire_log_line(text);
}

void moire_error_clear(void)
{
    pthread_mutex_lock(&lock);
    pending = false;
    pthread_mutex_unlock(&lock);
    moire_error_set_agreed(false);
}

bool moire_error_is_agreed(void)
{
    return atomic_load(&agreed);
}

void moire_error_set_agreed(bool value)
{
    atomic_store(&agreed, value);
}

#ifdef MOIRE_DEBUG
void moire_assert_failed(const char *text, const char *file, int line)
{
    char where[512], failure[1024];
    where[write_prefix(where, sizeof where)] = 0;
    snprintf(failure, sizeof failure, "%sassertion failed: %s at %s:%d", where, text, file, line);
    moire_log_line(failure);
    abort();
}
#endif
