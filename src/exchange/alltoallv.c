/* alltoallv: the reference. One row for each copy (slot, instance), packed by destination and moved by
 * MPI_Ialltoallv.
 *
 * It wins where MPI's all-to-all is good and few copies of a token go to the same node; it runs wherever MPI
 * does. Memory: in each context staging for all copies sent to and received from other ranks, on top of the
 * caller's buffers. Rows of this rank's own instances are copied, or summed, straight from buffer to buffer.
 *
 * The number of a slot travels behind its row, as element `width` of a row of the staging: one message a peer
 * instead of two, one set of counts, no second latency. It costs nothing: rows are packed anyway, and the
 * number is one element more of the same copy.
 *
 * More rows to a peer than exchange->round_rows are cut into rounds. Staging is round-major: the rows of
 * round 0 by peer, then those of round 1, ...; so displacements within a round fit an int and each round is
 * one contiguous run. All ranks make as many rounds as the largest pair of all needs (agreed on in prepare),
 * where theirs may be empty. */
#include <stdio.h>
#include <string.h>

#include "exchange/private.h"

/* One side of a context: rows to other ranks, or rows from them. */
struct staging {
    unsigned char *data;
    int64_t capacity;    /* bytes */
    unsigned char *next; /* larger memory that waits for the end of an open transfer */
    int64_t next_capacity;
};

struct context {
    struct staging out, in; /* rows of copies sent from here; rows received here (in a dispatch) */
    MPI_Request request;
    int64_t round;
    int64_t sent, landed; /* rows of earlier rounds */
    int *counts;          /* [4 P]: of the round under way */
};

struct layout {                             /* of a plan; all in the order of the staging */
    struct moire_table out_token, out_slot; /* [out_rows] token and slot of a copy */
    struct moire_table in_row;              /* [in_rows] row of `received` */
    struct moire_place *places;             /* [copies] by position */
    int64_t place_capacity;
    int64_t out_rows, in_rows;       /* to and from other ranks */
    int64_t in_levels[MOIRE_LEVELS]; /* received rows by the level of their source */
};

struct state {
    MPI_Datatype row[2]; /* without and with a number */
};

enum { FROM_STAGING, FROM_OWN }; /* places[].source */

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    (void)exchange, (void)why, (void)why_bytes;
    return true;
}

static moire_status allocate(struct moire_exchange *exchange)
{
    struct state *state = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *state, &state));
    state->row[0] = state->row[1] = MPI_DATATYPE_NULL;
    exchange->backend_state = state;
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct context *context = NULL;
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *context, &context));
        exchange->transfers[i].backend_state = context;
        context->request = MPI_REQUEST_NULL;
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 4 * (int64_t)exchange->communicator.size, sizeof(int),
                                 &context->counts));
    }
    return MOIRE_OK;
}

/* Counts are in rows. */
static moire_status make_types(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    MPI_Datatype element = exchange->settings.element == MOIRE_FLOAT64 ? MPI_DOUBLE : MPI_FLOAT;
    for (int with_number = 0; with_number < 2; with_number++) {
        int width = 0;
        MOIRE_TRY(moire_narrow(exchange->settings.width + with_number, "the width of a row", &width));
        int result = MPI_Type_contiguous(width, element, &state->row[with_number]);
        if (result == MPI_SUCCESS) result = MPI_Type_commit(&state->row[with_number]);
        MOIRE_TRY(moire_mpi_check(result, &exchange->communicator, "MPI_Type_contiguous"));
    }
    return MOIRE_OK;
}

static moire_status init(struct moire_exchange *exchange)
{
    moire_status status = allocate(exchange);
    if (status == MOIRE_OK) status = make_types(exchange);
    return moire_agree(&exchange->communicator, status);
}

static void free_staging(struct staging *staging)
{
    moire_release(staging->data);
    moire_release(staging->next);
}

