/* The layer over several ranks equals the dense reference on one; and what it must not do: allocate in the
 * step, mix up two plans, or leave ranks behind when one fails. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

static const double tolerance = sizeof(real) == 8 ? 2e-13 : 1e-5;

static void label(struct problem *problem)
{
    snprintf(problem->label, sizeof problem->label,
             "%s%s %s %lld experts, top %lld, capacity %g, parallel.expert %d", problem->router,
             problem->normalise ? " normalised" : "", problem->kind == MOIRE_SWIGLU ? "swiglu" : "gelu",
             (long long)problem->experts, (long long)problem->top_k, problem->capacity,
             problem->expert_ranks);
}

struct problem layer_problem(void)
{
    struct problem problem = {
        .router = "softmax",
        .normalise = true,
        .kind = MOIRE_SWIGLU,
        .capacity = MOIRE_DROPLESS,
        .experts = 5,
        .top_k = 2,
        .tokens = 19,
        .dim = 6,
        .hidden = 7,
        .layers = 1,
    };
    label(&problem);
    return problem;
}

/* The reference's results, and room for what is gathered. */
struct whole {
    int32_t *chosen;
    bool *dropped;
    double *output, *input_gradient, *router, *gate, *up, *down, *gathered;
    double balance_loss, z_loss;
};

static struct whole whole_create(const struct problem *problem)
{
    const int64_t rows = problem->tokens * problem->dim, slots = problem->tokens * problem->top_k;
    const int64_t router = problem->experts * problem->dim, matrix = router * problem->hidden;
    return (struct whole){
        .chosen = room(slots, sizeof(int32_t)),
        .dropped = room(slots, sizeof(bool)),
        .output = room(rows, sizeof(double)),
        .input_gradient = room(rows, sizeof(double)),
        .router = room(router, sizeof(double)),
        .gate = problem->kind == MOIRE_SWIGLU ? room(matrix, sizeof(double)) : NULL,
        .up = room(matrix, sizeof(double)),
        .down = room(matrix, sizeof(double)),
        .gathered = room(rows + matrix, sizeof(double)),
    };
}

