/* Traffic: valid, distinct, as frequent as it should be, and the same for any spread of tokens over ranks. */
#include "moire/moe/traffic.h"

#include <math.h>
#include <string.h>

#include "../support/harness.h"

enum { MOST_SLOTS = 32, MANY = 6000 };

static struct moire_traffic traffic;
static int32_t many[MANY * MOST_SLOTS], again[MANY * MOST_SLOTS];

static struct moire_traffic_setting setting_for(const char *kind, int64_t experts, int64_t top_k)
{
    return (struct moire_traffic_setting) { .kind = kind,
                                            .experts = experts,
                                            .top_k = top_k,
                                            .seed = test_seed,
                                            .layers = 32,
                                            .exponent = 1.3,
                                            .share = 0.4,
                                            .repeat = MOIRE_AUTO,
                                            .repeat_second = MOIRE_AUTO };
}

static void begin(const char *kind, int64_t experts, int64_t top_k)
{
    const struct moire_traffic_setting setting = setting_for(kind, experts, top_k);
    expect_ok(moire_traffic_create(&setting, &traffic));
}

/* Tokens [first, first + tokens) of step 7, part 1. */
static void generate(int layer, int64_t first, int64_t tokens, int32_t *ids)
{
    const struct moire_traffic_batch batch = {
        .step = 7, .part = 1, .layer = layer, .first_token = first, .tokens = tokens
    };
    expect_ok(moire_traffic_generate(&traffic, &batch, ids));
}

/* Valid, distinct, and counted by expert. */
static void count(int64_t tokens, const int32_t *ids, int64_t *counts)
{
    const int64_t top_k = traffic.setting.top_k, experts = traffic.setting.experts;
    int64_t wrong = 0;
    memset(counts, 0, (size_t)experts * sizeof *counts);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t k = 0; k < top_k; k++) {
            const int32_t *token = ids + t * top_k;
            bool valid = token[k] >= 0 && token[k] < experts;
            wrong += !valid;
            for (int64_t i = 0; i < k; i++) wrong += token[i] == token[k];
            if (valid) counts[token[k]]++;
        }
    expect(wrong == 0);
}

/* A count of `trials` draws of probability p is within six deviations; `correlated` times as many of them
 * where draws depend on each other. */
static void expect_count(double found, double trials, double p, double correlated)
{
    double expected = trials * p, deviation = correlated * (sqrt(expected * (1 - p)) + 1);
    expect_near(found, expected, 6 * deviation / fmax(1, expected));
}

static int64_t first_choices_of(int32_t expert)
{
    int64_t found = 0;
    for (int64_t t = 0; t < MANY; t++) found += many[t * traffic.setting.top_k] == expert;
    return found;
}

/* Every kind but replay at the corners of E and K, in pieces as in one, with its own numbers for every layer
 * and seed. */
static void all_kinds(void)
{
    static const int64_t sizes[][2] = { { 1, 1 }, { 2, 1 }, { 2, 2 }, { 9, 1 }, { 9, 4 }, { 32, 32 } };
    static int64_t counts[MOST_SLOTS];
    const int node_of[] = { 0 };
    for (int kind = 0; kind < moire_traffic_kind_count; kind++)
        for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++) {
            const int64_t experts = sizes[size][0], top_k = sizes[size][1];
            struct moire_placement placement;
            if (strcmp(moire_traffic_kinds[kind].name, "replay") == 0) continue;
            struct moire_traffic_setting setting =
                setting_for(moire_traffic_kinds[kind].name, experts, top_k);
            expect_ok(moire_placement_even(experts, 1, &placement));
            setting.placement = &placement, setting.node_of = node_of;
            expect_ok(moire_traffic_create(&setting, &traffic));
            generate(15, 100, MANY, many);
            count(MANY, many, counts);
            if (top_k == experts)
                for (int64_t e = 0; e < experts; e++) expect(counts[e] == MANY);
            for (int64_t begins = 0, tokens = 1; begins < MANY; begins += tokens, tokens = 2 * tokens + 3) {
                if (tokens > MANY - begins) tokens = MANY - begins;
                generate(15, 100 + begins, tokens, again + begins * top_k);
            }
            expect(memcmp(many, again, (size_t)(MANY * top_k) * sizeof *many) == 0);
            generate(15, 5, 0, NULL);
            moire_traffic_free(&traffic);
            moire_placement_free(&placement);
        }
}

