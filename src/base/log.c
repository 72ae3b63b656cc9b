#include "moire/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/log_line.h"
#include "moire/base/status.h"

static _Atomic(void (*)(void)) before_output;
static atomic_bool quiet;

void moire_log_set_before(void (*before)(void))
{
    atomic_store(&before_output, before);
}

void moire_log_set_quiet(bool value)
{
    atomic_store(&quiet, value);
}

void moire_log_line(const char *line)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    void (*before)(void) = atomic_load(&before_output);
    char text[MOIRE_LINE_BYTES + 1];
    size_t length = strnlen(line, MOIRE_LINE_BYTES);
    memcpy(text, line, length);
    text[length++] = '\n';
    pthread_mutex_lock(&lock);
    if (before) before();
    fflush(stdout); /* where both go to one file, the line stands behind what was printed before it */
    fwrite(text, 1, length, stderr); /* nothing can be done where this fails */
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}

static void print(const char *prefix, const char *format, va_list arguments)
{
    char line[MOIRE_LINE_BYTES];
    int length = snprintf(line, sizeof line, "%s", prefix);
    int added = vsnprintf(line + length, sizeof line - (size_t)length, format, arguments);
    if (added >= 0 && (size_t)added >= sizeof line - (size_t)length) strcpy(line + sizeof line - 4, "...");
    moire_log_line(line);
}

void moire_log(const char *format, ...)
{
    if (moire_where.rank > 0 || atomic_load(&quiet)) return;
    va_list arguments;
    va_start(arguments, format);
    print("moire: ", format, arguments);
    va_end(arguments);
}

void moire_warn(const char *format, ...)
{
    if (moire_where.rank > 0) return;
    va_list arguments;
    va_start(arguments, format);
    print("moire: warning: ", format, arguments);
    va_end(arguments);
}

void moire_log_rank(const char *format, ...)
{
    char prefix[128] = "moire: ";
    if (moire_where.rank >= 0 && moire_where.node[0])
        snprintf(prefix, sizeof prefix, "moire: rank %d (%.63s): ", moire_where.rank, moire_where.node);
    else if (moire_where.rank >= 0)
        snprintf(prefix, sizeof prefix, "moire: rank %d: ", moire_where.rank);
    va_list arguments;
    va_start(arguments, format);
    print(prefix, format, arguments);
    va_end(arguments);
}
