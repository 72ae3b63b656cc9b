/* Reading a configuration: INI texts through inih, the environment, the command line. */
#include <ctype.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_table.h"
#include "moire/base/log.h"

extern char **environ;

enum { PLACE_BYTES = 512 };

/* An INI text on its way through inih, which asks for lines and gives back keys and values. A value may go on
 * in the lines below it, so it is assigned when the next key or the end is seen. */
struct ini {
    struct moire_config *config;
    const char *name;          /* for messages */
    moire_origin origin;
    const char *next;          /* first byte not yet read */
    int line;                  /* read last, counted from 1 */
    bool continued;            /* that line goes on with the value of the one before */
    int *lines;                /* [moire_parameter_count] line of each key seen, else 0 */
    int index;                 /* parameter whose value is being collected, or -1 */
    bool quoted;               /* its value */
    struct moire_text value;
    moire_status status;       /* first failure */
};

static void place_of_line(const struct ini *ini, int line, char *place)
{
    snprintf(place, PLACE_BYTES, " in %.*s line %d", PLACE_BYTES - 32, ini->name, line);
}

/* fgets for inih. Indentation means nothing, unless a quote follows it: then the line goes on with the value
 * before. inih would cut lines in two that are longer than its buffer, so they are found here. */
static char *read_line(char *out, int capacity, void *stream)
{
    struct ini *ini = stream;
    const char *text = ini->next;
    if (ini->status != MOIRE_OK || !*text) return NULL;
    size_t length = strcspn(text, "\n"), blanks = strspn(text, " \t\r\v\f");
    ini->next += length + (text[length] == '\n');
    ini->line++;
    ini->continued = blanks > 0 && text[blanks] == '"';
    if (!ini->continued) {
        text += blanks;
        length = blanks < length ? length - blanks : 0;
    }
    if (*text == ';' || *text == '#') length = 0; /* comments may be of any length */
    if (length + 2 > (size_t)capacity) {
        ini->status = moire_fail(MOIRE_USAGE,
                                 "%s line %d is too long; found %zu bytes, expected %d at most; try a value "
                                 "in quotes that goes on, in quotes again, in indented lines below",
                                 ini->name, ini->line, length, capacity - 2);
        return NULL;
    }
    memcpy(out, text, length);
    memcpy(out + length, "\n", 2);
    return out;
}

/* One character of a quoted text; moves *text behind it. False: no escape that we know. */
static bool read_quoted_character(const char **text, char *character)
{
    static const char escapes[] = "\\\"nrt;", meanings[] = "\\\"\n\r\t;";
    const char *c = *text;
    if (*c != '\\') {
        *character = *c;
        *text = c + 1;
        return true;
    }
    if (c[1] == 'x' && isxdigit((unsigned char)c[2]) && isxdigit((unsigned char)c[3])) {
        const char digits[] = { c[2], c[3], 0 };
        *character = (char)strtol(digits, NULL, 16);
        *text = c + 4;
        return *character != 0;
    }
    const char *escape = c[1] ? strchr(escapes, c[1]) : NULL;
    if (!escape) return false;
    *character = meanings[escape - escapes];
    *text = c + 2;
    return true;
}

static moire_status fail_quotes(const struct ini *ini, const char *cause)
{
    return moire_fail(MOIRE_USAGE,
                      "bad quotes in %s line %d; found %s, expected \"text\" in which \\\" \\\\ \\; \\n \\r "
                      "\\t \\xHH stand for \" \\ ; and characters that cannot be seen",
                      ini->name, ini->line, cause);
}

/* Adds what stands between the quotes of `text` to the value; only blanks or a comment may follow. */
static moire_status add_quoted(struct ini *ini, const char *text)
{
    for (text++; *text != '"'; ) {
        char character;
        if (!*text) return fail_quotes(ini, "no closing quote");
        if (!read_quoted_character(&text, &character)) return fail_quotes(ini, "an unknown escape");
        MOIRE_TRY(moire_text_add(&ini->value, "%c", character));
    }
    text++;
    text += strspn(text, " \t");
    return *text && *text != ';' ? fail_quotes(ini, "text after the closing quote") : MOIRE_OK;
}

static moire_status add_part(struct ini *ini, const char *text)
{
    if (*text == '"') return add_quoted(ini, text);
    return moire_text_add(&ini->value, "%s", text);
}

/* Assigns the collected value, if any. */
static moire_status finish_value(struct ini *ini)
{
    char place[PLACE_BYTES];
    if (ini->index < 0) return MOIRE_OK;
    place_of_line(ini, ini->lines[ini->index], place);
    int index = ini->index;
    ini->index = -1;
    return moire_config_assign(ini->config, index, ini->value.data, ini->origin, place);
}

