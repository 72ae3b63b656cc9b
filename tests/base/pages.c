#include "moire/base/pages.h"

#include <fcntl.h>

#include "../support/harness.h"
#include "capture.h"

#define KIND MOIRE_MEMORY_DATA

/* The lowest number that the next file would get: more than before when one was left open. */
static int next_descriptor(void)
{
    int next = dup(STDERR_FILENO);
    close(next);
    return next;
}

static void fill(struct moire_pages *pages, int64_t from)
{
    for (int64_t i = from; i < pages->bytes; i++)
        ((unsigned char *)pages->data)[i] = (unsigned char)(i % 251);
}

static bool is_filled(const void *data, int64_t bytes)
{
    const unsigned char *found = data;
    int64_t wrong = 0;
    for (int64_t i = 0; i < bytes; i++) wrong += found[i] != i % 251;
    return wrong == 0;
}

static void test_grow(void)
{
    struct moire_pages pages = { .kind = KIND };
    int64_t page = moire_pages_bytes(1), blocks = moire_memory_blocks();
    int next = next_descriptor();
    moire_memory_reset_peaks();
    expect_ok(moire_pages_grow(&pages, 0));
    expect(pages.bytes == 0 && !pages.data && next_descriptor() == next);
    const int64_t sizes[] = { 1, page, page + 1, 3 * page - 1, 40 * page, 4, 3000 * page, 3001 * page };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t before = pages.bytes, wanted = moire_pages_bytes(sizes[i]), zeros = 0;
        expect_ok(moire_pages_grow(&pages, sizes[i]));
        expect(pages.bytes == (wanted > before ? wanted : before));
        expect(is_filled(pages.data, before));
        for (int64_t j = before; j < pages.bytes; j++) zeros += ((char *)pages.data)[j] == 0;
        expect(zeros == pages.bytes - before);
        fill(&pages, before);
        expect(moire_memory_bytes(KIND) == pages.bytes && moire_memory_blocks() == blocks + 1);
    }
    expect(moire_memory_peak_bytes(KIND) == 3001 * page); /* never the old and the new size together */
    moire_pages_free(&pages);
    expect(!pages.data && pages.bytes == 0 && pages.kind == KIND);
    moire_pages_free(&pages);
    expect(moire_memory_bytes(KIND) == 0 && next_descriptor() == next);
}

static void test_rounding(void)
{
    int64_t page = sysconf(_SC_PAGESIZE);
    expect(moire_pages_bytes(0) == 0);
    expect(moire_pages_bytes(1) == page && moire_pages_bytes(page) == page);
    expect(moire_pages_bytes(page + 1) == 2 * page);
    expect(moire_pages_bytes(INT64_MAX) == INT64_MAX);
}

static struct rlimit lower(int which, rlim_t most)
{
    struct rlimit before, low;
    getrlimit(which, &before);
    low = (struct rlimit){ .rlim_cur = most, .rlim_max = before.rlim_max };
    setrlimit(which, &low);
    return before;
}

/* Pages that hold something, or nothing, are as before a growth that fails. */
static void check_failing_growth(int64_t held, int64_t bytes, const char *text)
{
    struct moire_pages pages = { .kind = KIND };
    int64_t blocks = moire_memory_blocks();
    int next = next_descriptor();
    expect_ok(moire_pages_grow(&pages, held));
    int64_t before = pages.bytes;
    fill(&pages, 0);
    expect_failure(moire_pages_grow(&pages, bytes), MOIRE_NO_MEMORY, text);
    expect(pages.bytes == before && moire_memory_bytes(KIND) == before);
    expect(before > 0 ? is_filled(pages.data, before) : !pages.data);
    moire_pages_free(&pages);
    expect(moire_memory_blocks() == blocks && next_descriptor() == next);
}

static void test_failures(void)
{
    for (int64_t held = 0; held <= 10000; held += 5000) {
        check_failing_growth(held, INT64_C(1) << 50, "bytes available on this machine");
        check_failing_growth(held, INT64_MAX, "out of memory for data");
        struct rlimit before = lower(RLIMIT_FSIZE, 100000);
        check_failing_growth(held, 1000000,
                             "limit of 100000 bytes, expected at least 1003520; try ulimit -f");
        setrlimit(RLIMIT_FSIZE, &before);
    }
    struct rlimit before = lower(RLIMIT_NOFILE, (rlim_t)next_descriptor());
    struct moire_pages pages = { .kind = KIND };
    expect_failure(moire_pages_grow(&pages, 1), MOIRE_NO_MEMORY, "ulimit -n");
    setrlimit(RLIMIT_NOFILE, &before);
    expect(pages.bytes == 0 && !pages.data);
}

