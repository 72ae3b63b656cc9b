#include "../support/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "moire/base/file.h"
#include "moire/observe/metrics.h"

static char directory[] = "/tmp/moire-metrics.XXXXXX";
static char path[64];

static void write_file(const char *text)
{
    expect_ok(moire_file_write(path, text, (int64_t)strlen(text)));
}

static void expect_file(const char *wanted)
{
    char *data;
    int64_t bytes;
    expect_ok(moire_file_read(path, &data, &bytes));
    if (strcmp(data, wanted) != 0) {
        fprintf(stderr, "# found:\n%s# expected:\n%s", data, wanted);
        expect(!"the expected file");
    }
    moire_release(data);
}

static void write_step(struct moire_metrics *metrics, int64_t step)
{
    moire_metrics_begin(metrics);
    moire_metrics_integer(metrics, "step", step);
    expect_ok(moire_metrics_end(metrics));
}

static void fields_keep_their_order_and_bits(void)
{
    struct moire_metrics *metrics;
    const double values[] = { 1, NAN, -0.5 };
    unlink(path);
    expect_ok(moire_metrics_open(path, 0, &metrics));
    moire_metrics_begin(metrics);
    moire_metrics_integer(metrics, "step", INT64_MAX);
    moire_metrics_real(metrics, "loss", 0.1);
    moire_metrics_real(metrics, "best", -INFINITY);
    moire_metrics_reals(metrics, "a list", values, 3);
    moire_metrics_reals(metrics, "empty", values, 0);
    moire_metrics_text(metrics, "note", "a \"quote\"\n\xc3\xa9");
    moire_metrics_text(metrics, "bytes", "\xff\xfe");
    moire_metrics_real(metrics, "b", NAN);
    expect_ok(moire_metrics_end(metrics));
    /* The line is there before the file is closed. */
    expect_file(
        "{\"step\":9223372036854775807,\"loss\":0.10000000000000001,\"best\":null,\"a list\":[1.0,null,-0.5],"
        "\"empty\":[],\"note\":\"a \\\"quote\\\"\\n\xc3\xa9\",\"bytes\":\"(not UTF-8)\",\"b\":null}\n");
    moire_metrics_close(metrics);
}

static void reals_come_back_with_the_same_bits(void)
{
    struct moire_metrics *metrics;
    char *data, *at;
    int64_t bytes;
    double values[50];
    unlink(path);
    for (int i = 0; i < 50; i++) values[i] = test_random() * pow(10, (double)test_random_below(40) - 20);
    expect_ok(moire_metrics_open(path, 0, &metrics));
    moire_metrics_begin(metrics);
    moire_metrics_reals(metrics, "values", values, 50);
    expect_ok(moire_metrics_end(metrics));
    moire_metrics_close(metrics);
    expect_ok(moire_file_read(path, &data, &bytes));
    at = strchr(data, '[');
    for (int i = 0; at && i < 50; i++) expect(strtod(at + 1, &at) == values[i]);
    moire_release(data);
}