static void free_exchange(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    if (!state) return;
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct context *context = exchange->transfers[i].backend_state;
        if (!context) continue;
        free_staging(&context->out);
        free_staging(&context->in);
        moire_release(context->counts);
        moire_release(context);
    }
    for (int i = 0; i < 2; i++)
        if (state->row[i] != MPI_DATATYPE_NULL) MPI_Type_free(&state->row[i]);
    moire_release(state);
}

/* Plans. */

static moire_status plan_create(struct moire_plan *plan)
{
    return moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof(struct layout), &plan->backend_state);
}

static void plan_free(struct moire_plan *plan)
{
    struct layout *layout = plan->backend_state;
    if (!layout) return;
    moire_table_free(&layout->out_token);
    moire_table_free(&layout->out_slot);
    moire_table_free(&layout->in_row);
    moire_release(layout->places);
    moire_release(layout);
}

static void release(struct moire_plan *plan)
{
    (void)plan; /* tables are kept for the next prepare */
}

/* Rows to `peer` in round `round`, of those that begin[] gives; none to this rank. */
static int64_t rows_in_round(const struct moire_exchange *exchange, const int64_t *begin, int peer,
                             int64_t round)
{
    int64_t left = begin[peer + 1] - begin[peer] - round * exchange->round_rows;
    if (peer == exchange->communicator.rank || left <= 0) return 0;
    return left < exchange->round_rows ? left : exchange->round_rows;
}

static int64_t rounds_needed(const struct moire_exchange *exchange, const int64_t *begin)
{
    int64_t largest = 0;
    for (int peer = 0; peer < exchange->communicator.size; peer++) {
        int64_t rows = begin[peer + 1] - begin[peer];
        if (peer != exchange->communicator.rank && rows > largest) largest = rows;
    }
    return (largest + exchange->round_rows - 1) / exchange->round_rows;
}

/* staged[s] = the index, among the rows that begin[] counts by peer, of the row at place s of the staging. */
static void order_staging(const struct moire_exchange *exchange, const int64_t *begin, int64_t *staged)
{
    const int64_t rounds = rounds_needed(exchange, begin);
    int64_t s = 0;
    for (int64_t round = 0; round < rounds; round++)
        for (int peer = 0; peer < exchange->communicator.size; peer++) {
            int64_t first = begin[peer] + round * exchange->round_rows;
            int64_t rows = rows_in_round(exchange, begin, peer, round);
            for (int64_t k = 0; k < rows; k++) staged[s++] = first + k;
        }
}

static void lay_out(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct layout *layout = plan->backend_state;
    const int own = exchange->communicator.rank;
    /* The tables hold the staged indices first and are replaced in place by what they stand for. */
    order_staging(exchange, order->out_begin, layout->out_token.data);
    for (int64_t s = 0; s < layout->out_rows; s++) {
        int64_t position = layout->out_token.data[s];
        layout->out_token.data[s] = order->token.data[position];
        layout->out_slot.data[s] = order->slot.data[position];
        layout->places[position] = (struct moire_place){ .row = s, .source = FROM_STAGING };
    }
    order_staging(exchange, order->in_begin, layout->in_row.data);
    for (int64_t s = 0; s < layout->in_rows; s++)
        layout->in_row.data[s] = order->in_row.data[layout->in_row.data[s]];
    for (int64_t k = order->out_begin[own]; k < order->out_begin[own + 1]; k++)
        layout->places[k] =
            (struct moire_place){ .row = order->in_row.data[order->in_begin[own] + k - order->out_begin[own]],
                                  .source = FROM_OWN };
    for (int peer = 0; peer < exchange->communicator.size; peer++)
        for (int64_t k = order->out_begin[peer]; k < order->out_begin[peer + 1]; k++)
            layout->places[k].node = exchange->node_of[peer];
}

static void count_levels(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct layout *layout = plan->backend_state;
    memset(layout->in_levels, 0, sizeof layout->in_levels);
    for (int peer = 0; peer < exchange->communicator.size; peer++) {
        int level = moire_exchange_level(exchange, peer);
        plan->rows_out[level] += order->out_begin[peer + 1] - order->out_begin[peer];
        layout->in_levels[level] += order->in_begin[peer + 1] - order->in_begin[peer];
    }
    layout->out_rows = plan->copies - plan->rows_out[MOIRE_LEVEL_SELF];
    layout->in_rows = plan->received_rows - layout->in_levels[MOIRE_LEVEL_SELF];
}

