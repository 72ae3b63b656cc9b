/* Checkpoints that cannot be written: what is said, on which rank, and what stays. */
#include "../support/harness.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../support/capture.h"
#include "checkpoint_fixture.h"
#include "io/checkpoint_file.h"

static char folder[256];
static struct fixture fixture;

static const struct fixture_shape standard = { .parallel_expert = MOIRE_ALL, .experts = 5, .width = 24 };

/* A folder with step 1, and "two.h5", a copy of it. */
static void open_folder(void)
{
    folder_make(folder);
    fixture_open(standard, &fixture);
    fixture_fill(&fixture, 1);
    expect_ok(fixture_write(&fixture, 1, "[run]\n", folder, 9));
    on_root(copy_file(in_folder(folder, "step-00000001.h5"), in_folder(folder, "two.h5"), -1));
}

static void close_folder(void)
{
    fixture_close(&fixture);
    folder_remove(folder);
}

/* Nothing changed and nothing is left over. */
static void expect_untouched(void)
{
    char *path = NULL;
    on_root(expect_ok(moire_checkpoint_latest(folder, &path));
            expect(path && strstr(path, "step-00000001.h5") != NULL);
            if (path) expect_ok(moire_checkpoint_verify(path));
            moire_release(path);
            expect(folder_count(folder) == 3)); /* step 1, latest, two.h5 */
}

static void no_folder_to_write_to(void)
{
    open_folder();
    on_root(expect_ok(moire_file_write(in_folder(folder, "two.h5"), "x", 1)));
    expect_agreed(fixture_write(&fixture, 2, "", in_folder(folder, "two.h5"), 9), MOIRE_NO_FILE, "two.h5");
    expect_agreed(fixture_write(&fixture, 2, "", in_folder(folder, "two.h5/below"), 9), MOIRE_NO_FILE,
                  "two.h5");
    expect_agreed(fixture_write(&fixture, 2, "", "/proc/none", 9), MOIRE_NO_FILE, "/proc/none");
    expect_untouched();
    close_folder();
}

/* One rank fails in the middle part, each in turn. */
static void a_rank_that_cannot_write_stops_all(void)
{
    const struct moire_checkpoint_state state = { .step = 2 };
    open_folder();
    for (int failing = 0; failing < test_ranks; failing++) {
        struct moire_checkpoint_job job;
        expect_ok(moire_checkpoint_begin(&fixture.mesh, &fixture.placement, &fixture.tensors, fixture.element,
                                         fixture.groups, FIXTURE_GROUPS, &state, folder, &job));
        char *partial = job.paths.partial, *nowhere;
        expect_ok(moire_copy_text("/proc/none/partial", &nowhere));
        if (test_rank == failing) job.paths.partial = nowhere;
        moire_status status = moire_checkpoint_store(&job);
        expect((status != MOIRE_OK) == (test_rank == failing));
        job.paths.partial = partial;
        expect_agreed(moire_checkpoint_publish(&fixture.mesh, &job, status, 2, folder, 1), MOIRE_NO_FILE,
                      "/proc/none/partial");
        moire_release(nowhere);
        moire_checkpoint_job_free(&job);
        expect_untouched();
    }
    close_folder();
}

/* Rank 0 cannot give the file its name, or the link. */
static void a_failed_rename_is_agreed(void)
{
    open_folder();
    on_root(expect(mkdir(in_folder(folder, "step-00000002.h5"), 0777) == 0));
    expect_agreed(fixture_write(&fixture, 2, "", folder, 1), MOIRE_NO_FILE, "cannot rename ");
    on_root(expect(rmdir(in_folder(folder, "step-00000002.h5")) == 0));
    expect_untouched();
    on_root(
        expect(unlink(in_folder(folder, "latest")) == 0 && mkdir(in_folder(folder, "latest"), 0777) == 0));
    expect_agreed(fixture_write(&fixture, 2, "", folder, 1), MOIRE_NO_FILE, "cannot rename ");
    on_root(expect(is_there(folder, "step-00000001.h5") && !is_there(folder, ".latest.partial")));
    close_folder();
}

static void an_old_checkpoint_that_stays_is_a_warning(void)
{
    static struct capture captured;
    open_folder();
    on_root(expect(unlink(in_folder(folder, "step-00000001.h5")) == 0 &&
                   mkdir(in_folder(folder, "step-00000001.h5"), 0777) == 0));
    capture_begin(&captured, STDERR_FILENO);
    moire_status status = fixture_write(&fixture, 2, "", folder, 1);
    capture_end(&captured);
    expect_ok(status);
    expect(count_text(captured.text, "an old checkpoint stays: ") == (test_rank == 0));
    close_folder();
}

/* The table of tensors and the placement must agree, on every rank. */
static void a_placement_that_does_not_fit_is_refused(void)
{
    struct moire_placement other;
    const struct moire_checkpoint_state state = { .step = 2 };
    const int64_t experts[] = { 0, 1, 2, 3, 3 };
    const int ranks[] = { 0, 0, 0, 0, 0 };
    open_folder();
    expect_ok(moire_placement_even(6, fixture.mesh.expert.size, &other));
    expect_agreed(moire_checkpoint_write(&fixture.mesh, &other, &fixture.tensors, fixture.element,
                                         fixture.groups, 1, &state, folder, 1),
                  MOIRE_FAILED, "does not fit the placement; found 5 experts, expected 6");
    moire_placement_free(&other);
    expect_ok(moire_placement_create(5, fixture.mesh.expert.size, 5, experts, ranks, &other));
    expect_agreed(moire_checkpoint_write(&fixture.mesh, &other, &fixture.tensors, fixture.element,
                                         fixture.groups, 1, &state, folder, 1),
                  MOIRE_FAILED, "expert 4 lives on no rank");
    moire_placement_free(&other);
    const int64_t reversed[] = { 4, 3, 2, 1, 0 };
    expect_ok(moire_placement_create(5, fixture.mesh.expert.size, 5, reversed, ranks, &other));
    expect_agreed(moire_checkpoint_write(&fixture.mesh, &other, &fixture.tensors, fixture.element,
                                         fixture.groups, 1, &state, folder, 1),
                  MOIRE_FAILED, "does not hold the experts of the placement");
    moire_placement_free(&other);
    expect_untouched();
    close_folder();
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "no folder to write to", no_folder_to_write_to },
        { "a rank that cannot write stops all", a_rank_that_cannot_write_stops_all },
        { "a failed rename is agreed", a_failed_rename_is_agreed },
        { "an old checkpoint that stays is a warning", an_old_checkpoint_that_stays_is_a_warning },
        { "a placement that does not fit is refused", a_placement_that_does_not_fit_is_refused },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
