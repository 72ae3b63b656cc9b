#include "../support/harness.h"

#include "moire/cluster/mesh.h"
#include "moire/cluster/placement.h"

/* Every table against a search through the map. */
static void check_tables(const struct moire_placement *map)
{
    expect(map->rank_begin[0] == 0 && map->rank_begin[map->ranks] == map->instances);
    for (int rank = 0; rank < map->ranks; rank++) {
        int64_t count = 0;
        for (int64_t i = 0; i < map->instances; i++) count += map->instance_rank[i] == rank;
        expect(moire_placement_local(map, rank) == count);
        for (int64_t i = map->rank_begin[rank]; i < map->rank_begin[rank + 1]; i++)
            expect(map->instance_rank[i] == rank);
    }
    expect(map->expert_begin[0] == 0 && map->expert_begin[map->experts] == map->instances);
    for (int64_t expert = 0; expert < map->experts; expert++) {
        int64_t next = map->expert_begin[expert];
        for (int64_t i = 0; i < map->instances; i++)
            if (map->instance_expert[i] == expert) {
                expect(next < map->expert_begin[expert + 1] && map->expert_instances[next] == i);
                next++;
            }
        expect(next == map->expert_begin[expert + 1]);
    }
}

static void even_placements(void)
{
    for (int64_t experts = 0; experts < 12; experts++)
        for (int ranks = 1; ranks < 9; ranks++) {
            struct moire_placement map;
            expect_ok(moire_placement_even(experts, ranks, &map));
            expect(map.experts == experts && map.ranks == ranks && map.instances == experts);
            for (int64_t i = 0; i < experts; i++) expect(map.instance_expert[i] == i);
            for (int rank = 0; rank < ranks; rank++) {
                int64_t first;
                expect(moire_placement_local(&map, rank) == moire_share(experts, ranks, rank, &first));
                expect(map.rank_begin[rank] == first);
            }
            check_tables(&map);
            moire_placement_free(&map);
        }
}

static void random_placements(void)
{
    enum { MOST = 40 };
    for (int round = 0; round < 200; round++) {
        int64_t experts = 1 + test_random_below(10), instances = test_random_below(MOST), expert[MOST];
        int ranks = 1 + (int)test_random_below(6), rank[MOST], now = 0;
        for (int64_t i = 0; i < instances; i++) {
            if (test_random_below(3) == 0) now += (int)test_random_below(ranks - now);
            expert[i] = test_random_below(experts);
            rank[i] = now;
        }
        struct moire_placement map;
        expect_ok(moire_placement_create(experts, ranks, instances, expert, rank, &map));
        for (int64_t i = 0; i < instances; i++)
            expect(map.instance_expert[i] == expert[i] && map.instance_rank[i] == rank[i]);
        check_tables(&map);
        moire_placement_free(&map);
    }
}

static void wrong_placements_are_refused(void)
{
    struct moire_placement map;
    const int64_t fine[] = { 0, 1, 1 }, high[] = { 0, 1, 2 }, low[] = { 0, -1, 1 };
    const int order[] = { 0, 0, 1 }, falling[] = { 0, 1, 0 }, outside[] = { 0, 1, 2 },
              negative[] = { -1, 0, 1 };
    expect_failure(moire_placement_create(2, 2, 3, high, order, &map), MOIRE_BAD_DATA,
                   "instance 2 has no expert");
    expect_failure(moire_placement_create(2, 2, 3, low, order, &map), MOIRE_BAD_DATA,
                   "found expert -1, expected 0 to 1");
    expect_failure(moire_placement_create(2, 2, 3, fine, falling, &map), MOIRE_BAD_DATA,
                   "found rank 0, expected 1 to 1");
    expect_failure(moire_placement_create(2, 2, 3, fine, outside, &map), MOIRE_BAD_DATA,
                   "instance 2 is out of order");
    expect_failure(moire_placement_create(2, 2, 3, fine, negative, &map), MOIRE_BAD_DATA, "found rank -1");
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "even placements", even_placements },
        { "random placements", random_placements },
        { "wrong placements are refused", wrong_placements_are_refused },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
