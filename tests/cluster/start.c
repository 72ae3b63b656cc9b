/* Starting and ending MPI: this program runs itself, alone or under mpirun, with one of the jobs below. */
#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "moire/cluster/communicator.h"

static const char *program;

/* The jobs. */
static int report(bool multiple)
{
    if (moire_mpi_is_running()) return 90;
    moire_status status = moire_mpi_start(multiple);
    int provided = -1, size = 0;
    if (moire_mpi_is_running()) {
        MPI_Query_thread(&provided);
        MPI_Comm_size(MPI_COMM_WORLD, &size);
    }
    printf("status=%s agreed=%d rank=%d size=%d node=%d threads=%d text=[%s]\n", moire_status_name(status),
           moire_error_is_agreed(), moire_where.rank, size,
           moire_where.node[0] && !strchr(moire_where.node, '.'),
           multiple ? provided == MPI_THREAD_MULTIPLE : provided >= MPI_THREAD_FUNNELED, moire_error_text());
    fflush(stdout);
    moire_mpi_stop();
    moire_mpi_stop();
    return moire_mpi_is_running() ? 91 : moire_status_exit_code(status);
}

static int run_job(const char *job)
{
    if (strcmp(job, "start") == 0) return report(false);
    if (strcmp(job, "multiple") == 0) return report(true);
    if (strcmp(job, "abort without MPI") == 0) moire_mpi_abort(7);
    if (moire_mpi_start(false) != MOIRE_OK) return 92;
    if (moire_where.rank == 1) moire_mpi_abort(9);
    MPI_Barrier(MPI_COMM_WORLD);
    sleep(600); /* ended by rank 1 */
    return 93;
}

/* Output and exit code of "env ENVIRONMENT LAUNCHER program JOB". Variables of the launcher that this test
 * itself may run under are taken out first; memory that MPI leaves at its end is not looked for. */
static int run(const char *environment, const char *launcher, const char *job, char *output, size_t bytes)
{
    char command[4096];
    snprintf(
        command, sizeof command,
        "env -u OMPI_COMM_WORLD_SIZE -u MV2_COMM_WORLD_SIZE -u PMI_SIZE -u PALS_NRANKS "
        "-u SLURM_STEP_NUM_TASKS -u SLURM_STEP_ID ASAN_OPTIONS=detect_leaks=0 %s %s '%s' '%s' 2>/dev/null",
        environment, launcher, program, job);
    FILE *pipe = popen(command, "r");
    if (!pipe) return -1;
    size_t read = fread(output, 1, bytes - 1, pipe);
    output[read] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect_start(const char *environment, int code, const char *text)
{
    char output[4096];
    int found = run(environment, "", "start", output, sizeof output);
    if (found != code || !strstr(output, text)) {
        fprintf(stderr, "# with %s: exit code %d, output %s", environment, found, output);
        expect(!"the expected exit code and text");
    }
}

static void a_process_alone_starts(void)
{
    expect_start("", 0, "status=ok agreed=0 rank=0 size=1 node=1 threads=1 text=[]");
}

static void many_single_rank_jobs_are_found(void)
{
    expect_start("OMPI_COMM_WORLD_SIZE=4", 2,
                 "started as 4 separate single-rank jobs; found a world of 1 rank, "
                 "expected 4 as OMPI_COMM_WORLD_SIZE says; start with the mpirun");
    expect_start("PMI_SIZE=3 PMI_RANK=0", 2, "expected 3 as PMI_SIZE says");
    expect_start("PALS_NRANKS=5", 2, "expected 5 as PALS_NRANKS says");
    expect_start("MV2_COMM_WORLD_SIZE=2", 2, "expected 2 as MV2_COMM_WORLD_SIZE says");
    expect_start("SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=0", 2,
                 "expected 8 as SLURM_STEP_NUM_TASKS says");
    expect_start("OMPI_COMM_WORLD_SIZE=4", 2, "status=usage agreed=1");
}

static void only_the_first_of_them_speaks(void)
{
    expect_start("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=2", 2,
                 "status=usage agreed=1 rank=0 size=1 node=1 threads=1 text=[]");
    expect_start("SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=3", 2, "text=[]");
}

static void lawful_single_ranks_start(void)
{
    expect_start("OMPI_COMM_WORLD_SIZE=1", 0, "status=ok");
    expect_start("SLURM_JOB_ID=1 SLURM_NTASKS=8 SLURM_PROCID=0", 0, "status=ok"); /* a batch script */
    expect_start("SLURM_STEP_NUM_TASKS=8", 0, "status=ok"); /* left over: not in a step */
    expect_start("SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1", 0, "status=ok");
    /* mpirun in a step */
    expect_start("OMPI_COMM_WORLD_SIZE=1 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2", 0, "status=ok");
    expect_start("OMPI_COMM_WORLD_SIZE=many PMI_SIZE=", 0, "status=ok");
}

static const char *launcher(void)
{
    static char text[512];
    const char *mpirun = getenv("MPIRUN");
    snprintf(text, sizeof text, "%s -n 3", mpirun ? mpirun : "mpirun");
    return text;
}

static void ranks_start_together(void)
{
    char output[4096];
    expect(run("", launcher(), "start", output, sizeof output) == 0);
    for (int rank = 0; rank < 3; rank++) {
        char line[128];
        snprintf(line, sizeof line, "status=ok agreed=0 rank=%d size=3 node=1 threads=1 text=[]", rank);
        expect(strstr(output, line) != NULL);
    }
    expect(run("", launcher(), "multiple", output, sizeof output) == 0);
    expect(strstr(output, "rank=2 size=3 node=1 threads=1") != NULL);
}

static void an_abort_ends_every_rank(void)
{
    char output[4096];
    expect(run("", launcher(), "abort", output, sizeof output) == 9);
    expect(run("", "", "abort without MPI", output, sizeof output) == 7);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "a process alone starts", a_process_alone_starts },
        { "many single-rank jobs are found", many_single_rank_jobs_are_found },
        { "only the first of them speaks", only_the_first_of_them_speaks },
        { "lawful single ranks start", lawful_single_ranks_start },
        { "ranks start together", ranks_start_together },
        { "an abort ends every rank", an_abort_ends_every_rank },
    };
    if (argc > 1) return run_job(argv[1]);
    program = argv[0];
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
