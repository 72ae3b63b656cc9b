/* Memory that the ranks of a node read from each other, on pretended nodes of several sizes. */
#include <dirent.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/seccomp.h>

#include "window.h"

struct moire_communicator world;
int node_of[MOST_RANKS];
struct moire_node_memory *memory;

/* ---- nodes ---- */

static int one_node(int rank)
{
    (void)rank;
    return 0;
}

static int node_each(int rank)
{
    return rank;
}

int pairs(int rank)
{
    return rank / 2;
}

static int uneven_and_mixed(int rank)
{
    return rank % 3 == 1;
}

static int (*const nodes[])(int rank) = { one_node, node_each, pairs, uneven_and_mixed };
enum { NODE_MAPS = sizeof nodes / sizeof *nodes };

int open_files(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
    return count;
}

/* Of blocks and control blocks, own ones and peers'. */
static int mappings(void)
{
    char line[512];
    int count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    while (file && fgets(line, sizeof line, file)) count += strstr(line, "/memfd:moire") != NULL;
    if (file) fclose(file);
    return count;
}

static void create(int (*node)(int rank))
{
    for (int rank = 0; rank < test_ranks; rank++) node_of[rank] = node(rank);
    expect_ok(moire_node_memory_create(&world, node_of, FLAGS, &memory));
}

/* Runs a test on each map of nodes; no open file may be left. */
void on_all_nodes(void (*test)(void))
{
    expect_ok(moire_communicator_world(&world));
    int files = open_files();
    for (int i = 0; i < NODE_MAPS; i++) {
        int64_t bytes = moire_memory_bytes(EXCHANGE);
        create(nodes[i]);
        test();
        moire_node_memory_free(memory);
        expect(moire_memory_bytes(EXCHANGE) == bytes);
    }
    expect(open_files() == files && mappings() == 0);
    moire_communicator_free(&world);
}

/* ---- contents ---- */

static uint64_t value(int rank, int id, int64_t version, int64_t index)
{
    return (((uint64_t)rank * 31 + (uint64_t)id) * 1009 + (uint64_t)version) * UINT64_C(0x9e3779b97f4a7c15) +
           (uint64_t)index;
}

void fill(const struct moire_node_block *block, int64_t version)
{
    uint64_t *data = block->pages.data;
    for (int64_t i = 0; i < block->pages.bytes / 8; i++) data[i] = value(test_rank, block->id, version, i);
}

bool holds(int peer, int id, int64_t version, int64_t bytes)
{
    const uint64_t *data = moire_node_memory_peer(memory, peer, id);
    int rank = memory->peers[peer].rank;
    int64_t wrong = 0;
    if (!data) return bytes == 0;
    for (int64_t i = 0; i < bytes / 8; i++) wrong += data[i] != value(rank, id, version, i);
    return bytes > 0 && wrong == 0;
}

/* Sizes of one rank's block: some ranks have none, some change and some do not. The same on all ranks. */
static int64_t bytes_of(int rank, int block, int64_t version)
{
    int64_t step = (rank * 7 + block * 3 + version * 5) % 4;
    return step == 0 ? 0 : (rank + 1) * 1000 * version * version * step;
}

struct moire_node_block *blocks[BLOCKS];
static const moire_memory_kind kinds[BLOCKS] = { MOIRE_MEMORY_ACTIVATIONS, MOIRE_MEMORY_EXCHANGE,
                                                 MOIRE_MEMORY_OTHER };

void create_blocks(void)
{
    for (int b = 0; b < BLOCKS; b++) {
        expect_ok(moire_node_block_create(memory, kinds[b], &blocks[b]));
        expect(blocks[b]->id == b && blocks[b]->pages.bytes == 0 && !blocks[b]->pages.data);
    }
}

void free_blocks(void)
{
    for (int b = 0; b < BLOCKS; b++) moire_node_block_free(memory, blocks[b]);
}

/* What the owner has now, by the same rules; most[rank][block]. */
static void grow_blocks(int64_t version, int64_t most[MOST_RANKS][BLOCKS])
{
    for (int rank = 0; rank < test_ranks; rank++)
        for (int b = 0; b < BLOCKS; b++) {
            int64_t bytes = bytes_of(rank, b, version), now = most[rank][b];
            if (bytes > now)
                most[rank][b] = moire_pages_bytes(bytes > now + now / 32 ? bytes : now + now / 32);
        }
    for (int b = 0; b < BLOCKS; b++) {
        expect_ok(moire_node_block_grow(memory, blocks[b], bytes_of(test_rank, b, version)));
        expect(blocks[b]->pages.bytes == most[test_rank][b]);
        fill(blocks[b], version);
    }
}

