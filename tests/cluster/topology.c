#include "../support/harness.h"

#include <sched.h>
#include <stdlib.h>

#include "../support/capture.h"
#include "cluster/machine_parts.h"
#include "cluster/topology_parts.h"
#include "moire/cluster/mesh.h"

/* ---- texts ---- */

/* What is printed is in topology_cases.txt; here: numbers of groups, and groups of ranks. */
static void groups_of_a_text(void)
{
    struct moire_topology topology;
    static const int leaf_of[] = { 0, 0, 0, 1, 1, 1 }, node_of[] = { 0, 1, 1, 2, 2, 3 };
    expect_ok(moire_topology_parse("leaf:2 node:2 rank:1,2,2,1", &topology));
    expect(topology.ranks == 6 && topology.levels == 2 && topology.pretended);
    expect(moire_topology_level_index(&topology, "leaf") == 0);
    expect(moire_topology_level_index(&topology, "node") == 1);
    expect(moire_topology_level_index(&topology, "spine") == -1);
    expect(topology.level[0].groups == 2 && topology.level[1].groups == 4);
    for (int rank = 0; rank < 6; rank++) {
        expect(topology.level[0].group_of[rank] == leaf_of[rank]);
        expect(topology.level[1].group_of[rank] == node_of[rank]);
    }
    expect(moire_topology_nearest(&topology, 1, 2) == 1);
    expect(moire_topology_nearest(&topology, 0, 2) == 0);
    expect(moire_topology_nearest(&topology, 2, 3) == -1);
    expect(moire_topology_nearest(&topology, 5, 5) == 1);
    moire_topology_free(&topology);
    moire_topology_free(&topology); /* an empty one is allowed */
}

static void wrong_texts(void)
{
    static const char *const texts[] = {
        "",
        ":",
        "node",
        "node:",
        "node:1",
        "node:1 rank",
        "node:1 rank:",
        "node:1 rank:,",
        "node:1 rank:1,",
        "node:1,1 rank:1",
        "node:2(rank:1",
        "node:2(rank:1,",
        "node:2()",
        "node:2 ()",
        "(",
        "node:1 rank:1 )",
        "node:-1 rank:1",
        "node:1 rank:99999999999999999999",
        "node:1 node:1 rank:1",
        "rank:1",
        "node:1 rank:1(rank:1)",
        "node:1 rank:1 #", /* the last one is right */
    };
    struct moire_topology topology = { .ranks = 7 };
    size_t count = sizeof texts / sizeof *texts;
    for (size_t i = 0; i + 1 < count; i++) {
        expect_failure(moire_topology_parse(texts[i], &topology), MOIRE_USAGE, "\n    ");
        expect(topology.ranks == 7);
    }
    expect_ok(moire_topology_parse(texts[count - 1], &topology));
    moire_topology_free(&topology);
}

/* Any part of a right text, and any letter changed, ends well: no crash, no leak, no rank missing. */
static void damaged_texts(void)
{
    static const char right[] =
        "leaf:2(node:1 socket:2 rank:1,3, node:2(socket:1 rank:2, socket:1 rank:1)) # end";
    static const char letters[] = ":(),0129 \n#xrn-";
    char text[sizeof right];
    struct moire_topology topology;
    for (int round = 0; round < 2000; round++) {
        memcpy(text, right, sizeof text);
        int changes = 1 + (int)test_random_below(3);
        for (int i = 0; i < changes; i++)
            text[test_random_below(sizeof right - 1)] = letters[test_random_below(sizeof letters)];
        moire_status status = moire_topology_parse(text, &topology);
        expect(status == MOIRE_OK || status == MOIRE_USAGE);
        if (status == MOIRE_OK) {
            expect(topology.level[topology.levels - 1].group_of[topology.ranks - 1] ==
                   topology.level[topology.levels - 1].groups - 1);
            moire_topology_free(&topology);
        }
        moire_error_clear();
    }
}

/* ---- trees of places ---- */

enum { MOST = 24 };

/* The same groups by comparing all pairs. */
static bool together(const struct moire_place *places, int level, int a, int b)
{
    const struct moire_place *one = &places[places[a].node], *other = &places[places[b].node];
    for (int i = 0; i <= level && i < MOIRE_SWITCHES; i++)
        if (one->switches[i] != other->switches[i]) return false;
    if (level >= MOIRE_TOPOLOGY_NODE && places[a].node != places[b].node) return false;
    for (int i = 0; i <= level - MOIRE_TOPOLOGY_SOCKET; i++)
        if (a != b && (places[a].inside[i] != places[b].inside[i] || places[a].inside[i] < 0)) return false;
    return true;
}

