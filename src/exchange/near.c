#include "exchange/near.h"

#include <string.h>

static struct moire_near *near_of(const struct moire_exchange *exchange)
{
    return exchange->backend_state;
}

static struct moire_near_plan *near_plan(const struct moire_plan *plan)
{
    return plan->backend_state;
}

moire_status moire_near_create(struct moire_exchange *exchange, size_t bytes, int own_flags)
{
    struct moire_near *near = NULL;
    moire_status status = moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, bytes, &near);
    if (status == MOIRE_OK) {
        exchange->backend_state = near;
        near->flags_each = MOIRE_NEAR_FLAGS + own_flags;
        near->generation = -1;
    }
    MOIRE_TRY(moire_agree(&exchange->communicator, status));
    return moire_node_memory_create(&exchange->communicator, exchange->node_of,
                                    near->flags_each * exchange->settings.contexts + 1, &near->memory);
}

void moire_near_free(struct moire_exchange *exchange)
{
    struct moire_near *near = near_of(exchange);
    if (!near) return;
    moire_node_memory_free(near->memory);
    moire_release(near);
}

/* Buffers. */

moire_status moire_near_rows_grow(struct moire_exchange *exchange, struct moire_rows *buffer, int64_t rows)
{
    struct moire_node_memory *memory = near_of(exchange)->memory;
    const int64_t row_bytes = buffer->width * (int64_t)moire_element_bytes(buffer->element);
    struct moire_node_block *block = buffer->backend;
    int64_t bytes;
    if (!block) {
        MOIRE_TRY(moire_node_block_create(memory, buffer->kind, &block));
        buffer->backend = block;
    }
    if (buffer->data && rows <= buffer->capacity_rows) return MOIRE_OK;
    MOIRE_TRY(moire_rows_check_idle(exchange, buffer, rows));
    const int64_t wanted = moire_grown(buffer->capacity_rows, rows);
    if (__builtin_mul_overflow(wanted, row_bytes, &bytes))
        return moire_fail(MOIRE_NO_MEMORY, "exchange: %lld rows of %lld bytes are too large to count",
                          (long long)wanted, (long long)row_bytes);
    MOIRE_TRY(moire_node_block_grow(memory, block, bytes > 0 ? bytes : 1)); /* a valid pointer at least */
    buffer->data = block->pages.data;
    buffer->capacity_rows = wanted;
    return MOIRE_OK;
}

void moire_near_rows_free(struct moire_exchange *exchange, struct moire_rows *buffer)
{
    moire_node_block_free(near_of(exchange)->memory, buffer->backend);
}

/* Plans. */

moire_status moire_near_plan_create(struct moire_plan *plan, size_t bytes)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, bytes, &plan->backend_state));
    return moire_node_block_create(near_of(plan->exchange)->memory, MOIRE_MEMORY_EXCHANGE,
                                   &near_plan(plan)->directory);
}

void moire_near_plan_free(struct moire_plan *plan)
{
    struct moire_near_plan *near = near_plan(plan);
    if (!near) return;
    moire_node_block_free(near_of(plan->exchange)->memory, near->directory);
    moire_release(near->places);
    moire_release(near);
}

/* In the block of a directory: its two lengths, then the arrays of struct moire_near_directory. */
enum { COPIES, RECEIVED, LENGTHS };

static int64_t chunk_words(const struct moire_exchange *exchange)
{
    return (int64_t)exchange->communicator.size * (exchange->settings.chunks + 1);
}

static struct moire_near_directory read_directory(const struct moire_exchange *exchange, const int64_t *words)
{
    struct moire_near_directory directory = { .in_chunk = words + LENGTHS };
    directory.out_begin = directory.in_chunk + chunk_words(exchange);
    directory.token = directory.out_begin + exchange->communicator.size + 1;
    directory.slot = directory.token + words[COPIES];
    directory.in_row = directory.slot + words[COPIES];
    return directory;
}

struct moire_near_directory moire_near_directory(const struct moire_plan *plan, int peer)
{
    return read_directory(plan->exchange, moire_node_memory_peer(near_of(plan->exchange)->memory, peer,
                                                                 near_plan(plan)->directory->id));
}

static int64_t *append(int64_t *words, const int64_t *from, int64_t count)
{
    memcpy(words, from, (size_t)count * sizeof *words);
    return words + count;
}

