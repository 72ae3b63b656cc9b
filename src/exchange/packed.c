#include "exchange/packed.h"

enum { FROM_STAGING, FROM_OWN, SOURCES }; /* places[].source */

/* Contexts. */

void moire_staging_free(struct moire_staging *staging)
{
    moire_release(staging->data);
    moire_release(staging->next);
}

moire_status moire_packed_contexts_create(struct moire_exchange *exchange, size_t bytes)
{
    const int64_t ranks = exchange->communicator.size;
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct moire_packed_context *context = NULL;
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, bytes, &context));
        exchange->transfers[i].backend_state = context;
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 4 * ranks, sizeof(int64_t), &context->send_rows));
        context->send_at = context->send_rows + ranks;
        context->receive_rows = context->send_at + ranks;
        context->receive_at = context->receive_rows + ranks;
    }
    return MOIRE_OK;
}

void moire_packed_contexts_free(struct moire_exchange *exchange)
{
    for (int i = 0; i < MOIRE_CONTEXTS_MOST; i++) {
        struct moire_packed_context *context = exchange->transfers[i].backend_state;
        if (!context) continue;
        moire_staging_free(&context->out);
        moire_staging_free(&context->in);
        moire_release(context->send_rows);
        moire_release(context);
        exchange->transfers[i].backend_state = NULL;
    }
}

moire_status moire_packed_types_create(const struct moire_exchange *exchange, MPI_Datatype row[2])
{
    for (int with_number = 0; with_number < 2; with_number++) {
        int bytes = 0;
        MOIRE_TRY(
            moire_narrow(moire_exchange_row_bytes(exchange, with_number), "the bytes of a row", &bytes));
        int result = MPI_Type_contiguous(bytes, MPI_BYTE, &row[with_number]);
        if (result == MPI_SUCCESS) result = MPI_Type_commit(&row[with_number]);
        MOIRE_TRY(moire_mpi_check(result, &exchange->communicator, "MPI_Type_contiguous"));
    }
    return MOIRE_OK;
}

void moire_packed_types_free(MPI_Datatype row[2])
{
    for (int i = 0; i < 2; i++)
        if (row[i] != MPI_DATATYPE_NULL) MPI_Type_free(&row[i]);
}

/* Plans. */

moire_status moire_packed_plan_create(struct moire_plan *plan)
{
    const int64_t chunks = plan->exchange->settings.chunks;
    struct moire_packed *packed = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *packed, &packed));
    plan->backend_state = packed;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 2 * (chunks + 1), sizeof(int64_t), &packed->out_chunk));
    packed->in_chunk = packed->out_chunk + chunks + 1;
    return MOIRE_OK;
}

void moire_packed_plan_free(struct moire_plan *plan)
{
    struct moire_packed *packed = plan->backend_state;
    if (!packed) return;
    moire_table_free(&packed->out_token);
    moire_table_free(&packed->out_slot);
    moire_table_free(&packed->in_row);
    moire_release(packed->places);
    moire_release(packed->out_chunk);
    moire_release(packed);
}

void moire_packed_release(struct moire_plan *plan)
{
    (void)plan; /* tables are kept for the next prepare */
}

/* Rows of `chunk` to (or from) a peer: the first in the order of the plan, and how many. None to this rank.
 */
static int64_t chunk_rows(const struct moire_plan *plan, bool out, int peer, int chunk, int64_t *first)
{
    int64_t end;
    if (out) {
        *first = moire_order_out_chunk(plan, peer, chunk);
        end = moire_order_out_chunk(plan, peer, chunk + 1);
    } else {
        *first = moire_order_in_chunk(plan, peer, chunk);
        end = moire_order_in_chunk(plan, peer, chunk + 1);
    }
    return peer == plan->exchange->communicator.rank ? 0 : end - *first;
}

/* Likewise of one round. */
static int64_t round_rows(const struct moire_plan *plan, bool out, int peer, int chunk, int64_t round,
                          int64_t *first)
{
    const int64_t most = plan->exchange->round_rows, done = round * most;
    const int64_t left = chunk_rows(plan, out, peer, chunk, first) - done;
    *first += done;
    return left < 0 ? 0 : left < most ? left : most;
}

