/* The topology of the running job: every rank finds its own place, one allgather tells all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cluster/topology_parts.h"
#include "moire/base/log.h"
#include "moire/cluster/machine.h"

/* ---- Slurm ---- */

/* A part of a dotted name begins at `at`: its end. Dots in brackets do not separate. */
static const char *end_of_part(const char *at)
{
    int depth = 0;
    for (; *at && (depth > 0 || *at != '.'); at++) depth += (*at == '[') - (*at == ']');
    return at;
}

/* How many parts of SLURM_TOPOLOGY_ADDR_PATTERN stand before the node; without a pattern all but the last. */
static int count_switches(const char *pattern, const char *address)
{
    int parts = 0;
    for (const char *at = pattern ? pattern : address;; parts++) {
        const char *end = end_of_part(at);
        if (pattern && end - at == 4 && strncmp(at, "node", 4) == 0) return parts;
        if (*end == '\0') return parts;
        at = end + 1;
    }
}

/* "spine.leaf0.node1": the innermost switches, each as a hash of the address up to it. */
static void read_slurm(struct moire_place *place)
{
    const char *address = getenv("SLURM_TOPOLOGY_ADDR"), *pattern = getenv("SLURM_TOPOLOGY_ADDR_PATTERN");
    if (!address || !*address) return;
    place->address = XXH3_64bits(address, strlen(address)) | 1;
    int switches = count_switches(pattern, address);
    const char *end = address - 1;
    for (int i = 0; i < switches; i++) {
        end = end_of_part(end + 1);
        if (*end == '\0') { /* fewer parts than the pattern has */
            memset(place->switches, 0, sizeof place->switches);
            return;
        }
        int level = MOIRE_SWITCHES - switches + i; /* below 0: further out than there are names for */
        if (level >= 0) place->switches[level] = XXH3_64bits(address, (size_t)(end - address)) | 1;
    }
}

/* ---- this rank ---- */

/* What topology.source names: `path` and `text` where it is a file, `text` where it is a topology text. */
struct origin {
    const char *path;
    char *text;
    bool hosts; /* the text is a host list */
};

static moire_status find_switches(const struct origin *origin, struct moire_place *place)
{
    struct moire_hosts *hosts;
    if (!origin->hosts) {
        read_slurm(place);
        return MOIRE_OK;
    }
    MOIRE_TRY(moire_hosts_read(origin->path, origin->text, &hosts));
    moire_status status = moire_hosts_find(hosts, moire_where.node, place);
    moire_hosts_free(hosts);
    return status;
}

/* Nodes as MPI has them, and where this rank lies in its own. */
static moire_status find_true_node(const struct moire_communicator *world, struct moire_place *place)
{
    struct moire_communicator node;
    struct moire_machine machine;
    MOIRE_TRY(moire_communicator_split_node(world, "machine", &node));
    moire_status status = moire_broadcast(&node, &place->node, sizeof place->node, 0);
    if (status == MOIRE_OK) status = moire_machine_find(&node, false, &machine);
    if (status == MOIRE_OK) {
        place->inside[0] = machine.socket;
        place->inside[1] = machine.numa;
        place->inside[2] = machine.core;
        moire_machine_free(&machine);
    }
    moire_communicator_free(&node);
    return status;
}

static moire_status find_place(const struct origin *origin, int64_t ranks_per_node,
                               const struct moire_communicator *world, struct moire_place *place)
{
    memset(place, 0, sizeof *place);
    for (int k = 0; k < MOIRE_INSIDE; k++) place->inside[k] = -1;
    MOIRE_TRY(moire_agree(world, find_switches(origin, place)));
    place->node = world->rank;
    if (ranks_per_node == MOIRE_AUTO) return moire_agree(world, find_true_node(world, place));
    place->node = (int32_t)(world->rank / ranks_per_node * ranks_per_node);
    return MOIRE_OK;
}

/* ---- all ranks ---- */

static int by_address(const void *a, const void *b)
{
    const uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
    return (one > other) - (one < other);
}

/* A launcher that copies the variables of the first node to the others, or does not set them there, would
 * make wrong leaves. */
moire_status moire_topology_check_addresses(struct moire_place *places, int ranks)
{
    uint64_t *addresses;
    int nodes = 0, wrong = 0, missing = 0;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *addresses, &addresses));
    for (int rank = 0; rank < ranks; rank++)
        if (places[rank].node == rank) addresses[nodes++] = places[rank].address;
    qsort(addresses, (size_t)nodes, sizeof *addresses, by_address);
    for (int i = 0; i < nodes; i++) {
        missing += addresses[i] == 0;
        wrong += addresses[i] == 0 || (i > 0 && addresses[i] == addresses[i - 1]);
    }
    moire_release(addresses);
    if (wrong == 0 || missing == nodes) return MOIRE_OK;
    moire_warn(
        "switches stay unknown; found SLURM_TOPOLOGY_ADDR missing on %d and repeated on %d of %d nodes, "
        "expected another one on each; try srun as the launcher, or topology.source",
        missing, wrong - missing, nodes);
    for (int rank = 0; rank < ranks; rank++) memset(places[rank].switches, 0, sizeof places[rank].switches);
    return MOIRE_OK;
}

