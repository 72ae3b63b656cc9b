/* What all token sources share, over text: windows, domains, splits, order, errors. */
#include "../support/harness.h"
#include "files.h"

#include <inttypes.h>
#include <sys/stat.h>

#include "io/private.h"
#include "moire/base/random.h"

enum { S = 7 };

/* Bytes that differ from place to place, so that every window is known by its tokens. */
static void put_random(const char *path, int64_t bytes, uint64_t stream)
{
    unsigned char *content = malloc((size_t)bytes + 1);
    for (int64_t i = 0; i < bytes; i++)
        content[i] = (unsigned char)moire_random_below(test_seed, stream, (uint64_t)i, 256);
    put_file(path, content, (size_t)bytes);
    free(content);
}

static struct moire_data *open_data(const struct moire_config *config)
{
    struct moire_data *data = NULL;
    expect_ok(moire_data_open(config, &data));
    if (!data) fail_msg("the data cannot be opened");
    return data;
}

static struct moire_data *open_text(const char *path, int64_t sequence, double validation)
{
    struct moire_config config = data_config("text", path, sequence);
    config.data_validation = validation;
    return open_data(&config);
}

/* Opens and closes; the status for expect_failure. */
static moire_status try_open(const struct moire_config *config)
{
    struct moire_data *data = NULL;
    moire_status status = moire_data_open(config, &data);
    if (status == MOIRE_OK) moire_data_close(data);
    else expect(data == NULL);
    return status;
}

static void opened_quietly(void *config)
{
    moire_data_close(open_data(config));
}

/* The naive way: the place among all windows of the one with these tokens, when each domain is cut in turn
 * from its contents; -1: none of `domain` has them. */
static int64_t window_of(const char *const *contents, const int64_t *bytes, int64_t sequence,
                         const int32_t *tokens, int domain)
{
    int64_t window = 0;
    for (int d = 0; d < domain; d++) window += (bytes[d] - 1) / sequence;
    for (int64_t start = 0; start + sequence < bytes[domain]; start += sequence, window++) {
        int64_t same = 0;
        while (same <= sequence && tokens[same] == (unsigned char)contents[domain][start + same]) same++;
        if (same > sequence) return window;
    }
    return -1;
}

/* Both splits together hold each window exactly once an epoch, for several epochs. */
static void expect_epochs(const struct moire_data *data, const char *const *contents, const int64_t *bytes,
                          int domains, int64_t sequence)
{
    int32_t *tokens = malloc((size_t)(sequence + 1) * sizeof *tokens);
    int64_t windows = 0;
    for (int d = 0; d < domains; d++) windows += (bytes[d] - 1) / sequence;
    int64_t training = moire_data_sequences(data, MOIRE_TRAINING);
    int64_t validation = moire_data_sequences(data, MOIRE_VALIDATION);
    expect(training + validation == windows && moire_data_domains(data) == domains);
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        int *seen = calloc((size_t)windows, sizeof *seen);
        int64_t last_validation = -1;
        for (int64_t i = 0; i < windows; i++) {
            int domain = -1;
            enum moire_split split = i < training ? MOIRE_TRAINING : MOIRE_VALIDATION;
            int64_t number = i < training ? epoch * training + i : epoch * validation + i - training;
            expect_ok(moire_data_fetch(data, split, number, tokens, &domain));
            expect(domain >= 0 && domain < domains);
            if (domain < 0 || domain >= domains) break;
            int64_t window = window_of(contents, bytes, sequence, tokens, domain);
            expect(window >= 0);
            if (window < 0) break;
            seen[window]++;
            if (i < training) continue;
            expect(window > last_validation); /* the stored order */
            last_validation = window;
        }
        for (int64_t window = 0; window < windows; window++) expect(seen[window] == 1);
        free(seen);
    }
    free(tokens);
}

static char *content_of(const char *path, int64_t *bytes)
{
    char *data = NULL;
    expect_ok(moire_file_read(path, &data, bytes));
    return data;
}

