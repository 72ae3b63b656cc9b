/* Failures of memory that the ranks of a node read from each other. */
#include <sys/resource.h>

#include "../support/capture.h"
#include "window.h"

static struct rlimit lower(int which, rlim_t most)
{
    struct rlimit before, low;
    getrlimit(which, &before);
    low = (struct rlimit){ .rlim_cur = most, .rlim_max = before.rlim_max };
    setrlimit(which, &low);
    return before;
}

static rlim_t no_more_files(void)
{
    int next = dup(STDERR_FILENO);
    close(next);
    return (rlim_t)next;
}

/* Agrees; all ranks must leave alike, with one message that has `text`. */
static void expect_agreed_failure(moire_status local, const char *text)
{
    static struct capture capture;
    capture_begin(&capture, STDERR_FILENO);
    moire_status status = moire_agree(&world, local);
    moire_error_clear();
    capture_end(&capture);
    int found[2] = { count_text(capture.text, "moire: "), count_text(capture.text, text) }, all[2];
    MPI_Allreduce(found, all, 2, MPI_INT, MPI_SUM, world.mpi);
    expect(status == MOIRE_NO_MEMORY && all[0] == 1 && all[1] == 1);
}

/* The last rank cannot grow: it says so, keeps what it had, and goes on when it can again. */
static void check_failing_growth(void)
{
    bool last = test_rank == test_ranks - 1;
    struct rlimit before = { 0 };
    create_blocks();
    expect_ok(moire_node_block_grow(memory, blocks[0], 20000));
    fill(blocks[0], 1);
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    MPI_Barrier(world.mpi);
    if (last) before = lower(RLIMIT_FSIZE, 500000);
    moire_status status = moire_node_block_grow(memory, blocks[0], 1000000);
    if (last) setrlimit(RLIMIT_FSIZE, &before);
    expect_agreed_failure(status, "found a limit of 500000 bytes");
    expect_agreed_failure(moire_node_block_grow(memory, blocks[1], last ? INT64_C(1) << 50 : 1000),
                          "out of memory for exchange; found");
    if (last) before = lower(RLIMIT_NOFILE, no_more_files());
    status = moire_node_block_grow(memory, blocks[2], 1000);
    if (last) setrlimit(RLIMIT_NOFILE, &before);
    expect_agreed_failure(status, "ulimit -n");
    expect(holds(memory->self, 0, 1, 20000));
    int last_peer = memory->peer_of[test_ranks - 1];
    if (last_peer >= 0) expect(holds(last_peer, 0, 1, 20000));
    MPI_Barrier(world.mpi);
    for (int b = 0; b < BLOCKS; b++) {
        expect_ok(moire_node_block_grow(memory, blocks[b], 1000000));
        fill(blocks[b], 2);
    }
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    for (int peer = 0; peer < memory->size; peer++)
        for (int b = 0; b < BLOCKS; b++) expect(holds(peer, b, 2, 1000000));
    MPI_Barrier(world.mpi);
    free_blocks();
}

void test_failing_growth(void)
{
    on_all_nodes(check_failing_growth);
}

/* A refresh that fails can be called again. */
static void check_failing_refresh(void)
{
    create_blocks();
    expect_ok(moire_node_block_grow(memory, blocks[2], 20000));
    fill(blocks[2], 1);
    MPI_Barrier(world.mpi);
    struct rlimit before = lower(RLIMIT_NOFILE, no_more_files());
    moire_status status = moire_node_memory_refresh(memory);
    setrlimit(RLIMIT_NOFILE, &before);
    if (memory->size > 1)
        expect_failure(status, MOIRE_NO_MEMORY, "cannot map another rank's memory");
    else
        expect_ok(status);
    expect_ok(moire_node_memory_refresh(memory));
    for (int peer = 0; peer < memory->size; peer++) expect(holds(peer, 2, 1, 20000));
    MPI_Barrier(world.mpi);
    free_blocks();
}

void test_failing_refresh(void)
{
    on_all_nodes(check_failing_refresh);
}

static void check_failing_create(int which, rlim_t most, const char *text)
{
    static struct capture capture;
    struct moire_node_memory *none = NULL;
    struct rlimit before = { 0 };
    bool limited = test_rank == test_ranks / 2;
    int files = open_files();
    capture_begin(&capture, STDERR_FILENO);
    /* Of files: beyond those that are open now. */
    if (limited) before = lower(which, most + (which == RLIMIT_NOFILE ? no_more_files() : 0));
    moire_status status = moire_node_memory_create(&world, node_of, FLAGS, &none);
    if (limited) setrlimit(which, &before);
    bool agreed = moire_error_is_agreed();
    moire_error_clear();
    capture_end(&capture);
    expect(status == MOIRE_NO_MEMORY && agreed && !none);
    expect(count_text(capture.text, text) == limited);
    expect(open_files() == files);
}

void test_failing_create(void)
{
    expect_ok(moire_communicator_world(&world));
    for (int rank = 0; rank < test_ranks; rank++) node_of[rank] = pairs(rank);
    check_failing_create(RLIMIT_FSIZE, 1000, "ulimit -f");
    check_failing_create(RLIMIT_NOFILE, 0, "ulimit -n");
    if (test_ranks > 1) check_failing_create(RLIMIT_NOFILE, 1, "cannot map another rank's memory");
    struct moire_node_memory *none = NULL;
    expect(moire_node_memory_create(&world, node_of, -1, &none) == MOIRE_FAILED && !none);
    moire_error_clear();
    moire_node_memory_free(NULL);
    moire_communicator_free(&world);
}
