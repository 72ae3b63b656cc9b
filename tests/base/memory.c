#include "../support/harness.h"

#include "capture.h"
#include "moire/base/arena.h"
#include "moire/base/log.h"

static void test_allocate(void)
{
    for (int64_t count = 0; count < 200; count += 13) {
        unsigned char *block = NULL;
        int64_t before = moire_memory_bytes(MOIRE_MEMORY_DATA);
        expect_ok(moire_allocate(MOIRE_MEMORY_DATA, count, 3, &block));
        expect(block != NULL && (uintptr_t)block % 64 == 0);
        expect(moire_memory_bytes(MOIRE_MEMORY_DATA) == before + 3 * count);
        for (int64_t i = 0; i < 3 * count; i++) expect(block[i] == 0);
        memset(block, 1, (size_t)(3 * count)); /* what a later block must not see */
        moire_release(block);
        expect(moire_memory_bytes(MOIRE_MEMORY_DATA) == before);
    }
    moire_release(NULL);
}

/* Blocks that get large pages are zeroed to the end too, and counted as what was asked for. */
static void test_large(void)
{
    for (int64_t bytes = (2 << 20) - 100; bytes < 9 << 20; bytes += (1 << 20) + 4077) {
        for (int round = 0; round < 2; round++) {
            unsigned char *block = NULL;
            int64_t before = moire_memory_bytes(MOIRE_MEMORY_DATA), not_zero = 0;
            expect_ok(moire_allocate(MOIRE_MEMORY_DATA, bytes, 1, &block));
            expect((uintptr_t)block % 64 == 0);
            expect(moire_memory_bytes(MOIRE_MEMORY_DATA) == before + bytes);
            for (int64_t i = 0; i < bytes; i++) not_zero += block[i] != 0;
            expect(not_zero == 0);
            memset(block, 1, (size_t)bytes);
            moire_release(block);
        }
    }
}

static void test_failures(void)
{
    int marker;
    void *block = &marker;
    expect_failure(moire_allocate(MOIRE_MEMORY_GRADIENTS, INT64_MAX / 4, 8, &block), MOIRE_NO_MEMORY,
                   "gradients");
    expect_failure(moire_allocate(MOIRE_MEMORY_DATA, INT64_MAX, 1, &block), MOIRE_NO_MEMORY,
                   "too large to count");
    expect_failure(moire_allocate(MOIRE_MEMORY_DATA, 2, SIZE_MAX, &block), MOIRE_NO_MEMORY,
                   "too large to count");
    expect_failure(moire_allocate(MOIRE_MEMORY_DATA, -1, 8, &block), MOIRE_NO_MEMORY, "found -1 elements");
    expect(block == &marker);
    expect(moire_memory_bytes(MOIRE_MEMORY_GRADIENTS) == 0);
}

static void test_out_of_memory(void)
{
#if !defined(__SANITIZE_ADDRESS__) /* which ends the process instead of giving NULL */
    int marker;
    void *block = &marker;
    expect_failure(moire_allocate(MOIRE_MEMORY_EXCHANGE, INT64_C(1) << 60, 2, &block), MOIRE_NO_MEMORY,
                   "out of memory for exchange; wanted 2305843009213693952 bytes");
    expect(block == &marker);
#endif
}

static void test_grow(void)
{
    int64_t *list = NULL, capacity = 0, steps = 0;
    for (int64_t count = 1; count <= 3000; count++) {
        int64_t before = capacity;
        expect_ok(moire_grow(MOIRE_MEMORY_OTHER, &list, &capacity, count, sizeof *list));
        expect(capacity >= count);
        steps += capacity != before;
        if (capacity != before) expect(2 * capacity >= 3 * before);
        for (int64_t i = before; i < capacity; i++) expect(list[i] == 0);
        list[count - 1] = count;
    }
    expect(steps < 25);
    for (int64_t i = 0; i < 3000; i++) expect(list[i] == i + 1);
    int64_t *same = list, full = capacity;
    expect_ok(moire_grow(MOIRE_MEMORY_OTHER, &list, &capacity, 5, sizeof *list));
    expect(list == same && capacity == full); /* never shrinks */
    expect_failure(moire_grow(MOIRE_MEMORY_OTHER, &list, &capacity, INT64_MAX / 2, sizeof *list),
                   MOIRE_NO_MEMORY, "other");
    expect(list == same && capacity == full && list[2999] == 3000);
    moire_release(list);

    char *text = NULL;
    capacity = 0;
    expect_ok(moire_grow(MOIRE_MEMORY_OTHER, &text, &capacity, 0, 1));
    expect(text != NULL);
    expect_ok(moire_grow(MOIRE_MEMORY_OTHER, &text, &capacity, 1000000, 1));
    expect(capacity >= 1000000);
    moire_release(text);
}

