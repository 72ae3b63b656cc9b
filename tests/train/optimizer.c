/* AdamW over the table, the schedules and the clip factor, against plain scalar code. */
#include "../support/harness.h"

#include <math.h>
#include <string.h>

#include "moire/base/config.h"
#include "moire/train/optimizer.h"

#ifdef MOIRE_REAL_DOUBLE
#define TOLERANCE 1e-12
#else
#define TOLERANCE 1e-6
#endif

enum { STEPS = 6, LOCAL = 2 };

static const struct moire_tensor list[] = {
    { .name = "embedding", .dimensions = 2, .shape = { 7, 3 }, .decay = true, .layer = -1 },
    { .name = "layers.0.norm", .dimensions = 1, .shape = { 5 }, .decay = false },
    { .name = "layers.0.router", .dimensions = 2, .shape = { 5, 3 }, .decay = true },
    { .name = "layers.0.router_like", .dimensions = 1, .shape = { 3 }, .decay = true },
    { .name = "layers.0.experts.up",
      .dimensions = 3,
      .shape = { 5, 4, 3 },
      .decay = true,
      .sharding = MOIRE_BY_EXPERT },
};
enum { TENSORS = sizeof list / sizeof *list };

static void make_table(int64_t local, struct moire_tensors *tensors)
{
    const int64_t experts[LOCAL] = { 1, 4 };
    expect_ok(moire_tensors_create(tensors));
    for (int t = 0; t < TENSORS; t++) {
        int index;
        expect_ok(moire_tensors_add(tensors, &list[t], &index));
    }
    expect_ok(moire_tensors_layout(tensors, experts, local));
}

static void set(struct moire_config *config, const char *name, const char *value)
{
    expect_ok(moire_config_set(config, name, value, MOIRE_FROM_COMMAND));
}

static void make_config(struct moire_config *config)
{
    expect_ok(moire_config_create(config));
    set(config, "train.beta1", "0.85");
    set(config, "train.beta2", "0.93");
    set(config, "train.epsilon", "1e-3");
    set(config, "train.weight_decay", "0.2");
    set(config, "train.router_learning_rate", "0.25");
}

static real *allocate(const struct moire_tensors *tensors)
{
    real *arena = NULL;
    expect_ok(moire_allocate(MOIRE_MEMORY_OTHER, moire_tensors_elements(tensors), sizeof *arena, &arena));
    return arena;
}

/* One element through all steps, as the paper has it: m and v corrected, decay beside the gradient. */
static double scalar(const double *gradients, double start, double rate, double decay, double scale)
{
    double p = start, m = 0, v = 0, power1 = 1, power2 = 1;
    for (int step = 0; step < STEPS; step++) {
        double g = gradients[step] * scale;
        m = 0.85 * m + 0.15 * g;
        v = 0.93 * v + 0.07 * g * g;
        power1 *= 0.85;
        power2 *= 0.93;
        p = p - rate * (m / (1 - power1) / (sqrt(v / (1 - power2)) + 1e-3) + decay * p);
    }
    return p;
}

/* Whether element i of an arena belongs to a tensor. */
static const struct moire_tensor *tensor_at(const struct moire_tensors *tensors, int64_t i)
{
    for (int t = 0; t < tensors->count; t++) {
        const struct moire_tensor *tensor = &tensors->list[t];
        if (i >= tensor->offset && i < tensor->offset + tensor->elements) return tensor;
    }
    return NULL;
}

static void compare(const struct moire_tensors *tensors, const real *found, const real *start,
                    double (*gradients)[STEPS])
{
    for (int64_t i = 0; i < moire_tensors_elements(tensors); i++) {
        const struct moire_tensor *tensor = tensor_at(tensors, i);
        if (!tensor) {
            expect(found[i] == 0);
            continue;
        }
        double rate = strcmp(tensor->name, "layers.0.router") == 0 ? 0.01 * 0.25 : 0.01;
        double wanted = scalar(gradients[i], (double)start[i], rate, tensor->decay ? 0.2 : 0, 0.5);
        expect_near((double)found[i], wanted, TOLERANCE);
    }
}

static void updates_are_those_of_scalar_code(int64_t local)
{
    struct moire_config config;
    struct moire_tensors tensors;
    struct moire_optimizer optimizer;
    static double gradients[1024][STEPS];
    make_config(&config);
    make_table(local, &tensors);
    int64_t elements = moire_tensors_elements(&tensors);
    expect(elements <= 1024);
    real *parameters = allocate(&tensors), *start = allocate(&tensors), *gradient = allocate(&tensors);
    expect_ok(moire_optimizer_create(&config, NULL, &tensors, &optimizer));
    for (int64_t i = 0; i < elements; i++)
        if (tensor_at(&tensors, i)) parameters[i] = start[i] = (real)test_random();
    for (int step = 0; step < STEPS; step++) {
        for (int64_t i = 0; i < elements; i++) {
            gradient[i] =
                tensor_at(&tensors, i) ? (real)test_random() : (real)NAN; /* padding must not be read */
            gradients[i][step] = (double)gradient[i];
        }
        moire_optimizer_update(&optimizer, step + 1, 0.01, 0.5, gradient, parameters);
    }
    compare(&tensors, parameters, start, gradients);
    for (int64_t i = 0; i < elements; i++)
        if (!tensor_at(&tensors, i))
            expect(optimizer.first_moment[i] == 0 && optimizer.second_moment[i] == 0);
    moire_optimizer_free(&optimizer);
    moire_release(gradient);
    moire_release(start);
    moire_release(parameters);
    moire_tensors_free(&tensors);
    moire_config_free(&config);
}

static void adamw_is_that_of_scalar_code(void)
{
    updates_are_those_of_scalar_code(LOCAL);
}