static void random_places(struct moire_place *places, int ranks)
{
    int nodes = 1 + (int)test_random_below(6);
    int lowest[6] = { -1, -1, -1, -1, -1, -1 };
    memset(places, 0, sizeof *places * MOST);
    for (int rank = 0; rank < ranks; rank++) {
        int64_t node = test_random_below(nodes);
        if (lowest[node] < 0) lowest[node] = rank;
        places[rank].node = lowest[node];
        for (int i = 0; i < MOIRE_SWITCHES; i++) places[rank].switches[i] = (uint64_t)test_random_below(2);
        for (int i = 0; i < MOIRE_INSIDE; i++) places[rank].inside[i] = (int32_t)test_random_below(3) - 1;
    }
}

static void check_level(const struct moire_place *places, const struct moire_topology_level *level, int name,
                        int ranks)
{
    int groups = 0;
    for (int b = 0; b < ranks; b++) {
        int lowest = 0;
        while (!together(places, name, lowest, b)) lowest++;
        expect(level->group_of[b] == (lowest == b ? groups : level->group_of[lowest]));
        groups += lowest == b;
        for (int a = 0; a < ranks; a++)
            expect(together(places, name, a, b) == (level->group_of[a] == level->group_of[b]));
    }
    expect(level->groups == groups);
}

static void trees_of_random_places(void)
{
    struct moire_place places[MOST];
    struct moire_topology topology;
    for (int round = 0; round < 200; round++) {
        int ranks = 1 + (int)test_random_below(MOST);
        random_places(places, ranks);
        expect_ok(moire_topology_build(places, ranks, &topology));
        expect(moire_topology_level_index(&topology, "node") >= 0);
        for (int level = 0; level < topology.levels; level++) {
            int name = 0;
            while (strcmp(moire_level_names[name], topology.level[level].name) != 0) name++;
            check_level(places, &topology.level[level], name, ranks);
            if (name != MOIRE_TOPOLOGY_NODE && name != MOIRE_TOPOLOGY_LEAF && level > 0)
                expect(topology.level[level].groups > topology.level[level - 1].groups);
        }
        int a = (int)test_random_below(ranks), b = (int)test_random_below(ranks);
        int nearest = moire_topology_nearest(&topology, a, b);
        expect(moire_topology_same(&topology, nearest, a, b));
        expect(nearest + 1 == topology.levels || !moire_topology_same(&topology, nearest + 1, a, b));
        moire_topology_free(&topology);
    }
}

static void addresses(const char *address_of_node, const char *warning)
{
    struct moire_place places[MOST] = { 0 };
    static struct capture capture;
    int ranks = 2 * (int)strlen(address_of_node);
    for (int rank = 0; rank < ranks; rank++) {
        places[rank].node = rank / 2 * 2;
        places[rank].address = (uint64_t)(address_of_node[rank / 2] - '0');
        places[rank].switches[MOIRE_TOPOLOGY_LEAF] = 5;
    }
    capture_begin(&capture, 2);
    expect_ok(moire_topology_check_addresses(places, ranks));
    capture_end(&capture);
    expect((places[0].switches[MOIRE_TOPOLOGY_LEAF] == 0) == (warning != NULL));
    if (test_rank == 0) expect(warning ? strstr(capture.text, warning) != NULL : capture.text[0] == '\0');
}

static void addresses_that_cannot_be(void)
{
    addresses("123", NULL);
    addresses("000", NULL);
    addresses("1", NULL);
    addresses("111", "missing on 0 and repeated on 2 of 3 nodes");
    addresses("100", "missing on 2 and repeated on 0 of 3 nodes");
    addresses("2120", "missing on 1 and repeated on 1 of 4 nodes");
}

/* ---- hwloc ---- */

#ifdef MOIRE_HAVE_HWLOC
static struct moire_spot spot_of(int first, int last)
{
    struct moire_machine machine = { 0 };
    struct moire_spot spot = { 7, 7, 7 };
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int processor = first; processor <= last; processor++) CPU_SET(processor, &set);
    expect_ok(moire_hwloc_look(&set, 1, &spot, false, &machine));
    expect(machine.known && machine.devices == 0);
    return spot;
}

static bool is(struct moire_spot spot, int socket, int numa, int core)
{
    return spot.socket == socket && spot.numa == numa && spot.core == core;
}

/* 2 sockets x 2 NUMA nodes x 2 L3 x 2 processors, 0 to 15. */
static void processors_of_a_machine(void)
{
    setenv("HWLOC_SYNTHETIC", "pack:2 numa:2 l3:2 core:2 pu:1", 1);
    expect(is(spot_of(0, 0), 0, 0, 0));
    expect(is(spot_of(2, 3), 0, 0, 1));
    expect(is(spot_of(1, 2), 0, 0, -1)); /* on two caches */
    expect(is(spot_of(4, 7), 0, 1, -1));
    expect(is(spot_of(3, 4), 0, -1, -1)); /* on two NUMA nodes */
    expect(is(spot_of(7, 8), -1, -1, -1));
    expect(is(spot_of(15, 15), 1, 3, 7));
    expect(is(spot_of(15, 20), 1, 3, 7));    /* the others are not there */
    expect(is(spot_of(20, 21), -1, -1, -1)); /* none is */
    expect(is(spot_of(1, 0), -1, -1, -1));   /* unknown */
    unsetenv("HWLOC_SYNTHETIC");
}

