/* Finding a parameter by name, and what may have been meant where there is none; layers of moe.layers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/config_table.h"

/* Sections in the order of the table; returns how many. */
static int list_sections(const char **sections)
{
    int count = 0;
    for (int i = 0; i < moire_parameter_count; i++)
        if (i == 0 || strcmp(moire_parameters[i].section, moire_parameters[i - 1].section) != 0)
            sections[count++] = moire_parameters[i].section;
    return count;
}

/* The key of `section` that is nearest to `key`, by its full name; or NULL. */
static const char *nearest_of_section(const char *section, const char *key)
{
    const char *keys[256] = { NULL };
    int count = 0, first = 0;
    while (first < moire_parameter_count && strcmp(moire_parameters[first].section, section) != 0) first++;
    for (int i = first; i < moire_parameter_count && strcmp(moire_parameters[i].section, section) == 0; i++)
        keys[count++] = moire_parameters[i].key;
    const char *nearest = moire_nearest_name(key, keys, count);
    for (int i = 0; i < count; i++)
        if (keys[i] == nearest) return moire_parameter_names[first + i];
    return NULL;
}

/* What may have been meant by section.key, or NULL. A key of the section that is spelled alike comes before
 * one that stands in another section, that before one that is spelled alike there. */
static const char *guess(const char *section, const char *key)
{
    const char *sections[256] = { NULL };
    char name[256];
    int count = list_sections(sections);
    const char *nearest = section[0] ? moire_nearest_name(section, sections, count) : NULL;
    snprintf(name, sizeof name, "%s%s%s", nearest ? nearest : section, section[0] ? "." : "", key);
    for (int i = 0; i < moire_parameter_count; i++)
        if (strcmp(moire_parameter_names[i], name) == 0) return moire_parameter_names[i];
    const char *alike = nearest_of_section(nearest ? nearest : section, key);
    if (alike) return alike;
    for (int i = 0; i < moire_parameter_count; i++)
        if (strcmp(moire_parameters[i].key, key) == 0) return moire_parameter_names[i];
    return moire_nearest_name(name, moire_parameter_names, moire_parameter_count);
}

/* Nothing is near: the sections, or the keys of the section. */
static moire_status fail_far(const char *name, const char *section, const char *place)
{
    struct moire_text known = { 0 };
    moire_status status = MOIRE_OK;
    bool of_section = false;
    for (int i = 0; i < moire_parameter_count && status == MOIRE_OK; i++) {
        if (strcmp(moire_parameters[i].section, section) != 0) continue;
        status = moire_text_add(&known, "%s%s", of_section ? ", " : "", moire_parameters[i].key);
        of_section = true;
    }
    const char *sections[256] = { NULL };
    int count = list_sections(sections);
    for (int i = 0; i < count && !of_section && status == MOIRE_OK; i++)
        status = moire_text_add(&known, "%s%s", i ? ", " : "", sections[i]);
    if (status == MOIRE_OK && of_section)
        status =
            moire_fail(MOIRE_USAGE, "unknown key %s%s; keys of %s: %s", name, place, section, known.data);
    else if (status == MOIRE_OK)
        status =
            moire_fail(MOIRE_USAGE, "unknown section in the key %s%s; sections: %s", name, place, known.data);
    moire_text_free(&known);
    return status;
}

moire_status moire_config_find(const char *name, const char *place, int *index)
{
    for (int i = 0; i < moire_parameter_count; i++)
        if (strcmp(moire_parameter_names[i], name) == 0) {
            *index = i;
            return MOIRE_OK;
        }
    char section[128];
    size_t letters = strcspn(name, ".");
    if (!name[letters]) letters = 0;
    snprintf(section, sizeof section, "%.*s",
             letters < sizeof section ? (int)letters : (int)sizeof section - 1, name);
    const char *key = letters ? name + letters + 1 : name + (*name == '.');
    const char *meant = guess(section, key);
    if (meant) return moire_fail(MOIRE_USAGE, "unknown key %s%s; did you mean %s?", name, place, meant);
    return fail_far(name, section, place);
}

static moire_status fail_layers(const char *layers, const char *cause, int64_t last)
{
    return moire_fail(MOIRE_USAGE,
                      "bad value of moe.layers; found '%s': %s, expected all, none, every:N, or a list of "
                      "layers from 0 to %" PRId64 " such as 0,2-3",
                      layers, cause, last);
}

/* A number without sign or suffix; moves *text behind it. */
static bool read_number(const char **text, int64_t *number)
{
    int64_t value = 0;
    if (**text < '0' || **text > '9') return false;
    for (; **text >= '0' && **text <= '9'; ++*text)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, **text - '0', &value))
            return false;
    *number = value;
    return true;
}

static moire_status read_layer_list(const char *layers, int64_t count, bool *is_moe)
{
    char cause[128];
    for (const char *part = layers;; part++) {
        int64_t first, last;
        const char *start = part += strspn(part, " ");
        size_t part_letters = strcspn(start, ",");
        bool good = read_number(&part, &first);
        last = first;
        if (good && *part == '-') {
            part++;
            good = read_number(&part, &last);
        }
        part += strspn(part, " ");
        snprintf(cause, sizeof cause, "'%.*s' is no layer or range",
                 part_letters < 60 ? (int)part_letters : 60, start);
        if (!good || (*part && *part != ',')) return fail_layers(layers, cause, count - 1);
        snprintf(cause, sizeof cause, "%" PRId64 "-%" PRId64 " is a range that runs backwards", first, last);
        if (first > last) return fail_layers(layers, cause, count - 1);
        snprintf(cause, sizeof cause, "there is no layer %" PRId64 " in model.layers = %" PRId64, last,
                 count);
        if (last >= count) return fail_layers(layers, cause, count - 1);
        for (int64_t i = first; i <= last; i++) is_moe[i] = true;
        if (!*part) return MOIRE_OK;
    }
}

moire_status moire_config_moe_layers(const struct moire_config *config, bool *is_moe)
{
    const char *layers = config->moe_layers;
    int64_t count = config->model_layers, every = 0;
    bool all = strcmp(layers, "all") == 0, none = strcmp(layers, "none") == 0;
    for (int64_t i = 0; i < count; i++) is_moe[i] = all;
    if (all || none) return MOIRE_OK;
    if (strncmp(layers, "every:", 6) != 0) return read_layer_list(layers, count, is_moe);
    const char *number = layers + 6;
    if (!read_number(&number, &every) || *number || every < 1)
        return fail_layers(layers, "N is no number of 1 or more", count - 1);
    if (every > count)
        return fail_layers(layers, "N is more than model.layers, which leaves no layer with experts",
                           count - 1);
    for (int64_t i = every - 1; i < count; i += every) is_moe[i] = true;
    return MOIRE_OK;
}
