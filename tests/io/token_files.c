/* Files of llm.c and of Megatron: read and refused. */
#include "../support/harness.h"
#include "tokens.h"

#include <inttypes.h>
#include <sys/stat.h>

#include "moire/io/data.h"

enum { S = 5 };

/* Opens and closes; the status for expect_failure. */
static moire_status try_open(const struct moire_config *config)
{
    struct moire_data *data = NULL;
    moire_status status = moire_data_open(config, &data);
    if (status == MOIRE_OK) moire_data_close(data);
    return status;
}

static moire_status try_path(const char *source, const char *path)
{
    struct moire_config config = data_config(source, path, S);
    return try_open(&config);
}

static struct moire_data *open_data(const struct moire_config *config)
{
    struct moire_data *data = NULL;
    expect_ok(moire_data_open(config, &data));
    if (!data) fail_msg("the data cannot be opened");
    return data;
}

/* The data has one domain with exactly these tokens: each window once, in an epoch of training. */
static void expect_tokens(struct moire_data *data, const int32_t *tokens, int64_t count)
{
    int64_t windows = (count - 1) / S;
    int32_t found[S + 1];
    int domain, seen[1000] = { 0 };
    expect(moire_data_domains(data) == 1 && moire_data_tokens(data) == count);
    expect(moire_data_sequences(data, MOIRE_TRAINING) == windows);
    for (int64_t i = 0; i < windows; i++) {
        expect_ok(moire_data_fetch(data, MOIRE_TRAINING, i, found, &domain));
        int64_t window = 0;
        while (window < windows && memcmp(found, tokens + window * S, sizeof found) != 0) window++;
        expect(domain == 0 && window < windows && seen[window]++ == 0);
    }
    moire_data_close(data);
}

static void test_llmc(void)
{
    int32_t tokens[300];
    for (int64_t i = 0; i < 300; i++) tokens[i] = id_at(i, 65536);
    struct bytes bytes = llmc_file(20240520, 1, 102, 102, 0, 65536);
    put_bytes("shard_000.bin", &bytes);
    struct moire_config config = data_config("llmc", "shard_000.bin", S);
    config.model_vocabulary = 65536;
    struct moire_data *data = open_data(&config);
    expect(strcmp(moire_data_domain_name(data, 0), "shard_000.bin") == 0);
    expect_tokens(data, tokens, 102);

    bytes = llmc_file(20240520, 1, 99, 99, 102, 65536);
    put_bytes("shard_001.bin", &bytes);
    config.data_path = (char[]){ "shard_*.bin" };
    data = open_data(&config);
    expect(moire_data_domains(data) == 2 && strcmp(moire_data_domain_name(data, 1), "shard_001.bin") == 0);
    expect(moire_data_tokens(data) == 201 && moire_data_sequences(data, MOIRE_TRAINING) == 20 + 19);
    moire_data_close(data);
    config.data_domain = MOIRE_DOMAIN_KIND; /* joined: a window crosses from one shard to the other */
    data = open_data(&config);
    expect(strcmp(moire_data_domain_name(data, 0), "llmc") == 0);
    expect_tokens(data, tokens, 201);
}

static void test_llmc_errors(void)
{
    put_text("l.bin", "");
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA, "l.bin is empty; found 0 bytes, expected at "
                   "least 1024");
    put_text("l.bin", "short");
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA, "l.bin is too short; found 5 bytes");
    put_llmc("l.bin", 20240521, 1, 50, 50);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA,
                   "found magic number 20240521, expected 20240520");
    put_llmc("l.bin", 20240520, 2, 50, 50);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA, "found 2, expected 1 (uint16 tokens)");
    put_llmc("l.bin", 20240520, 1, 51, 50);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA,
                   "is truncated; found 1124 bytes, expected 1126");
    put_llmc("l.bin", 20240520, 1, 49, 50);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA, "is too long; found 1124 bytes, expected 1122");
    put_llmc("l.bin", 20240520, 1, 0, 0);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA, "has no tokens");
    put_llmc("l.bin", 20240520, 1, -1, 50);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA, "found a count of -1");
    put_llmc("l.bin", 20240520, 1, 5, 5);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_USAGE, "found 5 tokens in the longest domain (l.bin), "
                   "expected at least 6");
    put_llmc("l.bin", 20240520, 1, 6, 6);
    expect_ok(try_path("llmc", "l.bin"));
    mkdir("folder.bin", 0777);
    expect_failure(try_path("llmc", "folder.bin"), MOIRE_NO_FILE, "only directories");
    struct bytes bytes = llmc_file(20240520, 1, 50, 50, 0, 256);
    bytes.data[1024 + 2 * 33] = 0;
    bytes.data[1024 + 2 * 33 + 1] = 1;
    put_bytes("l.bin", &bytes);
    expect_failure(try_path("llmc", "l.bin"), MOIRE_BAD_DATA, "l.bin at position 33; found id 256, expected "
                   "less than 256");
}

