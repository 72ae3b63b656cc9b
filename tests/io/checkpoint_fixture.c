#include "checkpoint_fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const group_names[FIXTURE_GROUPS] = { "parameters", "first_moment", "second_moment" };

static void must(moire_status status)
{
    if (status == MOIRE_OK) return;
    moire_error_print();
    abort();
}

bool fixture_fits(int64_t parallel_expert, int ranks)
{
    return parallel_expert == MOIRE_ALL || ranks % parallel_expert == 0;
}

static void add(struct moire_tensors *tensors, const char *without, const char *name, moire_sharding sharding,
                int dimensions, int64_t first, int64_t second, int64_t third)
{
    int index;
    struct moire_tensor tensor = { .dimensions = dimensions, .shape = { first, second, third },
                                   .sharding = sharding, .initialiser = MOIRE_INIT_NORMAL, .deviation = 1 };
    if (without && strcmp(without, name) == 0) return;
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    must(moire_tensors_add(tensors, &tensor, &index));
}

static void add_tensors(const struct fixture_shape *shape, struct moire_tensors *tensors)
{
    const char *without = shape->without;
    int64_t width = shape->width;
    must(moire_tensors_create(tensors));
    add(tensors, without, "embedding", MOIRE_REPLICATED, 2, 257, width, 0);
    add(tensors, without, "layers.0.norm", MOIRE_REPLICATED, 1, width, 0, 0);
    if (shape->experts > 0) {
        add(tensors, without, "layers.0.experts.w1", MOIRE_BY_EXPERT, 3, shape->experts, width, 13);
        add(tensors, without, "layers.0.router", MOIRE_REPLICATED, 2, width, shape->experts, 0);
        add(tensors, without, "layers.0.experts.w2", MOIRE_BY_EXPERT, 3, shape->experts, 13, width);
        add(tensors, without, "layers.0.experts.bias", MOIRE_BY_EXPERT, 2, shape->experts, 3, 0);
    }
    add(tensors, without, "layers.0.attention.query", MOIRE_REPLICATED, 2, width, width, 0);
    add(tensors, without, "head", MOIRE_REPLICATED, 3, width, 2, 5);
}

void fixture_open(struct fixture_shape shape, struct fixture *fixture)
{
    memset(fixture, 0, sizeof *fixture);
    must(moire_config_create(&fixture->config));
    fixture->config.parallel_expert = shape.parallel_expert;
    must(moire_mesh_create(&fixture->config, &fixture->mesh));
    must(moire_placement_even(shape.experts, fixture->mesh.expert.size, &fixture->placement));
    add_tensors(&shape, &fixture->tensors);
    int rank = fixture->mesh.expert.rank;
    must(moire_tensors_layout(&fixture->tensors,
                              fixture->placement.instance_expert + fixture->placement.rank_begin[rank],
                              moire_placement_local(&fixture->placement, rank)));
    fixture->element = shape.element;
    for (int g = 0; g < FIXTURE_GROUPS; g++) {
        must(moire_allocate(MOIRE_MEMORY_PARAMETERS, moire_tensors_elements(&fixture->tensors),
                            moire_element_bytes(shape.element), &fixture->arenas[g]));
        fixture->groups[g] =
            (struct moire_checkpoint_group){ .name = group_names[g], .arena = fixture->arenas[g] };
    }
}

void fixture_close(struct fixture *fixture)
{
    for (int g = 0; g < FIXTURE_GROUPS; g++) moire_release(fixture->arenas[g]);
    moire_tensors_free(&fixture->tensors);
    moire_placement_free(&fixture->placement);
    moire_mesh_free(&fixture->mesh);
    moire_config_free(&fixture->config);
}

static void fill(const struct fixture *fixture, uint64_t seed, int group, void *arena)
{
    moire_tensors_initialise(&fixture->tensors, seed * FIXTURE_GROUPS + (uint64_t)group, fixture->element,
                             arena);
}

void fixture_fill(struct fixture *fixture, uint64_t seed)
{
    for (int g = 0; g < FIXTURE_GROUPS; g++) fill(fixture, seed, g, fixture->arenas[g]);
}

bool fixture_equal(const struct fixture *fixture, uint64_t seed, int groups)
{
    void *expected;
    int64_t elements = moire_tensors_elements(&fixture->tensors);
    size_t bytes_each = moire_element_bytes(fixture->element);
    bool equal = true;
    must(moire_allocate(MOIRE_MEMORY_OTHER, elements, bytes_each, &expected));
    for (int g = 0; g < groups; g++) {
        fill(fixture, seed, g, expected);
        equal = equal && memcmp(expected, fixture->arenas[g], (size_t)elements * bytes_each) == 0;
    }
    moire_release(expected);
    return equal;
}

moire_status fixture_write(struct fixture *fixture, int64_t step, const char *config, const char *directory,
                           int64_t keep)
{
    const struct moire_checkpoint_state state = { .step = step,
                                                  .tokens = 7 * step,
                                                  .sequences = 3 * step,
                                                  .seed = UINT64_MAX - (uint64_t)step,
                                                  .config = (char *)config };
    return moire_checkpoint_write(&fixture->mesh, &fixture->placement, &fixture->tensors, fixture->element,
                                  fixture->groups, FIXTURE_GROUPS, &state, directory, keep);
}

void folder_make(char path[256])
{
    int rank;
    const char *parent = getenv("TMPDIR");
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    snprintf(path, 256, "%s/moire-test.XXXXXX", parent ? parent : "/tmp");
    if (rank == 0 && !mkdtemp(path)) abort();
    MPI_Bcast(path, 256, MPI_CHAR, 0, MPI_COMM_WORLD);
}

static int remove_entry(const char *path, const struct stat *about, int type, struct FTW *where)
{
    (void)about, (void)type, (void)where;
    return remove(path);
}

void folder_remove(const char *path)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    MPI_Barrier(MPI_COMM_WORLD);
}

const char *in_folder(const char *folder, const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

bool is_there(const char *folder, const char *name)
{
    struct stat about;
    return lstat(in_folder(folder, name), &about) == 0;
}

int64_t folder_count(const char *folder)
{
    struct moire_paths names;
    must(moire_paths_list(folder, &names));
    int64_t count = names.count;
    moire_paths_free(&names);
    return count;
}

void flip_byte(const char *path, int64_t offset)
{
    unsigned char byte;
    int descriptor = open(path, O_RDWR);
    if (descriptor < 0 || pread(descriptor, &byte, 1, offset) != 1) abort();
    byte ^= 0x10;
    if (pwrite(descriptor, &byte, 1, offset) != 1) abort();
    close(descriptor);
}

void copy_file(const char *from, const char *to, int64_t bytes)
{
    char *data;
    int64_t all;
    must(moire_file_read(from, &data, &all));
    must(moire_file_write(to, data, bytes < 0 ? all : bytes));
    moire_release(data);
}

int sum_over_ranks(int value)
{
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    return value;
}
