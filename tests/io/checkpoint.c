/* Checkpoints that go well: any mesh to any mesh, what is kept, "latest". */
#include "../support/harness.h"

#include <string.h>
#include <unistd.h>

#include "../support/capture.h"
#include "checkpoint_fixture.h"
#include "io/checkpoint_file.h"

static char folder[256];

static const struct fixture_shape standard = { .parallel_expert = MOIRE_ALL, .experts = 5, .width = 24 };

static struct fixture_shape with(int64_t parallel_expert, int64_t experts, moire_element element)
{
    struct fixture_shape shape = standard;
    shape.parallel_expert = parallel_expert;
    shape.experts = experts;
    shape.element = element;
    return shape;
}

/* Reads `groups` groups of a checkpoint on another mesh and compares everything. */
static void read_back(struct fixture_shape shape, const char *path, int groups, int64_t step, uint64_t seed,
                      const char *config)
{
    struct fixture fixture;
    struct moire_checkpoint_state state = { 0 };
    fixture_open(shape, &fixture);
    for (int g = 0; g < groups; g++) /* what is not read must not pass for read */
        memset(fixture.arenas[g], 0x5a,
               (size_t)moire_tensors_elements(&fixture.tensors) * moire_element_bytes(shape.element));
    for (int g = 0; g < groups; g++) { /* padding is zero in an arena */
        int64_t expert;
        for (int64_t i = 0; i < moire_tensors_elements(&fixture.tensors); i++)
            if (!moire_tensors_at(&fixture.tensors, i, &expert))
                memset((char *)fixture.arenas[g] + i * (int64_t)moire_element_bytes(shape.element), 0,
                       moire_element_bytes(shape.element));
    }
    expect_ok(moire_checkpoint_read(&fixture.mesh, &fixture.tensors, fixture.element, fixture.groups, groups,
                                    path, &state));
    expect(state.step == step && state.tokens == 7 * step && state.sequences == 3 * step);
    expect(state.seed == UINT64_MAX - (uint64_t)step);
    expect(state.config && strcmp(state.config, config) == 0);
    expect(fixture_equal(&fixture, seed, groups));
    expect(!fixture_equal(&fixture, seed + 1, groups));
    moire_checkpoint_state_free(&state);
    fixture_close(&fixture);
}

static const int64_t splits[] = { MOIRE_ALL, 1, 2 };
enum { SPLITS = sizeof splits / sizeof *splits };

static void any_mesh_reads_what_any_mesh_wrote(int64_t experts, moire_element element)
{
    folder_make(folder);
    for (int from = 0; from < SPLITS; from++) {
        struct fixture fixture;
        if (!fixture_fits(splits[from], test_ranks)) continue;
        fixture_open(with(splits[from], experts, element), &fixture);
        fixture_fill(&fixture, test_seed + (uint64_t)from);
        expect_ok(fixture_write(&fixture, 10 + from, "[run]\nseed = 1\n", folder, MOIRE_ALL));
        fixture_close(&fixture);
    }
    for (int from = 0; from < SPLITS; from++)
        for (int to = 0; to < SPLITS; to++) {
            char name[32];
            if (!fixture_fits(splits[from], test_ranks) || !fixture_fits(splits[to], test_ranks)) continue;
            snprintf(name, sizeof name, "step-%08d.h5", 10 + from);
            read_back(with(splits[to], experts, element), in_folder(folder, name), FIXTURE_GROUPS, 10 + from,
                      test_seed + (uint64_t)from, "[run]\nseed = 1\n");
            on_root(expect_ok(moire_checkpoint_verify(in_folder(folder, name))));
        }
    folder_remove(folder);
}

static void five_experts(void)
{
    any_mesh_reads_what_any_mesh_wrote(5, MOIRE_FLOAT32);
}

static void three_experts_in_double(void)
{
    any_mesh_reads_what_any_mesh_wrote(3, MOIRE_FLOAT64);
}

static void one_expert_leaves_ranks_without(void)
{
    any_mesh_reads_what_any_mesh_wrote(1, MOIRE_FLOAT32);
}

static void a_model_without_experts(void)
{
    any_mesh_reads_what_any_mesh_wrote(0, MOIRE_FLOAT32);
}

