#include "moire/exchange/baseline.h"

#include <limits.h>
#include <string.h>

#include "exchange/private.h"

enum { PARALLEL_BYTES = 1 << 18 }; /* as in pack.c: below, threads cost more than they bring */

static moire_status allocate_buffers(struct moire_baseline *baseline)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    const struct moire_plan *plan = baseline->plan;
    const size_t row = (size_t)baseline->row_bytes, wire = (size_t)baseline->wire_bytes;
    const size_t number = moire_element_bytes(plan->exchange->settings.element);
    MOIRE_TRY(moire_allocate(kind, plan->routing.tokens, row, &baseline->rows));
    MOIRE_TRY(moire_allocate(kind, plan->routing.slots, number, &baseline->numbers));
    MOIRE_TRY(moire_allocate(kind, plan->received_rows, row, &baseline->received));
    MOIRE_TRY(moire_allocate(kind, plan->received_rows, number, &baseline->received_numbers));
    MOIRE_TRY(moire_allocate(kind, plan->routing.tokens, row, &baseline->sums));
    MOIRE_TRY(moire_allocate(kind, plan->routing.slots, number, &baseline->number_sums));
    MOIRE_TRY(moire_allocate(kind, plan->copies, wire, &baseline->out));
    MOIRE_TRY(moire_allocate(kind, plan->received_rows, wire, &baseline->in));
    return moire_allocate(kind, 4 * (int64_t)plan->exchange->communicator.size, sizeof *baseline->counts,
                          &baseline->counts);
}

/* Counts and places of one side from the first row of each rank. */
static moire_status fill_counts(int ranks, const int64_t *begin, int64_t units_a_row, int *counts)
{
    for (int rank = 0; rank < ranks; rank++) {
        MOIRE_TRY(moire_narrow((begin[rank + 1] - begin[rank]) * units_a_row, "what a rank sends another one",
                               &counts[rank]));
        MOIRE_TRY(moire_narrow(begin[rank] * units_a_row, "what a rank sends", &counts[ranks + rank]));
    }
    return MOIRE_OK;
}

static moire_status make_row_type(struct moire_baseline *baseline)
{
    int bytes = 0;
    MOIRE_TRY(moire_narrow(baseline->wire_bytes, "the bytes of a row", &bytes));
    int result = MPI_Type_contiguous(bytes, MPI_BYTE, &baseline->unit);
    if (result == MPI_SUCCESS) result = MPI_Type_commit(&baseline->unit);
    return moire_mpi_check(result, &baseline->plan->exchange->communicator, "MPI_Type_contiguous");
}

/* Bytes, as a benchmark of MPI would count, as long as they fit. What arrives may be counted in other units
 * than it was sent in: MPI compares the bytes. */
static moire_status choose_unit(struct moire_baseline *baseline)
{
    const struct moire_plan *plan = baseline->plan;
    const struct moire_order *order = plan->private_state;
    const int ranks = plan->exchange->communicator.size;
    const int64_t most = plan->copies > plan->received_rows ? plan->copies : plan->received_rows;
    const bool bytes = most <= INT_MAX / baseline->wire_bytes;
    const int64_t units_a_row = bytes ? baseline->wire_bytes : 1;
    if (!bytes) MOIRE_TRY(make_row_type(baseline));
    MOIRE_TRY(fill_counts(ranks, order->out_begin, units_a_row, baseline->counts));
    return fill_counts(ranks, order->in_begin, units_a_row, baseline->counts + 2 * ranks);
}

moire_status moire_baseline_create(const struct moire_plan *plan, bool with_numbers,
                                   struct moire_baseline *baseline)
{
    const struct moire_exchange *exchange = plan->exchange;
    struct moire_baseline made = {
        .plan = plan,
        .row_bytes = exchange->settings.width * (int64_t)moire_element_bytes(exchange->settings.element),
        .wire_bytes = moire_exchange_row_bytes(exchange, with_numbers),
        .with_numbers = with_numbers,
        .unit = MPI_BYTE,
    };
    moire_status status = allocate_buffers(&made);
    if (status == MOIRE_OK) status = choose_unit(&made);
    status = moire_agree(&exchange->communicator, status);
    if (status == MOIRE_OK)
        *baseline = made;
    else
        moire_baseline_free(&made);
    return status;
}

void moire_baseline_free(struct moire_baseline *baseline)
{
    if (baseline->plan && baseline->unit != MPI_BYTE) MPI_Type_free(&baseline->unit);
    moire_release(baseline->counts);
    moire_release(baseline->in);
    moire_release(baseline->out);
    moire_release(baseline->number_sums);
    moire_release(baseline->sums);
    moire_release(baseline->received_numbers);
    moire_release(baseline->received);
    moire_release(baseline->numbers);
    moire_release(baseline->rows);
    *baseline = (struct moire_baseline) { .plan = NULL };
}

/* One end of a copy: row i is at index[i], its number at number_index[i]; NULL: at i. */
struct end {
    char *rows, *numbers;
    int64_t stride, number_stride;
    const int64_t *index, *number_index;
};

