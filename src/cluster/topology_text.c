/* Topology texts: "leaf:2 node:4 rank:8". The grammar is in moire/cluster/topology.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cluster/topology_parts.h"

enum { MOST_RANKS = 16777216 }; /* as parallel.expert */

/* Level by level, for each group outside it in order, how many groups are in it. Branches are read one after
 * the other, so that each level's list grows in the order of ranks. */
struct depth {
    int name;
    int64_t parents, capacity;
    int *count; /* owned, [parents] */
    int64_t groups;
};
struct reader {
    struct moire_script script;
    int depths;
    struct depth depth[MOIRE_TOPOLOGY_NAMES];
};

/* ---- one level ---- */

/* "socket, numa, core, rank": what may stand inside level `outside`. */
static const char *list_names(int outside, char *text, size_t bytes)
{
    size_t used = 0;
    for (int name = outside + 1; name < MOIRE_TOPOLOGY_NAMES; name++)
        used +=
            (size_t)snprintf(text + used, bytes - used, "%s%s", used ? ", " : "", moire_level_names[name]);
    return text;
}

static moire_status fail_unknown(const struct reader *reader, int outside)
{
    char word[32], names[128], nearest_text[64] = "";
    const char *at = reader->script.at;
    snprintf(word, sizeof word, "%.*s", moire_script_word(at), at);
    const char *nearest = moire_nearest_name(word, moire_level_names, MOIRE_TOPOLOGY_NAMES);
    if (nearest) snprintf(nearest_text, sizeof nearest_text, "; did you mean '%s'?", nearest);
    return moire_script_fail(&reader->script, at, word[0] ? "unknown level" : "a level is missing",
                             "one of %s%s%s", list_names(outside, names, sizeof names), nearest_text,
                             word[0] ? "" : "; try rank:1 as the last level");
}

/* The name of a level and its colon. */
static moire_status read_name(struct reader *reader, int depth)
{
    struct moire_script *script = &reader->script;
    const char *at = script->at;
    char names[128];
    int letters = moire_script_word(at), name = 0, outside = depth ? reader->depth[depth - 1].name : -1;
    while (name < MOIRE_TOPOLOGY_NAMES && ((int)strlen(moire_level_names[name]) != letters ||
                                           strncmp(at, moire_level_names[name], (size_t)letters) != 0))
        name++;
    if (name == MOIRE_TOPOLOGY_NAMES) return fail_unknown(reader, outside);
    if (name <= outside)
        return moire_script_fail(script, at, "levels are not in order",
                                 "one of %s inside of %s; try the outer level first",
                                 list_names(outside, names, sizeof names), moire_level_names[outside]);
    if (depth < reader->depths && reader->depth[depth].name != name)
        return moire_script_fail(
            script, at, "branches have different levels", "'%s' as in the first branch; try %s:1 there",
            moire_level_names[reader->depth[depth].name], moire_level_names[reader->depth[depth].name]);
    if (name == MOIRE_TOPOLOGY_RANK && outside < MOIRE_TOPOLOGY_NODE)
        return moire_script_fail(script, at, "there is no node level",
                                 "node outside of rank; try node:1 rank:...");
    if (at[letters] != ':')
        return moire_script_fail(script, at + letters, "a level has no number", "':' and a number; try %s:2",
                                 moire_level_names[name]);
    script->at += letters + 1;
    reader->depth[depth].name = name;
    if (depth == reader->depths) reader->depths++;
    return MOIRE_OK;
}

static moire_status read_number(struct reader *reader, int *number)
{
    const char *at = reader->script.at;
    int64_t value = 0;
    int letters = 0;
    for (; isdigit((unsigned char)at[letters]); letters++)
        if (value <= MOST_RANKS) value = value * 10 + at[letters] - '0';
    if (letters == 0 || value < 1 || value > MOST_RANKS || letters != moire_script_word(at))
        return moire_script_fail(&reader->script, at, "not a number of groups", "1 to %d; try :1",
                                 MOST_RANKS);
    reader->script.at += letters;
    *number = (int)value;
    return MOIRE_OK;
}