static void evaluation_reads_parameters_alone(void)
{
    struct fixture fixture;
    folder_make(folder);
    fixture_open(standard, &fixture);
    fixture_fill(&fixture, 3);
    expect_ok(fixture_write(&fixture, 1, "", folder, 1));
    fixture_close(&fixture);
    read_back(standard, in_folder(folder, "latest"), 1, 1, 3, "");
    read_back(standard, in_folder(folder, "step-00000001.h5"), 2, 1, 3, "");
    folder_remove(folder);
}

static void a_configuration_may_be_long(void)
{
    static char config[200001];
    struct fixture fixture;
    memset(config, 'x', sizeof config - 1);
    for (size_t i = 70; i < sizeof config - 1; i += 71) config[i] = '\n';
    folder_make(folder);
    fixture_open(standard, &fixture);
    fixture_fill(&fixture, 3);
    expect_ok(fixture_write(&fixture, 1, config, folder, 1));
    fixture_close(&fixture);
    read_back(standard, in_folder(folder, "latest"), 3, 1, 3, config);
    folder_remove(folder);
}

/* The file is a function of the state alone, so that two can be compared byte by byte. */
static void equal_states_give_equal_files(void)
{
    const int64_t parallel[] = { MOIRE_ALL, 1 };
    char *data[2];
    int64_t bytes[2];
    folder_make(folder);
    for (int i = 0; i < 2; i++) {
        struct fixture fixture;
        fixture_open(with(parallel[i], 5, MOIRE_FLOAT32), &fixture);
        fixture_fill(&fixture, 3);
        expect_ok(fixture_write(&fixture, 1, "", in_folder(folder, i ? "two" : "one"), 1));
        fixture_close(&fixture);
        if (i == 0) sleep(1); /* so that a time in the file would differ */
    }
    expect_ok(moire_file_read(in_folder(folder, "one/latest"), &data[0], &bytes[0]));
    expect_ok(moire_file_read(in_folder(folder, "two/latest"), &data[1], &bytes[1]));
    expect(bytes[0] == bytes[1] && memcmp(data[0], data[1], (size_t)bytes[0]) == 0);
    moire_release(data[0]);
    moire_release(data[1]);
    folder_remove(folder);
}

