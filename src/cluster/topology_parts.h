/* What the sources of a topology share: the known levels, and what is known of each rank before it is a tree.
 */
#ifndef CLUSTER_TOPOLOGY_PARTS_H
#define CLUSTER_TOPOLOGY_PARTS_H

#include "moire/cluster/topology.h"

enum {
    MOIRE_TOPOLOGY_SPINE3,
    MOIRE_TOPOLOGY_SPINE2,
    MOIRE_TOPOLOGY_SPINE,
    MOIRE_TOPOLOGY_LEAF,
    MOIRE_TOPOLOGY_NODE,
    MOIRE_TOPOLOGY_SOCKET,
    MOIRE_TOPOLOGY_NUMA,
    MOIRE_TOPOLOGY_CORE,
    MOIRE_TOPOLOGY_RANK,
    MOIRE_TOPOLOGY_NAMES
};
enum { MOIRE_SWITCHES = MOIRE_TOPOLOGY_LEAF + 1, MOIRE_INSIDE = MOIRE_TOPOLOGY_RANK - MOIRE_TOPOLOGY_SOCKET };

extern const char *const moire_level_names[MOIRE_TOPOLOGY_NAMES];
/* "leaf" or "leaves". */
const char *moire_level_word(const char *name, int64_t count);

/* What a rank tells the others; the same size on all. */
struct moire_place {
    uint64_t switches[MOIRE_SWITCHES]; /* of the node: a number or a hash, outermost first; 0: none */
    uint64_t address;                  /* of the node: hash of all of Slurm's variable; 0: none */
    int32_t node;                      /* lowest rank of its node */
    int32_t inside[MOIRE_INSIDE];      /* socket, NUMA node, L3: a number on its node; -1: none, or several */
};
/* The tree of these ranks. Switches are those of the lowest rank of a node. */
moire_status moire_topology_build(const struct moire_place *places, int ranks,
                                  struct moire_topology *topology);
/* Levels without groups yet: `names` are indices of moire_level_names. */
moire_status moire_topology_allocate(int ranks, int levels, const int *names,
                                     struct moire_topology *topology);

/* Forgets the switches, with a warning, unless every node has an address of its own, or none has one. */
moire_status moire_topology_check_addresses(struct moire_place *places, int ranks);

/* A text that is read from left to right, and whose errors show the place. */
struct moire_script {
    const char *path; /* of the file, or NULL */
    const char *text;
    const char *at; /* next character */
};
/* MOIRE_USAGE: "CAUSE; found X, ..." of the line of `at`, which follows with a caret below it. X is the word
 * at `at`; `format` begins with what was expected. */
moire_status moire_script_fail(const struct moire_script *script, const char *at, const char *cause,
                               const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Blanks, line ends where wanted, and comments. */
void moire_script_skip(struct moire_script *script, bool lines);
/* Letters, digits and _.- at `at`. */
int moire_script_word(const char *at);

/* PATH of "file:PATH", or NULL. */
const char *moire_topology_path(const char *source);
/* MOIRE_USAGE where it is neither a text nor file:PATH. */
moire_status moire_topology_check_source(const char *source);
/* The topology of a text, or, where `path` is not NULL, of the text or host list of that file. */
moire_status moire_topology_from(const char *path, const char *text, struct moire_topology *topology);

/* ---- host lists ---- */

struct moire_hosts;
/* Whether the text is a host list: a colon stands before something that is no number. */
bool moire_hosts_is_list(const char *text);
/* Reads a host list; `path` and `text` must outlive it. */
moire_status moire_hosts_read(const char *path, const char *text, struct moire_hosts **hosts);
void moire_hosts_free(struct moire_hosts *hosts);
/* The switches of a host into place->switches; MOIRE_USAGE where it is not in the list. */
moire_status moire_hosts_find(const struct moire_hosts *hosts, const char *host, struct moire_place *place);
/* A topology of all its nodes, in order. */
moire_status moire_hosts_topology(const struct moire_hosts *hosts, struct moire_topology *topology);

#endif
