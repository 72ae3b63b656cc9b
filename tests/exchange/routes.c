/* Routings of one rank. */
#include "lane.h"

void route_clear(struct route *route)
{
    route->slot_begin[0] = route->target_begin[0] = 0;
    route->routing = (struct moire_routing){ .slot_begin = route->slot_begin,
                                             .target_begin = route->target_begin,
                                             .targets = route->targets };
}

void route_slot(struct route *route)
{
    int64_t n = route->routing.slots++;
    route->target_begin[n + 1] = route->target_begin[n];
}

void route_target(struct route *route, int64_t instance)
{
    route->targets[route->target_begin[route->routing.slots]++] = instance;
}

void route_token_end(struct route *route)
{
    route->slot_begin[++route->routing.tokens] = route->routing.slots;
}

void route_one_target_a_slot(struct route *route)
{
    for (int64_t n = 0; n <= route->routing.slots; n++)
        if (route->target_begin[n] != n) return;
    route->routing.target_begin = NULL;
}

/* One slot to an expert: to the replica that belongs to this rank, or to all (slices). An expert without an
 * instance drops it. */
static void add_slot(struct route *route, const struct setup *setup, int64_t expert, bool slices)
{
    const struct moire_placement *placement = &setup->placement;
    const int64_t first = placement->expert_begin[expert],
                  count = placement->expert_begin[expert + 1] - first;
    route_slot(route);
    for (int64_t i = 0; i < count; i++)
        if (slices || i == test_rank % count) route_target(route, placement->expert_instances[first + i]);
}

static int64_t any_expert(const struct setup *setup)
{
    return local_below(setup->placement.experts);
}

/* Expert e with a probability of about 1 / (e + 1). */
static int64_t zipf_expert(const struct setup *setup)
{
    for (;;) {
        int64_t expert = any_expert(setup);
        if (local_below(expert + 1) == 0) return expert;
    }
}

void route_uniform(struct route *route, const struct setup *setup, int64_t tokens, int64_t slots_each)
{
    route_clear(route);
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t k = 0; k < slots_each; k++) add_slot(route, setup, any_expert(setup), false);
        route_token_end(route);
    }
    route_one_target_a_slot(route);
}

static void uniform(struct route *route, const struct setup *setup)
{
    route_uniform(route, setup, 7 + 4 * test_rank, 2);
}

static void skewed(struct route *route, const struct setup *setup)
{
    route_clear(route);
    for (int t = 0; t < 20; t++) {
        for (int k = 0; k < 3; k++) add_slot(route, setup, zipf_expert(setup), false);
        route_token_end(route);
    }
    route_one_target_a_slot(route);
}

static void all_to_one(struct route *route, const struct setup *setup)
{
    route_clear(route);
    for (int t = 0; t < 12; t++) {
        add_slot(route, setup, 0, false);
        route_token_end(route);
    }
    route_one_target_a_slot(route);
}

static void empty_ranks(struct route *route, const struct setup *setup)
{
    route_uniform(route, setup, local_below(2) * 9, 2);
}

static void all_empty(struct route *route, const struct setup *setup)
{
    (void)setup;
    route_clear(route);
}

static void one_row(struct route *route, const struct setup *setup)
{
    route_uniform(route, setup, test_rank == test_ranks - 1, 1);
}

static void uneven_slots(struct route *route, const struct setup *setup)
{
    route_clear(route);
    for (int t = 0; t < 15; t++) {
        for (int64_t k = local_below(5); k > 0; k--) add_slot(route, setup, any_expert(setup), false);
        route_token_end(route);
    }
}

static void dropped_slots(struct route *route, const struct setup *setup)
{
    route_clear(route);
    for (int t = 0; t < 15; t++) {
        for (int k = 0; k < 2; k++)
            if (local_below(2))
                route_slot(route);
            else
                add_slot(route, setup, any_expert(setup), false);
        route_token_end(route);
    }
}

static void slices(struct route *route, const struct setup *setup)
{
    route_clear(route);
    for (int t = 0; t < 10; t++) {
        for (int k = 0; k < 2; k++) add_slot(route, setup, any_expert(setup), true);
        route_token_end(route);
    }
}

static void same_instance_twice(struct route *route, const struct setup *setup)
{
    route_clear(route);
    for (int t = 0; t < 10; t++) {
        int64_t expert = any_expert(setup);
        add_slot(route, setup, expert, false);
        add_slot(route, setup, any_expert(setup), false);
        add_slot(route, setup, expert, false);
        route_token_end(route);
    }
}

const struct pattern patterns[] = {
    { "uniform", uniform },
    { "skewed", skewed },
    { "all to one", all_to_one },
    { "empty ranks", empty_ranks },
    { "all empty", all_empty },
    { "one row", one_row },
    { "uneven slots", uneven_slots },
    { "dropped slots", dropped_slots },
    { "slices", slices },
    { "same instance twice", same_instance_twice },
};
const int pattern_count = sizeof patterns / sizeof *patterns;

/* Anything that is allowed: targets of a slot in any order, also twice the same. */
void route_random(struct route *route, const struct setup *setup, int64_t most_tokens)
{
    const int64_t instances = setup->placement.instances, most_slots = local_below(5),
                  most_targets = 1 + local_below(3);
    route_clear(route);
    for (int64_t tokens = local_below(most_tokens + 1); tokens > 0; tokens--) {
        for (int64_t k = local_below(most_slots + 1); k > 0; k--) {
            route_slot(route);
            if (instances == 0) continue;
            for (int64_t c = local_below(most_targets + 1); c > 0; c--)
                route_target(route, local_below(instances));
        }
        route_token_end(route);
    }
    route_one_target_a_slot(route);
}
