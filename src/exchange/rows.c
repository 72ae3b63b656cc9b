#include "exchange/private.h"

static bool is_in_flight(const struct moire_exchange *exchange, const struct moire_rows *buffer)
{
    for (int i = 0; i < exchange->settings.contexts; i++) {
        const struct moire_transfer *t = &exchange->transfers[i];
        if (t->open
            && (t->from == buffer || t->from_numbers == buffer || t->to == buffer || t->to_numbers == buffer))
            return true;
    }
    return false;
}

moire_status moire_rows_check_idle(const struct moire_exchange *exchange, const struct moire_rows *buffer,
                                   int64_t rows)
{
    if (!is_in_flight(exchange, buffer)) return MOIRE_OK;
    return moire_fail(MOIRE_FAILED,
                      "a buffer of an open transfer cannot grow; found %lld rows, expected %lld; end transfers "
                      "before the next prepare with the same buffer",
                      (long long)buffer->capacity_rows, (long long)rows);
}

/* The old memory goes before the new one comes: contents need not be kept, and the peak is the new size, not
 * the sum of both. After a failure the buffer has no rows; begin notices when another plan still counts on
 * them. */
moire_status moire_rows_grow_plain(struct moire_exchange *exchange, struct moire_rows *buffer, int64_t rows)
{
    if (buffer->data && rows <= buffer->capacity_rows) return MOIRE_OK;
    MOIRE_TRY(moire_rows_check_idle(exchange, buffer, rows));
    int64_t wanted = moire_grown(buffer->capacity_rows, rows);
    moire_release(buffer->data);
    buffer->data = NULL;
    buffer->capacity_rows = 0;
    MOIRE_TRY(moire_allocate(buffer->kind, wanted,
                             (size_t)buffer->width * moire_element_bytes(buffer->element), &buffer->data));
    buffer->capacity_rows = wanted;
    return MOIRE_OK;
}

void moire_rows_free_plain(struct moire_exchange *exchange, struct moire_rows *buffer)
{
    (void)exchange;
    moire_release(buffer->data);
}

moire_status moire_rows_create(struct moire_exchange *exchange, moire_memory_kind kind, int64_t width,
                               int64_t rows, struct moire_rows *buffer)
{
    struct moire_rows new = { .width = width, .element = exchange->settings.element, .kind = kind };
    moire_status status =
        width >= 0 && rows >= 0
            ? exchange->backend->rows_grow(exchange, &new, rows)
            : moire_fail(MOIRE_FAILED, "a buffer of the exchange needs a size; found %lld rows of %lld",
                         (long long)rows, (long long)width);
    status = moire_agree(&exchange->communicator, status);
    if (status != MOIRE_OK)
        exchange->backend->rows_free(exchange, &new);
    else
        *buffer = new;
    return status;
}

void moire_rows_free(struct moire_exchange *exchange, struct moire_rows *buffer)
{
    if (!exchange) return; /* cleaning up after a create that failed: there is no buffer either */
    exchange->backend->rows_free(exchange, buffer);
    *buffer = (struct moire_rows){ 0 };
}