static moire_status write_directory(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct moire_near_plan *near = near_plan(plan);
    const int64_t ranks = exchange->communicator.size, before = near->directory->pages.bytes;
    const int64_t count =
        LENGTHS + chunk_words(exchange) + ranks + 1 + 2 * plan->copies + plan->received_rows;
    MOIRE_TRY(
        moire_node_block_grow(near_of(exchange)->memory, near->directory, count * (int64_t)sizeof(int64_t)));
    if (near->directory->pages.bytes != before) exchange->growths++;
    int64_t *words = near->directory->pages.data;
    words[COPIES] = plan->copies;
    words[RECEIVED] = plan->received_rows;
    words = append(words + LENGTHS, order->in_chunk, chunk_words(exchange));
    words = append(words, order->out_begin, ranks + 1);
    words = append(words, order->token.data, plan->copies);
    words = append(words, order->slot.data, plan->copies);
    append(words, order->in_row.data, plan->received_rows);
    return MOIRE_OK;
}

moire_status moire_near_prepare(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    struct moire_near_plan *near = near_plan(plan);
    for (int level = 0; level < MOIRE_LEVELS; level++) plan->rows_out[level] = near->in_levels[level] = 0;
    for (int peer = 0; peer < exchange->communicator.size; peer++) {
        int level = moire_exchange_level(exchange, peer);
        plan->rows_out[level] += order->out_begin[peer + 1] - order->out_begin[peer];
        near->in_levels[level] += order->in_begin[peer + 1] - order->in_begin[peer];
    }
    MOIRE_TRY(write_directory(plan));
    MOIRE_TRY(moire_exchange_grow(exchange, &near->places, &near->place_capacity, plan->copies,
                                  sizeof *near->places));
    order->changed =
        atomic_load(&near_of(exchange)->memory->control->generation) != near_of(exchange)->generation;
    return MOIRE_OK;
}

moire_status moire_near_settle(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct moire_near *near = near_of(exchange);
    if (!order->changed) return MOIRE_OK;
    MOIRE_TRY(moire_agree(&exchange->communicator, moire_node_memory_refresh(near->memory)));
    near->generation = atomic_load(&near->memory->control->generation);
    return MOIRE_OK;
}

/* Copies to a rank lie there in the order of their positions. */
void moire_near_place(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_node_memory *memory = near_of(exchange)->memory;
    const struct moire_order *order = plan->private_state;
    const int own = exchange->communicator.rank, chunks = exchange->settings.chunks;
    for (int peer = 0; peer < memory->size; peer++) {
        const int rank = memory->peers[peer].rank;
        const struct moire_near_directory there = moire_near_directory(plan, peer);
        const int64_t first = order->out_begin[rank], count = order->out_begin[rank + 1] - first,
                      *row = there.in_row + there.in_chunk[own * (chunks + 1)];
        for (int64_t i = 0; i < count; i++)
            near_plan(plan)->places[first + i] =
                (struct moire_place) { .row = row[i], .source = peer, .node = exchange->node_of[rank] };
    }
}

/* Transfers. */

static int context_of(const struct moire_transfer *transfer)
{
    return (int)(transfer - transfer->exchange->transfers);
}

int moire_near_flag(const struct moire_transfer *transfer, int which)
{
    return context_of(transfer) * near_of(transfer->exchange)->flags_each + which;
}

int64_t moire_near_epoch(const struct moire_transfer *transfer, int chunks)
{
    const struct moire_near *near = near_of(transfer->exchange);
    return near->epoch[context_of(transfer)] * (transfer->exchange->settings.chunks + 1) + chunks;
}

void moire_near_publish(struct moire_transfer *transfer)
{
    struct moire_near *near = near_of(transfer->exchange);
    int *published = &near->published[context_of(transfer)];
    if (*published == transfer->ready) return;
    *published = transfer->ready;
    moire_node_flag_publish(near->memory, moire_near_flag(transfer, MOIRE_NEAR_READY),
                            moire_near_epoch(transfer, transfer->ready));
}

void moire_near_start(struct moire_transfer *transfer)
{
    struct moire_near *near = near_of(transfer->exchange);
    near->epoch[context_of(transfer)]++;
    near->published[context_of(transfer)] = 0;
    moire_near_publish(transfer);
}