static moire_status start_value(struct ini *ini, const char *section, const char *key, const char *value)
{
    char place[PLACE_BYTES], name[256];
    int index = 0;
    place_of_line(ini, ini->line, place);
    snprintf(name, sizeof name, "%s%s%s", section, *section ? "." : "", key);
    MOIRE_TRY(moire_config_find(name, place, &index));
    if (ini->lines[index])
        return moire_fail(MOIRE_USAGE,
                          "%s stands twice in %s; found lines %d and %d, expected one; try to delete one",
                          name, ini->name, ini->lines[index], ini->line);
    ini->lines[index] = ini->line;
    ini->index = index;
    ini->quoted = *value == '"';
    ini->value.bytes = 0;
    MOIRE_TRY(moire_text_add(&ini->value, "%s", "")); /* data is a text also where the value is empty */
    return add_part(ini, value);
}

/* Called by inih for each key, and again for each line that goes on with its value. 0 is an error. */
static int take_key(void *user, const char *section, const char *key, const char *value)
{
    struct ini *ini = user;
    if (ini->status != MOIRE_OK) return 0;
    if (!ini->continued) {
        ini->status = finish_value(ini);
        if (ini->status == MOIRE_OK) ini->status = start_value(ini, section, key, value);
    } else if (ini->index < 0 || !ini->quoted) {
        ini->status = moire_fail(MOIRE_USAGE,
                                 "%s line %d goes on with nothing; found an indented quote, expected a key, "
                                 "or a value in quotes above it", ini->name, ini->line);
    } else {
        ini->status = add_part(ini, value);
    }
    return ini->status == MOIRE_OK;
}

static int accept_key(void *user, const char *section, const char *key, const char *value)
{
    (void)user, (void)section, (void)key, (void)value;
    return 1;
}

/* Passes the text through inih with one of the two functions above. */
static moire_status read_ini(struct ini *ini, const char *text, ini_handler handler)
{
    ini->next = text;
    ini->line = 0;
    int result = ini_parse_stream(read_line, ini, handler, ini);
    if (ini->status != MOIRE_OK) return ini->status;
    if (result > 0)
        return moire_fail(MOIRE_USAGE, "%s line %d cannot be read; expected [section], key = value or "
                          "; comment", ini->name, result);
    if (result < 0) return moire_fail(MOIRE_NO_MEMORY, "%s cannot be read; out of memory in inih", ini->name);
    return MOIRE_OK;
}

moire_status moire_config_parse(struct moire_config *config, const char *name, const char *text,
                                moire_origin origin)
{
    struct ini ini = { .config = config, .name = name, .origin = origin, .index = -1 };
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, moire_parameter_count, sizeof *ini.lines, &ini.lines));
    /* inih goes on after a line that it cannot read, and a broken [section] would look like unknown keys: so
     * the form is checked first. */
    moire_status status = read_ini(&ini, text, accept_key);
    if (status == MOIRE_OK) status = read_ini(&ini, text, take_key);
    if (status == MOIRE_OK) status = finish_value(&ini);
    moire_text_free(&ini.value);
    moire_release(ini.lines);
    return status;
}

static moire_status load_file(struct moire_config *config, const char *file)
{
    char *text = NULL;
    int64_t bytes = 0;
    moire_status status = moire_file_read(file, &text, &bytes);
    if (status == MOIRE_NO_FILE) return MOIRE_USAGE; /* a wrong name on the command line */
    if (status != MOIRE_OK) return status;
    if ((int64_t)strlen(text) < bytes)
        status = moire_fail(MOIRE_USAGE, "%s is no text; found a zero byte, expected an INI file", file);
    if (status == MOIRE_OK) status = moire_config_parse(config, file, text, MOIRE_FROM_FILE);
    if (status == MOIRE_OK) status = moire_copy_text(file, &config->file);
    moire_release(text);
    return status;
}

/* MOIRE_TRAIN_STEPS for train.steps */
static void environment_name(const char *name, char *out, size_t bytes)
{
    snprintf(out, bytes, "MOIRE_%s", name);
    for (char *c = out; *c; c++) *c = *c == '.' ? '_' : (char)toupper((unsigned char)*c);
}

/* Whether MOIRE_X_Y names no parameter although X is a section. Then `name` gets x.y. */
static bool environment_is_mistaken(const char *variable, size_t letters, char *name, size_t bytes)
{
    bool known_section = false;
    char known[256];
    for (int i = 0; i < moire_parameter_count; i++) {
        environment_name(moire_parameter_names[i], known, sizeof known);
        if (strlen(known) == letters && memcmp(known, variable, letters) == 0) return false;
        size_t section = strlen("MOIRE_") + strlen(moire_parameters[i].section) + 1;
        if (letters >= section && memcmp(known, variable, section) == 0) known_section = true;
    }
    if (!known_section) return false;
    snprintf(name, bytes, "%.*s", (int)(letters - strlen("MOIRE_")), variable + strlen("MOIRE_"));
    for (char *c = name; *c; c++) *c = (char)tolower((unsigned char)*c);
    *strchr(name, '_') = '.';
    return true;
}