static void nearest_devices(void)
{
    struct moire_device devices[] = { { "eth0", "network", 0, 0 },
                                      { "eth1", "network", 0, 1 },
                                      { "ib0", "OpenFabrics", 0, 0 },
                                      { "ib1", "OpenFabrics", 1, 2 },
                                      { "ib2", "OpenFabrics", -1, -1 } };
    struct moire_machine machine = { .known = true, .numa = 1, .devices = 2, .device = devices };
    expect(moire_machine_nearest(&machine) == 1);
    machine.devices = 4;
    expect(moire_machine_nearest(&machine) == 2); /* the faster kind, then the nearer one */
    machine.socket = 1, machine.numa = 2;
    expect(moire_machine_nearest(&machine) == 3);
    machine.socket = 2, machine.numa = 5, machine.devices = 5;
    expect(moire_machine_nearest(&machine) == 4); /* perhaps it is near */
    machine.devices = 0;
    expect(moire_machine_nearest(&machine) == -1);
}
#endif

/* ---- the job ---- */

static void find_again(const struct moire_config *config, const struct moire_communicator *world,
                       uint64_t *sum)
{
    struct moire_topology topology;
    expect_ok(moire_topology_find(config, world, &topology));
    *sum = (uint64_t)topology.levels;
    for (int level = 0; level < topology.levels; level++)
        for (int rank = 0; rank < topology.ranks; rank++)
            *sum = *sum * 31 + (uint64_t)topology.level[level].group_of[rank];
    moire_topology_free(&topology);
}

/* Rank r says that it is on leaf r % 2; so does the mesh, for all ranks and for those of the expert group. */
static void leaves_of_a_mesh(void)
{
    struct moire_config config;
    struct moire_mesh mesh;
    char address[64];
    uint64_t sum;
    snprintf(address, sizeof address, "spine.leaf%d.node%d", test_rank % 2, test_rank);
    setenv("SLURM_TOPOLOGY_ADDR", address, 1);
    setenv("SLURM_TOPOLOGY_ADDR_PATTERN", "switch.switch.node", 1);
    expect_ok(moire_config_create(&config));
    config.parallel_ranks_per_node = 1;
    config.parallel_expert = test_ranks % 2 ? 1 : 2;
    expect_ok(moire_mesh_create(&config, &mesh));
    expect(mesh.nodes == test_ranks && mesh.leaves == (test_ranks > 1 ? 2 : 1));
    for (int rank = 0; rank < test_ranks; rank++)
        expect(mesh.leaf_of[rank] == rank % 2 && mesh.node_of[rank] == rank);
    for (int rank = 0; rank < mesh.expert.size; rank++)
        expect(mesh.expert_leaf_of[rank] == (mesh.group * mesh.expert.size + rank) % 2);
    find_again(&config, &mesh.world, &sum);
    expect_ok(moire_check_same(&mesh.world, sum, "the topology"));
    moire_mesh_free(&mesh);
    unsetenv("SLURM_TOPOLOGY_ADDR");
    unsetenv("SLURM_TOPOLOGY_ADDR_PATTERN");
    moire_config_free(&config);
}

/* A text of this many ranks takes the place of what is found; one of more is refused on all ranks. */
static void a_text_in_a_job(void)
{
    struct moire_config config;
    struct moire_mesh mesh;
    static struct capture capture;
    char text[64];
    expect_ok(moire_config_create(&config));
    for (int more = 0; more < 2; more++) {
        snprintf(text, sizeof text, "leaf:1 node:%d rank:1", test_ranks + more);
        expect_ok(moire_config_set(&config, "topology.source", text, MOIRE_FROM_COMMAND));
        capture_begin(&capture, 2);
        moire_status status = moire_mesh_create(&config, &mesh);
        capture_end(&capture);
        expect(status == (more ? MOIRE_USAGE : MOIRE_OK));
        if (more) {
            if (test_rank == 0) expect(strstr(capture.text, "of another number of ranks") != NULL);
            expect(moire_error_is_agreed());
            moire_error_clear();
            continue;
        }
        expect(mesh.nodes == test_ranks && mesh.node.size == 1 && mesh.leaves == 1);
        expect(mesh.topology.levels == 2 && mesh.topology.pretended);
        moire_mesh_free(&mesh);
    }
    moire_config_free(&config);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "groups of a text", groups_of_a_text },
        { "wrong texts", wrong_texts },
        { "damaged texts", damaged_texts },
        { "trees of random places", trees_of_random_places },
        { "Slurm addresses that cannot be", addresses_that_cannot_be },
#ifdef MOIRE_HAVE_HWLOC
        { "processors of a machine", processors_of_a_machine },
        { "nearest devices", nearest_devices },
#endif
        { "leaves of a mesh", leaves_of_a_mesh },
        { "a text in a job", a_text_in_a_job },
    };
    return test_main(argc, argv, "1 2 3 4", tests, sizeof tests / sizeof *tests);
}
