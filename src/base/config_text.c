/* Writing a configuration: as an INI text that reads back to the same values, and as help for people. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_table.h"

/* inih reads lines of 198 bytes where it is built with its defaults, as in Debian. A longer value goes on in
 * quotes in the lines below. */
enum { PLAIN_BYTES = 120, PART_BYTES = 96, PART_LIMIT = 120, COLUMNS = 80 };

/* Whether a text can stand without quotes: nothing in it that inih or our quotes give a meaning. */
static bool is_plain(const char *text)
{
    size_t bytes = strlen(text);
    if (bytes == 0) return true;
    if (bytes > PLAIN_BYTES || text[0] == '"' || text[0] == ' ' || text[bytes - 1] == ' ') return false;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c < ' ' || *c == 0x7f || *c == ';') return false;
    return true;
}

/* Adds one character as it stands between quotes. */
static moire_status add_escaped(struct moire_text *text, unsigned char character)
{
    switch (character) {
    case '"': case '\\': case ';': return moire_text_add(text, "\\%c", character);
    case '\n': return moire_text_add(text, "\\n");
    case '\r': return moire_text_add(text, "\\r");
    case '\t': return moire_text_add(text, "\\t");
    default: return moire_text_add(text, character < ' ' || character == 0x7f ? "\\x%02x" : "%c", character);
    }
}

static moire_status add_quoted(const char *value, struct moire_text *text)
{
    MOIRE_TRY(moire_text_add(text, "\""));
    int64_t start = text->bytes;
    for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
        bool inside_letter = (*c & 0xC0) == 0x80; /* of UTF-8 */
        int64_t part = text->bytes - start;
        if (part >= PART_LIMIT || (part >= PART_BYTES && !inside_letter)) {
            MOIRE_TRY(moire_text_add(text, "\"\n    \""));
            start = text->bytes;
        }
        MOIRE_TRY(add_escaped(text, *c));
    }
    return moire_text_add(text, "\"");
}

/* The fewest digits, from 15 on, that read back to the same number. */
static moire_status add_real(double value, struct moire_text *text)
{
    char digits[64];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    return moire_text_add(text, "%s", digits);
}

moire_status moire_config_value(const struct moire_config *config, const struct moire_parameter *parameter,
                                struct moire_text *text)
{
    const void *field = (const char *)config + parameter->field;
    const char *word, *value;
    char name[64];
    switch (parameter->type) {
    case MOIRE_TYPE_INTEGER:
        word = moire_word_name(parameter->words, (double)*(const int64_t *)field);
        return word ? moire_text_add(text, "%s", word)
                    : moire_text_add(text, "%" PRId64, *(const int64_t *)field);
    case MOIRE_TYPE_REAL:
        word = moire_word_name(parameter->words, *(const double *)field);
        return word ? moire_text_add(text, "%s", word) : add_real(*(const double *)field, text);
    case MOIRE_TYPE_FLAG:
        return moire_text_add(text, "%s", *(const bool *)field ? "yes" : "no");
    case MOIRE_TYPE_CHOICE:
        if (!moire_choice_name(parameter->words, *(const int *)field, name, sizeof name)) break;
        return moire_text_add(text, "%s", name);
    case MOIRE_TYPE_TEXT:
        value = *(char *const *)field;
        return is_plain(value) ? moire_text_add(text, "%s", value) : add_quoted(value, text);
    }
    return moire_fail(MOIRE_FAILED, "%s.%s has no text; found a choice that is not in its list",
                      parameter->section, parameter->key);
}

static moire_status add_line(const struct moire_config *config, int index, bool origins,
                             struct moire_text *text)
{
    const struct moire_parameter *parameter = &moire_parameters[index];
    MOIRE_TRY(moire_text_add(text, "%s =", parameter->key));
    int64_t end = text->bytes;
    MOIRE_TRY(moire_text_add(text, " "));
    MOIRE_TRY(moire_config_value(config, parameter, text));
    if (text->bytes == end + 1) text->bytes = end; /* an empty value leaves no blank at the end */
    if (origins) MOIRE_TRY(moire_text_add(text, " ; %s", moire_origin_name(config->origins[index])));
    return moire_text_add(text, "\n");
}

static bool starts_section(int index)
{
    return index == 0 || strcmp(moire_parameters[index].section, moire_parameters[index - 1].section) != 0;
}

moire_status moire_config_text(const struct moire_config *config, bool origins, struct moire_text *text)
{
    for (int i = 0; i < moire_parameter_count; i++) {
        if (starts_section(i))
            MOIRE_TRY(moire_text_add(text, "%s[%s]\n", i ? "\n" : "", moire_parameters[i].section));
        MOIRE_TRY(add_line(config, i, origins, text));
    }
    return MOIRE_OK;
}

/* Adds `words` in lines of at most 80 columns, each after `indent` blanks. */
static moire_status add_wrapped(const char *words, int indent, struct moire_text *text)
{
    int column = 0;
    while (*words) {
        int letters = (int)strcspn(words, " ");
        if (column > 0 && column + 1 + letters > COLUMNS) {
            MOIRE_TRY(moire_text_add(text, "\n"));
            column = 0;
        }
        if (column == 0) {
            MOIRE_TRY(moire_text_add(text, "%*s", indent, ""));
            column = indent;
        } else {
            MOIRE_TRY(moire_text_add(text, " "));
            column++;
        }
        MOIRE_TRY(moire_text_add(text, "%.*s", letters, words));
        column += letters;
        words += letters;
        words += *words == ' ';
    }
    return moire_text_add(text, "\n");
}

static moire_status add_help(int index, struct moire_text *text)
{
    const struct moire_parameter *parameter = &moire_parameters[index];
    char range[256], line[512];
    MOIRE_TRY(moire_text_add(text, "  --%s", moire_parameter_names[index]));
    for (int i = 0; i < moire_alias_count; i++)
        if (strcmp(moire_aliases[i].name, moire_parameter_names[index]) == 0)
            MOIRE_TRY(moire_text_add(text, ", %s", moire_aliases[i].option));
    MOIRE_TRY(moire_text_add(text, "\n"));
    moire_parameter_describe(parameter, range, sizeof range);
    MOIRE_TRY(add_wrapped(parameter->help, 6, text));
    snprintf(line, sizeof line, "%s; default: %s", range,
             parameter->default_text[0] ? parameter->default_text : "empty");
    return add_wrapped(line, 6, text);
}

moire_status moire_config_help(const char *section, struct moire_text *text)
{
    const char *sections[256] = { NULL };
    int64_t count = 0, index = 0;
    for (int i = 0; i < moire_parameter_count; i++)
        if (starts_section(i)) sections[count++] = moire_parameters[i].section;
    if (section) MOIRE_TRY(moire_name_find("section", section, sections, count, &index));
    bool first = true;
    for (int i = 0; i < moire_parameter_count; i++) {
        if (section && strcmp(moire_parameters[i].section, section) != 0) continue;
        if (starts_section(i))
            MOIRE_TRY(moire_text_add(text, "%s[%s]\n", first ? "" : "\n", moire_parameters[i].section));
        MOIRE_TRY(add_help(i, text));
        first = false;
    }
    return MOIRE_OK;
}
