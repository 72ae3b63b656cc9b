#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>

#include "moire/base/config.h"
#include "moire/base/random.h"

/* Reads an INI text over the defaults; true when it was read. The caller frees *config in any case. */
static moire_status parse(struct moire_config *config, const char *ini)
{
    moire_status status = moire_config_create(config);
    return status == MOIRE_OK ? moire_config_parse(config, "tiny.ini", ini, MOIRE_FROM_FILE) : status;
}

static moire_origin origin_of(const struct moire_config *config, const char *name)
{
    char full[100];
    for (int i = 0; i < moire_parameter_count; i++) {
        snprintf(full, sizeof full, "%s.%s", moire_parameters[i].section, moire_parameters[i].key);
        if (strcmp(full, name) == 0) return config->origins[i];
    }
    expect(!"a known name");
    return MOIRE_FROM_DEFAULT;
}

/* Whether all values are the same; texts by their bytes. */
static bool same_values(const struct moire_config *a, const struct moire_config *b)
{
    for (int i = 0; i < moire_parameter_count; i++) {
        const char *x = (const char *)a + moire_parameters[i].field,
                   *y = (const char *)b + moire_parameters[i].field;
        switch (moire_parameters[i].type) {
        case MOIRE_TYPE_INTEGER:
        case MOIRE_TYPE_REAL: if (memcmp(x, y, 8) != 0) return false; break;
        case MOIRE_TYPE_FLAG: if (*(const bool *)x != *(const bool *)y) return false; break;
        case MOIRE_TYPE_CHOICE: if (*(const int *)x != *(const int *)y) return false; break;
        case MOIRE_TYPE_TEXT: if (strcmp(*(char *const *)x, *(char *const *)y) != 0) return false; break;
        }
    }
    return true;
}

/* Written, read back, written again: the same values and the same text. No line is too long for inih. */
static void expect_round_trip(const struct moire_config *config)
{
    struct moire_config again;
    struct moire_text first = { 0 }, second = { 0 }, with_origins = { 0 };
    expect_ok(moire_config_text(config, false, &first));
    expect_ok(parse(&again, first.data));
    expect(same_values(config, &again));
    expect_ok(moire_config_text(&again, false, &second));
    expect(strcmp(first.data, second.data) == 0);
    moire_config_free(&again);
    expect_ok(moire_config_text(config, true, &with_origins));
    expect_ok(parse(&again, with_origins.data));
    expect(same_values(config, &again));
    moire_config_free(&again);
    moire_text_free(&first);
    moire_text_free(&second);
    moire_text_free(&with_origins);
}

static void test_texts_round_trip(void)
{
    static const char *const awkward[] = {
        "",
        " ",
        "  x",
        "x  ",
        ";",
        "a ; b",
        "; a",
        "#",
        "# a",
        "a # b",
        "\"",
        "\"quoted\"",
        "a \"b\"",
        "\\",
        "\\n",
        "a\\",
        "\n",
        "a\nb",
        "\r\n",
        "\t",
        "a\tb",
        "=",
        "a = b",
        "[x]",
        "[",
        ":",
        "\x01\x7f",
        "\xc3\xa4",
        "\xff\xfe",
        "all",
        "a,b",
        "src/**/*.c, doc/*.md",
        "${HOME}",
        "%s%n",
        "'x'",
        "a;b",
        "\"a\" \"b\"",
        "x ;",
        "\"\n    \"",
    };
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect_round_trip(&config);
    for (size_t i = 0; i < sizeof awkward / sizeof *awkward; i++) {
        expect_ok(moire_config_set(&config, "generate.prompt", awkward[i], MOIRE_FROM_COMMAND));
        expect_ok(moire_config_set(&config, "run.dir", awkward[i], MOIRE_FROM_COMMAND));
        expect_round_trip(&config);
    }
    static const char letters[] = "ab ;#\"\\\n\t\xc3\xa4=[]";
    for (int round = 0; round < 300; round++) { /* random texts, also long ones */
        char text[700];
        int64_t bytes = test_random_below(round % 3 ? 30 : 699);
        for (int64_t i = 0; i < bytes; i++) text[i] = letters[test_random_below(sizeof letters - 1)];
        text[bytes] = 0;
        expect_ok(moire_config_set(&config, "data.path", text, MOIRE_FROM_COMMAND));
        expect_round_trip(&config);
    }
    char worst[400] = { 0 };
    /* Bytes that are never a good place to cut, or take the most room. */
    for (int length = 90; length < 399; length++) {
        memset(worst, length % 2 ? 0x80 : 0x01, (size_t)length);
        expect_ok(moire_config_set(&config, "data.path", worst, MOIRE_FROM_COMMAND));
        expect_round_trip(&config);
    }
    moire_config_free(&config);
}

