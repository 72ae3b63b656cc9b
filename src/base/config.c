#include "moire/base/config.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/config_table.h"

/* The table, three times over the same list. */
#define ROW(section, key, type, initial, minimum, maximum, words, unit, help)                           \
    { #section, #key, type, initial, (double)(minimum), (double)(maximum), words, unit, help,           \
      offsetof(struct moire_config, section##_##key) },
#define INTEGER(section, key, initial, minimum, maximum, words, unit, help) \
    ROW(section, key, MOIRE_TYPE_INTEGER, initial, minimum, maximum, words, unit, help)
#define REAL(section, key, initial, minimum, maximum, words, unit, help) \
    ROW(section, key, MOIRE_TYPE_REAL, initial, minimum, maximum, words, unit, help)
#define FLAG(section, key, initial, help) \
    ROW(section, key, MOIRE_TYPE_FLAG, initial, 0, 0, "no|yes", "", help)
#define CHOICE(section, key, initial, choices, help) \
    ROW(section, key, MOIRE_TYPE_CHOICE, initial, 0, 0, choices, "", help)
#define TEXT(section, key, initial, help) ROW(section, key, MOIRE_TYPE_TEXT, initial, 0, 0, "", "", help)
const struct moire_parameter moire_parameters[] = {
#include "moire/base/parameters.def"
};
#undef ROW
#define ROW(section, key, type, initial, minimum, maximum, words, unit, help) #section "." #key,
const char *const moire_parameter_names[] = {
#include "moire/base/parameters.def"
};
const int moire_parameter_count = sizeof moire_parameters / sizeof *moire_parameters;

const struct moire_alias moire_aliases[] = {
    { "-n", "train.steps" }, { "-b", "train.batch" }, { "-o", "run.dir" }, { "-s", "run.seed" },
};
const int moire_alias_count = sizeof moire_aliases / sizeof *moire_aliases;

static const struct { const char *name; double value; } words[] = {
    { "all", MOIRE_ALL }, { "auto", MOIRE_AUTO }, { "none", MOIRE_NONE }, { "never", MOIRE_NEVER },
    { "dropless", MOIRE_DROPLESS },
};

const char *moire_origin_name(moire_origin origin)
{
    static const char *const names[] = { "default", "file", "environment", "command line" };
    return names[origin];
}

int moire_choice_find(const char *choices, const char *text)
{
    size_t length = strlen(text);
    int index = 0;
    for (const char *choice = choices; *choice; index++) {
        size_t letters = strcspn(choice, "|");
        if (letters == length && memcmp(choice, text, length) == 0) return index;
        choice += letters + (choice[letters] == '|');
    }
    return -1;
}

bool moire_choice_name(const char *choices, int index, char *out, size_t bytes)
{
    for (; index > 0 && *choices; index--) {
        choices += strcspn(choices, "|");
        choices += *choices == '|';
    }
    if (!*choices) return false;
    snprintf(out, bytes, "%.*s", (int)strcspn(choices, "|"), choices);
    return true;
}

const char *moire_word_name(const char *known, double value)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].value == value && moire_choice_find(known, words[i].name) >= 0) return words[i].name;
    return NULL;
}

/* The constant of a word that the parameter knows. */
static bool find_word(const struct moire_parameter *parameter, const char *text, double *value)
{
    if (moire_choice_find(parameter->words, text) < 0) return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(words[i].name, text) == 0) {
            *value = words[i].value;
            return true;
        }
    return false;
}

/* snprintf at the end of a text that is `used` long; returns the new length, which stays below `bytes`. */
__attribute__((format(printf, 4, 5)))
static size_t append(char *text, size_t bytes, size_t used, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(text + used, bytes - used, format, arguments);
    va_end(arguments);
    if (added < 0) return used;
    return used + (size_t)added < bytes ? used + (size_t)added : bytes - 1;
}

/* Adds "a|b|c" as "a, b or c". */
static size_t append_choices(char *text, size_t bytes, size_t used, const char *choices)
{
    char name[64], next[64];
    for (int i = 0; moire_choice_name(choices, i, name, sizeof name); i++) {
        bool last = !moire_choice_name(choices, i + 1, next, sizeof next);
        used = append(text, bytes, used, "%s%s", i == 0 ? "" : last ? " or " : ", ", name);
    }
    return used;
}

void moire_parameter_describe(const struct moire_parameter *parameter, char *out, size_t bytes)
{
    size_t used = 0;
    bool integer = parameter->type == MOIRE_TYPE_INTEGER;
    if (parameter->type == MOIRE_TYPE_TEXT) append(out, bytes, 0, "a text");
    if (parameter->type == MOIRE_TYPE_FLAG) append(out, bytes, 0, "yes or no");
    if (parameter->type == MOIRE_TYPE_CHOICE) append_choices(out, bytes, 0, parameter->words);
    if (!integer && parameter->type != MOIRE_TYPE_REAL) return;
    used = append(out, bytes, used, "%s, %.15g ", integer ? "an integer" : "a number", parameter->minimum);
    if (integer && parameter->maximum >= 0x1p63) used = append(out, bytes, used, "or more");
    else used = append(out, bytes, used, "to %.15g", parameter->maximum);
    if (parameter->unit[0]) used = append(out, bytes, used, " (%s)", parameter->unit);
    if (!parameter->words[0]) return;
    used = append(out, bytes, used, ", or ");
    append_choices(out, bytes, used, parameter->words);
}

