/* Log lines, to standard error. Results that a command was asked for go to standard output instead.
 * Never called inside the step. Not collective. */
#ifndef MOIRE_BASE_LOG_H
#define MOIRE_BASE_LOG_H

#include <stdbool.h>

/* "moire: text", printed on the root only (rank 0, or a process without MPI). */
void moire_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "moire: warning: text", on the root only. */
void moire_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "moire: rank 3 (node1): text", on every rank that calls it. */
void moire_log_rank(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Called before any other output while a live progress line stands on the terminal, so that it is wiped
 * first; observe/progress.c registers it. NULL removes it. */
void moire_log_set_before(void (*before)(void));
/* Quiet turns moire_log off; warnings and errors stay. */
void moire_log_set_quiet(bool quiet);

#endif
