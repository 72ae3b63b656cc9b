/* Shared by log.c and status.c: the one place that writes to standard error. */
#ifndef MOIRE_BASE_LOG_LINE_H
#define MOIRE_BASE_LOG_LINE_H

enum { MOIRE_LINE_BYTES = 8192 };

/* Wipes a live progress line, then writes `line` and a newline in one piece: lines of ranks do not mix. */
void moire_log_line(const char *line);

#endif