static moire_status fail_value(const struct moire_parameter *parameter, const char *value, const char *place)
{
    char expected[256];
    moire_parameter_describe(parameter, expected, sizeof expected);
    return moire_fail(MOIRE_USAGE, "bad value of %s.%s%s; found '%s', expected %s", parameter->section,
                      parameter->key, place, value, expected);
}

static moire_status assign_text(char **field, const char *value)
{
    char *copy = NULL;
    MOIRE_TRY(moire_copy_text(value, &copy));
    moire_release(*field);
    *field = copy;
    return MOIRE_OK;
}

moire_status moire_config_assign(struct moire_config *config, int index, const char *value,
                                 moire_origin origin, const char *place)
{
    const struct moire_parameter *parameter = &moire_parameters[index];
    void *field = (char *)config + parameter->field;
    int64_t integer;
    double real;
    int choice;
    switch (parameter->type) {
    case MOIRE_TYPE_INTEGER:
        if (find_word(parameter, value, &real)) integer = (int64_t)real;
        else if (!moire_parse_integer(value, &integer) || (double)integer < parameter->minimum
                 || (double)integer > parameter->maximum) return fail_value(parameter, value, place);
        *(int64_t *)field = integer;
        break;
    case MOIRE_TYPE_REAL:
        if (!find_word(parameter, value, &real)
            && (!moire_parse_real(value, &real)
                || !(real >= parameter->minimum && real <= parameter->maximum)))
            return fail_value(parameter, value, place);
        *(double *)field = real;
        break;
    case MOIRE_TYPE_FLAG:
        choice = moire_choice_find("no|yes", value);
        if (choice < 0) return fail_value(parameter, value, place);
        *(bool *)field = choice == 1;
        break;
    case MOIRE_TYPE_CHOICE:
        choice = moire_choice_find(parameter->words, value);
        if (choice < 0) return fail_value(parameter, value, place);
        *(int *)field = choice;
        break;
    case MOIRE_TYPE_TEXT:
        MOIRE_TRY(assign_text(field, value));
        break;
    }
    config->origins[index] = origin;
    return MOIRE_OK;
}

moire_status moire_config_create(struct moire_config *config)
{
    *config = (struct moire_config){ 0 };
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, moire_parameter_count, sizeof *config->origins,
                             &config->origins));
    for (int i = 0; i < moire_parameter_count; i++)
        MOIRE_TRY(moire_config_assign(config, i, moire_parameters[i].default_text, MOIRE_FROM_DEFAULT,
                                      " (default)"));
    return MOIRE_OK;
}

moire_status moire_config_set(struct moire_config *config, const char *name, const char *value,
                              moire_origin origin)
{
    int index = 0;
    const char *place = origin == MOIRE_FROM_COMMAND ? " on the command line"
                      : origin == MOIRE_FROM_ENVIRONMENT ? " in the environment" : "";
    MOIRE_TRY(moire_config_find(name, place, &index));
    return moire_config_assign(config, index, value, origin, place);
}

void moire_config_free(struct moire_config *config)
{
    for (int i = 0; i < moire_parameter_count; i++)
        if (moire_parameters[i].type == MOIRE_TYPE_TEXT)
            moire_release(*(char **)(void *)((char *)config + moire_parameters[i].field));
    moire_release(config->origins);
    moire_release(config->file);
    *config = (struct moire_config){ 0 };
}

/* Gives `copy`, which has the numbers of `from`, its own texts. */
static moire_status copy_texts(const struct moire_config *from, struct moire_config *copy)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, moire_parameter_count, sizeof *copy->origins,
                             &copy->origins));
    memcpy(copy->origins, from->origins, (size_t)moire_parameter_count * sizeof *copy->origins);
    for (int i = 0; i < moire_parameter_count; i++) {
        size_t field = moire_parameters[i].field;
        if (moire_parameters[i].type != MOIRE_TYPE_TEXT) continue;
        MOIRE_TRY(moire_copy_text(*(char *const *)(const void *)((const char *)from + field),
                                  (char **)(void *)((char *)copy + field)));
    }
    return from->file ? moire_copy_text(from->file, &copy->file) : MOIRE_OK;
}

moire_status moire_config_copy(const struct moire_config *from, struct moire_config *to)
{
    struct moire_config copy = *from;
    copy.origins = NULL;
    copy.file = NULL;
    for (int i = 0; i < moire_parameter_count; i++)
        if (moire_parameters[i].type == MOIRE_TYPE_TEXT)
            *(char **)(void *)((char *)&copy + moire_parameters[i].field) = NULL;
    moire_status status = copy_texts(from, &copy);
    if (status == MOIRE_OK) *to = copy;
    else moire_config_free(&copy);
    return status;
}
