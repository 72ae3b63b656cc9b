/* Host lists: "leaf0: node[1-4]" in lines. The format is in moire/cluster/topology.h. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/topology_parts.h"

enum { NAME_BYTES = 256, MOST_HOSTS = 1 << 20, MOST_RANKS_EACH = 1 << 16 };

struct child {
    char *name;     /* owned */
    const char *at; /* in the text */
    int place;      /* in the order of the file */
    int parent;     /* its switch */
    bool is_switch; /* else it is a node */
};
struct hub {
    const char *at; /* its name, which ends at a colon or a blank */
    int letters;
    int parent; /* the switch above it, or -1 */
};
struct moire_hosts {
    struct moire_script script;
    struct child *child; /* owned: by name, once all are read */
    int64_t children, child_capacity;
    struct hub *hub; /* owned */
    int64_t hubs, hub_capacity;
    int *in_order; /* owned: index into `child` by place, [children] */
    int ranks_each;
};

bool moire_hosts_is_list(const char *text)
{
    struct moire_script script = { .text = text, .at = text };
    for (moire_script_skip(&script, true); *script.at; moire_script_skip(&script, true)) {
        if (*script.at++ != ':') continue;
        moire_script_skip(&script, false);
        if (!isdigit((unsigned char)*script.at)) return true;
    }
    return false;
}

/* ---- names ---- */

static moire_status add_child(struct moire_hosts *hosts, const char *at, const char *name)
{
    if (hosts->children == MOST_HOSTS)
        return moire_script_fail(&hosts->script, at, "too many names", "at most %d", MOST_HOSTS);
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &hosts->child, &hosts->child_capacity, hosts->children + 1,
                         sizeof *hosts->child));
    struct child *child = &hosts->child[hosts->children];
    MOIRE_TRY(moire_copy_text(name, &child->name));
    child->at = at;
    child->place = (int)hosts->children;
    child->parent = (int)hosts->hubs - 1;
    hosts->children++;
    return MOIRE_OK;
}

static moire_status fail_name(const struct moire_hosts *hosts, const char *at)
{
    return moire_script_fail(&hosts->script, at, "not a list of names",
                             "names such as node7 or node[1-4,7] of up to %d letters", NAME_BYTES - 1);
}

static moire_status expand(struct moire_hosts *hosts, char *name, size_t used, const char *at,
                           const char *rest, const char *end);

/* "1-4" or "01": numbers as wide as the first of them is written. */
static moire_status expand_range(struct moire_hosts *hosts, char *name, size_t used, const char *at,
                                 const char **range, const char *rest, const char *end)
{
    char *after;
    if (!isdigit((unsigned char)**range)) return fail_name(hosts, *range);
    long first = strtol(*range, &after, 10), last = first;
    int width = (int)(after - *range);
    if (*after == '-') {
        if (!isdigit((unsigned char)after[1])) return fail_name(hosts, after + 1);
        last = strtol(after + 1, &after, 10);
    }
    if (last < first || last - first >= MOST_HOSTS) return fail_name(hosts, *range);
    *range = after;
    for (long number = first; number <= last; number++) {
        int letters = snprintf(name + used, NAME_BYTES - used, "%0*ld", width, number);
        if (used + (size_t)letters >= NAME_BYTES) return fail_name(hosts, at);
        MOIRE_TRY(expand(hosts, name, used + (size_t)letters, at, rest, end));
    }
    return MOIRE_OK;
}

/* Adds the names of the rest [rest, end) behind the `used` letters in `name`. */
static moire_status expand(struct moire_hosts *hosts, char *name, size_t used, const char *at,
                           const char *rest, const char *end)
{
    while (rest < end && *rest != '[') {
        if (used + 1 >= NAME_BYTES || moire_script_word(rest) == 0) return fail_name(hosts, rest);
        name[used++] = *rest++;
    }
    if (rest == end) {
        name[used] = '\0';
        return used ? add_child(hosts, at, name) : fail_name(hosts, at);
    }
    const char *close = memchr(rest, ']', (size_t)(end - rest));
    if (!close) return fail_name(hosts, rest);
    do {
        rest++; /* the bracket or a comma */
        MOIRE_TRY(expand_range(hosts, name, used, at, &rest, close + 1, end));
    } while (*rest == ',');
    return rest == close ? MOIRE_OK : fail_name(hosts, rest);
}

