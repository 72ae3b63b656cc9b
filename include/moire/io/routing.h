/* routing.h5: which experts each token chose. Datasets /experts, int32 [step, layer, token, K], expert ids as
 * recorded, first choice first, tokens in global (rank) order, -1 for a dropped slot and for all slots of a
 * step that was not recorded; and /source, int32 [step, token], the rank that brought the token, -1 likewise.
 * Attributes format_version, experts, and first_step: the step of the first row. The layer axis counts layers
 * with experts only. */
#ifndef MOIRE_IO_ROUTING_H
#define MOIRE_IO_ROUTING_H

#include "moire/base/config.h"
#include "moire/cluster/communicator.h"
#include "moire/cluster/placement.h"

enum { MOIRE_ROUTING_VERSION = 2 };

struct moire_routing_file {
    int64_t steps, layers, tokens, top_k, experts;
    int64_t first_step;
    int64_t ranks;    /* the highest source + 1 */
    int32_t *ids;     /* owned, [steps, layers, tokens, K] */
    int32_t *sources; /* owned, [steps, tokens] */
};
/* Whether the path is an HDF5 file with expert ids. */
bool moire_routing_is(const char *path);
/* Every rank reads the whole (it is for measurements). MOIRE_BAD_DATA: not such a file, damaged, another
 * version. Not collective. */
moire_status moire_routing_read(const char *path, struct moire_routing_file *file);
void moire_routing_free(struct moire_routing_file *file);
/* Writes the whole, over what is there; no file is left where that fails. Not collective. */
moire_status moire_routing_write(const char *path, const struct moire_routing_file *file);
/* Records step `step`: `ids` [layers, local tokens, K] of each rank, gathered to rank 0 in rank order. The
 * number of tokens, and all else but the ids, must be that of the file. Creates the file at the first step; a
 * step that is in it already, or lies before its first (a run that was resumed further back), and what
 * follows it, is replaced. A rank may have no tokens. Collective; errors are agreed. */
moire_status moire_routing_append(const struct moire_communicator *communicator, const char *path,
                                  int64_t step, int64_t layers, int64_t local_tokens, int64_t top_k,
                                  int64_t experts, const int32_t *ids);

/* ---- what a recording comes to; `step` and `layer` are rows of the file; not collective ---- */

/* The K ids of a token. */
static inline const int32_t *moire_routing_token(const struct moire_routing_file *file, int64_t step,
                                                 int64_t layer, int64_t token)
{
    return file->ids + ((step * file->layers + layer) * file->tokens + token) * file->top_k;
}
/* rows [ranks, E] of the file, overwritten: slots by source rank and expert. Dropped slots, and tokens
 * without a source, count nowhere. */
void moire_routing_count(const struct moire_routing_file *file, int64_t step, int64_t layer, int64_t *rows);
/* Adds to copies[0] the slots that are there, and to copies[1] the distinct groups that each token goes to,
 * summed over tokens. `group_of` [ranks of the placement]: a node (or anything else) for each rank, from 0;
 * NULL: every rank is its own. The first instance of an expert counts. MOIRE_USAGE: the placement has another
 * number of experts. */
moire_status moire_routing_distinct(const struct moire_routing_file *file, int64_t step, int64_t layer,
                                    const struct moire_placement *placement, const int *group_of,
                                    int64_t copies[2]);
/* Over all steps and layers. */
struct moire_routing_summary {
    int64_t slots, dropped; /* chosen; -1 in a step that was recorded */
    double imbalance;       /* slots of the fullest expert over the mean; mean over steps and layers */
    double repeats;         /* share of neighbouring tokens of one rank that have the same first choice */
};
moire_status moire_routing_summarise(const struct moire_routing_file *file,
                                     struct moire_routing_summary *summary);

/* Routing of an inference engine: a NumPy file (.npy, version 1 or 2) of integers (int8 to int64, or uint8)
 * [tokens, layers, K], little endian, in C order. tokens_per_step 0: all tokens are one step; else what is
 * left over at the end is left out. experts 0: the largest id and one more. The source of all tokens is rank
 * 0. MOIRE_BAD_DATA with the cause, for an id that is no expert with its place. The caller frees *file. Not
 * collective. */
moire_status moire_routing_import(const char *path, int64_t experts, int64_t tokens_per_step,
                                  struct moire_routing_file *file);

#endif
