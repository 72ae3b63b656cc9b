/* run.json: one segment a start, valid at any moment. */
#include "../support/harness.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../support/capture.h"
#include "checkpoint_fixture.h"
#include "moire/io/manifest.h"

static char folder[256];
static struct moire_config config;
static struct moire_mesh mesh;

static const char *const facts[][2] = { { "blas", "OpenBLAS 0.3" }, { "back_end", "alltoallv" } };

static void open_run(void)
{
    folder_make(folder);
    expect_ok(moire_config_create(&config));
    expect_ok(moire_config_set(&config, "train.steps", "77", MOIRE_FROM_COMMAND));
    expect_ok(moire_config_set(&config, "data.path", "caf\xe9/*.txt", MOIRE_FROM_FILE)); /* not UTF-8 */
    expect_ok(moire_mesh_create(&config, &mesh));
}

static void close_run(void)
{
    moire_mesh_free(&mesh);
    moire_config_free(&config);
    folder_remove(folder);
}

static json_t *load(void)
{
    json_error_t error;
    json_t *root = json_load_file(in_folder(folder, "run.json"), 0, &error);
    expect(root != NULL);
    return root;
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long number_at(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

static void expect_setting(const json_t *segment, const char *name, const char *value, const char *origin)
{
    const json_t *entry = json_object_get(json_object_get(segment, "config"), name);
    expect(strcmp(text_at(entry, "value"), value) == 0);
    expect(strcmp(text_at(entry, "origin"), origin) == 0);
}

static void check_running(const json_t *segment)
{
    expect(strcmp(text_at(segment, "outcome"), "running") == 0);
    expect(strlen(text_at(segment, "start")) == 20);
    expect(json_is_null(json_object_get(segment, "end")));
    expect(json_is_null(json_object_get(segment, "last_step")));
    expect(number_at(segment, "first_step") == 10);
    expect(number_at(segment, "ranks") == test_ranks && number_at(segment, "nodes") == 1);
    expect(number_at(segment, "threads") >= 1 && number_at(segment, "seed") == 1);
    expect(text_at(segment, "host")[0] && text_at(segment, "moire")[0]);
    expect(strspn(text_at(segment, "binding"), "0123456789,-") == strlen(text_at(segment, "binding")));
    expect(text_at(segment, "binding")[0]);
    expect(json_array_size(json_object_get(segment, "versions")) == 6);
    expect(strcmp(text_at(json_object_get(segment, "facts"), "back_end"), "alltoallv") == 0);
    expect(number_at(json_object_get(segment, "mesh"), "expert_ranks") == test_ranks);
    expect(number_at(json_object_get(segment, "mesh"), "groups") == 1);
    expect(json_object_size(json_object_get(segment, "config")) == (size_t)moire_parameter_count);
    expect_setting(segment, "train.steps", "77", moire_origin_name(MOIRE_FROM_COMMAND));
    expect_setting(segment, "model.dim", "256", moire_origin_name(MOIRE_FROM_DEFAULT));
    expect_setting(segment, "parallel.expert", "all", moire_origin_name(MOIRE_FROM_DEFAULT));
    expect_setting(segment, "data.path", "caf?/*.txt", moire_origin_name(MOIRE_FROM_FILE));
}

static void a_start_is_written_at_once(void)
{
    struct moire_manifest *manifest = NULL;
    open_run();
    if (test_rank == 0) {
        expect_ok(moire_manifest_start(folder, &config, &mesh, 10, facts, 2, &manifest));
        json_t *root = load();
        expect(number_at(root, "format_version") == 1);
        expect(json_array_size(json_object_get(root, "segments")) == 1);
        check_running(json_array_get(json_object_get(root, "segments"), 0));
        json_decref(root);
        expect_ok(moire_manifest_end(manifest, 25, "done"));
        root = load();
        const json_t *segment = json_array_get(json_object_get(root, "segments"), 0);
        expect(strcmp(text_at(segment, "outcome"), "done") == 0 && number_at(segment, "last_step") == 25);
        expect(strlen(text_at(segment, "end")) == 20);
        expect(json_real_value(json_object_get(segment, "seconds")) >= 0);
        json_decref(root);
        expect(folder_count(folder) == 1);
    }
    expect_ok(moire_manifest_end(NULL, 1, "done"));
    close_run();
}

static void segments_add_up(void)
{
    static struct capture captured;
    const char *const outcomes[] = { "stopped", "failed: a text with \"quotes\" and \xff", "done" };
    open_run();
    if (test_rank == 0) {
        struct moire_manifest *manifest;
        for (int i = 0; i < 3; i++) {
            expect_ok(moire_manifest_start(in_folder(folder, "new/run"), &config, &mesh, 10 * i, facts, i,
                                           &manifest));
            expect_ok(moire_manifest_end(manifest, 10 * i + 10, outcomes[i]));
        }
        expect_ok(moire_manifest_start(in_folder(folder, "new/run"), &config, &mesh, 30, NULL, 0, &manifest));
        capture_begin(&captured, STDOUT_FILENO);
        moire_status status = moire_manifest_print(in_folder(folder, "new/run")); /* while it runs */
        capture_end(&captured);
        expect_ok(status);
        expect(strstr(captured.text, "segment 1: stopped\n") && strstr(captured.text, "segment 3: done\n"));
        expect(strstr(captured.text, "segment 2: failed: a text with \"quotes\" and ?\n") != NULL);
        expect(strstr(captured.text, "segment 4: running\n") && strstr(captured.text, "30 to unknown\n"));
        expect(strstr(captured.text, "20 to 30\n") && strstr(captured.text, "  back_end     alltoallv\n"));
        for (char *line = strtok(captured.text, "\n"); line; line = strtok(NULL, "\n"))
            expect(strlen(line) <= 80);
        expect_ok(moire_manifest_end(manifest, 31, "done"));
    }
    close_run();
}

static void expect_refused(const char *content, const char *said)
{
    struct moire_manifest *manifest = NULL;
    char *after;
    int64_t bytes;
    expect_ok(moire_file_write(in_folder(folder, "run.json"), content, (int64_t)strlen(content)));
    expect_failure(moire_manifest_start(folder, &config, &mesh, 0, NULL, 0, &manifest), MOIRE_BAD_DATA, said);
    expect(manifest == NULL);
    expect_failure(moire_manifest_print(folder), MOIRE_BAD_DATA, said);
    expect_ok(moire_file_read(in_folder(folder, "run.json"), &after, &bytes));
    expect(strcmp(after, content) == 0); /* kept as it was */
    moire_release(after);
}

static void a_foreign_file_is_kept(void)
{
    struct moire_manifest *manifest = NULL;
    open_run();
    if (test_rank == 0) {
        expect_failure(moire_manifest_print(folder), MOIRE_NO_FILE, "run.json");
        expect_refused("", "is not JSON;");
        expect_refused("{\"format_version\": 1,\n \"segments\": [", "found at line 2:");
        expect_refused("[1, 2]", "is not the manifest of a run;");
        expect_refused("{\"format_version\": 1}", "is not the manifest of a run;");
        expect_refused("{\"format_version\": 2, \"segments\": []}", "found version 2, expected 1;");
        expect_failure(
            moire_manifest_start(in_folder(folder, "run.json"), &config, &mesh, 0, NULL, 0, &manifest),
            MOIRE_NO_FILE, "run.json");
    }
    close_run();
}

static void versions_are_one_a_line(void)
{
    struct moire_text text = { 0 };
    expect_ok(moire_versions(&text));
    expect(count_text(text.data, "\n") == 6);
    expect(strncmp(text.data, "moire ", 6) == 0);
    expect(strstr(text.data, "\nHDF5 1.") || strstr(text.data, "\nHDF5 2."));
    expect(strstr(text.data, "\njansson 2.") && strstr(text.data, "\nxxHash 0.") &&
           strstr(text.data, "\ncompiler "));
    expect(!strchr(text.data, ',') || strchr(text.data, ',') > strstr(text.data, "compiler"));
    moire_text_free(&text);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "a start is written at once", a_start_is_written_at_once },
        { "segments add up", segments_add_up },
        { "a foreign file is kept", a_foreign_file_is_kept },
        { "versions are one a line", versions_are_one_a_line },
    };
    return test_main(argc, argv, "1 3", tests, sizeof tests / sizeof *tests);
}