static int64_t rounds_needed(const struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    int64_t most = 0, first;
    for (int chunk = 0; chunk < exchange->settings.chunks; chunk++)
        for (int peer = 0; peer < exchange->communicator.size; peer++)
            for (int out = 0; out < 2; out++) {
                int64_t rows = chunk_rows(plan, out, peer, chunk, &first);
                if (rows > most) most = rows;
            }
    return (most + exchange->round_rows - 1) / exchange->round_rows;
}

/* A copy that is summed from the staging: `row` of it. */
static void place(struct moire_plan *plan, int64_t position, int64_t row, int source, int rank)
{
    struct moire_packed *packed = plan->backend_state;
    packed->places[position] =
        (struct moire_place) { .row = row, .source = source, .node = plan->exchange->node_of[rank] };
}

static void place_own(struct moire_plan *plan)
{
    const struct moire_order *order = plan->private_state;
    const int own = plan->exchange->communicator.rank;
    for (int64_t i = 0; i < order->out_begin[own + 1] - order->out_begin[own]; i++)
        place(plan, order->out_begin[own] + i, order->in_row.data[order->in_begin[own] + i], FROM_OWN, own);
}

/* The rows of a step, in the order of the staging. */
static void lay_out_step(struct moire_plan *plan, int chunk, int64_t round, int64_t *out, int64_t *in)
{
    struct moire_packed *packed = plan->backend_state;
    const struct moire_order *order = plan->private_state;
    int64_t first;
    for (int peer = 0; peer < plan->exchange->communicator.size; peer++) {
        for (int64_t left = round_rows(plan, true, peer, chunk, round, &first); left > 0; left--, first++) {
            packed->out_token.data[*out] = order->token.data[first];
            packed->out_slot.data[*out] = order->slot.data[first];
            place(plan, first, (*out)++, FROM_STAGING, peer);
        }
        for (int64_t left = round_rows(plan, false, peer, chunk, round, &first); left > 0; left--)
            packed->in_row.data[(*in)++] = order->in_row.data[first++];
    }
}

static void lay_out(struct moire_plan *plan, int64_t rounds)
{
    struct moire_packed *packed = plan->backend_state;
    const int chunks = plan->exchange->settings.chunks;
    int64_t out = 0, in = 0;
    for (int chunk = 0; chunk < chunks; chunk++) {
        packed->out_chunk[chunk] = out;
        packed->in_chunk[chunk] = in;
        for (int64_t round = 0; round < rounds; round++) lay_out_step(plan, chunk, round, &out, &in);
    }
    packed->out_chunk[chunks] = out;
    packed->in_chunk[chunks] = in;
    place_own(plan);
}

static void count_levels(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    struct moire_packed *packed = plan->backend_state;
    const struct moire_order *order = plan->private_state;
    for (int level = 0; level < MOIRE_LEVELS; level++) plan->rows_out[level] = packed->in_levels[level] = 0;
    for (int peer = 0; peer < exchange->communicator.size; peer++) {
        int level = moire_exchange_level(exchange, peer);
        plan->rows_out[level] += order->out_begin[peer + 1] - order->out_begin[peer];
        packed->in_levels[level] += order->in_begin[peer + 1] - order->in_begin[peer];
    }
    packed->out_rows = plan->copies - plan->rows_out[MOIRE_LEVEL_SELF];
    packed->in_rows = plan->received_rows - packed->in_levels[MOIRE_LEVEL_SELF];
}

moire_status moire_staging_grow(struct moire_exchange *exchange, struct moire_staging *staging, bool open,
                                int64_t bytes)
{
    if (staging->data && bytes <= staging->capacity) return MOIRE_OK;
    return open ? moire_exchange_grow(exchange, &staging->next, &staging->next_capacity, bytes, 1)
                : moire_exchange_grow(exchange, &staging->data, &staging->capacity, bytes, 1);
}

static moire_status grow_staging(struct moire_exchange *exchange, struct moire_staging *staging, bool open,
                                 int64_t rows)
{
    int64_t bytes = 0;
    if (__builtin_mul_overflow(rows, moire_exchange_row_bytes(exchange, true), &bytes))
        return moire_fail(MOIRE_NO_MEMORY, "exchange: %lld rows of staging are too large to count",
                          (long long)rows);
    return moire_staging_grow(exchange, staging, open, bytes);
}

