#include <string.h>

#include "exchange/bfloat16.h"
#include "exchange/private.h"

/* Below so many bytes the threads cost more than they bring. */
enum { PARALLEL_BYTES = 1 << 18 };

struct moire_side moire_side_of_buffers(const struct moire_rows *rows, const struct moire_rows *numbers,
                                        const int64_t *index, const int64_t *number_index)
{
    const int64_t bytes = (int64_t)moire_element_bytes(rows->element);
    return (struct moire_side) { .rows = rows->data,
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

/* How a row gets from one side to the other. */
typedef void copy_row(void *to, const void *from, int64_t width);

static void copy_float(void *to, const void *from, int64_t width)
{
    memcpy(to, from, (size_t)width * sizeof(float));
}

static void copy_double(void *to, const void *from, int64_t width)
{
    memcpy(to, from, (size_t)width * sizeof(double));
}

static void copy_bfloat16(void *to, const void *from, int64_t width)
{
    memcpy(to, from, (size_t)width * sizeof(uint16_t));
}

#define DEFINE_COPIES(type)                                                                                  \
    static void narrow_##type(void *to, const void *from, int64_t width)                                     \
    {                                                                                                        \
        uint16_t *restrict out = to;                                                                         \
        const type *restrict in = from;                                                                      \
        for (int64_t k = 0; k < width; k++) out[k] = bfloat16_of((float)in[k]);                              \
    }                                                                                                        \
    static void widen_##type(void *to, const void *from, int64_t width)                                      \
    {                                                                                                        \
        type *restrict out = to;                                                                             \
        const uint16_t *restrict in = from;                                                                  \
        for (int64_t k = 0; k < width; k++) out[k] = bfloat16_value(in[k]);                                  \
    }                                                                                                        \
    static void round_##type(void *to, const void *from, int64_t width)                                      \
    {                                                                                                        \
        type *restrict out = to;                                                                             \
        const type *restrict in = from;                                                                      \
        for (int64_t k = 0; k < width; k++) out[k] = bfloat16_rounded((float)in[k]);                         \
    }
DEFINE_COPIES(float)
DEFINE_COPIES(double)

static copy_row *find_copy(const struct moire_exchange_settings *settings, bool to_wire, bool from_wire)
{
    const bool wide = settings->element == MOIRE_FLOAT64;
    if (settings->wire == MOIRE_WIRE_FP32) return wide ? copy_double : copy_float;
    if (to_wire) return from_wire ? copy_bfloat16 : wide ? narrow_double : narrow_float;
    if (from_wire) return wide ? widen_double : widen_float;
    return wide ? round_double : round_float;
}

void moire_copy_rows(const struct moire_exchange *exchange, const struct moire_side *to,
                     const struct moire_side *from, int64_t count)
{
    const size_t bytes = moire_element_bytes(exchange->settings.element);
    const int64_t width = exchange->settings.width;
    copy_row *copy = find_copy(&exchange->settings, to->wire, from->wire);
#pragma omp parallel for schedule(static) if (count * width * (int64_t)bytes > PARALLEL_BYTES)
    for (int64_t i = 0; i < count; i++) {
        copy(at(to->rows, to->stride, to->index, i), at(from->rows, from->stride, from->index, i), width);
        if (to->numbers)
            memcpy(at(to->numbers, to->number_stride, to->number_index, i),
                   at(from->numbers, from->number_stride, from->number_index, i), bytes);
    }
}

/* Sums go through pieces of a row, so that a node's sum stays in the first cache and needs no memory of the
 * plan. */
enum { PIECE = 256 };

/* What a row of a sum is made of: its places, from `at` on, and how to read them. */
struct reader {
    const struct moire_sum *sum;
    int64_t at, end;
    bool rounds; /* the wire is narrower than the element */
};

static const struct moire_place *place_at(const struct reader *reader, int64_t i)
{
    const struct moire_sum *sum = reader->sum;
    return &sum->places[sum->order ? sum->order[i] : i];
}

static int leaf_at(const struct reader *reader, int64_t i)
{
    return reader->sum->exchange->leaf_of_node[place_at(reader, i)->node];
}

/* For each element type, on elements [first, first + count) of a row:
 *   first_* puts a place's row into `out`, add_* adds it; rows of the wire are widened, others rounded to it
 *   sum_node_* the places of one node, from reader->at on; it starts from the first row itself, not from
 * zero: a -0.0 stays sum_leaf_* the nodes of one leaf sum_row_*  the leaves */
#define DEFINE_SUM(type)                                                                                     \
    static void first_##type(const struct reader *r, const struct moire_place *place, int64_t first,         \
                             int64_t count, type *restrict out)                                              \
    {                                                                                                        \
        const struct moire_sum_source *source = &r->sum->sources[place->source];                             \
        const char *row = (const char *)source->data + place->row * source->stride;                          \
        if (!r->rounds)                                                                                      \
            memcpy(out, row + first * (int64_t)sizeof(type), (size_t)count * sizeof *out);                   \
        else if (source->wire)                                                                               \
            widen_##type(out, row + first * (int64_t)sizeof(uint16_t), count);                               \
        else                                                                                                 \
            round_##type(out, row + first * (int64_t)sizeof(type), count);                                   \
    }                                                                                                        \
    static void add_##type(const struct reader *r, const struct moire_place *place, int64_t first,           \
                           int64_t count, type *restrict out)                                                \
    {                                                                                                        \
        const struct moire_sum_source *source = &r->sum->sources[place->source];                             \
        const char *row = (const char *)source->data + place->row * source->stride;                          \
        type value[PIECE];                                                                                   \
        if (!r->rounds && (uintptr_t)row % sizeof(type) == 0) {                                              \
            const type *in = (const type *)(const void *)row + first;                                        \
            for (int64_t k = 0; k < count; k++) out[k] += in[k];                                             \
            return;                                                                                          \
        }                                                                                                    \
        first_##type(r, place, first, count, value);                                                         \
        for (int64_t k = 0; k < count; k++) out[k] += value[k];                                              \
    }                                                                                                        \
    static void sum_node_##type(struct reader *r, int64_t first, int64_t count, type *restrict out)          \
    {                                                                                                        \
        const int32_t node = place_at(r, r->at)->node;                                                       \
        first_##type(r, place_at(r, r->at++), first, count, out);                                            \
        while (r->at < r->end && place_at(r, r->at)->node == node)                                           \
            add_##type(r, place_at(r, r->at++), first, count, out);                                          \
        if (r->rounds && r->sum->exchange->nodes > 1) round_##type(out, out, count);                         \
    }                                                                                                        \
    static void sum_leaf_##type(struct reader *r, int64_t first, int64_t count, type *restrict out)          \
    {                                                                                                        \
        const int leaf = leaf_at(r, r->at);                                                                  \
        type node_sum[PIECE];                                                                                \
        sum_node_##type(r, first, count, out);                                                               \
        while (r->at < r->end && leaf_at(r, r->at) == leaf) {                                                \
            sum_node_##type(r, first, count, node_sum);                                                      \
            for (int64_t k = 0; k < count; k++) out[k] += node_sum[k];                                       \
        }                                                                                                    \
        if (r->rounds && r->sum->exchange->leaves > 1) round_##type(out, out, count);                        \
    }                                                                                                        \
    static void sum_row_##type(struct reader *r, int64_t first, int64_t count, type *restrict out)           \
    {                                                                                                        \
        type leaf_sum[PIECE];                                                                                \
        if (r->at == r->end) {                                                                               \
            memset(out, 0, (size_t)count * sizeof *out);                                                     \
            return;                                                                                          \
        }                                                                                                    \
        sum_leaf_##type(r, first, count, out);                                                               \
        while (r->at < r->end) {                                                                             \
            sum_leaf_##type(r, first, count, leaf_sum);                                                      \
            for (int64_t k = 0; k < count; k++) out[k] += leaf_sum[k];                                       \
        }                                                                                                    \
    }                                                                                                        \
    static void sum_pieces_##type(const struct reader *reader, int64_t width, char *to, bool to_wire)        \
    {                                                                                                        \
        type out[PIECE];                                                                                     \
        for (int64_t first = 0; first < width; first += PIECE) {                                             \
            const int64_t count = width - first < PIECE ? width - first : PIECE;                             \
            struct reader r = *reader;                                                                       \
            if (!to_wire && (uintptr_t)to % sizeof(type) == 0) {                                             \
                sum_row_##type(&r, first, count, (type *)(void *)to + first);                                \
                continue;                                                                                    \
            }                                                                                                \
            sum_row_##type(&r, first, count, out);                                                           \
            if (to_wire)                                                                                     \
                narrow_##type(to + first * (int64_t)sizeof(uint16_t), out, count);                           \
            else                                                                                             \
                memcpy(to + first * (int64_t)sizeof(type), out, (size_t)count * sizeof(type));               \
        }                                                                                                    \
    }
DEFINE_SUM(float)
DEFINE_SUM(double)

void moire_sum_rows(const struct moire_sum *sum, const struct moire_sum_target *to, int64_t count)
{
    const struct moire_exchange_settings *settings = &sum->exchange->settings;
    const int64_t width = sum->numbers ? 1 : settings->width;
    const bool narrow = settings->wire == MOIRE_WIRE_BF16 && !sum->numbers;
#pragma omp parallel for schedule(static) if (count * to->stride > PARALLEL_BYTES)
    for (int64_t i = 0; i < count; i++) {
        const struct reader reader = {
            .sum = sum, .at = sum->begin[i], .end = sum->begin[i + 1], .rounds = narrow
        };
        char *row = (char *)to->data + i * to->stride;
        if (settings->element == MOIRE_FLOAT64)
            sum_pieces_double(&reader, width, row, narrow && to->wire);
        else
            sum_pieces_float(&reader, width, row, narrow && to->wire);
    }
}
