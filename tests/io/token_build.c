/* Token files built from text, and what is said about token files. */
#include "../support/harness.h"
#include "tokens.h"

#include <sys/stat.h>

#include "moire/io/data.h"

enum { S = 5 };

static struct moire_data *open_data(const struct moire_config *config)
{
    struct moire_data *data = NULL;
    expect_ok(moire_data_open(config, &data));
    if (!data) fail_msg("the data cannot be opened");
    return data;
}

/* What a text source and a token file built from the same files hold, as an epoch of validation and
 * training. */
static void expect_same(const char *text_path, const char *source, const char *path)
{
    struct moire_config config = data_config("text", text_path, S);
    config.data_domain = MOIRE_DOMAIN_KIND; /* one domain: the files are of one kind */
    config.data_validation = 0.2;
    struct moire_data *text = open_data(&config);
    config.data_source = (char *)(uintptr_t)source;
    config.data_path = (char *)(uintptr_t)path;
    struct moire_data *built = open_data(&config);
    expect(moire_data_tokens(text) == moire_data_tokens(built));
    for (int split = 0; split < MOIRE_SPLITS; split++) {
        int64_t count = moire_data_sequences(text, split);
        expect(count == moire_data_sequences(built, split) && count > 0);
        for (int64_t i = 0; i < count; i++) {
            int32_t one[S + 1], other[S + 1];
            int domain;
            expect_ok(moire_data_fetch(text, split, i, one, &domain));
            expect_ok(moire_data_fetch(built, split, i, other, &domain));
            expect(memcmp(one, other, sizeof one) == 0);
        }
    }
    moire_data_close(text);
    moire_data_close(built);
}

static void put_texts(void)
{
    unsigned char bytes[9000]; /* more than a block */
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)test_random_below(256);
    mkdir("texts", 0777);
    put_file("texts/b.txt", bytes, sizeof bytes);
    put_file("texts/a.txt", bytes + 100, 33);
    put_text("texts/c.txt", "A last text.\n");
    put_text("texts/d.txt", "");
}

static void test_build(void)
{
    put_texts();
    mkdir("built", 0777);
    for (int again = 0; again < 2; again++) { /* the second time over old files */
        expect_ok(moire_data_build("texts/*.txt", "llmc", "built/tokens"));
        expect_ok(moire_data_build("texts/*.txt", "megatron", "built/pair.bin"));
        struct moire_paths names;
        expect_ok(moire_paths_list("built", &names)); /* nothing else is left */
        expect(names.count == 3 && strcmp(names.list[0], "pair.bin") == 0
               && strcmp(names.list[1], "pair.idx") == 0 && strcmp(names.list[2], "tokens.bin") == 0);
        moire_paths_free(&names);
        expect_same("texts/*.txt", "llmc", "built/tokens.bin");
        expect_same("texts/*.txt", "megatron", "built/pair");
    }
    expect_ok(moire_data_build("texts/b.txt", "llmc", "built/tokens.bin"));
    expect_same("texts/b.txt", "llmc", "built/tokens.bin");
}

static void test_build_errors(void)
{
    put_texts();
    expect_failure(moire_data_build("texts/*.txt", "megatrn", "x"), MOIRE_USAGE, "did you mean 'megatron'");
    expect_failure(moire_data_build("texts/*.txt", "llmc", ""), MOIRE_USAGE,
                   "name of the token file is empty");
    expect_failure(moire_data_build("texts/*.none", "llmc", "x"), MOIRE_NO_FILE, "texts/*.none");
    expect_failure(moire_data_build("texts/d.txt", "llmc", "x"), MOIRE_BAD_DATA, "texts/d.txt is empty");
    expect_failure(moire_data_build("texts/*.txt", "llmc", "nowhere/x"), MOIRE_NO_FILE, "nowhere/x.bin");
    expect_failure(moire_data_build("texts/*.txt", "megatron", "nowhere/x"), MOIRE_NO_FILE, "nowhere/x.bin");
    put_text("huge.txt", ""); /* of holes */
    if (truncate("huge.txt", (off_t)INT32_MAX + 1) != 0) fail_msg("huge.txt cannot be made");
    expect_failure(moire_data_build("huge.txt", "llmc", "x"), MOIRE_USAGE,
                   "found 2147483648, expected at most 2147483647; try several files");
    expect_failure(moire_data_build("huge.txt", "megatron", "x"), MOIRE_USAGE, "huge.txt is too large");
    unlink("huge.txt");
    mkdir("taken.bin", 0777);
    expect_failure(moire_data_build("texts/*.txt", "llmc", "taken"), MOIRE_NO_FILE, "taken.bin");
    struct moire_paths names;
    expect_ok(moire_paths_list(".", &names));
    for (int64_t i = 0; i < names.count; i++) expect(strstr(names.list[i], ".tmp") == NULL);
    moire_paths_free(&names);
}