/* MPI may be reading or writing the memory of an open transfer: the larger one then waits beside it. */
static moire_status grow_staging(struct moire_exchange *exchange, struct staging *staging, bool open,
                                 int64_t rows)
{
    int64_t bytes = 0;
    if (__builtin_mul_overflow(rows, moire_exchange_row_bytes(exchange, true), &bytes))
        return moire_fail(MOIRE_NO_MEMORY, "exchange: %lld rows of staging are too large to count",
                          (long long)rows);
    if (staging->data && bytes <= staging->capacity) return MOIRE_OK;
    return open ? moire_exchange_grow(exchange, &staging->next, &staging->next_capacity, bytes, 1)
                : moire_exchange_grow(exchange, &staging->data, &staging->capacity, bytes, 1);
}

/* Every context must be able to take any prepared plan: which one it gets is known at begin, and that is too
 * late. */
static moire_status grow(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    struct layout *layout = plan->backend_state;
    MOIRE_TRY(moire_table_grow(exchange, &layout->out_token, layout->out_rows));
    MOIRE_TRY(moire_table_grow(exchange, &layout->out_slot, layout->out_rows));
    MOIRE_TRY(moire_table_grow(exchange, &layout->in_row, layout->in_rows));
    MOIRE_TRY(moire_exchange_grow(exchange, &layout->places, &layout->place_capacity, plan->copies,
                                  sizeof *layout->places));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct moire_transfer *transfer = &exchange->transfers[i];
        struct context *context = transfer->backend_state;
        MOIRE_TRY(grow_staging(exchange, &context->out, transfer->open, layout->out_rows));
        MOIRE_TRY(grow_staging(exchange, &context->in, transfer->open, layout->in_rows));
    }
    return MOIRE_OK;
}

static moire_status prepare(struct moire_plan *plan, moire_status local)
{
    struct moire_order *order = plan->private_state;
    MOIRE_TRY(local);
    count_levels(plan);
    MOIRE_TRY(grow(plan));
    lay_out(plan);
    int64_t out = rounds_needed(plan->exchange, order->out_begin),
            in = rounds_needed(plan->exchange, order->in_begin);
    order->rounds = out > in ? out : in;
    return MOIRE_OK;
}

/* Transfers. */

static int64_t row_bytes(const struct moire_transfer *transfer)
{
    return moire_exchange_row_bytes(transfer->exchange, transfer->from_numbers != NULL);
}

/* MPI's counts and displacements of the round under way; returns its rows. Both fit: see
 * exchange->round_rows. */
static int64_t fill_counts(const struct moire_transfer *transfer, const int64_t *begin, int *counts,
                           int *displacements)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct context *context = transfer->backend_state;
    int64_t rows = 0;
    for (int peer = 0; peer < exchange->communicator.size; peer++) {
        int64_t count = rows_in_round(exchange, begin, peer, context->round);
        displacements[peer] = (int)rows;
        counts[peer] = (int)count;
        rows += count;
    }
    return rows;
}

static moire_status post_round(struct moire_transfer *transfer, bool *done)
{
    const struct moire_order *order = transfer->plan->private_state;
    const struct state *state = transfer->exchange->backend_state;
    struct context *context = transfer->backend_state;
    const int ranks = transfer->exchange->communicator.size;
    *done = context->round == order->rounds;
    if (*done) return MOIRE_OK;
    const struct staging *from = transfer->combine ? &context->in : &context->out;
    const struct staging *to = transfer->combine ? &context->out : &context->in;
    int *c = context->counts;
    int64_t out = fill_counts(transfer, transfer->combine ? order->in_begin : order->out_begin, c, c + ranks);
    int64_t in = fill_counts(transfer, transfer->combine ? order->out_begin : order->in_begin, c + 2 * ranks,
                             c + 3 * ranks);
    MPI_Datatype row = state->row[transfer->from_numbers != NULL];
    int result = MPI_Ialltoallv(from->data + context->sent * row_bytes(transfer), c, c + ranks, row,
                                to->data + context->landed * row_bytes(transfer), c + 2 * ranks,
                                c + 3 * ranks, row, transfer->communicator.mpi, &context->request);
    context->sent += out;
    context->landed += in;
    return moire_mpi_check(result, &transfer->communicator, "MPI_Ialltoallv");
}