static moire_status build(const struct origin *origin, bool true_nodes, struct moire_place *places, int ranks,
                          struct moire_topology *new)
{
    if (true_nodes && !origin->hosts) MOIRE_TRY(moire_topology_check_addresses(places, ranks));
    MOIRE_TRY(moire_topology_build(places, ranks, new));
    const int node = moire_topology_level_index(new, moire_level_names[MOIRE_TOPOLOGY_NODE]);
    new->pretended = !true_nodes;
    snprintf(new->source, sizeof new->source, "%s%s%s",
             true_nodes ? "MPI" : "parallel.ranks_per_node (pretended)",
             node == 0       ? ""
             : origin->hosts ? ", a host list"
                             : ", Slurm",
             new->levels > node + 1 ? ", hwloc" : "");
    return MOIRE_OK;
}

static moire_status find_places(const struct origin *origin, int64_t ranks_per_node,
                                const struct moire_communicator *world, struct moire_topology *new)
{
    struct moire_place own, *places = NULL;
    MOIRE_TRY(find_place(origin, ranks_per_node, world, &own));
    MOIRE_TRY(moire_agree(world, moire_allocate(MOIRE_MEMORY_OTHER, world->size, sizeof *places, &places)));
    int result = MPI_Allgather(&own, sizeof own, MPI_BYTE, places, sizeof own, MPI_BYTE, world->mpi);
    moire_status status = moire_mpi_check(result, world, "MPI_Allgather");
    if (status == MOIRE_OK)
        status = moire_agree(world, build(origin, ranks_per_node == MOIRE_AUTO, places, world->size, new));
    moire_release(places);
    return status;
}

/* ---- a text ---- */

static moire_status pretend(const struct moire_config *config, const struct origin *origin, int ranks,
                            struct moire_topology *new)
{
    if (config->parallel_ranks_per_node != MOIRE_AUTO)
        return moire_fail(MOIRE_USAGE,
                          "two parameters pretend nodes; found topology.source = %s and "
                          "parallel.ranks_per_node = %lld, expected one of them; try without the second",
                          config->topology_source, (long long)config->parallel_ranks_per_node);
    MOIRE_TRY(moire_topology_from(origin->path, origin->text, new));
    if (new->ranks != ranks)
        return moire_fail(MOIRE_USAGE,
                          "the topology is of another number of ranks; found %d in topology.source = %s, "
                          "expected the %d of this job; try mpirun -n %d, or another text",
                          new->ranks, config->topology_source, ranks, new->ranks);
    snprintf(new->source, sizeof new->source, "topology.source (pretended)");
    moire_log("nodes are those that topology.source pretends, not MPI's");
    return MOIRE_OK;
}

static moire_status read_origin(const char *source, struct origin *origin)
{
    int64_t bytes;
    if (strcmp(source, "auto") == 0) return MOIRE_OK;
    MOIRE_TRY(moire_topology_check_source(source));
    origin->path = moire_topology_path(source);
    if (!origin->path) return moire_copy_text(source, &origin->text);
    MOIRE_TRY(moire_file_read(origin->path, &origin->text, &bytes));
    origin->hosts = moire_hosts_is_list(origin->text);
    return MOIRE_OK;
}

static moire_status fill(const struct moire_config *config, const struct moire_communicator *world,
                         struct origin *origin, struct moire_topology *new)
{
    MOIRE_TRY(moire_agree(world, read_origin(config->topology_source, origin)));
    const char *text = origin->text ? origin->text : "";
    MOIRE_TRY(moire_check_same(world, XXH3_64bits(text, strlen(text)), "topology.source, or its file,"));
    if (!origin->text || origin->hosts)
        return find_places(origin, config->parallel_ranks_per_node, world, new);
    return moire_agree(world, pretend(config, origin, world->size, new));
}

moire_status moire_topology_find(const struct moire_config *config, const struct moire_communicator *world,
                                 struct moire_topology *topology)
{
    struct moire_topology new = { 0 };
    struct origin origin = { 0 };
    moire_status status = fill(config, world, &origin, &new);
    moire_release(origin.text);
    if (status == MOIRE_OK)
        *topology = new;
    else
        moire_topology_free(&new);
    return status;
}
