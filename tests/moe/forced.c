/* The forced router: the choices of the traffic, weights 1/K, no gradient. */
#include <string.h>

#include "../support/harness.h"
#include "moire/moe/router.h"

enum { EXPERTS = 7, SLOTS = 2, MANY = 100 };

static int32_t chosen[MANY * SLOTS];
static real slot_weights[MANY * SLOTS];
static struct moire_traffic traffic;

static struct moire_router_setting forced_setting(const char *kind)
{
    const struct moire_traffic_setting setting = {
        .kind = kind, .experts = EXPERTS, .top_k = SLOTS, .seed = test_seed, .exponent = 1
    };
    expect_ok(moire_traffic_create(&setting, &traffic));
    return (struct moire_router_setting) { .experts = EXPERTS, .top_k = SLOTS, .traffic = &traffic };
}

/* Tokens [first, first + tokens) of a batch. The logits do not matter. */
static moire_status force(const struct moire_router_setting *setting, int64_t first, int64_t tokens,
                          int64_t step, int64_t part)
{
    const struct moire_micro_batch batch = {
        .tokens = tokens, .first_token = first, .step = step, .part = part
    };
    struct moire_selection forced = { .experts = chosen, .weights = slot_weights };
    return moire_router_forced.select(setting, &batch, NULL, NULL, &forced);
}

/* Everything that a choice depends on arrives at the traffic. */
static void choices_are_those_of_the_traffic(void)
{
    struct moire_router_setting setting = forced_setting("zipf");
    int32_t wanted[MANY * SLOTS];
    setting.layer = 5, setting.moe_layer = 3;
    const struct moire_traffic_batch batch = {
        .step = 9, .part = 2, .layer = 5, .moe_layer = 3, .first_token = 40, .tokens = MANY
    };
    expect_ok(moire_traffic_generate(&traffic, &batch, wanted));
    expect_ok(force(&setting, 40, MANY, 9, 2));
    expect(memcmp(chosen, wanted, sizeof wanted) == 0);
    for (int slot = 0; slot < MANY * SLOTS; slot++) expect(slot_weights[slot] == (real)1 / SLOTS);
    moire_traffic_free(&traffic);
}

static void frozen_choices_stay(void)
{
    const struct moire_router_setting setting = forced_setting("uniform");
    const struct moire_micro_batch batch = { .tokens = 1 };
    struct moire_selection given = { .experts = chosen, .weights = slot_weights, .frozen = true };
    chosen[0] = 6, chosen[1] = -1;
    expect_ok(moire_router_forced.select(&setting, &batch, NULL, NULL, &given));
    expect(chosen[0] == 6 && chosen[1] == -1);
    expect(slot_weights[0] == (real)1 / SLOTS && slot_weights[1] == 0);
    moire_traffic_free(&traffic);
}

static void replay(void)
{
    enum { STEPS = 2, LAYERS = 3, TOKENS = 4 };
    int32_t recorded[STEPS * LAYERS * TOKENS * SLOTS];
    for (int i = 0; i < STEPS * LAYERS * TOKENS * SLOTS; i++) recorded[i] = i % 7;
    struct moire_router_setting setting = forced_setting("replay");
    expect_failure(force(&setting, 0, 1, 0, 0), MOIRE_USAGE, "moe.forced_file");
    moire_traffic_set_replay(&traffic, recorded, STEPS, LAYERS, TOKENS);
    setting.layer = 9, setting.moe_layer = 2;
    recorded[((1 * LAYERS + 2) * TOKENS + 1) * SLOTS + 1] = -1; /* was dropped */
    expect_ok(force(&setting, 3, 6, 5, 0));
    for (int t = 0; t < 6; t++)
        for (int k = 0; k < SLOTS; k++) {
            int32_t wanted = recorded[((5 % STEPS * LAYERS + 2) * TOKENS + (3 + t) % TOKENS) * SLOTS + k];
            expect(chosen[t * SLOTS + k] == wanted);
            expect(slot_weights[t * SLOTS + k] == (real)(wanted < 0 ? 0 : 0.5));
        }
    recorded[((1 * LAYERS + 2) * TOKENS + 1) * SLOTS + 1] = 7;
    expect_failure(force(&setting, 3, 6, 5, 0), MOIRE_BAD_DATA, "found 7, expected -1 to 6");
    setting.moe_layer = 3;
    expect_failure(force(&setting, 0, 1, 0, 0), MOIRE_BAD_DATA, "found 3, expected at least 4");
    moire_traffic_free(&traffic);
}

static void forced_gradient(void)
{
    const struct moire_router_setting setting = { .experts = 5, .top_k = 2 };
    real gradient[10], slot_gradients[4] = { 1, 2, 3, 4 };
    for (int i = 0; i < 10; i++) gradient[i] = 3;
    moire_router_forced.backward(&setting, 2, NULL, NULL, NULL, slot_gradients, gradient);
    for (int i = 0; i < 10; i++) expect(gradient[i] == 0);
    expect(!moire_router_forced.trains);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "choices are those of the traffic", choices_are_those_of_the_traffic },
        { "frozen choices stay", frozen_choices_stay },
        { "replay", replay },
        { "no gradient", forced_gradient },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
