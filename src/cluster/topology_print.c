/* The tree for people, at 80 columns. */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "cluster/topology_parts.h"

enum { COLUMNS = 80, LABEL = 32, EACH = 9 };

/* A level as a tree has it: the groups inside each group are neighbours in `order`. */
struct branch {
    int *order;      /* owned: groups by the group that holds them, then by number, [groups] */
    int *place;      /* owned: where each group stands in `order`, [groups] */
    int *begin;      /* owned: order[begin[g] .. begin[g + 1]) are inside group g of the level outside */
    int *ranks;      /* owned: ranks in each group, [groups] */
    uint64_t *shape; /* owned: equal where all below is equal, [groups] */
};
struct tree {
    const struct moire_topology *topology;
    struct branch *branch; /* owned, [levels] */
    FILE *file;
    bool folded; /* a line stands for several groups */
};

static void free_tree(struct tree *tree)
{
    for (int level = 0; tree->branch && level < tree->topology->levels; level++) {
        struct branch *branch = &tree->branch[level];
        moire_release(branch->shape);
        moire_release(branch->ranks);
        moire_release(branch->begin);
        moire_release(branch->place);
        moire_release(branch->order);
    }
    moire_release(tree->branch);
}

static moire_status allocate(struct tree *tree)
{
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    const struct moire_topology *topology = tree->topology;
    MOIRE_TRY(moire_allocate(kind, topology->levels, sizeof *tree->branch, &tree->branch));
    for (int level = 0, outside = 1; level < topology->levels; level++) {
        struct branch *branch = &tree->branch[level];
        int groups = topology->level[level].groups;
        MOIRE_TRY(moire_allocate(kind, groups, sizeof *branch->order, &branch->order));
        MOIRE_TRY(moire_allocate(kind, groups, sizeof *branch->place, &branch->place));
        MOIRE_TRY(moire_allocate(kind, outside + 1, sizeof *branch->begin, &branch->begin));
        MOIRE_TRY(moire_allocate(kind, groups, sizeof *branch->ranks, &branch->ranks));
        MOIRE_TRY(moire_allocate(kind, groups, sizeof *branch->shape, &branch->shape));
        outside = groups;
    }
    return MOIRE_OK;
}

/* A counting sort of the groups by the group that holds them. `place` serves as that group at first. */
static void sort_level(const struct tree *tree, int level)
{
    const struct moire_topology_level *own = &tree->topology->level[level];
    struct branch *branch = &tree->branch[level];
    int outside = level ? own[-1].groups : 1;
    for (int rank = 0; rank < tree->topology->ranks; rank++) {
        branch->place[own->group_of[rank]] = level ? own[-1].group_of[rank] : 0;
        branch->ranks[own->group_of[rank]]++;
    }
    for (int group = 0; group < own->groups; group++) branch->begin[branch->place[group] + 1]++;
    for (int group = 0; group < outside; group++) branch->begin[group + 1] += branch->begin[group];
    for (int group = 0; group < own->groups; group++) {
        int at = branch->begin[branch->place[group]]++;
        branch->order[at] = group;
        branch->place[group] = at;
    }
    for (int group = outside; group > 0; group--) branch->begin[group] = branch->begin[group - 1];
    branch->begin[0] = 0;
}

static void find_shapes(const struct tree *tree, int level)
{
    struct branch *branch = &tree->branch[level];
    for (int group = 0; group < tree->topology->level[level].groups; group++) {
        uint64_t shape = (uint64_t)branch->ranks[group];
        for (int i = level + 1 < tree->topology->levels ? branch[1].begin[group] : 0;
             level + 1 < tree->topology->levels && i < branch[1].begin[group + 1]; i++)
            shape = XXH3_64bits_withSeed(&branch[1].shape[branch[1].order[i]], sizeof shape, shape);
        branch->shape[group] = shape;
    }
}

/* "0-3,8": the ranks of `count` neighbours in the order of a level, from `first` on; ends in ",.." where too
 * long. */
