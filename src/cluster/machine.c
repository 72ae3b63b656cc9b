#include "moire/cluster/machine.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "cluster/machine_parts.h"
#include "moire/base/log.h"
#include "moire/base/memory.h"

/* Where OpenMP binds threads it has bound this one to its own place already: the rank is in all places. */
static void add_places(cpu_set_t *set)
{
    for (int place = 0; place < omp_get_num_places(); place++) {
        int count = omp_get_place_num_procs(place), ids[CPU_SETSIZE];
        if (count > CPU_SETSIZE) continue;
        omp_get_place_proc_ids(place, ids);
        for (int i = 0; i < count; i++)
            if (ids[i] >= 0 && ids[i] < CPU_SETSIZE) CPU_SET(ids[i], set);
    }
}

static moire_status gather(const struct moire_communicator *ranks, cpu_set_t *sets)
{
    cpu_set_t own;
    if (sched_getaffinity(0, sizeof own, &own) != 0) CPU_ZERO(&own);
    add_places(&own);
    int result = MPI_Gather(&own, sizeof own, MPI_BYTE, sets, sizeof own, MPI_BYTE, 0, ranks->mpi);
    return moire_mpi_check(result, ranks, "MPI_Gather");
}

/* What rank 0 found, to all. */
static moire_status share(const struct moire_communicator *ranks, const struct moire_spot *spots,
                          struct moire_machine *machine)
{
    struct moire_spot own;
    int32_t head[2] = { machine->known, machine->devices };
    int result = MPI_Scatter(spots, sizeof own, MPI_BYTE, &own, sizeof own, MPI_BYTE, 0, ranks->mpi);
    MOIRE_TRY(moire_mpi_check(result, ranks, "MPI_Scatter"));
    MOIRE_TRY(moire_broadcast(ranks, head, sizeof head, 0));
    moire_status status = MOIRE_OK;
    if (ranks->rank > 0)
        status = moire_allocate(MOIRE_MEMORY_OTHER, head[1], sizeof *machine->device, &machine->device);
    MOIRE_TRY(moire_agree(ranks, status));
    machine->known = head[0];
    machine->devices = head[1];
    machine->socket = own.socket;
    machine->numa = own.numa;
    machine->core = own.core;
    return moire_broadcast(ranks, machine->device, machine->devices * (int64_t)sizeof *machine->device, 0);
}

moire_status moire_machine_find(const struct moire_communicator *ranks, bool devices,
                                struct moire_machine *machine)
{
    struct moire_machine new = { 0 };
    cpu_set_t *sets = NULL;
    struct moire_spot *spots = NULL;
    int64_t count = ranks->rank == 0 ? ranks->size : 0;
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, count, sizeof *sets, &sets);
    if (status == MOIRE_OK) status = moire_allocate(MOIRE_MEMORY_OTHER, count, sizeof *spots, &spots);
    status = moire_agree(ranks, status);
    if (status == MOIRE_OK) status = gather(ranks, sets);
    if (status == MOIRE_OK) {
        if (ranks->rank == 0) status = moire_hwloc_look(sets, ranks->size, spots, devices, &new);
        status = moire_agree(ranks, status);
    }
    if (status == MOIRE_OK) status = share(ranks, spots, &new);
    if (status == MOIRE_OK)
        *machine = new;
    else
        moire_machine_free(&new);
    moire_release(spots);
    moire_release(sets);
    return status;
}

void moire_machine_free(struct moire_machine *machine)
{
    moire_release(machine->device);
    memset(machine, 0, sizeof *machine);
}

/* ---- devices ---- */

/* The smaller, the better. What is unknown may be near. */
static int distance(const struct moire_machine *machine, const struct moire_device *device)
{
    enum { SAME_NUMA, SAME_SOCKET, PERHAPS, OTHER_SOCKET };
    if (device->numa >= 0 && device->numa == machine->numa) return SAME_NUMA;
    if (device->socket < 0 || machine->socket < 0) return PERHAPS;
    return device->socket == machine->socket ? SAME_SOCKET : OTHER_SOCKET;
}

static bool is_faster(const struct moire_device *device, const struct moire_device *than)
{
    return strcmp(device->kind, "OpenFabrics") == 0 && strcmp(than->kind, "OpenFabrics") != 0;
}

int moire_machine_nearest(const struct moire_machine *machine)
{
    int best = machine->devices > 0 ? 0 : -1;
    for (int i = 1; i < machine->devices; i++) {
        const struct moire_device *one = &machine->device[i], *other = &machine->device[best];
        bool nearer = distance(machine, one) < distance(machine, other);
        if (is_faster(one, other) || (nearer && !is_faster(other, one))) best = i;
    }
    return best;
}

/* "3", or "-" where it is not known. */
static const char *number_text(int number, char text[16])
{
    snprintf(text, 16, number < 0 ? "-" : "%d", number);
    return text;
}

void moire_machine_print(const struct moire_machine *machine, FILE *file)
{
    char socket[16], numa[16];
    if (machine->devices == 0) {
        fprintf(file, "network devices: %s\n",
                machine->known ? "hwloc finds none"
                               : "not known; this needs hwloc, and a machine it can read");
        return;
    }
    fprintf(file, "network device        kind         socket  NUMA node\n");
    for (int i = 0; i < machine->devices; i++) {
        const struct moire_device *device = &machine->device[i];
        fprintf(file, "  %-18.18s  %-11s  %6s  %9s\n", device->name, device->kind,
                number_text(device->socket, socket), number_text(device->numa, numa));
    }
}

/* What rank 0 prints for the lowest rank concerned. */
struct report {
    char node[sizeof moire_where.node];
    struct moire_device device;
    int32_t socket;
};

moire_status moire_machine_warn(const struct moire_communicator *world, const struct moire_machine *machine)
{
    struct report report = { .socket = machine->socket };
    int index = moire_machine_nearest(machine);
    bool far = false;
    if (index >= 0) {
        report.device = machine->device[index];
        far = machine->socket >= 0 && report.device.socket >= 0 && machine->socket != report.device.socket;
    }
    snprintf(report.node, sizeof report.node, "%s", moire_where.node);
    int64_t lowest = far ? -(int64_t)world->rank : -(int64_t)world->size, count = far;
    MOIRE_TRY(moire_max_integers(world, &lowest, 1));
    MOIRE_TRY(moire_sum_integers(world, &count, 1));
    if (count == 0) return MOIRE_OK;
    MOIRE_TRY(moire_broadcast(world, &report, sizeof report, (int)-lowest));
    if (world->rank == 0)
        moire_warn(
            "the nearest network device of a rank hangs on another socket; found rank %d (%s) on socket %d "
            "and %s on socket %d (%lld rank%s in all), expected a device on each socket that has ranks; "
            "try to bind ranks to socket %d, or none of them",
            (int)-lowest, report.node, report.socket, report.device.name, report.device.socket,
            (long long)count, count == 1 ? "" : "s", report.device.socket);
    return MOIRE_OK;
}