static void test_windows(void)
{
    /* Large files are mapped, small ones read; one token more or less than a whole number of windows. */
    const char *names[] = { "a.txt", "b.c", "c.c", "d" };
    const int64_t lengths[] = { 7 * S + 1, 70000, 7 * S, S + 1 };
    const char *contents[4];
    int64_t bytes[4];
    for (int i = 0; i < 4; i++) {
        put_random(names[i], lengths[i], (uint64_t)i);
        contents[i] = content_of(names[i], &bytes[i]);
    }
    struct moire_config config = data_config("text", "*.txt, *.c, d", S);
    struct moire_data *data = open_data(&config);
    expect_epochs(data, contents, bytes, 4, S);
    for (int i = 0; i < 4; i++) expect(strcmp(moire_data_domain_name(data, i), names[i]) == 0);
    expect(moire_data_tokens(data) == 7 * S + 1 + 70000 + 7 * S + S + 1);
    moire_data_close(data);

    config.model_sequence = 10 * S;
    char *text = printed(stderr, opened_quietly, &config);
    expect(strstr(text, "left out: 3 of 4, 107 tokens together") && strstr(text, "warning"));
    expect(strchr(text, '\n') == text + strlen(text) - 1); /* said once */
    free(text);
    data = open_data(&config);
    expect_epochs(data, contents + 1, bytes + 1, 1, 10 * S);
    expect(moire_data_tokens(data) == 7 * S + 1 + 70000 + 7 * S + S + 1);
    moire_data_close(data);
    for (int i = 0; i < 4; i++) moire_release((char *)(uintptr_t)contents[i]);
}

static void test_epochs(void)
{
    put_random("e1", 40 * S + 3, 5);
    put_random("e2", 3 * S + 1, 6);
    const char *contents[2];
    int64_t bytes[2];
    contents[0] = content_of("e1", &bytes[0]);
    contents[1] = content_of("e2", &bytes[1]);
    for (int i = 0; i <= 9; i++) {
        struct moire_data *data = open_text("e1,e2", S, i / 10.0);
        expect_epochs(data, contents, bytes, 2, S);
        expect((moire_data_sequences(data, MOIRE_VALIDATION) > 0) == (i > 0));
        moire_data_close(data);
    }
    moire_release((char *)(uintptr_t)contents[0]);
    moire_release((char *)(uintptr_t)contents[1]);
}

static void test_kinds(void)
{
    mkdir("kinds", 0777);
    mkdir("kinds/deep", 0777);
    put_random("kinds/b.c", 20, 1);
    put_random("kinds/deep/a.c", 23, 2);
    put_random("kinds/a.h", 30, 3);
    put_random("kinds/Makefile", 31, 4);
    put_random("kinds/deep/odd.", 32, 5);
    put_random("kinds/.profile", 33, 6);
    /* Kinds in alphabetical order, files of a kind in the order of their paths. */
    const char *order[] = { "kinds/b.c", "kinds/deep/a.c", "kinds/a.h", "kinds/.profile", "kinds/Makefile",
                           "kinds/deep/odd." };
    const int domain_of[] = { 0, 0, 1, 2, 2, 2 };
    char joined[3][200];
    int64_t bytes[3] = { 0 };
    for (int i = 0; i < 6; i++) {
        int64_t count;
        char *content = content_of(order[i], &count);
        memcpy(joined[domain_of[i]] + bytes[domain_of[i]], content, (size_t)count);
        bytes[domain_of[i]] += count;
        moire_release(content);
    }
    const char *contents[3] = { joined[0], joined[1], joined[2] };
    struct moire_config config = data_config("text", "kinds/**, kinds/.profile", S);
    config.data_domain = MOIRE_DOMAIN_KIND;
    struct moire_data *data = open_data(&config);
    expect_epochs(data, contents, bytes, 3, S);
    expect(strcmp(moire_data_domain_name(data, 0), "c") == 0);
    expect(strcmp(moire_data_domain_name(data, 1), "h") == 0);
    expect(strcmp(moire_data_domain_name(data, 2), "other") == 0 && moire_data_tokens(data) == 169);
    expect(data->domains[0].files == 2 && data->domains[1].files == 1 && data->domains[2].files == 3);
    moire_data_close(data);
    config.model_sequence = 42; /* longer than any file but shorter than two kinds: windows cross files */
    data = open_data(&config);
    expect(moire_data_domains(data) == 2 && strcmp(moire_data_domain_name(data, 1), "other") == 0);
    expect(data->domains_left_out == 1 && data->tokens_left_out == 30);
    const char *longest[2] = { joined[0], joined[2] };
    const int64_t longest_bytes[2] = { bytes[0], bytes[2] };
    expect_epochs(data, longest, longest_bytes, 2, 42);
    moire_data_close(data);
}

