/* Memory that the ranks of a node read from each other.
 *
 * The model is pull: a rank writes its own blocks and nobody else's; the peers of its node have them mapped
 * read-only and copy rows straight out of them. Who may read when is told by flags: epochs that a rank
 * publishes and its peers read.
 *
 * Use, by a back end:
 *
 *     moire_node_memory_create(...)           init; collective, agreed
 *     moire_node_block_create(...)            rows_grow of a new buffer: an id, no memory yet
 *     moire_node_block_grow(...)              rows_grow: local, may fail
 *     ... the ranks agree on growth (any collective) ...
 *     moire_node_memory_refresh(...)          then this: local, may fail; agreed by the caller
 *     moire_node_memory_peer(...)             in transfers: where a peer's block is mapped here
 *     moire_node_flag_publish / _read         in transfers: "my rows are there", "I have read yours"
 *     moire_node_block_free(...)
 *     moire_node_memory_free(...)
 *
 * A block is a file of memory (base/pages.h) that the peers open through /proc. So the ranks of a node must
 * see each other in /proc and run under one user: containers must share a PID namespace. No name is left
 * behind, also by a rank that is killed. Each block with memory costs its owner an open file (`ulimit -n`),
 * and each of its peers a mapping with its page tables (on most machines a 512th of the block), which are
 * filled when it is mapped. The pages of a block lie where the thread that grows it runs. Beside the blocks a
 * rank holds one control block (see moire_node_memory_bytes), and for each peer one pointer with its size a
 * block: nothing grows with the square of anything.
 *
 * Ids: the lowest free one. Ranks that create and free their blocks in the same order have the same ids, so a
 * back end need not send them.
 *
 * Order in time. Create, grow and free a block only between transfers. A peer sees it from its next refresh
 * on, and a collective must come between the change and that refresh; and another one between that refresh
 * and the next change, since a table that changes while it is read can lead to any address (a debug build
 * stops then). Until its refresh a peer has the block as it was: the memory of a freed one stays readable,
 * and of a grown one the first bytes, at the address they had here.
 *
 * Nothing here is for several threads at once but moire_node_memory_peer and the flags. */
#ifndef MOIRE_EXCHANGE_WINDOW_H
#define MOIRE_EXCHANGE_WINDOW_H

#include <stdatomic.h>

#include "moire/base/pages.h"
#include "moire/cluster/communicator.h"

enum { MOIRE_NODE_BLOCKS_MOST = 4096 }; /* of a rank at once */

/* One flag: alone in its cache line, so that no two writers share one. */
struct moire_node_flag {
    _Alignas(64) _Atomic int64_t epoch;
};

/* One rank's block in the table that its peers read. */
struct moire_node_entry {
    int64_t serial; /* of the file: never the same for two files of a rank; 0: no memory */
    int64_t bytes;
    int64_t descriptor;
};

/* What a rank shows its peers from the start, of fixed size: mapped by each of them. */
struct moire_node_control {
    uint64_t token;             /* against another process's file under the same number */
    _Atomic int64_t generation; /* counts changes of the table */
    int64_t used;               /* entries at the start of the table that may be in use */
    struct moire_node_entry table[MOIRE_NODE_BLOCKS_MOST];
    struct moire_node_flag flags[];
};

/* A peer's block as it is mapped here. */
struct moire_node_mapping {
    const void *data; /* NULL: none */
    int64_t bytes, serial;
};

struct moire_node_peer {
    int rank;    /* of the communicator */
    int process; /* its number in /proc */
    const struct moire_node_control *control;
    int64_t generation;                  /* of the control block when the mappings were made */
    struct moire_node_mapping *mappings; /* owned, [capacity], by id */
    int64_t capacity;
};

/* A block of this rank. */
struct moire_node_block {
    struct moire_pages pages; /* .data [.bytes]: to write to; may move when it grows */
    int id;
};

/* The fields are for reading. */
struct moire_node_memory {
    int self, size;                /* this rank's index in peers, and their number, this rank included */
    struct moire_node_peer *peers; /* owned, [size], by rank */
    int *peer_of;                  /* owned, [ranks]: index in peers of each rank, -1: on another node */
    int flags;                     /* of each rank */
    struct moire_pages pages;      /* of the control block */
    struct moire_node_control *control;
    struct moire_node_block *blocks[MOIRE_NODE_BLOCKS_MOST]; /* by id, NULL: free */
    int64_t serials;                                         /* given so far */
};

