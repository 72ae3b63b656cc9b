#include "moire/cluster/binding.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "moire/base/log.h"
#include "moire/base/memory.h"

/* What a rank tells the others of its node. */
struct mask {
    cpu_set_t processors; /* empty: unknown */
    int64_t threads;
};

static void write_text(const cpu_set_t *set, char *text, size_t bytes)
{
    size_t at = 0;
    snprintf(text, bytes, "unknown");
    for (int first = 0; first < CPU_SETSIZE; first++) {
        int last = first;
        if (!CPU_ISSET(first, set)) continue;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, set)) last++;
        if (at + sizeof ",1023-1023,..." > bytes) {
            snprintf(text + at, bytes - at, ",...");
            return;
        }
        at += (size_t)snprintf(text + at, bytes - at, last > first ? "%s%d-%d" : "%s%d", at ? "," : "", first,
                               last);
        first = last;
    }
}

static bool lies_in(const cpu_set_t *inner, const cpu_set_t *outer)
{
    cpu_set_t both;
    CPU_AND(&both, inner, outer);
    return CPU_COUNT(inner) > 0 && CPU_EQUAL(&both, inner);
}

static void compare(const struct mask *own, const struct mask *masks, int count,
                    struct moire_binding *binding)
{
    for (int rank = 0; rank < count; rank++) {
        if (!lies_in(&masks[rank].processors, &own->processors)) continue;
        binding->ranks_inside++;
        binding->threads_inside += (int)masks[rank].threads;
    }
}

static moire_status gather(const struct moire_communicator *node, const struct mask *own, struct mask *masks)
{
    int result = MPI_Allgather(own, sizeof *own, MPI_BYTE, masks, sizeof *own, MPI_BYTE, node->mpi);
    return moire_mpi_check(result, node, "MPI_Allgather");
}

/* Then the main thread has been bound to its own place, which says little about the others'. */
static bool openmp_binds(void)
{
    const char *binds = getenv("OMP_PROC_BIND");
    return (binds && strcasecmp(binds, "false") != 0) || getenv("OMP_PLACES") || getenv("GOMP_CPU_AFFINITY");
}

moire_status moire_binding_find(const struct moire_communicator *world, int threads,
                                struct moire_binding *binding)
{
    struct moire_communicator node;
    struct moire_binding found = { .threads = threads };
    struct mask own = { .threads = threads }, *masks = NULL;
    if (sched_getaffinity(0, sizeof own.processors, &own.processors) != 0) CPU_ZERO(&own.processors);
    write_text(&own.processors, found.text, sizeof found.text);
    if (threads > 1 && openmp_binds()) CPU_ZERO(&own.processors);
    found.processors = CPU_COUNT(&own.processors);
    MOIRE_TRY(moire_communicator_split_node(world, "machine", &node));
    moire_status status =
        moire_agree(world, moire_allocate(MOIRE_MEMORY_OTHER, node.size, sizeof *masks, &masks));
    if (status == MOIRE_OK) status = gather(&node, &own, masks);
    if (status == MOIRE_OK) {
        compare(&own, masks, node.size, &found);
        *binding = found;
    }
    moire_release(masks);
    moire_communicator_free(&node);
    return status;
}

/* ---- warnings ---- */

static bool has_too_few(const struct moire_binding *binding)
{
    return binding->processors > 0 && binding->threads > binding->processors;
}

static bool is_crowded(const struct moire_binding *binding)
{
    return binding->ranks_inside > 1 && binding->threads_inside > binding->processors;
}

/* What rank 0 prints for the lowest rank concerned. */
struct report {
    struct moire_binding binding;
    char node[sizeof moire_where.node];
};

/* *lowest: the lowest rank that is concerned, or -1, and its report; *count: how many are. */
static moire_status collect(const struct moire_communicator *world, bool concerned, int *lowest,
                            int64_t *count, struct report *report)
{
    int64_t first = concerned ? -(int64_t)world->rank : -(int64_t)world->size;
    *count = concerned;
    MOIRE_TRY(moire_max_integers(world, &first, 1));
    MOIRE_TRY(moire_sum_integers(world, count, 1));
    *lowest = *count > 0 ? (int)-first : -1;
    return *lowest < 0 ? MOIRE_OK : moire_broadcast(world, report, sizeof *report, *lowest);
}

moire_status moire_binding_warn(const struct moire_communicator *world, const struct moire_binding *binding)
{
    struct report report = { .binding = *binding };
    const struct moire_binding *found = &report.binding;
    int rank;
    int64_t count;
    snprintf(report.node, sizeof report.node, "%s", moire_where.node);
    const struct report own = report;
    MOIRE_TRY(collect(world, is_crowded(binding), &rank, &count, &report));
    if (rank >= 0 && world->rank == 0)
        moire_warn("ranks share processors, which makes all of them slow; found %d ranks with %d thread%s on "
                   "processors %s of %s (rank %d; %lld ranks in all), expected no more threads than "
                   "processors, %d; try fewer ranks or OMP_NUM_THREADS, mpirun --bind-to none, or more nodes",
                   found->ranks_inside, found->threads_inside, found->threads_inside == 1 ? "" : "s",
                   found->text, report.node, rank, (long long)count, found->processors);
    report = own;
    MOIRE_TRY(collect(world, has_too_few(binding), &rank, &count, &report));
    if (rank >= 0 && world->rank == 0)
        moire_warn("a rank has fewer processors than threads; found %d threads on processors %s of %s (rank "
                   "%d; %lld rank%s in all), expected at most %d; try OMP_NUM_THREADS=%d, mpirun --map-by "
                   "slot:PE=%d or --bind-to none",
                   found->threads, found->text, report.node, rank, (long long)count, count == 1 ? "" : "s",
                   found->processors, found->processors, found->threads);
    return MOIRE_OK;
}
