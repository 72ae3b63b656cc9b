/* Plans: their life, and the agreement on one exchange.
 *
 * prepare makes two small collectives.
 *
 * 1. Counts. Each rank tells each other rank its error word, what the back end has to say, and how many rows
 *    go to each of that rank's instances: one all-to-all of so many integers. Tokens and slots need not
 * travel: rows come in the order of the sender's positions. A failure before this point (of the router, of
 * the routing, of memory for the order) becomes known to all with it.
 *
 * 2. Agreement. Only with the counts does a rank know how many rows it receives, so only then can it grow its
 *    buffers, and fail. And nobody sees more than its own row and column of the table of counts: the largest
 *    number of received rows and the number of rounds, which all ranks must share, need a reduction anyway.
 *    One all-reduce of four integers brings all of that. It costs a latency and hardly any bytes; without it
 *    a rank out of memory would leave the others waiting in the first transfer.
 *
 * Both are non-blocking and waited for with moire_exchange_wait, so that a plan can be prepared while
 * transfers of other plans are open. */
#include <string.h>

#include "exchange/private.h"

#ifdef MOIRE_DEBUG
enum { ALWAYS_CHECK = true };
#else
enum { ALWAYS_CHECK = false };
#endif

static moire_status allocate(struct moire_plan *plan, struct moire_rows *const *buffers)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    MOIRE_TRY(
        moire_allocate(kind, plan->local_instances + 1, sizeof *plan->instance_begin, &plan->instance_begin));
    MOIRE_TRY(moire_allocate(kind, plan->local_instances, sizeof *plan->segments, &plan->segments));
    MOIRE_TRY(moire_allocate(kind, plan->exchange->settings.chunks + 1, sizeof *plan->chunk_segment,
                             &plan->chunk_segment));
    MOIRE_TRY(moire_allocate(kind, plan->buffer_count, sizeof *plan->buffers, &plan->buffers));
    if (plan->buffer_count > 0) memcpy(plan->buffers, buffers, (size_t)plan->buffer_count * sizeof *buffers);
    MOIRE_TRY(moire_order_create(plan));
    return plan->exchange->backend->plan_create(plan);
}

moire_status moire_plan_create(struct moire_exchange *exchange, struct moire_rows *const *buffers,
                               int buffer_count, struct moire_plan **plan)
{
    struct moire_plan *new = NULL;
    moire_status status = moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *new, &new);
    if (status == MOIRE_OK) {
        new->exchange = exchange;
        new->local_instances = moire_placement_local(exchange->placement, exchange->communicator.rank);
        new->buffer_count = buffer_count;
        status = allocate(new, buffers);
    }
    status = moire_agree(&exchange->communicator, status);
    if (status != MOIRE_OK)
        moire_plan_free(new);
    else
        *plan = new;
    return status;
}

void moire_plan_free(struct moire_plan *plan)
{
    if (!plan) return;
    moire_exchange_release(plan);
    plan->exchange->backend->plan_free(plan);
    moire_order_free(plan);
    moire_release(plan->instance_begin);
    moire_release(plan->segments);
    moire_release(plan->chunk_segment);
    moire_release(plan->buffers);
    moire_release(plan);
}

void moire_exchange_release(struct moire_plan *plan)
{
    const struct moire_order *order = plan->private_state;
    moire_assert(!order || order->open == 0);
    plan->exchange->backend->release(plan);
    plan->prepared = false;
}

/* To each rank: the error word, the back end's words, the counts of its instances. A rank that has failed
 * sends no rows. */
static void write_words(struct moire_plan *plan, moire_status local)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_placement *placement = exchange->placement;
    const struct moire_backend *backend = exchange->backend;
    struct moire_order *order = plan->private_state;
    int64_t *word = order->send_words;
    for (int r = 0; r < placement->ranks; r++) {
        *word++ = local;
        memset(word, 0, (size_t)backend->extra_words * sizeof *word);
        if (local == MOIRE_OK && backend->write_words) backend->write_words(plan, r, word);
        word += backend->extra_words;
        for (int64_t i = placement->rank_begin[r]; i < placement->rank_begin[r + 1]; i++)
            *word++ = local == MOIRE_OK ? order->instance_begin[i + 1] - order->instance_begin[i] : 0;
    }
}

static void count_words(struct moire_exchange *exchange)
{
    const int *words = exchange->word_counts;
    for (int r = 0; r < exchange->communicator.size; r++)
        exchange->bytes.index[moire_exchange_level(exchange, r)] += words[r] * (int64_t)sizeof(int64_t);
}

/* *error becomes MOIRE_OK when no rank has failed, and a failure when any has; alike on all ranks. */
static moire_status exchange_words(struct moire_plan *plan, moire_status local, moire_status *error)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    const int ranks = exchange->communicator.size, *words = exchange->word_counts;
    MPI_Request request = MPI_REQUEST_NULL;
    write_words(plan, local);
    count_words(exchange);
    int result = MPI_Ialltoallv(order->send_words, words, words + ranks, MPI_INT64_T, order->receive_words,
                                words + 2 * ranks, words + 3 * ranks, MPI_INT64_T, exchange->communicator.mpi,
                                &request);
    MOIRE_TRY(moire_mpi_check(result, &exchange->communicator, "MPI_Ialltoallv"));
    MOIRE_TRY(moire_exchange_wait(exchange, &request, "MPI_Ialltoallv"));
    *error = MOIRE_OK;
    for (int r = 0; r < ranks; r++) {
        int64_t word = order->receive_words[words[3 * ranks + r]];
        if (word > (int64_t)*error) *error = (moire_status)word;
    }
    return MOIRE_OK;
}

