#include "moire/base/file.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

moire_status moire_text_add(struct moire_text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (added < 0) return moire_fail(MOIRE_FAILED, "a text cannot be formatted; found format '%s'", format);
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &text->data, &text->capacity, text->bytes + added + 1, 1));
    va_start(arguments, format);
    vsnprintf(text->data + text->bytes, (size_t)added + 1, format, arguments);
    va_end(arguments);
    text->bytes += added;
    return MOIRE_OK;
}

void moire_text_free(struct moire_text *text)
{
    moire_release(text->data);
    *text = (struct moire_text){ 0 };
}

/* The factor that a suffix stands for; 0: it is none. */
static int64_t suffix_factor(const char *suffix)
{
    static const struct { const char *suffix; int64_t factor; } factors[] = {
        { "", 1 }, { "k", 1000 }, { "M", 1000000 }, { "G", 1000000000 },
        { "Ki", INT64_C(1) << 10 }, { "Mi", INT64_C(1) << 20 }, { "Gi", INT64_C(1) << 30 },
    };
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++)
        if (strcmp(suffix, factors[i].suffix) == 0) return factors[i].factor;
    return 0;
}

bool moire_parse_integer(const char *text, int64_t *value)
{
    const char *digits = text + (*text == '-' || *text == '+');
    char *end;
    if (*digits < '0' || *digits > '9') return false; /* no blanks, no empty text */
    errno = 0;
    long long number = strtoll(text, &end, 10);
    int64_t factor = suffix_factor(end), product;
    if (errno != 0 || factor == 0 || __builtin_mul_overflow((int64_t)number, factor, &product)) return false;
    *value = product;
    return true;
}

bool moire_parse_real(const char *text, double *value)
{
    const char *digits = text + (*text == '-' || *text == '+');
    char *end;
    if (!(*digits >= '0' && *digits <= '9') && *digits != '.') return false;
    if (strpbrk(text, "xX")) return false; /* decimal only */
    double number = strtod(text, &end);
    if (end == text || *end || !isfinite(number)) return false;
    *value = number;
    return true;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

enum { NAME_LIMIT = 96 }; /* longer names are compared by their beginnings */

/* Edits that make one name of the other: insert, delete, replace a letter, swap neighbours. Case counts. */
static int64_t edit_distance(const char *a, const char *b)
{
    int64_t rows[3][NAME_LIMIT + 1];
    int64_t a_letters = (int64_t)strnlen(a, NAME_LIMIT), b_letters = (int64_t)strnlen(b, NAME_LIMIT);
    int64_t *before = rows[0], *above = rows[1], *row = rows[2];
    for (int64_t j = 0; j <= b_letters; j++) above[j] = before[j] = j;
    for (int64_t i = 1; i <= a_letters; i++) {
        row[0] = i;
        for (int64_t j = 1; j <= b_letters; j++) {
            row[j] = smaller(smaller(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = smaller(row[j], before[j - 2] + 1);
        }
        int64_t *last = before;
        before = above;
        above = row;
        row = last;
    }
    return above[b_letters];
}

/* The only name that begins with `name`, or NULL. */
static const char *only_completion(const char *name, const char *const *names, int64_t count)
{
    size_t letters = strlen(name);
    const char *found = NULL;
    if (letters < 3) return NULL;
    for (int64_t i = 0; i < count; i++) {
        if (strncmp(names[i], name, letters) != 0) continue;
        if (found) return NULL;
        found = names[i];
    }
    return found;
}

const char *moire_nearest_name(const char *name, const char *const *names, int64_t count)
{
    const char *nearest = NULL;
    /* A third of the letters may be wrong. */
    int64_t least = ((int64_t)strnlen(name, NAME_LIMIT) + 2) / 3 + 1;
    for (int64_t i = 0; i < count; i++) {
        int64_t distance = edit_distance(name, names[i]);
        if (distance < least) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest ? nearest : only_completion(name, names, count);
}

moire_status moire_name_find(const char *kind, const char *name, const char *const *names, int64_t count,
                             int64_t *index)
{
    for (int64_t i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) {
            *index = i;
            return MOIRE_OK;
        }
    struct moire_text known = { 0 };
    moire_status status = MOIRE_OK;
    for (int64_t i = 0; i < count && status == MOIRE_OK; i++)
        status = moire_text_add(&known, "%s%s", i ? ", " : "", names[i]);
    const char *nearest = moire_nearest_name(name, names, count);
    if (status == MOIRE_OK)
        status = moire_fail(MOIRE_USAGE, "unknown %s '%s';%s%s%s known: %s", kind, name,
                            nearest ? " did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "",
                            known.data ? known.data : "none");
    moire_text_free(&known);
    return status;
}
