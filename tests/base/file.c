#include "../support/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "moire/base/file.h"
#include "moire/base/random.h"

static char scratch[] = "/tmp/moire-test-file-XXXXXX";

/* Tests work inside an empty directory; paths in them are relative. */
static void write_text(const char *path, const char *text)
{
    expect_ok(moire_file_write(path, text, (int64_t)strlen(text)));
}

static void expect_content(const char *path, const char *text)
{
    char *data = NULL;
    int64_t bytes = -1;
    expect_ok(moire_file_read(path, &data, &bytes));
    expect(data && bytes == (int64_t)strlen(text) && strcmp(data, text) == 0);
    moire_release(data);
}

static void test_read_and_write(void)
{
    int64_t bytes = -1;
    write_text("a", "some text");
    expect_content("a", "some text");
    write_text("a", "other"); /* replaced, shorter */
    expect_content("a", "other");
    expect_ok(moire_file_bytes("a", &bytes));
    expect(bytes == 5 && moire_file_exists("a") && !moire_file_exists("b"));
    write_text("empty", "");
    expect_content("empty", "");
    char zeros[5000] = { 1, 0, 0, 2 };
    zeros[4999] = 3;
    char *data = NULL;
    expect_ok(moire_file_write("zeros", zeros, sizeof zeros));
    expect_ok(moire_file_read("zeros", &data, &bytes));
    expect(bytes == sizeof zeros && memcmp(data, zeros, sizeof zeros) == 0 && data[5000] == 0);
    moire_release(data);
    expect_ok(moire_file_read("/proc/self/status", &data, &bytes)); /* of unknown size */
    expect(bytes > 10 && (int64_t)strlen(data) == bytes && strncmp(data, "Name:", 5) == 0);
    moire_release(data);
    struct moire_paths names;
    expect_ok(moire_paths_list(".", &names)); /* no temporary file is left */
    expect(names.count == 3 && strcmp(names.list[0], "a") == 0 && strcmp(names.list[2], "zeros") == 0);
    moire_paths_free(&names);
}

static void test_read_failures(void)
{
    char *data = (char *)scratch;
    int64_t bytes = 77;
    expect_failure(moire_file_read("missing", &data, &bytes), MOIRE_NO_FILE,
                   "cannot read missing; found: No such file");
    expect_failure(moire_file_read("a/b", &data, &bytes), MOIRE_NO_FILE, "cannot read a/b");
    expect_failure(moire_file_read(".", &data, &bytes), MOIRE_NO_FILE, "found a directory");
    expect_failure(moire_file_read("", &data, &bytes), MOIRE_NO_FILE, "cannot read");
    expect_failure(moire_file_bytes("missing", &bytes), MOIRE_NO_FILE, "missing");
    expect_failure(moire_file_write("missing/file", "x", 1), MOIRE_NO_FILE, "cannot create missing/file");
    expect(mkdir("folder", 0777) == 0);
    write_text("folder/inside", "x");
    expect_failure(moire_file_write("folder", "x", 1), MOIRE_NO_FILE, "cannot write folder");
    expect(data == (char *)scratch && bytes == 77);
    struct moire_paths names;
    expect_ok(moire_paths_list("folder", &names));
    expect(names.count == 1);
    moire_paths_free(&names);
}

static void test_full_disk(void)
{
    int descriptor = -1;
    char data[4096] = { 0 };
    if (moire_file_open("/dev/full", O_WRONLY, &descriptor) != MOIRE_OK) return moire_error_clear();
    expect_failure(moire_file_pwrite(descriptor, "/dev/full", data, sizeof data, 0), MOIRE_NO_SPACE,
                   "cannot write /dev/full");
    close(descriptor);
}

static void test_pieces(void)
{
    int descriptor = -1;
    char out[100], in[100];
    for (int i = 0; i < 100; i++) out[i] = (char)i;
    expect_ok(moire_file_open("pieces", O_RDWR | O_CREAT | O_TRUNC, &descriptor));
    expect_ok(moire_file_reserve(descriptor, "pieces", 200));
    expect_ok(moire_file_reserve(descriptor, "pieces", 0));
    expect_ok(moire_file_pwrite(descriptor, "pieces", out, 100, 100));
    expect_ok(moire_file_pread(descriptor, "pieces", in, 100, 100));
    expect(memcmp(in, out, 100) == 0);
    expect_ok(moire_file_pread(descriptor, "pieces", in, 0, 1000));
    expect_failure(moire_file_pread(descriptor, "pieces", in, 100, 150), MOIRE_BAD_DATA,
                   "pieces is too short; found its end at byte 200, expected 100 bytes from byte 150");
    expect_ok(moire_file_sync(descriptor, "pieces"));
    expect_ok(moire_file_sync_directory("pieces"));
    expect_ok(moire_file_sync_directory("./pieces"));
    expect_ok(moire_file_sync_directory("/pieces"));
    expect_failure(moire_file_sync_directory("none/pieces"), MOIRE_NO_FILE, "none");
    close(descriptor);
    expect_failure(moire_file_pread(descriptor, "pieces", in, 1, 0), MOIRE_NO_FILE, "cannot read pieces");
    expect_failure(moire_file_open("missing", O_RDWR, &descriptor), MOIRE_NO_FILE, "cannot write missing");
}

