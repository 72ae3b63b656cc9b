/* moire bench checkpoint: how long a durable checkpoint takes, in turn with `dd conv=fsync` of as many bytes
 * to the same directory.
 *
 * The state is that of a real trainer after one step, written by the code of moire train: layout, collection
 * of shared moments, checksums, data, fsync of file and directory, names. dd is really run, so that its
 * figure can be had again by hand; it syncs its file, but not the directory. Before every sample the file of
 * the one before is removed and its directory synced, which is not timed.
 *
 * All files are in a directory of their own below run.dir and go away at the end, after a failure, and on a
 * signal that ends the job. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/bench.h"
#include "moire/base/file.h"
#include "moire/base/log.h"
#include "moire/io/checkpoint.h"
#include "moire/train/train.h"

enum { CHECKPOINT, DD, VARIANTS };
enum { PATH_BYTES = 4096, BLOCK_BYTES = 1 << 20 };
extern char **environ;

struct writing {
    const struct moire_communicator *world;
    struct moire_trainer *trainer;
    char directory[PATH_BYTES];
    int64_t bytes; /* of a checkpoint; rank 0 */
};

/* ---- what is left behind, and how it goes away; rank 0 ---- */

/* All that may be in the directory: the checkpoint of the first step on its way, and the file of dd. */
static const char dd_name[] = "dd", checkpoint_name[] = "step-00000001.h5";
static const char *const file_names[] = { dd_name,  checkpoint_name,   ".step-00000001.h5.partial",
                                          "latest", ".latest.partial", NULL };
static const int ending_signals[] = { SIGHUP, SIGINT, SIGTERM };
enum { SIGNALS = sizeof ending_signals / sizeof *ending_signals };

/* Of the process, for the signal handler. */
static struct {
    int descriptor; /* of the directory; -1: there is none */
    char directory[PATH_BYTES];
    size_t kept;                 /* length of the part of its path that was there before */
    volatile sig_atomic_t child; /* dd while it runs, or 0 */
    struct sigaction before[SIGNALS];
} left = { .descriptor = -1 };

/* Only what a signal handler may call. Directories that others use meanwhile stay. */
static void remove_all(void)
{
    char path[PATH_BYTES];
    if (left.descriptor < 0) return;
    for (int i = 0; file_names[i]; i++) unlinkat(left.descriptor, file_names[i], 0);
    close(left.descriptor);
    left.descriptor = -1;
    memcpy(path, left.directory, sizeof path);
    for (size_t length = strlen(path); length > left.kept; length--) {
        if (path[length] == '/' || path[length] == 0) {
            path[length] = 0;
            if (rmdir(path) < 0) return;
        }
    }
}

static void on_signal(int number)
{
    const int saved = errno;
    if (left.child) kill((pid_t)left.child, SIGTERM);
    remove_all();
    errno = saved;
    raise(number); /* with the default action: see SA_RESETHAND */
}

static void catch_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = (int)SA_RESETHAND;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < SIGNALS; i++) sigaction(ending_signals[i], &action, &left.before[i]);
}

static void clean_up(const struct writing *writing)
{
    if (writing->world->rank != 0 || left.descriptor < 0) return;
    remove_all();
    for (int i = 0; i < SIGNALS; i++) sigaction(ending_signals[i], &left.before[i], NULL);
    if (moire_file_exists(writing->directory))
        moire_warn("%s could not be removed whole; remove it by hand", writing->directory);
}

/* Length of the longest part of a path that is there. */
static size_t existing_part(const char *path)
{
    char part[PATH_BYTES];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strrchr(part, '/'); slash && slash != part; slash = strrchr(part, '/')) {
        *slash = 0;
        if (moire_file_exists(part)) return strlen(part);
    }
    return path[0] == '/';
}

static moire_status make_directory(const struct writing *writing)
{
    if (writing->world->rank != 0) return MOIRE_OK;
    memcpy(left.directory, writing->directory, sizeof left.directory);
    left.kept = existing_part(left.directory);
    MOIRE_TRY(moire_directory_make(left.directory));
    MOIRE_TRY(moire_file_open(left.directory, O_RDONLY | O_DIRECTORY, &left.descriptor));
    catch_signals();
    return MOIRE_OK;
}

