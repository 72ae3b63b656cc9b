/* Trees out of what is known of each rank, and questions to them. */
#include "moire/cluster/topology.h"

#include <stdlib.h>
#include <string.h>

#include "cluster/topology_parts.h"

const char *const moire_level_names[MOIRE_TOPOLOGY_NAMES] = {
    [MOIRE_TOPOLOGY_SPINE3] = "spine3", [MOIRE_TOPOLOGY_SPINE2] = "spine2",
    [MOIRE_TOPOLOGY_SPINE] = "spine",   [MOIRE_TOPOLOGY_LEAF] = "leaf",
    [MOIRE_TOPOLOGY_NODE] = "node",     [MOIRE_TOPOLOGY_SOCKET] = "socket",
    [MOIRE_TOPOLOGY_NUMA] = "numa",     [MOIRE_TOPOLOGY_CORE] = "core",
    [MOIRE_TOPOLOGY_RANK] = "rank",
};

const char *moire_level_word(const char *name, int64_t count)
{
    static const char *const words[MOIRE_TOPOLOGY_NAMES][2] = {
        [MOIRE_TOPOLOGY_SPINE3] = { "spine3 switch", "spine3 switches" },
        [MOIRE_TOPOLOGY_SPINE2] = { "spine2 switch", "spine2 switches" },
        [MOIRE_TOPOLOGY_SPINE] = { "spine", "spines" },
        [MOIRE_TOPOLOGY_LEAF] = { "leaf", "leaves" },
        [MOIRE_TOPOLOGY_NODE] = { "node", "nodes" },
        [MOIRE_TOPOLOGY_SOCKET] = { "socket", "sockets" },
        [MOIRE_TOPOLOGY_NUMA] = { "NUMA node", "NUMA nodes" },
        [MOIRE_TOPOLOGY_CORE] = { "core group", "core groups" },
        [MOIRE_TOPOLOGY_RANK] = { "rank", "ranks" },
    };
    int level = MOIRE_TOPOLOGY_RANK;
    while (level > 0 && strcmp(moire_level_names[level], name) != 0) level--;
    return words[level][count != 1];
}

/* ---- building ---- */

moire_status moire_topology_allocate(int ranks, int levels, const int *names, struct moire_topology *topology)
{
    struct moire_topology new = { .ranks = ranks };
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    moire_status status = moire_allocate(kind, levels, sizeof *new.level, &new.level);
    for (; new.levels < levels &&status == MOIRE_OK; new.levels++) {
        struct moire_topology_level *level = &new.level[new.levels];
        strcpy(level->name, moire_level_names[names[new.levels]]);
        status = moire_allocate(kind, ranks, sizeof *level->group_of, &level->group_of);
    }
    if (status == MOIRE_OK)
        *topology = new;
    else
        moire_topology_free(&new);
    return status;
}

/* Ranks with equal group outside and equal key are a group. */
struct item {
    uint64_t key;
    int outside, rank;
};

static int by_group(const void *a, const void *b)
{
    const struct item *one = a, *other = b;
    if (one->outside != other->outside) return one->outside < other->outside ? -1 : 1;
    if (one->key != other->key) return one->key < other->key ? -1 : 1;
    return (one->rank > other->rank) - (one->rank < other->rank);
}

/* The key of a rank on a level. A rank that lies in no socket, or in several, is one of its own. */
static uint64_t key_of(const struct moire_place *places, int rank, int level)
{
    const struct moire_place *place = &places[rank];
    if (level < MOIRE_SWITCHES) return places[place->node].switches[level];
    if (level == MOIRE_TOPOLOGY_NODE) return (uint64_t)place->node;
    int32_t number = place->inside[level - MOIRE_TOPOLOGY_SOCKET];
    return number >= 0 ? (uint64_t)number : UINT64_MAX - (uint64_t)rank;
}