/* Sequence numbers give the same tokens after the data is opened again, whatever else was fetched. */
static void test_order(void)
{
    put_random("order", 50 * S + 1, 7);
    struct moire_config config = data_config("text", "order", S);
    config.data_validation = 0.1;
    struct moire_data *data = open_data(&config), *again = open_data(&config);
    config.run_seed = 2;
    struct moire_data *other = open_data(&config);
    int64_t count = moire_data_sequences(data, MOIRE_TRAINING), same_epoch = 0, same_seed = 0, same_place = 0;
    int32_t first[S + 1], second[S + 1];
    int domain;
    expect(moire_data_checksum(data) == moire_data_checksum(other));
    for (int64_t number = 2 * count - 1; number >= 0; number--) {
        expect_ok(moire_data_fetch(data, MOIRE_TRAINING, number, first, &domain));
        expect_ok(moire_data_fetch(again, MOIRE_TRAINING, number, second, &domain));
        expect(memcmp(first, second, sizeof first) == 0);
        expect_ok(moire_data_fetch(other, MOIRE_TRAINING, number, second, &domain));
        same_seed += memcmp(first, second, sizeof first) == 0;
        expect_ok(moire_data_fetch(data, MOIRE_TRAINING, number + count, second, &domain));
        same_epoch += memcmp(first, second, sizeof first) == 0;
        expect_ok(data->source->fetch(data, number % count, second, &domain));
        same_place += memcmp(first, second, sizeof first) == 0;
    }
    /* Shuffled, in another way each epoch and with each seed: one in `count` stays by chance. */
    expect(same_seed < 16 && same_epoch < 16 && same_place < 16);
    for (int64_t i = 0; i < moire_data_sequences(data, MOIRE_VALIDATION); i++) {
        expect_ok(moire_data_fetch(data, MOIRE_VALIDATION, i, first, &domain));
        expect_ok(moire_data_fetch(other, MOIRE_VALIDATION, i + moire_data_sequences(other, MOIRE_VALIDATION),
                                   second, &domain));
        expect(memcmp(first, second, sizeof first) == 0); /* the split does not depend on the seed */
    }
    expect_ok(moire_data_fetch(data, MOIRE_TRAINING, INT64_MAX, first, &domain));
    expect_failure(moire_data_fetch(data, MOIRE_TRAINING, -1, first, &domain), MOIRE_FAILED, "-1");
    moire_data_close(data);
    moire_data_close(again);
    moire_data_close(other);
}

static void test_no_allocation(void)
{
    struct moire_data *data = open_text("order", S, 0.1);
    int64_t allocations = moire_memory_allocations();
    int32_t tokens[S + 1];
    int domain;
    for (int64_t number = 0; number < 200; number++) {
        expect_ok(moire_data_fetch(data, MOIRE_TRAINING, number, tokens, &domain));
        expect_ok(moire_data_fetch(data, MOIRE_VALIDATION, number, tokens, &domain));
    }
    expect(moire_memory_allocations() == allocations);
    moire_data_close(data);
}

/* One window is for training, whatever the share. */
static void test_single_window(void)
{
    put_random("single", S + 1, 1);
    struct moire_data *opened = open_text("single", S, 0.9);
    int32_t tokens[S + 1];
    int domain;
    expect(moire_data_sequences(opened, MOIRE_TRAINING) == 1);
    expect(moire_data_sequences(opened, MOIRE_VALIDATION) == 0);
    for (int64_t number = 0; number < 5; number++)
        expect_ok(moire_data_fetch(opened, MOIRE_TRAINING, number, tokens, &domain));
    expect_failure(moire_data_fetch(opened, MOIRE_VALIDATION, 0, tokens, &domain), MOIRE_USAGE, "try "
                   "data.validation=");
    moire_data_close(opened);
}

