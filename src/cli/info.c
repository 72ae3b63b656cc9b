/* moire info */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "moire/base/log.h"
#include "moire/base/real.h"
#include "moire/cli/cli.h"
#include "moire/cluster/binding.h"
#include "moire/cluster/machine.h"
#include "moire/compute/linear.h"
#include "moire/exchange/exchange.h"
#include "moire/io/data.h"
#include "moire/io/manifest.h"
#include "moire/moe/router.h"
#include "moire/train/optimizer.h"

/* One line a rank, in order. Collective. */
static moire_status print_ranks(const struct moire_mesh *mesh)
{
    enum { LINE = 128 };
    char line[LINE];
    struct moire_binding binding;
    MOIRE_TRY(moire_binding_find(&mesh->world, moire_compute_threads(), &binding));
    snprintf(line, sizeof line, "  %5d  %-20.20s  %5d  %7d  cpus %s", mesh->world.rank, moire_where.node,
             mesh->node_of[mesh->world.rank], binding.threads, binding.text);
    if (mesh->world.rank == 0) printf("\n   rank  host                   node  threads  binding\n");
    for (int rank = 0; rank < mesh->world.size; rank++) {
        char other[LINE];
        memcpy(other, line, sizeof other);
        MOIRE_TRY(moire_broadcast(&mesh->world, other, LINE, rank));
        if (mesh->world.rank == 0) puts(other);
    }
    fflush(stdout);
    return moire_binding_warn(&mesh->world, &binding);
}

static void print_row(const char *name, const char *help)
{
    char key[64];
    snprintf(key, sizeof key, "  %s", name);
    moire_cli_print_wrapped(key, 15, help);
}

static void print_tables(void)
{
    printf("\nback ends (exchange.backend)\n");
    moire_exchange_print_backends();
    printf("\nrouters (moe.router)\n");
    for (int i = 0; i < moire_router_count; i++) print_row(moire_routers[i]->name, moire_routers[i]->help);
    printf("\ntraffic (moe.forced)\n");
    for (int i = 0; i < moire_traffic_kind_count; i++)
        print_row(moire_traffic_kinds[i].name, moire_traffic_kinds[i].help);
    printf("\ntoken sources (data.source)\n");
    for (int i = 0; i < moire_source_count; i++) print_row(moire_sources[i]->name, moire_sources[i]->help);
    printf("\nschedules (train.schedule)\n");
    for (int i = 0; i < moire_schedule_count; i++)
        print_row(moire_schedules[i].name, moire_schedules[i].help);
}

/* The versions but our own, which is the title. */
static moire_status print_versions(void)
{
    struct moire_text versions = { 0 };
    moire_status status = moire_versions(&versions);
    char *rest = versions.data;
    for (char *line; status == MOIRE_OK && (line = strsep(&rest, "\n"));)
        if (*line && strncmp(line, "moire ", 6) != 0) printf("  %s\n", line);
    moire_text_free(&versions);
    return status;
}

static moire_status print_root(const struct moire_mesh *mesh)
{
    char memory[32];
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    printf("moire %s (%s)\n", PACKAGE_VERSION, MOIRE_REAL_NAME);
    MOIRE_TRY(print_versions());
    moire_cli_print_wrapped("  ", 2, moire_blas_description());
    printf("\n%d rank%s on %d node%s, %d x %d (data x expert); this node has %s of memory\n",
           mesh->world.size, moire_cli_plural(mesh->world.size), mesh->nodes, moire_cli_plural(mesh->nodes),
           mesh->groups, mesh->expert.size, moire_cli_bytes(bytes, memory));
    return MOIRE_OK;
}

static moire_status print_all(const struct moire_mesh *mesh)
{
    moire_status status = mesh->world.rank == 0 ? print_root(mesh) : MOIRE_OK;
    MOIRE_TRY(moire_agree(&mesh->world, status));
    MOIRE_TRY(print_ranks(mesh));
    if (mesh->world.rank == 0) print_tables();
    return MOIRE_OK;
}

/* The tree of this job, the devices of rank 0's machine, and warnings about those of all. */
static moire_status print_topology(const struct moire_mesh *mesh)
{
    struct moire_communicator node;
    struct moire_machine machine;
    MOIRE_TRY(moire_communicator_split_node(&mesh->world, "machine", &node));
    moire_status status = moire_agree(&mesh->world, moire_machine_find(&node, true, &machine));
    moire_communicator_free(&node);
    MOIRE_TRY(status);
    if (mesh->world.rank == 0) {
        status = moire_topology_print(&mesh->topology, stdout);
        printf("\n");
        moire_machine_print(&machine, stdout);
        fflush(stdout);
    }
    status = moire_agree(&mesh->world, status);
    if (status == MOIRE_OK) status = moire_machine_warn(&mesh->world, &machine);
    moire_machine_free(&machine);
    return status;
}

/* Of a text or file; needs no MPI, and under a launcher rank 0 prints. */
static moire_status print_what_if(const char *source)
{
    struct moire_topology topology;
    MOIRE_TRY(moire_cli_agree(moire_topology_load(source, &topology)));
    moire_status status = MOIRE_OK;
    if (moire_where.rank <= 0) status = moire_topology_print(&topology, stdout);
    moire_topology_free(&topology);
    return moire_cli_agree(status);
}

static moire_status print_job(int argc, char **argv, bool topology_only)
{
    struct moire_config config = { 0 };
    struct moire_mesh mesh;
    moire_status status = moire_cli_load_all(argc, argv, false, &config);
    if (status == MOIRE_OK) status = moire_mesh_create(&config, &mesh);
    if (status == MOIRE_OK) {
        status = topology_only ? print_topology(&mesh) : print_all(&mesh);
        moire_mesh_free(&mesh);
    }
    moire_config_free(&config);
    return status;
}

static moire_status run(int argc, char **argv)
{
    const char *what_if = moire_cli_option(&argc, argv, "--topology");
    bool topology_only = moire_cli_flag(&argc, argv, "--topology");
    if (!what_if || moire_mpi_is_launched()) MOIRE_TRY(moire_mpi_start(false));
    return what_if ? print_what_if(what_if) : print_job(argc, argv, topology_only);
}

const struct moire_command moire_command_info = {
    .name = "info",
    .arguments = "[--topology] [FILE.ini] [--section.key=value ...]\n--topology=TEXT|file:PATH",
    .summary = "versions, back ends, ranks, nodes, binding and memory; the topology",
    .details = "Versions of every library, the ranks with node, threads and binding, and the\n"
               "tables of back ends, routers, traffic, token sources and schedules. Warns\n"
               "where ranks share processors or have fewer of them than threads.\n"
               "\n"
               "With --topology: the tree of spines, leaves, nodes, sockets, NUMA nodes and\n"
               "L3 caches that the ranks are in, and the network devices of rank 0's machine.\n"
               "Warns where the nearest device of a rank hangs on another socket. Of a text or\n"
               "a file only the tree is drawn; that needs no job.\n"
               "\n"
               "  moire info\n"
               "  mpirun -n 4 moire info --parallel.expert=2\n"
               "  srun --mpi=pmix moire info --topology\n"
               "  moire info --topology='spine:2 leaf:4 node:8 rank:16'\n"
               "  moire info --topology='node:3(rank:2, rank:4, rank:1)'",
    .sections = "parallel topology",
    .options = "--topology --topology=",
    .run = run,
};
