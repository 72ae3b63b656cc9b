/* The dense reference against central differences of its own loss. */
#include <stdlib.h>

#include "moire/base/config.h"
#include "moire/moe/reference.h"
#include "../support/harness.h"

enum { T = 5, D = 4, F = 3, E = 4, K = 2 };
enum { INPUT = T * D, ROUTER = E * D, MATRIX = E * F * D };

struct numbers {
    double input[INPUT], router[ROUTER], gate[MATRIX], up[MATRIX], down[MATRIX];
};

static void fill(int64_t count, double *x)
{
    for (int64_t i = 0; i < count; i++) x[i] = test_random();
}

static double loss(const struct moire_reference *reference, const double *output_gradient)
{
    double output[INPUT], balance, z, sum;
    expect_ok(moire_reference_forward(reference, output, &balance, &z));
    sum = balance + z;
    for (int i = 0; i < INPUT; i++) sum += output[i] * output_gradient[i];
    return sum;
}

/* Central differences with respect to `count` numbers at x, which the reference points to. */
static void check(const struct moire_reference *reference, const double *output_gradient, int64_t count,
                  double *x, const double *gradient)
{
    const double step = 1e-5;
    for (int64_t i = 0; i < count; i++) {
        double kept = x[i];
        x[i] = kept + step;
        double above = loss(reference, output_gradient);
        x[i] = kept - step;
        double below = loss(reference, output_gradient);
        x[i] = kept;
        expect_near(gradient[i], (above - below) / (2 * step), 1e-8);
    }
}

static void gradients(int kind, int weighting, bool drops)
{
    static struct numbers at, gradient;
    double output_gradient[INPUT];
    int32_t chosen[T * K];
    bool dropped[T * K];
    fill(sizeof at / sizeof(double), (double *)&at);
    fill(INPUT, output_gradient);
    for (int slot = 0; slot < T * K; slot++) {
        chosen[slot] = (int32_t)((slot % K + slot / K + test_random_below(2) * K)
                                 % E); /* distinct in a token */
        dropped[slot] = drops && test_random_below(3) == 0;
    }
    if (drops) chosen[K] = -1; /* and one without a choice */
    const struct moire_reference reference = {
        .tokens = T,
        .dim = D,
        .hidden = F,
        .experts = E,
        .top_k = K,
        .kind = kind,
        .weighting = weighting,
        .balance_weight = 0.7,
        .z_weight = 0.3,
        .input = at.input,
        .router = at.router,
        .gate = kind == MOIRE_SWIGLU ? at.gate : NULL,
        .up = at.up,
        .down = at.down,
        .chosen = chosen,
        .dropped = drops ? dropped : NULL,
    };
    expect_ok(moire_reference_backward(&reference, output_gradient, gradient.input, gradient.router,
                                       kind == MOIRE_SWIGLU ? gradient.gate : NULL, gradient.up,
                                       gradient.down));
    check(&reference, output_gradient, INPUT, at.input, gradient.input);
    check(&reference, output_gradient, ROUTER, at.router, gradient.router);
    if (kind == MOIRE_SWIGLU) check(&reference, output_gradient, MATRIX, at.gate, gradient.gate);
    check(&reference, output_gradient, MATRIX, at.up, gradient.up);
    check(&reference, output_gradient, MATRIX, at.down, gradient.down);
}

static void all_gradients(void)
{
    for (int weighting = MOIRE_REFERENCE_RAW; weighting <= MOIRE_REFERENCE_EQUAL; weighting++)
        for (int drops = 0; drops < 2; drops++) {
            gradients(MOIRE_SWIGLU, weighting, drops);
            gradients(MOIRE_GELU, weighting, drops);
        }
}

/* One token, one expert, everything one: numbers that can be worked out by hand. */
static void by_hand(void)
{
    const double one = 1, output_gradient = 1;
    double output, balance, z, input, router, gate, up, down;
    const int32_t chosen = 0;
    const struct moire_reference reference = {
        .tokens = 1,
        .dim = 1,
        .hidden = 1,
        .experts = 1,
        .top_k = 1,
        .kind = MOIRE_SWIGLU,
        .weighting = MOIRE_REFERENCE_RAW,
        .balance_weight = 0.01,
        .z_weight = 0.001,
        .input = &one,
        .router = &one,
        .gate = &one,
        .up = &one,
        .down = &one,
        .chosen = &chosen,
    };
    expect_ok(moire_reference_forward(&reference, &output, &balance, &z));
    expect_near(output, 0.7310585786300049, 1e-15); /* silu(1) */
    expect_near(balance, 0.01, 1e-15);              /* one expert has it all: alpha */
    expect_near(z, 0.001, 1e-15);                   /* log exp(1) = 1 */
    expect_ok(moire_reference_backward(&reference, &output_gradient, &input, &router, &gate, &up, &down));
    expect_near(up, 0.7310585786300049, 1e-15);
    expect_near(down, 0.7310585786300049, 1e-15);
    expect_near(router, 0.002, 1e-15); /* of the z-loss alone: p is always 1 */
}

static void no_tokens(void)
{
    double balance = 1, z = 1, router[ROUTER], up[MATRIX], down[MATRIX], weights[MATRIX] = { 0 };
    const struct moire_reference reference = {
        .dim = D,
        .hidden = F,
        .experts = E,
        .top_k = K,
        .kind = MOIRE_GELU,
        .balance_weight = 1,
        .z_weight = 1,
        .router = weights,
        .up = weights,
        .down = weights,
    };
    expect_ok(moire_reference_forward(&reference, NULL, &balance, &z));
    expect(balance == 0 && z == 0);
    expect_ok(moire_reference_backward(&reference, NULL, NULL, router, NULL, up, down));
    for (int i = 0; i < ROUTER; i++) expect(router[i] == 0);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "gradients agree with central differences", all_gradients },
        { "a layer that can be worked out by hand", by_hand },
        { "no tokens", no_tokens },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
