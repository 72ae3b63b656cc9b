/* moire bench: the command, and what every benchmark needs. */
#include "cli/bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "moire/base/file.h"
#include "moire/base/log.h"
#include "moire/base/random.h"
#include "moire/cli/cli.h"
#include "moire/compute/emulate.h"
#include "moire/compute/linear.h"
#include "moire/observe/clock.h"

static const struct moire_bench *const benches[] = {
    &moire_bench_gemm,
    &moire_bench_layer,
    &moire_bench_step,
    &moire_bench_pack,
    &moire_bench_exchange,
    &moire_bench_checkpoint,
};
enum { BENCHES = sizeof benches / sizeof *benches, PEAK_SIDE = 2048, PEAK_ELEMENTS = PEAK_SIDE * PEAK_SIDE };

/* ---- the peak ---- */

static moire_status create_peak(struct moire_bench_run *run)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, 3 * PEAK_ELEMENTS, sizeof(real), &run->peak_buffers));
    for (int64_t i = 0; i < 2 * PEAK_ELEMENTS; i++)
        run->peak_buffers[i] = (real)(1 - 2 * moire_random_uniform(1, 0, (uint64_t)i));
    return MOIRE_OK;
}

static moire_status run_peak(void *state)
{
    real *a = state, *b = a + PEAK_ELEMENTS, *c = b + PEAK_ELEMENTS;
    moire_gemm(false, false, PEAK_SIDE, PEAK_SIDE, PEAK_SIDE, 1, a, PEAK_SIDE, b, PEAK_SIDE, 0, c, PEAK_SIDE);
    return MOIRE_OK;
}

moire_status moire_bench_measure(struct moire_bench_run *run, struct moire_variant *variants, int count,
                                 double sample_seconds, struct moire_measure *measure)
{
    measure->communicator = &run->mesh.world;
    measure->variants = variants;
    measure->count = count;
    measure->most_samples = run->config->bench_samples;
    measure->most_seconds = run->config->bench_seconds;
    measure->sample_seconds = sample_seconds;
    measure->seed = (uint64_t)run->config->run_seed;
    return moire_measure_run(measure);
}

moire_status moire_bench_measure_peak(struct moire_bench_run *run, struct moire_variant *variants, int count,
                                      double sample_seconds, struct moire_measure *measure)
{
    moire_status status = run->peak_buffers ? MOIRE_OK : create_peak(run);
    MOIRE_TRY(moire_agree(&run->mesh.world, status));
    variants[count] = (struct moire_variant) { .name = "peak", .run = run_peak, .state = run->peak_buffers };
    return moire_bench_measure(run, variants, count + 1, sample_seconds, measure);
}

double moire_bench_peak(const struct moire_bench_run *run, const struct moire_measure *measure)
{
    const struct moire_variant *peak = &measure->variants[measure->count - 1];
    return 2.0 * PEAK_SIDE * PEAK_ELEMENTS * run->mesh.world.size / peak->minimum;
}

moire_status moire_bench_training_config(const struct moire_config *config, struct moire_config *own)
{
    MOIRE_TRY(moire_config_copy(config, own));
    MOIRE_TRY(moire_config_set(own, "data.source", "synthetic", MOIRE_FROM_COMMAND));
    return moire_config_set(own, "moe.record", "no", MOIRE_FROM_COMMAND);
}

/* ---- what is said of a measurement ---- */

moire_status moire_bench_describe(struct moire_bench_run *run, const char *name,
                                  const struct moire_measure *measure)
{
    char key[64], compute[64], peak[96] = "";
    snprintf(key, sizeof key, "run %s", name);
    moire_emulate_describe(compute, sizeof compute);
    if (moire_is_emulated())
        MOIRE_TRY(moire_bench_header(run->report, "compute", "%s a rank, the peak too", compute));
    if (measure->variants[measure->count - 1].run == run_peak)
        snprintf(peak, sizeof peak, "; peak %.1f GFLOP/s (best %d^3 product of %lld, alternated)",
                 moire_bench_peak(run, measure) / 1e9, PEAK_SIDE, (long long)measure->samples);
    MOIRE_TRY(moire_bench_header(run->report, key, "%lld samples after a warm-up of %lld, %.1f s%s",
                                 (long long)measure->samples, (long long)measure->warmup, measure->seconds,
                                 peak));
    return moire_bench_samples(run->report, name, measure);
}

