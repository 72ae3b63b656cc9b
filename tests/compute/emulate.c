/* Emulated compute: what is waited for, and that numbers stay as they were. Times have lower bounds only. */
#include "moire/compute/emulate.h"

#include <math.h>
#include <string.h>

#include "../support/harness.h"
#include "moire/compute/activation.h"
#include "moire/compute/attention.h"
#include "moire/compute/linear.h"
#include "moire/compute/norm.h"
#include "moire/compute/vector.h"
#include "moire/observe/clock.h"

enum { ELEMENTS = 4096 };
static real a[ELEMENTS], b[ELEMENTS], c[ELEMENTS];

static void fill(real *x, double value)
{
    for (int i = 0; i < ELEMENTS; i++) x[i] = (real)value;
}

static bool holds(const real *x, double value)
{
    for (int i = 0; i < ELEMENTS; i++)
        if (x[i] != (real)value) return false;
    return true;
}

static void reset(void)
{
    fill(a, 1);
    fill(b, 2);
    fill(c, 3);
}

static void off(void)
{
    char text[64];
    reset();
    expect(!moire_is_emulated() && !moire_emulate_work(1e30));
    moire_emulate_describe(text, sizeof text);
    expect(strcmp(text, "real") == 0);
    moire_gemm(false, true, 1, 1, 4, 1, a, 4, b, 4, 0, c, 1);
    expect_near((double)c[0], 8, 1e-6);
    moire_emulate_start(1e9);
    expect(moire_is_emulated());
    moire_emulate_stop();
    expect(!moire_is_emulated());
    moire_gemm(false, true, 1, 1, 2, 1, a, 2, b, 2, 0, c, 1);
    expect_near((double)c[0], 4, 1e-6);
}

/* The FLOP of every product, and data untouched. */
static void products(void)
{
    const struct moire_segment segments[] = { { .instance = 0, .first_row = 0, .rows = 3 },
                                              { .instance = 1, .first_row = 3, .rows = 4 } };
    const int64_t begin[] = { 0, 3, 7 };
    double flop = 0;
    reset();
    moire_emulate_start(1e15);
    moire_gemm(false, false, 3, 5, 7, 1, a, 7, b, 5, 0, c, 5);
    expect_near(moire_emulate_flop(), flop += 2 * 3 * 5 * 7, 0);
    moire_linear_forward(3, 5, 7, a, b, a, c);
    moire_linear_backward_input(3, 5, 7, a, b, true, c);
    moire_linear_backward_weight(3, 5, 7, a, b, c, c + 64);
    expect_near(moire_emulate_flop(), flop += 3 * 2 * 3 * 5 * 7, 0);
    moire_grouped_forward(segments, 2, 5, 6, a, b, c);
    moire_grouped_backward_input(segments, 2, 5, 6, a, b, false, c);
    moire_grouped_backward_weight(begin, 2, 5, 6, a, b, c);
    expect_near(moire_emulate_flop(), flop += 3 * 2 * 7 * 5 * 6, 0);
    expect(holds(a, 1) && holds(b, 2) && holds(c, 3));
    moire_emulate_stop();
}

static void attention(void)
{
    const struct moire_attention_shape shape = { 2, 8, 4, 2, 6 };
    reset();
    moire_emulate_start(1e15);
    moire_rotary(&shape, 10000, 0, false, a);
    moire_attention_forward(&shape, a, b, c, c);
    expect_near(moire_emulate_flop(), 2 * 2 * 8 * 8 * 4 * 6, 0);
    moire_attention_backward(&shape, a, b, c, b, c, c);
    expect_near(moire_emulate_flop(), 3 * 2 * 2 * 8 * 8 * 4 * 6, 0);
    expect(holds(a, 1) && holds(b, 2) && holds(c, 3));
    moire_emulate_stop();
}