static void check_growth(void)
{
    int64_t most[MOST_RANKS][BLOCKS] = { 0 };
    create_blocks();
    for (int64_t version = 1; version <= 8; version++) {
        grow_blocks(version, most);
        MPI_Barrier(world.mpi);
        expect_ok(moire_node_memory_refresh(memory));
        for (int peer = 0; peer < memory->size; peer++)
            for (int b = 0; b < BLOCKS; b++)
                expect(holds(peer, b, version, most[memory->peers[peer].rank][b]));
        expect(!moire_node_memory_peer(memory, 0, BLOCKS));
        MPI_Barrier(world.mpi);
    }
    for (int b = 0; b < BLOCKS; b++)
        expect(moire_node_memory_peer(memory, memory->self, b) == blocks[b]->pages.data);
    free_blocks();
}

static void test_growth(void)
{
    on_all_nodes(check_growth);
}

static void check_peers(void)
{
    int size = 0;
    for (int rank = 0; rank < test_ranks; rank++) {
        bool here = node_of[rank] == node_of[test_rank];
        if (here) expect(memory->peers[size].rank == rank);
        if (rank == test_rank) expect(memory->self == size);
        expect(memory->peer_of[rank] == (here ? size : -1));
        size += here;
    }
    expect(memory->size == size);
}

static void test_peers(void)
{
    on_all_nodes(check_peers);
}

static void check_counts(void)
{
    int64_t before[MOIRE_MEMORY_KINDS], own = moire_memory_bytes(EXCHANGE);
    for (int kind = 0; kind < MOIRE_MEMORY_KINDS; kind++)
        before[kind] = moire_memory_bytes((moire_memory_kind)kind);
    expect(moire_node_memory_bytes(test_ranks, memory->size, FLAGS, 0) <= own);
    create_blocks();
    for (int b = 0; b < BLOCKS; b++) expect_ok(moire_node_block_grow(memory, blocks[b], 100000 * (b + 1)));
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    int64_t tables = moire_node_memory_bytes(test_ranks, memory->size, FLAGS, BLOCKS) -
                     moire_node_memory_bytes(test_ranks, memory->size, FLAGS, 0);
    for (int b = 0; b < BLOCKS; b++) {
        moire_memory_kind kind = kinds[b];
        int64_t grown = moire_memory_bytes(kind) - before[kind];
        expect(grown == moire_pages_bytes(100000 * (b + 1)) + (kind == EXCHANGE ? tables : 0));
    }
    MPI_Barrier(world.mpi);
    int64_t bytes = blocks[2]->pages.bytes; /* a little more is a 32nd more */
    expect_ok(moire_node_block_grow(memory, blocks[2], bytes + 1));
    expect(blocks[2]->pages.bytes == moire_pages_bytes(bytes + bytes / 32) && bytes / 32 > 4096);
    free_blocks();
}

static void test_counts(void)
{
    int64_t own = moire_memory_bytes(EXCHANGE);
    on_all_nodes(check_counts);
    expect_ok(moire_communicator_world(&world));
    create(pairs);
    expect(moire_memory_bytes(EXCHANGE) - own == moire_node_memory_bytes(test_ranks, memory->size, FLAGS, 0));
    moire_node_memory_free(memory);
    moire_communicator_free(&world);
}

/* ---- freed blocks ---- */

static void check_reuse(void)
{
    create_blocks();
    for (int b = 0; b < BLOCKS; b++) {
        expect_ok(moire_node_block_grow(memory, blocks[b], 20000));
        fill(blocks[b], 1);
    }
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    MPI_Barrier(world.mpi);
    moire_node_block_free(memory, blocks[1]);
    expect(!moire_node_memory_peer(memory, memory->self, 1));
    MPI_Barrier(world.mpi);
    for (int peer = 0; peer < memory->size; peer++) /* until the refresh it is there as it was */
        if (peer != memory->self) expect(holds(peer, 1, 1, 20000));
    expect_ok(moire_node_memory_refresh(memory));
    expect(mappings() == memory->size * (1 + BLOCKS - 1));
    for (int peer = 0; peer < memory->size; peer++) {
        expect(!moire_node_memory_peer(memory, peer, 1));
        expect(holds(peer, 0, 1, 20000) && holds(peer, 2, 1, 20000));
    }
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_block_create(memory, kinds[1], &blocks[1]));
    expect(blocks[1]->id == 1);
    /* One of the same size and likely the same descriptor; and one that went and came between refreshes. */
    moire_node_block_free(memory, blocks[2]);
    expect_ok(moire_node_block_create(memory, kinds[2], &blocks[2]));
    for (int b = 1; b < BLOCKS; b++) {
        expect_ok(moire_node_block_grow(memory, blocks[b], 20000));
        fill(blocks[b], 2);
    }
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    for (int peer = 0; peer < memory->size; peer++)
        expect(holds(peer, 0, 1, 20000) && holds(peer, 1, 2, 20000) && holds(peer, 2, 2, 20000));
    MPI_Barrier(world.mpi);
    free_blocks();
    moire_node_block_free(memory, NULL);
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    for (int b = 0; b < BLOCKS; b++) expect(!moire_node_memory_peer(memory, 0, b));
}

static void test_reuse(void)
{
    on_all_nodes(check_reuse);
}