/* Every context must be able to take any prepared plan: which one it gets is known at begin, and that is too
 * late. */
static moire_status grow(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_packed *packed = plan->backend_state;
    MOIRE_TRY(moire_table_grow(exchange, &packed->out_token, packed->out_rows));
    MOIRE_TRY(moire_table_grow(exchange, &packed->out_slot, packed->out_rows));
    MOIRE_TRY(moire_table_grow(exchange, &packed->in_row, packed->in_rows));
    MOIRE_TRY(moire_exchange_grow(exchange, &packed->places, &packed->place_capacity, plan->copies,
                                  sizeof *packed->places));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct moire_transfer *transfer = &exchange->transfers[i];
        struct moire_packed_context *context = transfer->backend_state;
        MOIRE_TRY(grow_staging(exchange, &context->out, transfer->open, packed->out_rows));
        MOIRE_TRY(grow_staging(exchange, &context->in, transfer->open, packed->in_rows));
    }
    return MOIRE_OK;
}

moire_status moire_packed_prepare(struct moire_plan *plan, moire_status local)
{
    struct moire_order *order = plan->private_state;
    MOIRE_TRY(local);
    count_levels(plan);
    MOIRE_TRY(grow(plan));
    order->rounds = rounds_needed(plan);
    lay_out(plan, order->rounds);
    return MOIRE_OK;
}

/* Transfers. */

int64_t moire_packed_row_bytes(const struct moire_transfer *transfer)
{
    return moire_exchange_row_bytes(transfer->exchange, transfer->from_numbers != NULL);
}

unsigned char *moire_packed_from(const struct moire_transfer *transfer, int64_t row)
{
    const struct moire_packed_context *context = transfer->backend_state;
    return (transfer->combine ? context->in.data : context->out.data) +
           row * moire_packed_row_bytes(transfer);
}

unsigned char *moire_packed_to(const struct moire_transfer *transfer, int64_t row)
{
    const struct moire_packed_context *context = transfer->backend_state;
    return (transfer->combine ? context->out.data : context->in.data) +
           row * moire_packed_row_bytes(transfer);
}

/* The number is the end of its row of the staging. */
static struct moire_side staging_side(const struct moire_transfer *transfer, unsigned char *rows)
{
    const int64_t stride = moire_packed_row_bytes(transfer);
    return (struct moire_side) { .rows = (char *)rows,
                                 .numbers =
                                     transfer->from_numbers
                                         ? (char *)rows + moire_exchange_row_bytes(transfer->exchange, false)
                                         : NULL,
                                 .stride = stride,
                                 .number_stride = stride,
                                 .wire = true };
}

static void pack(const struct moire_transfer *transfer, int chunk)
{
    const struct moire_packed *packed = transfer->plan->backend_state;
    const int64_t *begin = transfer->combine ? packed->in_chunk : packed->out_chunk;
    const int64_t first = begin[chunk], *in_row = packed->in_row.data + first;
    struct moire_side to = staging_side(transfer, moire_packed_from(transfer, first));
    struct moire_side from =
        transfer->combine
            ? moire_side_of_buffers(transfer->from, transfer->from_numbers, in_row, in_row)
            : moire_side_of_buffers(transfer->from, transfer->from_numbers, packed->out_token.data + first,
                                    packed->out_slot.data + first);
    moire_copy_rows(transfer->exchange, &to, &from, begin[chunk + 1] - first);
}

void moire_packed_start(struct moire_transfer *transfer)
{
    const struct moire_packed *packed = transfer->plan->backend_state;
    const struct moire_order *order = transfer->plan->private_state;
    struct moire_packed_context *context = transfer->backend_state;
    const int64_t *rows = transfer->combine ? packed->in_levels : transfer->plan->rows_out;
    context->step = context->sent = context->arrived = 0;
    for (int level = 0; level < MOIRE_LEVELS; level++) moire_exchange_count(transfer, level, rows[level]);
    if (order->rounds > 0) return;
    transfer->landed = transfer->exchange->settings.chunks; /* nothing travels anywhere */
    transfer->done = true;
}