static void test_checksum(void)
{
    mkdir("sum", 0777);
    mkdir("sum/other", 0777);
    enum { LARGE = 3 << 20 };
    const char *paths[] = { "sum/x", "sum/other/x", "sum/y" };
    uint64_t checksums[3], changed;
    for (int large = 0; large < 2; large++) {
        int64_t bytes = large ? LARGE : 100;
        for (int i = 0; i < 3; i++) {
            put_random(paths[i], bytes, 1);
            struct moire_data *data = open_text(paths[i], S, 0);
            checksums[i] = moire_data_checksum(data);
            moire_data_close(data);
        }
        expect(checksums[0] == checksums[1] && checksums[0] != checksums[2]);
            /* the name counts, not the folder */
        for (int last = 0; last < 2; last++) { /* another first or last byte */
            int64_t count;
            char *content = content_of("sum/x", &count);
            content[last ? count - 1 : 0] ^= 1;
            put_file("sum/other/x", content, (size_t)count);
            moire_release(content);
            struct moire_data *data = open_text("sum/other/x", S, 0);
            changed = moire_data_checksum(data);
            moire_data_close(data);
            expect(changed != checksums[0]);
        }
        put_random("sum/other/x", bytes + 1, 1);
        struct moire_data *data = open_text("sum/other/x", S, 0);
        expect(moire_data_checksum(data) != checksums[0]);
        moire_data_close(data);
    }
}

static void test_path_errors(void)
{
    struct moire_config config = data_config("texts", "a.txt", S);
    mkdir("folder", 0777);
    expect_failure(try_open(&config), MOIRE_USAGE, "did you mean 'text'");
    expect_failure(moire_data_check_source("megatrn"), MOIRE_USAGE, "did you mean 'megatron'");
    expect_ok(moire_data_check_source("llmc"));
    const char *sources[] = { "text", "llmc", "megatron" };
    for (int i = 0; i < 3; i++) {
        config = data_config(sources[i], "", S);
        expect_failure(try_open(&config), MOIRE_USAGE, "data.path is empty");
        config = data_config(sources[i], " , ", S);
        expect_failure(try_open(&config), MOIRE_USAGE, "is empty");
        config = data_config(sources[i], "none/*.here", S);
        expect_failure(try_open(&config), MOIRE_NO_FILE, "none/*.here");
        config = data_config(sources[i], "missing", S);
        expect_failure(try_open(&config), MOIRE_NO_FILE, "missing");
    }
    config = data_config("text", "folder", S);
    expect_failure(try_open(&config), MOIRE_NO_FILE, "only directories");
    if (geteuid() != 0) { /* root reads everything */
        put_random("secret", 100, 1);
        chmod("secret", 0);
        config = data_config("text", "secret", S);
        expect_failure(try_open(&config), MOIRE_NO_FILE, "secret");
    }
    mkfifo("pipe", 0666);
    config = data_config("text", "pipe", S);
    expect_failure(try_open(&config), MOIRE_NO_FILE, "expected a regular file");
}

static void test_empty_files(void)
{
    mkdir("empty", 0777);
    put_text("empty/1", "");
    put_text("empty/2", "some text that is long enough");
    put_text("empty/3", "");
    struct moire_config config = data_config("text", "empty/*", S);
    char *text = printed(stderr, opened_quietly, &config);
    expect(strstr(text, "empty files skipped: 2\n") != NULL);
    free(text);
    struct moire_data *data = open_data(&config);
    expect(moire_data_domains(data) == 1 && data->file_count == 1 && data->empty_files == 2);
    moire_data_close(data);
    config = data_config("text", "empty/*, ./empty/3", S); /* named too */
    expect_failure(try_open(&config), MOIRE_BAD_DATA, "empty/3 is empty; found 0 bytes");
    config = data_config("text", "empty/1, empty/2", S);
    expect_failure(try_open(&config), MOIRE_BAD_DATA, "empty/1 is empty");
    config = data_config("text", "empty/[13]", S);
    expect_failure(try_open(&config), MOIRE_BAD_DATA,
                   "every file that matches 'empty/[13]' is empty; found 2");
}