static void each_has_its_own_numbers(void)
{
    static const char *const kinds[] = { "uniform", "zipf", "hot", "markov" };
    for (int kind = 0; kind < 4; kind++)
        for (int what = 0; what < 4; what++) {
            begin(kinds[kind], 10, 4);
            struct moire_traffic_batch batch = { .step = 7, .part = 1, .layer = 15, .tokens = MANY };
            expect_ok(moire_traffic_generate(&traffic, &batch, many));
            if (what == 0) traffic.setting.seed++;
            if (what == 1) batch.layer++;
            if (what == 2) batch.step++;
            if (what == 3) batch.part++;
            expect_ok(moire_traffic_generate(&traffic, &batch, again));
            expect(memcmp(many, again, MANY * 4 * sizeof *many) != 0);
            moire_traffic_free(&traffic);
        }
}

static void even(void)
{
    int64_t counts[5];
    begin("even", 5, 2);
    generate(0, 3, 10, many);
    count(10, many, counts);
    expect(many[0] == 6 % 5 && many[1] == 7 % 5);
    for (int e = 0; e < 5; e++) expect(counts[e] == 4);
    moire_traffic_free(&traffic);
}

static void uniform(void)
{
    int64_t counts[10];
    begin("uniform", 10, 4);
    generate(0, 0, MANY, many);
    count(MANY, many, counts);
    for (int e = 0; e < 10; e++) expect_count((double)counts[e], MANY, 0.4, 1);
    for (int e = 0; e < 10; e++) expect_count((double)first_choices_of(e), MANY, 0.1, 1);
    moire_traffic_free(&traffic);
}

/* Draws without putting back: expert e comes first, or second after expert i. */
static void zipf(void)
{
    double p[6], sum = 0;
    int64_t counts[6];
    for (int e = 0; e < 6; e++) sum += p[e] = pow(e + 1, -1.3);
    for (int e = 0; e < 6; e++) p[e] /= sum;
    begin("zipf", 6, 2);
    generate(0, 0, MANY, many);
    count(MANY, many, counts);
    for (int e = 0; e < 6; e++) {
        double taken = p[e];
        for (int i = 0; i < 6; i++)
            if (i != e) taken += p[i] * p[e] / (1 - p[i]);
        expect_count((double)counts[e], MANY, taken, 1);
        expect_count((double)first_choices_of(e), MANY, p[e], 1);
    }
    moire_traffic_free(&traffic);
}

/* Exponents from flat to far beyond what sums from the start could hold, and as many slots as experts. */
static void zipf_extremes(void)
{
    const double exponents[] = { 0, 1, 100 };
    for (int i = 0; i < 3; i++)
        for (int64_t top_k = 1; top_k <= 20; top_k += i == 2 ? 1 : 19) {
            int64_t counts[20];
            struct moire_traffic_setting setting = setting_for("zipf", 20, top_k);
            setting.exponent = exponents[i];
            expect_ok(moire_traffic_create(&setting, &traffic));
            generate(0, 0, 50, many);
            count(50, many, counts);
            if (top_k == 20)
                for (int e = 0; e < 20; e++) expect(counts[e] == 50);
            if (i == 2 && top_k <= 3) /* the next is at least (4/3)^100 times less likely */
                for (int e = 0; e < top_k; e++) expect(counts[e] == 50);
            moire_traffic_free(&traffic);
        }
}

