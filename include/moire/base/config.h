/* The configuration: every parameter of parameters.def with its effective value and its origin.
 * Precedence: command line, environment (MOIRE_SECTION_KEY), file, default. Not collective: every rank reads
 * the same file and arguments; train compares a checksum of moire_config_text over the ranks. */
#ifndef MOIRE_BASE_CONFIG_H
#define MOIRE_BASE_CONFIG_H

#include "moire/base/file.h"

/* Special values of INTEGER and REAL fields (as a double where the field is REAL). */
enum moire_word { MOIRE_ALL = -1, MOIRE_AUTO = -2, MOIRE_NONE = -3, MOIRE_NEVER = -4, MOIRE_DROPLESS = -5 };

/* Indices of CHOICE fields, in the order of their choices in parameters.def. */
enum { MOIRE_NORM_RMS, MOIRE_NORM_LAYER };
enum { MOIRE_POSITION_ROTARY, MOIRE_POSITION_LEARNED };
enum { MOIRE_SWIGLU, MOIRE_GELU };
enum { MOIRE_RECOMPUTE_NONE, MOIRE_RECOMPUTE_FFN, MOIRE_RECOMPUTE_LAYER };
enum { MOIRE_COMPUTE_REAL, MOIRE_COMPUTE_EMULATE };
enum { MOIRE_TRAFFIC_SIZES, MOIRE_TRAFFIC_MODEL };
enum { MOIRE_DOMAIN_FILE, MOIRE_DOMAIN_KIND };
enum { MOIRE_PROGRESS_AUTO, MOIRE_PROGRESS_YES, MOIRE_PROGRESS_NO };

typedef enum { MOIRE_FROM_DEFAULT, MOIRE_FROM_FILE, MOIRE_FROM_ENVIRONMENT, MOIRE_FROM_COMMAND } moire_origin;
const char *moire_origin_name(moire_origin origin);

typedef enum {
    MOIRE_TYPE_INTEGER,
    MOIRE_TYPE_REAL,
    MOIRE_TYPE_FLAG,
    MOIRE_TYPE_CHOICE,
    MOIRE_TYPE_TEXT
} moire_parameter_type;

/* One row of the table. */
struct moire_parameter {
    const char *section, *key;
    moire_parameter_type type;
    const char *default_text;
    double minimum, maximum; /* INTEGER and REAL */
    const char *words;       /* INTEGER and REAL: "auto|none"; CHOICE: the choices */
    const char *unit, *help;
    size_t field; /* offset in struct moire_config */
};
extern const struct moire_parameter moire_parameters[];
extern const int moire_parameter_count;

#define INTEGER(section, key, initial, minimum, maximum, words, unit, help) int64_t section##_##key;
#define REAL(section, key, initial, minimum, maximum, words, unit, help) double section##_##key;
#define FLAG(section, key, initial, help) bool section##_##key;
#define CHOICE(section, key, initial, choices, help) int section##_##key;
#define TEXT(section, key, initial, help) char *section##_##key;
struct moire_config {
#include "moire/base/parameters.def"
    moire_origin *origins; /* owned, [moire_parameter_count] */
    char *file;            /* owned; path of the INI file, or NULL */
};
#undef INTEGER
#undef REAL
#undef FLAG
#undef CHOICE
#undef TEXT

/* Defaults alone. Free with moire_config_free also after a failure of the functions below. */
moire_status moire_config_create(struct moire_config *config);
/* Everything: defaults (it calls moire_config_create itself), then `file` (NULL: none), the environment, and
 * `arguments` ("--section.key=value" or "--section.key", "value"; aliases such as "-n 100"; see
 * moire_aliases). Of an argument that stands twice the last one counts. An argument that is no parameter is
 * an error that names the nearest key; so is a variable MOIRE_SECTION_X of a known section. Overrides by the
 * environment are logged. */
moire_status moire_config_load(struct moire_config *config, const char *file, int argument_count,
                               char **arguments);
/* The last two of these, environment and arguments, on top of a configuration that is there (of a
 * checkpoint). */
moire_status moire_config_override(struct moire_config *config, int argument_count, char **arguments);
/* One key, by "section.key". */
moire_status moire_config_set(struct moire_config *config, const char *name, const char *value,
                              moire_origin origin);
/* An INI file has [section], key = value and comments; ; starts a comment at the start of a line or after a
 * blank, # at the start of a line only. A key may stand once. Indentation means nothing, and lines have at
 * most 198 bytes (a constant of inih).
 *
 * A text that starts with a quote ends with the closing one; inside, \" \\ \; \n \r \t \xHH stand for " \ ;
 * and for characters that cannot be seen (; must be written so). It goes on with quoted parts in indented
 * lines below:
 *
 *     path = "src/first,"
 *            "src/second"
 *
 * Other texts stand as they are, without the blanks around them. Values of the environment and of the command
 * line are never unquoted. So any text without zero bytes is read back as it was. */

/* The value of one parameter as it would stand in a file (texts with quotes where they need them), added to
 * *text. */
moire_status moire_config_value(const struct moire_config *config, const struct moire_parameter *parameter,
                                struct moire_text *text);
/* The whole configuration as an INI file; with origins each line ends in "; default|file|environment|command
 * line". */
moire_status moire_config_text(const struct moire_config *config, bool origins, struct moire_text *text);
/* Reads such an INI text (of a checkpoint) into a configuration with defaults; `name` is for messages. */
moire_status moire_config_parse(struct moire_config *config, const char *name, const char *ini,
                                moire_origin origin);
moire_status moire_config_copy(const struct moire_config *from, struct moire_config *to);
void moire_config_free(struct moire_config *config);
/* The table for people: every parameter of `section` (NULL: all) with type, range, default, unit and help, 80
 * columns. */
moire_status moire_config_help(const char *section, struct moire_text *text);

/* Short options: an alias stands for a parameter. */
struct moire_alias {
    const char *option; /* "-n" */
    const char *name;   /* "train.steps" */
};
extern const struct moire_alias moire_aliases[];
extern const int moire_alias_count;

/* Which layers have experts, from moe.layers: is_moe[layers]. MOIRE_USAGE with the bad part named. */
moire_status moire_config_moe_layers(const struct moire_config *config, bool *is_moe);

#endif