static void test_numbers_round_trip(void)
{
    static const char *const reals[] = { "0", "0.1", "1e-300", "0.30000000000000004", "999999.99999999988",
                                         "1e6", "0.000001", "none" };
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        if (strcmp(reals[i], "0") != 0)
            expect_ok(moire_config_set(&config, "train.clip", reals[i], MOIRE_FROM_FILE));
        if (strcmp(reals[i], "none") != 0 && strcmp(reals[i], "1e-300") != 0)
            expect_ok(moire_config_set(&config, "moe.z_weight", reals[i], MOIRE_FROM_FILE));
        expect_round_trip(&config);
    }
    for (int round = 0; round < 100; round++) {
        char text[64];
        snprintf(text, sizeof text, "%.17g", moire_random_uniform(test_seed, 1, (uint64_t)round) + 1e-9);
        expect_ok(moire_config_set(&config, "train.clip", text, MOIRE_FROM_FILE));
        snprintf(text, sizeof text, "%lld", (long long)test_random_below(INT64_MAX));
        expect_ok(moire_config_set(&config, "run.seed", text, MOIRE_FROM_FILE));
        expect_round_trip(&config);
    }
    moire_config_free(&config);
}

static void expect_written(const struct moire_config *config, const char *key, const char *wanted)
{
    struct moire_text text = { 0 };
    for (int i = 0; i < moire_parameter_count; i++)
        if (strcmp(moire_parameters[i].key, key) == 0) {
            expect_ok(moire_config_value(config, &moire_parameters[i], &text));
            break;
        }
    if (!text.data || strcmp(text.data, wanted) != 0)
        fprintf(stderr, "# %s is '%s', expected '%s'\n", key, text.data, wanted);
    expect(text.data && strcmp(text.data, wanted) == 0);
    moire_text_free(&text);
}

static void test_value(void)
{
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect_written(&config, "seed", "1");
    expect_written(&config, "kv_heads", "auto");
    expect_written(&config, "capacity", "dropless");
    expect_written(&config, "stop_after", "never");
    expect_written(&config, "learning_rate", "0.001");
    expect_written(&config, "rope_theta", "10000");
    expect_written(&config, "norm_epsilon", "1e-05");
    expect_written(&config, "round_bytes", "1073741824");
    expect_written(&config, "reproducible", "yes");
    expect_written(&config, "forced", "even");
    expect_written(&config, "dir", "runs/default");
    expect_written(&config, "forced_file", "");
    config.train_recompute = 3;
    struct moire_text text = { 0 };
    expect_failure(moire_config_text(&config, false, &text), MOIRE_FAILED, "train.recompute has no text");
    moire_text_free(&text);
    moire_config_free(&config);
}

static void test_text(void)
{
    struct moire_config config;
    struct moire_text text = { 0 };
    expect_ok(parse(&config, "[run]\nseed = 5\n"));
    expect_ok(moire_config_set(&config, "run.dir", "x", MOIRE_FROM_COMMAND));
    expect_ok(moire_config_set(&config, "run.progress", "no", MOIRE_FROM_ENVIRONMENT));
    expect_ok(moire_config_text(&config, true, &text));
    static const char start[] =
        "[run]\ndir = x ; command line\nseed = 5 ; file\nreproducible = yes ; default\n"
        "progress = no ; environment\n\n[model]\nlayers = 4 ; default\n";
    expect(strncmp(text.data, start, sizeof start - 1) == 0);
    expect(strstr(text.data, "\nforced_file = ; default\n") != NULL);
    text.bytes = 0;
    expect_ok(moire_config_text(&config, false, &text));
    expect(strncmp(text.data, "[run]\ndir = x\nseed = 5\n", 22) == 0 &&
           strstr(text.data, "\nforced_file =\n") != NULL);
    moire_text_free(&text);
    moire_config_free(&config);
}

static void test_copy(void)
{
    struct moire_config config, copy;
    expect_ok(parse(&config, "[run]\ndir = there\n[train]\nsteps = 3\n"));
    expect_ok(moire_config_copy(&config, &copy));
    expect(same_values(&config, &copy) && copy.run_dir != config.run_dir && copy.origins != config.origins);
    expect(origin_of(&copy, "run.dir") == MOIRE_FROM_FILE);
    moire_config_free(&config);
    expect(strcmp(copy.run_dir, "there") == 0 && copy.train_steps == 3);
    moire_config_free(&copy);
}