static void hot(void)
{
    static const double shares[] = { 0, 0.05, 0.4, 1 };
    for (int i = 0; i < 4; i++) {
        int64_t counts[8];
        struct moire_traffic_setting setting = setting_for("hot", 8, 3);
        setting.share = shares[i];
        expect_ok(moire_traffic_create(&setting, &traffic));
        generate(0, 0, MANY, many);
        count(MANY, many, counts);
        expect_count((double)first_choices_of(0), MANY, shares[i], 1);
        /* two more choices over the seven others, the hot one among them where it is not taken yet */
        double cold = 1 - shares[i], rest = shares[i] * 2 / 7 + cold * (1.0 / 7 + 6.0 / 7 * 2 / 7);
        expect_count((double)counts[0], MANY, shares[i] + cold * 2 / 7, 1);
        for (int e = 1; e < 8; e++) {
            expect_count((double)first_choices_of(e), MANY, cold / 7, 1);
            expect_count((double)counts[e], MANY, rest, 1);
        }
        moire_traffic_free(&traffic);
    }
}

/* Which of 12 experts on 4 ranks are ever chosen by tokens of rank `own`. */
static void remote_choices(int own, const int *node_of, int64_t top_k, bool *seen)
{
    struct moire_placement placement;
    struct moire_traffic_setting setting = setting_for("remote", 12, top_k);
    int64_t counts[12];
    expect_ok(moire_placement_even(12, 4, &placement));
    setting.placement = &placement, setting.node_of = node_of;
    expect_ok(moire_traffic_create(&setting, &traffic));
    moire_traffic_set_source(&traffic, own);
    generate(0, 0, 400, many);
    count(400, many, counts);
    for (int e = 0; e < 12; e++) seen[e] = counts[e] > 0;
    moire_traffic_free(&traffic);
    moire_placement_free(&placement);
}

static void remote(void)
{
    const int two[] = { 0, 0, 1, 1 }, one[] = { 0, 0, 0, 0 };
    bool seen[12];
    for (int own = 0; own < 4; own++) {
        remote_choices(own, two, 2, seen); /* another node: the other half */
        for (int e = 0; e < 12; e++) expect(seen[e] == (two[e / 3] != two[own]));
        remote_choices(own, one, 2, seen); /* one node: another rank */
        for (int e = 0; e < 12; e++) expect(seen[e] == (e / 3 != own));
        remote_choices(own, two, 7, seen); /* too few on the other node */
        for (int e = 0; e < 12; e++) expect(seen[e] == (e / 3 != own));
        remote_choices(own, two, 10, seen); /* too few on the other ranks */
        for (int e = 0; e < 12; e++) expect(seen[e]);
    }
}

/* ---- markov ---- */

/* Shares of tokens whose first, and whose second choice is that of the token before, and of those that have
 * a choice in common with it. */
struct repeats {
    double first, second, either;
};

static struct repeats repeats_in(int layer)
{
    enum { ROUNDS = 20 };
    const int64_t top_k = traffic.setting.top_k;
    int64_t first = 0, second = 0, either = 0;
    for (int round = 0; round < ROUNDS; round++) {
        generate(layer, round * MANY, MANY, many);
        for (int64_t t = 1; t < MANY; t++) {
            const int32_t *token = many + t * top_k, *before = token - top_k;
            bool common = false;
            for (int64_t i = 0; i < top_k; i++)
                for (int64_t k = 0; k < top_k; k++) common |= token[i] == before[k];
            first += token[0] == before[0];
            second += top_k > 1 && token[1] == before[1];
            either += common;
        }
    }
    const double pairs = (MANY - 1) * (double)ROUNDS;
    return (struct repeats) { (double)first / pairs, (double)second / pairs, (double)either / pairs };
}

/* 120000 tokens: six deviations are below 0.9 points; the chains cost 0.1 % of the excess. */
static const double sampling = 0.009;