static moire_status grow_buffers(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    for (int i = 0; i < plan->buffer_count; i++) {
        struct moire_rows *buffer = plan->buffers[i];
        int64_t before = buffer->capacity_rows;
        MOIRE_TRY(exchange->backend->rows_grow(exchange, buffer, plan->received_rows));
        if (buffer->capacity_rows != before) exchange->growths++;
    }
    return MOIRE_OK;
}

/* Looks for a disagreement between what was sent and what arrived: every rank sends back how many rows it
 * expects. Without errors in this folder or in MPI there is none. */
static moire_status check_counts(struct moire_plan *plan, moire_status local)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    const int ranks = exchange->communicator.size;
    int64_t *expected = order->send_words, *echoed = order->cursor;
    MPI_Request request = MPI_REQUEST_NULL;
    for (int r = 0; r < ranks; r++) expected[r] = order->in_begin[r + 1] - order->in_begin[r];
    int result =
        MPI_Ialltoall(expected, 1, MPI_INT64_T, echoed, 1, MPI_INT64_T, exchange->communicator.mpi, &request);
    MOIRE_TRY(moire_mpi_check(result, &exchange->communicator, "MPI_Ialltoall"));
    MOIRE_TRY(moire_exchange_wait(exchange, &request, "MPI_Ialltoall"));
    for (int r = 0; r < ranks && local == MOIRE_OK; r++) {
        int64_t sent = order->out_begin[r + 1] - order->out_begin[r];
        if (echoed[r] != sent)
            local = moire_fail(
                MOIRE_FAILED,
                "exchange: rank %d of %s sends %lld rows to rank %d, which expects %lld; this is an "
                "error of the program or of MPI, try another exchange.backend",
                exchange->communicator.rank, exchange->communicator.name, (long long)sent, r,
                (long long)echoed[r]);
    }
    return local;
}

/* The back end goes last and always. */
static moire_status lay_out(struct moire_plan *plan)
{
    struct moire_order *order = plan->private_state;
    order->rounds = 0;
    order->changed = false;
    memset(plan->rows_out, 0, sizeof plan->rows_out);
    moire_status status = moire_order_receive(plan);
    if (status == MOIRE_OK) status = grow_buffers(plan);
    status = plan->exchange->backend->prepare(plan, status);
    return plan->exchange->settings.check || ALWAYS_CHECK ? check_counts(plan, status) : status;
}

static moire_status agree(struct moire_plan *plan, moire_status local)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    int64_t largest[] = { local, plan->received_rows, order->rounds, order->changed };
    const int count = sizeof largest / sizeof *largest;
    MPI_Request request = MPI_REQUEST_NULL;
    int result = MPI_Iallreduce(MPI_IN_PLACE, largest, count, MPI_INT64_T, MPI_MAX,
                                exchange->communicator.mpi, &request);
    MOIRE_TRY(moire_mpi_check(result, &exchange->communicator, "MPI_Iallreduce"));
    MOIRE_TRY(moire_exchange_wait(exchange, &request, "MPI_Iallreduce"));
    if (largest[0] != MOIRE_OK) return moire_agree(&exchange->communicator, local);
    plan->received_rows_maximum = largest[1];
    order->rounds = largest[2];
    order->changed = largest[3];
    return MOIRE_OK;
}

/* An open transfer still needs the plan's order, so that is not touched. */
static moire_status prepare_local(struct moire_plan *plan, const struct moire_routing *routing)
{
    struct moire_order *order = plan->private_state;
    if (order->open > 0)
        return moire_fail(
            MOIRE_FAILED,
            "exchange: a plan cannot be prepared while %d of its transfers are open; end them first",
            order->open);
    moire_exchange_release(plan);
    MOIRE_TRY(moire_order_send(plan, routing));
    return plan->exchange->backend->route ? plan->exchange->backend->route(plan) : MOIRE_OK;
}

static void raise(int64_t *most, int64_t value)
{
    if (value > *most) *most = value;
}

static void note_rows(struct moire_plan *plan)
{
    const struct moire_order *order = plan->private_state;
    const int own = plan->exchange->communicator.rank;
    struct moire_plan_rows *most = &plan->most;
    raise(&most->tokens, plan->routing.tokens);
    raise(&most->slots, plan->routing.slots);
    raise(&most->copies, plan->copies);
    raise(&most->received, plan->received_rows);
    raise(&most->out, plan->copies - (order->out_begin[own + 1] - order->out_begin[own]));
    raise(&most->relayed_out, order->relayed_out);
    raise(&most->relayed_in, order->relayed_in);
    raise(&most->relayed_out_copies, order->relayed_out_copies);
    raise(&most->relayed_in_copies, order->relayed_in_copies);
    raise(&most->in, plan->received_rows - (order->in_begin[own + 1] - order->in_begin[own]));
}

moire_status moire_exchange_prepare(struct moire_plan *plan, const struct moire_routing *routing,
                                    moire_status local)
{
    const struct moire_order *order = plan->private_state;
    moire_status error = MOIRE_OK;
    if (local == MOIRE_OK) local = prepare_local(plan, routing);
    MOIRE_TRY(exchange_words(plan, local, &error));
    if (error == MOIRE_OK)
        error = agree(plan, lay_out(plan));
    else
        error = moire_agree(&plan->exchange->communicator, local);
    if (error != MOIRE_OK && order->open == 0) moire_exchange_release(plan);
    if (error == MOIRE_OK && plan->exchange->backend->settle) error = plan->exchange->backend->settle(plan);
    plan->prepared = error == MOIRE_OK;
    if (plan->prepared) note_rows(plan);
    return error;
}
