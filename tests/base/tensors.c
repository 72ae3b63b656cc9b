#include "../support/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "moire/base/random.h"
#include "moire/base/tensors.h"

enum { EXPERTS = 5, TENSORS = 5 };

/* Dense and expert tensors in turn, with odd sizes, so that runs and padding matter. */
static const struct moire_tensor table[TENSORS] = {
    { .name = "embedding", .dimensions = 2, .shape = { 7, 5 }, .initialiser = MOIRE_INIT_NORMAL,
      .deviation = 0.5, .decay = true, .layer = -1 },
    { .name = "layers.0.experts.w1", .dimensions = 3, .shape = { EXPERTS, 3, 7 }, .sharding = MOIRE_BY_EXPERT,
      .initialiser = MOIRE_INIT_NORMAL, .deviation = 2, .decay = true },
    { .name = "layers.0.norm", .dimensions = 1, .shape = { 5 }, .initialiser = MOIRE_INIT_ONE },
    { .name = "layers.0.experts.w2", .dimensions = 3, .shape = { EXPERTS, 2, 8 }, .sharding = MOIRE_BY_EXPERT,
      .initialiser = MOIRE_INIT_NORMAL, .deviation = 1, .decay = true },
    { .name = "layers.0.bias", .dimensions = 1, .shape = { 16 }, .initialiser = MOIRE_INIT_ZERO },
};

static void make_table(struct moire_tensors *tensors, const int64_t *experts, int64_t local_experts)
{
    expect_ok(moire_tensors_create(tensors));
    for (int t = 0; t < TENSORS; t++) {
        int index = -1;
        expect_ok(moire_tensors_add(tensors, &table[t], &index));
        expect(index == t);
    }
    expect_ok(moire_tensors_layout(tensors, experts, local_experts));
}

static void test_layout(void)
{
    static const int64_t experts[] = { 4, 1 };
    struct moire_tensors tensors;
    make_table(&tensors, experts, 2);
    static const int64_t offsets[] = { 0, 80, 48, 128, 64 }, elements[] = { 35, 42, 5, 32, 16 };
    for (int t = 0; t < TENSORS; t++) {
        expect(tensors.list[t].offset == offsets[t] && tensors.list[t].elements == elements[t]);
        expect(strcmp(tensors.list[t].name, table[t].name) == 0);
    }
    expect(tensors.dense_elements == 80 && tensors.expert_elements == 80 &&
           moire_tensors_elements(&tensors) == 160);
    expect(moire_tensor_global_elements(&tensors.list[1]) == 105 &&
           moire_tensor_expert_elements(&tensors.list[1]) == 21);
    expect(moire_tensor_global_elements(&tensors.list[0]) == 35 &&
           moire_tensor_expert_elements(&tensors.list[0]) == 35);
    expect_ok(moire_tensors_layout(&tensors, NULL, 0)); /* again, now as a rank without experts */
    expect(tensors.dense_elements == 80 && tensors.expert_elements == 0 && tensors.list[1].elements == 0);
    moire_tensors_free(&tensors);
    expect_ok(moire_tensors_create(&tensors));
    expect_ok(moire_tensors_layout(&tensors, NULL, 0)); /* no tensors at all */
    expect(moire_tensors_elements(&tensors) == 0);
    moire_tensors_free(&tensors);
}

static void test_find(void)
{
    static const int64_t experts[] = { 4, 1 };
    struct moire_tensors tensors;
    int64_t expert = 99;
    make_table(&tensors, experts, 2);
    expect(moire_tensors_find(&tensors, "layers.0.norm") == &tensors.list[2]);
    expect(moire_tensors_find(&tensors, "layers.0.nor") == NULL);
    expect(strcmp(moire_tensors_at(&tensors, 34, &expert), "embedding") == 0 && expert == -1);
    expect(moire_tensors_at(&tensors, 35, &expert) == NULL && expert == -1); /* padding */
    expect(strcmp(moire_tensors_at(&tensors, 80, &expert), "layers.0.experts.w1") == 0 && expert == 4);
    expect(strcmp(moire_tensors_at(&tensors, 80 + 20, &expert), "layers.0.experts.w1") == 0 && expert == 4);
    expect(strcmp(moire_tensors_at(&tensors, 80 + 21, &expert), "layers.0.experts.w1") == 0 && expert == 1);
    expect(moire_tensors_at(&tensors, 80 + 42, &expert) == NULL);
    expect(strcmp(moire_tensors_at(&tensors, 159, &expert), "layers.0.experts.w2") == 0 && expert == 1);
    expect(moire_tensors_at(&tensors, 160, &expert) == NULL &&
           moire_tensors_at(&tensors, -1, &expert) == NULL);
    moire_tensors_free(&tensors);
}