/* ---- what is measured ---- */

static moire_status remove_last(void *state)
{
    const struct writing *writing = state;
    if (writing->world->rank != 0) return MOIRE_OK;
    unlinkat(left.descriptor, dd_name, 0);
    unlinkat(left.descriptor, checkpoint_name, 0);
    return moire_file_sync(left.descriptor, writing->directory);
}

static moire_status write_checkpoint(void *state)
{
    const struct writing *writing = state;
    return moire_trainer_checkpoint(writing->trainer, writing->directory);
}

static moire_status fail_dd(const char *found, int code, const char *target, const char *count)
{
    return moire_fail(MOIRE_FAILED,
                      "dd wrote no file to compare with; found %s %d, expected exit code 0; try by hand: dd "
                      "if=/dev/zero %s bs=1M %s iflag=count_bytes conv=fsync",
                      found, code, target, count);
}

/* Zeros, in blocks of 1 MiB as people choose them. */
static moire_status run_dd(void *state)
{
    const struct writing *writing = state;
    char target[PATH_BYTES + 16], block[32], count[32];
    pid_t child;
    int result;
    if (writing->world->rank != 0) return MOIRE_OK;
    snprintf(target, sizeof target, "of=%s/%s", writing->directory, dd_name);
    snprintf(block, sizeof block, "bs=%d", BLOCK_BYTES);
    snprintf(count, sizeof count, "count=%lld", (long long)writing->bytes);
    char *const arguments[] = { "dd",         "if=/dev/zero", target, block, count, "iflag=count_bytes",
                                "conv=fsync", "status=none",  NULL };
    int error = posix_spawnp(&child, "dd", NULL, NULL, arguments, environ);
    if (error) return fail_dd("error", error, target, count);
    left.child = child;
    pid_t ended;
    do ended = waitpid(child, &result, 0);
    while (ended < 0 && errno == EINTR);
    left.child = 0;
    if (ended < 0) return fail_dd("error", errno, target, count);
    if (WIFEXITED(result) && WEXITSTATUS(result) == 0) return MOIRE_OK;
    return WIFEXITED(result) ? fail_dd("exit code", WEXITSTATUS(result), target, count)
                             : fail_dd("signal", WTERMSIG(result), target, count);
}

/* ---- set-up ---- */

/* The same path on all ranks, of a directory that no other job has. */
static moire_status name_directory(const struct moire_bench_run *run, struct writing *writing)
{
    int64_t process = (int64_t)getpid();
    MOIRE_TRY(moire_broadcast(writing->world, &process, sizeof process, 0));
    int length = snprintf(writing->directory, sizeof writing->directory, "%s/bench-checkpoint.%lld",
                          run->config->run_dir, (long long)process);
    if (length < PATH_BYTES) return MOIRE_OK;
    return moire_cli_agree(
        moire_fail(MOIRE_USAGE, "run.dir is too long; found %d bytes, expected less than %d; try another",
                   length, PATH_BYTES));
}

/* One checkpoint before anything is timed: its bytes, and that it can be read. */
static moire_status check_file(struct writing *writing)
{
    char path[PATH_BYTES + 32];
    if (writing->world->rank != 0) return MOIRE_OK;
    snprintf(path, sizeof path, "%s/%s", writing->directory, checkpoint_name);
    MOIRE_TRY(moire_file_bytes(path, &writing->bytes));
    return moire_checkpoint_verify(path);
}

/* After a step, for moments that are not zero. */
static moire_status prepare(struct writing *writing)
{
    double loss, bytes[MOIRE_LEVELS];
    MOIRE_TRY(moire_trainer_step(writing->trainer, &loss, bytes));
    MOIRE_TRY(moire_agree(writing->world, make_directory(writing)));
    MOIRE_TRY(write_checkpoint(writing));
    return moire_agree(writing->world, check_file(writing));
}

/* ---- the measurement ---- */