/* Returns the rows of all messages of a step in one direction. */
static int64_t list_messages(const struct moire_transfer *transfer, bool out, int64_t first_row,
                             int64_t *rows, int64_t *at)
{
    const struct moire_plan *plan = transfer->plan;
    const struct moire_order *order = plan->private_state;
    const struct moire_packed_context *context = transfer->backend_state;
    const int chunk = (int)(context->step / order->rounds);
    int64_t next = first_row, first;
    for (int peer = 0; peer < plan->exchange->communicator.size; peer++) {
        rows[peer] = round_rows(plan, out, peer, chunk, context->step % order->rounds, &first);
        at[peer] = next;
        next += rows[peer];
    }
    return next;
}

bool moire_packed_next(struct moire_transfer *transfer)
{
    const struct moire_order *order = transfer->plan->private_state;
    struct moire_packed_context *context = transfer->backend_state;
    const int64_t chunk = context->step / order->rounds;
    if (chunk >= transfer->ready) return false;
    if (context->step % order->rounds == 0) pack(transfer, (int)chunk);
    context->sent =
        list_messages(transfer, !transfer->combine, context->sent, context->send_rows, context->send_at);
    context->arrived = list_messages(transfer, transfer->combine, context->arrived, context->receive_rows,
                                     context->receive_at);
    return true;
}

void moire_packed_step_done(struct moire_transfer *transfer)
{
    const struct moire_order *order = transfer->plan->private_state;
    struct moire_packed_context *context = transfer->backend_state;
    const int chunks = transfer->exchange->settings.chunks;
    context->step++;
    transfer->landed = (int)(context->step / order->rounds);
    transfer->done = transfer->landed == chunks;
}

static void unpack(const struct moire_transfer *transfer, int chunk)
{
    const struct moire_packed *packed = transfer->plan->backend_state;
    const int64_t first = packed->in_chunk[chunk], *row = packed->in_row.data + first;
    struct moire_side to = moire_side_of_buffers(transfer->to, transfer->to_numbers, row, row);
    struct moire_side from = staging_side(transfer, moire_packed_to(transfer, first));
    moire_copy_rows(transfer->exchange, &to, &from, packed->in_chunk[chunk + 1] - first);
}

void moire_packed_copy_own(const struct moire_transfer *transfer)
{
    const struct moire_plan *plan = transfer->plan;
    const struct moire_order *order = plan->private_state;
    const int own = plan->exchange->communicator.rank;
    const int64_t first = order->out_begin[own], *row = order->in_row.data + order->in_begin[own];
    struct moire_side to = moire_side_of_buffers(transfer->to, transfer->to_numbers, row, row);
    struct moire_side from = moire_side_of_buffers(transfer->from, transfer->from_numbers,
                                                   order->token.data + first, order->slot.data + first);
    moire_copy_rows(transfer->exchange, &to, &from, order->out_begin[own + 1] - first);
}

moire_status moire_packed_take(struct moire_transfer *transfer, int chunk)
{
    unpack(transfer, chunk);
    return MOIRE_OK;
}

/* The rows of each token, in the association of the plan: from the staging, or where they were left on this
 * rank. */
static void sum(const struct moire_transfer *transfer)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct moire_plan *plan = transfer->plan;
    const struct moire_order *order = plan->private_state;
    const struct moire_packed *packed = plan->backend_state;
    const struct moire_side staging = staging_side(transfer, moire_packed_to(transfer, 0));
    const int64_t element = (int64_t)moire_element_bytes(exchange->settings.element),
                  row = exchange->settings.width * element;
    const struct moire_sum_source rows[SOURCES] = { [FROM_STAGING] = { staging.rows, staging.stride, true },
                                                    [FROM_OWN] = { transfer->from->data, row, false } };
    struct moire_sum tokens = { .exchange = exchange,
                                .begin = order->token_begin.data,
                                .order = order->token_order.data,
                                .places = packed->places,
                                .sources = rows };
    moire_sum_rows(&tokens, &(struct moire_sum_target) { transfer->to->data, row, false },
                   plan->routing.tokens);
    if (!transfer->to_numbers) return;
    const struct moire_sum_source numbers[SOURCES] = {
        [FROM_STAGING] = { staging.numbers, staging.number_stride, false },
        [FROM_OWN] = { transfer->from_numbers->data, element, false }
    };
    struct moire_sum slots = tokens;
    slots.numbers = true;
    slots.begin = order->slot_begin.data;
    slots.order = order->slot_order.data;
    slots.sources = numbers;
    moire_sum_rows(&slots, &(struct moire_sum_target) { transfer->to_numbers->data, element, false },
                   plan->routing.slots);
}

