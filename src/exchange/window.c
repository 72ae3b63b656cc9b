#include "exchange/window.h"

#include <string.h>
#include <sys/random.h>

#include "exchange/private.h"

/* Mappings of a peer come in so many at once, so that their memory is known beforehand. */
enum { MAPPINGS_AT_ONCE = 64 };

static int64_t mapping_capacity(int64_t blocks)
{
    return (blocks + MAPPINGS_AT_ONCE - 1) / MAPPINGS_AT_ONCE * MAPPINGS_AT_ONCE;
}

static int64_t control_bytes(int flags)
{
    return (int64_t)sizeof(struct moire_node_control) + flags * (int64_t)sizeof(struct moire_node_flag);
}

int64_t moire_node_memory_bytes(int ranks, int size, int flags, int64_t blocks)
{
    return (int64_t)sizeof(struct moire_node_memory) + moire_pages_bytes(control_bytes(flags)) +
           ranks * (int64_t)sizeof(int) + size * (int64_t)sizeof(struct moire_node_peer) +
           size * mapping_capacity(blocks) * (int64_t)sizeof(struct moire_node_mapping) +
           blocks * (int64_t)sizeof(struct moire_node_block);
}

static moire_status grow_mappings(struct moire_node_peer *peer, int64_t blocks)
{
    struct moire_node_mapping *mappings = NULL;
    if (blocks <= peer->capacity) return MOIRE_OK;
    int64_t capacity = mapping_capacity(blocks);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, capacity, sizeof *mappings, &mappings));
    if (peer->capacity > 0) memcpy(mappings, peer->mappings, (size_t)peer->capacity * sizeof *mappings);
    moire_release(peer->mappings);
    peer->mappings = mappings;
    peer->capacity = capacity;
    return MOIRE_OK;
}

/* ---- creation ---- */

/* What a rank tells the others of its node. */
struct card {
    char machine[64], node[sizeof moire_where.node];
    uint64_t token;
    int32_t process, descriptor;
};

static void find_peers(const struct moire_communicator *communicator, const int *node_of,
                       struct moire_node_memory *memory)
{
    int node = node_of[communicator->rank];
    for (int rank = 0; rank < communicator->size; rank++) {
        memory->peer_of[rank] = -1;
        if (node_of[rank] != node) continue;
        if (rank == communicator->rank) memory->self = memory->size;
        memory->peers[memory->size].rank = rank;
        memory->peer_of[rank] = memory->size++;
    }
}

static moire_status create_tables(const struct moire_communicator *communicator, const int *node_of,
                                  struct moire_node_memory *memory)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    int size = 0;
    for (int rank = 0; rank < communicator->size; rank++)
        size += node_of[rank] == node_of[communicator->rank];
    MOIRE_TRY(moire_allocate(kind, communicator->size, sizeof *memory->peer_of, &memory->peer_of));
    MOIRE_TRY(moire_allocate(kind, size, sizeof *memory->peers, &memory->peers));
    find_peers(communicator, node_of, memory);
    return MOIRE_OK;
}

static moire_status create_control(struct moire_node_memory *memory)
{
    struct moire_node_peer *self = &memory->peers[memory->self];
    memory->pages.kind = MOIRE_MEMORY_EXCHANGE;
    MOIRE_TRY(moire_pages_grow(&memory->pages, control_bytes(memory->flags)));
    memory->control = memory->pages.data;
    self->control = memory->control;
    if (getentropy(&memory->control->token, sizeof memory->control->token) != 0)
        return moire_fail(MOIRE_NO_FILE,
                          "no random number to know memory of this job by; found: getrandom fails, expected "
                          "Linux 3.17 or later; try another kernel, or exchange.backend = pairwise");
    return memory->size > 1 ? moire_pages_process(&self->process) : MOIRE_OK;
}

static moire_status create_local(const struct moire_communicator *communicator, const int *node_of, int flags,
                                 struct moire_node_memory **memory, struct card **cards)
{
    if (flags < 0)
        return moire_fail(MOIRE_FAILED, "memory of a node needs a number of flags; found %d", flags);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof **memory, memory));
    (*memory)->flags = flags;
    MOIRE_TRY(create_tables(communicator, node_of, *memory));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, (*memory)->size, sizeof **cards, cards));
    struct card *own = &(*cards)[(*memory)->self];
    /* Before the control block: where no file can be opened any more, that one fails, with the reason. */
    moire_pages_machine(own->machine, sizeof own->machine);
    memcpy(own->node, moire_where.node, sizeof own->node);
    MOIRE_TRY(create_control(*memory));
    own->token = (*memory)->control->token;
    own->process = (*memory)->peers[(*memory)->self].process;
    own->descriptor = (*memory)->pages.descriptor;
    return MOIRE_OK;
}