/* Every byte has one writer, and no rank has much more than its share. */
static void work_is_shared(void)
{
    for (int s = 0; s < SPLITS; s++) {
        struct fixture fixture;
        struct moire_checkpoint_job job;
        const struct moire_checkpoint_state state = { .step = 1 };
        if (!fixture_fits(splits[s], test_ranks)) continue;
        folder_make(folder);
        fixture_open(with(splits[s], 5, MOIRE_FLOAT32), &fixture);
        expect_ok(moire_checkpoint_begin(&fixture.mesh, &fixture.placement, &fixture.tensors, fixture.element,
                                         fixture.groups, FIXTURE_GROUPS, &state, folder, &job));
        int64_t sums[3] = { job.count, 0, 0 }, largest = 0, expert_bytes = 0;
        for (int64_t i = 0; i < job.count; i++) {
            sums[1] += job.extents[i].bytes;
            if (job.extents[i].bytes > largest) largest = job.extents[i].bytes;
        }
        int64_t most = sums[1], all = 0;
        for (int t = 0; t < fixture.tensors.count; t++) {
            int64_t bytes = 4 * FIXTURE_GROUPS * moire_tensor_global_elements(&fixture.tensors.list[t]);
            all += bytes;
            if (fixture.tensors.list[t].sharding == MOIRE_BY_EXPERT) expert_bytes += bytes / 5;
        }
        MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
        MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
        MPI_Allreduce(MPI_IN_PLACE, &largest, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
        expect(sums[0] == FIXTURE_GROUPS * (5 + 3 * 5));
        expect(sums[1] == all);
        int64_t experts_here =
            fixture.mesh.expert.size >= 5 ? 1 : (5 + fixture.mesh.expert.size - 1) / fixture.mesh.expert.size;
        if (fixture.mesh.groups > 1) experts_here = (5 + test_ranks - 1) / test_ranks + 1;
        expect(most <= all / test_ranks + largest + experts_here * expert_bytes);
        expect_ok(
            moire_checkpoint_publish(&fixture.mesh, &job, MOIRE_OK, 1, folder, 1)); /* unwritten, but whole */
        moire_checkpoint_job_free(&job);
        fixture_close(&fixture);
        folder_remove(folder);
    }
}

/* Steps that are there, as "1 2 3"; on rank 0. */
static const char *steps_there(void)
{
    static char text[256];
    text[0] = 0;
    for (int step = 0; step < 30; step++) {
        char name[32];
        snprintf(name, sizeof name, "step-%08d.h5", step);
        if (is_there(folder, name))
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", text[0] ? " " : "", step);
    }
    return text;
}

static void write_step(struct fixture *fixture, int64_t step, int64_t keep)
{
    fixture_fill(fixture, (uint64_t)step);
    expect_ok(fixture_write(fixture, step, "", folder, keep));
}

static void expect_latest(int64_t step)
{
    struct moire_checkpoint_state state = { .step = -1 };
    char *path = NULL;
    expect_ok(moire_checkpoint_latest(folder, &path));
    expect(path != NULL);
    if (path) expect_ok(moire_checkpoint_read_state(path, &state));
    expect(state.step == step);
    moire_checkpoint_state_free(&state);
    moire_release(path);
}

static void the_newest_are_kept(void)
{
    struct fixture fixture;
    folder_make(folder);
    fixture_open(standard, &fixture);
    for (int64_t step = 1; step <= 5; step++) {
        write_step(&fixture, step, MOIRE_ALL);
        on_root(expect_latest(step));
    }
    on_root(expect(strcmp(steps_there(), "1 2 3 4 5") == 0));
    on_root(copy_file(in_folder(folder, "step-00000005.h5"), in_folder(folder, "step-7.h5"), -1));
    on_root(copy_file(in_folder(folder, "step-00000005.h5"), in_folder(folder, "step-00000001.h5.old"), -1));
    write_step(&fixture, 6, 3);
    on_root(expect(strcmp(steps_there(), "4 5 6") == 0));
    write_step(&fixture, 6, 3); /* the same again */
    on_root(expect(strcmp(steps_there(), "4 5 6") == 0));
    write_step(&fixture, 5, 3); /* resumed further back */
    on_root(expect(strcmp(steps_there(), "4 5 6") == 0); expect_latest(5));
    write_step(&fixture, 3, 2);
    on_root(expect(strcmp(steps_there(), "3 4") == 0); expect_latest(3));
    write_step(&fixture, 10, 1);
    on_root(expect(strcmp(steps_there(), "10") == 0); expect_latest(10));
    on_root(expect(is_there(folder, "step-7.h5") && is_there(folder, "step-00000001.h5.old"))); /* not ours */
    on_root(expect(folder_count(folder) == 4));
    fixture_close(&fixture);
    folder_remove(folder);
}

static void what_a_killed_writer_left_is_removed(void)
{
    struct fixture fixture;
    folder_make(folder);
    fixture_open(standard, &fixture);
    on_root(expect_ok(moire_file_write(in_folder(folder, ".step-00000001.h5.partial"), "x", 1));
            expect_ok(moire_file_write(in_folder(folder, ".step-00000002.h5.partial"), "x", 1));
            expect_ok(moire_file_write(in_folder(folder, ".step-other.partial"), "x", 1));
            expect_ok(moire_file_write(in_folder(folder, ".moire.123.tmp"), "x", 1));
            expect_ok(moire_file_write(in_folder(folder, ".moire.x.tmp"), "x", 1));
            expect(symlink("step-00000001.h5", in_folder(folder, ".latest.partial")) == 0));
    write_step(&fixture, 2, 1);
    on_root(expect(is_there(folder, ".step-other.partial")));
    on_root(expect(is_there(folder, ".moire.x.tmp")));
    on_root(expect(folder_count(folder) == 4)); /* these, the checkpoint and latest */
    fixture_close(&fixture);
    folder_remove(folder);
}

static void expect_latest_warns(const char *text, const char *path)
{
    static struct capture captured;
    char *found = NULL;
    capture_begin(&captured, STDERR_FILENO);
    moire_status status = moire_checkpoint_latest(folder, &found);
    capture_end(&captured);
    expect_ok(status);
    expect(count_text(captured.text, text) == 1);
    expect(path ? found && strcmp(found, path) == 0 : !found);
    moire_release(found);
}

static void a_dangling_latest_falls_back(void)
{
    struct fixture fixture;
    char *path = (char *)"unset";
    folder_make(folder);
    expect_ok(moire_checkpoint_latest(folder, &path));
    expect(path == NULL);
    expect_ok(moire_checkpoint_latest(in_folder(folder, "missing"), &path));
    expect(path == NULL);
    fixture_open(standard, &fixture);
    for (int64_t step = 1; step <= 3; step++) write_step(&fixture, step, MOIRE_ALL);
    on_root(expect(rename(in_folder(folder, "latest"), in_folder(folder, "aside")) == 0);
            expect_latest_warns("latest is missing; going on with", in_folder(folder, "step-00000003.h5"));
            expect(rename(in_folder(folder, "aside"), in_folder(folder, "latest")) == 0));
    on_root(expect(unlink(in_folder(folder, "step-00000003.h5")) == 0);
            expect_latest_warns("step-00000003.h5, which is missing", in_folder(folder, "step-00000002.h5")));
    on_root(copy_file(in_folder(folder, "step-00000001.h5"), in_folder(folder, "step-00000002.h5"), 5000);
            expect_latest_warns("going on with", in_folder(folder, "step-00000001.h5")));
    on_root(expect(unlink(in_folder(folder, "step-00000001.h5")) == 0); expect_latest_warns("nothing", NULL));
    on_root(expect(unlink(in_folder(folder, "latest")) == 0);
            expect_ok(moire_file_write(in_folder(folder, "latest"), "", 0)); expect_failure(
                moire_checkpoint_latest(folder, &path), MOIRE_NO_FILE, "expected a symbolic link"));
    write_step(&fixture, 4, 1); /* a file of that name is replaced */
    on_root(expect_latest(4));
    fixture_close(&fixture);
    folder_remove(folder);
}

static void print_fits_the_terminal(void)
{
    static struct capture captured;
    struct fixture fixture;
    folder_make(folder);
    fixture_open(standard, &fixture);
    fixture_fill(&fixture, 1);
    expect_ok(fixture_write(&fixture, 1,
                            "[run]\ndir = a very long path that does not fit into eighty columns of a "
                            "terminal and is folded\n\nseed = 1\n",
                            folder, 1));
    if (test_rank == 0) {
        capture_begin(&captured, STDOUT_FILENO);
        moire_status status = moire_checkpoint_print(in_folder(folder, "latest"), true);
        capture_end(&captured);
        expect_ok(status);
        expect(count_text(captured.text, "\n  layers.0.experts.w1   ") == FIXTURE_GROUPS);
        expect(count_text(captured.text, "   5 x 24 x 13  float32         6240     ok\n") == FIXTURE_GROUPS);
        expect(count_text(captured.text, " ok\n") == FIXTURE_GROUPS * 8);
        expect(strstr(captured.text, "seed = 1\n") && strstr(captured.text, "step            1\n"));
        for (char *line = strtok(captured.text, "\n"); line; line = strtok(NULL, "\n"))
            expect(strlen(line) <= 80 || strstr(line, folder));
        expect(moire_checkpoint_is(in_folder(folder, "latest")));
        expect(!moire_checkpoint_is(folder) && !moire_checkpoint_is(in_folder(folder, "missing")));
    }
    fixture_close(&fixture);
    folder_remove(folder);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "five experts, any mesh to any mesh", five_experts },
        { "three experts in double, any mesh to any mesh", three_experts_in_double },
        { "one expert leaves ranks without", one_expert_leaves_ranks_without },
        { "a model without experts", a_model_without_experts },
        { "evaluation reads parameters alone", evaluation_reads_parameters_alone },
        { "a configuration may be long", a_configuration_may_be_long },
        { "equal states give equal files", equal_states_give_equal_files },
        { "every byte has one writer", work_is_shared },
        { "the newest are kept", the_newest_are_kept },
        { "what a killed writer left is removed", what_a_killed_writer_left_is_removed },
        { "a dangling latest falls back", a_dangling_latest_falls_back },
        { "print fits the terminal", print_fits_the_terminal },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
