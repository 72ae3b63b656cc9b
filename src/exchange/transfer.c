/* Contexts: begin, progress, end. */
#include <sched.h>

#include "exchange/private.h"

static moire_status check_buffer(const struct moire_exchange *exchange, const struct moire_rows *buffer,
                                 int64_t width, int64_t rows, const char *what)
{
    if (buffer->element == exchange->settings.element && buffer->width == width &&
        buffer->capacity_rows >= rows)
        return MOIRE_OK;
    return moire_fail(
        MOIRE_FAILED,
        "exchange: %s: found room for %lld rows of %lld %s, expected at least %lld of %lld %s; give "
        "the buffer to the plan, or prepare the plan again",
        what, (long long)buffer->capacity_rows, (long long)buffer->width, moire_element_name(buffer->element),
        (long long)rows, (long long)width, moire_element_name(exchange->settings.element));
}

/* The lowest closed context: the same one on every rank as long as the same transfers are open on all. */
static moire_status find_context(struct moire_exchange *exchange, struct moire_transfer **transfer)
{
    for (int i = 0; i < exchange->settings.contexts; i++)
        if (!exchange->transfers[i].open) {
            *transfer = &exchange->transfers[i];
            return MOIRE_OK;
        }
    return moire_fail(
        MOIRE_FAILED,
        "exchange: all contexts are open; found %d, expected fewer; end a transfer first or ask for "
        "more contexts",
        exchange->settings.contexts);
}

/* Whichever way the rows go: tokens and slots are on one side, received rows on the other. */
static moire_status open_context(struct moire_plan *plan, const struct moire_rows *tokens,
                                 const struct moire_rows *slots, const struct moire_rows *received,
                                 const struct moire_rows *received_numbers, struct moire_transfer **transfer)
{
    const struct moire_exchange *exchange = plan->exchange;
    if (!plan->prepared)
        return moire_fail(
            MOIRE_FAILED,
            "exchange: the plan is not prepared; call moire_exchange_prepare before a transfer");
    if (!slots != !received_numbers)
        return moire_fail(MOIRE_FAILED,
                          "exchange: numbers on one side only; expected buffers on both sides or none");
    MOIRE_TRY(
        check_buffer(exchange, tokens, exchange->settings.width, plan->routing.tokens, "rows of the tokens"));
    MOIRE_TRY(
        check_buffer(exchange, received, exchange->settings.width, plan->received_rows, "received rows"));
    if (slots) {
        MOIRE_TRY(check_buffer(exchange, slots, 1, plan->routing.slots, "numbers of the slots"));
        MOIRE_TRY(
            check_buffer(exchange, received_numbers, 1, plan->received_rows, "numbers of the received rows"));
    }
    return find_context(plan->exchange, transfer);
}

/* How a transfer starts: with no row ready to leave, with all, or with all and to its end in one call. */
enum form { OPEN, SPLIT, BLOCKING };

static bool any_open(const struct moire_exchange *exchange)
{
    for (int i = 0; i < exchange->settings.contexts; i++)
        if (exchange->transfers[i].open) return true;
    return false;
}

/* A failure after this point is one of MPI, which ends the job: the context stays as it is. */
static moire_status start(struct moire_plan *plan, struct moire_transfer *free_context, enum form form,
                          struct moire_transfer **transfer)
{
    struct moire_order *order = plan->private_state;
    free_context->plan = plan;
    free_context->blocks = form == BLOCKING && !any_open(plan->exchange);
    free_context->ready = form == OPEN ? 0 : plan->exchange->settings.chunks;
    free_context->landed = free_context->taken = 0;
    free_context->done = false;
    free_context->open = true;
    order->open++;
    MOIRE_TRY(plan->exchange->backend->begin(free_context));
    *transfer = free_context;
    return MOIRE_OK;
}

static moire_status dispatch(struct moire_plan *plan, const struct moire_rows *rows,
                             const struct moire_rows *numbers, struct moire_rows *received,
                             struct moire_rows *received_numbers, enum form form,
                             struct moire_transfer **transfer)
{
    struct moire_transfer *context = NULL;
    MOIRE_TRY(open_context(plan, rows, numbers, received, received_numbers, &context));
    context->combine = false;
    context->from = rows;
    context->from_numbers = numbers;
    context->to = received;
    context->to_numbers = received_numbers;
    return start(plan, context, form, transfer);
}

static moire_status combine(struct moire_plan *plan, const struct moire_rows *outputs,
                            const struct moire_rows *output_numbers, struct moire_rows *rows,
                            struct moire_rows *numbers, enum form form, struct moire_transfer **transfer)
{
    struct moire_transfer *context = NULL;
    MOIRE_TRY(open_context(plan, rows, numbers, outputs, output_numbers, &context));
    context->combine = true;
    context->from = outputs;
    context->from_numbers = output_numbers;
    context->to = rows;
    context->to_numbers = numbers;
    return start(plan, context, form, transfer);
}

