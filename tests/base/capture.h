/* For tests of one process: what a function prints to standard error, and how a child process ends. */
#ifndef MOIRE_TESTS_BASE_CAPTURE_H
#define MOIRE_TESTS_BASE_CAPTURE_H

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "../support/capture.h"

static inline void call_capture(void *run)
{
    (*(void (**)(void))run)();
}

/* Text that `run` printed to standard error; free() it. */
static inline char *captured_errors(void (*run)(void))
{
    return captured(STDERR_FILENO, call_capture, &run);
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
