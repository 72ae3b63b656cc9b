/* Making and freeing an exchange. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "exchange/private.h"

const char *moire_level_name(int level)
{
    static const char *const names[MOIRE_LEVELS] = { "own rank", "in node", "between nodes" };
    return level >= 0 && level < MOIRE_LEVELS ? names[level] : "unknown level";
}

int moire_exchange_level(const struct moire_exchange *exchange, int rank)
{
    int own = exchange->communicator.rank;
    if (rank == own) return MOIRE_LEVEL_SELF;
    return exchange->node_of[rank] == exchange->node_of[own] ? MOIRE_LEVEL_NODE : MOIRE_LEVEL_FAR;
}

int64_t moire_exchange_row_bytes(const struct moire_exchange *exchange, bool with_number)
{
    return (exchange->settings.width + (with_number ? 1 : 0))
           * (int64_t)moire_element_bytes(exchange->settings.element);
}

moire_status moire_exchange_grow(struct moire_exchange *exchange, void *pointer, int64_t *capacity,
                                 int64_t count, size_t bytes_each)
{
    void *old;
    memcpy(&old, pointer, sizeof old);
    if (old && count <= *capacity) return MOIRE_OK;
    int64_t wanted = moire_grown(old ? *capacity : 0, count);
    moire_release(old);
    old = NULL;
    memcpy(pointer, &old, sizeof old);
    *capacity = 0;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, wanted, bytes_each, pointer));
    *capacity = wanted;
    exchange->growths++;
    return MOIRE_OK;
}

moire_status moire_table_grow(struct moire_exchange *exchange, struct moire_table *table, int64_t count)
{
    return moire_exchange_grow(exchange, &table->data, &table->capacity, count, sizeof *table->data);
}

void moire_table_free(struct moire_table *table)
{
    moire_release(table->data);
    *table = (struct moire_table){ 0 };
}

static moire_status check_settings(const struct moire_exchange_settings *settings,
                                   const struct moire_communicator *communicator,
                                   const struct moire_placement *placement)
{
    if (settings->contexts < 1 || settings->contexts > MOIRE_CONTEXTS_MOST)
        return moire_fail(MOIRE_USAGE, "exchange: found %d contexts, expected 1 to %d", settings->contexts,
                          MOIRE_CONTEXTS_MOST);
    if (settings->width < 1 || settings->width >= INT_MAX)
        return moire_fail(MOIRE_USAGE, "exchange: found rows of %lld elements, expected 1 to %d",
                          (long long)settings->width, INT_MAX - 1);
    if (settings->round_bytes < 1)
        return moire_fail(
            MOIRE_USAGE,
            "exchange: found rounds of %lld bytes, expected at least 1; set exchange.round_bytes",
            (long long)settings->round_bytes);
    if (placement->ranks != communicator->size)
        return moire_fail(MOIRE_USAGE, "exchange: the placement is for %d ranks, expected %d",
                          placement->ranks, communicator->size);
    return MOIRE_OK;
}

/* Ranks by node, then rank, and from near to far. Nodes may have any number, so they are ordered by repeated
 * search of the next one; that is quadratic in nodes, once. */
static void order_ranks(struct moire_exchange *exchange)
{
    const int ranks = exchange->communicator.size, *node_of = exchange->node_of;
    int near = 0;
    for (int level = 0; level < MOIRE_LEVELS; level++)
        for (int r = 0; r < ranks; r++)
            if (moire_exchange_level(exchange, r) == level) exchange->near_order[near++] = r;
    int64_t last = INT64_MIN;
    for (int placed = 0; placed < ranks;) {
        int64_t next = INT64_MAX;
        for (int r = 0; r < ranks; r++)
            if (node_of[r] > last && node_of[r] < next) next = node_of[r];
        for (int r = 0; r < ranks; r++)
            if (node_of[r] == next) exchange->node_order[placed++] = r;
        last = next;
    }
}

/* MPI's arguments of the exchange of counts (plan.c): to each rank one error word and a count for each of its
 * instances; the same from each rank for the instances here. */
