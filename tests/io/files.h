/* For tests of one process on files: an empty folder to work in, files with known contents, what is printed,
 * and a configuration for token sources. */
#ifndef MOIRE_TESTS_IO_FILES_H
#define MOIRE_TESTS_IO_FILES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../support/capture.h"
#include "moire/base/config.h"

/* Makes an empty folder and works in it; remove_scratch goes back and removes it. */
static inline void enter_scratch(char *name)
{
    if (!mkdtemp(name) || chdir(name) != 0) abort();
}

static inline void remove_scratch(const char *name)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", name);
    if (chdir("/") != 0 || system(command) != 0) abort();
}

static inline void put_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) abort();
}

static inline void put_text(const char *path, const char *text)
{
    put_file(path, text, strlen(text));
}

/* What `run` prints to `stream` (stdout or stderr); free() it. */
static inline char *printed(FILE *stream, void (*run)(void *), void *argument)
{
    return captured(fileno(stream), run, argument);
}

/* Columns of the longest line. */
static inline size_t longest_line(const char *text)
{
    size_t longest = 0;
    while (*text) {
        size_t columns = strcspn(text, "\n");
        if (columns > longest) longest = columns;
        text += columns + (text[columns] == '\n');
    }
    return longest;
}

static inline struct moire_config data_config(const char *source, const char *path, int64_t sequence)
{
    return (struct moire_config){
        .data_source = (char *)(uintptr_t)source, .data_path = (char *)(uintptr_t)path,
        .data_domain = MOIRE_DOMAIN_FILE, .data_synthetic_sequences = 1000,
        .model_sequence = sequence, .model_vocabulary = 256, .run_seed = 1,
    };
}

#endif
