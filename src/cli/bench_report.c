/* What a benchmark says: text for people (OSU-style columns), csv, json. */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "moire/base/file.h"

enum { COLUMNS = 80, INDENT = 4 };

struct moire_bench_report {
    enum moire_bench_format format;
    const char *output; /* borrowed, or NULL */
    struct moire_text text;
    json_t *root, *header, *tables, *samples, *table; /* json; table is borrowed */
    const struct moire_bench_column *columns;
    int column_count;
};

static moire_status json_failed(void)
{
    return moire_fail(MOIRE_NO_MEMORY,
                      "there is no memory for the report in json; found none, expected some; "
                      "try --format=csv");
}

static moire_status create_json(struct moire_bench_report *report)
{
    report->root = json_object();
    report->header = json_object();
    report->tables = json_object();
    report->samples = json_object();
    bool made = report->root && json_object_set_new(report->root, "header", report->header) == 0
                && json_object_set_new(report->root, "tables", report->tables) == 0
                && json_object_set_new(report->root, "samples", report->samples) == 0;
    return made ? MOIRE_OK : json_failed();
}

moire_status moire_bench_report_create(const char *format, const char *output,
                                       struct moire_bench_report **report)
{
    static const char *const names[] = { "text", "csv", "json" };
    int64_t index = MOIRE_BENCH_TEXT;
    struct moire_bench_report *new;
    if (format) MOIRE_TRY(moire_name_find("format of moire bench", format, names, 3, &index));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, 1, sizeof *new, &new));
    new->format = (enum moire_bench_format)index;
    new->output = output;
    moire_status status = new->format == MOIRE_BENCH_JSON ? create_json(new) : MOIRE_OK;
    if (status == MOIRE_OK)
        *report = new;
    else
        moire_bench_report_free(new);
    return status;
}

/* What is there so far goes to standard output at once: a long benchmark is read while it runs. */
static void show(struct moire_bench_report *report)
{
    if (report->output || !report->text.data) return;
    fputs(report->text.data, stdout);
    fflush(stdout);
    moire_text_free(&report->text);
}

/* "# key: value" in lines of at most 80 columns. */
static moire_status add_wrapped(struct moire_text *text, const char *key, const char *value)
{
    int column = (int)strlen(key) + 3;
    MOIRE_TRY(moire_text_add(text, "# %s:", key));
    while (*value) {
        int letters = (int)strcspn(value, " ");
        if (letters > 0 && column + 1 + letters > COLUMNS) {
            MOIRE_TRY(moire_text_add(text, "\n#%*s", INDENT - 1, ""));
            column = INDENT;
        }
        if (letters > 0) MOIRE_TRY(moire_text_add(text, " %.*s", letters, value));
        column += letters > 0 ? letters + 1 : 0;
        value += letters;
        value += *value == ' ';
    }
    return moire_text_add(text, "\n");
}

moire_status moire_bench_header(struct moire_bench_report *report, const char *key, const char *format, ...)
{
    char value[1024];
    va_list arguments;
    if (!report) return MOIRE_OK;
    va_start(arguments, format);
    vsnprintf(value, sizeof value, format, arguments);
    va_end(arguments);
    if (report->format == MOIRE_BENCH_JSON)
        return json_object_set_new(report->header, key, json_string(value)) == 0 ? MOIRE_OK : json_failed();
    return add_wrapped(&report->text, key, value);
}

static moire_status add_names(struct moire_bench_report *report)
{
    bool csv = report->format == MOIRE_BENCH_CSV;
    for (int i = 0; i < report->column_count; i++) {
        const struct moire_bench_column *column = &report->columns[i];
        int width = csv ? 0 : column->width;
        if (csv)
            MOIRE_TRY(moire_text_add(&report->text, "%s%s", i ? "," : "", column->name));
        else if (i == 0) /* the # takes two columns of the first one, which holds words */
            MOIRE_TRY(moire_text_add(&report->text, "# %-*s", width - 2, column->name));
        else if (column->decimals == MOIRE_BENCH_WORDS)
            MOIRE_TRY(moire_text_add(&report->text, " %-*s", width, column->name));
        else
            MOIRE_TRY(moire_text_add(&report->text, " %*s", width, column->name));
    }
    return moire_text_add(&report->text, "\n");
}

