#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "moire/base/file.h"

static char scratch[] = "/tmp/moire-test-map-XXXXXX";

/* Files of zero, of few and of many bytes: the same contents, whether read or mapped. */
static void test_map(void)
{
    const int64_t lengths[] = { 0, 1, 65536, 65537, 1000000 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char *content = malloc((size_t)lengths[i] + 1);
        for (int64_t b = 0; b < lengths[i]; b++) content[b] = (unsigned char)test_random_below(256);
        expect_ok(moire_file_write("file", content, lengths[i]));
        struct moire_file_map map = { 0 };
        expect_ok(moire_file_map("file", &map));
        expect(map.data && map.bytes == lengths[i] && memcmp(map.data, content, (size_t)lengths[i]) == 0);
        expect(map.mapped == (lengths[i] > 65536));
        moire_file_unmap(&map);
        expect(!map.data && map.bytes == 0);
        moire_file_unmap(&map);
        free(content);
    }
}

static void test_map_failures(void)
{
    struct moire_file_map map = { .bytes = 17 };
    mkdir("folder", 0777);
    mkfifo("pipe", 0666);
    expect_failure(moire_file_map("missing", &map), MOIRE_NO_FILE, "missing");
    expect_failure(moire_file_map("folder", &map), MOIRE_NO_FILE, "folder; found a directory, expected a "
                   "regular file");
    expect_failure(moire_file_map("pipe", &map), MOIRE_NO_FILE, "pipe; found a special file");
        /* and no waiting */
    expect(map.bytes == 17);
}

static void expect_split(const char *patterns, const char *const *wanted, int64_t count)
{
    struct moire_paths list;
    expect_ok(moire_paths_split(patterns, &list));
    expect(list.count == count);
    for (int64_t i = 0; i < count && i < list.count; i++) expect(strcmp(list.list[i], wanted[i]) == 0);
    moire_paths_free(&list);
}

static void test_split(void)
{
    expect_split("", NULL, 0);
    expect_split(" , ,\t,", NULL, 0);
    expect_split("a", (const char *const[]){ "a" }, 1);
    expect_split(" b c ,, a*/**\t", (const char *const[]){ "b c", "a*/**" }, 2);
    expect_split("x\\,y,z\\", (const char *const[]){ "x\\,y", "z\\" }, 2);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "map", test_map },
        { "failures of map", test_map_failures },
        { "split a list of patterns", test_split },
    };
    if (getenv("MOIRE_TEST_ASK_RANKS")) return test_main(argc, argv, "", NULL, 0);
    if (!mkdtemp(scratch) || chdir(scratch) != 0) return 1;
    int result = test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
    unlink("file");
    unlink("pipe");
    rmdir("folder");
    if (chdir("/") != 0 || rmdir(scratch) != 0) return 1;
    return result;
}
