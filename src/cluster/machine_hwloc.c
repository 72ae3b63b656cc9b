/* The only file that includes hwloc. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/machine_parts.h"
#include "moire/base/memory.h"

#ifdef MOIRE_HAVE_HWLOC
#include <hwloc.h>
#include <hwloc/glibc-sched.h>

/* Number of the object that covers the whole set, or -1. */
static int32_t covering(hwloc_topology_t topology, hwloc_const_cpuset_t set, hwloc_obj_type_t type)
{
    for (hwloc_obj_t object = NULL; (object = hwloc_get_next_obj_by_type(topology, type, object));)
        if (hwloc_bitmap_isincluded(set, object->cpuset)) return (int32_t)object->logical_index;
    return -1;
}

static moire_status find_spots(hwloc_topology_t topology, const cpu_set_t *sets, int count,
                               struct moire_spot *spots)
{
    hwloc_cpuset_t set = hwloc_bitmap_alloc();
    if (!set) return moire_fail(MOIRE_NO_MEMORY, "hwloc has no memory for a set of processors");
    for (int i = 0; i < count; i++) {
        hwloc_cpuset_from_glibc_sched_affinity(topology, set, &sets[i], sizeof sets[i]);
        hwloc_bitmap_and(set, set, hwloc_topology_get_topology_cpuset(topology));
        if (hwloc_bitmap_iszero(set)) continue; /* unknown, or of another machine than the pretended one */
        spots[i].socket = covering(topology, set, HWLOC_OBJ_PACKAGE);
        spots[i].numa = covering(topology, set, HWLOC_OBJ_NUMANODE);
        spots[i].core = covering(topology, set, HWLOC_OBJ_L3CACHE);
    }
    hwloc_bitmap_free(set);
    return MOIRE_OK;
}

static const char *kind_of(hwloc_obj_t object)
{
    if (object->attr->osdev.type == HWLOC_OBJ_OSDEV_OPENFABRICS) return "OpenFabrics";
    return object->attr->osdev.type == HWLOC_OBJ_OSDEV_NETWORK ? "network" : NULL;
}

static void describe(hwloc_topology_t topology, hwloc_obj_t object, struct moire_device *device)
{
    hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology, object);
    snprintf(device->name, sizeof device->name, "%s", object->name ? object->name : "");
    snprintf(device->kind, sizeof device->kind, "%s", kind_of(object));
    device->socket = device->numa = -1;
    if (!place || !place->cpuset || hwloc_bitmap_iszero(place->cpuset)) return;
    device->socket = covering(topology, place->cpuset, HWLOC_OBJ_PACKAGE);
    device->numa = covering(topology, place->cpuset, HWLOC_OBJ_NUMANODE);
}

static int by_place(const void *a, const void *b)
{
    const struct moire_device *one = a, *other = b;
    if (one->socket != other->socket) return one->socket < other->socket ? -1 : 1;
    if (one->numa != other->numa) return one->numa < other->numa ? -1 : 1;
    return strcmp(one->name, other->name);
}

static moire_status find_devices(hwloc_topology_t topology, struct moire_machine *machine)
{
    int64_t capacity = 0;
    for (hwloc_obj_t object = NULL; (object = hwloc_get_next_osdev(topology, object));) {
        if (!kind_of(object)) continue;
        MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &machine->device, &capacity, machine->devices + 1,
                             sizeof *machine->device));
        describe(topology, object, &machine->device[machine->devices++]);
    }
    if (machine->devices > 0)
        qsort(machine->device, (size_t)machine->devices, sizeof *machine->device, by_place);
    return MOIRE_OK;
}

moire_status moire_hwloc_look(const cpu_set_t *sets, int count, struct moire_spot *spots, bool devices,
                              struct moire_machine *machine)
{
    hwloc_topology_t topology;
    moire_status status = MOIRE_OK;
    for (int i = 0; i < count; i++) spots[i] = (struct moire_spot) { -1, -1, -1 };
    if (hwloc_topology_init(&topology) != 0) return MOIRE_OK;
    if (devices) hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    /* Another machine's description is taken at its word: processors have the same numbers there. */
    if (hwloc_topology_load(topology) == 0) {
        machine->known = true;
        status = find_spots(topology, sets, count, spots);
        if (status == MOIRE_OK && devices) status = find_devices(topology, machine);
    }
    hwloc_topology_destroy(topology);
    return status;
}

#else

moire_status moire_hwloc_look(const cpu_set_t *sets, int count, struct moire_spot *spots, bool devices,
                              struct moire_machine *machine)
{
    (void)sets, (void)devices, (void)machine;
    for (int i = 0; i < count; i++) spots[i] = (struct moire_spot) { -1, -1, -1 };
    return MOIRE_OK;
}

#endif
