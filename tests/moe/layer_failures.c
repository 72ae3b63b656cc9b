/* The layer where something is wrong: all ranks leave together. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "fixture.h"

/* The last rank, which may have no tokens, fails and leaves a choice that is none. */
static moire_status fail_to_choose(const struct moire_router_setting *setting,
                                   const struct moire_micro_batch *batch, const real *logits,
                                   const real *scores, struct moire_selection *selection)
{
    if (test_rank < test_ranks - 1)
        return moire_router_mixtral.select(setting, batch, logits, scores, selection);
    for (int64_t slot = 0; slot < batch->tokens * setting->top_k; slot++)
        selection->experts[slot] = (int32_t)(1000000 + slot);
    return moire_fail(MOIRE_FAILED, "no choice");
}

void layer_choice_fails(void)
{
    struct moire_router router = moire_router_mixtral;
    struct problem problem = layer_problem();
    struct fixture fixture;
    router.select = fail_to_choose;
    problem.capacity = 0.9;
    fixture_create(&fixture, &problem);
    fixture.moe.router = &router;
    expect(fixture_forward(&fixture, 0) == MOIRE_FAILED);
    expect(moire_error_is_agreed() && moire_error_text()[0] == 0);
    moire_error_clear();
    fixture.moe.router = &moire_router_mixtral;
    expect_ok(fixture_forward(&fixture, 0));
    expect_ok(fixture_backward(&fixture, 0));
    fixture_free(&fixture);
}

/* One rank cannot route. All leave together, with the same status, also those of other groups; then all is
 * well again. */
void layer_one_rank_fails(void)
{
    const int groups[] = { 0, 1, 2 };
    for (int group = 0; group < 3; group++) {
        if (groups[group] && test_ranks % groups[group]) continue;
        struct problem problem = layer_problem();
        struct fixture fixture;
        problem.router = "forced", problem.expert_ranks = groups[group], problem.capacity = 0.9;
        fixture_create(&fixture, &problem);
        int32_t recorded[] = { 1, 3 }, wrong[] = { 1, 5 };
        struct moire_traffic *traffic = &fixture.moe.traffic;
        int64_t failing = fixture.batch.tokens > 0 ? test_rank : -1; /* the highest rank that has tokens */
        expect_ok(moire_max_integers(&fixture.mesh.world, &failing, 1));
        expect_ok(moire_traffic_find("replay", &traffic->kind));
        moire_traffic_set_replay(traffic, failing == test_rank ? wrong : recorded, 1, 1, 1);
        expect(fixture_forward(&fixture, 0) == MOIRE_BAD_DATA);
        expect(moire_error_is_agreed());
        expect(!fixture.layer[0].plan->prepared);
        moire_error_clear();
        traffic->replay = recorded;
        expect_ok(fixture_forward(&fixture, 0));
        expect_ok(fixture_backward(&fixture, 0));
        fixture_free(&fixture);
    }
}

/* Input that is no number, on one rank: everything goes on, and the loss says so to all. */
void layer_not_finite(void)
{
    struct problem problem = layer_problem();
    struct fixture fixture;
    fixture_create(&fixture, &problem);
    for (int64_t i = 0; fixture.batch.tokens > 0 && i < problem.dim; i++)
        ((real *)fixture.layer[0].inputs.data)[i] = (real)NAN;
    expect_ok(fixture_forward(&fixture, 0));
    expect_ok(fixture_backward(&fixture, 0));
    expect(isnan(fixture.layer[0].balance.balance_loss));
    fixture_free(&fixture);
}

/* A configuration that cannot be: all ranks leave with it, and nothing is left behind. */
void layer_refused(void)
{
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_moe moe;
    expect_ok(moire_config_create(&config));
    expect_ok(moire_mesh_create(&config, &mesh));
    config.moe_top_k = test_rank == test_ranks - 1 ? 9 : 2;
    expect(moire_moe_create(&config, &mesh, 4, &moe) == MOIRE_USAGE);
    moire_error_clear();
    expect(moe.exchange == NULL);
    moire_moe_free(&moe);
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}