static void markov_repeats(void)
{
    static const double rates[][2] = { { 0, 0 }, { 0.3, 0 }, { 0, 0.4 }, { 0.25, 0.35 }, { 0.5, 0.5 } };
    for (int i = 0; i < 5; i++)
        for (int64_t top_k = 1; top_k <= 4; top_k++) {
            const double p = rates[i][0], b = top_k > 1 ? rates[i][1] : 0;
            int64_t counts[9];
            struct moire_traffic_setting setting = setting_for("markov", 9, top_k);
            setting.repeat = rates[i][0], setting.repeat_second = rates[i][1];
            expect_ok(moire_traffic_create(&setting, &traffic));
            struct repeats repeats = repeats_in(3);
            expect_near(repeats.first, p + b / 8 + (1 - p - b) / 9, sampling);
            if (top_k > 1) expect_near(repeats.second, b + p / 8 + (1 - p - b) / 9, sampling);
            count(MANY, many, counts); /* locality changes no load */
            for (int e = 0; e < 9; e++) expect_count((double)counts[e], MANY, (double)top_k / 9, 2.5);
            moire_traffic_free(&traffic);
        }
}

/* arXiv 2401.04088, table 5. */
static void markov_is_as_mixtral(void)
{
    static const struct {
        int layer;
        double first, either;
    } published[] = { { 0, 0.141, 0.480 }, { 15, 0.264, 0.637 }, { 31, 0.227, 0.527 } };
    begin("markov", 8, 2);
    for (int i = 0; i < 3; i++) {
        struct repeats repeats = repeats_in(published[i].layer);
        expect_near(repeats.first, published[i].first, sampling);
        expect_near(repeats.either, published[i].either, sampling);
    }
    moire_traffic_free(&traffic);
}

static void markov_by_depth(void)
{
    struct moire_traffic_setting setting = setting_for("markov", 8, 2);
    double first, second, before = 0;
    for (int layer = 0; layer <= 15; layer++) { /* rises up to the middle */
        moire_traffic_repeat(&setting, layer, &first, &second);
        expect(first > before && second > 0);
        before = first;
    }
    moire_traffic_repeat(&setting, 31, &first, &second);
    expect(first < before && second < 1e-12 && second >= 0);
    setting.layers = 1;
    moire_traffic_repeat(&setting, 0, &first, &second);
    expect(first > 0.01 && first < 0.03);
    setting.repeat = 0.95; /* one is given, the other leaves room */
    setting.layers = 32;
    moire_traffic_repeat(&setting, 15, &first, &second);
    expect(first == 0.95 && second <= 0.05 + 1e-12 && second > 0.04);
    setting.repeat = MOIRE_AUTO, setting.repeat_second = 1;
    moire_traffic_repeat(&setting, 15, &first, &second);
    expect(first == 0 && second == 1);
}

static void bad_settings(void)
{
    struct moire_traffic_setting setting = setting_for("marcov", 4, 2);
    expect_failure(moire_traffic_create(&setting, &traffic), MOIRE_USAGE, "did you mean 'markov'?");
    setting.kind = "markov", setting.repeat = 0.6, setting.repeat_second = 0.5;
    expect_failure(moire_traffic_create(&setting, &traffic), MOIRE_USAGE, "found moe.forced_repeat = 0.6");
    setting.repeat = 0.5, setting.top_k = 5;
    expect_failure(moire_traffic_create(&setting, &traffic), MOIRE_USAGE, "found moe.top_k = 5");
    setting.top_k = setting.experts = MOIRE_TRAFFIC_MOST_SLOTS + 1;
    expect_failure(moire_traffic_create(&setting, &traffic), MOIRE_USAGE, "expected at most 1024");
}

/* ---- distinct groups ---- */

static double redundancy(int64_t experts, int64_t groups, int64_t top_k)
{
    return 100 * (1 - moire_traffic_expected_distinct(experts, groups, top_k) / (double)top_k);
}