static void test_map(void)
{
    static const int64_t sizes[] = { 0, 1, 4096, 65536, 65537, 200000 };
    struct moire_file_map map = { 0 };
    moire_file_unmap(&map);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        unsigned char *data = malloc((size_t)sizes[s] + 1);
        for (int64_t i = 0; i < sizes[s]; i++)
            data[i] = (unsigned char)moire_random_bits(test_seed, s, (uint64_t)i);
        expect_ok(moire_file_write("mapped", data, sizes[s]));
        expect_ok(moire_file_map("mapped", &map));
        expect(map.data && map.bytes == sizes[s] && memcmp(map.data, data, (size_t)sizes[s]) == 0);
        expect(map.mapped == (sizes[s] > 65536));
        moire_file_unmap(&map);
        free(data);
    }
    expect_failure(moire_file_map(".", &map), MOIRE_NO_FILE, "found a directory, expected a regular file");
    expect_failure(moire_file_map("/dev/null", &map), MOIRE_NO_FILE, "found a special file");
    expect_failure(moire_file_map("missing", &map), MOIRE_NO_FILE, "missing");
    expect(mkfifo("pipe", 0600) == 0);
    /* It does not wait for a writer either. */
    expect_failure(moire_file_map("pipe", &map), MOIRE_NO_FILE, "found a special file");
    unlink("pipe");
}

static void test_directories(void)
{
    char path[200];
    expect_ok(moire_directory_make("x/y/z"));
    expect_ok(moire_directory_make("x/y/z/"));
    expect_ok(moire_directory_make("x//y/./w"));
    expect_ok(moire_directory_make("."));
    snprintf(path, sizeof path, "%s/absolute/b", scratch);
    expect_ok(moire_directory_make(path));
    expect(moire_file_exists("x/y/z") && moire_file_exists("x/y/w") && moire_file_exists("absolute/b"));
    struct moire_paths names;
    expect_ok(moire_paths_list("x/y/z", &names));
    expect(names.count == 0); /* the probe is gone */
    moire_paths_free(&names);
    write_text("x/file", "");
    expect_failure(moire_directory_make("x/file"), MOIRE_NO_FILE, "found a file of that name");
    expect_failure(moire_directory_make("x/file/y"), MOIRE_NO_FILE, "x/file");
    expect_failure(moire_directory_make(""), MOIRE_NO_FILE, "without a name");
    if (geteuid() == 0) return; /* root may write anywhere */
    expect(chmod("x/y", 0555) == 0);
    expect_failure(moire_directory_make("x/y"), MOIRE_NO_FILE, "permission");
    expect(chmod("x/y", 0777) == 0);
}

static void make_tree(void)
{
    static const char *const directories[] = { "t", "t/b", "t/b/c", "t/b/c/d", "t/.git", "t/a.c" };
    static const char *const files[] = { "t/z.c", "t/y.h", "t/b/x.c", "t/b/B.c", "t/b/c/d/x.c", "t/.git/x.c",
                                         "t/.hidden.c", "t/a.c/in.c", "t/b/one,two.c", "t/\xc3\xa4.c" };
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
        expect(mkdir(directories[i], 0777) == 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) write_text(files[i], "");
    expect(symlink("..", "t/b/c/loop") == 0);
    expect(symlink("b/x.c", "t/link.c") == 0);
    expect(symlink("nowhere", "t/dangling.c") == 0);
}

/* `wanted`: the paths that must be found, in order, with blanks between them. */
static void expect_match(const char *patterns, const char *wanted)
{
    struct moire_paths paths = { 0 };
    struct moire_text found = { 0 };
    expect_ok(moire_paths_match(patterns, &paths));
    for (int64_t i = 0; i < paths.count; i++)
        expect_ok(moire_text_add(&found, "%s%s", i ? " " : "", paths.list[i]));
    if (!found.data || strcmp(found.data, wanted) != 0) {
        fprintf(stderr, "# '%s' found: %s\n# expected: %s\n", patterns, found.data ? found.data : "", wanted);
        expect(false);
    }
    moire_text_free(&found);
    moire_paths_free(&paths);
}