#if !defined(__SANITIZE_ADDRESS__) /* which needs room for its shadow */
static void test_address_space(void)
{
    struct rlimit before = lower(RLIMIT_AS, (rlim_t)1 << 30);
    check_failing_growth(5000, INT64_C(1) << 30, "Cannot allocate memory");
    check_failing_growth(0, INT64_C(1) << 30, "Cannot allocate memory");
    setrlimit(RLIMIT_AS, &before);
}
#endif

/* This process in the part of the other one. */
static void test_map(void)
{
    struct moire_pages pages = { .kind = KIND };
    const void *data = NULL;
    int process = 0, next = next_descriptor();
    expect_ok(moire_pages_process(&process));
    expect(process > 0);
    expect_ok(moire_pages_grow(&pages, 10000));
    expect_ok(moire_pages_map(process, pages.descriptor, pages.bytes, &data));
    expect(data && data != pages.data);
    int64_t bytes = pages.bytes;
    fill(&pages, 0); /* shows through */
    expect(is_filled(data, bytes));
    expect_ok(moire_pages_grow(&pages, 10000000));
    expect(is_filled(data, bytes)); /* as it was */
    expect_ok(moire_pages_map_more(&data, bytes, pages.bytes));
    fill(&pages, bytes);
    bytes = pages.bytes;
    expect(is_filled(data, bytes));
    moire_pages_free(&pages);
    expect(is_filled(data, bytes)); /* outlives the owner's */
    expect(moire_memory_bytes(KIND) == 0);
    moire_pages_unmap(data, bytes);
    moire_pages_unmap(NULL, 0);
    expect(next_descriptor() == next);
}

static void test_map_failures(void)
{
    struct moire_pages pages = { .kind = KIND };
    const void *data = &pages;
    int process = 0, next = next_descriptor(), ends[2];
    expect_ok(moire_pages_process(&process));
    expect_ok(moire_pages_grow(&pages, 1));
    expect_failure(moire_pages_map(process, 99999, 1, &data), MOIRE_NO_FILE, "exchange.backend");
    expect_failure(moire_pages_map(INT32_MAX, 0, 1, &data), MOIRE_NO_FILE, "/proc/2147483647/fd/0");
    expect_failure(moire_pages_map(process, pages.descriptor, pages.bytes + 1, &data), MOIRE_NO_FILE,
                   "PID namespace");
    expect(pipe(ends) == 0); /* not what was meant: neither blocks nor is mapped */
    expect_failure(moire_pages_map(process, ends[0], 1, &data), MOIRE_NO_FILE, "/proc");
    close(ends[0]);
    close(ends[1]);
    struct rlimit before = lower(RLIMIT_NOFILE, (rlim_t)next_descriptor());
    expect_failure(moire_pages_map(process, pages.descriptor, 1, &data), MOIRE_NO_MEMORY, "ulimit -n");
    setrlimit(RLIMIT_NOFILE, &before);
    expect(data == &pages);
    moire_pages_free(&pages);
    expect(next_descriptor() == next);
}

static void test_machine(void)
{
    char name[64], again[64], little[2];
    moire_pages_machine(name, sizeof name);
    moire_pages_machine(again, sizeof again);
    moire_pages_machine(little, sizeof little);
    expect(name[0] && strcmp(name, again) == 0 && !strchr(name, '\n'));
    expect(little[0] == name[0] && little[1] == 0);
}

static const struct moire_test tests[] = {
    { "pages grow, keep what they hold and are counted", test_grow },
    { "whole pages", test_rounding },
    { "missing memory is an error", test_failures },
#if !defined(__SANITIZE_ADDRESS__)
    { "so is a missing address space", test_address_space },
#endif
    { "another process's pages", test_map },
    { "pages that cannot be mapped", test_map_failures },
    { "a name of the machine", test_machine },
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