static moire_status start(struct moire_bench_run *run, const struct writing *writing)
{
    static const struct moire_bench_column columns[] = {
        { "what", 10, MOIRE_BENCH_WORDS },
        { "bytes", 11, 0 },
        { "seconds", 8, 4 },
        { "+-%", 5, 1 },
        { "MB/s", 7, 1 },
        { "share", 6, 3 },
        { "low", 6, 3 },
        { "high", 6, 3 },
        { "conv", 4, MOIRE_BENCH_WORDS },
    };
    MOIRE_TRY(moire_bench_header(run->report, "checkpoint",
                                 "of %s, as moire train writes it: data, checksums, fsync of file and "
                                 "directory; verified once",
                                 run->has_file ? "the configuration's model" : "the default model"));
    MOIRE_TRY(moire_bench_header(run->report, "dd",
                                 "dd if=/dev/zero of=%s/dd bs=1M count=%lld iflag=count_bytes conv=fsync",
                                 writing->directory, (long long)writing->bytes));
    MOIRE_TRY(moire_bench_header(run->report, "share",
                                 "rate over that of dd, each beside the dd of its round, with its 95 %% "
                                 "interval; +-%%: half the 95 %% interval of the seconds; before each sample "
                                 "the last file is removed, not timed; MB: 10^6 bytes"));
    return moire_bench_table(run->report, "result", columns, sizeof columns / sizeof *columns);
}

static moire_status report_variant(struct moire_bench_run *run, const struct writing *writing,
                                   const struct moire_measure *measure, int index)
{
    const struct moire_variant *found = &measure->variants[index];
    const struct moire_interval share = moire_measure_ratio(measure, DD, index);
    const struct moire_bench_cell cells[] = {
        { .words = found->name },
        { .number = (double)writing->bytes },
        { .number = found->median.middle },
        { .number = (found->median.high - found->median.low) / 2 / found->median.middle * 100 },
        { .number = (double)writing->bytes / found->median.middle / 1e6 },
        { .number = share.middle },
        { .number = share.low },
        { .number = share.high },
        { .words = found->converged ? "yes" : "no" },
    };
    return moire_bench_row(run->report, cells);
}

static moire_status report(struct moire_bench_run *run, const struct writing *writing,
                           const struct moire_measure *measure)
{
    MOIRE_TRY(start(run, writing));
    for (int i = 0; i < VARIANTS; i++) MOIRE_TRY(report_variant(run, writing, measure, i));
    return moire_bench_describe(run, "checkpoint", measure);
}

static moire_status measure_writing(struct moire_bench_run *run, struct writing *writing)
{
    struct moire_variant variants[VARIANTS] = {
        [CHECKPOINT] = { .name = "checkpoint", .run = write_checkpoint },
        [DD] = { .name = "dd", .run = run_dd },
    };
    struct moire_measure measure = { 0 };
    for (int i = 0; i < VARIANTS; i++) {
        variants[i].before = remove_last;
        variants[i].state = writing;
    }
    moire_status status = moire_bench_measure(run, variants, VARIANTS, 0, &measure);
    if (status == MOIRE_OK) status = moire_agree(writing->world, report(run, writing, &measure));
    moire_measure_free(&measure);
    return status;
}

static moire_status run_checkpoint(struct moire_bench_run *run)
{
    struct moire_config config = { 0 };
    struct writing writing = { .world = &run->mesh.world };
    moire_status status = moire_agree(writing.world, moire_bench_training_config(run->config, &config));
    if (status == MOIRE_OK) status = name_directory(run, &writing);
    if (status == MOIRE_OK) status = moire_trainer_create(&config, &writing.trainer);
    if (status == MOIRE_OK) status = prepare(&writing);
    if (status == MOIRE_OK) status = measure_writing(run, &writing);
    clean_up(&writing);
    if (status == MOIRE_OK || moire_error_is_agreed()) moire_trainer_free(writing.trainer);
    moire_config_free(&config);
    return status;
}

const struct moire_bench moire_bench_checkpoint = {
    .part = { .name = "checkpoint",
              .arguments = "[FILE.ini] [--section.key=value ...]",
              .details = "checkpoint measures how long a checkpoint of the model takes until it is safe on\n"
                         "disk, in turn with dd conv=fsync of as many bytes to the same place: a directory\n"
                         "below run.dir, which is removed again.\n"
                         "\n"
                         "  mpirun -n 2 moire bench checkpoint benchmarks/moe-reference.ini" },
    .file_optional = true,
    .run = run_checkpoint,
};
