/* Plain MPI with copies around it moves the rows that the exchange moves, but those of the own rank. */
#include <string.h>

#include "lane.h"
#include "moire/exchange/baseline.h"

/* Every row of `found` is that of `wanted`, or was not written and is still its complement; returns how many
 * were not written. */
static int64_t count_untouched(const char *found, const char *wanted, int64_t rows, int64_t row_bytes)
{
    int64_t untouched = 0;
    for (int64_t row = 0; row < rows; row++, found += row_bytes, wanted += row_bytes) {
        bool same = memcmp(found, wanted, (size_t)row_bytes) == 0, other = true;
        for (int64_t i = 0; i < row_bytes; i++) other = other && found[i] == ~wanted[i];
        expect(same != other);
        untouched += other;
    }
    return untouched;
}

static void complement(char *to, const char *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++) to[i] = (char)~from[i];
}

static void check_dispatch(const struct lane *lane, struct moire_baseline *baseline, bool numbers)
{
    const struct moire_plan *plan = lane->plan;
    const int64_t row = baseline->row_bytes, number = (int64_t)sizeof(float);
    int64_t own = 0;
    for (int64_t c = 0; c < lane->twin.count; c++)
        own += lane->twin.copies[c].source == test_rank && lane->twin.copies[c].destination == test_rank;
    memcpy(baseline->rows, lane->rows.data, (size_t)(plan->routing.tokens * row));
    memcpy(baseline->numbers, lane->numbers.data, (size_t)(plan->routing.slots * number));
    complement(baseline->received, lane->received.data, plan->received_rows * row);
    complement(baseline->received_numbers, lane->received_numbers.data, plan->received_rows * number);
    moire_baseline_pack(baseline, false);
    expect_ok(moire_baseline_move(baseline, false));
    moire_baseline_unpack(baseline, false);
    expect(count_untouched(baseline->received, lane->received.data, plan->received_rows, row) == own);
    if (numbers)
        expect(count_untouched(baseline->received_numbers, lane->received_numbers.data, plan->received_rows,
                               number) == own);
}

/* What has come goes back: the sums' rows are those of the tokens. */
static void check_combine(const struct lane *lane, struct moire_baseline *baseline)
{
    const struct moire_plan *plan = lane->plan;
    const int64_t row = baseline->row_bytes;
    memcpy(baseline->received, lane->received.data, (size_t)(plan->received_rows * row));
    memcpy(baseline->received_numbers, lane->received_numbers.data,
           (size_t)plan->received_rows * sizeof(float));
    complement(baseline->sums, lane->rows.data, plan->routing.tokens * row);
    complement(baseline->number_sums, lane->numbers.data, plan->routing.slots * (int64_t)sizeof(float));
    moire_baseline_pack(baseline, true);
    expect_ok(moire_baseline_move(baseline, true));
    moire_baseline_unpack(baseline, true);
    int64_t untouched = 0;
    for (int64_t token = 0; token < plan->routing.tokens; token++) {
        bool travels = false;
        for (int64_t c = 0; c < lane->twin.count; c++) {
            const struct twin_copy *copy = &lane->twin.copies[c];
            travels = travels ||
                      (copy->source == test_rank && copy->token == token && copy->destination != test_rank);
        }
        untouched += !travels;
    }
    expect(count_untouched(baseline->sums, lane->rows.data, plan->routing.tokens, row) == untouched);
}

static void check(bool numbers)
{
    struct setup setup = float_setup(TWO_A_NODE, EVEN);
    struct lane lane;
    struct moire_baseline baseline = { .plan = NULL };
    if (!setup_create(&setup)) return;
    lane_create(&lane, &setup);
    route_random(&lane.route, &setup, MOST_TOKENS);
    lane_prepare(&lane);
    lane_dispatch(&lane, true);
    lane_end(lane.dispatching);
    expect_ok(moire_baseline_create(lane.plan, numbers, &baseline));
    expect(baseline.row_bytes == setup.width * (int64_t)sizeof(float));
    expect(baseline.wire_bytes == baseline.row_bytes + (numbers ? (int64_t)sizeof(float) : 0));
    check_dispatch(&lane, &baseline, numbers);
    check_combine(&lane, &baseline);
    moire_baseline_free(&baseline);
    moire_baseline_free(&baseline);
    lane_free(&lane);
    setup_free(&setup);
}

static void with_numbers(void)
{
    check(true);
}

static void rows_alone(void)
{
    check(false);
}

static void test_with_numbers(void)
{
    for_each_backend(with_numbers);
}

static void test_rows_alone(void)
{
    for_each_backend(rows_alone);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "rows with numbers", test_with_numbers },
        { "rows alone", test_rows_alone },
    };
    return test_main(argc, argv, "1 2 3 5", tests, sizeof tests / sizeof *tests);
}