static moire_status count_words(struct moire_exchange *exchange)
{
    const int ranks = exchange->communicator.size;
    const struct moire_placement *placement = exchange->placement;
    int *send = exchange->word_counts, *send_at = send + ranks, *receive = send_at + ranks,
        *receive_at = receive + ranks, total;
    int64_t here = 1 + moire_placement_local(placement, exchange->communicator.rank);
    MOIRE_TRY(moire_narrow(placement->instances + ranks, "the number of instances", &total));
    MOIRE_TRY(moire_narrow(here * ranks, "instances of a rank times ranks", &total));
    for (int r = 0; r < ranks; r++) {
        send[r] = (int)(1 + moire_placement_local(placement, r));
        send_at[r] = (int)(r + placement->rank_begin[r]);
        receive[r] = (int)here;
        receive_at[r] = (int)(r * here);
    }
    return MOIRE_OK;
}

/* Everything that needs no other rank. */
static moire_status set_up(struct moire_exchange *exchange, const struct moire_exchange_settings *settings,
                           const struct moire_communicator *communicator)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    MOIRE_TRY(check_settings(settings, communicator, exchange->placement));
    exchange->settings = *settings;
    exchange->communicator.rank = communicator->rank;
    exchange->communicator.size = communicator->size;
    MOIRE_TRY(moire_allocate(kind, communicator->size, sizeof(int), &exchange->near_order));
    MOIRE_TRY(moire_allocate(kind, communicator->size, sizeof(int), &exchange->node_order));
    MOIRE_TRY(moire_allocate(kind, 4 * (int64_t)communicator->size, sizeof(int), &exchange->word_counts));
    order_ranks(exchange);
    MOIRE_TRY(count_words(exchange));
    /* Displacements within a round must fit an int as well: they are below P rounds. */
    exchange->round_rows = settings->round_bytes / moire_exchange_row_bytes(exchange, true);
    if (exchange->round_rows > INT_MAX / communicator->size)
        exchange->round_rows = INT_MAX / communicator->size;
    if (exchange->round_rows < 1) exchange->round_rows = 1;
    MOIRE_TRY(moire_backend_find(exchange, settings->backend, &exchange->backend));
    exchange->settings.backend = exchange->backend->name;
    return MOIRE_OK;
}

static moire_status connect(struct moire_exchange *exchange, const struct moire_communicator *communicator)
{
    MOIRE_TRY(moire_communicator_copy(communicator, "exchange", &exchange->communicator));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        char name[32];
        snprintf(name, sizeof name, "exchange context %d", i);
        exchange->transfers[i].exchange = exchange;
        MOIRE_TRY(moire_communicator_copy(communicator, name, &exchange->transfers[i].communicator));
    }
    return exchange->backend->init(exchange);
}

moire_status moire_exchange_create(const struct moire_exchange_settings *settings,
                                   const struct moire_communicator *communicator, const int *node_of,
                                   const struct moire_placement *placement, struct moire_exchange **exchange)
{
    struct moire_exchange *new = NULL;
    moire_status status = moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *new, &new);
    if (status == MOIRE_OK) {
        new->node_of = node_of;
        new->placement = placement;
        status = set_up(new, settings, communicator);
        new->communicator = (struct moire_communicator){ .mpi = MPI_COMM_NULL };
    }
    status = moire_agree(communicator, status);
    if (status == MOIRE_OK) status = connect(new, communicator);
    if (status != MOIRE_OK)
        moire_exchange_free(new);
    else
        *exchange = new;
    return status;
}

void moire_exchange_free(struct moire_exchange *exchange)
{
    if (!exchange) return;
    for (int i = 0; i < MOIRE_CONTEXTS_MOST; i++) moire_assert(!exchange->transfers[i].open);
    if (exchange->backend) exchange->backend->free(exchange);
    for (int i = 0; i < MOIRE_CONTEXTS_MOST; i++)
        moire_communicator_free(&exchange->transfers[i].communicator);
    moire_communicator_free(&exchange->communicator);
    moire_release(exchange->near_order);
    moire_release(exchange->node_order);
    moire_release(exchange->word_counts);
    moire_release(exchange);
}

const char *moire_exchange_backend(const struct moire_exchange *exchange)
{
    return exchange->backend->name;
}

void moire_exchange_describe(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    exchange->backend->print(exchange, line, line_bytes);
}

int64_t moire_exchange_growths(const struct moire_exchange *exchange)
{
    return exchange->growths;
}

void moire_exchange_bytes(const struct moire_exchange *exchange, int64_t bytes[MOIRE_LEVELS])
{
    memcpy(bytes, exchange->bytes, sizeof exchange->bytes);
}

int moire_exchange_volume(const struct moire_plan *plan, struct moire_stage *stages, int room)
{
    moire_assert(plan->prepared);
    return plan->exchange->backend->volume(plan, stages, room);
}