/* Those of K = 2, 4, 6, 8 were published as whole points; two of them (K = 6) are a point above the formula.
 */
static void published_redundancy(void)
{
    static const struct {
        int groups;
        double of_eight, of_2_to_8[4];
    } published[] = { { 2, 75.1, { 0 } },
                      { 4, 54.8, { 12, 32, 46, 55 } },
                      { 8, 33.8, { 6, 17, 27, 34 } },
                      { 16, 18.5, { 3, 9, 14, 18 } },
                      { 32, 9.2, { 2, 4, 7, 9 } } };
    for (int i = 0; i < 5; i++) {
        expect(fabs(redundancy(256, published[i].groups, 8) - published[i].of_eight) <= 0.05 + 1e-9);
        for (int k = 0; k < 4 && published[i].of_2_to_8[0] > 0; k++)
            expect(fabs(redundancy(256, published[i].groups, 2 * (k + 1)) - published[i].of_2_to_8[k]) <
                   1.05);
    }
}

static void distinct_at_its_ends(void)
{
    expect(moire_traffic_expected_distinct(1, 1, 1) == 1);
    expect_near(moire_traffic_expected_distinct(7, 3, 1), 1, 1e-15);
    expect_near(moire_traffic_expected_distinct(7, 3, 7), 3, 1e-15);
    expect_near(moire_traffic_expected_distinct(7, 7, 4), 4, 1e-14);
    expect_near(moire_traffic_expected_distinct(3, 8, 2), 2, 1e-15); /* five groups have no expert */
    expect_near(moire_traffic_expected_distinct(1 << 20, 1 << 20, 8), 8, 1e-12);
    /* groups of 3, 2 and 2: 1 - C(4, 2) / C(7, 2), 1 - C(5, 2) / C(7, 2) */
    expect_near(moire_traffic_expected_distinct(7, 3, 2), (1 - 6 / 21.0) + 2 * (1 - 10 / 21.0), 1e-15);
}

static void distinct_is_what_uniform_traffic_has(void)
{
    static const int64_t sizes[][3] = { { 256, 4, 8 }, { 256, 32, 8 }, { 60, 7, 6 }, { 10, 3, 2 } };
    for (int i = 0; i < 4; i++) {
        const int64_t experts = sizes[i][0], groups = sizes[i][1], top_k = sizes[i][2];
        struct moire_placement placement;
        double sum = 0, squares = 0;
        expect_ok(moire_placement_even(experts, (int)groups, &placement));
        begin("uniform", experts, top_k);
        generate(0, 0, MANY, many);
        for (int64_t t = 0; t < MANY; t++) {
            bool met[32] = { false };
            int64_t distinct = 0;
            for (int64_t k = 0; k < top_k; k++) met[placement.instance_rank[many[t * top_k + k]]] = true;
            for (int g = 0; g < groups; g++) distinct += met[g];
            sum += (double)distinct, squares += (double)(distinct * distinct);
        }
        double mean = sum / MANY, deviation = sqrt((squares / MANY - mean * mean) / MANY);
        double expected = moire_traffic_expected_distinct(experts, groups, top_k);
        expect_near(mean, expected, 6 * deviation / fmax(1, expected));
        moire_traffic_free(&traffic);
        moire_placement_free(&placement);
    }
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "all kinds", all_kinds },
        { "each has its own numbers", each_has_its_own_numbers },
        { "even", even },
        { "uniform", uniform },
        { "zipf", zipf },
        { "zipf at its ends", zipf_extremes },
        { "hot", hot },
        { "remote", remote },
        { "markov repeats", markov_repeats },
        { "markov is as Mixtral", markov_is_as_mixtral },
        { "markov by depth", markov_by_depth },
        { "bad settings", bad_settings },
        { "published redundancy", published_redundancy },
        { "distinct groups at their ends", distinct_at_its_ends },
        { "distinct groups of uniform traffic", distinct_is_what_uniform_traffic_has },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