/* A file over 256 MiB (of holes) is not read through: a wrong id is found when its window is fetched. */
static void test_large(void)
{
    enum { TOKENS = 140000000, SEQUENCE = 10000000, WRONG = 35000003 };
    struct bytes header = llmc_file(20240520, 1, TOKENS, 0, 0, 1);
    put_bytes("large.bin", &header);
    const unsigned char id[2] = { 44, 1 };
    FILE *file = fopen("large.bin", "r+b");
    if (!file || truncate("large.bin", 1024 + 2 * (off_t)TOKENS) != 0
        || fseek(file, 1024 + 2 * (long)WRONG, SEEK_SET) != 0 || fwrite(id, 1, 2, file) != 2
        || fclose(file) != 0)
        fail_msg("large.bin cannot be made");
    struct moire_config config = data_config("llmc", "large.bin", SEQUENCE);
    struct moire_data *data = open_data(&config);
    int32_t *tokens = malloc((SEQUENCE + 1) * sizeof *tokens);
    int domain, failures = 0;
    int64_t count = moire_data_sequences(data, MOIRE_TRAINING);
    expect(count == 13);
    for (int64_t i = 0; i < count; i++) {
        if (moire_data_fetch(data, MOIRE_TRAINING, i, tokens, &domain) == MOIRE_OK) continue;
        failures++;
        expect_failure(MOIRE_BAD_DATA, MOIRE_BAD_DATA, "large.bin at position 35000003; found id 300, "
                       "expected less than 256");
    }
    expect(failures == 1);
    free(tokens);
    moire_data_close(data);
    unlink("large.bin");
}

static void put_tokens(const char *path, int width, int64_t tokens, int32_t bound)
{
    struct bytes bytes = { .count = 0 };
    for (int64_t i = 0; i < tokens; i++) add(&bytes, width, id_at(i, bound));
    put_bytes(path, &bytes);
}

static void test_megatron(void)
{
    int32_t tokens[40], swapped[40];
    struct index index = good_index();
    for (int64_t i = 0; i < 40; i++) tokens[i] = id_at(i, 65536);
    put_index("m.idx", &index);
    put_tokens("m.bin", 2, 40, 65536);
    const char *paths[] = { "m", "m.bin", "m.idx", "./m", "[m].bin", "m, m.idx" };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct moire_config config = data_config("megatron", paths[i], S);
        config.model_vocabulary = 65536;
        struct moire_data *data = open_data(&config);
        expect(strcmp(moire_data_domain_name(data, 0), "m") == 0);
        expect_tokens(data, tokens, 40);
    }
    /* Sequences that do not stand in the order of the index, of ids of four bytes that would not fit into
     * two. */
    for (int64_t i = 0; i < 40; i++) tokens[i] = id_at(i, 16000000);
    memcpy(swapped, tokens + 20, 20 * sizeof *tokens);
    memcpy(swapped + 20, tokens, 20 * sizeof *tokens);
    index = (struct index){ "MMIDIDX\0", 1, 4, 3, 2, 3, { 13, 7, 20 }, { 80, 132, 0 }, { 0, 3 } };
    put_index("wide.idx", &index);
    put_tokens("wide.bin", 4, 40, 16000000);
    struct moire_config config = data_config("megatron", "wide", S);
    config.model_vocabulary = 16000000;
    struct moire_data *data = open_data(&config);
    uint64_t checksum = moire_data_checksum(data);
    expect_tokens(data, swapped, 40);
    /* The same .bin, read in its order. */
    struct index other = { "MMIDIDX\0", 1, 4, 1, 0, 1, { 40 }, { 0 }, { 0 } };
    put_index("wide.idx", &other);
    data = open_data(&config);
    expect(moire_data_checksum(data) != checksum);
    expect_tokens(data, tokens, 40);
    put_index("wide.idx", &index);
    /* Both pairs, found at any depth: two domains, or joined to one. */
    mkdir("pairs", 0777);
    mkdir("pairs/deep", 0777);
    expect(rename("m.idx", "pairs/m.idx") == 0 && rename("m.bin", "pairs/m.bin") == 0);
    expect(rename("wide.idx", "pairs/deep/w.idx") == 0 && rename("wide.bin", "pairs/deep/w.bin") == 0);
    config.data_path = (char[]){ "pairs/**" };
    data = open_data(&config);
    expect(moire_data_domains(data) == 2 && strcmp(moire_data_domain_name(data, 0), "pairs/deep/w") == 0);
    expect(strcmp(moire_data_domain_name(data, 1), "pairs/m") == 0);
    moire_data_close(data);
    config.data_domain = MOIRE_DOMAIN_KIND;
    data = open_data(&config);
    expect(moire_data_domains(data) == 1 && strcmp(moire_data_domain_name(data, 0), "megatron") == 0);
    expect(moire_data_tokens(data) == 80 && moire_data_sequences(data, MOIRE_TRAINING) == 79 / S);
    moire_data_close(data);
}

/* A good pair but for what `index` says. */
static void expect_refused(const struct index *index, const char *text)
{
    put_index("e.idx", index);
    expect_failure(try_path("megatron", "e"), MOIRE_BAD_DATA, text);
}

