/* Forced choices: valid, distinct, as frequent as they should be, and the same for any spread of tokens over
 * ranks. */
#include <math.h>
#include <string.h>

#include "moire/moe/router.h"
#include "../support/harness.h"

enum { MOST_EXPERTS = 20 };

static double tail[MOST_EXPERTS + 1];

static struct moire_router_setting forced_setting(int64_t experts, int64_t top_k, int forced, double exponent)
{
    return (struct moire_router_setting){
        .experts = experts,
        .top_k = top_k,
        .forced = forced,
        .forced_exponent = exponent,
        .forced_tail = tail,
        .seed = test_seed,
    };
}

/* Tokens [first, first + tokens) of a batch; choices into `chosen`. The logits do not matter. */
static moire_status force(const struct moire_router_setting *setting, int64_t first, int64_t tokens,
                          int64_t step, int64_t part, int32_t *chosen, real *slot_weights)
{
    const struct moire_micro_batch batch = {
        .tokens = tokens, .first_token = first, .step = step, .part = part
    };
    struct moire_selection forced = { .experts = chosen, .weights = slot_weights };
    return moire_router_forced.select(setting, &batch, NULL, NULL, &forced);
}

/* Valid, distinct, and counted by expert. */
static void count_choices(const struct moire_router_setting *setting, int64_t tokens, const int32_t *chosen,
                          int64_t *counts)
{
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t k = 0; k < setting->top_k; k++) {
            const int32_t *token = chosen + t * setting->top_k;
            expect(token[k] >= 0 && token[k] < setting->experts);
            for (int64_t i = 0; i < k; i++) expect(token[i] != token[k]);
            counts[token[k]]++;
        }
}

/* A count of `tokens` draws of probability p is within six deviations. */
static void expect_count(int64_t count, int64_t tokens, double p)
{
    double expected = (double)tokens * p, deviation = sqrt(expected * (1 - p)) + 1;
    expect_near((double)count, expected, 6 * deviation / fmax(1, expected));
}

enum { MANY = 6000 };
static int32_t many[MANY * MOST_EXPERTS];
static real many_weights[MANY * MOST_EXPERTS];

static void even(void)
{
    const struct moire_router_setting setting = forced_setting(5, 2, MOIRE_FORCED_EVEN, 0);
    int64_t counts[5] = { 0 };
    expect_ok(force(&setting, 3, 10, 0, 0, many, many_weights));
    count_choices(&setting, 10, many, counts);
    expect(many[0] == 6 % 5 && many[1] == 7 % 5);
    for (int e = 0; e < 5; e++) expect(counts[e] == 4);
    for (int slot = 0; slot < 20; slot++) expect(many_weights[slot] == (real)0.5);
}

static void uniform(void)
{
    struct moire_router_setting setting = forced_setting(10, 4, MOIRE_FORCED_UNIFORM, 0);
    int64_t counts[10] = { 0 };
    static int32_t again[MANY * 4];
    moire_forced_tail(&setting, tail);
    expect_ok(force(&setting, 0, MANY, 7, 1, many, many_weights));
    count_choices(&setting, MANY, many, counts);
    for (int e = 0; e < 10; e++) expect_count(counts[e], MANY, 0.4);
    /* The same however tokens are spread over ranks; another step, part, layer or seed is another choice. */
    expect_ok(force(&setting, 0, 1000, 7, 1, again, many_weights));
    expect_ok(force(&setting, 1000, MANY - 1000, 7, 1, again + 4000, many_weights));
    expect(memcmp(many, again, sizeof again) == 0);
    for (int what = 0; what < 4; what++) {
        struct moire_router_setting other = setting;
        if (what == 0) other.layer++;
        if (what == 1) other.seed++;
        expect_ok(force(&other, 0, MANY, what == 2 ? 8 : 7, what == 3 ? 2 : 1, again, many_weights));
        expect(memcmp(many, again, sizeof again) != 0);
    }
}

/* Draws without putting back: expert 0 comes first, or second after expert i. */
static void zipf(void)
{
    struct moire_router_setting setting = forced_setting(6, 2, MOIRE_FORCED_ZIPF, 1.3);
    double p[6], sum = 0;
    for (int e = 0; e < 6; e++) sum += p[e] = pow(e + 1, -1.3);
    for (int e = 0; e < 6; e++) p[e] /= sum;
    int64_t counts[6] = { 0 };
    moire_forced_tail(&setting, tail);
    expect_ok(force(&setting, 0, MANY, 0, 0, many, many_weights));
    count_choices(&setting, MANY, many, counts);
    for (int e = 0; e < 6; e++) {
        double taken = p[e];
        for (int i = 0; i < 6; i++)
            if (i != e) taken += p[i] * p[e] / (1 - p[i]);
        expect_count(counts[e], MANY, taken);
    }
}