moire_status moire_bench_table(struct moire_bench_report *report, const char *name,
                               const struct moire_bench_column *columns, int count)
{
    if (!report) return MOIRE_OK;
    report->columns = columns;
    report->column_count = count;
    if (report->format == MOIRE_BENCH_JSON) {
        report->table = json_object_get(report->tables, name);
        if (report->table) return MOIRE_OK;
        report->table = json_array();
        return json_object_set_new(report->tables, name, report->table) == 0 ? MOIRE_OK : json_failed();
    }
    if (report->format == MOIRE_BENCH_CSV) MOIRE_TRY(moire_text_add(&report->text, "# table: %s\n", name));
    MOIRE_TRY(add_names(report));
    show(report);
    return MOIRE_OK;
}

static moire_status add_cell(struct moire_bench_report *report, int index,
                             const struct moire_bench_cell *cell)
{
    const struct moire_bench_column *column = &report->columns[index];
    const bool csv = report->format == MOIRE_BENCH_CSV;
    const char *between = index == 0 ? "" : csv ? "," : " ";
    const int width = csv ? 0 : column->width;
    if (cell->words) return moire_text_add(&report->text, "%s%-*s", between, width, cell->words);
    if (!isfinite(cell->number))
        return moire_text_add(&report->text, "%s%*s", between, width, csv ? "" : "-");
    if (csv && column->decimals == 0) return moire_text_add(&report->text, "%s%.0f", between, cell->number);
    if (csv) return moire_text_add(&report->text, "%s%.9g", between, cell->number);
    return moire_text_add(&report->text, "%s%*.*f", between, width, column->decimals, cell->number);
}

static moire_status add_object(struct moire_bench_report *report, const struct moire_bench_cell *cells)
{
    json_t *row = json_object();
    bool made = row && json_array_append_new(report->table, row) == 0;
    for (int i = 0; made && i < report->column_count; i++) {
        const bool whole = report->columns[i].decimals == 0;
        json_t *value = cells[i].words               ? json_string(cells[i].words)
                        : !isfinite(cells[i].number) ? json_null()
                        : whole                      ? json_integer((json_int_t)cells[i].number)
                                                     : json_real(cells[i].number);
        made = json_object_set_new(row, report->columns[i].name, value) == 0;
    }
    return made ? MOIRE_OK : json_failed();
}

moire_status moire_bench_row(struct moire_bench_report *report, const struct moire_bench_cell *cells)
{
    if (!report) return MOIRE_OK;
    if (report->format == MOIRE_BENCH_JSON) return add_object(report, cells);
    for (int i = 0; i < report->column_count; i++) MOIRE_TRY(add_cell(report, i, &cells[i]));
    MOIRE_TRY(moire_text_add(&report->text, "\n"));
    show(report);
    return MOIRE_OK;
}

/* [samples, ranks] of a variant. */
static json_t *by_rank(const struct moire_measure *measure, const struct moire_variant *variant)
{
    const int ranks = measure->communicator->size;
    json_t *all = json_array();
    for (int64_t i = 0; all && i < measure->samples; i++) {
        json_t *sample = json_array();
        for (int rank = 0; sample && rank < ranks; rank++)
            json_array_append_new(sample, json_real(variant->by_rank[i * ranks + rank]));
        json_array_append_new(all, sample);
    }
    return all;
}

moire_status moire_bench_samples(struct moire_bench_report *report, const char *name,
                                 const struct moire_measure *measure)
{
    if (!report || report->format != MOIRE_BENCH_JSON) return MOIRE_OK;
    json_t *variants = json_object();
    bool made = json_object_set_new(report->samples, name, variants) == 0;
    for (int i = 0; made && i < measure->count; i++) {
        const struct moire_variant *variant = &measure->variants[i];
        made = json_object_set_new(variants, variant->name, by_rank(measure, variant)) == 0;
    }
    return made ? MOIRE_OK : json_failed();
}

static moire_status write_json(struct moire_bench_report *report)
{
    char *text = json_dumps(report->root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    if (!text) return json_failed();
    moire_status status = moire_text_add(&report->text, "%s\n", text);
    free(text);
    return status;
}

moire_status moire_bench_report_end(struct moire_bench_report *report)
{
    if (!report) return MOIRE_OK;
    if (report->format == MOIRE_BENCH_JSON) MOIRE_TRY(write_json(report));
    if (report->output) return moire_file_write(report->output, report->text.data, report->text.bytes);
    show(report);
    return MOIRE_OK;
}

void moire_bench_report_free(struct moire_bench_report *report)
{
    if (!report) return;
    json_decref(report->root);
    moire_text_free(&report->text);
    moire_release(report);
}