static moire_status load_environment(struct moire_config *config)
{
    char place[PLACE_BYTES], name[256];
    for (char **entry = environ; entry && *entry; entry++) {
        size_t letters = strcspn(*entry, "=");
        if (strncmp(*entry, "MOIRE_", 6) != 0 || strncmp(*entry, "MOIRE_TEST_", 11) == 0
            || letters >= sizeof name)
            continue;
        if (!environment_is_mistaken(*entry, letters, name, sizeof name)) continue;
        int index;
        snprintf(place, sizeof place, " in the environment (%.*s)", (int)letters, *entry);
        return moire_config_find(name, place, &index);
    }
    for (int i = 0; i < moire_parameter_count; i++) {
        environment_name(moire_parameter_names[i], name, sizeof name);
        const char *value = getenv(name);
        if (!value) continue;
        snprintf(place, sizeof place, " in the environment (%s)", name);
        MOIRE_TRY(moire_config_assign(config, i, value, MOIRE_FROM_ENVIRONMENT, place));
    }
    return MOIRE_OK;
}

static moire_status log_environment(const struct moire_config *config)
{
    struct moire_text value = { 0 };
    moire_status status = MOIRE_OK;
    char name[256];
    for (int i = 0; i < moire_parameter_count && status == MOIRE_OK; i++) {
        if (config->origins[i] != MOIRE_FROM_ENVIRONMENT) continue;
        environment_name(moire_parameter_names[i], name, sizeof name);
        value.bytes = 0;
        status = moire_config_value(config, &moire_parameters[i], &value);
        if (status == MOIRE_OK)
            moire_log("%s = %s comes from the environment (%s)", moire_parameter_names[i], value.data, name);
    }
    moire_text_free(&value);
    return status;
}

/* The parameter that an argument names: an alias, or --section.key with or without =value. */
static moire_status find_option(const char *argument, int *index)
{
    char name[256];
    for (int i = 0; i < moire_alias_count; i++)
        if (strcmp(moire_aliases[i].option, argument) == 0)
            return moire_config_find(moire_aliases[i].name, " on the command line", index);
    if (strncmp(argument, "--", 2) == 0 && argument[2]) {
        size_t letters = strcspn(argument + 2, "=");
        snprintf(name, sizeof name, "%.*s", letters < sizeof name ? (int)letters : (int)sizeof name - 1,
                 argument + 2);
        return moire_config_find(name, " on the command line", index);
    }
    if (argument[0] != '-' || !argument[1])
        return moire_fail(MOIRE_USAGE, "unexpected argument '%s'; expected --section.key=value", argument);
    char known[256] = "";
    size_t used = 0;
    for (int i = 0; i < moire_alias_count && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s (%s)", i ? ", " : "",
                                 moire_aliases[i].option, moire_aliases[i].name);
    return moire_fail(MOIRE_USAGE, "unknown option '%s'; expected --section.key=value or one of %s", argument,
                      known);
}

static moire_status load_arguments(struct moire_config *config, int argument_count, char **arguments)
{
    for (int i = 0; i < argument_count; i++) {
        int index = 0;
        const char *argument = arguments[i];
        const char *equals = strncmp(argument, "--", 2) == 0 ? strchr(argument, '=') : NULL;
        MOIRE_TRY(find_option(argument, &index));
        if (!equals && (i + 1 == argument_count || strncmp(arguments[i + 1], "--", 2) == 0))
            return moire_fail(MOIRE_USAGE, "%s has no value; expected --%s=value", argument,
                              moire_parameter_names[index]);
        const char *value = equals ? equals + 1 : arguments[++i];
        MOIRE_TRY(moire_config_assign(config, index, value, MOIRE_FROM_COMMAND, " on the command line"));
    }
    return MOIRE_OK;
}

moire_status moire_config_override(struct moire_config *config, int argument_count, char **arguments)
{
    MOIRE_TRY(load_environment(config));
    MOIRE_TRY(load_arguments(config, argument_count, arguments));
    return log_environment(config);
}

moire_status moire_config_load(struct moire_config *config, const char *file, int argument_count,
                               char **arguments)
{
    MOIRE_TRY(moire_config_create(config));
    if (file) MOIRE_TRY(load_file(config, file));
    return moire_config_override(config, argument_count, arguments);
}
