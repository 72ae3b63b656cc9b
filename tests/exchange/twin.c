#include "twin.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../support/harness.h"

static void *memory(int64_t bytes)
{
    void *pointer = calloc((size_t)bytes + 1, 1);
    if (!pointer) MPI_Abort(MPI_COMM_WORLD, 1);
    return pointer;
}

/* All ranks' bytes, one after the other; begin[r] is where those of rank r start. */
static void *gather(const void *mine, int64_t bytes, int64_t begin[TWIN_RANKS_MOST + 1])
{
    int counts[TWIN_RANKS_MOST], displacements[TWIN_RANKS_MOST], count = (int)bytes;
    MPI_Allgather(&count, 1, MPI_INT, counts, 1, MPI_INT, MPI_COMM_WORLD);
    begin[0] = 0;
    for (int r = 0; r < test_ranks; r++) {
        displacements[r] = (int)begin[r];
        begin[r + 1] = begin[r] + counts[r];
    }
    void *all = memory(begin[test_ranks]);
    MPI_Allgatherv(mine, count, MPI_BYTE, all, counts, displacements, MPI_BYTE, MPI_COMM_WORLD);
    return all;
}

static int compare(const void *left, const void *right)
{
    const struct twin_copy *a = left, *b = right;
    const int64_t x[] = { a->destination, a->instance, a->near, a->source, a->token, a->slot, a->target };
    const int64_t y[] = { b->destination, b->instance, b->near, b->source, b->token, b->slot, b->target };
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
}

static bool same_node(const struct twin_map *map, int a, int b)
{
    return map->node_of[a] == map->node_of[b] && map->leaf_of[a] == map->leaf_of[b];
}

static int nearness(const struct twin_map *map, int rank)
{
    return rank == test_rank ? 0 : same_node(map, rank, test_rank) ? 1 : 2;
}

static struct twin_copy *list_own(const struct moire_routing *routing,
                                  const struct moire_placement *placement, const struct twin_map *map,
                                  int64_t *count)
{
    int64_t targets = routing->slots == 0     ? 0
                      : routing->target_begin ? routing->target_begin[routing->slots]
                                              : routing->slots;
    struct twin_copy *copies = memory(targets * (int64_t)sizeof *copies);
    *count = 0;
    for (int64_t t = 0; t < routing->tokens; t++)
        for (int64_t n = routing->slot_begin[t]; n < routing->slot_begin[t + 1]; n++) {
            int64_t first = routing->target_begin ? routing->target_begin[n] : n;
            int64_t end = routing->target_begin ? routing->target_begin[n + 1] : n + 1;
            for (int64_t c = first; c < end; c++) {
                int rank = placement->instance_rank[routing->targets[c]];
                copies[(*count)++] = (struct twin_copy) { .source = test_rank,
                                                          .token = t,
                                                          .slot = n,
                                                          .target = c,
                                                          .instance = routing->targets[c],
                                                          .destination = rank,
                                                          .near = nearness(map, rank) };
            }
        }
    return copies;
}

void twin_create(struct twin *twin, const struct moire_routing *routing,
                 const struct moire_placement *placement, const struct twin_map *map)
{
    int64_t count, begin[TWIN_RANKS_MOST + 1];
    struct twin_copy *own = list_own(routing, placement, map, &count);
    *twin = (struct twin) { .map = *map };
    twin->copies = gather(own, count * (int64_t)sizeof *own, begin);
    twin->count = begin[test_ranks] / (int64_t)sizeof *own;
    free(own);
    qsort(twin->copies, (size_t)twin->count, sizeof *twin->copies, compare);
    for (int64_t i = 0; i < twin->count; i++)
        twin->copies[i].row = twin->received[twin->copies[i].destination]++;
}

void twin_free(struct twin *twin)
{
    free(twin->copies);
    *twin = (struct twin) { 0 };
}

static int64_t row_bytes(const struct moire_rows *buffer)
{
    return buffer->width * (int64_t)moire_element_bytes(buffer->element);
}

static double element_at(moire_element element, const char *row, int64_t k)
{
    double wide;
    float narrow;
    if (element == MOIRE_FLOAT64) {
        memcpy(&wide, row + k * 8, 8);
        return wide;
    }
    memcpy(&narrow, row + k * 4, 4);
    return narrow;
}

static void put(moire_element element, char *row, int64_t k, double value)
{
    float narrow = (float)value;
    if (element == MOIRE_FLOAT64)
        memcpy(row + k * 8, &value, 8);
    else
        memcpy(row + k * 4, &narrow, 4);
}

/* To eight significant bits, ties to even; what is drawn here is neither tiny nor huge. */
static double rounded(double value)
{
    int exponent;
    double fraction = frexp((double)(float)value, &exponent);
    return copysign(ldexp(nearbyint(fraction * 256), exponent - 8), value);
}

