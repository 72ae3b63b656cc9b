/* The split into training and validation, on windows that nobody fetches. */
#include "../support/harness.h"

#include "io/private.h"

/* `lengths`: windows of each domain. */
static struct moire_data split_of(const int64_t *lengths, int domains, double share)
{
    struct moire_data data = { 0 };
    for (int d = 0; d < domains; d++) {
        expect_ok(moire_data_add_domain(&data, "domain"));
        data.domains[d].windows = lengths[d];
        data.domains[d].first_window = data.windows;
        data.windows += lengths[d];
    }
    expect_ok(moire_data_split(&data, share));
    return data;
}

static void test_split_shares(void)
{
    const int64_t one = 100000, pair = 2;
    for (int i = 0; i <= 9; i++) {
        struct moire_data data = split_of(&one, 1, i / 10.0);
        expect_near((double)data.validation_windows / (double)one, i / 10.0, 0.01);
        for (int64_t v = 0; v < data.validation_windows; v++)
            expect(data.validation[v] < one && (v == 0 || data.validation[v] > data.validation[v - 1]));
        moire_data_free_contents(&data);
    }
    for (int i = 1; i <= 90; i++) {
        struct moire_data data = split_of(&pair, 1, i / 100.0);
        expect(data.validation_windows == 1); /* one for training, one for validation, whatever the share */
        moire_data_free_contents(&data);
    }
    /* These windows must stay on their side for ever: a run that goes on must not learn what it is measured
     * by. */
    struct moire_data data = split_of(&one, 1, 0.05);
    const int64_t pinned[] = { 17, 25, 42, 56, 95, 138, 175, 191 };
    for (int i = 0; i < 8; i++) expect(data.validation[i] == pinned[i]);
    moire_data_free_contents(&data);
}

static void test_split_domains(void)
{
    for (int trial = 0; trial < 200; trial++) {
        int64_t lengths[9], windows = 0;
        int domains = 1 + (int)test_random_below(9);
        double share = 0.01 + 0.4 * (1 + test_random());
        for (int d = 0; d < domains; d++) windows += lengths[d] = 1 + test_random_below(4);
        struct moire_data data = split_of(lengths, domains, share);
        int64_t counted = 0, first = 0;
        for (int d = 0; d < domains; d++) {
            int64_t validation = 0;
            for (int64_t v = 0; v < data.validation_windows; v++)
                validation += data.validation[v] >= first && data.validation[v] < first + lengths[d];
            expect(validation == data.domains[d].validation_windows);
            if (lengths[d] >= 2) expect(validation > 0 && validation < lengths[d]);
            counted += validation;
            first += lengths[d];
        }
        expect(counted == data.validation_windows && counted < windows && (counted > 0 || windows < 2));
        moire_data_free_contents(&data);
    }
}

/* Domains of a single window each, where a share alone would take all or none. */
static void test_split_singles(void)
{
    const int64_t lengths[3] = { 1, 1, 1 };
    for (int i = 1; i < 90; i++)
        for (int domains = 1; domains <= 3; domains++) {
            struct moire_data data = split_of(lengths, domains, i / 100.0);
            expect(data.validation_windows < domains && (data.validation_windows > 0 || domains == 1));
            moire_data_free_contents(&data);
        }
    struct moire_data data = split_of(lengths, 3, 0);
    expect(data.validation_windows == 0);
    moire_data_free_contents(&data);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "shares", test_split_shares },
        { "domains", test_split_domains },
        { "domains of one window", test_split_singles },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
