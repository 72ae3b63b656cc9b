/* For tests of one process: what a function prints to standard error, and how a child process ends. */
#ifndef MOIRE_TESTS_BASE_CAPTURE_H
#define MOIRE_TESTS_BASE_CAPTURE_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Text that `run` printed to standard error; free() it. */
static inline char *captured(void (*run)(void))
{
    FILE *file = tmpfile();
    if (!file) abort();
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    run();
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    long bytes = lseek(fileno(file), 0, SEEK_END);
    char *text = calloc(1, (size_t)bytes + 1);
    if (!text || pread(fileno(file), text, (size_t)bytes, 0) != bytes) abort();
    fclose(file);
    return text;
}

/* Whether `run` ends a child process by a failure, be it a signal or an exit code. */
static inline int dies(void (*run)(void))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit no_core = { 0, 0 };
        setrlimit(RLIMIT_CORE, &no_core);
        if (!freopen("/dev/null", "w", stderr)) _exit(0);
        signal(SIGABRT, SIG_DFL);
        run();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status != 0;
}

#endif