static void whole_free(struct whole *whole)
{
    void *owned[] = { whole->chosen, whole->dropped, whole->output, whole->input_gradient, whole->router,
                      whole->gate,   whole->up,      whole->down,   whole->gathered };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

/* The oracle's view of the choice that the layer has made. The gradients are of <upstream, output> + share
 * (losses). */
static void run_reference(const struct fixture *fixture, struct whole *whole)
{
    fixture_gather_choice(fixture, 0, whole->chosen, whole->dropped);
    struct moire_reference reference = fixture_reference(fixture, whole->chosen, whole->dropped);
    expect_ok(moire_reference_forward(&reference, whole->output, &whole->balance_loss, &whole->z_loss));
    reference.balance_weight *= fixture->batch.share;
    reference.z_weight *= fixture->batch.share;
    expect_ok(moire_reference_backward(&reference, fixture->upstream, whole->input_gradient, whole->router,
                                       whole->gate, whole->up, whole->down));
}

/* The choice is the naive one: of the K largest logits, with places in global order. */
static void check_choice(const struct fixture *fixture, const struct whole *whole)
{
    const struct problem *problem = &fixture->problem;
    const struct moire_balance *balance = &fixture->layer[0].balance;
    const double wanted = (double)problem->top_k * problem->capacity * (double)problem->tokens
                          / (double)problem->experts;
    const double places = problem->capacity == MOIRE_DROPLESS || !fixture->batch.training ? INFINITY
                                                                                          : ceil(wanted);
    double *load = room(problem->experts, sizeof *load), dropped = 0;
    for (int64_t slot = 0; slot < problem->tokens * problem->top_k; slot++) {
        bool late = load[whole->chosen[slot]]++ >= places;
        expect(whole->dropped[slot] == late);
        dropped += late;
    }
    for (int64_t e = 0; e < problem->experts; e++)
        expect(balance->load[e] == (fixture->batch.training ? load[e] : 0));
    expect(balance->dropped == dropped);
    if (strcmp(problem->router, "forced") != 0)
        for (int64_t t = 0; t < fixture->batch.tokens; t++)
            for (int64_t k = 0; k < problem->top_k; k++) {
                const real *row = fixture->layer[0].logits + t * problem->experts;
                real own = row[fixture->layer[0].selection.experts[t * problem->top_k + k]];
                int64_t before = 0;
                for (int64_t e = 0; e < problem->experts; e++) before += row[e] > own;
                expect(before == k);
            }
    free(load);
}

static void check_forward(const struct fixture *fixture, const struct whole *whole)
{
    const struct moire_balance *balance = &fixture->layer[0].balance;
    fixture_gather_rows(fixture, fixture->output.data, whole->gathered);
    expect_array(fixture, "output", whole->gathered, whole->output,
                 fixture->problem.tokens * fixture->problem.dim, tolerance);
    expect_near(balance->balance_loss, fixture->batch.training ? whole->balance_loss : 0, tolerance);
    expect_near(balance->z_loss, fixture->batch.training ? whole->z_loss : 0, tolerance);
}

static void check_tensor(const struct fixture *fixture, const struct whole *whole, const char *what,
                         int tensor, const double *wanted)
{
    fixture_gather_tensor(fixture, tensor, fixture->gradients, whole->gathered);
    expect_array(fixture, what, whole->gathered, wanted,
                 moire_tensor_global_elements(&fixture->tensors.list[tensor]), tolerance);
}

static void check_backward(const struct fixture *fixture, const struct whole *whole)
{
    const struct moire_moe_layer *layer = &fixture->layer[0];
    fixture_gather_rows(fixture, fixture->input_gradient, whole->gathered);
    expect_array(fixture, "input gradient", whole->gathered, whole->input_gradient,
                 fixture->problem.tokens * fixture->problem.dim, tolerance);
    check_tensor(fixture, whole, "router gradient", layer->router_tensor, whole->router);
    if (whole->gate) check_tensor(fixture, whole, "gate gradient", layer->gate_tensor, whole->gate);
    check_tensor(fixture, whole, "up gradient", layer->up_tensor, whole->up);
    check_tensor(fixture, whole, "down gradient", layer->down_tensor, whole->down);
}

static void compare(const struct problem *problem)
{
    struct fixture fixture;
    fixture_create(&fixture, problem);
    struct whole whole = whole_create(problem);
    expect_ok(fixture_forward(&fixture, 0));
    run_reference(&fixture, &whole);
    check_choice(&fixture, &whole);
    check_forward(&fixture, &whole);
    expect_ok(fixture_backward(&fixture, 0));
    check_backward(&fixture, &whole);
    whole_free(&whole);
    fixture_free(&fixture);
}

/* Every combination of router, weights, kind, capacity and group, at fewer and more experts than ranks. */
static void all_combinations(void)
{
    const char *routers[] = { "softmax", "softmax", "mixtral", "forced" };
    const int64_t experts[] = { 5, 8, 2 };
    const int groups[] = { 0, 1, 2 };
    struct problem problem = layer_problem();
    int round = 0;
    for (int router = 0; router < 4; router++)
        for (int kind = 0; kind < 2; kind++)
            for (int limited = 0; limited < 2; limited++)
                for (int e = 0; e < 3; e++)
                    for (int group = 0; group < 3; group++) {
                        if (groups[group] && (test_ranks % groups[group] || test_ranks == groups[group]))
                            continue;
                        problem.router = routers[router], problem.normalise = router == 0;
                        problem.kind = kind ? MOIRE_GELU : MOIRE_SWIGLU;
                        problem.capacity = limited ? 0.8 : MOIRE_DROPLESS;
                        problem.experts = experts[e], problem.expert_ranks = groups[group];
                        problem.top_k = router % 2 ? 1 + round % 2 : 2 + round % 2 * (experts[e] > 2);
                        round++;
                        problem.ranks_per_node = round % 3;
                        label(&problem);
                        compare(&problem);
                    }
}

/* One token in all, none at all, one expert, all experts. */
static void small_ones(void)
{
    struct problem problem = layer_problem();
    for (int64_t tokens = 0; tokens < 2; tokens++)
        for (int what = 0; what < 3; what++) {
            problem.tokens = tokens;
            problem.normalise = what == 2;
            problem.experts = what ? 4 : 1;
            problem.top_k = what == 2 ? 4 : 1;
            label(&problem);
            compare(&problem);
        }
}

/* Several threads take all experts at once, one thread takes one after the other. */
static void two_threads(void)
{
    const int before = omp_get_max_threads();
    struct problem problem = layer_problem();
    omp_set_num_threads(before == 1 ? 2 : 1);
    for (int kind = 0; kind < 2; kind++) {
        problem.kind = kind ? MOIRE_GELU : MOIRE_SWIGLU;
        label(&problem);
        compare(&problem);
    }
    small_ones();
    omp_set_num_threads(before);
}

/* No capacity, no losses, and nothing left open: another forward may follow. */
static void not_training(void)
{
    struct problem problem = layer_problem();
    problem.capacity = 0.5;
    struct fixture fixture;
    fixture_create(&fixture, &problem);
    struct whole whole = whole_create(&problem);
    fixture.batch.training = false;
    for (int pass = 0; pass < 2; pass++) {
        expect_ok(fixture_forward(&fixture, 0));
        expect(!fixture.layer[0].plan->prepared);
        run_reference(&fixture, &whole);
        check_choice(&fixture, &whole);
        check_forward(&fixture, &whole);
    }
    whole_free(&whole);
    fixture_free(&fixture);
}

#ifdef MOIRE_REAL_DOUBLE
static double frozen_loss(struct fixture *fixture)
{
    double sum = 0;
    fixture_load(fixture);
    expect_ok(fixture_forward(fixture, 0));
    for (int64_t i = 0; i < fixture->batch.tokens * fixture->problem.dim; i++)
        sum += ((real *)fixture->output.data)[i] * ((real *)fixture->output_gradient.data)[i];
    expect_ok(moire_sum(&fixture->mesh.world, &sum, 1, MOIRE_FLOAT64));
    const struct moire_balance *balance = &fixture->layer[0].balance;
    moire_exchange_release(fixture->layer[0].plan);
    return sum + fixture->batch.share * (balance->balance_loss + balance->z_loss);
}

/* Some of the `count` numbers of the whole problem at x, and their gradients as the layer gives them. */
static void check_differences(struct fixture *fixture, const char *what, int64_t count, double *x,
                              const double *gradient)
{
    enum { SAMPLES = 6 };
    const double step = 1e-5;
    char text[256];
    for (int sample = 0; sample < SAMPLES; sample++) {
        int64_t i = test_random_below(count);
        double kept = x[i];
        x[i] = kept + step;
        double above = frozen_loss(fixture);
        x[i] = kept - step;
        double below = frozen_loss(fixture);
        x[i] = kept;
        snprintf(text, sizeof text, "%s: gradient of %s %lld", fixture->problem.label, what, (long long)i);
        test_expect_near(gradient[i], (above - below) / (2 * step), 1e-7, text, __FILE__, __LINE__);
    }
}

static void central_differences(struct problem *problem)
{
    struct fixture fixture;
    fixture_create(&fixture, problem);
    const struct moire_moe_layer *layer = &fixture.layer[0];
    const int64_t router = problem->experts * problem->dim, matrix = router * problem->hidden,
                  rows = problem->tokens * problem->dim;
    double *gradient = room(matrix + rows, sizeof *gradient);
    expect_ok(fixture_forward(&fixture, 0));
    expect_ok(fixture_backward(&fixture, 0));
    fixture.layer[0].selection.frozen = true;
    fixture_gather_rows(&fixture, fixture.input_gradient, gradient);
    check_differences(&fixture, "input", rows, fixture.input, gradient);
    fixture_gather_tensor(&fixture, layer->router_tensor, fixture.gradients, gradient);
    check_differences(&fixture, "router", router, fixture.router, gradient);
    if (fixture.gate) {
        fixture_gather_tensor(&fixture, layer->gate_tensor, fixture.gradients, gradient);
        check_differences(&fixture, "gate", matrix, fixture.gate, gradient);
    }
    fixture_gather_tensor(&fixture, layer->up_tensor, fixture.gradients, gradient);
    check_differences(&fixture, "up", matrix, fixture.up, gradient);
    fixture_gather_tensor(&fixture, layer->down_tensor, fixture.gradients, gradient);
    check_differences(&fixture, "down", matrix, fixture.down, gradient);
    free(gradient);
    fixture_free(&fixture);
}

static void all_differences(void)
{
    struct problem problem = layer_problem();
    for (int router = 0; router < 3; router++) {
        problem.router = router == 2 ? "mixtral" : "softmax", problem.normalise = router == 0;
        problem.kind = router == 1 ? MOIRE_GELU : MOIRE_SWIGLU;
        problem.capacity = router == 0 ? 0.8 : MOIRE_DROPLESS;
        problem.expert_ranks = test_ranks % 2 == 0 && router == 1 ? 2 : 0;
        label(&problem);
        central_differences(&problem);
    }
}
#endif

/* forward 0, forward 1, backward 0, backward 1: each gives bit for bit what it gives alone, although scratch
 * is shared. */
static void two_plans(void)
{
    struct problem problem = layer_problem();
    struct fixture fixture;
    problem.layers = 2;
    problem.capacity = 0.9;
    fixture_create(&fixture, &problem);
    const int64_t elements = moire_tensors_elements(&fixture.tensors),
                  rows = fixture.batch.tokens * problem.dim;
    real *alone = room(2 * (elements + rows), sizeof *alone);
    /* The second layer has another input, so that its plan differs. */
    for (int64_t i = 0; i < rows; i++) ((real *)fixture.layer[1].inputs.data)[i] *= -1;
    for (int l = 0; l < 2; l++) {
        fixture_clear_gradients(&fixture);
        expect_ok(fixture_forward(&fixture, l));
        expect_ok(fixture_backward(&fixture, l));
        memcpy(alone + l * (elements + rows), fixture.gradients, (size_t)elements * sizeof(real));
        memcpy(alone + l * (elements + rows) + elements, fixture.input_gradient, (size_t)rows * sizeof(real));
    }
    expect_ok(fixture_forward(&fixture, 0));
    expect_ok(fixture_forward(&fixture, 1));
    for (int l = 0; l < 2; l++) {
        fixture_clear_gradients(&fixture);
        expect_ok(fixture_backward(&fixture, l));
        expect(memcmp(alone + l * (elements + rows), fixture.gradients, (size_t)elements * sizeof(real))
               == 0);
        expect(memcmp(alone + l * (elements + rows) + elements, fixture.input_gradient,
                      (size_t)rows * sizeof(real))
               == 0);
    }
    free(alone);
    fixture_free(&fixture);
}

/* What is forced depends on the layer: replay on its place among layers with experts, draws on its number. */
static void forced_by_layer(void)
{
    const int32_t recorded[] = { 1, 3, 4, 0 };
    struct problem problem = layer_problem();
    struct fixture fixture;
    problem.layers = 2, problem.router = "forced";
    fixture_create(&fixture, &problem);
    struct moire_traffic *traffic = &fixture.moe.traffic;
    const int64_t slots = problem.tokens * problem.top_k;
    int32_t *chosen = room(2 * slots, sizeof *chosen);
    bool *dropped = room(slots, sizeof *dropped);
    moire_traffic_set_replay(traffic, recorded, 1, 2, 1);
    for (int l = 0; l < 2; l++) {
        expect_ok(fixture_forward(&fixture, l));
        fixture_gather_choice(&fixture, l, chosen + l * slots, dropped);
    }
    expect(memcmp(chosen, chosen + slots, (size_t)slots * sizeof *chosen) != 0);
    expect_ok(moire_traffic_find("replay", &traffic->kind));
    for (int l = 0; l < 2; l++) {
        expect_ok(fixture_forward(&fixture, l));
        fixture_gather_choice(&fixture, l, chosen, dropped);
        for (int64_t slot = 0; slot < slots; slot++) expect(chosen[slot] == recorded[2 * l + slot % 2]);
    }
    free(dropped);
    free(chosen);
    fixture_free(&fixture);
}

/* Once buffers have grown, steps allocate nothing; gradients add up. */
static void many_steps(void)
{
    struct problem problem = layer_problem();
    struct fixture fixture;
    problem.capacity = 0.9;
    fixture_create(&fixture, &problem);
    const int64_t elements = moire_tensors_elements(&fixture.tensors);
    real *first = room(elements, sizeof *first);
    expect_ok(fixture_forward(&fixture, 0));
    expect_ok(fixture_backward(&fixture, 0));
    memcpy(first, fixture.gradients, (size_t)elements * sizeof(real));
    int64_t allocations = moire_memory_allocations();
    for (int step = 0; step < 3; step++) {
        expect_ok(fixture_forward(&fixture, 0));
        expect_ok(fixture_backward(&fixture, 0));
    }
    expect(moire_memory_allocations() == allocations);
    for (int64_t i = 0; i < elements; i++)
        expect_near((double)fixture.gradients[i], 4 * (double)first[i], tolerance);
    free(first);
    fixture_free(&fixture);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "equals the dense reference", all_combinations },
        { "equals it at the smallest sizes", small_ones },
        { "equals it with another number of threads", two_threads },
        { "equals it when not training", not_training },
#ifdef MOIRE_REAL_DOUBLE
        { "gradients agree with central differences", all_differences },
#endif
        { "two plans at once", two_plans },
        { "what is forced depends on the layer", forced_by_layer },
        { "steps allocate nothing", many_steps },
        { "one rank fails, all leave", layer_one_rank_fails },
        { "a choice fails, all leave", layer_choice_fails },
        { "what is no number goes through", layer_not_finite },
        { "a configuration that is refused", layer_refused },
    };
    return test_main(argc, argv, "1 2 3 4 5 8", tests, sizeof tests / sizeof *tests);
}