static void a_run_goes_on_where_its_checkpoint_is(void)
{
    struct moire_metrics *metrics;
    unlink(path);
    expect_ok(moire_metrics_open(path, 0, &metrics));
    for (int64_t step = 1; step <= 12; step++) write_step(metrics, step);
    moire_metrics_close(metrics);
    expect_ok(moire_metrics_open(path, 3, &metrics));
    expect_file("{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    write_step(metrics, 4);
    moire_metrics_close(metrics);
    expect_file("{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
    expect_ok(moire_metrics_open(path, 0, &metrics));
    expect_file("");
    moire_metrics_close(metrics);
}

static void check_trimmed(const char *before, const char *after)
{
    struct moire_metrics *metrics;
    write_file(before);
    expect_ok(moire_metrics_open(path, 5, &metrics));
    expect_file(after);
    write_step(metrics, 6);
    moire_metrics_close(metrics);
    char wanted[512];
    snprintf(wanted, sizeof wanted, "%s{\"step\":6}\n", after);
    expect_file(wanted);
}

static void what_a_crash_left_is_cleaned(void)
{
    check_trimmed("", "");
    check_trimmed("{\"step\":1}\n{\"st", "{\"step\":1}\n");
    check_trimmed("{\"st", "");
    /* The last line is whole but for its newline. */
    check_trimmed("{\"step\":1}\n{\"step\":2}", "{\"step\":1}\n{\"step\":2}\n");
    check_trimmed("{\"step\":1}\n\n", "{\"step\":1}\n");
    check_trimmed("{\"step\":1}\n{\"step\":7}\n{\"step\":2}\n{\"step\"\n", "{\"step\":1}\n{\"step\":2}\n");
    check_trimmed("{\"note\":1}\n{\"step\":5}\n{\"step\":\"x\"}\n",
                  "{\"note\":1}\n{\"step\":5}\n{\"step\":\"x\"}\n");
    check_trimmed("{\"step\": 5,  \"loss\": 1}\n{\"step\": 6}\n", "{\"step\": 5,  \"loss\": 1}\n");
    check_trimmed("{\"step\":1}\n17\n", "{\"step\":1}\n");
}

static void damage_in_the_middle_is_an_error(void)
{
    struct moire_metrics *metrics = NULL;
    const char *text = "{\"step\":1}\n{\"step\":\n{\"step\":3}\n";
    write_file(text);
    expect_failure(moire_metrics_open(path, 5, &metrics), MOIRE_BAD_DATA, "line 2 is damaged");
    expect(metrics == NULL);
    write_file("[1]\n{\"step\":3}\n");
    expect_failure(moire_metrics_open(path, 5, &metrics), MOIRE_BAD_DATA,
                   "line 1 is damaged; found not an object");
    write_file(text);
    expect_failure(moire_metrics_open(path, 0, &metrics), MOIRE_BAD_DATA, path);
    expect_file(text); /* left alone */
}

static void nothing_happens_without_metrics(void)
{
    double value = 1;
    moire_metrics_begin(NULL);
    moire_metrics_integer(NULL, "a", 1);
    moire_metrics_real(NULL, "a", 1);
    moire_metrics_reals(NULL, "a", &value, 1);
    moire_metrics_text(NULL, "a", "b");
    expect_ok(moire_metrics_end(NULL));
    moire_metrics_close(NULL);
}

static void a_line_begun_twice_or_left_open_is_dropped(void)
{
    struct moire_metrics *metrics;
    unlink(path);
    expect_ok(moire_metrics_open(path, 0, &metrics));
    moire_metrics_begin(metrics);
    moire_metrics_integer(metrics, "lost", 1);
    write_step(metrics, 1);
    moire_metrics_begin(metrics);
    moire_metrics_integer(metrics, "step", 2);
    moire_metrics_close(metrics);
    expect_file("{\"step\":1}\n");
}

static void a_path_that_cannot_be_opened(void)
{
    struct moire_metrics *metrics;
    expect_failure(moire_metrics_open("/nowhere/metrics.jsonl", 0, &metrics), MOIRE_NO_FILE,
                   "/nowhere/metrics.jsonl");
    expect_failure(moire_metrics_open(directory, 0, &metrics), MOIRE_NO_FILE, directory);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "fields keep their order and bits", fields_keep_their_order_and_bits },
        { "reals come back with the same bits", reals_come_back_with_the_same_bits },
        { "a run goes on where its checkpoint is", a_run_goes_on_where_its_checkpoint_is },
        { "what a crash left is cleaned", what_a_crash_left_is_cleaned },
        { "damage in the middle is an error", damage_in_the_middle_is_an_error },
        { "nothing happens without metrics", nothing_happens_without_metrics },
        { "a line begun twice or left open is dropped", a_line_begun_twice_or_left_open_is_dropped },
        { "a path that cannot be opened", a_path_that_cannot_be_opened },
    };
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    if (!mkdtemp(directory)) return 99;
    snprintf(path, sizeof path, "%s/metrics.jsonl", directory);
    int code = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    unlink(path);
    rmdir(directory);
    return code;
}