/* "node[1-4], login1": blanks and commas separate. */
static moire_status read_children(struct moire_hosts *hosts)
{
    struct moire_script *script = &hosts->script;
    char name[NAME_BYTES];
    for (moire_script_skip(script, false); *script->at && *script->at != '\n';
         moire_script_skip(script, false)) {
        const char *at = script->at, *end = at;
        while (moire_script_word(end) > 0 || *end == '[') {
            if (*end == '[') end += strcspn(end, "]\n");
            end += *end && *end != '\n';
        }
        MOIRE_TRY(expand(hosts, name, 0, at, at, end));
        script->at = end;
        moire_script_skip(script, false);
        if (*script->at == ',') script->at++;
    }
    return MOIRE_OK;
}

/* ---- lines ---- */

static moire_status read_ranks(struct moire_hosts *hosts)
{
    struct moire_script *script = &hosts->script;
    char *after;
    long number = strtol(script->at, &after, 10);
    if (!isdigit((unsigned char)*script->at) || number < 1 || number > MOST_RANKS_EACH)
        return moire_script_fail(script, script->at, "not a number of ranks", "1 to %d ranks of a node",
                                 MOST_RANKS_EACH);
    hosts->ranks_each = (int)number;
    script->at = after;
    moire_script_skip(script, false);
    if (*script->at == '\0' || *script->at == '\n') return MOIRE_OK;
    return moire_script_fail(script, script->at, "something follows the number of ranks",
                             "the end of the line");
}

static moire_status read_line(struct moire_hosts *hosts)
{
    struct moire_script *script = &hosts->script;
    const char *at = script->at, *rank = moire_level_names[MOIRE_TOPOLOGY_RANK];
    int letters = moire_script_word(at);
    script->at += letters;
    moire_script_skip(script, false);
    if (letters == 0 || *script->at != ':')
        return moire_script_fail(script, letters ? script->at : at, "a line has no switch",
                                 "SWITCH: NAMES, or %s: COUNT", rank);
    script->at++;
    moire_script_skip(script, false);
    if (letters == (int)strlen(rank) && strncmp(at, rank, (size_t)letters) == 0) return read_ranks(hosts);
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &hosts->hub, &hosts->hub_capacity, hosts->hubs + 1,
                         sizeof *hosts->hub));
    hosts->hub[hosts->hubs++] = (struct hub) { .at = at, .letters = letters, .parent = -1 };
    return read_children(hosts);
}

/* ---- the tree ---- */

static int by_name(const void *a, const void *b)
{
    const struct child *one = a, *other = b;
    int order = strcmp(one->name, other->name);
    return order ? order : (one->place > other->place) - (one->place < other->place);
}

static struct child *find_child(const struct moire_hosts *hosts, const char *name, size_t letters)
{
    int64_t low = 0, high = hosts->children;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const char *other = hosts->child[middle].name;
        int order = strncmp(other, name, letters);
        if (order == 0 && other[letters] == '\0') return &hosts->child[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* A name stands below one switch, and a switch has one line. */
static moire_status check_names(struct moire_hosts *hosts)
{
    for (int64_t i = 1; i < hosts->children; i++)
        if (strcmp(hosts->child[i - 1].name, hosts->child[i].name) == 0)
            return moire_script_fail(&hosts->script, hosts->child[i].at, "a name stands twice",
                                     "%s below one switch only", hosts->child[i].name);
    for (int64_t i = 0; i < hosts->hubs; i++)
        for (int64_t other = 0; other < i; other++) {
            const struct hub *one = &hosts->hub[other], *two = &hosts->hub[i];
            if (one->letters == two->letters && strncmp(one->at, two->at, (size_t)one->letters) == 0)
                return moire_script_fail(&hosts->script, two->at, "a switch has two lines",
                                         "all its names in one line");
        }
    return MOIRE_OK;
}

/* The switches above a child, outermost first, as numbers from 1. False: more than there may be. */
static bool climb(const struct moire_hosts *hosts, const struct child *child, struct moire_place *place)
{
    int hub = child->parent;
    memset(place->switches, 0, sizeof place->switches);
    for (int level = MOIRE_SWITCHES - 1; level >= 0 && hub >= 0; level--) {
        place->switches[level] = (uint64_t)hub + 1;
        hub = hosts->hub[hub].parent;
    }
    return hub < 0;
}

static moire_status make_tree(struct moire_hosts *hosts)
{
    struct moire_place place;
    int64_t nodes = 0;
    qsort(hosts->child, (size_t)hosts->children, sizeof *hosts->child, by_name);
    MOIRE_TRY(check_names(hosts));
    for (int64_t i = 0; i < hosts->hubs; i++) {
        struct child *child = find_child(hosts, hosts->hub[i].at, (size_t)hosts->hub[i].letters);
        if (!child) continue;
        hosts->hub[i].parent = child->parent;
        child->is_switch = true;
    }
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, hosts->children, sizeof *hosts->in_order, &hosts->in_order));
    for (int64_t i = 0; i < hosts->children; i++) {
        const struct child *child = &hosts->child[i];
        hosts->in_order[child->place] = (int)i;
        nodes += !child->is_switch;
        if (!climb(hosts, child, &place))
            return moire_script_fail(&hosts->script, child->at, "too many switches above a name",
                                     "at most %d, and no circle", MOIRE_SWITCHES);
    }
    if (nodes == 0)
        return moire_script_fail(&hosts->script, hosts->script.at, "there is no node",
                                 "names below a switch");
    return MOIRE_OK;
}