static void others(void)
{
    const int32_t tokens[] = { 1, 2, 0 };
    struct moire_softmax softmax[3];
    double losses[3] = { 0 };
    reset();
    moire_emulate_start(1e15);
    moire_gelu_forward(3, 5, a, NULL, c);
    moire_swiglu_forward(3, 5, a, b, NULL, c);
    moire_norm_backward(3, 5, a, b, a, b, c, c, NULL);
    moire_embedding_backward(3, 3, 5, tokens, a, c, NULL);
    moire_adamw_update(&(struct moire_adamw){ .rate = 1 }, 15, a, b, c, c);
    moire_softmax_start(3, softmax);
    moire_softmax_add(3, 4, 0, tokens, c, c, softmax);
    moire_softmax_add(3, 3, 4, tokens, c, c, softmax);
    moire_softmax_losses(3, softmax, losses);
    moire_softmax_gradient(3, 4, 0, tokens, 1, softmax, c, c);
    expect(holds(a, 1) && holds(b, 2) && holds(c, 3));
    for (int i = 0; i < 3; i++) expect_near(losses[i], log(7), 1e-12);
    expect_near(moire_sum_of_squares(15, a), 0, 0);
    moire_norm_forward(3, 5, 1e-5, a, b, NULL, c, c + 100);
    for (int i = 0; i < 15; i++) expect(c[i] == 1);
    moire_gelu_backward(3, 5, a, NULL, b, c, c, c + 20);
    moire_swiglu_backward(3, 5, a, a, NULL, b, c, c, c, c + 23);
    for (int i = 20; i < 26; i++) expect(c[i] == 0);
    expect(c[26] == 3 && holds(a, 1));
    expect_near(moire_emulate_flop(), 0, 0); /* only products take time */
    moire_emulate_stop();
}

static void waits(void)
{
    const double rate = 1e9;
    moire_emulate_start(rate);
    for (int round = 0; round < 5; round++) {
        double start = moire_seconds(), before = moire_emulate_flop();
        for (int i = 0; i < 100; i++) moire_emulate_work(1e4); /* 10 us each */
        moire_emulate_work(4e6);
        moire_emulate_work(1e3);
        moire_emulate_settle();
        expect(moire_seconds() - start >= (moire_emulate_flop() - before) / rate);
    }
    moire_emulate_stop();
}

/* The callback is called while it waits: often where something is in flight. */
static int calls;
static bool count_call(void *context)
{
    calls++;
    return *(bool *)context;
}

static void progress(void)
{
    bool in_flight = true;
    moire_emulate_start(1e9);
    moire_emulate_progress(count_call, &in_flight);
    calls = 0;
    moire_emulate_work(1e3);
    expect(calls == 0); /* waited for later */
    moire_emulate_settle();
    expect(calls >= 1);
    calls = 0;
    in_flight = false;
    moire_emulate_work(1e7);
    expect(calls >= 1);
    moire_emulate_stop();
    moire_emulate_start(1e9);
    calls = 0;
    moire_emulate_work(1e6);
    expect(calls == 0); /* a start forgets it */
    moire_emulate_stop();
}

static void describes(void)
{
    const struct {
        double rate;
        const char *text;
    } cases[] = {
        { 1e12, "emulated at 1e12 FLOP/s" },
        { 2.5e13, "emulated at 2.5e13 FLOP/s" },
        { 5e9, "emulated at 5e09 FLOP/s" },
        { 1000, "emulated at 1000 FLOP/s" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        moire_emulate_start(cases[i].rate);
        moire_emulate_describe(text, sizeof text);
        expect(strcmp(text, cases[i].text) == 0);
    }
    moire_emulate_stop();
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "off: nothing changes", off },
        { "products: their FLOP, and data untouched", products },
        { "attention: its FLOP, and data untouched", attention },
        { "the rest takes no time and gives finite numbers", others },
        { "at least FLOP / rate passes", waits },
        { "the callback is called while it waits", progress },
        { "how it is described", describes },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