/* A number is element `width` of its row of the staging. */
static struct moire_side staging_side(const struct moire_transfer *transfer, const struct staging *staging)
{
    char *rows = (char *)staging->data;
    int64_t number_at = moire_exchange_row_bytes(transfer->exchange, false), stride = row_bytes(transfer);
    return (struct moire_side){ .rows = rows,
                                .numbers = transfer->from_numbers ? rows + number_at : NULL,
                                .stride = stride,
                                .number_stride = stride };
}

static void pack(const struct moire_transfer *transfer)
{
    const struct layout *layout = transfer->plan->backend_state;
    const struct context *context = transfer->backend_state;
    const bool combine = transfer->combine;
    struct moire_side to = staging_side(transfer, combine ? &context->in : &context->out);
    struct moire_side from = moire_side_of_buffers(transfer->from, transfer->from_numbers,
                                                   combine ? layout->in_row.data : layout->out_token.data,
                                                   combine ? layout->in_row.data : layout->out_slot.data);
    moire_copy_rows(transfer->exchange, &to, &from, combine ? layout->in_rows : layout->out_rows);
}

static void unpack(const struct moire_transfer *transfer)
{
    const struct layout *layout = transfer->plan->backend_state;
    const struct context *context = transfer->backend_state;
    const int64_t *row = layout->in_row.data;
    struct moire_side to = moire_side_of_buffers(transfer->to, transfer->to_numbers, row, row);
    struct moire_side from = staging_side(transfer, &context->in);
    moire_copy_rows(transfer->exchange, &to, &from, layout->in_rows);
}

/* Rows from here to here, while the wire works. */
static void copy_own(const struct moire_transfer *transfer)
{
    const struct moire_order *order = transfer->plan->private_state;
    const int own = transfer->exchange->communicator.rank;
    const int64_t first = order->out_begin[own], *row = order->in_row.data + order->in_begin[own];
    struct moire_side to = moire_side_of_buffers(transfer->to, transfer->to_numbers, row, row);
    struct moire_side from = moire_side_of_buffers(transfer->from, transfer->from_numbers,
                                                   order->token.data + first, order->slot.data + first);
    moire_copy_rows(transfer->exchange, &to, &from, order->out_begin[own + 1] - first);
}

/* The rows of each token, in the association of the plan: from the staging, or where they were left on this
 * rank. */
static void sum(const struct moire_transfer *transfer)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct moire_plan *plan = transfer->plan;
    const struct moire_order *order = plan->private_state;
    const struct layout *layout = plan->backend_state;
    const struct context *context = transfer->backend_state;
    const int64_t width = exchange->settings.width, stride = width + (transfer->from_numbers ? 1 : 0);
    struct moire_sum tokens = { .element = exchange->settings.element,
                                .width = width,
                                .begin = order->token_begin.data,
                                .order = order->token_order.data,
                                .places = layout->places,
                                .sources = { [FROM_STAGING] = { context->out.data, stride },
                                             [FROM_OWN] = { transfer->from->data, width } } };
    moire_sum_rows(&tokens, transfer->to->data, plan->routing.tokens);
    if (!transfer->to_numbers) return;
    struct moire_sum slots = tokens;
    slots.width = 1;
    slots.begin = order->slot_begin.data;
    slots.order = order->slot_order.data;
    slots.sources[FROM_STAGING].data = context->out.data + moire_exchange_row_bytes(exchange, false);
    slots.sources[FROM_OWN].data = transfer->from_numbers->data;
    slots.sources[FROM_OWN].stride = 1;
    moire_sum_rows(&slots, transfer->to_numbers->data, plan->routing.slots);
}

