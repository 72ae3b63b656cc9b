#include <string.h>

#include "exchange/private.h"

/* Below so many bytes the threads cost more than they bring. */
enum { PARALLEL_BYTES = 1 << 18 };

struct moire_side moire_side_of_buffers(const struct moire_rows *rows, const struct moire_rows *numbers,
                                        const int64_t *index, const int64_t *number_index)
{
    const int64_t bytes = (int64_t)moire_element_bytes(rows->element);
    return (struct moire_side){ .rows = rows->data,
                                .numbers = numbers ? numbers->data : NULL,
                                .stride = rows->width * bytes,
                                .number_stride = bytes,
                                .index = index,
                                .number_index = number_index };
}

static char *at(char *data, int64_t stride, const int64_t *index, int64_t i)
{
    return data + stride * (index ? index[i] : i);
}

void moire_copy_rows(const struct moire_exchange *exchange, const struct moire_side *to,
                     const struct moire_side *from, int64_t count)
{
    const size_t bytes = moire_element_bytes(exchange->settings.element);
    const size_t row_bytes = (size_t)exchange->settings.width * bytes;
#pragma omp parallel for schedule(static) if (count * (int64_t)row_bytes > PARALLEL_BYTES)
    for (int64_t i = 0; i < count; i++) {
        memcpy(at(to->rows, to->stride, to->index, i), at(from->rows, from->stride, from->index, i),
               row_bytes);
        if (to->numbers)
            memcpy(at(to->numbers, to->number_stride, to->number_index, i),
                   at(from->numbers, from->number_stride, from->number_index, i), bytes);
    }
}

/* Sums go through pieces of a row, so that a node's sum stays in the first cache and needs no memory of the
 * plan. */
enum { PIECE = 256 };

/* sum_run_*: elements [first, first + count) of the sum over one node's run of copies, which starts at `at`
 * and ends before `end`; returns where the next node's run starts. It starts from the first row itself, not
 * from zero: a -0.0 stays. sum_row_*: one row, node by node. */
#define DEFINE_SUM(type)                                                                                     \
    static int64_t sum_run_##type(const struct moire_sum *s, int64_t at, int64_t end, int64_t first,         \
                                  int64_t count, type *restrict out)                                         \
    {                                                                                                        \
        const int32_t node = s->places[s->order[at]].node;                                                   \
        for (int64_t i = at; i < end; i++) {                                                                 \
            const struct moire_place *place = &s->places[s->order[i]];                                       \
            if (place->node != node) return i;                                                               \
            const type *row = (const type *)s->sources[place->source].data                                   \
                              + place->row * s->sources[place->source].stride + first;                       \
            if (i == at)                                                                                     \
                memcpy(out, row, (size_t)count * sizeof *out);                                               \
            else                                                                                             \
                for (int64_t k = 0; k < count; k++) out[k] += row[k];                                        \
        }                                                                                                    \
        return end;                                                                                          \
    }                                                                                                        \
    static void sum_row_##type(const struct moire_sum *s, int64_t begin, int64_t end, type *restrict out)    \
    {                                                                                                        \
        type node_sum[PIECE];                                                                                \
        for (int64_t first = 0; first < s->width; first += PIECE) {                                          \
            int64_t count = s->width - first < PIECE ? s->width - first : PIECE;                             \
            int64_t at = sum_run_##type(s, begin, end, first, count, out + first);                           \
            while (at < end) {                                                                               \
                at = sum_run_##type(s, at, end, first, count, node_sum);                                     \
                for (int64_t k = 0; k < count; k++) out[first + k] += node_sum[k];                           \
            }                                                                                                \
        }                                                                                                    \
    }
DEFINE_SUM(float)
DEFINE_SUM(double)

void moire_sum_rows(const struct moire_sum *sum, void *to, int64_t count)
{
    const int64_t row_bytes = sum->width * (int64_t)moire_element_bytes(sum->element);
#pragma omp parallel for schedule(static) if (count * row_bytes > PARALLEL_BYTES)
    for (int64_t i = 0; i < count; i++) {
        int64_t begin = sum->begin[i], end = sum->begin[i + 1];
        void *row = (char *)to + i * row_bytes;
        if (begin == end)
            memset(row, 0, (size_t)row_bytes);
        else if (sum->element == MOIRE_FLOAT64)
            sum_row_double(sum, begin, end, row);
        else
            sum_row_float(sum, begin, end, row);
    }
}