static struct end staging_end(const struct moire_baseline *baseline, char *rows)
{
    const int64_t number =
        baseline->with_numbers ? (int64_t)moire_element_bytes(baseline->plan->exchange->settings.element) : 0;
    return (struct end) {
        rows, rows + baseline->wire_bytes - number, baseline->wire_bytes, baseline->wire_bytes, NULL, NULL
    };
}

static struct end buffer_end(const struct moire_baseline *baseline, char *rows, char *numbers,
                             const int64_t *index, const int64_t *number_index)
{
    const int64_t number = (int64_t)moire_element_bytes(baseline->plan->exchange->settings.element);
    return (struct end) { rows, numbers, baseline->row_bytes, number, index, number_index };
}

static int64_t place(const int64_t *index, int64_t i)
{
    return index ? index[i] : i;
}

static void copy_one(const struct moire_baseline *baseline, const struct end *to, int64_t to_row,
                     const struct end *from, int64_t from_row)
{
    const size_t number = moire_element_bytes(baseline->plan->exchange->settings.element);
    const size_t row = (size_t)baseline->wire_bytes - (baseline->with_numbers ? number : 0);
    memcpy(to->rows + place(to->index, to_row) * to->stride,
           from->rows + place(from->index, from_row) * from->stride, row);
    if (baseline->with_numbers)
        memcpy(to->numbers + place(to->number_index, to_row) * to->number_stride,
               from->numbers + place(from->number_index, from_row) * from->number_stride, number);
}

/* Rows [first, last) of both ends. */
static void copy_run(const struct moire_baseline *baseline, const struct end *to, const struct end *from,
                     int64_t first, int64_t last)
{
    if (first == last) return; /* even a loop of no turns begins and ends a region of threads */
#pragma omp parallel for schedule(static) if ((last - first) * baseline->wire_bytes > PARALLEL_BYTES)
    for (int64_t i = first; i < last; i++) copy_one(baseline, to, i, from, i);
}

/* All but the rows of this rank, which the exchange does not stage either. `begin` [P + 1]. */
static void copy_others(const struct moire_baseline *baseline, const struct end *to, const struct end *from,
                        const int64_t *begin)
{
    const int own = baseline->plan->exchange->communicator.rank;
    copy_run(baseline, to, from, 0, begin[own]);
    copy_run(baseline, to, from, begin[own + 1], begin[baseline->plan->exchange->communicator.size]);
}

void moire_baseline_pack(struct moire_baseline *baseline, bool combine)
{
    const struct moire_order *order = baseline->plan->private_state;
    const struct end to = staging_end(baseline, combine ? baseline->in : baseline->out);
    const struct end from = combine ? buffer_end(baseline, baseline->received, baseline->received_numbers,
                                                 order->in_row.data, order->in_row.data)
                                    : buffer_end(baseline, baseline->rows, baseline->numbers,
                                                 order->token.data, order->slot.data);
    copy_others(baseline, &to, &from, combine ? order->in_begin : order->out_begin);
}

/* By token, as the sums go: no two threads write a row, and it is in the cache when the next copy comes. */
static void unpack_sums(struct moire_baseline *baseline)
{
    const struct moire_plan *plan = baseline->plan;
    const struct moire_order *order = plan->private_state;
    const int own = plan->exchange->communicator.rank;
    const int64_t first_own = order->out_begin[own], end_own = order->out_begin[own + 1];
    const struct end from = staging_end(baseline, baseline->out);
    const struct end to =
        buffer_end(baseline, baseline->sums, baseline->number_sums, order->token.data, order->slot.data);
#pragma omp parallel for schedule(static) if (plan->copies * baseline->wire_bytes > PARALLEL_BYTES)
    for (int64_t token = 0; token < plan->routing.tokens; token++)
        for (int64_t i = order->token_begin.data[token]; i < order->token_begin.data[token + 1]; i++) {
            const int64_t position = order->token_order.data[i];
            if (position < first_own || position >= end_own)
                copy_one(baseline, &to, position, &from, position);
        }
}

void moire_baseline_unpack(struct moire_baseline *baseline, bool combine)
{
    const struct moire_order *order = baseline->plan->private_state;
    const struct end from = staging_end(baseline, baseline->in);
    const struct end to = buffer_end(baseline, baseline->received, baseline->received_numbers,
                                     order->in_row.data, order->in_row.data);
    if (combine)
        unpack_sums(baseline);
    else
        copy_others(baseline, &to, &from, order->in_begin);
}

moire_status moire_baseline_move(struct moire_baseline *baseline, bool combine)
{
    const struct moire_communicator *communicator = &baseline->plan->exchange->communicator;
    const int ranks = communicator->size;
    const int *out = baseline->counts, *in = out + 2 * ranks;
    const int *from = combine ? in : out, *to = combine ? out : in;
    int result = MPI_Alltoallv(combine ? baseline->in : baseline->out, from, from + ranks, baseline->unit,
                               combine ? baseline->out : baseline->in, to, to + ranks, baseline->unit,
                               communicator->mpi);
    return moire_mpi_check(result, communicator, "MPI_Alltoallv");
}
