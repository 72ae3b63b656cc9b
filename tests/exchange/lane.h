/* What the tests of the exchange stand on: an exchange with its placement and nodes (struct setup), a routing
 * of this rank (struct route), and a plan with all its buffers and its naive twin (struct lane). */
#ifndef MOIRE_TESTS_EXCHANGE_LANE_H
#define MOIRE_TESTS_EXCHANGE_LANE_H

#include "moire/exchange/backend.h"
#include "../support/harness.h"
#include "twin.h"

enum { MOST_RANKS = TWIN_RANKS_MOST, MOST_TOKENS = 48, MOST_SLOTS = 256, MOST_TARGETS = 1024 };

enum nodes { ONE_NODE, NODE_EACH, TWO_A_NODE, UNEVEN_NODES, TWO_LEAVES, NODE_MAPS };
enum places { EVEN, FEWER_THAN_RANKS, REPLICAS, LAST_RANK_ONLY, PLACE_MAPS };

struct setup {
    const struct moire_backend *backend;
    moire_element element;
    int64_t width, round_bytes;
    int contexts, chunks, peers_in_flight;
    enum moire_wire wire;
    bool deduplicate, check;
    int node_of[MOST_RANKS], leaf_of[MOST_RANKS];
    struct moire_placement placement;
    struct moire_communicator world;
    struct moire_exchange *exchange;
};

/* Runs a test with each back end of the table. */
extern const struct moire_backend *backend_under_test;
void for_each_backend(void (*test)(void));

/* A setup of the back end under test, not created yet: float32, small rows, no rounds, one context. */
struct setup float_setup(enum nodes nodes, enum places places);
/* Or fill in the rest before; nodes and places by these. */
void setup_nodes(struct setup *setup, enum nodes nodes);
void setup_places(struct setup *setup, enum places places);
void setup_random_places(struct setup *setup, int64_t experts, int64_t instances); /* alike on all ranks */
/* False, with the reason printed, where the back end is not applicable. */
bool setup_create(struct setup *setup);
void setup_free(struct setup *setup);
/* Room for so many rows with their numbers, as round_bytes. */
int64_t setup_round_bytes(const struct setup *setup, int64_t rows);

struct route {
    struct moire_routing routing;
    int64_t slot_begin[MOST_TOKENS + 1], target_begin[MOST_SLOTS + 1], targets[MOST_TARGETS];
};

/* Builds a routing: clear, then for each token its slots, for each slot its targets, then token_end. */
void route_clear(struct route *route);
void route_slot(struct route *route); /* a slot without target so far */
void route_target(struct route *route, int64_t instance);
void route_token_end(struct route *route);
/* Leaves target_begin away, for routings with one target a slot. */
void route_one_target_a_slot(struct route *route);

/* The patterns of traffic. */
struct pattern {
    const char *name;
    void (*fill)(struct route *route, const struct setup *setup);
};
extern const struct pattern patterns[];
extern const int pattern_count;
void route_uniform(struct route *route, const struct setup *setup, int64_t tokens, int64_t slots_each);
void route_random(struct route *route, const struct setup *setup, int64_t most_tokens);

/* A random number of this rank alone, in [0, bound). */
int64_t local_below(int64_t bound);
/* Fills with values of very different sizes, so that another association gives other bits; some are -0.0. */
void fill_random(struct moire_rows *buffer, int64_t rows);

struct lane {
    struct setup *setup;
    struct route route;
    struct moire_plan *plan;
    struct moire_rows rows, numbers; /* tokens and slots */
    struct moire_rows sums, number_sums;
    struct moire_rows received, received_numbers; /* grown by the plan, as the next two */
    struct moire_rows outputs, output_numbers;
    struct twin twin;
    struct moire_transfer *dispatching, *combining;
    bool numbers_out, numbers_back; /* whether numbers travel beside the rows */
};

void lane_create(struct lane *lane, struct setup *setup);
void lane_free(struct lane *lane);
/* prepare with lane->route, and a new twin; checks the plan. */
void lane_prepare(struct lane *lane);
/* New random contents, then begin. None of these may allocate. */
void lane_dispatch(struct lane *lane, bool with_numbers);
void lane_combine(struct lane *lane, bool with_numbers);
/* Ends the transfer. The order of ends may differ between ranks. */
void lane_end(struct moire_transfer *transfer);
/* The same chunk by chunk. A dispatch is compared, and ended; a combine gets the outputs of a chunk only before
 * it says so, and is ended and compared. */
void lane_dispatch_chunks(struct lane *lane, bool with_numbers);
void lane_combine_chunks(struct lane *lane, bool with_numbers);
/* Compares with the twin, bit by bit. Collective. */
void lane_dispatch_compare(struct lane *lane);
void lane_combine_compare(struct lane *lane);
/* The same in the blocking form, compared. */
void lane_dispatch_blocking(struct lane *lane, bool with_numbers);
void lane_combine_blocking(struct lane *lane, bool with_numbers);
/* One after the other, with numbers and without. */
void lane_check(struct lane *lane);

/* failures.c */
void test_failures(void);
void test_wrong_calls(void);
void test_create(void);

#endif