static void a_rank_without_experts_updates_the_rest(void)
{
    updates_are_those_of_scalar_code(0);
}

static void clipping_shortens_long_gradients_only(void)
{
    struct moire_config config;
    make_config(&config);
    set(&config, "train.clip", "2");
    expect(moire_gradient_clip(&config, 1.5) == 1);
    expect(moire_gradient_clip(&config, 2) == 1);
    expect_near(moire_gradient_clip(&config, 8), 0.25, 1e-15);
    expect(moire_gradient_clip(&config, 0) == 1);
    set(&config, "train.clip", "none");
    expect(moire_gradient_clip(&config, 1e30) == 1);
    moire_config_free(&config);
}

/* ---- schedules ---- */

static const struct moire_schedule *schedule_of(const char *name)
{
    const struct moire_schedule *schedule = &moire_schedules[0];
    expect_ok(moire_schedule_find(name, &schedule));
    return schedule;
}

/* 100 steps, 10 of warm-up, rate 2 down to 0.5. */
static void make_schedule_config(struct moire_config *config)
{
    expect_ok(moire_config_create(config));
    set(config, "train.steps", "100");
    set(config, "train.warmup", "10");
    set(config, "train.learning_rate", "2");
    set(config, "train.final_ratio", "0.25");
}

static void every_schedule_warms_up_along_a_line(void)
{
    struct moire_config config;
    make_schedule_config(&config);
    for (int s = 0; s < moire_schedule_count; s++) {
        const struct moire_schedule *schedule = schedule_of(moire_schedules[s].name);
        expect(schedule == &moire_schedules[s]);
        for (int64_t step = 1; step <= 10; step++)
            expect_near(moire_schedule_rate(&config, schedule, step), 0.2 * (double)step, 1e-14);
        for (int64_t step = 11; step <= 100; step++) {
            expect(moire_schedule_rate(&config, schedule, step) <=
                   moire_schedule_rate(&config, schedule, step - 1));
            expect(moire_schedule_rate(&config, schedule, step) >= 0.5);
        }
    }
    moire_config_free(&config);
}

static void schedules_have_their_shape(void)
{
    struct moire_config config;
    make_schedule_config(&config);
    const struct moire_schedule *cosine = schedule_of("cosine"), *wsd = schedule_of("wsd");
    expect_near(moire_schedule_rate(&config, cosine, 55), 1.25, 1e-14); /* half way down */
    expect_near(moire_schedule_rate(&config, cosine, 100), 0.5, 1e-14);
    expect_near(moire_schedule_rate(&config, cosine, 1000), 0.5, 1e-14); /* a run that went on for longer */
    expect_near(moire_schedule_rate(&config, cosine, 40), 2 * (0.25 + 0.75 * 0.75),
                1e-14); /* a third: cos = 1/2 */
    expect_near(moire_schedule_rate(&config, schedule_of("constant"), 100), 2, 1e-15);
    expect_near(moire_schedule_rate(&config, wsd, 80), 2, 1e-15);
    expect_near(moire_schedule_rate(&config, wsd, 81), 2 * (1 - 0.75 / 20), 1e-14);
    expect_near(moire_schedule_rate(&config, wsd, 90), 1.25, 1e-14);
    expect_near(moire_schedule_rate(&config, wsd, 100), 0.5, 1e-14);
    expect_near(moire_schedule_rate(&config, wsd, 200), 0.5, 1e-14);
    moire_config_free(&config);
}

static void schedules_stand_edges(void)
{
    struct moire_config config;
    make_schedule_config(&config);
    const struct moire_schedule *cosine = schedule_of("cosine"), *wsd = schedule_of("wsd");
    set(&config, "train.warmup", "0");
    expect_near(moire_schedule_rate(&config, cosine, 50), 1.25, 1e-14);
    set(&config, "train.warmup", "100"); /* nothing but warm-up */
    expect_near(moire_schedule_rate(&config, cosine, 100), 2, 1e-14);
    expect_near(moire_schedule_rate(&config, wsd, 100), 2, 1e-14);
    set(&config, "train.warmup", "300");
    expect_near(moire_schedule_rate(&config, cosine, 100), 2.0 / 3, 1e-14);
    set(&config, "train.warmup", "90"); /* the decay begins after it */
    expect_near(moire_schedule_rate(&config, wsd, 90), 2, 1e-14);
    expect_near(moire_schedule_rate(&config, wsd, 95), 1.25, 1e-14);
    set(&config, "train.warmup", "10");
    set(&config, "train.decay_fraction", "0");
    expect_near(moire_schedule_rate(&config, wsd, 100), 2, 1e-14);
    set(&config, "train.steps", "1");
    set(&config, "train.warmup", "0");
    set(&config, "train.decay_fraction", "0.9");
    expect_near(moire_schedule_rate(&config, cosine, 1), 0.5, 1e-14);
    expect_near(moire_schedule_rate(&config, wsd, 1), 0.5, 1e-14);
    moire_config_free(&config);
}

static void an_unknown_schedule_names_the_nearest(void)
{
    const struct moire_schedule *schedule;
    expect_failure(moire_schedule_find("cosin", &schedule), MOIRE_USAGE, "did you mean 'cosine'");
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "AdamW is that of scalar code, padding stays zero", adamw_is_that_of_scalar_code },
        { "a rank without experts updates the rest", a_rank_without_experts_updates_the_rest },
        { "clipping shortens long gradients only", clipping_shortens_long_gradients_only },
        { "every schedule warms up along a line and then falls", every_schedule_warms_up_along_a_line },
        { "schedules have their shape", schedules_have_their_shape },
        { "schedules stand edges", schedules_stand_edges },
        { "an unknown schedule names the nearest", an_unknown_schedule_names_the_nearest },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