static void test_help(void)
{
    struct moire_text all = { 0 }, one = { 0 };
    expect_ok(moire_config_help(NULL, &all));
    for (const char *line = all.data; *line; line += strcspn(line, "\n") + 1) {
        expect(strcspn(line, "\n") <= 80);
        expect(strcspn(line, "\n") == 0 || line[strcspn(line, "\n") - 1] != ' ');
    }
    char name[100];
    for (int i = 0; i < moire_parameter_count; i++) {
        snprintf(name, sizeof name, "  --%s.%s", moire_parameters[i].section, moire_parameters[i].key);
        expect(strstr(all.data, name) != NULL);
    }
    expect_ok(moire_config_help("parallel", &one));
    expect(strcmp(one.data,
                  "[parallel]\n"
                  "  --parallel.expert\n"
                  "      ranks that share one copy of the experts; divides the ranks\n"
                  "      an integer, 1 to 16777216 (ranks), or all; default: all\n"
                  "  --parallel.ranks_per_node\n"
                  "      pretend that so many consecutive ranks share a node; auto: ask MPI\n"
                  "      an integer, 1 to 16777216 (ranks), or auto; default: auto\n") == 0);
    expect(strstr(all.data, one.data) != NULL);
    expect(strstr(all.data, "  --train.steps, -n\n") != NULL);
    expect_failure(moire_config_help("trian", &one), MOIRE_USAGE,
                   "unknown section 'trian'; did you mean 'train'?");
    moire_text_free(&all);
    moire_text_free(&one);
}

/* `wanted`: a letter a layer, x where it has experts. */
static void expect_layers(const char *layers, const char *wanted)
{
    struct moire_config config;
    char count[32];
    bool is_moe[64];
    int64_t total = (int64_t)strlen(wanted);
    memset(is_moe, 1, sizeof is_moe);
    snprintf(count, sizeof count, "%lld", (long long)total);
    expect_ok(moire_config_create(&config));
    expect_ok(moire_config_set(&config, "model.layers", count, MOIRE_FROM_FILE));
    expect_ok(moire_config_set(&config, "moe.layers", layers, MOIRE_FROM_FILE));
    expect_ok(moire_config_moe_layers(&config, is_moe));
    for (int64_t i = 0; i < total; i++) expect(is_moe[i] == (wanted[i] == 'x'));
    moire_config_free(&config);
}

static void test_moe_layers(void)
{
    expect_layers("all", "xxxx");
    expect_layers("none", "....");
    expect_layers("every:1", "xxxx");
    expect_layers("every:2", ".x.x.x");
    expect_layers("every:3", "..x..x.");
    expect_layers("every:4", "...x");
    expect_layers("0", "x...");
    expect_layers("3", "...x");
    expect_layers("1-3,5", ".xxx.x..");
    expect_layers(" 5 , 1-2,2", ".xx..x..");
    expect_layers("0-0", "x");
    static const struct { const char *layers, *message;
    } bad[] = {
        { "", "'' is no layer or range" },
        { "some", "'some' is no layer or range" },
        { "every:0", "N is no number of 1 or more" },
        { "every:", "N is no number" },
        { "every:x", "N is no number" },
        { "every:2x", "N is no number" },
        { "every:5", "N is more than" },
        { "1,", "'' is no layer" },
        { "1,,2", "'' is no layer" },
        { "1-", "'1-' is no layer" },
        { "-1", "'-1' is no layer" },
        { "3-1", "3-1 is a range that runs backwards" },
        { "4", "there is no layer 4 in model.layers = 4" },
        { "2-4", "there is no layer 4" },
        { "99999999999999999999", "is no layer" },
        { "1 2", "'1 2' is no layer" },
        { "All", "'All' is no layer" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct moire_config config;
        bool is_moe[4];
        expect_ok(moire_config_create(&config));
        expect_ok(moire_config_set(&config, "moe.layers", bad[i].layers, MOIRE_FROM_FILE));
        expect_failure(moire_config_moe_layers(&config, is_moe), MOIRE_USAGE, bad[i].message);
        moire_config_free(&config);
    }
}

static const struct moire_test tests[] = {
    { "texts are read back as they were", test_texts_round_trip },
    { "numbers are read back as they were", test_numbers_round_trip },
    { "values", test_value },
    { "the whole as a text", test_text },
    { "copies", test_copy },
    { "help", test_help },
    { "layers with experts", test_moe_layers },
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