moire_status moire_bench_result(struct moire_bench_run *run, const struct moire_measure *measure, int variant,
                                double flops, double tokens, double bytes)
{
    static const struct moire_bench_column columns[] = {
        { "what", 6, MOIRE_BENCH_WORDS },
        { "ms", 9, 2 },
        { "low", 9, 2 },
        { "high", 9, 2 },
        { "tokens/s", 9, 1 },
        { "GFLOP/s", 8, 1 },
        { "share", 6, 3 },
        { "MiB", 7, 1 },
        { "conv", 4, MOIRE_BENCH_WORDS },
    };
    const struct moire_variant *found = &measure->variants[variant];
    const double rate = flops / found->median.middle;
    const struct moire_bench_cell cells[] = {
        { .words = found->name },
        { .number = 1e3 * found->median.middle },
        { .number = 1e3 * found->median.low },
        { .number = 1e3 * found->median.high },
        { .number = tokens / found->median.middle },
        { .number = rate / 1e9 },
        { .number = rate / moire_bench_peak(run, measure) },
        { .number = bytes / 1048576 },
        { .words = found->converged ? "yes" : "no" },
    };
    struct moire_interval pairs = moire_measure_ratio(measure, measure->count - 1, variant);
    const double scale = flops / (2.0 * PEAK_SIDE * PEAK_ELEMENTS * run->mesh.world.size);
    MOIRE_TRY(moire_bench_header(run->report, "share",
                                 "of the best peak sample; of the peak sample beside each: median %.3f, "
                                 "95 %% interval %.3f to %.3f",
                                 scale * pairs.middle, scale * pairs.low, scale * pairs.high));
    if (!found->converged)
        MOIRE_TRY(moire_bench_header(run->report, "not converged", "%s: its interval is wider than 3 %%",
                                     found->name));
    MOIRE_TRY(moire_bench_table(run->report, "result", columns, sizeof columns / sizeof *columns));
    return moire_bench_row(run->report, cells);
}

/* ---- the command ---- */

/* Every parameter that is not at its default. */
static moire_status describe_config(const struct moire_config *config, struct moire_bench_report *report)
{
    for (int i = 0; i < moire_parameter_count; i++) {
        const struct moire_parameter *parameter = &moire_parameters[i];
        char key[64];
        struct moire_text value = { 0 };
        if (config->origins[i] == MOIRE_FROM_DEFAULT) continue;
        snprintf(key, sizeof key, "%s.%s", parameter->section, parameter->key);
        moire_status status = moire_config_value(config, parameter, &value);
        if (status == MOIRE_OK) status = moire_bench_header(report, key, "%s", value.data ? value.data : "");
        moire_text_free(&value);
        MOIRE_TRY(status);
    }
    return MOIRE_OK;
}

static moire_status describe(const struct moire_bench_run *run, const char *name)
{
    struct moire_bench_report *report = run->report;
    const struct moire_mesh *mesh = &run->mesh;
    char time[24];
    moire_wall_text(time);
    MOIRE_TRY(moire_bench_header(report, "moire bench", "%s", name));
    MOIRE_TRY(moire_bench_header(report, "version", "%s (%s)", PACKAGE_VERSION, MOIRE_REAL_NAME));
    MOIRE_TRY(moire_bench_header(report, "time", "%s", time));
    MOIRE_TRY(moire_bench_header(report, "host", "%s", moire_where.node));
    MOIRE_TRY(moire_bench_header(report, "ranks", "%d on %d node%s, mesh %d x %d (data x expert)",
                                 mesh->world.size, mesh->nodes, moire_cli_plural(mesh->nodes), mesh->groups,
                                 mesh->expert.size));
    MOIRE_TRY(moire_bench_header(report, "threads", "%d a rank", run->threads));
    MOIRE_TRY(moire_bench_header(report, "blas", "%s", moire_blas_description()));
    MOIRE_TRY(moire_bench_header(report, "measured",
                                 "median, 95 %% interval within 3 %%, at most %lld samples and %g s; a "
                                 "sample is the maximum over ranks",
                                 (long long)run->config->bench_samples, run->config->bench_seconds));
    return describe_config(run->config, report);
}

