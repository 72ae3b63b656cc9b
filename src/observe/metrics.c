#include "moire/observe/metrics.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "moire/base/file.h"

struct moire_metrics {
    char *path;             /* owned */
    int descriptor;
    int64_t bytes;          /* of whole lines; a line that failed half way is overwritten by the next */
    json_t *object;         /* owned; the line being made, or NULL */
    bool lost;              /* a field found no memory */
    struct moire_text line; /* kept between lines for its capacity */
};

/* One line of an old file. */
struct line {
    const char *text;
    int64_t bytes;          /* without the newline */
    int64_t number;
    bool is_last;
};

/* *keep: whether the line belongs to the run up to `step`. Lines without a step stay. */
static moire_status judge_line(const char *path, const struct line *line, int64_t step, bool *keep)
{
    json_error_t error;
    json_t *object = json_loadb(line->text, (size_t)line->bytes, 0, &error);
    if (!json_is_object(object)) {
        const char *cause = object ? "not an object" : error.text;
        moire_status status = MOIRE_OK;
        if (!line->is_last)
            status = moire_fail(MOIRE_BAD_DATA,
                                "%s: line %lld is damaged; found %s, expected one JSON object; remove the "
                                "line, or give the run another directory", path, (long long)line->number,
                                cause);
        json_decref(object);
        *keep = false;
        return status;
    }
    json_t *found = json_object_get(object, "step");
    *keep = !json_is_integer(found) || json_integer_value(found) <= step;
    json_decref(object);
    return MOIRE_OK;
}

/* Moves the lines to keep to the start of `data`, each with its newline; there is room for one more byte. */
static moire_status keep_lines(const char *path, char *data, int64_t bytes, int64_t step, int64_t *kept_bytes)
{
    struct line line = { .number = 1 };
    int64_t kept = 0;
    for (int64_t begin = 0; begin < bytes; begin += line.bytes + 1, line.number++) {
        const char *newline = memchr(data + begin, '\n', (size_t)(bytes - begin));
        bool keep = false;
        line.text = data + begin;
        line.bytes = newline ? newline - line.text : bytes - begin;
        line.is_last = begin + line.bytes + 1 >= bytes;
        MOIRE_TRY(judge_line(path, &line, step, &keep));
        if (!keep) continue;
        memmove(data + kept, line.text, (size_t)line.bytes);
        kept += line.bytes;
        data[kept++] = '\n';
    }
    *kept_bytes = kept;
    return MOIRE_OK;
}

/* Leaves in the file what a run that goes on after `step` appends to; *bytes is its length. */
static moire_status trim(const char *path, int64_t step, int64_t *bytes)
{
    char *data;
    int64_t old_bytes, kept = 0;
    if (!moire_file_exists(path)) {
        *bytes = 0;
        return MOIRE_OK;
    }
    MOIRE_TRY(moire_file_read(path, &data, &old_bytes));
    moire_status status = keep_lines(path, data, old_bytes, step, &kept);
    if (status == MOIRE_OK && kept != old_bytes) status = moire_file_write(path, data, kept);
    moire_release(data);
    if (status == MOIRE_OK) *bytes = kept;
    return status;
}

moire_status moire_metrics_open(const char *path, int64_t step, struct moire_metrics **metrics)
{
    struct moire_metrics *new;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, 1, sizeof *new, &new));
    new->descriptor = -1;
    moire_status status = moire_copy_text(path, &new->path);
    if (status != MOIRE_OK) goto close_metrics;
    status = trim(path, step, &new->bytes);
    if (status != MOIRE_OK) goto close_metrics;
    status = moire_file_open(path, O_WRONLY | O_CREAT | O_CLOEXEC, &new->descriptor);
    if (status != MOIRE_OK) goto close_metrics;
    *metrics = new;
    return MOIRE_OK;

close_metrics:
    moire_metrics_close(new);
    return status;
}

void moire_metrics_begin(struct moire_metrics *metrics)
{
    if (!metrics) return;
    json_decref(metrics->object);
    metrics->object = json_object();
    metrics->lost = !metrics->object;
}

/* Takes over `value`, which is NULL where there was no memory. */
static void set(struct moire_metrics *metrics, const char *name, json_t *value)
{
    moire_assert(metrics->object || metrics->lost);
    if (json_object_set_new(metrics->object, name, value) != 0) metrics->lost = true;
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null(); /* JSON knows neither infinity nor NaN */
}

void moire_metrics_integer(struct moire_metrics *metrics, const char *name, int64_t value)
{
    if (metrics) set(metrics, name, json_integer(value));
}

void moire_metrics_real(struct moire_metrics *metrics, const char *name, double value)
{
    if (metrics) set(metrics, name, number(value));
}

void moire_metrics_reals(struct moire_metrics *metrics, const char *name, const double *values, int64_t count)
{
    if (!metrics) return;
    json_t *array = json_array();
    for (int64_t i = 0; i < count; i++)
        if (json_array_append_new(array, number(values[i])) != 0) metrics->lost = true;
    set(metrics, name, array);
}

void moire_metrics_flag(struct moire_metrics *metrics, const char *name, bool value)
{
    if (metrics) set(metrics, name, json_boolean(value));
}

void moire_metrics_text(struct moire_metrics *metrics, const char *name, const char *value)
{
    if (!metrics) return;
    json_t *text = json_string(value);
    set(metrics, name, text ? text : json_string("(not UTF-8)"));
}

/* The object as one line in metrics->line. */
static moire_status write_line(struct moire_metrics *metrics)
{
    /* 17 digits: a loss that is read back has the same bits. */
    const size_t flags = JSON_COMPACT | JSON_REAL_PRECISION(17);
    char *text = metrics->lost ? NULL : json_dumps(metrics->object, flags);
    if (!text) return moire_fail(MOIRE_NO_MEMORY, "%s: a line found no memory", metrics->path);
    metrics->line.bytes = 0;
    moire_status status = moire_text_add(&metrics->line, "%s\n", text);
    free(text);
    return status;
}

moire_status moire_metrics_end(struct moire_metrics *metrics)
{
    if (!metrics) return MOIRE_OK;
    moire_status status = write_line(metrics);
    json_decref(metrics->object);
    metrics->object = NULL;
    metrics->lost = false;
    MOIRE_TRY(status);
    MOIRE_TRY(moire_file_pwrite(metrics->descriptor, metrics->path, metrics->line.data, metrics->line.bytes,
                                metrics->bytes));
    metrics->bytes += metrics->line.bytes;
    return MOIRE_OK;
}

void moire_metrics_close(struct moire_metrics *metrics)
{
    if (!metrics) return;
    json_decref(metrics->object);
    if (metrics->descriptor >= 0) close(metrics->descriptor);
    moire_text_free(&metrics->line);
    moire_release(metrics->path);
    moire_release(metrics);
}