moire_status moire_dispatch_begin(struct moire_plan *plan, const struct moire_rows *rows,
                                  const struct moire_rows *numbers, struct moire_rows *received,
                                  struct moire_rows *received_numbers, struct moire_transfer **transfer)
{
    return dispatch(plan, rows, numbers, received, received_numbers, SPLIT, transfer);
}

moire_status moire_combine_begin(struct moire_plan *plan, const struct moire_rows *outputs,
                                 const struct moire_rows *output_numbers, struct moire_rows *rows,
                                 struct moire_rows *numbers, struct moire_transfer **transfer)
{
    return combine(plan, outputs, output_numbers, rows, numbers, SPLIT, transfer);
}

moire_status moire_combine_open(struct moire_plan *plan, const struct moire_rows *outputs,
                                const struct moire_rows *output_numbers, struct moire_rows *rows,
                                struct moire_rows *numbers, struct moire_transfer **transfer)
{
    return combine(plan, outputs, output_numbers, rows, numbers, OPEN, transfer);
}

moire_status moire_dispatch(struct moire_plan *plan, const struct moire_rows *rows,
                            const struct moire_rows *numbers, struct moire_rows *received,
                            struct moire_rows *received_numbers)
{
    struct moire_transfer *transfer = NULL;
    MOIRE_TRY(dispatch(plan, rows, numbers, received, received_numbers, BLOCKING, &transfer));
    return moire_transfer_end(transfer);
}

moire_status moire_combine(struct moire_plan *plan, const struct moire_rows *outputs,
                           const struct moire_rows *output_numbers, struct moire_rows *rows,
                           struct moire_rows *numbers)
{
    struct moire_transfer *transfer = NULL;
    MOIRE_TRY(combine(plan, outputs, output_numbers, rows, numbers, BLOCKING, &transfer));
    return moire_transfer_end(transfer);
}

moire_status moire_exchange_progress(struct moire_exchange *exchange)
{
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct moire_transfer *transfer = &exchange->transfers[i];
        if (transfer->open && !transfer->done) MOIRE_TRY(exchange->backend->progress(transfer));
    }
    return MOIRE_OK;
}

bool moire_exchange_is_busy(const struct moire_exchange *exchange)
{
    for (int i = 0; i < exchange->settings.contexts; i++)
        if (exchange->transfers[i].open && !exchange->transfers[i].done) return true;
    return false;
}

/* A peer may wait until this rank has read its rows; so a rank that waits for anything must take. */
moire_status moire_exchange_advance(struct moire_exchange *exchange)
{
    MOIRE_TRY(moire_exchange_progress(exchange));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct moire_transfer *transfer = &exchange->transfers[i];
        while (transfer->open && !transfer->combine && transfer->taken < transfer->landed)
            MOIRE_TRY(exchange->backend->take(transfer, transfer->taken++));
    }
    return MOIRE_OK;
}

/* Between two looks. Yields even when MPI thinks that it has its core for itself, since under srun it cannot
 * know; but not at once: where ranks have cores of their own, what is waited for is often a microsecond away.
 */
static void rest(int *looks)
{
    const int spins = 50;
    if (++*looks > spins) sched_yield();
}

moire_status moire_exchange_wait(struct moire_exchange *exchange, MPI_Request *request, const char *operation)
{
    for (int looks = 0;;) {
        int done = 0;
        MOIRE_TRY(
            moire_mpi_check(MPI_Test(request, &done, MPI_STATUS_IGNORE), &exchange->communicator, operation));
        if (done) return MOIRE_OK;
        MOIRE_TRY(moire_exchange_advance(exchange));
        rest(&looks);
    }
}

moire_status moire_transfer_chunk(struct moire_transfer *transfer, int chunk)
{
    struct moire_exchange *exchange = transfer->exchange;
    moire_assert(chunk >= 0 && chunk < exchange->settings.chunks);
    if (transfer->combine) {
        if (transfer->ready <= chunk) transfer->ready = chunk + 1;
        return moire_exchange_progress(exchange);
    }
    for (int looks = 0; transfer->taken <= chunk;) {
        MOIRE_TRY(moire_exchange_advance(exchange));
        if (transfer->taken <= chunk) rest(&looks);
    }
    return MOIRE_OK;
}

moire_status moire_transfer_end(struct moire_transfer *transfer)
{
    struct moire_exchange *exchange = transfer->exchange;
    struct moire_order *order = transfer->plan->private_state;
    transfer->ready = exchange->settings.chunks;
    for (int looks = 0;;) {
        MOIRE_TRY(moire_exchange_advance(exchange));
        if (transfer->done && (transfer->combine || transfer->taken == exchange->settings.chunks)) break;
        rest(&looks);
    }
    moire_status status = exchange->backend->end(transfer);
    transfer->open = false;
    order->open--;
    return status;
}
