/* What the sources of the configuration share. A `place` says in messages where a value came from: " in
 * tiny.ini line 3", " on the command line", or "". */
#ifndef MOIRE_BASE_CONFIG_TABLE_H
#define MOIRE_BASE_CONFIG_TABLE_H

#include "moire/base/config.h"

extern const char *const moire_parameter_names[]; /* "section.key", [moire_parameter_count] */

/* Index of the parameter "section.key"; else MOIRE_USAGE with the nearest name. */
moire_status moire_config_find(const char *name, const char *place, int *index);
moire_status moire_config_assign(struct moire_config *config, int index, const char *value,
                                 moire_origin origin, const char *place);
/* Index of `text` in "a|b|c", or -1. */
int moire_choice_find(const char *choices, const char *text);
/* Copies choice `index` of "a|b|c" to `out`; false: there are not so many. */
bool moire_choice_name(const char *choices, int index, char *out, size_t bytes);
/* The word ("auto") that a negative constant stands for among the words of a parameter, or NULL. */
const char *moire_word_name(const char *words, double value);
/* "an integer, 1 to 100 (layers), or auto" */
void moire_parameter_describe(const struct moire_parameter *parameter, char *out, size_t bytes);

#endif
