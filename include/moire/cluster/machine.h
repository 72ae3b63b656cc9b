/* Where a rank lies in its machine, and the network devices there, by hwloc. Without hwloc, or where it
 * cannot read the machine, nothing is known.
 *
 * HWLOC_XMLFILE and HWLOC_SYNTHETIC, hwloc's own variables, put another machine in place of this one. */
#ifndef MOIRE_CLUSTER_MACHINE_H
#define MOIRE_CLUSTER_MACHINE_H

#include <stdio.h>

#include "moire/cluster/communicator.h"

struct moire_device {
    char name[32]; /* "mlx5_0", "eth0" */
    char kind[16]; /* "OpenFabrics" or "network" */
    int socket;    /* hwloc's logical numbers, of what the device hangs on; -1: unknown or several */
    int numa;
};

struct moire_machine {
    bool known;
    int socket, numa,
        core; /* of this rank: hwloc's logical numbers; core: L3 cache; -1: unknown or several */
    int devices;
    struct moire_device *device; /* owned: in the order of NUMA nodes and names */
};

/* One rank of the machine asks hwloc for all its ranks, by the processors that each may run on (those of
 * OpenMP's places too where it binds threads). Devices cost time and are looked for only where asked for.
 * Collective over `ranks`, which share a machine. */
moire_status moire_machine_find(const struct moire_communicator *ranks, bool devices,
                                struct moire_machine *machine);
void moire_machine_free(struct moire_machine *machine);

/* Index of the device to use: OpenFabrics before others, on the rank's NUMA node before its socket before
 * others; -1: there is none. Not collective. */
int moire_machine_nearest(const struct moire_machine *machine);
/* The devices, a line each. Not collective. */
void moire_machine_print(const struct moire_machine *machine, FILE *file);
/* A warning where the nearest device of a rank hangs on another socket: it names the lowest such rank and how
 * many they are. Rank 0 prints. Collective over `world`. */
moire_status moire_machine_warn(const struct moire_communicator *world, const struct moire_machine *machine);

#endif
