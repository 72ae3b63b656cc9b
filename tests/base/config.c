#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>

#include "capture.h"
#include "moire/base/config.h"

static char scratch[] = "/tmp/moire-test-config-XXXXXX";

/* Reads an INI text over the defaults; true when it was read. The caller frees *config in any case. */
static moire_status parse(struct moire_config *config, const char *ini)
{
    moire_status status = moire_config_create(config);
    return status == MOIRE_OK ? moire_config_parse(config, "tiny.ini", ini, MOIRE_FROM_FILE) : status;
}

static void expect_refused(const char *ini, const char *message)
{
    struct moire_config config;
    expect_failure(parse(&config, ini), MOIRE_USAGE, message);
    moire_config_free(&config);
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

static void test_table(void)
{
    for (int i = 0; i < moire_parameter_count; i++) {
        const struct moire_parameter *p = &moire_parameters[i];
        expect(p->section[0] && p->key[0] && p->help[0]);
        expect(!strchr(p->section, '_')); /* MOIRE_SECTION_KEY could not be taken apart */
        expect(p->minimum <= p->maximum);
        for (int j = 0; j < i; j++)
            expect(strcmp(p->section, moire_parameters[j].section) != 0 ||
                   strcmp(p->key, moire_parameters[j].key) != 0);
        if (i > 1 && strcmp(p->section, moire_parameters[i - 1].section) != 0) /* sections are in one piece */
            for (int j = 0; j < i - 1; j++) expect(strcmp(p->section, moire_parameters[j].section) != 0);
    }
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    for (int i = 0; i < moire_alias_count; i++) {
        expect(moire_aliases[i].option[0] == '-' && strlen(moire_aliases[i].option) == 2);
        (void)origin_of(&config, moire_aliases[i].name);
    }
    moire_config_free(&config);
}

static void test_defaults(void)
{
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect(strcmp(config.run_dir, "runs/default") == 0 && config.run_seed == 1 && config.run_reproducible);
    expect(config.run_progress == MOIRE_PROGRESS_AUTO && config.model_kv_heads == MOIRE_AUTO &&
           !config.model_bias);
    expect(config.model_norm == MOIRE_NORM_RMS && config.model_feed_forward == MOIRE_SWIGLU);
    expect(config.moe_capacity == MOIRE_DROPLESS && config.parallel_expert == MOIRE_ALL &&
           config.model_position == MOIRE_POSITION_ROTARY);
    expect(config.train_learning_rate == 1e-3 && config.train_stop_after == MOIRE_NEVER &&
           config.train_clip == 1);
    expect(config.moe_forced_file[0] == 0 && config.file == NULL);
    for (int i = 0; i < moire_parameter_count; i++) expect(config.origins[i] == MOIRE_FROM_DEFAULT);
    moire_config_free(&config);
    moire_config_free(&config); /* a zeroed one is fine */
}

static void test_file(void)
{
    struct moire_config config;
    expect_ok(parse(
        &config, "; a comment\n# another\n\n"
                 "[run]\ndir = runs/x ; where\nreproducible=no\n   progress: yes\n"
                 "[train]\r\nsteps = 5k\r\nlearning_rate = 2.5e-4 ; rate\n\tclip = none\nschedule = wsd#1\n"
                 "[moe]\ncapacity = 1.25\nforced = zipf\nlayers = every:2\n"
                 "[run]\nseed = 9223372036854775807\n"
                 "[data]\npath = src/**/*.c, doc/*.md;x")); /* no newline at the end */
    expect(strcmp(config.run_dir, "runs/x") == 0 && !config.run_reproducible &&
           config.run_progress == MOIRE_PROGRESS_YES);
    expect(config.train_steps == 5000 && config.train_learning_rate == 2.5e-4 &&
           config.train_clip == MOIRE_NONE);
    expect(strcmp(config.train_schedule, "wsd#1") == 0);
    expect(config.moe_capacity == 1.25 && strcmp(config.moe_forced, "zipf") == 0 &&
           strcmp(config.moe_layers, "every:2") == 0);
    expect(config.run_seed == INT64_MAX && strcmp(config.data_path, "src/**/*.c, doc/*.md;x") == 0);
    expect(origin_of(&config, "run.seed") == MOIRE_FROM_FILE &&
           origin_of(&config, "train.batch") == MOIRE_FROM_DEFAULT);
    moire_config_free(&config);
    expect_ok(parse(&config, ""));
    moire_config_free(&config);
    expect_ok(parse(&config, "\xef\xbb\xbf[run]\nseed = 4\n")); /* a byte order mark */
    expect(config.run_seed == 4);
    moire_config_free(&config);
}

static void test_quotes(void)
{
    struct moire_config config;
    expect_ok(parse(&config,
                    "[generate]\nprompt = \" two\\tblanks \\\"x\\\" \\\\ \\; \\x41\\n\" ; comment\n"
                    "[data]\npath = \"a,\"\n      \"b;\\x63,\"  ; comment\n\n; between\n\t\"d\"\n"
                    "[run]\ndir = \"\"\n"
                    "[checkpoint]\nresume = it \"is\" plain\\n\n"));
    expect(strcmp(config.generate_prompt, " two\tblanks \"x\" \\ ; A\n") == 0);
    expect(strcmp(config.data_path, "a,b;c,d") == 0);
    expect(config.run_dir[0] == 0);
    expect(strcmp(config.checkpoint_resume, "it \"is\" plain\\n") == 0);
    moire_config_free(&config);
    expect_refused("[run]\n\ndir = \"abc\n", "tiny.ini line 3; found no closing quote");
    expect_refused("[run]\ndir = \"a ; b\"\n", "no closing quote"); /* ; after a blank starts a comment */
    expect_refused("[run]\ndir = \"abc\\\"\n", "no closing quote");
    expect_refused("[run]\ndir = \"abc\\q\"\n", "an unknown escape");
    expect_refused("[run]\ndir = \"\\x0\"\n", "an unknown escape");
    expect_refused("[run]\ndir = \"\\x00\"\n", "an unknown escape"); /* a zero byte would end the text */
    expect_refused("[run]\ndir = \"a\" b\n", "text after the closing quote");
    expect_refused("[run]\ndir = abc\n    \"def\"\n", "tiny.ini line 3 goes on with nothing");
    expect_refused("[run]\n    \"def = x\"\n", "tiny.ini line 2 goes on with nothing");
}

static void test_bad_files(void)
{
    expect_refused("[train]\n\nstpes = 3\n",
                   "unknown key train.stpes in tiny.ini line 3; did you mean train.steps?");
    expect_refused("[trian]\nsteps = 3\n",
                   "unknown key trian.steps in tiny.ini line 2; did you mean train.steps?");
    expect_refused("[trian]\nstpes = 3\n",
                   "unknown key trian.stpes in tiny.ini line 2; did you mean train.steps?");
    expect_refused("[train]\nexperts = 3\n",
                   "unknown key train.experts in tiny.ini line 2; did you mean moe.experts?");
    expect_refused("steps = 3\n", "unknown key steps in tiny.ini line 1; did you mean train.steps?");
    expect_refused("[Train]\nsteps = 3\n", "did you mean train.steps?");
    expect_refused("[run]\nzzzzzzzzzzz = 3\n",
                   "unknown key run.zzzzzzzzzzz in tiny.ini line 2; keys of run: dir, seed,");
    expect_refused(
        "[zzzzzzzzzzzzz]\nqqqqqqq = 3\n",
        "unknown section in the key zzzzzzzzzzzzz.qqqqqqq in tiny.ini line 2; sections: run, model,");
    expect_refused("[run]\nseed = 1\n[model]\n[run]\nseed = 1\n",
                   "run.seed stands twice in tiny.ini; found lines 2 and 5");
    expect_refused("[run]\nseed = 1\nnonsense\n",
                   "tiny.ini line 3 cannot be read; expected [section], key = value");
    expect_refused("[run\nseed = 1\n", "tiny.ini line 1 cannot be read");
    expect_refused("[train]\nbatch = 0\n", "bad value of train.batch in tiny.ini line 2; found '0', expected "
                                           "an integer, 1 to 1073741824 (sequences)");
    expect_refused("[train]\nbatch = 1073741825\n", "found '1073741825'");
    expect_refused("[train]\nbatch = 1.5\n", "found '1.5', expected an integer");
    expect_refused("[train]\nbatch =\n", "found '', expected an integer");
    expect_refused("[train]\nbatch = auto\n", "found 'auto'"); /* not a word of this one */
    expect_refused("[train]\nbatch = -2\n", "found '-2'");
    /* never, by its number */
    expect_refused("[train]\nstop_after = -4\n",
                   "found '-4', expected an integer, 1 or more (steps), or never");
    expect_refused("[train]\nbeta1 = 1\n", "found '1', expected a number, 0 to 0.999999999");
    expect_refused("[train]\nclip = nan\n", "found 'nan', expected a number, 1e-300 to 1e+300, or none");
    expect_refused("[run]\nreproducible = maybe\n", "found 'maybe', expected yes or no");
    expect_refused("[train]\nrecompute = lay\n", "found 'lay', expected none, ffn or layer");
    expect_refused("[train]\nrecompute = none|ffn\n", "found 'none|ffn'");
    expect_refused("[train]\nrecompute =\n", "found ''");
}

static void test_long_lines(void)
{
    char ini[1000], key[] = "[data]\npath = ";
    struct moire_config config;
    for (int bytes = 150; bytes < 250; bytes++) {
        int letters = bytes - (int)strlen("path = ");
        snprintf(ini, sizeof ini, "%s%0*d\n", key, letters, 7);
        if (bytes <= 198) {
            expect_ok(parse(&config, ini));
            expect((int)strlen(config.data_path) == letters);
        } else {
            expect_failure(parse(&config, ini), MOIRE_USAGE, "tiny.ini line 2 is too long; found");
        }
        moire_config_free(&config);
        snprintf(ini, sizeof ini, "; %0*d\n[run]\nseed = 3\n", bytes, 7); /* comments may be long */
        expect_ok(parse(&config, ini));
        expect(config.run_seed == 3);
        moire_config_free(&config);
    }
}

static moire_status load(struct moire_config *config, const char *file, char **arguments)
{
    int count = 0;
    while (arguments && arguments[count]) count++;
    return moire_config_load(config, file, count, arguments);
}

static void expect_arguments_refused(char **arguments, const char *message)
{
    struct moire_config config;
    expect_failure(load(&config, NULL, arguments), MOIRE_USAGE, message);
    moire_config_free(&config);
}

#define ARGUMENTS(...) ((char *[]){ __VA_ARGS__, NULL })

static void test_arguments(void)
{
    struct moire_config config;
    expect_ok(load(&config, NULL,
                   ARGUMENTS("--train.steps=7", "--run.dir", "a=b", "-b", "32", "--moe.capacity=dropless",
                             "--generate.prompt=", "--data.path=\"x\" ; y ", "-s", "3", "-s", "4",
                             "--moe.z_weight", "0", "--checkpoint.resume=--x")));
    expect(config.train_steps == 7 && strcmp(config.run_dir, "a=b") == 0 && config.train_batch == 32 &&
           config.run_seed == 4);
    expect(config.generate_prompt[0] == 0 && strcmp(config.data_path, "\"x\" ; y ") == 0); /* as it stands */
    expect(config.moe_z_weight == 0 && strcmp(config.checkpoint_resume, "--x") == 0);
    expect(origin_of(&config, "train.steps") == MOIRE_FROM_COMMAND &&
           origin_of(&config, "train.warmup") == MOIRE_FROM_DEFAULT);
    moire_config_free(&config);
    expect_arguments_refused(ARGUMENTS("--train.stpes=7"),
                             "unknown key train.stpes on the command line; did you mean train.steps?");
    expect_arguments_refused(ARGUMENTS("--steps", "7"), "did you mean train.steps?");
    expect_arguments_refused(ARGUMENTS("--train.steps"),
                             "--train.steps has no value; expected --train.steps=value");
    expect_arguments_refused(ARGUMENTS("--run.dir", "--train.steps=3"), "--run.dir has no value");
    expect_arguments_refused(ARGUMENTS("-n"), "-n has no value; expected --train.steps=value");
    expect_arguments_refused(ARGUMENTS("-n", "x"), "bad value of train.steps on the command line; found 'x'");
    expect_arguments_refused(ARGUMENTS("-q", "1"),
                             "unknown option '-q'; expected --section.key=value or one of -n (train.steps)");
    expect_arguments_refused(ARGUMENTS("other.ini"), "unexpected argument 'other.ini'");
    expect_arguments_refused(ARGUMENTS("--"), "unknown option '--'");
    expect_arguments_refused(ARGUMENTS(""), "unexpected argument ''");
}

static struct moire_config loaded;

static void load_with_environment(void)
{
    expect_ok(load(&loaded, "some.ini", ARGUMENTS("--train.steps=3")));
}

static void test_precedence(void)
{
    const char *ini = "[train]\nsteps = 1\nbatch = 1\nwarmup = 1\n";
    expect_ok(moire_file_write("some.ini", ini, (int64_t)strlen(ini)));
    setenv("MOIRE_TRAIN_STEPS", "2", 1);
    setenv("MOIRE_TRAIN_BATCH", "2", 1);
    setenv("MOIRE_MODEL_ROPE_THETA", "2", 1); /* a key with a blank */
    char *text = captured_errors(load_with_environment);
    expect(loaded.train_steps == 3 && loaded.train_batch == 2 && loaded.train_warmup == 1 &&
           loaded.model_rope_theta == 2);
    expect(origin_of(&loaded, "train.steps") == MOIRE_FROM_COMMAND &&
           origin_of(&loaded, "train.warmup") == MOIRE_FROM_FILE);
    expect(origin_of(&loaded, "train.batch") == MOIRE_FROM_ENVIRONMENT);
    expect(strstr(text, "moire: train.batch = 2 comes from the environment (MOIRE_TRAIN_BATCH)\n") != NULL);
    expect(strstr(text, "train.steps") == NULL); /* the command line decides that one */
    expect(loaded.file && strcmp(loaded.file, "some.ini") == 0);
    free(text);
    moire_config_free(&loaded);
    unsetenv("MOIRE_TRAIN_STEPS");
    unsetenv("MOIRE_TRAIN_BATCH");
    unsetenv("MOIRE_MODEL_ROPE_THETA");
}

static void expect_environment_refused(const char *variable, const char *value, const char *message)
{
    struct moire_config config;
    setenv(variable, value, 1);
    expect_failure(load(&config, NULL, NULL), MOIRE_USAGE, message);
    moire_config_free(&config);
    unsetenv(variable);
}

static void test_environment(void)
{
    struct moire_config config;
    expect_environment_refused(
        "MOIRE_TRAIN_STPES", "3",
        "unknown key train.stpes in the environment (MOIRE_TRAIN_STPES); did you mean train.steps?");
    expect_environment_refused("MOIRE_TRAIN_", "3", "MOIRE_TRAIN_");
    expect_environment_refused("MOIRE_TRAIN_BATCH", "0",
                               "bad value of train.batch in the environment (MOIRE_TRAIN_BATCH); found '0'");
    expect_environment_refused("MOIRE_MOE_NORMALISE", "", "found '', expected yes or no");
    setenv("MOIRE_TEST_RUN_X", "1", 1); /* others may use names that start with ours */
    setenv("MOIRE_TRAINING_X", "1", 1);
    setenv("MOIRE_X", "1", 1);
    setenv("MOIRE_TRAIN", "1", 1);
    expect_ok(load(&config, NULL, NULL));
    moire_config_free(&config);
    unsetenv("MOIRE_TEST_RUN_X");
    unsetenv("MOIRE_TRAINING_X");
    unsetenv("MOIRE_X");
    unsetenv("MOIRE_TRAIN");
}

static void test_missing_file(void)
{
    struct moire_config config;
    expect_failure(load(&config, "missing.ini", NULL), MOIRE_USAGE, "cannot read missing.ini");
    moire_config_free(&config);
    expect_ok(moire_file_write("zero.ini", "[run]\nseed = 1\0\n", 16));
    expect_failure(load(&config, "zero.ini", NULL), MOIRE_USAGE, "zero.ini is no text");
    moire_config_free(&config);
}

static void test_set(void)
{
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect_ok(moire_config_set(&config, "train.steps", "12", MOIRE_FROM_COMMAND));
    expect_ok(moire_config_set(&config, "run.dir", "x", MOIRE_FROM_FILE));
    expect(config.train_steps == 12 && strcmp(config.run_dir, "x") == 0);
    expect_failure(moire_config_set(&config, "train.steps", "x", MOIRE_FROM_COMMAND), MOIRE_USAGE,
                   "train.steps on the command line");
    expect_failure(moire_config_set(&config, "train.step", "1", MOIRE_FROM_FILE), MOIRE_USAGE,
                   "did you mean train.steps?");
    expect(config.train_steps == 12 && origin_of(&config, "run.dir") == MOIRE_FROM_FILE);
    moire_config_free(&config);
}

static const struct moire_test tests[] = {
    { "the table", test_table },
    { "defaults", test_defaults },
    { "a file", test_file },
    { "quotes", test_quotes },
    { "bad files", test_bad_files },
    { "long lines", test_long_lines },
    { "arguments", test_arguments },
    { "precedence", test_precedence },
    { "the environment", test_environment },
    { "files that cannot be read", test_missing_file },
    { "one key", test_set },
};

/* Parameters of the person who runs the tests must not count. */
static void clear_environment(void)
{
    char name[256];
    for (int i = 0; i < moire_parameter_count; i++) {
        snprintf(name, sizeof name, "MOIRE_%s_%s", moire_parameters[i].section, moire_parameters[i].key);
        for (char *c = name; *c; c++)
            if (*c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
        unsetenv(name);
    }
}

int main(int argc, char **argv)
{
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", NULL, 0);
    if (!mkdtemp(scratch) || chdir(scratch) != 0) return 1;
    clear_environment();
    int result = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    unlink("some.ini");
    unlink("zero.ini");
    if (chdir("/") == 0) rmdir(scratch);
    return result;
}