static void test_counts(void)
{
    void *a = NULL, *b = NULL;
    int64_t calls = moire_memory_allocations(), blocks = moire_memory_blocks();
    moire_memory_reset_peaks();
    expect_ok(moire_allocate(MOIRE_MEMORY_OPTIMIZER, 10, 100, &a));
    expect_ok(moire_allocate(MOIRE_MEMORY_OPTIMIZER, 10, 200, &b));
    expect(moire_memory_bytes(MOIRE_MEMORY_OPTIMIZER) == 3000);
    expect(moire_memory_peak_bytes(MOIRE_MEMORY_OPTIMIZER) == 3000);
    expect(moire_memory_blocks() == blocks + 2);
    moire_release(b);
    expect(moire_memory_bytes(MOIRE_MEMORY_OPTIMIZER) == 1000);
    expect(moire_memory_peak_bytes(MOIRE_MEMORY_OPTIMIZER) == 3000);
    moire_memory_reset_peaks();
    expect(moire_memory_peak_bytes(MOIRE_MEMORY_OPTIMIZER) == 1000);
    moire_release(a);
    expect(moire_memory_blocks() == blocks);
    expect(moire_memory_allocations() == calls + 2);
}

static void test_adopt(void)
{
    int64_t calls = moire_memory_allocations(), blocks = moire_memory_blocks();
    moire_memory_reset_peaks();
    moire_memory_adopt(MOIRE_MEMORY_OPTIMIZER, 300);
    moire_memory_adopt(MOIRE_MEMORY_OPTIMIZER, 0); /* a block too */
    expect(moire_memory_bytes(MOIRE_MEMORY_OPTIMIZER) == 300);
    expect(moire_memory_blocks() == blocks + 2 && moire_memory_allocations() == calls + 2);
    moire_memory_disown(MOIRE_MEMORY_OPTIMIZER, 0);
    moire_memory_disown(MOIRE_MEMORY_OPTIMIZER, 300);
    expect(moire_memory_bytes(MOIRE_MEMORY_OPTIMIZER) == 0);
    expect(moire_memory_peak_bytes(MOIRE_MEMORY_OPTIMIZER) == 300);
    expect(moire_memory_blocks() == blocks);
}

static void test_threads(void)
{
    int64_t blocks = moire_memory_blocks();
#pragma omp parallel for num_threads(4)
    for (int i = 0; i < 4000; i++) {
        void *block = NULL;
        if (moire_allocate(MOIRE_MEMORY_DATA, i % 7, 8, &block) == MOIRE_OK) moire_release(block);
    }
    expect(moire_memory_blocks() == blocks);
    expect(moire_memory_bytes(MOIRE_MEMORY_DATA) == 0);
}

static void test_copy_text(void)
{
    char *copy = NULL;
    expect_ok(moire_copy_text("", &copy));
    expect(copy && copy[0] == 0);
    moire_release(copy);
    expect_ok(moire_copy_text("a text", &copy));
    expect(strcmp(copy, "a text") == 0);
    moire_release(copy);
}

static void test_names(void)
{
    expect(strcmp(moire_memory_kind_name(MOIRE_MEMORY_PARAMETERS), "parameters") == 0);
    expect(strcmp(moire_memory_kind_name(MOIRE_MEMORY_OTHER), "other") == 0);
    for (int kind = 0; kind < MOIRE_MEMORY_KINDS; kind++)
        expect(moire_memory_kind_name((moire_memory_kind)kind) != NULL);
}

static void *leaked;
static int64_t left;

static void report(void)
{
    left = moire_memory_report_leaks();
}

static void test_leaks(void)
{
    char *text = captured_errors(report);
    expect(left == 0 && text[0] == 0);
    free(text);
    expect_ok(moire_allocate(MOIRE_MEMORY_ACTIVATIONS, 12, 1, &leaked));
    text = captured_errors(report);
    expect(left == 1 && strstr(text, "activations, 12 bytes in 1 blocks\n") != NULL);
    free(text);
    moire_release(leaked);
}

