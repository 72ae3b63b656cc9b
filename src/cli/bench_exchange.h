/* What the files of moire bench exchange share. Private to cli. */
#ifndef CLI_BENCH_EXCHANGE_H
#define CLI_BENCH_EXCHANGE_H

#include "cli/bench.h"
#include "moire/exchange/backend.h"
#include "moire/exchange/baseline.h"
#include "moire/io/routing.h"
#include "moire/moe/traffic.h"

enum moire_bench_way { MOIRE_BENCH_DISPATCH, MOIRE_BENCH_COMBINE, MOIRE_BENCH_PREPARE, MOIRE_BENCH_WAYS };
extern const char *const moire_bench_way_names[MOIRE_BENCH_WAYS];

/* ---- bench_exchange_case.c: who sends what to whom ---- */

/* The tokens of a model, shared by the cases of its layers. */
struct moire_bench_traffic {
    struct moire_placement placement;
    struct moire_traffic traffic;
    struct moire_routing_file recording; /* replay alone */
};
/* Not collective; free it also after a failure. */
moire_status moire_bench_traffic_create(const struct moire_bench_run *run,
                                        struct moire_bench_traffic *traffic);
void moire_bench_traffic_free(struct moire_bench_traffic *traffic);

/* One exchange: P ranks of an expert group, K slots a token, each with one instance or none. The row of a
 * token is a function of (source rank, token), so that every rank knows what it must receive. */
struct moire_bench_case {
    const struct moire_bench_run *run;
    char name[32]; /* "65536" or "layer 3" */
    double layer;  /* NaN: sizes */
    int64_t width, top_k;
    int64_t rows_a_pair;                 /* sizes; 0: model */
    struct moire_bench_traffic *traffic; /* model: borrowed */
    int model_layer, moe_layer;
    const struct moire_placement *placement; /* own_placement, or the traffic's */
    struct moire_placement own_placement;
    struct moire_routing routing; /* of this rank; its arrays are owned */
    int64_t *slot_begin, *target_begin, *targets;
    int32_t *choices; /* owned, [most tokens of a rank, K]: scratch */
    /* Bytes of one row a copy by level, all ranks of the world together, and of the numbers beside them. */
    int64_t row_payload[MOIRE_LEVELS], number_payload[MOIRE_LEVELS];
    double pair_bytes; /* of rows from a rank to a rank, mean */
};
/* `size` is the wanted bytes of rows a pair, met as nearly as whole rows can: rows of the model, or where a
 * size is less than one, of 16 elements. Both not collective; free also after a failure. */
moire_status moire_bench_case_of_size(const struct moire_bench_run *run, int64_t size,
                                      struct moire_bench_case *what);
moire_status moire_bench_case_of_layer(const struct moire_bench_run *run, struct moire_bench_traffic *traffic,
                                       int layer, int moe_layer, struct moire_bench_case *what);
/* Sums the payloads over the world. Collective. */
moire_status moire_bench_case_sum(struct moire_bench_case *what);
void moire_bench_case_free(struct moire_bench_case *what);
/* Instances [tokens of `source`, K] that the tokens of a rank of the expert group choose, -1 for none. */
moire_status moire_bench_case_choose(const struct moire_bench_case *what, int source, int32_t *choices);
/* Tokens that such a rank brings. */
int64_t moire_bench_case_tokens(const struct moire_bench_case *what, int source);
/* Bytes of an element of a row under way. */
int64_t moire_bench_wire_element(const struct moire_config *config);
int moire_bench_chunks(const struct moire_config *config);

/* ---- bench_exchange_lane.c: a back end with its buffers ---- */

struct moire_bench_lane {
    const struct moire_bench_case *what;
    struct moire_exchange *exchange;
    struct moire_plan *plan;
    struct moire_rows rows, numbers;                     /* [T, D], [N, 1] */
    struct moire_rows received, received_numbers;        /* [R, D], [R, 1] */
    struct moire_rows sums, number_sums;                 /* [T, D], [N, 1] */
    struct moire_exchange_bytes bytes[MOIRE_BENCH_WAYS]; /* of one call, all ranks of the world together */
};
/* An exchange with the settings of [exchange]; agreed over the expert group. Collective over it. */
moire_status moire_bench_exchange_create(const struct moire_bench_case *what, const char *backend,
                                         struct moire_exchange **exchange);
/* Makes a lane ready, checks every received row and sum, and counts bytes. MOIRE_FAILED with rank, row, found
 * and expected where one is wrong. Agreed over the world; collective over it. */
moire_status moire_bench_lane_create(const struct moire_bench_case *what, const char *backend,
                                     struct moire_bench_lane *lane);
/* Collective; also after an agreed failure. */
void moire_bench_lane_free(struct moire_bench_lane *lane);
/* One call. Collective over the expert group. */
moire_status moire_bench_lane_run(struct moire_bench_lane *lane, enum moire_bench_way way);

/* ---- bench_exchange_report.c ---- */

/* What moved, kept until all cases are measured. */
struct moire_bench_moved {
    double layer, pair_bytes;
    const char *backend;
    enum moire_bench_way way;
    struct moire_exchange_bytes bytes;
    double saved; /* share of the payload between nodes that did not travel; NaN: there is none */
};
enum { MOIRE_BENCH_DESCRIPTION = 256 };
struct moire_bench_comparison {
    struct moire_bench_run *run;
    bool *chosen, *skipped;                     /* owned, [back ends]; skipped: and said so */
    char (*described)[MOIRE_BENCH_DESCRIPTION]; /* owned, [back ends]: what was last said of each */
    bool begun;                                 /* the table of times has its names */
    struct moire_bench_moved *moved;            /* owned, on all ranks */
    int64_t moved_count, moved_capacity;
};
/* The settings. */
moire_status moire_bench_exchange_start(const struct moire_bench_comparison *bench);
/* A measured case. Variants stand in the order of moire_bench_lane_variant and
 * moire_bench_baseline_variant; `lanes` [lane_count]. */
moire_status moire_bench_exchange_report(struct moire_bench_comparison *bench,
                                         const struct moire_bench_case *what,
                                         const struct moire_bench_lane *lanes, int lane_count,
                                         const struct moire_measure *measure);
/* The table of bytes. */
moire_status moire_bench_exchange_finish(const struct moire_bench_comparison *bench);
/* Index of a variant: of lane `lane`, or of the baselines behind the lanes (MOIRE_BENCH_MPI, then
 * MOIRE_BENCH_COPIES), which have no prepare. */
enum { MOIRE_BENCH_MPI, MOIRE_BENCH_COPIES, MOIRE_BENCH_BASELINES };
static inline int moire_bench_lane_variant(int lane, enum moire_bench_way way)
{
    return lane * MOIRE_BENCH_WAYS + (int)way;
}
static inline int moire_bench_baseline_variant(int lane_count, int baseline, enum moire_bench_way way)
{
    return lane_count * MOIRE_BENCH_WAYS + baseline * MOIRE_BENCH_PREPARE + (int)way;
}

#endif