/* `times` more groups outside this level, with `count` in each. */
static moire_status add_counts(struct reader *reader, int depth, const char *at, int count, int64_t times)
{
    struct depth *level = &reader->depth[depth];
    level->groups += count * times;
    if (level->groups > MOST_RANKS)
        return moire_script_fail(&reader->script, at, "too large", "at most %d of %s in all", MOST_RANKS,
                                 moire_level_names[level->name]);
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &level->count, &level->capacity, level->parents + times,
                         sizeof *level->count));
    for (int64_t i = 0; i < times; i++) level->count[level->parents++] = count;
    return MOIRE_OK;
}

/* Whether the comma here is one between numbers, which it is then behind. */
static bool pass_comma(struct moire_script *script)
{
    struct moire_script after = *script;
    if (*after.at != ',') return false;
    after.at++;
    moire_script_skip(&after, true);
    if (!isdigit((unsigned char)*after.at)) return false;
    *script = after;
    return true;
}

/* One number for all parents, or one for each. */
static moire_status read_counts(struct reader *reader, int depth, int64_t parents)
{
    const struct depth *level = &reader->depth[depth];
    const char *at;
    int64_t numbers = 0;
    int number = 0;
    do {
        at = reader->script.at;
        MOIRE_TRY(read_number(reader, &number));
        if (numbers++ == parents)
            return moire_script_fail(&reader->script, at, "too many numbers",
                                     parents > 1 ? "one number for all or %lld, one for each %s; try fewer"
                                                 : "%lld number, for the %s; try the sum or fewer",
                                     (long long)parents, depth ? moire_level_names[level[-1].name] : "world");
        MOIRE_TRY(add_counts(reader, depth, at, number, 1));
    } while (pass_comma(&reader->script));
    if (numbers == 1) return add_counts(reader, depth, at, number, parents - 1);
    if (numbers < parents)
        return moire_script_fail(&reader->script, at, "too few numbers",
                                 "%lld more, one for each %s, or a single one for all",
                                 (long long)(parents - numbers), moire_level_names[level[-1].name]);
    return MOIRE_OK;
}

/* ---- all levels ---- */

static moire_status read_levels(struct reader *reader, int depth, int64_t parents);

static moire_status read_branches(struct reader *reader, int depth, int64_t groups)
{
    struct moire_script *script = &reader->script;
    const char *name = moire_level_names[reader->depth[depth].name];
    int64_t branches = 0;
    do {
        script->at++; /* the parenthesis or a comma */
        moire_script_skip(script, true);
        if (branches++ == groups)
            return moire_script_fail(script, script->at, "too many branches",
                                     "%lld branches, one for each %s", (long long)groups, name);
        MOIRE_TRY(read_levels(reader, depth + 1, 1));
        moire_script_skip(script, true);
    } while (*script->at == ',');
    if (*script->at != ')')
        return moire_script_fail(script, script->at, "a branch does not end", "',' or ')'");
    if (branches < groups)
        return moire_script_fail(script, script->at, "too few branches",
                                 "%lld more, one for each %s; try no parentheses where all are alike",
                                 (long long)(groups - branches), name);
    script->at++;
    return MOIRE_OK;
}

static moire_status read_levels(struct reader *reader, int depth, int64_t parents)
{
    MOIRE_TRY(read_name(reader, depth));
    int64_t before = reader->depth[depth].groups;
    MOIRE_TRY(read_counts(reader, depth, parents));
    if (reader->depth[depth].name == MOIRE_TOPOLOGY_RANK) return MOIRE_OK;
    moire_script_skip(&reader->script, true);
    int64_t groups = reader->depth[depth].groups - before;
    if (*reader->script.at == '(') return read_branches(reader, depth, groups);
    return read_levels(reader, depth + 1, groups);
}

