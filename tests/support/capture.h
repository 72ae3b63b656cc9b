/* What a piece of a test writes to a descriptor, as text. */
#ifndef MOIRE_TESTS_CAPTURE_H
#define MOIRE_TESTS_CAPTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct capture {
    int descriptor; /* 1 or 2 */
    int saved;
    FILE *file;
    char text[32768];
};

static inline void capture_begin(struct capture *capture, int descriptor)
{
    fflush(NULL);
    capture->descriptor = descriptor;
    capture->saved = dup(descriptor);
    capture->file = tmpfile();
    if (!capture->file || capture->saved < 0 || dup2(fileno(capture->file), descriptor) < 0) abort();
}

/* Afterwards capture->text has what was written, cut to its size. */
static inline void capture_end(struct capture *capture)
{
    fflush(NULL);
    rewind(capture->file);
    size_t bytes = fread(capture->text, 1, sizeof capture->text - 1, capture->file);
    capture->text[bytes] = '\0';
    if (dup2(capture->saved, capture->descriptor) < 0) abort();
    close(capture->saved);
    fclose(capture->file);
}

/* What `run` writes to the descriptor; free() it. */
static inline char *captured(int descriptor, void (*run)(void *), void *argument)
{
    struct capture capture;
    capture_begin(&capture, descriptor);
    run(argument);
    capture_end(&capture);
    char *text = strdup(capture.text);
    if (!text) abort();
    return text;
}

/* How often `part` is in `text`. */
static inline int count_text(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part)) count++;
    return count;
}

#endif