static void test_sequence_errors(void)
{
    mkdir("short", 0777);
    put_random("short/a", 20, 1);
    put_random("short/b", 30, 2);
    struct moire_config config = data_config("text", "short/*", 30);
    expect_failure(try_open(&config), MOIRE_USAGE, "sequence longer than the data: found 30 tokens");
    expect_failure(try_open(&config), MOIRE_USAGE, "expected at least 31; try model.sequence=29 or less, or "
                   "data.domain=kind");
    expect_failure(try_open(&config), MOIRE_USAGE, "(short/b)");
    config.model_sequence = 20; /* one token too few in short/a */
    struct moire_data *data = open_data(&config);
    expect(moire_data_domains(data) == 1 && strcmp(moire_data_domain_name(data, 0), "short/b") == 0);
    expect(data->domains_left_out == 1 && moire_data_sequences(data, MOIRE_TRAINING) == 1);
    moire_data_close(data);
    config.model_sequence = 30;
    config.data_domain = MOIRE_DOMAIN_KIND;
    expect_ok(try_open(&config));
    config.model_sequence = 49;
    expect_ok(try_open(&config));
    config.model_sequence = 50;
    expect_failure(try_open(&config), MOIRE_USAGE, "found 50 tokens in the longest domain (other), expected "
                   "at least 51");
    put_text("short/c", "x");
    config = data_config("text", "short/c", 1);
    expect_failure(try_open(&config), MOIRE_USAGE, "try more data");
}

static void test_vocabulary(void)
{
    char content[10000];
    memset(content, 99, sizeof content);
    content[9000] = 120;
    put_file("ids", content, sizeof content);
    struct moire_config config = data_config("text", "ids", S);
    config.model_vocabulary = 120;
    expect_failure(try_open(&config), MOIRE_BAD_DATA, "ids at position 9000; found id 120, expected less "
                   "than 120");
    expect_failure(try_open(&config), MOIRE_BAD_DATA, "try model.vocabulary=121");
    config.model_vocabulary = 121;
    expect_ok(try_open(&config));
    content[9000] = (char)0xff;
    put_file("ids", content, sizeof content);
    config.model_vocabulary = 255;
    expect_failure(try_open(&config), MOIRE_BAD_DATA, "found id 255, expected less than 255");
    config.model_vocabulary = 256;
    expect_ok(try_open(&config));
}

static void print_data(void *data)
{
    moire_data_print(data);
}

static void test_print(void)
{
    mkdir("print", 0777);
    mkdir("print/a-folder-with-a-rather-long-name-for-a-folder", 0777);
    put_random("print/a-folder-with-a-rather-long-name-for-a-folder/and-a-file.txt", 100, 1);
    put_random("print/x", 50, 1);
    put_text("print/empty", "");
    put_text("print/little", "abc");
    struct moire_data *data = open_text("print/**", S, 0.2);
    char *text = printed(stdout, print_data, data);
    expect(longest_line(text) <= 80);
    expect(strstr(text, "...") && strstr(text, "a-folder/and-a-file.txt ") && strstr(text, "total "));
    expect(strstr(text, "left out    1 (domains of less than 8 tokens; 3 tokens")
           && strstr(text, "skipped     1 (empty files)"));
    char total[100], *line = strstr(text, "total ");
    snprintf(total, sizeof total, "%7d %15d %10" PRId64 " %10" PRId64 "\n", 2, 150,
             moire_data_sequences(data, MOIRE_TRAINING), moire_data_sequences(data, MOIRE_VALIDATION));
    expect(line && strstr(line, total));
    free(text);
    moire_data_close(data);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "windows", test_windows },
        { "every window once an epoch", test_epochs },
        { "kinds of files", test_kinds },
        { "order", test_order },
        { "fetch allocates nothing", test_no_allocation },
        { "a single window", test_single_window },
        { "checksum", test_checksum },
        { "errors of paths", test_path_errors },
        { "empty files", test_empty_files },
        { "errors of the sequence length", test_sequence_errors },
        { "errors of the vocabulary", test_vocabulary },
        { "print", test_print },
    };
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", NULL, 0);
    char scratch[] = "/tmp/moire-test-data-XXXXXX";
    enter_scratch(scratch);
    int result = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    remove_scratch(scratch);
    return result;
}