static moire_status read_text(struct reader *reader)
{
    struct moire_script *script = &reader->script;
    moire_script_skip(script, true);
    MOIRE_TRY(read_levels(reader, 0, 1));
    moire_script_skip(script, true);
    if (*script->at == '\0') return MOIRE_OK;
    return moire_script_fail(script, script->at, "something follows the ranks",
                             "the end; rank is the last level");
}

/* ---- groups of ranks ---- */

/* The groups that hold the groups `inner` (NULL: the ranks) of the level inside them, in order. */
static void fill_level(const struct depth *inside, const int *inner, int ranks,
                       struct moire_topology_level *level, int *outer_of)
{
    int next = 0;
    level->groups = (int)inside->parents;
    for (int group = 0; group < level->groups; group++)
        for (int i = 0; i < inside->count[group]; i++) outer_of[next++] = group;
    for (int rank = 0; rank < ranks; rank++) level->group_of[rank] = outer_of[inner ? inner[rank] : rank];
}

static moire_status make(const struct reader *reader, struct moire_topology *topology)
{
    int names[MOIRE_TOPOLOGY_NAMES], levels = reader->depths - 1, *outer_of = NULL;
    int ranks = (int)reader->depth[levels].groups; /* at most MOST_RANKS */
    for (int depth = 0; depth < levels; depth++) names[depth] = reader->depth[depth].name;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *outer_of, &outer_of));
    moire_status status = moire_topology_allocate(ranks, levels, names, topology);
    for (int depth = levels - 1; status == MOIRE_OK && depth >= 0; depth--)
        fill_level(&reader->depth[depth + 1], depth + 1 < levels ? topology->level[depth + 1].group_of : NULL,
                   ranks, &topology->level[depth], outer_of);
    moire_release(outer_of);
    if (status != MOIRE_OK) return status;
    topology->pretended = true;
    snprintf(topology->source, sizeof topology->source, "a text");
    return MOIRE_OK;
}

static moire_status parse(const char *path, const char *text, struct moire_topology *topology)
{
    struct reader reader = { .script = { .path = path, .text = text, .at = text } };
    moire_status status = read_text(&reader);
    if (status == MOIRE_OK) status = make(&reader, topology);
    for (int depth = 0; depth < reader.depths; depth++) moire_release(reader.depth[depth].count);
    return status;
}

moire_status moire_topology_parse(const char *text, struct moire_topology *topology)
{
    return parse(NULL, text, topology);
}

moire_status moire_topology_from(const char *path, const char *text, struct moire_topology *topology)
{
    struct moire_hosts *hosts;
    if (!path || !moire_hosts_is_list(text)) return parse(path, text, topology);
    MOIRE_TRY(moire_hosts_read(path, text, &hosts));
    moire_status status = moire_hosts_topology(hosts, topology);
    moire_hosts_free(hosts);
    return status;
}

moire_status moire_topology_read(const char *path, struct moire_topology *topology)
{
    char *text;
    int64_t bytes;
    MOIRE_TRY(moire_file_read(path, &text, &bytes));
    moire_status status = moire_topology_from(path, text, topology);
    moire_release(text);
    return status;
}

const char *moire_topology_path(const char *source)
{
    static const char prefix[] = "file:";
    return strncmp(source, prefix, sizeof prefix - 1) == 0 ? source + sizeof prefix - 1 : NULL;
}

moire_status moire_topology_check_source(const char *source)
{
    if (strchr(source, ':')) return MOIRE_OK;
    return moire_fail(
        MOIRE_USAGE,
        "not a source of a topology; found '%s', expected levels with numbers, file:PATH or, in a "
        "job, auto; try 'node:2 rank:4'",
        source);
}

moire_status moire_topology_load(const char *source, struct moire_topology *topology)
{
    const char *path = moire_topology_path(source);
    MOIRE_TRY(moire_topology_check_source(source));
    return path ? moire_topology_read(path, topology) : moire_topology_parse(source, topology);
}