static moire_status gather_cards(const struct moire_communicator *node, struct card *cards)
{
    int result = MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, cards, sizeof *cards, MPI_BYTE, node->mpi);
    return moire_mpi_check(result, node, "MPI_Allgather");
}

/* Maps the control block of a peer: when it is the one that the peer has made, its blocks can be had in the
 * same way. */
static moire_status meet(struct moire_node_memory *memory, int index, const struct card *cards)
{
    struct moire_node_peer *peer = &memory->peers[index];
    const struct card *own = &cards[memory->self], *card = &cards[index];
    const void *data = NULL;
    if (strcmp(own->machine, card->machine) != 0)
        return moire_fail(
            MOIRE_USAGE,
            "a node cannot be larger than a machine; found ranks %d and %d (%s) of one node on "
            "two, expected them on one; try parallel.ranks_per_node = auto or a smaller one, or "
            "exchange.backend = pairwise",
            memory->peers[memory->self].rank, peer->rank, card->node);
    peer->process = card->process;
    MOIRE_TRY(moire_pages_map(peer->process, card->descriptor, control_bytes(memory->flags), &data));
    peer->control = data;
    if (peer->control->token != card->token)
        return moire_fail(MOIRE_USAGE,
                          "ranks of a node do not see each other's memory; found other memory than that of "
                          "rank %d as process %d, expected one PID namespace for all; try one container a "
                          "node, or exchange.backend = pairwise",
                          peer->rank, peer->process);
    return MOIRE_OK;
}

static moire_status meet_all(struct moire_node_memory *memory, const struct card *cards)
{
    for (int peer = 0; peer < memory->size; peer++)
        if (peer != memory->self) MOIRE_TRY(meet(memory, peer, cards));
    return MOIRE_OK;
}

moire_status moire_node_memory_create(const struct moire_communicator *communicator, const int *node_of,
                                      int flags, struct moire_node_memory **memory)
{
    struct moire_node_memory *new = NULL;
    struct moire_communicator node;
    struct card *cards = NULL;
    MOIRE_TRY(moire_communicator_split(communicator, "node memory", node_of[communicator->rank],
                                       communicator->rank, &node));
    moire_status status = moire_agree(communicator, create_local(communicator, node_of, flags, &new, &cards));
    if (status == MOIRE_OK) {
        status = gather_cards(&node, cards);
        if (status == MOIRE_OK) status = meet_all(new, cards);
        /* Also: a rank that fails keeps its control block until everybody has looked at it. */
        status = moire_agree(communicator, status);
    }
    moire_release(cards);
    moire_communicator_free(&node);
    if (status != MOIRE_OK)
        moire_node_memory_free(new);
    else
        *memory = new;
    return status;
}

static void free_peer(struct moire_node_memory *memory, int index)
{
    struct moire_node_peer *peer = &memory->peers[index];
    if (index != memory->self) {
        for (int64_t id = 0; id < peer->capacity; id++)
            moire_pages_unmap(peer->mappings[id].data, peer->mappings[id].bytes);
        moire_pages_unmap(peer->control, control_bytes(memory->flags));
    }
    moire_release(peer->mappings);
}

void moire_node_memory_free(struct moire_node_memory *memory)
{
    if (!memory) return;
    for (int peer = 0; peer < memory->size; peer++) free_peer(memory, peer);
    moire_release(memory->peers);
    moire_release(memory->peer_of);
    moire_pages_free(&memory->pages);
    moire_release(memory);
}

/* ---- blocks ---- */

static int64_t lowest_free(const struct moire_node_memory *memory)
{
    int64_t id = 0;
    while (id < MOIRE_NODE_BLOCKS_MOST && memory->blocks[id]) id++;
    return id;
}

