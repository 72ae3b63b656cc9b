/* Start and end of MPI. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "moire/cluster/communicator.h"

static bool started_here;

bool moire_mpi_is_running(void)
{
    int initialised = 0, finalised = 0;
    MPI_Initialized(&initialised);
    MPI_Finalized(&finalised);
    return initialised && !finalised;
}

static void set_where(void)
{
    char name[MPI_MAX_PROCESSOR_NAME + 1] = "";
    int length = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &moire_where.rank);
    if (MPI_Get_processor_name(name, &length) != MPI_SUCCESS) return;
    if (!isdigit((unsigned char)name[0])) name[strcspn(name, ".")] = '\0'; /* an address stays whole */
    snprintf(moire_where.node, sizeof moire_where.node, "%.*s", (int)sizeof moire_where.node - 1, name);
}

/* What launchers tell their processes. The first that is set counts: an mpirun inside a Slurm step leaves the
 * variables of the step in place. */
static const struct launcher {
    const char *size, *rank;
    const char *needs; /* counts only where this is set too, or NULL */
} launchers[] = {
    { "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", NULL },
    { "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", NULL },
    { "PMI_SIZE", "PMI_RANK", NULL },
    { "PALS_NRANKS", "PALS_RANKID", NULL },
    /* A batch script has the job's SLURM_NTASKS but is one process of its own: only a step counts. */
    { "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID" },
};

static long number_in(const char *variable, long otherwise)
{
    const char *text = getenv(variable);
    char *end;
    if (!text || !*text) return otherwise;
    long number = strtol(text, &end, 10);
    return *end ? otherwise : number;
}

static bool is_set(const struct launcher *launcher)
{
    return number_in(launcher->size, 0) >= 1 && (!launcher->needs || getenv(launcher->needs));
}

bool moire_mpi_is_launched(void)
{
    for (size_t i = 0; i < sizeof launchers / sizeof launchers[0]; i++)
        if (is_set(&launchers[i])) return number_in(launchers[i].size, 0) > 1;
    return false;
}

/* N ranks that each became a world of their own all pass here; the first of them carries the message. */
static moire_status check_singletons(void)
{
    int size;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size > 1) return MOIRE_OK;
    for (size_t i = 0; i < sizeof launchers / sizeof launchers[0]; i++) {
        const struct launcher *launcher = &launchers[i];
        if (!is_set(launcher)) continue;
        long told = number_in(launcher->size, 0);
        if (told == 1) return MOIRE_OK;
        moire_error_set_agreed(true);
        if (number_in(launcher->rank, 0) > 0) return MOIRE_USAGE;
        return moire_fail(MOIRE_USAGE,
                          "started as %ld separate single-rank jobs; found a world of 1 rank, expected %ld "
                          "as %s says; start with the mpirun of the MPI that moire is linked with, or with "
                          "srun --mpi=pmix", told, told, launcher->size);
    }
    return MOIRE_OK;
}

static const char *thread_level_name(int level)
{
    if (level == MPI_THREAD_SINGLE) return "MPI_THREAD_SINGLE";
    if (level == MPI_THREAD_FUNNELED) return "MPI_THREAD_FUNNELED";
    return level == MPI_THREAD_SERIALIZED ? "MPI_THREAD_SERIALIZED" : "MPI_THREAD_MULTIPLE";
}

moire_status moire_mpi_start(bool multiple)
{
    int wanted = multiple ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED, provided = wanted;
    if (moire_mpi_is_running()) {
        MPI_Query_thread(&provided);
    } else {
        int result = MPI_Init_thread(NULL, NULL, wanted, &provided);
        if (result != MPI_SUCCESS)
            return moire_fail(MOIRE_MPI_ERROR,
                              "MPI_Init_thread failed with code %d; start with the mpirun of the MPI that "
                              "moire is linked with", result);
        started_here = true;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    set_where();
    if (provided < wanted) {
        moire_error_set_agreed(true);
        if (moire_where.rank > 0) return MOIRE_MPI_ERROR; /* rank 0 carries the message */
        return moire_fail(MOIRE_MPI_ERROR,
                          "MPI supports too few threads; found %s, expected %s; use an MPI that was built "
                          "with thread support", thread_level_name(provided), thread_level_name(wanted));
    }
    return check_singletons();
}

void moire_mpi_stop(void)
{
    if (started_here && moire_mpi_is_running()) MPI_Finalize();
    started_here = false;
}

void moire_mpi_abort(int exit_code)
{
    fflush(stdout);
    fflush(stderr);
    if (moire_mpi_is_running()) MPI_Abort(MPI_COMM_WORLD, exit_code);
    _exit(exit_code);
}
