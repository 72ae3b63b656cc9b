/* Files of llm.c and of Megatron: read, refused, built, inspected. */
#include "../support/harness.h"
#include "files.h"

#include <inttypes.h>
#include <sys/stat.h>

#include "moire/io/data.h"

enum { S = 5 };

/* A file under construction, lowest byte first. */
struct bytes {
    unsigned char data[4096];
    size_t count;
};

static void add(struct bytes *bytes, int width, int64_t number)
{
    for (int i = 0; i < width; i++) bytes->data[bytes->count++] = (unsigned char)((uint64_t)number >> 8 * i);
}

static void put_bytes(const char *path, const struct bytes *bytes)
{
    put_file(path, bytes->data, bytes->count);
}

/* Ids that are the same for the same place, under `bound`. */
static int32_t id_at(int64_t place, int32_t bound)
{
    return (int32_t)((place * 7919 + 13) % bound);
}

static struct bytes llmc_file(int64_t magic, int64_t version, int64_t announced, int64_t tokens,
                              int64_t first, int32_t bound)
{
    struct bytes bytes = { .count = 0 };
    add(&bytes, 4, magic);
    add(&bytes, 4, version);
    add(&bytes, 4, announced);
    while (bytes.count < 1024) add(&bytes, 4, 0);
    for (int64_t i = 0; i < tokens; i++) add(&bytes, 2, id_at(first + i, bound));
    return bytes;
}

static void put_llmc(const char *path, int64_t magic, int64_t version, int64_t announced, int64_t tokens)
{
    struct bytes bytes = llmc_file(magic, version, announced, tokens, 0, 256);
    put_bytes(path, &bytes);
}

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

/* What an index says; the arrays are written as they are. */
struct index {
    const char *magic;
    int64_t version;
    int code;
    int64_t sequences, documents; /* in the header */
    int count;                    /* written */
    int64_t sizes[8], pointers[8], starts[9];
};

static struct index good_index(void)
{
    /* Four sequences, the second empty, in the order of the .bin, of 20, 0, 13 and 7 tokens of two bytes. */
    return (struct index){ "MMIDIDX\0", 1, 8, 4, 3, 4, { 20, 0, 13, 7 }, { 0, 40, 40, 66 }, { 0, 2, 4 } };
}

static void put_index(const char *path, const struct index *index)
{
    struct bytes bytes = { .count = 9 };
    memcpy(bytes.data, index->magic, 9);
    add(&bytes, 8, index->version);
    add(&bytes, 1, index->code);
    add(&bytes, 8, index->sequences);
    add(&bytes, 8, index->documents);
    for (int i = 0; i < index->count; i++) add(&bytes, 4, index->sizes[i]);
    for (int i = 0; i < index->count; i++) add(&bytes, 8, index->pointers[i]);
    for (int i = 0; i < index->count - 1; i++) add(&bytes, 8, index->starts[i]);
    put_bytes(path, &bytes);
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
    expect_ok(moire_paths_match("*", &names));
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
        { "llm.c", test_llmc },
        { "llm.c: errors", test_llmc_errors },
        { "ids of a large file", test_large },
        { "Megatron", test_megatron },
        { "Megatron: errors of the header", test_megatron_header_errors },
        { "Megatron: errors of the arrays", test_megatron_array_errors },
        { "Megatron: errors of the tokens", test_megatron_bin_errors },
        { "build", test_build },
        { "build: errors", test_build_errors },
        { "inspect", test_inspect },
        { "inspect: errors", test_inspect_errors },
    };
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", NULL, 0);
    char scratch[] = "/tmp/moire-test-tokens-XXXXXX";
    enter_scratch(scratch);
    int result = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    remove_scratch(scratch);
    return result;
}
