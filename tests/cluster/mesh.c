#include "../support/harness.h"

#include <stdlib.h>

#include "../support/capture.h"
#include "moire/cluster/mesh.h"

static void shares_cover_all_in_order(void)
{
    static const int64_t counts[] = { 0, 1, 2, 5, 6, 7, 100, INT64_MAX };
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int parts = 1; parts < 9; parts++) {
            int64_t next = 0, each = counts[c] / parts;
            for (int part = 0; part < parts; part++) {
                int64_t first, count = moire_share(counts[c], parts, part, &first);
                expect(first == next);
                expect(count == each || count == each + 1);
                next += count;
            }
            expect(next == counts[c]);
        }
}

static int product(const struct moire_communicator *communicator) /* of 1 + world rank over the members */
{
    int value = 1 + test_rank;
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_PROD, communicator->mpi);
    return value;
}

static void check_mesh(const struct moire_mesh *mesh, int size, int per_node)
{
    int in_group = 1, across = 1, on_node = 1, last = (test_ranks - 1) / per_node;
    for (int rank = 0; rank < test_ranks; rank++) {
        if (rank / size == test_rank / size) in_group *= 1 + rank;
        if (rank % size == test_rank % size) across *= 1 + rank;
        if (rank / per_node == test_rank / per_node) on_node *= 1 + rank;
        expect(mesh->node_of[rank] == rank / per_node);
        expect(mesh->leaf_of[rank] == 0);
    }
    expect(mesh->world.rank == test_rank && mesh->world.size == test_ranks);
    expect(mesh->expert.rank == test_rank % size && mesh->expert.size == size);
    expect(mesh->data.rank == test_rank / size && mesh->data.size == test_ranks / size);
    expect(mesh->node.rank == test_rank % per_node);
    expect(product(&mesh->expert) == in_group);
    expect(product(&mesh->data) == across);
    expect(product(&mesh->node) == on_node);
    expect(mesh->groups == test_ranks / size && mesh->group == test_rank / size);
    expect(mesh->nodes == last + 1 && mesh->leaves == 1);
    for (int rank = 0; rank < size; rank++) {
        expect(mesh->expert_node_of[rank] == (mesh->group * size + rank) / per_node);
        expect(mesh->expert_leaf_of[rank] == 0);
    }
}

static void refuse(struct moire_config *config)
{
    struct capture capture;
    struct moire_mesh mesh;
    memset(&mesh, 0x5a, sizeof mesh);
    struct moire_mesh before = mesh;
    capture_begin(&capture, 2);
    moire_status status = moire_mesh_create(config, &mesh);
    capture_end(&capture);
    expect(status == MOIRE_USAGE);
    expect(moire_error_is_agreed());
    expect(memcmp(&mesh, &before, sizeof mesh) == 0);
    if (test_rank == 0) {
        char text[80];
        expect(strstr(capture.text, "parallel.expert does not divide the ranks") != NULL);
        snprintf(text, sizeof text, "found parallel.expert = %d with %d ranks", (int)config->parallel_expert,
                 test_ranks);
        expect(strstr(capture.text, text) != NULL);
        if (test_ranks == 4) expect(strstr(capture.text, "one of 1, 2, 4\n") != NULL);
        if (test_ranks == 5) expect(strstr(capture.text, "one of 1, 5\n") != NULL);
    } else {
        expect(capture.text[0] == '\0');
    }
    moire_error_clear();
}

static void meshes_of_every_size(void)
{
    struct moire_config config;
    struct moire_mesh mesh;
    expect_ok(moire_config_create(&config));
    for (int size = 1; size <= test_ranks + 2; size++)
        for (int per_node = 1; per_node <= test_ranks + 1; per_node++) {
            config.parallel_expert = size;
            config.parallel_ranks_per_node = per_node;
            if (size > test_ranks || test_ranks % size) {
                refuse(&config);
                continue;
            }
            expect_ok(moire_mesh_create(&config, &mesh));
            check_mesh(&mesh, size, per_node);
            moire_mesh_free(&mesh);
        }
    moire_config_free(&config);
}

static void the_default_is_one_group_on_the_true_nodes(void)
{
    struct moire_config config;
    struct moire_mesh mesh;
    expect_ok(moire_config_create(&config));
    expect_ok(moire_mesh_create(&config, &mesh));
    check_mesh(&mesh, test_ranks, test_ranks);
    moire_mesh_free(&mesh);
    moire_mesh_free(&mesh); /* an empty one is allowed */
    moire_config_free(&config);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "shares cover all in order", shares_cover_all_in_order },
        { "meshes of every size", meshes_of_every_size },
        { "the default is one group on the true nodes", the_default_is_one_group_on_the_true_nodes },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
