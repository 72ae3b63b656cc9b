/* The gradients of the matrices are bitwise the same where that of the layer's input is not wanted. */
#include <stdlib.h>
#include <string.h>

#include "../support/harness.h"
#include "fixture.h"

static void compare(int kind, const char *router)
{
    struct problem problem = {
        .router = router,
        .normalise = true,
        .kind = kind,
        .capacity = MOIRE_DROPLESS,
        .experts = 5,
        .top_k = 2,
        .tokens = 33,
        .dim = 12,
        .hidden = 20,
        .layers = 1,
    };
    struct fixture fixture;
    fixture_create(&fixture, &problem);
    const size_t bytes = (size_t)moire_tensors_elements(&fixture.tensors) * sizeof(real);
    real *gradients = room((int64_t)bytes, 1);
    expect_ok(fixture_forward(&fixture, 0));
    expect_ok(fixture_backward(&fixture, 0));
    memcpy(gradients, fixture.gradients, bytes);
    fixture_clear_gradients(&fixture);
    expect_ok(fixture_forward(&fixture, 0));
    expect_ok(moire_moe_backward(&fixture.layer[0], &fixture.tensors, fixture.parameters, fixture.gradients,
                                 &fixture.batch, &fixture.output_gradient, NULL));
    expect(memcmp(gradients, fixture.gradients, bytes) == 0);
    free(gradients);
    fixture_free(&fixture);
}

static void kinds_and_routers(void)
{
    compare(MOIRE_GELU, "softmax");
    compare(MOIRE_SWIGLU, "softmax");
    compare(MOIRE_GELU, "forced");
    compare(MOIRE_SWIGLU, "mixtral");
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "the matrices' gradients do not depend on whether the input's is wanted", kinds_and_routers },
    };
    return test_main(argc, argv, "1 2 3", tests, sizeof tests / sizeof *tests);
}
