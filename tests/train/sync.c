/* Gradient sync and norm at any number of ranks and any mesh, against sums over what ranks surely have. */
#include "../support/harness.h"

#include <math.h>
#include <string.h>

#include "moire/base/random.h"
#include "moire/cluster/placement.h"
#include "moire/train/optimizer.h"

enum { EXPERTS = 4 };

struct setting {
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_placement placement;
    struct moire_tensors tensors;
    real *gradients;
};

static void add(struct setting *setting, const char *name, int64_t rows, int64_t columns,
                moire_sharding sharding)
{
    struct moire_tensor tensor = { .dimensions = 2, .shape = { rows, columns }, .sharding = sharding };
    int index;
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    expect_ok(moire_tensors_add(&setting->tensors, &tensor, &index));
}

static void make(int expert_ranks, struct setting *setting)
{
    char ranks[16];
    snprintf(ranks, sizeof ranks, "%d", expert_ranks);
    memset(setting, 0, sizeof *setting);
    expect_ok(moire_config_create(&setting->config));
    expect_ok(moire_config_set(&setting->config, "parallel.expert", ranks, MOIRE_FROM_COMMAND));
    expect_ok(moire_mesh_create(&setting->config, &setting->mesh));
    expect_ok(moire_placement_even(EXPERTS, expert_ranks, &setting->placement));
    expect_ok(moire_tensors_create(&setting->tensors));
    add(setting, "first", 9, 5, MOIRE_REPLICATED);
    add(setting, "experts", EXPERTS, 7, MOIRE_BY_EXPERT);
    add(setting, "second", 1, 3, MOIRE_REPLICATED);
    int rank = setting->mesh.expert.rank;
    int64_t begin = setting->placement.rank_begin[rank];
    expect_ok(moire_tensors_layout(&setting->tensors, setting->placement.instance_expert + begin,
                                   moire_placement_local(&setting->placement, rank)));
    expect_ok(moire_allocate(MOIRE_MEMORY_GRADIENTS, moire_tensors_elements(&setting->tensors), sizeof(real),
                             &setting->gradients));
}

static void clean(struct setting *setting)
{
    moire_release(setting->gradients);
    moire_tensors_free(&setting->tensors);
    moire_placement_free(&setting->placement);
    moire_mesh_free(&setting->mesh);
    moire_config_free(&setting->config);
}

/* The gradient of a global element on rank `rank` before the sync: small integers, whose sums are exact. */
static double gradient_of(int rank, int tensor, int64_t element)
{
    uint64_t stream = (uint64_t)(tensor * 64 + rank);
    return (double)moire_random_below(test_seed, stream, (uint64_t)element, 201) - 100;
}

/* Calls `visit` for every element that this rank holds, with its global number. */
static void each_element(struct setting *setting,
                         void (*visit)(struct setting *, int tensor, int64_t global, real *))
{
    for (int t = 0; t < setting->tensors.count; t++) {
        const struct moire_tensor *tensor = &setting->tensors.list[t];
        int64_t of_expert = moire_tensor_expert_elements(tensor);
        for (int64_t i = 0; i < tensor->elements; i++) {
            bool sharded = tensor->sharding == MOIRE_BY_EXPERT;
            int64_t global =
                sharded ? setting->tensors.experts[i / of_expert] * of_expert + i % of_expert : i;
            visit(setting, t, global, setting->gradients + tensor->offset + i);
        }
    }
}

static void fill(struct setting *setting, int tensor, int64_t global, real *value)
{
    *value = (real)gradient_of(setting->mesh.world.rank, tensor, global);
}

/* A rank has gradients of its own group's copy of the experts, so the sum is over those who hold it. */
static double summed(const struct setting *setting, int tensor, int64_t global)
{
    double sum = 0;
    int size = setting->mesh.expert.size;
    bool sharded = setting->tensors.list[tensor].sharding == MOIRE_BY_EXPERT;
    int holder = sharded ? setting->placement.instance_rank[global / 7] : 0;
    for (int rank = 0; rank < test_ranks; rank++)
        if (!sharded || rank % size == holder) sum += gradient_of(rank, tensor, global);
    return sum;
}

static void check(struct setting *setting, int tensor, int64_t global, real *value)
{
    expect((double)*value == summed(setting, tensor, global));
}

static double norm_of_all(const struct setting *setting)
{
    double squares = 0;
    for (int t = 0; t < setting->tensors.count; t++)
        for (int64_t i = 0; i < moire_tensor_global_elements(&setting->tensors.list[t]); i++)
            squares += pow(summed(setting, t, i), 2);
    return sqrt(squares);
}

static void check_same_on_all_ranks(double norm)
{
    double first = norm;
    MPI_Bcast(&first, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    expect(memcmp(&first, &norm, sizeof norm) == 0);
}

static void check_mesh(int expert_ranks)
{
    static const int64_t buckets[] = { 1, sizeof(real), 5 * sizeof(real), 64, 1 << 20 };
    struct setting setting;
    double norm = -1;
    make(expert_ranks, &setting);
    for (size_t b = 0; b < sizeof buckets / sizeof *buckets; b++) {
        each_element(&setting, fill);
        expect_ok(moire_gradient_sync(&setting.mesh, &setting.tensors, buckets[b], setting.gradients));
        each_element(&setting, check);
    }
    expect_ok(moire_gradient_norm(&setting.mesh, &setting.tensors, setting.gradients, &norm));
    expect_near(norm, norm_of_all(&setting), 1e-6);
    check_same_on_all_ranks(norm);
    clean(&setting);
}

static void every_mesh_sums_what_it_should(void)
{
    for (int expert_ranks = 1; expert_ranks <= test_ranks; expert_ranks++)
        if (test_ranks % expert_ranks == 0) check_mesh(expert_ranks);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "every mesh sums gradients over who holds them, and finds their norm",
          every_mesh_sums_what_it_should },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