/* Nodes are the ranks with the same `node_of` [size of the communicator], which may be fewer than share a
 * machine (pretended nodes) but not more. `flags` is the number of flags of each rank, the same on all, each
 * 0 at first. Failures are agreed, on all nodes, and say what is missing and that another back end can do:
 * MOIRE_USAGE where a node spans machines or PID namespaces; MOIRE_NO_FILE where there is no memfd_create, no
 * /proc, or the ranks may not open each other's memory; MOIRE_NO_MEMORY. A node of one rank needs no /proc.
 * Collective over the communicator, which is not used afterwards. */
moire_status moire_node_memory_create(const struct moire_communicator *communicator, const int *node_of,
                                      int flags, struct moire_node_memory **memory);
/* All blocks of this rank must have been freed. Peers keep what they have mapped, the control block too, but
 * no flag of this rank changes any more. NULL is allowed. Not collective. */
void moire_node_memory_free(struct moire_node_memory *memory);
/* Bytes of kind EXCHANGE that a rank holds for itself, beside its blocks, when each rank of its node (of
 * `size` ranks out of `ranks`) has ids below `blocks`. */
int64_t moire_node_memory_bytes(int ranks, int size, int flags, int64_t blocks);

/* A block without memory, counted as `kind` once it has some. MOIRE_NO_MEMORY where all ids are taken. The
 * memory owns *block until moire_node_block_free. Not collective, but see Ids above. */
moire_status moire_node_block_create(struct moire_node_memory *memory, moire_memory_kind kind,
                                     struct moire_node_block **block);
/* At least `bytes`, or a 32nd more than now where that is more, in whole pages; 0 is allowed and does
 * nothing. The contents stay, what is new is zeroed. On failure, MOIRE_NO_MEMORY, the block is as before. Not
 * collective. */
moire_status moire_node_block_grow(struct moire_node_memory *memory, struct moire_node_block *block,
                                   int64_t bytes);
/* NULL is allowed. Not collective. */
void moire_node_block_free(struct moire_node_memory *memory, struct moire_node_block *block);

/* Maps what the peers have changed since the last refresh. Where nothing has changed it reads one counter a
 * peer and makes no system call. After a failure (MOIRE_NO_MEMORY, MOIRE_NO_FILE) blocks may be missing here;
 * the next refresh tries them again. Not collective, not agreed. */
moire_status moire_node_memory_refresh(struct moire_node_memory *memory);

/* Where block `id` of a peer is mapped here, this rank's own included; NULL when it has no memory or none as
 * of the last refresh. Valid until the next refresh (of this rank's own: until it grows). */
static inline const void *moire_node_memory_peer(const struct moire_node_memory *memory, int peer, int id)
{
    const struct moire_node_peer *p = &memory->peers[peer];
    return id < p->capacity ? p->mappings[id].data : NULL;
}

/* Flags. What this rank has written to its blocks, and what it has read from its peers', before the publish
 * is done before it for every rank that has read the epoch (or a later one): that rank sees the rows, and may
 * overwrite what this rank had read. Plain stores only: non-temporal ones need an sfence before. Epochs only
 * rise. */
static inline void moire_node_flag_publish(struct moire_node_memory *memory, int flag, int64_t epoch)
{
    moire_assert(flag >= 0 && flag < memory->flags);
    atomic_store_explicit(&memory->control->flags[flag].epoch, epoch, memory_order_release);
}

static inline int64_t moire_node_flag_read(const struct moire_node_memory *memory, int peer, int flag)
{
    moire_assert(flag >= 0 && flag < memory->flags);
    return atomic_load_explicit(&memory->peers[peer].control->flags[flag].epoch, memory_order_acquire);
}

/* Whether every rank of the node has published `epoch` or a later one. */
static inline bool moire_node_flag_reached(const struct moire_node_memory *memory, int flag, int64_t epoch)
{
    for (int peer = 0; peer < memory->size; peer++)
        if (moire_node_flag_read(memory, peer, flag) < epoch) return false;
    return true;
}

#endif