static void test_megatron_header_errors(void)
{
    struct index index = good_index();
    put_tokens("e.bin", 2, 40, 256);
    put_index("e.idx", &index);
    expect_ok(try_path("megatron", "e"));
    index.magic = "MMIDIDX\1";
    expect_refused(&index, "e.idx is not a Megatron index");
    index.magic = "MMIDIDX\0\1";
    expect_refused(&index, "e.idx is not a Megatron index");
    index = good_index();
    index.version = 2;
    expect_refused(&index, "found 2, expected 1");
    index = good_index();
    index.code = 5;
    expect_refused(&index, "found code 5, expected 8 (uint16) or 4 (int32");
    index = good_index();
    index.sequences = 5;
    expect_refused(&index, "wrong size");
    index.sequences = -1; /* as an unsigned number far more than any file */
    expect_refused(&index, "wrong size");
    index = good_index();
    index.documents = 4;
    expect_refused(&index, "it may be truncated; found 106 bytes, expected 34 + 12 x 4 sequences + 8 x 4 "
                   "entries");
    index.documents = 3 + (INT64_C(1) << 61); /* times 8 it is as much as 3 in 64 bits */
    expect_refused(&index, "wrong size");
    put_text("e.idx", "MMIDIDX");
    expect_failure(try_path("megatron", "e"), MOIRE_BAD_DATA, "e.idx is too short; found 7 bytes, expected "
                   "at least 34");
    put_text("e.idx", "");
    expect_failure(try_path("megatron", "e"), MOIRE_BAD_DATA, "e.idx is empty; found 0 bytes");
    unlink("e.idx");
    expect_failure(try_path("megatron", "e.bin"), MOIRE_NO_FILE, "e.idx");
}

static void test_megatron_array_errors(void)
{
    struct index index = good_index();
    put_tokens("e.bin", 2, 40, 256);
    index.sizes[3] = 8;
    expect_refused(&index, "e.idx points beyond e.bin");
    expect_refused(&index, "found sequence 3 at byte 66 with 8 tokens of 2 bytes, expected its end within 80 "
                   "bytes");
    index = good_index();
    index.pointers[2] = 82;
    expect_refused(&index, "points beyond");
    index.pointers[2] = -2;
    expect_refused(&index, "points beyond");
    index.pointers[2] = INT64_MAX - 1;
    expect_refused(&index, "points beyond");
    index.pointers[2] = 41;
    expect_refused(&index, "found sequence 2 at byte 41, expected a multiple of 2");
    index = good_index();
    index.sizes[1] = -1;
    expect_refused(&index, "found -1 tokens in sequence 1");
    index = good_index();
    index.starts[1] = 5;
    expect_refused(&index, "found document 1 to start at sequence 5, expected 0 to 4");
    index.starts[1] = 3;
    index.starts[2] = 2;
    expect_refused(&index, "found document 2 to start at sequence 2, expected 3 to 4");
    index = good_index();
    memset(index.sizes, 0, sizeof index.sizes);
    expect_refused(&index, "has no tokens");
}

static void test_megatron_bin_errors(void)
{
    struct index index = good_index();
    put_index("e.idx", &index);
    put_tokens("e.bin", 2, 39, 256);
    expect_failure(try_path("megatron", "e"), MOIRE_BAD_DATA, "e.bin, which may be truncated");
    put_text("e.bin", "");
    expect_failure(try_path("megatron", "e"), MOIRE_BAD_DATA, "e.bin is empty");
    unlink("e.bin");
    expect_failure(try_path("megatron", "e"), MOIRE_NO_FILE, "e.bin");
    mkdir("e.bin", 0777);
    expect_failure(try_path("megatron", "e"), MOIRE_NO_FILE, "found a directory, expected a regular file");
    rmdir("e.bin");
    put_tokens("e.bin", 2, 40, 256);
    struct moire_config config = data_config("megatron", "e", S);
    config.model_vocabulary = 200;
    expect_failure(try_open(&config), MOIRE_BAD_DATA, "token beyond the vocabulary in e.bin at position ");
    index = (struct index){ "MMIDIDX\0", 1, 4, 2, 1, 2, { 10, 10 }, { 0, 40 }, { 0 } };
    struct bytes bytes = { .count = 0 };
    for (int i = 0; i < 20; i++) add(&bytes, 4, i == 17 ? -3 : i);
    put_bytes("e.bin", &bytes);
    expect_refused(&index, "negative token in e.bin at position 17; found id -3, expected 0 to 255");
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "llm.c", test_llmc },
        { "llm.c: errors", test_llmc_errors },
        { "ids of a large file", test_large },
        { "Megatron", test_megatron },
        { "Megatron: errors of the header", test_megatron_header_errors },
        { "Megatron: errors of the arrays", test_megatron_array_errors },
        { "Megatron: errors of the tokens", test_megatron_bin_errors },
    };
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", NULL, 0);
    char scratch[] = "/tmp/moire-test-tokens-XXXXXX";
    enter_scratch(scratch);
    int result = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    remove_scratch(scratch);
    return result;
}