static moire_status open_report(struct moire_bench_run *run, const char *name, const char *format,
                                const char *output)
{
    if (run->mesh.world.rank == 0) MOIRE_TRY(moire_bench_report_create(format, output, &run->report));
    return describe(run, name);
}

static moire_status check_mode(const struct moire_config *config, const struct moire_bench *which)
{
    if (which->emulates || config->compute_mode != MOIRE_COMPUTE_EMULATE) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE,
                      "moire bench %s has nothing to measure where nothing is computed; found compute.mode = "
                      "emulate, expected real; try moire bench step",
                      which->part.name);
}

static moire_status bench(const struct moire_config *config, bool has_file, const struct moire_bench *which,
                          const char *format, const char *output)
{
    struct moire_bench_run run = { .config = config,
                                   .threads = moire_compute_threads(),
                                   .has_file = has_file };
    MOIRE_TRY(moire_mesh_create(config, &run.mesh));
    moire_status status = moire_agree(&run.mesh.world, open_report(&run, which->part.name, format, output));
    if (status == MOIRE_OK) status = which->run(&run);
    if (status == MOIRE_OK) status = moire_agree(&run.mesh.world, moire_bench_report_end(run.report));
    moire_release(run.peak_buffers);
    moire_bench_report_free(run.report);
    if (status == MOIRE_OK || moire_error_is_agreed()) moire_mesh_free(&run.mesh);
    return status;
}

/* The line that a name is missing: all names. */
static moire_status fail_name(void)
{
    struct moire_text names = { 0 };
    moire_status status = MOIRE_OK;
    for (int i = 0; status == MOIRE_OK && i < BENCHES; i++)
        status = moire_text_add(&names, "%s%s",
                                i == 0            ? ""
                                : i + 1 < BENCHES ? ", "
                                                  : " or ",
                                benches[i]->part.name);
    if (status == MOIRE_OK)
        status = moire_fail(MOIRE_USAGE,
                            "moire bench was not told what to measure; found no name, expected %s; try moire "
                            "bench step examples/tiny.ini",
                            names.data);
    moire_text_free(&names);
    return status;
}

static moire_status find(int *argc, char **argv, const struct moire_bench **which)
{
    const char *names[BENCHES];
    int64_t index;
    if (*argc < 1 || argv[0][0] == '-') return fail_name();
    for (int i = 0; i < BENCHES; i++) names[i] = benches[i]->part.name;
    MOIRE_TRY(moire_name_find("benchmark", argv[0], names, BENCHES, &index));
    *which = benches[index];
    --*argc;
    memmove(argv, argv + 1, sizeof *argv * (size_t)*argc);
    return MOIRE_OK;
}

static moire_status run(int argc, char **argv)
{
    struct moire_config config = { 0 };
    const struct moire_bench *which = NULL;
    const char *format = moire_cli_option(&argc, argv, "--format"),
               *output = moire_cli_option(&argc, argv, "--output");
    MOIRE_TRY(moire_cli_agree(find(&argc, argv, &which)));
    const bool has_file = moire_cli_operand(argc, argv) >= 0;
    moire_status status = moire_cli_load_all(argc, argv, !which->file_optional, &config);
    if (status == MOIRE_OK) status = moire_cli_agree(check_mode(&config, which));
    if (status == MOIRE_OK) status = bench(&config, has_file, which, format, output);
    moire_config_free(&config);
    return status;
}

static const struct moire_part *part(int index)
{
    return index < BENCHES ? &benches[index]->part : NULL;
}

const struct moire_command moire_command_bench = {
    .name = "bench",
    .part = part,
    .summary = "measure products, layers, steps, packing, exchanges and checkpoints",
    .details = "Measures one part of a run. Nothing is trained or kept. Lines that begin with #\n"
               "hold every setting. --format=text|csv|json: json has the samples of all ranks\n"
               "too. --output=FILE: written there at the end. A benchmark whose results are\n"
               "wrong fails. Rates are given beside what the machine can do at that moment: the\n"
               "peak is the best 2048^3 product of the same run, type, ranks and threads.",
    .sections = "bench run model moe parallel topology exchange compute train",
    .options = "--format= --output=",
    .mpi = true,
    .run = run,
};
