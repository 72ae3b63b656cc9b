/* alltoallv: the reference. One row for each copy (slot, instance), packed by destination (packed.h) and
 * moved by one MPI_Ialltoallv a step; by MPI_Alltoallv where the caller waits anyway.
 *
 * It wins where MPI's all-to-all is good and few copies of a token go to the same node; it runs wherever MPI
 * does. Memory: in each context staging for all copies sent to and received from other ranks, on top of the
 * caller's buffers. Rows of this rank's own instances are copied, or summed, straight from buffer to buffer.
 *
 * Staging is round-major, so displacements within a round fit an int and each round is one contiguous run. */
#include <stdio.h>

#include "exchange/packed.h"

struct context {
    struct moire_packed_context packed;
    MPI_Request request;
    int *counts; /* [4 P]: MPI's arguments of the step under way */
};

struct state {
    MPI_Datatype row[2]; /* without and with a number */
};

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    (void)exchange, (void)why, (void)why_bytes;
    return true;
}

static moire_status set_up(struct moire_exchange *exchange)
{
    struct state *state = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *state, &state));
    exchange->backend_state = state;
    state->row[0] = state->row[1] = MPI_DATATYPE_NULL;
    MOIRE_TRY(moire_packed_types_create(exchange, state->row));
    MOIRE_TRY(moire_packed_contexts_create(exchange, sizeof(struct context)));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct context *context = exchange->transfers[i].backend_state;
        context->request = MPI_REQUEST_NULL;
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 4 * (int64_t)exchange->communicator.size, sizeof(int),
                                 &context->counts));
    }
    return MOIRE_OK;
}

static moire_status init(struct moire_exchange *exchange)
{
    return moire_agree(&exchange->communicator, set_up(exchange));
}

static void free_exchange(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    if (!state) return;
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct context *context = exchange->transfers[i].backend_state;
        if (context) moire_release(context->counts);
    }
    moire_packed_contexts_free(exchange);
    moire_packed_types_free(state->row);
    moire_release(state);
}

/* Rows and first rows as MPI wants them: both fit, see exchange->round_rows. Returns where the first row is.
 */
static int64_t fill_counts(int ranks, const int64_t *rows, const int64_t *at, int *counts, int *displacements)
{
    for (int peer = 0; peer < ranks; peer++) {
        counts[peer] = (int)rows[peer];
        displacements[peer] = (int)(at[peer] - at[0]);
    }
    return at[0];
}

static moire_status post(struct moire_transfer *transfer)
{
    const struct state *state = transfer->exchange->backend_state;
    struct context *context = transfer->backend_state;
    const struct moire_packed_context *packed = &context->packed;
    const int ranks = transfer->exchange->communicator.size;
    int *out = context->counts, *in = out + 2 * ranks;
    int64_t from = fill_counts(ranks, packed->send_rows, packed->send_at, out, out + ranks);
    int64_t to = fill_counts(ranks, packed->receive_rows, packed->receive_at, in, in + ranks);
    MPI_Datatype row = state->row[transfer->from_numbers != NULL];
    unsigned char *send = moire_packed_from(transfer, from), *receive = moire_packed_to(transfer, to);
    MPI_Comm communicator = transfer->communicator.mpi;
    int result = transfer->blocks
                     ? MPI_Alltoallv(send, out, out + ranks, row, receive, in, in + ranks, row, communicator)
                     : MPI_Ialltoallv(send, out, out + ranks, row, receive, in, in + ranks, row, communicator,
                                      &context->request);
    return moire_mpi_check(result, &transfer->communicator,
                           transfer->blocks ? "MPI_Alltoallv" : "MPI_Ialltoallv");
}

static moire_status progress(struct moire_transfer *transfer)
{
    struct context *context = transfer->backend_state;
    while (!transfer->done) {
        int arrived = 0;
        if (context->request == MPI_REQUEST_NULL) {
            if (!moire_packed_next(transfer)) return MOIRE_OK;
            MOIRE_TRY(post(transfer));
        }
        MOIRE_TRY(moire_mpi_check(MPI_Test(&context->request, &arrived, MPI_STATUS_IGNORE),
                                  &transfer->communicator, "MPI_Ialltoallv"));
        if (!arrived) return MOIRE_OK;
        moire_packed_step_done(transfer);
    }
    return MOIRE_OK;
}

static moire_status begin(struct moire_transfer *transfer)
{
    moire_packed_start(transfer);
    MOIRE_TRY(progress(transfer));
    if (!transfer->combine) moire_packed_copy_own(transfer);
    return MOIRE_OK;
}

static void print(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    snprintf(line, line_bytes,
             "alltoallv: %lld bytes a row, at most %lld rows to a peer in one call, %d contexts",
             (long long)moire_exchange_row_bytes(exchange, true), (long long)exchange->round_rows,
             exchange->settings.contexts);
}

const struct moire_backend moire_backend_alltoallv = {
    .name = "alltoallv",
    .wins = "one row a slot by MPI_Ialltoallv; the reference, runs everywhere",
    .applicable = applicable,
    .init = init,
    .rows_grow = moire_rows_grow_plain,
    .rows_free = moire_rows_free_plain,
    .plan_create = moire_packed_plan_create,
    .prepare = moire_packed_prepare,
    .begin = begin,
    .progress = progress,
    .take = moire_packed_take,
    .end = moire_packed_end,
    .release = moire_packed_release,
    .volume = moire_packed_volume,
    .memory = moire_packed_memory,
    .print = print,
    .plan_free = moire_packed_plan_free,
    .free = free_exchange,
};