/* ---- for others ---- */

moire_status moire_hosts_read(const char *path, const char *text, struct moire_hosts **out)
{
    struct moire_hosts *hosts;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, 1, sizeof *hosts, &hosts));
    hosts->script = (struct moire_script) { .path = path, .text = text, .at = text };
    hosts->ranks_each = 1;
    moire_status status = MOIRE_OK;
    for (moire_script_skip(&hosts->script, true); *hosts->script.at && status == MOIRE_OK;
         moire_script_skip(&hosts->script, true))
        status = read_line(hosts);
    if (status == MOIRE_OK) status = make_tree(hosts);
    if (status == MOIRE_OK)
        *out = hosts;
    else
        moire_hosts_free(hosts);
    return status;
}

void moire_hosts_free(struct moire_hosts *hosts)
{
    if (!hosts) return;
    for (int64_t i = 0; i < hosts->children; i++) moire_release(hosts->child[i].name);
    moire_release(hosts->in_order);
    moire_release(hosts->child);
    moire_release(hosts->hub);
    moire_release(hosts);
}

moire_status moire_hosts_find(const struct moire_hosts *hosts, const char *host, struct moire_place *place)
{
    const struct child *child = find_child(hosts, host, strlen(host));
    if (child && !child->is_switch) {
        climb(hosts, child, place);
        return MOIRE_OK;
    }
    const struct child *first = &hosts->child[hosts->in_order[0]];
    return moire_fail(
        MOIRE_USAGE,
        "%s: this host hangs on no switch there; found '%s', expected one of %lld names (%s, ...); "
        "try a line SWITCH: %s",
        hosts->script.path, host, (long long)hosts->children, first->name, host);
}

moire_status moire_hosts_topology(const struct moire_hosts *hosts, struct moire_topology *topology)
{
    struct moire_place *places;
    int64_t ranks = 0, rank = 0;
    for (int64_t i = 0; i < hosts->children; i++) ranks += hosts->child[i].is_switch ? 0 : hosts->ranks_each;
    if (ranks > INT32_MAX)
        return moire_script_fail(&hosts->script, hosts->script.text, "too many ranks", "at most %d in all",
                                 INT32_MAX);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *places, &places));
    for (int64_t i = 0; i < hosts->children; i++) {
        const struct child *child = &hosts->child[hosts->in_order[i]];
        for (int64_t first = rank; !child->is_switch && rank < first + hosts->ranks_each; rank++) {
            climb(hosts, child, &places[rank]);
            places[rank].node = (int32_t)first;
            for (int k = 0; k < MOIRE_INSIDE; k++) places[rank].inside[k] = -1;
        }
    }
    moire_status status = moire_topology_build(places, (int)ranks, topology);
    moire_release(places);
    if (status != MOIRE_OK) return status;
    topology->pretended = true;
    snprintf(topology->source, sizeof topology->source, "a host list");
    return MOIRE_OK;
}
