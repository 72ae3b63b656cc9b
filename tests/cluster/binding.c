/* Bindings of ranks: what is shared and what is warned of. */
#include "moire/cluster/binding.h"

#include <sched.h>
#include <string.h>

#include "../support/capture.h"
#include "../support/harness.h"

static cpu_set_t all; /* what this rank had at the start, alike on all */

static int processor(int number)
{
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && number-- == 0) return cpu;
    return -1;
}

/* To processor `number` of all, or to all (-1). */
static void bind_to(int number)
{
    cpu_set_t set = all;
    if (number >= 0) {
        CPU_ZERO(&set);
        CPU_SET(processor(number), &set);
    }
    expect(sched_setaffinity(0, sizeof set, &set) == 0);
}

/* Finds and warns; *said: rank 0's warnings, its own piece of memory. */
static struct moire_binding look(int threads, struct capture *said)
{
    struct moire_communicator world;
    struct moire_binding binding = { .processors = -1 };
    expect_ok(moire_communicator_world(&world));
    expect_ok(moire_binding_find(&world, threads, &binding));
    capture_begin(said, STDERR_FILENO);
    moire_status status = moire_binding_warn(&world, &binding);
    capture_end(said);
    expect_ok(status);
    expect(test_rank == 0 || !strstr(said->text, "warning"));
    moire_communicator_free(&world);
    return binding;
}

static bool says(const struct capture *said, const char *text)
{
    return test_rank != 0 || strstr(said->text, text) != NULL;
}

static struct capture said;

static void unbound(void)
{
    int processors = CPU_COUNT(&all);
    struct moire_binding binding = look(1, &said);
    expect(binding.processors == processors && binding.threads == 1);
    expect(binding.ranks_inside == test_ranks && binding.threads_inside == test_ranks);
    if (test_rank == 0)
        expect((strstr(said.text, "ranks share processors") != NULL) == (test_ranks > processors));
    expect(!strstr(said.text, "fewer processors"));
}

static void one_processor(void)
{
    char text[64];
    bind_to(0);
    struct moire_binding binding = look(1, &said);
    snprintf(text, sizeof text, "%d", processor(0));
    expect(strcmp(binding.text, text) == 0);
    expect(binding.processors == 1 && binding.ranks_inside == test_ranks);
    snprintf(text, sizeof text, "found %d ranks with %d threads on processors %d of ", test_ranks, test_ranks,
             processor(0));
    expect(test_ranks > 1 ? says(&said, text) : !strstr(said.text, "warning"));
    bind_to(-1);
}

static void each_its_own(void)
{
    if (test_ranks > CPU_COUNT(&all)) return;
    bind_to(test_rank);
    struct moire_binding binding = look(1, &said);
    expect(binding.processors == 1 && binding.ranks_inside == 1 && binding.threads_inside == 1);
    expect(!strstr(said.text, "warning"));
    bind_to(-1);
}

/* One rank alone may lie in the processors of the others. */
static void nested(void)
{
    if (CPU_COUNT(&all) < 2 || test_ranks < 2) return;
    if (test_rank == 1) bind_to(1);
    struct moire_binding binding = look(1, &said);
    expect(binding.ranks_inside == (test_rank == 1 ? 1 : test_ranks));
    if (test_rank == 0)
        expect((strstr(said.text, "ranks share processors") != NULL) == (test_ranks > CPU_COUNT(&all)));
    bind_to(-1);
}

static void too_many_threads(void)
{
    int last = test_ranks - 1, processors = CPU_COUNT(&all);
    char text[64];
    look(test_rank == last ? processors + 1 : 1, &said);
    expect(says(&said, "a rank has fewer processors than threads"));
    snprintf(text, sizeof text, "(rank %d; 1 rank in all), expected at most %d", last, processors);
    expect(says(&said, text));
    expect(test_ranks > 1 ? says(&said, "ranks share processors") : !strstr(said.text, "share"));
}

/* OpenMP binds the main thread to its place: that is not the rank's. */
static void bound_by_openmp(void)
{
    setenv("OMP_PROC_BIND", "close", 1);
    bind_to(0);
    struct moire_binding binding = look(2, &said);
    expect(binding.processors == 0 && binding.ranks_inside == 0 && strcmp(binding.text, "unknown") != 0);
    expect(!strstr(said.text, "warning"));
    expect(look(1, &said).processors == 1); /* one thread: it is */
    setenv("OMP_PROC_BIND", "FALSE", 1);
    expect(look(2, &said).processors == 1);
    unsetenv("OMP_PROC_BIND");
    bind_to(-1);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "all on all processors", unbound },
        { "all on one processor", one_processor },
        { "each on its own", each_its_own },
        { "one inside the others'", nested },
        { "more threads than processors", too_many_threads },
        { "bound by OpenMP", bound_by_openmp },
    };
    unsetenv("OMP_PROC_BIND");
    unsetenv("OMP_PLACES");
    unsetenv("GOMP_CPU_AFFINITY");
    if (sched_getaffinity(0, sizeof all, &all) != 0) return 1;
    return test_main(argc, argv, "1 2 3 5", tests, sizeof tests / sizeof *tests);
}