static void inspect(void *path)
{
    expect_ok(moire_data_inspect_file(path));
}

static void test_inspect(void)
{
    put_texts();
    put_text("abba.txt", "babbbbca");
    expect_ok(moire_data_build("abba.txt", "llmc", "abba.bin"));
    char *text = printed(stdout, inspect, (char[]){ "abba.bin" });
    expect(longest_line(text) <= 80);
    expect(strstr(text, "format      llm.c, magic 20240520, version 1, uint16\n")
           && strstr(text, "tokens      8 of 2 bytes\n"));
    /* Shares 5/8, 2/8, 1/8: 0.625 * 0.678 + 0.25 * 2 + 0.125 * 3 bits. */
    expect(strstr(text, "97 to 99, 3 different, 1.30 bits") != NULL);
    expect(strstr(text, "frequent    98 (62.5 %), 97 (25.0 %), 99 (12.5 %)\n") != NULL);
    free(text);

    expect_ok(moire_data_build("texts/*.txt", "megatron", "pair"));
    char *paths[] = { (char[]){ "pair" }, (char[]){ "pair.bin" }, (char[]){ "pair.idx" } };
    for (int i = 0; i < 3; i++) {
        text = printed(stdout, inspect, paths[i]);
        expect(longest_line(text) <= 80 && strstr(text, "Megatron, version 1, uint16 (code 8)\n"));
        expect(strstr(text, "sequences   3, of 13 to 9000 tokens\n") && strstr(text, "documents   3\n"));
        expect(strstr(text, "tokens      9046 of 2 bytes\n") && strstr(text, ", 256 different, 7.9"));
        free(text);
        expect(moire_data_is_token_file(paths[i]));
    }
    /* Ids of four bytes: counted one by one only up to 2^24. */
    struct index index = { "MMIDIDX\0", 1, 4, 2, 1, 2, { 3, 1 }, { 0, 12 }, { 0 } };
    struct bytes bytes = { .count = 0 };
    const int64_t ids[] = { 1, 1, 70000, INT32_MAX };
    for (int i = 0; i < 4; i++) add(&bytes, 4, ids[i]);
    put_index("wide.idx", &index);
    put_bytes("wide.bin", &bytes);
    text = printed(stdout, inspect, (char[]){ "wide" });
    expect(strstr(text, "token ids   1 to 2147483647, 1 tokens over 16777215\n")
           && strstr(text, "int32 (code 4)"));
    free(text);
}

static void test_inspect_errors(void)
{
    mkdir("folder", 0777);
    put_text("plain", "Neither of the two formats.");
    put_text("tiny", "x");
    const char *others[] = { "plain", "tiny", "folder" };
    for (int i = 0; i < 3; i++) {
        expect(!moire_data_is_token_file(others[i]) && !moire_error_text()[0]);
        expect_failure(moire_data_inspect_file(others[i]), MOIRE_BAD_DATA, "is not a token file");
    }
    expect(!moire_data_is_token_file("missing") && !moire_error_text()[0]);
    expect_failure(moire_data_inspect_file("missing"), MOIRE_NO_FILE, "there is no file missing");
    put_llmc("cut.bin", 20240520, 1, 51, 50);
    expect(moire_data_is_token_file("cut.bin"));
    expect_failure(moire_data_inspect_file("cut.bin"), MOIRE_BAD_DATA, "truncated");
    struct index index = good_index();
    put_index("cut.idx", &index);
    unlink("cut.bin");
    expect(moire_data_is_token_file("cut.idx"));
    expect_failure(moire_data_inspect_file("cut.idx"), MOIRE_NO_FILE, "cut.bin");
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "build", test_build },
        { "build: errors", test_build_errors },
        { "inspect", test_inspect },
        { "inspect: errors", test_inspect_errors },
    };
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", NULL, 0);
    char scratch[] = "/tmp/moire-test-build-XXXXXX";
    enter_scratch(scratch);
    int result = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    remove_scratch(scratch);
    return result;
}