/* One memory that is freed while peers still have it mapped. */
static void test_owner_first(void)
{
    expect_ok(moire_communicator_world(&world));
    create(one_node);
    create_blocks();
    expect_ok(moire_node_block_grow(memory, blocks[0], 50000));
    fill(blocks[0], 1);
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    MPI_Barrier(world.mpi);
    free_blocks();
    if (test_rank == 0) moire_node_memory_free(memory);
    MPI_Barrier(world.mpi);
    if (test_rank != 0) {
        expect(holds(0, 0, 1, 50000));
        moire_node_memory_free(memory);
    }
    moire_communicator_free(&world);
}

static void check_full_table(void)
{
    static struct moire_node_block *all[MOIRE_NODE_BLOCKS_MOST];
    struct moire_node_block *more = NULL;
    for (int b = 0; b < MOIRE_NODE_BLOCKS_MOST; b++)
        expect_ok(moire_node_block_create(memory, EXCHANGE, &all[b]));
    expect_failure(moire_node_block_create(memory, EXCHANGE, &more), MOIRE_NO_MEMORY, "found 4096 in use");
    expect(!more);
    expect_ok(moire_node_block_grow(memory, all[MOIRE_NODE_BLOCKS_MOST - 1], 1));
    fill(all[MOIRE_NODE_BLOCKS_MOST - 1], 3);
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    for (int peer = 0; peer < memory->size; peer++) expect(holds(peer, MOIRE_NODE_BLOCKS_MOST - 1, 3, 4096));
    MPI_Barrier(world.mpi);
    for (int b = 0; b < MOIRE_NODE_BLOCKS_MOST; b++) moire_node_block_free(memory, all[b]);
}

static void test_full_table(void)
{
    on_all_nodes(check_full_table);
}

/* ---- refresh without change ---- */

static bool refresh_and_read(void)
{
    bool good = moire_node_memory_refresh(memory) == MOIRE_OK;
    for (int peer = 0; peer < memory->size; peer++)
        good = good && moire_node_memory_peer(memory, peer, 0) != NULL
               && moire_node_flag_read(memory, peer, 0) == 0;
    return good;
}

static bool nothing(void)
{
    return true;
}

/* Whether `work` is true in a child process that is killed at its first system call but exit. */
static bool without_calls(bool (*work)(void))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(1);
        syscall(SYS_exit, work() ? 0 : 1);
    }
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void check_refresh(void)
{
    create_blocks();
    expect_ok(moire_node_block_grow(memory, blocks[0], 5000));
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    int64_t calls = moire_memory_allocations();
    for (int peer = 0; peer < memory->size; peer++) /* the one counter that it looks at */
        if (peer != memory->self)
            expect(memory->peers[peer].generation == 1 && memory->peers[peer].control->generation == 1);
    /* Under valgrind no process is without them. */
    if (without_calls(nothing)) expect(without_calls(refresh_and_read));
    else printf("# system calls cannot be forbidden here\n");
    expect(moire_memory_allocations() == calls);
    MPI_Barrier(world.mpi);
    free_blocks();
}

static void test_refresh(void)
{
    on_all_nodes(check_refresh);
}

/* ---- flags ---- */

static void wait_for(int flag, int64_t epoch)
{
    while (!moire_node_flag_reached(memory, flag, epoch)) sched_yield();
}

static void check_flags(void)
{
    enum { WRITTEN, READ, UNUSED, EPOCHS = 100 };
    create_blocks();
    expect_ok(moire_node_block_grow(memory, blocks[0], 4096));
    MPI_Barrier(world.mpi);
    expect_ok(moire_node_memory_refresh(memory));
    for (int64_t epoch = 1; epoch <= EPOCHS; epoch++) {
        fill(blocks[0], epoch);
        moire_node_flag_publish(memory, WRITTEN, epoch);
        wait_for(WRITTEN, epoch);
        for (int peer = 0; peer < memory->size; peer++) expect(holds(peer, 0, epoch, 4096));
        moire_node_flag_publish(memory, READ, epoch);
        wait_for(READ, epoch);
    }
    for (int peer = 0; peer < memory->size; peer++)
        expect(moire_node_flag_read(memory, peer, READ) == EPOCHS &&
               moire_node_flag_read(memory, peer, UNUSED) == 0);
    expect(!moire_node_flag_reached(memory, READ, EPOCHS + 1));
    MPI_Barrier(world.mpi);
    free_blocks();
}

static void test_flags(void)
{
    on_all_nodes(check_flags);
}

static const struct moire_test tests[] = {
    { "the ranks of a node", test_peers },
    { "contents after growth", test_growth },
    { "counted memory", test_counts },
    { "freed blocks, ids again", test_reuse },
    { "an owner that goes first", test_owner_first },
    { "a full table", test_full_table },
    { "a refresh without change makes no system call", test_refresh },
    { "flags", test_flags },
    { "growth that fails on one rank", test_failing_growth },
    { "a refresh that fails", test_failing_refresh },
    { "creation that fails on one rank", test_failing_create },
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
