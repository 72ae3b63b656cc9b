#include "../support/harness.h"

#include "capture.h"
#include "moire/base/log.h"
#include "moire/base/status.h"

static const struct moire_where nowhere = { .rank = -1, .step = -1, .layer = -1 };

static void fail_once(void)
{
    expect(moire_fail(MOIRE_BAD_DATA, "cause %d; found %s", 7, "x") == MOIRE_BAD_DATA);
}

static void test_text(void)
{
    expect(strcmp(moire_error_text(), "") == 0);
    fail_once();
    expect(strcmp(moire_error_text(), "moire: cause 7; found x") == 0);
    expect(moire_fail(MOIRE_FAILED, "a consequence") == MOIRE_FAILED); /* the first one stays */
    expect(strcmp(moire_error_text(), "moire: cause 7; found x") == 0);
    moire_error_clear();
    expect(strcmp(moire_error_text(), "") == 0);
    moire_fail(MOIRE_FAILED, "another");
    expect(strcmp(moire_error_text(), "moire: another") == 0);
    moire_error_clear();
}

static void expect_prefix(struct moire_where where, const char *text)
{
    moire_where = where;
    moire_fail(MOIRE_FAILED, "text");
    if (strcmp(moire_error_text(), text) != 0)
        fprintf(stderr, "# found '%s', expected '%s'\n", moire_error_text(), text);
    expect(strcmp(moire_error_text(), text) == 0);
    moire_error_clear();
    moire_where = nowhere;
}

static void test_prefix(void)
{
    expect_prefix(nowhere, "moire: text");
    expect_prefix((struct moire_where){ 17, 120, 4, "dispatch", "node3" },
                  "moire: rank 17 (node3), step 120, layer 4, dispatch: text");
    expect_prefix((struct moire_where){ 0, 0, 0, "", "" }, "moire: rank 0, step 0, layer 0: text");
    expect_prefix((struct moire_where){ 3, -1, -1, NULL, "n" }, "moire: rank 3 (n): text");
    expect_prefix((struct moire_where){ 3, -1, 2, NULL, "" }, "moire: rank 3, layer 2: text");
    expect_prefix((struct moire_where){ -1, 5, -1, NULL, "node3" }, "moire: step 5: text");
    expect_prefix((struct moire_where){ -1, -1, 6, NULL, "" }, "moire: layer 6: text");
    expect_prefix((struct moire_where){ -1, -1, -1, "combine", "" }, "moire: combine: text");
    expect_prefix((struct moire_where){ 2, -1, -1, "combine", "" }, "moire: rank 2, combine: text");
}

static void test_place_is_that_of_the_failure(void)
{
    moire_where.step = 7;
    moire_fail(MOIRE_FAILED, "text");
    moire_where.step = 8;
    expect(strcmp(moire_error_text(), "moire: step 7: text") == 0);
    moire_where = nowhere;
    moire_error_clear();
}

static void test_long_text(void)
{
    char *text = malloc(100001);
    memset(text, 'x', 100000);
    text[100000] = 0;
    moire_fail(MOIRE_FAILED, "%s", text);
    size_t length = strlen(moire_error_text());
    expect(length > 1000 && length < 100000);
    expect(strcmp(moire_error_text() + length - 4, "x...") == 0);
    moire_error_clear();
    free(text);
}

static void print_twice(void)
{
    moire_error_print();
    moire_error_print();
}

static void test_print(void)
{
    fail_once();
    char *text = captured_errors(print_twice);
    expect(strcmp(text, "moire: cause 7; found x\n") == 0);
    free(text);
    expect(strcmp(moire_error_text(), "") == 0);
    text = captured_errors(print_twice);
    expect(strcmp(text, "") == 0);
    free(text);
}

static void test_agreement(void)
{
    expect(!moire_error_is_agreed());
    moire_error_set_agreed(true);
    fail_once();
    expect(moire_error_is_agreed());
    free(captured_errors(print_twice)); /* printing leaves the agreement, the way out needs it */
    expect(moire_error_is_agreed());
    moire_error_clear();
    expect(!moire_error_is_agreed());
}

static void test_codes(void)
{
    for (int status = 0; status < MOIRE_STATUS_COUNT; status++) {
        int wanted = status == MOIRE_OK ? 0 : status == MOIRE_USAGE ? 2 : status == MOIRE_STOPPED ? 75 : 1;
        expect(moire_status_exit_code((moire_status)status) == wanted);
        expect(moire_status_name((moire_status)status) != NULL);
        for (int other = 0; other < status; other++)
            expect(strcmp(moire_status_name((moire_status)status), moire_status_name((moire_status)other)) !=
                   0);
    }
    expect(moire_status_exit_code((moire_status)1000) == 1);
    expect(strcmp(moire_status_name((moire_status)1000), "unknown status") == 0);
}

static moire_status try_it(bool fail)
{
    MOIRE_TRY(fail ? moire_fail(MOIRE_NO_SPACE, "full") : MOIRE_OK);
    return MOIRE_STOPPED;
}

static void test_try(void)
{
    expect(try_it(false) == MOIRE_STOPPED);
    expect_failure(try_it(true), MOIRE_NO_SPACE, "full");
}

static void log_lines(void)
{
    moire_log("a %d", 1);
    moire_warn("b");
    moire_log_rank("c");
}

static void expect_logged(const char *wanted)
{
    char *text = captured_errors(log_lines);
    if (strcmp(text, wanted) != 0) fprintf(stderr, "# found '%s', expected '%s'\n", text, wanted);
    expect(strcmp(text, wanted) == 0);
    free(text);
}

static void test_log(void)
{
    expect_logged("moire: a 1\nmoire: warning: b\nmoire: c\n");
    moire_where.rank = 0;
    strcpy(moire_where.node, "node1");
    expect_logged("moire: a 1\nmoire: warning: b\nmoire: rank 0 (node1): c\n");
    moire_where.rank = 3;
    expect_logged("moire: rank 3 (node1): c\n");
    moire_where.node[0] = 0;
    expect_logged("moire: rank 3: c\n");
    moire_where = nowhere;
    moire_log_set_quiet(true);
    expect_logged("moire: warning: b\nmoire: c\n");
    moire_log_set_quiet(false);
}

static void wipe(void)
{
    fputs("<", stderr);
}

static void test_before(void)
{
    moire_log_set_before(wipe);
    expect_logged("<moire: a 1\n<moire: warning: b\n<moire: c\n");
    fail_once();
    char *text = captured_errors(print_twice);
    expect(strcmp(text, "<moire: cause 7; found x\n") == 0);
    free(text);
    moire_log_set_before(NULL);
    expect_logged("moire: a 1\nmoire: warning: b\nmoire: c\n");
}

#ifdef MOIRE_DEBUG
static void fail_assertion(void)
{
    moire_assert(MOIRE_OK == MOIRE_FAILED);
}
#endif

static void test_assertion(void)
{
    moire_assert(1 + 1 == 2);
#ifdef MOIRE_DEBUG
    expect(dies(fail_assertion));
#endif
}

static const struct moire_test tests[] = {
    { "the first error stays until it is cleared", test_text },
    { "prefix", test_prefix },
    { "the prefix is that of the failure", test_place_is_that_of_the_failure },
    { "a long text is cut", test_long_text },
    { "an error is printed once", test_print },
    { "agreement", test_agreement },
    { "names and exit codes", test_codes },
    { "MOIRE_TRY", test_try },
    { "log lines", test_log },
    { "a live line is wiped first", test_before },
    { "assertions", test_assertion },
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
