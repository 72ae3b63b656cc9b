/* Gradients of the whole model against central differences, in double, with the choice of experts frozen: for
 * every combination of gate, expert kind, norm, position and capacity, each tensor along a random direction.
 * Relative error under 1e-6. */
#include <math.h>
#include <string.h>

#include "../support/harness.h"
#include "moire/base/random.h"
#include "moire/compute/vector.h"
#include "small.h"

/* Element of the direction: the same for an expert's matrix on whichever rank it lives. */
static double direction(const struct moire_model *model, const struct moire_tensor *tensor, int64_t element)
{
    int64_t each = moire_tensor_expert_elements(tensor);
    int64_t expert = tensor->sharding == MOIRE_BY_EXPERT ? model->tensors.experts[element / each] : 0;
    return moire_random_normal(test_seed, moire_random_stream(tensor->name),
                               (uint64_t)(expert * each + element % each));
}

static void move(struct moire_model *model, const struct moire_tensor *tensor, const real *start,
                 double distance)
{
    for (int64_t i = 0; i < tensor->elements; i++)
        model->parameters[tensor->offset + i] =
            start[tensor->offset + i] + (real)(distance * direction(model, tensor, i));
}

/* Fourth-order central difference of the loss along the tensor's direction. */
static double difference(struct moire_model *model, const struct moire_batch *batch,
                         const struct moire_tensor *tensor, const real *start)
{
    /* The whole move, not each element, is 5e-4 long: larger ones leave the range where the fifth derivative
     * is small. */
    static const struct {
        double distance, weight;
    } points[] = { { -2, 1 }, { -1, -8 }, { 1, 8 }, { 2, -1 } };
    const double step = 5e-4 / sqrt((double)moire_tensor_global_elements(tensor));
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        double loss = 0;
        move(model, tensor, start, points[i].distance * step);
        expect_ok(small_loss(model, batch, &loss));
        sum += points[i].weight * loss;
    }
    move(model, tensor, start, 0);
    return sum / (12 * step);
}

/* <gradient, direction> over all ranks. */
static double projection(const struct moire_model *model, const struct moire_tensor *tensor,
                         const real *gradients)
{
    double sum = 0;
    for (int64_t i = 0; i < tensor->elements; i++)
        sum += gradients[tensor->offset + i] * direction(model, tensor, i);
    /* Gradients are not yet summed over ranks: each expert's and each dense part is a term of the whole. */
    expect_ok(moire_sum(&model->mesh->world, &sum, 1, MOIRE_FLOAT64));
    return sum;
}

static void check_model(struct moire_model *model, const struct moire_mesh *mesh, const char *text)
{
    int32_t tokens[SMALL_SEQUENCES * (SMALL_SEQUENCE + 1)];
    int64_t elements = moire_tensors_elements(&model->tensors);
    real *start = NULL, *gradients = NULL;
    double loss;
    small_spread(model);
    small_tokens(test_seed, tokens);
    struct moire_batch batch = small_batch(mesh, tokens);
    expect_ok(moire_allocate(MOIRE_MEMORY_OTHER, elements, sizeof *start, &start));
    expect_ok(moire_allocate(MOIRE_MEMORY_OTHER, elements, sizeof *gradients, &gradients));
    memcpy(start, model->parameters, sizeof(real) * (size_t)elements);
    expect_ok(small_loss(model, &batch, &loss));
    memcpy(gradients, model->gradients, sizeof(real) * (size_t)elements);
    moire_model_freeze(model, true);
    for (int i = 0; i < model->tensors.count; i++) {
        const struct moire_tensor *tensor = &model->tensors.list[i];
        double wanted = difference(model, &batch, tensor, start),
               found = projection(model, tensor, gradients);
        double scale = fmax(fabs(wanted), fabs(found)), error = fabs(wanted - found);
        bool good = error <= 1e-6 * scale + 1e-11;
        if (!good && test_rank == 0)
            fprintf(stderr, "# %s: %s: gradient %.12g, difference %.12g, relative error %.2g\n", text,
                    tensor->name, found, wanted, error / scale);
        expect(good);
    }
    moire_release(start);
    moire_release(gradients);
}

static void check_combination(int index)
{
    struct small small = small_combination(index);
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_model model;
    char text[128];
    small_text(&small, text, sizeof text);
    expect_ok(small_config(&small, &config));
    expect_ok(moire_mesh_create(&config, &mesh));
    int64_t unused, sequences = moire_share(SMALL_SEQUENCES, mesh.world.size, mesh.world.rank, &unused);
    int status = moire_model_create(&config, &mesh, sequences, true, &model);
    expect_ok(status);
    if (status == MOIRE_OK) {
        check_model(&model, &mesh, text);
        moire_model_free(&model);
    }
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

/* One rank tries all combinations; more ranks a few of them, since the layer's own tests cover the rest. */
static void test_gradients(void)
{
    for (int index = 0; index < SMALL_COMBINATIONS; index += test_ranks == 1 ? 1 : 7)
        check_combination(index);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = { { "gradients of the whole model", test_gradients } };
    return test_main(argc, argv, "1 2 3", tests, sizeof tests / sizeof *tests);
}
