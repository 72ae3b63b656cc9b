/* What is known exactly of the reference back end: rows by level, bytes, messages, rounds. */
#include <string.h>

#include "lane.h"

static int level_of(const struct setup *setup, int64_t a, int64_t b)
{
    return a == b                                   ? MOIRE_LEVEL_SELF
           : setup->leaf_of[a] != setup->leaf_of[b] ? MOIRE_LEVEL_SPINE
           : setup->node_of[a] == setup->node_of[b] ? MOIRE_LEVEL_NODE
                                                    : MOIRE_LEVEL_FAR;
}

/* Rows of the twin out of and into this rank, by peer. */
static void count_rows(const struct lane *lane, int64_t out[MOST_RANKS], int64_t in[MOST_RANKS])
{
    memset(out, 0, MOST_RANKS * sizeof *out);
    memset(in, 0, MOST_RANKS * sizeof *in);
    for (int64_t c = 0; c < lane->twin.count; c++) {
        const struct twin_copy *copy = &lane->twin.copies[c];
        if (copy->source == test_rank) out[copy->destination]++;
        if (copy->destination == test_rank) in[copy->source]++;
    }
}

static int64_t count_messages(const int64_t rows[MOST_RANKS], int64_t round_rows)
{
    int64_t messages = 0;
    for (int r = 0; r < test_ranks; r++)
        for (int64_t left = r == test_rank ? 0 : rows[r]; left > 0; left -= round_rows) messages++;
    return messages;
}

static void check_stage(const struct moire_stage *stage, const char *name, const int64_t out[MOIRE_LEVELS],
                        const int64_t in[MOIRE_LEVELS], int64_t messages, int64_t row_bytes)
{
    expect(strcmp(stage->name, name) == 0);
    expect(stage->messages == messages);
    const int64_t far_out = out[MOIRE_LEVEL_FAR] + out[MOIRE_LEVEL_SPINE],
                  far_in = in[MOIRE_LEVEL_FAR] + in[MOIRE_LEVEL_SPINE];
    expect(stage->bytes_out == (out[MOIRE_LEVEL_NODE] + far_out) * row_bytes);
    expect(stage->bytes_in == (in[MOIRE_LEVEL_NODE] + far_in) * row_bytes);
    expect(stage->node_bytes_out == far_out * row_bytes);
    expect(stage->node_bytes_in == far_in * row_bytes);
}

static void check_counts(struct setup *setup, int64_t round_rows)
{
    struct lane lane;
    struct moire_stage stages[2];
    int64_t out[MOST_RANKS], in[MOST_RANKS], out_level[MOIRE_LEVELS] = { 0 }, in_level[MOIRE_LEVELS] = { 0 };
    struct moire_exchange_bytes bytes;
    const int64_t row_bytes = setup_round_bytes(setup, 1),
                  number_bytes = (int64_t)moire_element_bytes(setup->element);
    lane_create(&lane, setup);
    route_random(&lane.route, setup, MOST_TOKENS);
    lane_prepare(&lane);
    count_rows(&lane, out, in);
    for (int r = 0; r < test_ranks; r++) {
        out_level[level_of(setup, test_rank, r)] += out[r];
        in_level[level_of(setup, test_rank, r)] += in[r];
    }
    expect(moire_exchange_volume(lane.plan, stages, 2) == 2);
    check_stage(&stages[0], "rows out", out_level, in_level, count_messages(out, round_rows), row_bytes);
    check_stage(&stages[1], "rows back", in_level, out_level, count_messages(in, round_rows), row_bytes);
    lane_check(&lane);
    moire_exchange_bytes(setup->exchange, &bytes);
    for (int level = 0; level < MOIRE_LEVELS; level++) {
        expect(lane.plan->rows_out[level] == out_level[level]);
        const int64_t rows = out_level[level] + in_level[level];
        const int64_t transfers = 4; /* each way: split and blocking, with numbers and without */
        expect(bytes.rows[level] == transfers * rows * (row_bytes - number_bytes));
        expect(bytes.numbers[level] == transfers / 2 * rows * number_bytes);
    }
    lane_free(&lane);
}

static void test_counts(void)
{
    const int64_t round_rows[] = { 1, 2, 5, 1000 };
    for (int nodes = 0; nodes < NODE_MAPS; nodes++)
        for (int i = 0; i < 4; i++) {
            struct setup setup = { .backend = &moire_backend_alltoallv,
                                   .element = i % 2 ? MOIRE_FLOAT64 : MOIRE_FLOAT32,
                                   .width = 3,
                                   .contexts = 1,
                                   .wire = i > 1 ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32 };
            setup_nodes(&setup, nodes);
            setup_places(&setup, EVEN);
            setup.round_bytes = setup_round_bytes(&setup, round_rows[i]);
            if (!setup_create(&setup)) continue;
            check_counts(&setup, round_rows[i]);
            setup_free(&setup);
        }
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = { { "rows, bytes and messages by level", test_counts } };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
