/* What the benchmarks share: a report, the loop with the peak beside it. Private to cli. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "moire/base/config.h"
#include "moire/base/real.h"
#include "moire/cluster/mesh.h"
#include "moire/observe/measure.h"

/* ---- bench_report.c: header, tables and raw samples, as text, csv or json ---- */

enum moire_bench_format { MOIRE_BENCH_TEXT, MOIRE_BENCH_CSV, MOIRE_BENCH_JSON };
enum { MOIRE_BENCH_WORDS = -1 }; /* as `decimals`: a column of words */

struct moire_bench_column {
    const char *name;
    int width, decimals; /* of the text format; words stand to the left, numbers to the right */
};
struct moire_bench_cell {
    const char *words; /* NULL: the number */
    double number;     /* NaN: not known, "-" */
};

struct moire_bench_report; /* on rank 0; NULL elsewhere, where the calls do nothing */

/* MOIRE_USAGE for an unknown format. `output` NULL: standard output. Not collective, as all of these. */
moire_status moire_bench_report_create(const char *format, const char *output,
                                       struct moire_bench_report **report);
/* One line "# key: value" of the header. */
moire_status moire_bench_header(struct moire_bench_report *report, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The columns are borrowed until the next table. */
moire_status moire_bench_table(struct moire_bench_report *report, const char *name,
                               const struct moire_bench_column *columns, int count);
moire_status moire_bench_row(struct moire_bench_report *report, const struct moire_bench_cell *cells);
/* Samples of every variant by rank: json only. */
moire_status moire_bench_samples(struct moire_bench_report *report, const char *name,
                                 const struct moire_measure *measure);
/* Writes what was not written yet. */
moire_status moire_bench_report_end(struct moire_bench_report *report);
void moire_bench_report_free(struct moire_bench_report *report);

/* ---- bench.c ---- */

struct moire_bench_run {
    const struct moire_config *config;
    struct moire_mesh mesh;
    struct moire_bench_report *report; /* rank 0 */
    int threads;
    real *peak_buffers; /* owned: the three matrices of the peak */
};

/* A benchmark: one file, one line in the table of bench.c. Collective over the world. */
struct moire_bench {
    const char *name;
    bool emulates; /* also with compute.mode = emulate */
    moire_status (*run)(struct moire_bench_run *run);
};
extern const struct moire_bench moire_bench_gemm, moire_bench_layer, moire_bench_step;

/* A measurement of `count` variants with the limits of [bench]. One more place must be free behind them: the
 * peak comes there, the product of 2048 x 2048 x 2048 of the same type and threads, on all ranks at once.
 * Collective; free with moire_measure_free, also after a failure. */
moire_status moire_bench_measure(struct moire_bench_run *run, struct moire_variant *variants, int count,
                                 double sample_seconds, struct moire_measure *measure);
/* FLOP/s of all ranks together at the best peak sample of a measurement. */
double moire_bench_peak(const struct moire_bench_run *run, const struct moire_measure *measure);
/* Header lines and raw samples of a measurement. */
moire_status moire_bench_describe(struct moire_bench_run *run, const char *name,
                                  const struct moire_measure *measure);
/* The table of phases since the last reset, seconds by call of the measured variant. Collective. */
moire_status moire_bench_phases(struct moire_bench_run *run, const struct moire_measure *measure);
/* For struct moire_measure: forgets the phases of the warm-up. */
void moire_bench_forget_phases(void *unused);

/* A result: one line of the table that layer and step share. Seconds of `variant`, with rates for `flops`,
 * `tokens` and `bytes` of one call, all ranks together. */
moire_status moire_bench_result(struct moire_bench_run *run, const struct moire_measure *measure, int variant,
                                double flops, double tokens, double bytes);

#endif
