/* A program for the shell tests of checkpoints and of the record of routing.
 *   checkpoint_writer write DIRECTORY STEP KEEP [RANKS]   one checkpoint; RANKS is parallel.expert, else all
 *   checkpoint_writer read PATH STEP [RANKS]              reads it on this mesh and compares every bit
 *   checkpoint_writer loop DIRECTORY NOTES                goes on from latest and writes until it is killed;
 * NOTES/pid.RANK and NOTES/done (the last step that a write returned from) checkpoint_writer check DIRECTORY
 * STEP                without MPI: latest is sound and not older than STEP checkpoint_writer record PATH STEP
 * adds a step to a record of routing checkpoint_writer recorded PATH FIRST STEPS           without MPI: it
 * has these steps */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint_fixture.h"
#include "moire/io/routing.h"

enum { KEPT = 2, LAYERS = 2, TOKENS = 50000, TOP_K = 2, EXPERTS = 10 };

static struct fixture fixture;

static moire_status write_step(int64_t step, const char *directory, int64_t keep)
{
    fixture_fill(&fixture, (uint64_t)step);
    return fixture_write(&fixture, step, "[run]\nseed = 1\n", directory, keep);
}

static moire_status read_step(const char *path, int64_t *step)
{
    struct moire_checkpoint_state state;
    MOIRE_TRY(moire_checkpoint_read(&fixture.mesh, &fixture.tensors, fixture.element, fixture.groups,
                                    FIXTURE_GROUPS, path, &state));
    bool equal = fixture_equal(&fixture, (uint64_t)state.step, FIXTURE_GROUPS);
    *step = state.step;
    moire_checkpoint_state_free(&state);
    return equal ? MOIRE_OK : moire_fail(MOIRE_FAILED, "other contents than were written to %s", path);
}

static moire_status read_expected(const char *path, int64_t expected)
{
    int64_t step = -1;
    MOIRE_TRY(read_step(path, &step));
    return step == expected
               ? MOIRE_OK
               : moire_fail(MOIRE_FAILED, "found step %d, expected %d", (int)step, (int)expected);
}

static moire_status note(const char *notes, const char *name, int64_t value)
{
    char path[512], text[32];
    snprintf(path, sizeof path, "%s/%s", notes, name);
    snprintf(text, sizeof text, "%lld\n", (long long)value);
    return moire_file_write(path, text, (int64_t)strlen(text));
}

static moire_status resume(const char *directory, int64_t *step)
{
    char *path = NULL;
    MOIRE_TRY(moire_checkpoint_latest(directory, &path));
    moire_status status = path ? read_step(path, step) : MOIRE_OK;
    moire_release(path);
    return status;
}

static moire_status loop(const char *directory, const char *notes)
{
    int64_t step = 0;
    char name[32];
    snprintf(name, sizeof name, "pid.%d", fixture.mesh.world.rank);
    MOIRE_TRY(resume(directory, &step));
    MOIRE_TRY(note(notes, name, getpid()));
    for (step++;; step++) {
        MOIRE_TRY(write_step(step, directory, KEPT));
        if (fixture.mesh.world.rank == 0) MOIRE_TRY(note(notes, "done", step));
    }
}

static moire_status check(const char *directory, int64_t step)
{
    struct moire_checkpoint_state state = { 0 };
    char *path = NULL;
    MOIRE_TRY(moire_checkpoint_latest(directory, &path));
    if (!path) return step == 0 ? MOIRE_OK : moire_fail(MOIRE_FAILED, "%s has no latest", directory);
    moire_status status = moire_checkpoint_verify(path);
    if (status == MOIRE_OK) status = moire_checkpoint_read_state(path, &state);
    if (status == MOIRE_OK && state.step < step)
        status = moire_fail(MOIRE_FAILED, "latest is too old; found step %d, expected %d or more",
                            (int)state.step, (int)step);
    if (status == MOIRE_OK) printf("%s\n", path);
    moire_checkpoint_state_free(&state);
    moire_release(path);
    return status;
}

static moire_status record(const char *path, int64_t step)
{
    int32_t *ids;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, LAYERS * TOKENS * TOP_K, sizeof *ids, &ids));
    for (int64_t i = 0; i < LAYERS * TOKENS * TOP_K; i++) ids[i] = (int32_t)((i + step) % EXPERTS);
    moire_status status =
        moire_routing_append(&fixture.mesh.world, path, step, LAYERS, TOKENS, TOP_K, EXPERTS, ids);
    moire_release(ids);
    return status;
}

static moire_status recorded(const char *path, int64_t first, int64_t steps)
{
    struct moire_routing_file file;
    MOIRE_TRY(moire_routing_read(path, &file));
    bool good = file.first_step == first && file.steps == steps;
    for (int64_t step = 0; step < file.steps && good; step++)
        good = file.ids[step * LAYERS * file.tokens * TOP_K] == (first + step) % EXPERTS;
    moire_routing_free(&file);
    return good ? MOIRE_OK : moire_fail(MOIRE_FAILED, "%s has other steps", path);
}

static moire_status run(int count, char **arguments)
{
    const char *mode = count > 1 ? arguments[1] : "";
    int ranks_at = strcmp(mode, "write") == 0 ? 5 : 4;
    struct fixture_shape shape = { MOIRE_ALL, 5, 400, MOIRE_FLOAT32, NULL };
    moire_status status = MOIRE_USAGE;
    if (strcmp(mode, "check") == 0 && count == 4) return check(arguments[2], atoll(arguments[3]));
    if (strcmp(mode, "recorded") == 0 && count == 5)
        return recorded(arguments[2], atoll(arguments[3]), atoll(arguments[4]));
    MPI_Init(NULL, NULL);
    MPI_Comm_rank(MPI_COMM_WORLD, &moire_where.rank);
    if (count > ranks_at) shape.parallel_expert = atoll(arguments[ranks_at]);
    fixture_open(shape, &fixture);
    if (strcmp(mode, "write") == 0 && count > 4)
        status = write_step(atoll(arguments[3]), arguments[2], atoll(arguments[4]));
    else if (strcmp(mode, "read") == 0 && count > 3)
        status = read_expected(arguments[2], atoll(arguments[3]));
    else if (strcmp(mode, "loop") == 0 && count > 3)
        status = loop(arguments[2], arguments[3]);
    else if (strcmp(mode, "record") == 0 && count > 3)
        status = record(arguments[2], atoll(arguments[3]));
    if (status != MOIRE_OK) moire_error_print();
    fixture_close(&fixture);
    MPI_Finalize();
    return status;
}

int main(int count, char **arguments)
{
    moire_status status = run(count, arguments);
    moire_error_print();
    return moire_status_exit_code(status);
}