/* Exponents from flat to far beyond what sums from the start could hold, and as many slots as experts. */
static void zipf_extremes(void)
{
    const double exponents[] = { 0, 1, 100 };
    for (int i = 0; i < 3; i++)
        for (int64_t top_k = 1; top_k <= 20; top_k += i == 2 ? 1 : 19) {
            struct moire_router_setting setting = forced_setting(20, top_k, MOIRE_FORCED_ZIPF, exponents[i]);
            int64_t counts[20] = { 0 };
            moire_forced_tail(&setting, tail);
            expect_ok(force(&setting, 0, 50, 0, 0, many, many_weights));
            count_choices(&setting, 50, many, counts);
            if (top_k == 20)
                for (int e = 0; e < 20; e++) expect(counts[e] == 50);
            if (i == 2 && top_k <= 3) /* the next is at least (4/3)^100 times less likely */
                for (int e = 0; e < top_k; e++) expect(counts[e] == 50);
        }
}

/* Which of 12 experts on 4 ranks are ever chosen by rank `own`. */
static void remote_choices(int own, int *node_of, int64_t top_k, bool *seen)
{
    struct moire_placement placement;
    expect_ok(moire_placement_even(12, 4, &placement));
    struct moire_mesh mesh = { .expert = { .rank = own, .size = 4 }, .expert_node_of = node_of };
    struct moire_router_setting setting = forced_setting(12, top_k, MOIRE_FORCED_REMOTE, 0);
    setting.placement = &placement;
    setting.mesh = &mesh;
    int64_t counts[12] = { 0 };
    moire_forced_tail(&setting, tail);
    expect_ok(force(&setting, 0, 400, 0, 0, many, many_weights));
    count_choices(&setting, 400, many, counts);
    for (int e = 0; e < 12; e++) seen[e] = counts[e] > 0;
    moire_placement_free(&placement);
}

static void remote(void)
{
    int two[] = { 0, 0, 1, 1 }, one[] = { 0, 0, 0, 0 };
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

static void replay(void)
{
    enum { STEPS = 2, LAYERS = 3, TOKENS = 4, SLOTS = 2 };
    int32_t recorded[STEPS * LAYERS * TOKENS * SLOTS];
    for (int i = 0; i < STEPS * LAYERS * TOKENS * SLOTS; i++) recorded[i] = i % 7;
    struct moire_router_setting setting = forced_setting(7, SLOTS, MOIRE_FORCED_REPLAY, 0);
    expect_failure(force(&setting, 0, 1, 0, 0, many, many_weights), MOIRE_USAGE, "moe.forced_file");
    setting.replay = recorded, setting.replay_steps = STEPS, setting.replay_layers = LAYERS,
    setting.replay_tokens = TOKENS;
    setting.layer = 9, setting.moe_layer = 2;
    recorded[((1 * LAYERS + 2) * TOKENS + 1) * SLOTS + 1] = -1; /* was dropped */
    expect_ok(force(&setting, 3, 6, 5, 0, many, many_weights));
    for (int t = 0; t < 6; t++)
        for (int k = 0; k < SLOTS; k++) {
            int32_t wanted = recorded[((5 % STEPS * LAYERS + 2) * TOKENS + (3 + t) % TOKENS) * SLOTS + k];
            expect(many[t * SLOTS + k] == wanted);
            expect(many_weights[t * SLOTS + k] == (real)(wanted < 0 ? 0 : 0.5));
        }
    recorded[((1 * LAYERS + 2) * TOKENS + 1) * SLOTS + 1] = 7;
    expect_failure(force(&setting, 3, 6, 5, 0, many, many_weights), MOIRE_BAD_DATA,
                   "found 7, expected -1 to 6");
    setting.moe_layer = 3;
    expect_failure(force(&setting, 0, 1, 0, 0, many, many_weights), MOIRE_BAD_DATA,
                   "found 3, expected at least 4");
}

static void forced_gradient(void)
{
    const struct moire_router_setting setting = forced_setting(5, 2, MOIRE_FORCED_EVEN, 0);
    real gradient[10], slot_gradients[4] = { 1, 2, 3, 4 };
    for (int i = 0; i < 10; i++) gradient[i] = 3;
    moire_router_forced.backward(&setting, 2, NULL, NULL, NULL, slot_gradients, gradient);
    for (int i = 0; i < 10; i++) expect(gradient[i] == 0);
    expect(!moire_router_forced.trains);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "even", even },
        { "uniform", uniform },
        { "zipf", zipf },
        { "zipf at its ends", zipf_extremes },
        { "remote", remote },
        { "replay", replay },
        { "no gradient", forced_gradient },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