void moire_staging_adopt(struct moire_staging *staging)
{
    if (!staging->next) return;
    moire_release(staging->data);
    *staging = (struct moire_staging) { .data = staging->next, .capacity = staging->next_capacity };
}

moire_status moire_packed_end(struct moire_transfer *transfer)
{
    struct moire_packed_context *context = transfer->backend_state;
    if (transfer->combine) sum(transfer);
    moire_staging_adopt(&context->out);
    moire_staging_adopt(&context->in);
    return MOIRE_OK;
}

/* What the planner and people read. */

static int64_t count_messages(const struct moire_plan *plan, bool out)
{
    const struct moire_exchange *exchange = plan->exchange;
    int64_t all = 0, first;
    for (int chunk = 0; chunk < exchange->settings.chunks; chunk++)
        for (int peer = 0; peer < exchange->communicator.size; peer++)
            all += (chunk_rows(plan, out, peer, chunk, &first) + exchange->round_rows - 1) /
                   exchange->round_rows;
    return all;
}

static int slowest(const int64_t *out, const int64_t *in)
{
    for (int level = MOIRE_LEVELS - 1; level > MOIRE_LEVEL_SELF; level--)
        if (out[level] + in[level] > 0) return level;
    return MOIRE_LEVEL_SELF;
}

static int64_t leave_node(const int64_t *rows)
{
    return rows[MOIRE_LEVEL_FAR] + rows[MOIRE_LEVEL_SPINE];
}

/* Rows out, rows back; each row with its number. */
int moire_packed_volume(const struct moire_plan *plan, struct moire_stage *stages, int room)
{
    const struct moire_packed *packed = plan->backend_state;
    const int64_t bytes = moire_exchange_row_bytes(plan->exchange, true), *out = plan->rows_out,
                  *in = packed->in_levels;
    const struct moire_stage both[] = {
        { "rows out", slowest(out, in), count_messages(plan, true), packed->out_rows * bytes,
          packed->in_rows * bytes, leave_node(out) * bytes, leave_node(in) * bytes,
          (plan->copies + packed->in_rows) * bytes, -1 },
        { "rows back", slowest(out, in), count_messages(plan, false), packed->in_rows * bytes,
          packed->out_rows * bytes, leave_node(in) * bytes, leave_node(out) * bytes,
          (packed->in_rows + plan->copies) * bytes, 0 },
    };
    const int count = sizeof both / sizeof *both;
    for (int i = 0; i < count && i < room; i++) stages[i] = both[i];
    return count;
}

int64_t moire_packed_memory(const struct moire_exchange_sizes *sizes)
{
    const int64_t element = (int64_t)moire_element_bytes(sizes->element),
                  row = sizes->width * (sizes->wire == MOIRE_WIRE_BF16 ? 2 : element) + element;
    int64_t bytes = sizes->contexts * (int64_t)sizeof(struct moire_packed_context), out = 0, in = 0;
    for (int i = 0; i < sizes->plans; i++) {
        const struct moire_plan_rows *rows = &sizes->rows[i];
        bytes += (int64_t)sizeof(struct moire_packed) +
                 (2 * rows->out + rows->in) * (int64_t)sizeof(int64_t) +
                 rows->copies * (int64_t)sizeof(struct moire_place);
        if (rows->out > out) out = rows->out;
        if (rows->in > in) in = rows->in;
    }
    return bytes + sizes->contexts * ((out + in) * row + 4 * sizes->ranks * (int64_t)sizeof(int64_t));
}