moire_status moire_node_block_create(struct moire_node_memory *memory, moire_memory_kind kind,
                                     struct moire_node_block **block)
{
    struct moire_node_block *new = NULL;
    int64_t id = lowest_free(memory);
    if (id == MOIRE_NODE_BLOCKS_MOST)
        return moire_fail(MOIRE_NO_MEMORY,
                          "too many buffers that other ranks of the node read; found %d in use, expected "
                          "fewer; try fewer layers, or exchange.backend = pairwise",
                          MOIRE_NODE_BLOCKS_MOST);
    MOIRE_TRY(grow_mappings(&memory->peers[memory->self], id + 1));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *new, &new));
    *new = (struct moire_node_block){ .pages.kind = kind, .id = (int)id };
    memory->blocks[id] = new;
    *block = new;
    return MOIRE_OK;
}

/* Tells the peers. No peer looks meanwhile; the order of stores matters to none, the generation's release
 * takes the entry along. */
static void publish(struct moire_node_memory *memory, int id, struct moire_node_entry entry)
{
    struct moire_node_control *control = memory->control;
    int64_t used = control->used;
    control->table[id] = entry;
    if (used <= id) used = id + 1;
    while (used > 0 && control->table[used - 1].serial == 0) used--;
    control->used = used;
    atomic_fetch_add_explicit(&control->generation, 1, memory_order_release);
}

moire_status moire_node_block_grow(struct moire_node_memory *memory, struct moire_node_block *block,
                                   int64_t bytes)
{
    struct moire_pages *pages = &block->pages;
    struct moire_node_mapping *own = &memory->peers[memory->self].mappings[block->id];
    if (bytes <= pages->bytes) return MOIRE_OK;
    moire_status status = moire_pages_grow(pages, moire_grown(pages->bytes, bytes));
    if (status == MOIRE_OK && !own->data) own->serial = ++memory->serials;
    own->data = pages->data;
    own->bytes = pages->bytes;
    if (status == MOIRE_OK)
        publish(memory, block->id,
                (struct moire_node_entry){
                    .serial = own->serial, .bytes = pages->bytes, .descriptor = pages->descriptor });
    return status;
}

void moire_node_block_free(struct moire_node_memory *memory, struct moire_node_block *block)
{
    if (!block) return;
    if (block->pages.bytes > 0) publish(memory, block->id, (struct moire_node_entry){ 0 });
    memory->peers[memory->self].mappings[block->id] = (struct moire_node_mapping){ 0 };
    memory->blocks[block->id] = NULL;
    moire_pages_free(&block->pages);
    moire_release(block);
}

/* ---- what the peers have changed ---- */

static moire_status refresh_mapping(const struct moire_node_peer *peer, struct moire_node_mapping *mapping,
                                    const struct moire_node_entry *entry)
{
    if (mapping->serial == entry->serial) {
        if (mapping->bytes == entry->bytes) return MOIRE_OK;
        MOIRE_TRY(moire_pages_map_more(&mapping->data, mapping->bytes, entry->bytes));
        mapping->bytes = entry->bytes;
        return MOIRE_OK;
    }
    moire_pages_unmap(mapping->data, mapping->bytes);
    *mapping = (struct moire_node_mapping){ 0 };
    if (entry->serial == 0) return MOIRE_OK;
    MOIRE_TRY(moire_pages_map(peer->process, (int)entry->descriptor, entry->bytes, &mapping->data));
    mapping->bytes = entry->bytes;
    mapping->serial = entry->serial;
    return MOIRE_OK;
}

static moire_status refresh_peer(struct moire_node_peer *peer)
{
    static const struct moire_node_entry none;
    const struct moire_node_control *control = peer->control;
    int64_t generation = atomic_load_explicit(&control->generation, memory_order_acquire);
    if (generation == peer->generation) return MOIRE_OK;
    MOIRE_TRY(grow_mappings(peer, control->used));
    for (int64_t id = 0; id < peer->capacity; id++) {
        const struct moire_node_entry entry = id < control->used ? control->table[id] : none;
        MOIRE_TRY(refresh_mapping(peer, &peer->mappings[id], &entry));
    }
    moire_assert(atomic_load(&control->generation) == generation); /* or the owner does not wait for us */
    peer->generation = generation;
    return MOIRE_OK;
}

moire_status moire_node_memory_refresh(struct moire_node_memory *memory)
{
    for (int peer = 0; peer < memory->size; peer++)
        if (peer != memory->self) MOIRE_TRY(refresh_peer(&memory->peers[peer]));
    return MOIRE_OK;
}