static void write_ranks(const struct tree *tree, int level, int first, int count, char *text, size_t bytes)
{
    const struct moire_topology *topology = tree->topology;
    const struct branch *branch = &tree->branch[level];
    size_t used = 0;
    int left = 0;
    for (int i = first; i < first + count; i++) left += branch->ranks[branch->order[i]];
    for (int rank = 0, begin = 0; left > 0; rank++) {
        int place = branch->place[topology->level[level].group_of[rank]];
        bool inside = place >= first && place < first + count;
        left -= inside;
        if (inside && left > 0) continue;
        int end = inside ? rank + 1 : rank; /* ranks begin .. end - 1 are inside */
        if (end > begin) {
            if (used + sizeof "2147483647-2147483647,.." > bytes) {
                snprintf(text + used, bytes - used, ",..");
                return;
            }
            used += (size_t)snprintf(text + used, bytes - used, end > begin + 1 ? "%s%d-%d" : "%s%d",
                                     used ? "," : "", begin, end - 1);
        }
        begin = rank + 1;
    }
}

/* "    node 0-3 x 4": the groups order[first .. first + count). */
static void write_label(const struct tree *tree, int level, int first, int count, char *text, size_t bytes)
{
    const int *order = tree->branch[level].order + first;
    int used =
        snprintf(text, bytes, "%*s%s %d", 2 * (level + 1), "", tree->topology->level[level].name, order[0]);
    if (count == 1) return;
    const char *between = order[count - 1] - order[0] == count - 1 ? "-" : count == 2 ? "," : ",..,";
    used += snprintf(text + used, bytes - (size_t)used, "%s%d", between, order[count - 1]);
    snprintf(text + used, bytes - (size_t)used, " x %d", count);
}

/* The groups inside a group of the level outside, alike neighbours in one line. */
static void print_groups(struct tree *tree, int level, int outside)
{
    char label[64], list[COLUMNS];
    if (level == tree->topology->levels) return;
    const struct branch *branch = &tree->branch[level];
    for (int first = branch->begin[outside], next; first < branch->begin[outside + 1]; first = next) {
        int group = branch->order[first];
        for (next = first + 1; next < branch->begin[outside + 1]; next++)
            if (branch->shape[branch->order[next]] != branch->shape[group]) break;
        if (next > first + 1) tree->folded = true;
        write_label(tree, level, first, next - first, label, sizeof label);
        int used = (int)strlen(label) > LABEL ? (int)strlen(label) : LABEL;
        write_ranks(tree, level, first, next - first, list, (size_t)(COLUMNS + 1 - used - EACH - 2));
        fprintf(tree->file, "%-*s%*d  %s\n", LABEL, label, EACH, branch->ranks[group], list);
        print_groups(tree, level + 1, group);
    }
}

/* "2 leaves, 8 nodes, 64 ranks" in lines of 80 columns. */
static void print_totals(const struct tree *tree)
{
    const struct moire_topology *topology = tree->topology;
    int column = 0;
    for (int level = 0; level <= topology->levels; level++) {
        bool last = level == topology->levels;
        int groups = last ? topology->ranks : topology->level[level].groups;
        char text[64];
        int letters = snprintf(text, sizeof text, "%d %s%s", groups,
                               moire_level_word(last ? "rank" : topology->level[level].name, groups),
                               last ? "\n" : ",");
        bool fits = column + 1 + letters <= COLUMNS;
        fprintf(tree->file, "%s%s", column == 0 ? "" : fits ? " " : "\n", text);
        column = fits ? column + 1 + letters : letters;
    }
}

static void print_tree(struct tree *tree)
{
    const struct moire_topology *topology = tree->topology;
    FILE *file = tree->file;
    print_totals(tree);
    fprintf(file, "from %s\n\n", topology->source);
    fprintf(file, "%-*s%*s  ranks\n", LABEL, "level and numbers", EACH, "each");
    fprintf(file, "%-*s%*d  0", LABEL, "world", EACH, topology->ranks);
    fprintf(file, topology->ranks > 1 ? "-%d\n" : "\n", topology->ranks - 1);
    print_groups(tree, 0, 0);
    if (tree->folded) fprintf(file, "x N: N alike; what is below is that of the first\n");
}

moire_status moire_topology_print(const struct moire_topology *topology, FILE *file)
{
    struct tree tree = { .topology = topology, .file = file };
    moire_status status = allocate(&tree);
    if (status == MOIRE_OK) {
        for (int level = 0; level < topology->levels; level++) sort_level(&tree, level);
        for (int level = topology->levels - 1; level >= 0; level--) find_shapes(&tree, level);
        print_tree(&tree);
    }
    free_tree(&tree);
    return status;
}