static moire_status begin(struct moire_transfer *transfer)
{
    struct moire_exchange *exchange = transfer->exchange;
    const struct layout *layout = transfer->plan->backend_state;
    struct context *context = transfer->backend_state;
    context->round = context->sent = context->landed = 0;
    pack(transfer);
    MOIRE_TRY(post_round(transfer, &transfer->done));
    if (!transfer->combine) copy_own(transfer);
    const int64_t *rows = transfer->combine ? layout->in_levels : transfer->plan->rows_out;
    for (int level = 0; level < MOIRE_LEVELS; level++)
        exchange->bytes[level] += rows[level] * row_bytes(transfer);
    return MOIRE_OK;
}

static moire_status progress(struct moire_transfer *transfer, bool *done)
{
    struct context *context = transfer->backend_state;
    int arrived = 0;
    MOIRE_TRY(moire_mpi_check(MPI_Test(&context->request, &arrived, MPI_STATUS_IGNORE),
                              &transfer->communicator, "MPI_Ialltoallv"));
    if (!arrived) return MOIRE_OK;
    context->round++;
    return post_round(transfer, done);
}

static void adopt_next(struct staging *staging)
{
    if (!staging->next) return;
    moire_release(staging->data);
    *staging = (struct staging){ .data = staging->next, .capacity = staging->next_capacity };
}

static moire_status end(struct moire_transfer *transfer)
{
    struct context *context = transfer->backend_state;
    if (transfer->combine)
        sum(transfer);
    else
        unpack(transfer);
    adopt_next(&context->out);
    adopt_next(&context->in);
    return MOIRE_OK;
}

/* What the planner and people read. */

static int64_t messages(const struct moire_plan *plan, const int64_t *begin)
{
    const struct moire_exchange *exchange = plan->exchange;
    int64_t all = 0;
    for (int peer = 0; peer < exchange->communicator.size; peer++)
        if (peer != exchange->communicator.rank)
            all += (begin[peer + 1] - begin[peer] + exchange->round_rows - 1) / exchange->round_rows;
    return all;
}

static int slowest(const int64_t *out, const int64_t *in)
{
    for (int level = MOIRE_LEVEL_FAR; level > MOIRE_LEVEL_SELF; level--)
        if (out[level] + in[level] > 0) return level;
    return MOIRE_LEVEL_SELF;
}

/* Rows out, rows back; each row with its number. */
static int volume(const struct moire_plan *plan, struct moire_stage *stages, int room)
{
    const struct moire_order *order = plan->private_state;
    const struct layout *layout = plan->backend_state;
    const int64_t bytes = moire_exchange_row_bytes(plan->exchange, true), *out = plan->rows_out,
                  *in = layout->in_levels;
    const struct moire_stage both[] = {
        { "rows out", slowest(out, in), messages(plan, order->out_begin), layout->out_rows * bytes,
          layout->in_rows * bytes, out[MOIRE_LEVEL_FAR] * bytes, in[MOIRE_LEVEL_FAR] * bytes,
          (plan->copies + layout->in_rows) * bytes, -1 },
        { "rows back", slowest(out, in), messages(plan, order->in_begin), layout->in_rows * bytes,
          layout->out_rows * bytes, in[MOIRE_LEVEL_FAR] * bytes, out[MOIRE_LEVEL_FAR] * bytes,
          (layout->in_rows + plan->copies) * bytes, 0 },
    };
    const int count = sizeof both / sizeof *both;
    for (int i = 0; i < count && i < room; i++) stages[i] = both[i];
    return count;
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
    .plan_create = plan_create,
    .prepare = prepare,
    .begin = begin,
    .progress = progress,
    .end = end,
    .release = release,
    .volume = volume,
    .print = print,
    .plan_free = plan_free,
    .free = free_exchange,
};