static void test_match(void)
{
    make_tree();
    expect_match("t/z.c", "t/z.c");
    /* Sorted by bytes; no directories, nothing hidden or dangling. */
    expect_match("t/*.c", "t/link.c t/z.c t/\xc3\xa4.c");
    expect_match("t/**/*.c",
                 "t/a.c/in.c t/b/B.c t/b/c/d/x.c t/b/one,two.c t/b/x.c t/link.c t/z.c t/\xc3\xa4.c");
    expect_match("t/**/x.c", "t/b/c/d/x.c t/b/x.c");
    expect_match("**/d/**/x.c", "t/b/c/d/x.c");
    expect_match("t/**/**/x.c", "t/b/c/d/x.c t/b/x.c");
    expect_match("t/b/**", "t/b/B.c t/b/c/d/x.c t/b/one,two.c t/b/x.c");
    expect_match("t/?/[A-M].c", "t/b/B.c");
    expect_match("t/.git/*", "t/.git/x.c"); /* asked for by name */
    expect_match("t/.h*", "t/.hidden.c");
    expect_match("t/b/c/loop/x.c", "t/b/c/loop/x.c"); /* links are followed where they are named */
    expect_match(" t/z.c ,\tt/y.h,, t/z.c,t/*.c", "t/link.c t/y.h t/z.c t/\xc3\xa4.c"); /* each once */
    expect_match("t/b/one\\,two.c", "t/b/one,two.c");
    expect_match("./t//z.c", "t/z.c");
    char absolute[200], wanted[200];
    snprintf(absolute, sizeof absolute, "%s/t/**/d/*.c", scratch);
    snprintf(wanted, sizeof wanted, "%s/t/b/c/d/x.c", scratch);
    expect_match(absolute, wanted);
}

static void test_match_failures(void)
{
    struct moire_paths paths = { 0 };
    expect_failure(moire_paths_match("t/z.c,t/*.rs", &paths), MOIRE_NO_FILE,
                   "no file matches the pattern 't/*.rs'");
    expect_failure(moire_paths_match("none/**/*.c", &paths), MOIRE_NO_FILE, "'none/**/*.c'");
    expect_failure(moire_paths_match("t/z.c/*", &paths), MOIRE_NO_FILE, "'t/z.c/*'");
    expect_failure(moire_paths_match("t/b", &paths), MOIRE_NO_FILE,
                   "only directories; expected files; try 't/b/**'");
    expect_failure(moire_paths_match("", &paths), MOIRE_USAGE, "is empty");
    expect_failure(moire_paths_match(" , ", &paths), MOIRE_USAGE, "is empty");
    expect_failure(moire_paths_list("none", &paths), MOIRE_NO_FILE, "cannot read the directory none");
    expect(paths.list == NULL && paths.count == 0);
}

static void test_split(void)
{
    static const char *const wanted[] = { "b/*.c", "a", "a\\,b", "last one" };
    struct moire_paths list = { 0 };
    expect_ok(moire_paths_split(" b/*.c,a , ,a\\,b,last one", &list));
    expect(list.count == 4);
    for (int64_t i = 0; i < list.count && i < 4; i++) expect(strcmp(list.list[i], wanted[i]) == 0);
    moire_paths_free(&list);
}

static void test_text(void)
{
    struct moire_text text = { 0 };
    char *long_text = calloc(1, 10001);
    memset(long_text, 'x', 10000);
    expect_ok(moire_text_add(&text, "%s", ""));
    expect(text.data && text.bytes == 0 && text.data[0] == 0);
    for (int i = 0; i < 100; i++) expect_ok(moire_text_add(&text, "%d,", i));
    expect(text.bytes == 290 && (int64_t)strlen(text.data) == 290 && strncmp(text.data, "0,1,2,", 6) == 0);
    expect_ok(moire_text_add(&text, "%s", long_text));
    expect(text.bytes == 10290 && strcmp(text.data + 290, long_text) == 0);
    moire_text_free(&text);
    moire_text_free(&text);
    free(long_text);
}

