/* What one rank asks hwloc for all of its machine. */
#ifndef CLUSTER_MACHINE_PARTS_H
#define CLUSTER_MACHINE_PARTS_H

#include <sched.h>

#include "moire/cluster/machine.h"

struct moire_spot {
    int32_t socket, numa, core; /* as in struct moire_machine */
};
/* spots[i] of a process that may run on sets[i]; with `devices`, machine->device and ->devices; and
 * machine->known. Not collective. */
moire_status moire_hwloc_look(const cpu_set_t *sets, int count, struct moire_spot *spots, bool devices,
                              struct moire_machine *machine);

#endif