/* Splits the groups `outside` (NULL: the world) by the keys of this level. */
static void split(const struct moire_place *places, int name, const int *outside, struct item *items,
                  int ranks, struct moire_topology_level *level)
{
    for (int rank = 0; rank < ranks; rank++)
        items[rank] = (struct item) { key_of(places, rank, name), outside ? outside[rank] : 0, rank };
    qsort(items, (size_t)ranks, sizeof *items, by_group);
    int *group_of = level->group_of; /* at first the lowest rank of each group */
    for (int i = 0; i < ranks; i++) {
        bool same = i > 0 && items[i].outside == items[i - 1].outside && items[i].key == items[i - 1].key;
        group_of[items[i].rank] = same ? group_of[items[i - 1].rank] : items[i].rank;
    }
    level->groups = 0;
    for (int rank = 0; rank < ranks; rank++) /* the lowest is numbered before it is looked up */
        group_of[rank] = group_of[rank] == rank ? level->groups++ : group_of[group_of[rank]];
}

static bool is_known(const struct moire_place *places, int ranks, int name)
{
    for (int rank = 0; rank < ranks; rank++)
        if (places[rank].inside[name - MOIRE_TOPOLOGY_SOCKET] >= 0) return true;
    return false;
}

/* Whether all[name] says more than its neighbours. Groups are nested, so equal numbers of them are equal
 * groups: of two such switches the inner one stays, of sockets and the like the outer one. */
static bool says_something(const struct moire_topology_level *all, const struct moire_place *places,
                           int ranks, int name)
{
    if (name == MOIRE_TOPOLOGY_NODE) return true;
    if (name == MOIRE_TOPOLOGY_LEAF) return all[name].groups > 1;
    if (name < MOIRE_TOPOLOGY_LEAF) return all[name].groups > 1 && all[name].groups < all[name + 1].groups;
    return all[name].groups > all[name - 1].groups && is_known(places, ranks, name);
}

moire_status moire_topology_build(const struct moire_place *places, int ranks,
                                  struct moire_topology *topology)
{
    static const int names[MOIRE_TOPOLOGY_RANK] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    struct moire_topology new = { 0 };
    struct item *items = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *items, &items));
    moire_status status = moire_topology_allocate(ranks, MOIRE_TOPOLOGY_RANK, names, &new);
    if (status != MOIRE_OK) goto release_items;
    for (int name = 0; name < MOIRE_TOPOLOGY_RANK; name++)
        split(places, name, name ? new.level[name - 1].group_of : NULL, items, ranks, &new.level[name]);
    bool kept[MOIRE_TOPOLOGY_RANK];
    for (int name = 0; name < MOIRE_TOPOLOGY_RANK; name++)
        kept[name] = says_something(new.level, places, ranks, name);
    new.levels = 0;
    for (int name = 0; name < MOIRE_TOPOLOGY_RANK; name++)
        if (kept[name])
            new.level[new.levels++] = new.level[name];
        else
            moire_release(new.level[name].group_of);
    *topology = new;

release_items:
    moire_release(items);
    return status;
}

void moire_topology_free(struct moire_topology *topology)
{
    for (int level = 0; level < topology->levels; level++) moire_release(topology->level[level].group_of);
    moire_release(topology->level);
    memset(topology, 0, sizeof *topology);
}

/* ---- questions ---- */

int moire_topology_level_index(const struct moire_topology *topology, const char *name)
{
    for (int level = 0; level < topology->levels; level++)
        if (strcmp(topology->level[level].name, name) == 0) return level;
    return -1;
}

bool moire_topology_same(const struct moire_topology *topology, int level, int a, int b)
{
    return level < 0 || topology->level[level].group_of[a] == topology->level[level].group_of[b];
}

int moire_topology_nearest(const struct moire_topology *topology, int a, int b)
{
    int level = topology->levels - 1;
    while (!moire_topology_same(topology, level, a, b)) level--;
    return level;
}