static void test_bad_tensors(void)
{
    static const int64_t too_far[] = { 0, EXPERTS }, negative[] = { -1 }, fine[] = { 2 };
    struct moire_tensors tensors;
    struct moire_tensor bad = table[0];
    int index = 77;
    make_table(&tensors, fine, 1);
    expect_failure(moire_tensors_add(&tensors, &bad, &index), MOIRE_FAILED,
                   "two tensors are called embedding");
    bad.name[0] = 0;
    expect_failure(moire_tensors_add(&tensors, &bad, &index), MOIRE_FAILED, "empty or too long");
    memset(bad.name, 'x', sizeof bad.name);
    expect_failure(moire_tensors_add(&tensors, &bad, &index), MOIRE_FAILED, "empty or too long");
    strcpy(bad.name, "bad");
    bad.dimensions = 4;
    expect_failure(moire_tensors_add(&tensors, &bad, &index), MOIRE_FAILED, "found 4, expected 1 to 3");
    bad.dimensions = 0;
    expect_failure(moire_tensors_add(&tensors, &bad, &index), MOIRE_FAILED, "found 0, expected 1 to 3");
    bad.dimensions = 2;
    bad.shape[1] = 0;
    expect_failure(moire_tensors_add(&tensors, &bad, &index), MOIRE_FAILED, "found 0 in dimension 1");
    bad.shape[0] = bad.shape[1] = INT64_C(1) << 40;
    expect_failure(moire_tensors_add(&tensors, &bad, &index), MOIRE_FAILED, "too many");
    expect(index == 77 && tensors.count == TENSORS);
    expect_failure(moire_tensors_layout(&tensors, too_far, 2), MOIRE_FAILED,
                   "has no expert 5; expected 0 to 4");
    expect_failure(moire_tensors_layout(&tensors, negative, 1), MOIRE_FAILED, "has no expert -1");
    expect(tensors.local_experts == 1 && tensors.experts[0] == 2); /* as it was */
    moire_tensors_free(&tensors);
}

/* The naive version: one value of the whole tensor. */
static double value_of(const struct moire_tensor *tensor, uint64_t seed, int64_t global)
{
    if (tensor->initialiser == MOIRE_INIT_ZERO) return 0;
    if (tensor->initialiser == MOIRE_INIT_ONE) return 1;
    return (float)(tensor->deviation *
                   moire_random_normal(seed, moire_random_stream(tensor->name), (uint64_t)global));
}

static void expect_initialised(const int64_t *experts, int64_t local_experts)
{
    struct moire_tensors tensors;
    make_table(&tensors, experts, local_experts);
    int64_t all = moire_tensors_elements(&tensors), expert;
    float *single = malloc((size_t)all * sizeof *single);
    double *twice = malloc((size_t)all * sizeof *twice);
    memset(single, 0xFF, (size_t)all * sizeof *single);
    memset(twice, 0xFF, (size_t)all * sizeof *twice);
    moire_tensors_initialise(&tensors, test_seed, MOIRE_FLOAT32, single);
    moire_tensors_initialise(&tensors, test_seed, MOIRE_FLOAT64, twice);
    for (int64_t i = 0; i < all; i++) {
        const char *name = moire_tensors_at(&tensors, i, &expert);
        const struct moire_tensor *tensor = name ? moire_tensors_find(&tensors, name) : NULL;
        int64_t each = tensor ? moire_tensor_expert_elements(tensor) : 1;
        int64_t local = tensor ? i - tensor->offset : 0;
        double wanted =
            tensor ? value_of(tensor, test_seed, expert < 0 ? local : expert * each + local % each) : 0;
        expect(single[i] == wanted && twice[i] == wanted);
    }
    free(single);
    free(twice);
    moire_tensors_free(&tensors);
}

static void test_initialise(void)
{
    static const int64_t all[] = { 0, 1, 2, 3, 4 }, some[] = { 3, 0 }, one[] = { 1 };
    expect_initialised(all, EXPERTS);
    expect_initialised(some, 2);
    expect_initialised(one, 1);
    expect_initialised(NULL, 0);
}

static void test_seeds_and_names(void)
{
    struct moire_tensors tensors;
    float first[160], second[160];
    int64_t same = 0;
    static const int64_t experts[] = { 0, 1 };
    make_table(&tensors, experts, 2);
    moire_tensors_initialise(&tensors, 1, MOIRE_FLOAT32, first);
    moire_tensors_initialise(&tensors, 2, MOIRE_FLOAT32, second);
    for (int i = 0; i < 35; i++) same += first[i] == second[i];
    for (int i = 0; i < 21; i++) same += first[80 + i] == first[101 + i] || first[80 + i] == 4 * first[i];
    expect(same == 0);
    moire_tensors_free(&tensors);
}

static void test_deviation(void)
{
    struct moire_tensors tensors;
    struct moire_tensor tensor = { .name = "w", .dimensions = 2, .shape = { 300, 333 },
                                   .initialiser = MOIRE_INIT_NORMAL, .deviation = 0.02 };
    int index;
    expect_ok(moire_tensors_create(&tensors));
    expect_ok(moire_tensors_add(&tensors, &tensor, &index));
    expect_ok(moire_tensors_layout(&tensors, NULL, 0));
    int64_t count = 300 * 333;
    double *values = malloc((size_t)moire_tensors_elements(&tensors) * sizeof *values), squares = 0;
    moire_tensors_initialise(&tensors, test_seed, MOIRE_FLOAT64, values);
    for (int64_t i = 0; i < count; i++) squares += values[i] * values[i];
    expect_near(sqrt(squares / (double)count) / 0.02, 1, 0.015);
    free(values);
    moire_tensors_free(&tensors);
}

static void test_elements(void)
{
    expect(moire_element_bytes(MOIRE_FLOAT32) == 4 && moire_element_bytes(MOIRE_FLOAT64) == 8);
    expect(strcmp(moire_element_name(MOIRE_FLOAT32), "float32") == 0);
    expect(strcmp(moire_element_name(MOIRE_FLOAT64), "float64") == 0);
}

static const struct moire_test tests[] = {
    { "layout", test_layout },
    { "finding tensors and elements", test_find },
    { "bad tensors are refused", test_bad_tensors },
    { "values are those of the whole tensor", test_initialise },
    { "seeds and names give other values", test_seeds_and_names },
    { "deviation", test_deviation },
    { "element types", test_elements },
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