#ifdef MOIRE_DEBUG
static void release_twice(void)
{
    void *block = NULL;
    if (moire_allocate(MOIRE_MEMORY_DATA, 100, 1, &block) != MOIRE_OK) return;
    moire_release(block);
    moire_release(block);
}

static void write_behind(void)
{
    char *block = NULL;
    if (moire_allocate(MOIRE_MEMORY_DATA, 100, 1, &block) != MOIRE_OK) return;
    volatile char *payload = block;
    payload[100] = 'x';
    moire_release(block);
}

static void write_before(void)
{
    char *block = NULL;
    if (moire_allocate(MOIRE_MEMORY_DATA, 100, 1, &block) != MOIRE_OK) return;
    volatile char *payload = block;
    for (int i = 1; i <= 64; i++) payload[-i] = 'x';
    moire_release(block);
}
#endif

static void test_misuse(void)
{
#ifdef MOIRE_DEBUG
    expect(dies(release_twice));
    expect(dies(write_behind));
    expect(dies(write_before));
#endif
}

/* The same calls on any arena; returns false when one failed. */
static bool take_some(struct moire_arena *arena)
{
    bool fine = moire_arena_take(arena, 3, 4) != NULL;
    int64_t mark = moire_arena_mark(arena);
    fine = fine && moire_arena_take(arena, 1000, 8) != NULL && moire_arena_take(arena, 0, 8) != NULL;
    moire_arena_reset(arena, mark);
    return fine && moire_arena_take(arena, 65, 1) != NULL && moire_arena_take(arena, 64, 1) != NULL;
}

static void test_arena_plan(void)
{
    struct moire_arena arena;
    moire_arena_measure(&arena);
    expect(take_some(&arena));
    expect(arena.peak_bytes == 64 + 8000 && arena.used_bytes == 64 + 128 + 64);
    int64_t planned = arena.peak_bytes, calls = moire_memory_allocations();
    moire_arena_free(&arena);
    expect(moire_memory_allocations() == calls);
    expect_ok(moire_arena_create(&arena, MOIRE_MEMORY_ACTIVATIONS, planned));
    expect(moire_memory_bytes(MOIRE_MEMORY_ACTIVATIONS) == planned);
    for (int step = 0; step < 3; step++) {
        expect(take_some(&arena));
        expect(arena.peak_bytes == planned);
        moire_arena_reset(&arena, 0);
    }
    expect(moire_memory_allocations() == calls + 1);
    moire_arena_free(&arena);
    moire_arena_free(&arena); /* free of a zeroed one is fine */
}

static void test_arena_blocks(void)
{
    struct moire_arena arena;
    expect_ok(moire_arena_create(&arena, MOIRE_MEMORY_DATA, 300));
    unsigned char *a = moire_arena_take(&arena, 100, 1), *b = moire_arena_take(&arena, 1, 8);
    expect((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0 && b - a == 128);
    memset(a, 1, 100);
    memset(b, 2, 8);
    expect(a[99] == 1);
    expect(moire_arena_take(&arena, 129, 1) == NULL);
    expect(strstr(moire_error_text(), "wanted 129 elements of 1 bytes, 128 of its 320 bytes are free") !=
           NULL);
    moire_error_clear();
    expect(moire_arena_take(&arena, 128, 1) != NULL); /* the capacity was rounded up */
    expect(moire_arena_take(&arena, 0, 1) != NULL);   /* nothing always fits */
    expect(moire_arena_take(&arena, -1, 1) == NULL);
    moire_error_clear();
    moire_arena_free(&arena);
    moire_arena_measure(&arena);
    expect(moire_arena_take(&arena, INT64_MAX / 2, 8) == NULL);
    moire_error_clear();
}

static const struct moire_test tests[] = {
    { "blocks are zeroed, aligned and counted", test_allocate },
    { "large blocks", test_large },
    { "sizes that cannot be counted", test_failures },
    { "out of memory", test_out_of_memory },
    { "growing", test_grow },
    { "counts and peaks", test_counts },
    { "blocks that came from elsewhere", test_adopt },
    { "threads", test_threads },
    { "copies of texts", test_copy_text },
    { "names of kinds", test_names },
    { "report of leaks", test_leaks },
    { "misuse stops a debug build", test_misuse },
    { "an arena fits what was measured", test_arena_plan },
    { "blocks of an arena", test_arena_blocks },
};

int main(int argc, char **argv)
{
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
