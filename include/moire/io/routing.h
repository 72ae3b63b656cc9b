/* routing.h5: expert ids as recorded, dataset /experts int32 [step, layer, token, K], tokens in global order,
 * -1 for a dropped slot and for all slots of a step that was not recorded; attributes format_version,
 * experts, and first_step: the step of the first row. The layer axis counts layers with experts only. */
#ifndef MOIRE_IO_ROUTING_H
#define MOIRE_IO_ROUTING_H

#include "moire/base/config.h"
#include "moire/cluster/communicator.h"

enum { MOIRE_ROUTING_VERSION = 1 };

struct moire_routing_file {
    int64_t steps, layers, tokens, top_k, experts;
    int64_t first_step;
    int32_t *ids;       /* owned, [steps, layers, tokens, K] */
};
/* Every rank reads the whole (it is for measurements). MOIRE_BAD_DATA: not such a file, damaged, another
 * version. Not collective. */
moire_status moire_routing_read(const char *path, struct moire_routing_file *file);
void moire_routing_free(struct moire_routing_file *file);
/* Records step `step`: `ids` [layers, local tokens, K] of each rank, gathered to rank 0 in rank order. The
 * number of tokens, and all else but the ids, must be that of the file. Creates the file at the first step; a
 * step that is in it already, or lies before its first (a run that was resumed further back), and what
 * follows it, is replaced. A rank may have no tokens. Collective; errors are agreed. */
moire_status moire_routing_append(const struct moire_communicator *communicator, const char *path,
                                  int64_t step, int64_t layers, int64_t local_tokens, int64_t top_k,
                                  int64_t experts, const int32_t *ids);

#endif
