/* What the benchmarks share: a report, the loop with the peak beside it. Private to cli. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "moire/base/config.h"
#include "moire/base/real.h"
#include "moire/cli/cli.h"
#include "moire/observe/measure.h"
#include "moire/observe/phases.h"

/* ---- bench_report.c: header, tables and raw samples, as text, csv or json ---- */

enum moire_bench_format { MOIRE_BENCH_TEXT, MOIRE_BENCH_CSV, MOIRE_BENCH_JSON };
enum { MOIRE_BENCH_WORDS = -1 }; /* as `decimals`: a column of words */

struct moire_bench_column {
    const char *name;
    int width, decimals; /* of the text format; words stand to the left, numbers to the right; 0 decimals: whole
                          * numbers, written with all their digits by csv and json too */
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
    bool has_file;      /* a configuration was given, not parameters alone */
    real *peak_buffers; /* owned: the three matrices of the peak; made where one is measured */
};

/* A benchmark: one file, one line in the table of bench.c; usage, help, messages and completion follow.
 * Collective over the world. */
struct moire_bench {
    struct moire_part part;
    bool emulates;      /* also with compute.mode = emulate */
    bool file_optional; /* also without FILE.ini */
    moire_status (*run)(struct moire_bench_run *run);
};
extern const struct moire_bench moire_bench_gemm, moire_bench_layer, moire_bench_step, moire_bench_pack,
    moire_bench_checkpoint;

/* The configuration with tokens that need no file, and nothing recorded. Not collective; the caller frees *own
 * with moire_config_free. */
moire_status moire_bench_training_config(const struct moire_config *config, struct moire_config *own);
extern const struct moire_bench moire_bench_exchange;

/* A measurement of `count` variants with the limits of [bench]. Collective; free with moire_measure_free,
 * also after a failure. */
moire_status moire_bench_measure(struct moire_bench_run *run, struct moire_variant *variants, int count,
                                 double sample_seconds, struct moire_measure *measure);
/* The same with the peak in turn with them, for which one more place must be free behind them: the product of
 * 2048 x 2048 x 2048 of the same type and threads, on all ranks at once. */
moire_status moire_bench_measure_peak(struct moire_bench_run *run, struct moire_variant *variants, int count,
                                      double sample_seconds, struct moire_measure *measure);
/* FLOP/s of all ranks together at the best peak sample of a measurement that has one. */
double moire_bench_peak(const struct moire_bench_run *run, const struct moire_measure *measure);
/* Header lines and raw samples of a measurement, with or without a peak. */
moire_status moire_bench_describe(struct moire_bench_run *run, const char *name,
                                  const struct moire_measure *measure);
/* A result: one line of the table that layer and step share. Seconds of `variant`, with rates for `flops`,
 * `tokens` and `bytes` of one call, all ranks together. */
moire_status moire_bench_result(struct moire_bench_run *run, const struct moire_measure *measure, int variant,
                                double flops, double tokens, double bytes);

/* ---- bench_phases.c: where the time goes, and what is done in it ---- */

/* Work of one call in a phase, on all ranks together, by the direction that it stands in; what is nested in a
 * phase counts in it too. 0: not known, or none. */
enum moire_bench_direction {
    MOIRE_BENCH_FORWARD, MOIRE_BENCH_BACKWARD, MOIRE_BENCH_NEITHER,
    MOIRE_BENCH_DIRECTIONS
};
struct moire_bench_work {
    double flops[MOIRE_BENCH_DIRECTIONS][MOIRE_PHASES];
    double bytes[MOIRE_BENCH_DIRECTIONS][MOIRE_PHASES];
};
/* The table of phases since the last reset: seconds by call of the measured variant, and rates where the work
 * is known. Collective. */
moire_status moire_bench_phases(struct moire_bench_run *run, const struct moire_measure *measure,
                                const struct moire_bench_work *work);
/* For struct moire_measure: forgets the phases of the warm-up. */
void moire_bench_forget_phases(void *unused);

#endif
