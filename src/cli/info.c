/* moire info */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "moire/base/log.h"
#include "moire/base/real.h"
#include "moire/cli/cli.h"
#include "moire/compute/blas.h"
#include "moire/compute/linear.h"
#include "moire/exchange/exchange.h"
#include "moire/io/data.h"
#include "moire/io/manifest.h"
#include "moire/moe/router.h"
#include "moire/train/optimizer.h"

/* "0-1,4": the processors that this process may run on. */
static void binding(char *text, size_t bytes)
{
    cpu_set_t set;
    size_t at = 0;
    snprintf(text, bytes, "unknown");
    if (sched_getaffinity(0, sizeof set, &set) != 0) return;
    for (int first = 0; first < CPU_SETSIZE && at + 16 < bytes; first++) {
        int last = first;
        if (!CPU_ISSET(first, &set)) continue;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set)) last++;
        at += (size_t)snprintf(text + at, bytes - at, last > first ? "%s%d-%d" : "%s%d", at ? "," : "", first, last);
        first = last;
    }
}

/* One line a rank, in order. Collective. */
static moire_status print_ranks(const struct moire_mesh *mesh)
{
    enum { LINE = 160 };
    char line[LINE], cpus[80];
    binding(cpus, sizeof cpus);
    snprintf(line, sizeof line, "  %5d  %-20.20s  %5d  %7d  cpus %s", mesh->world.rank, moire_where.node, mesh->node_of[mesh->world.rank],
             moire_compute_threads(), cpus);
    if (mesh->world.rank == 0) printf("\n   rank  host                   node  threads  binding\n");
    for (int rank = 0; rank < mesh->world.size; rank++) {
        char other[LINE];
        memcpy(other, line, sizeof other);
        MOIRE_TRY(moire_broadcast(&mesh->world, other, LINE, rank));
        if (mesh->world.rank == 0) puts(other);
    }
    return MOIRE_OK;
}

static void print_tables(void)
{
    printf("\nback ends\n");
    moire_exchange_print_backends();
    printf("\nrouters\n");
    for (int i = 0; i < moire_router_count; i++) printf("  %-12s %s\n", moire_routers[i]->name, moire_routers[i]->help);
    printf("\ntoken sources\n");
    for (int i = 0; i < moire_source_count; i++) printf("  %-12s %s\n", moire_sources[i]->name, moire_sources[i]->help);
    printf("\nschedules\n");
    for (int i = 0; i < moire_schedule_count; i++) printf("  %-12s %s\n", moire_schedules[i].name, moire_schedules[i].help);
}

static moire_status print_root(const struct moire_mesh *mesh)
{
    struct moire_text versions = { 0 };
    char memory[32];
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    printf("moire %s (%s)\n", PACKAGE_VERSION, MOIRE_REAL_NAME);
    moire_status status = moire_versions(&versions);
    if (status == MOIRE_OK) fputs(versions.data, stdout);
    moire_text_free(&versions);
    printf("%s\n", moire_blas_description());
    printf("\n%d ranks on %d nodes, %d data x %d expert; %s of memory here\n", mesh->world.size, mesh->nodes, mesh->groups,
           mesh->expert.size, moire_cli_bytes(bytes, memory));
    return status;
}

static moire_status run(int argc, char **argv)
{
    struct moire_config config = { 0 };
    struct moire_mesh mesh;
    moire_status status = moire_cli_load(argc, argv, false, &config);
    if (status == MOIRE_OK) status = moire_mesh_create(&config, &mesh);
    if (status == MOIRE_OK) {
        if (mesh.world.rank == 0) status = print_root(&mesh);
        status = moire_agree(&mesh.world, status);
        if (status == MOIRE_OK) status = print_ranks(&mesh);
        if (status == MOIRE_OK && mesh.world.rank == 0) print_tables();
        if (mesh.world.rank == 0) moire_blas_warn();
        moire_mesh_free(&mesh);
    }
    moire_config_free(&config);
    return status;
}

const struct moire_command moire_command_info = {
    .name = "info",
    .arguments = "[--section.key=value ...]",
    .summary = "versions, back ends, ranks, nodes, binding and memory",
    .details = "Versions of every library, the ranks with node, threads and binding, and the\n"
               "tables of back ends, routers, token sources and schedules.\n"
               "\n"
               "  moire info\n"
               "  mpirun -n 4 moire info --parallel.expert=2",
    .sections = "parallel",
    .mpi = true,
    .run = run,
};