static void test_integers(void)
{
    static const struct { const char *text; int64_t value; } good[] = {
        { "0", 0 }, { "-7", -7 }, { "+7", 7 }, { "007", 7 }, { "3k", 3000 }, { "2M", 2000000 },
        { "5G", INT64_C(5000000000) }, { "1Ki", 1024 }, { "-2Mi", -2097152 }, { "8Gi", INT64_C(8589934592) },
        { "9223372036854775807", INT64_MAX }, { "-9223372036854775808", INT64_MIN },
    };
    static const char *const bad[] = { "",
                                       " 1",
                                       "1 ",
                                       "1.5",
                                       "1e3",
                                       "k",
                                       "-",
                                       "--1",
                                       "+-1",
                                       "0x10",
                                       "1K",
                                       "1kk",
                                       "1ki",
                                       "auto",
                                       "9223372036854775808",
                                       "-9223372036854775809",
                                       "9223372036854775807k",
                                       "10000000000G" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t value = 99;
        expect(moire_parse_integer(good[i].text, &value) && value == good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t value = 99;
        if (moire_parse_integer(bad[i], &value)) fprintf(stderr, "# '%s' was read\n", bad[i]);
        expect(!moire_parse_integer(bad[i], &value) && value == 99);
    }
}

static void test_reals(void)
{
    static const struct { const char *text; double value; } good[] = {
        { "0", 0 }, { "1e-5", 1e-5 }, { "-2.5", -2.5 }, { ".5", 0.5 }, { "3.", 3 }, { "+1E3", 1000 },
        { "1e-400", 0 },
    };
    static const char *const bad[] = { "", ".", "1e", " 1", "1 ", "nan", "inf", "-inf", "1e999", "0x10", "1k",
                                       "1,5", "-", "none" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double value = 99;
        expect(moire_parse_real(good[i].text, &value) && value == good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double value = 99;
        if (moire_parse_real(bad[i], &value)) fprintf(stderr, "# '%s' was read\n", bad[i]);
        expect(!moire_parse_real(bad[i], &value) && value == 99);
    }
}

static void test_names(void)
{
    static const char *const names[] = { "alltoallv", "pairwise", "hierarchical", "hierarchical_onesided",
                                         "ring" };
    static const struct { const char *name, *nearest;
    } cases[] = {
        { "alltoall", "alltoallv" },
        { "paiwrise", "pairwise" },
        { "rnig", "ring" },
        { "heirarchical", "hierarchical" },
        { "ringg", "ring" },
        { "pair", "pairwise" },
        { "xyzzy", NULL },
        { "", NULL },
        { "hier", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *found = moire_nearest_name(cases[i].name, names, 5), *wanted = cases[i].nearest;
        if (wanted ? !found || strcmp(found, wanted) != 0 : found != NULL)
            fprintf(stderr, "# '%s' gave '%s'\n", cases[i].name, found ? found : "nothing");
        expect(wanted ? found && strcmp(found, wanted) == 0 : found == NULL);
    }
    expect(moire_nearest_name("x", names, 0) == NULL);
    int64_t index = 99;
    expect_ok(moire_name_find("back end", "ring", names, 5, &index));
    expect(index == 4);
    expect_failure(moire_name_find("back end", "rung", names, 3, &index), MOIRE_USAGE,
                   "unknown back end 'rung'; known: alltoallv, pairwise, hierarchical");
    expect_failure(moire_name_find("back end", "rung", names, 5, &index), MOIRE_USAGE,
                   "unknown back end 'rung'; did you mean 'ring'? known: alltoallv, pairwise,");
    expect_failure(moire_name_find("back end", "x", names, 0, &index), MOIRE_USAGE, "known: none");
    expect(index == 4);
}

static const struct moire_test tests[] = {
    { "reading and writing", test_read_and_write },
    { "failures of reading and writing", test_read_failures },
    { "a full disk", test_full_disk },
    { "pieces of a file", test_pieces },
    { "mapped files", test_map },
    { "directories", test_directories },
    { "patterns", test_match },
    { "patterns that match nothing", test_match_failures },
    { "lists of patterns", test_split },
    { "growing texts", test_text },
    { "integers", test_integers },
    { "reals", test_reals },
    { "nearest names", test_names },
};

static void remove_scratch(void)
{
    char command[200];
    if (chdir("/") == 0) {
        snprintf(command, sizeof command, "rm -rf '%s'", scratch);
        if (system(command) != 0) fprintf(stderr, "# %s is left\n", scratch);
    }
}

int main(int argc, char **argv)
{
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", NULL, 0);
    if (!mkdtemp(scratch) || chdir(scratch) != 0) return 1;
    int result = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    remove_scratch();
    return result;
}