int moire_near_reached(const struct moire_transfer *transfer, int flag)
{
    const struct moire_node_memory *memory = near_of(transfer->exchange)->memory;
    const int64_t none = moire_near_epoch(transfer, 0);
    int64_t least = transfer->exchange->settings.chunks;
    for (int peer = 0; peer < memory->size; peer++) {
        int64_t there = moire_node_flag_read(memory, peer, moire_near_flag(transfer, flag)) - none;
        if (there < least) least = there;
    }
    return least < 0 ? 0 : (int)least;
}

/* What peers show of a buffer is not to be written to. */
static struct moire_side side_of_peer(const struct moire_transfer *transfer, int peer, const int64_t *token,
                                      const int64_t *slot)
{
    const struct moire_node_memory *memory = near_of(transfer->exchange)->memory;
    const struct moire_rows *rows = transfer->from, *numbers = transfer->from_numbers;
    struct moire_side side = moire_side_of_buffers(rows, numbers, token, slot);
    side.rows = (char *)(uintptr_t)moire_node_memory_peer(memory, peer,
                                                          ((struct moire_node_block *)rows->backend)->id);
    if (numbers)
        side.numbers = (char *)(uintptr_t)moire_node_memory_peer(
            memory, peer, ((struct moire_node_block *)numbers->backend)->id);
    return side;
}

static void take_from(struct moire_transfer *transfer, int peer, int chunk)
{
    const struct moire_plan *plan = transfer->plan;
    const struct moire_order *order = plan->private_state;
    const struct moire_near_directory there = moire_near_directory(plan, peer);
    const int source = near_of(transfer->exchange)->memory->peers[peer].rank,
              own = transfer->exchange->communicator.rank;
    const int64_t first = moire_order_in_chunk(plan, source, chunk),
                  count = moire_order_in_chunk(plan, source, chunk + 1) - first,
                  position = there.out_begin[own] + first - order->in_begin[source],
                  *row = order->in_row.data + first;
    struct moire_side to = moire_side_of_buffers(transfer->to, transfer->to_numbers, row, row);
    struct moire_side from = side_of_peer(transfer, peer, there.token + position, there.slot + position);
    moire_copy_rows(transfer->exchange, &to, &from, count);
}

/* Each rank begins with its own rows, so that no memory is read by all at once. */
void moire_near_take(struct moire_transfer *transfer, int chunk)
{
    const struct moire_node_memory *memory = near_of(transfer->exchange)->memory;
    for (int i = 0; i < memory->size; i++) take_from(transfer, (memory->self + i) % memory->size, chunk);
}

void moire_near_have_read(struct moire_transfer *transfer)
{
    moire_node_flag_publish(near_of(transfer->exchange)->memory, moire_near_flag(transfer, MOIRE_NEAR_READ),
                            moire_near_epoch(transfer, 0));
}

bool moire_near_all_have_read(const struct moire_transfer *transfer)
{
    return moire_node_flag_reached(near_of(transfer->exchange)->memory,
                                   moire_near_flag(transfer, MOIRE_NEAR_READ), moire_near_epoch(transfer, 0));
}

void moire_near_sources(const struct moire_transfer *transfer, const struct moire_rows *buffer,
                        struct moire_sum_source *sources)
{
    const struct moire_node_memory *memory = near_of(transfer->exchange)->memory;
    const int id = ((struct moire_node_block *)buffer->backend)->id;
    for (int peer = 0; peer < memory->size; peer++)
        sources[peer] = (struct moire_sum_source) { .data = moire_node_memory_peer(memory, peer, id),
                                                    .stride = buffer->width *
                                                              (int64_t)moire_element_bytes(buffer->element) };
}

int64_t moire_near_memory(const struct moire_exchange_sizes *sizes, int flags_each)
{
    const int64_t ranks = sizes->ranks, chunks = sizes->chunks > 0 ? sizes->chunks : 1;
    int64_t bytes = (int64_t)sizeof(struct moire_near) +
                    moire_node_memory_bytes(sizes->ranks, sizes->ranks_in_node,
                                            flags_each * sizes->contexts + 1, sizes->buffers + sizes->plans);
    for (int i = 0; i < sizes->plans; i++) {
        const struct moire_plan_rows *rows = &sizes->rows[i];
        int64_t words = LENGTHS + ranks * (chunks + 1) + ranks + 1 + 2 * rows->copies + rows->received;
        bytes += (int64_t)sizeof(struct moire_near_plan) +
                 moire_pages_bytes(words * (int64_t)sizeof(int64_t)) +
                 rows->copies * (int64_t)sizeof(struct moire_place);
    }
    return bytes;
}