/* Row `row` or number `slot` of the source, whichever `by_slot` says. */
static void *dispatch(const struct twin *twin, const struct moire_rows *from, int64_t count, bool by_slot)
{
    int64_t begin[TWIN_RANKS_MOST + 1], bytes = row_bytes(from);
    char *all = gather(from->data, count * bytes, begin),
         *expected = memory(twin->received[test_rank] * bytes);
    for (int64_t i = 0; i < twin->count; i++) {
        const struct twin_copy *copy = &twin->copies[i];
        if (copy->destination != test_rank) continue;
        int64_t index = by_slot ? copy->slot : copy->token;
        char *row = expected + copy->row * bytes;
        memcpy(row, all + begin[copy->source] + index * bytes, (size_t)bytes);
        for (int64_t k = 0; k < from->width && twin->map.bfloat16 && !by_slot; k++)
            put(from->element, row, k, rounded(element_at(from->element, row, k)));
    }
    free(all);
    return expected;
}

void *twin_dispatch_rows(const struct twin *twin, const struct moire_rows *rows, int64_t tokens)
{
    return dispatch(twin, rows, tokens, false);
}

void *twin_dispatch_numbers(const struct twin *twin, const struct moire_rows *numbers, int64_t slots)
{
    return dispatch(twin, numbers, slots, true);
}

/* One copy in a sum. */
struct term {
    int64_t leaf, node, instance, slot, target;
    const char *row;
};

static int compare_terms(const void *left, const void *right)
{
    const struct term *a = left, *b = right;
    const int64_t x[] = { a->leaf, a->node, a->instance, a->slot, a->target },
                  y[] = { b->leaf, b->node, b->instance, b->slot, b->target };
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
}

/* What rounding there is at each level: of copies, of nodes' sums, of leaves' sums. */
struct rounding {
    bool copies, nodes, leaves;
};

static struct rounding rounding_of(const struct twin_map *map)
{
    struct rounding rounding = { .copies = map->bfloat16 };
    for (int r = 1; r < test_ranks && map->bfloat16; r++) {
        if (!same_node(map, 0, r)) rounding.nodes = true;
        if (map->leaf_of[r] != map->leaf_of[0]) rounding.leaves = true;
    }
    return rounding;
}

static double add(moire_element element, double a, double b)
{
    return element == MOIRE_FLOAT64 ? a + b : (double)((float)a + (float)b);
}

/* The sum of values that have the same key, one after the other; `level` 0: all; 1: of a leaf; 2: of a node.
 */
static double sum_terms(moire_element element, const struct term *terms, int64_t count, int64_t k, int level,
                        const struct rounding *rounding)
{
    double total = 0;
    for (int64_t i = 0, end; i < count; i = end) {
        double value;
        end = i + 1;
        if (level == 2) {
            value = element_at(element, terms[i].row, k);
            if (rounding->copies) value = rounded(value);
        } else {
            while (end < count && terms[end].leaf == terms[i].leaf &&
                   (level == 0 || terms[end].node == terms[i].node))
                end++;
            value = sum_terms(element, terms + i, end - i, k, level + 1, rounding);
            if (level == 0 ? rounding->leaves : rounding->nodes) value = rounded(value);
        }
        total = i == 0 ? value : add(element, total, value);
    }
    return total;
}

static void *combine(const struct twin *twin, const struct moire_rows *from, int64_t count, bool by_slot)
{
    const struct twin_map *map = &twin->map;
    const struct rounding rounding = by_slot ? (struct rounding) { false, false, false } : rounding_of(map);
    int64_t begin[TWIN_RANKS_MOST + 1], bytes = row_bytes(from);
    char *all = gather(from->data, twin->received[test_rank] * bytes, begin),
         *expected = memory(count * bytes);
    struct term *terms = memory(twin->count * (int64_t)sizeof *terms);
    for (int64_t index = 0; index < count; index++) {
        int64_t found = 0;
        for (int64_t i = 0; i < twin->count; i++) {
            const struct twin_copy *copy = &twin->copies[i];
            if (copy->source != test_rank || (by_slot ? copy->slot : copy->token) != index) continue;
            terms[found++] = (struct term) { map->leaf_of[copy->destination],
                                             map->node_of[copy->destination],
                                             copy->instance,
                                             copy->slot,
                                             copy->target,
                                             all + begin[copy->destination] + copy->row * bytes };
        }
        if (found > 0) qsort(terms, (size_t)found, sizeof *terms, compare_terms);
        for (int64_t k = 0; k < from->width && found > 0; k++)
            put(from->element, expected + index * bytes, k,
                sum_terms(from->element, terms, found, k, 0, &rounding));
    }
    free(terms);
    free(all);
    return expected;
}

void *twin_combine_rows(const struct twin *twin, const struct moire_rows *outputs, int64_t tokens)
{
    return combine(twin, outputs, tokens, false);
}

void *twin_combine_numbers(const struct twin *twin, const struct moire_rows *numbers, int64_t slots)
{
    return combine(twin, numbers, slots, true);
}
