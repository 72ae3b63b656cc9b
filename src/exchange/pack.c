#include <string.h>

#include "base/clones.h"
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

/* A row of up to so many bytes is copied block by block. glibc's memcpy goes backwards where it sees that two
 * rows lie alike in their pages, as those of two buffers mostly do, and is then less than half as fast;
 * longer rows it moves with instructions that have no such case. */
enum { BLOCK_BYTES = 64, SHORT_ROW_BYTES = 8192 };

MOIRE_CLONES static void copy_blocks(char *to, const char *from, int64_t bytes)
{
    int64_t i = 0;
    for (; i + BLOCK_BYTES <= bytes; i += BLOCK_BYTES) {
        memcpy(to + i, from + i, BLOCK_BYTES);
        __asm__ volatile("" : : : "memory"); /* the compiler must not make one memcpy of them all */
    }
    if (i < bytes) memcpy(to + i, from + i, (size_t)(bytes - i));
}

static void copy_bytes(void *to, const void *from, int64_t bytes)
{
    if (bytes <= SHORT_ROW_BYTES)
        copy_blocks(to, from, bytes);
    else
        memcpy(to, from, (size_t)bytes);
}

static void copy_float(void *to, const void *from, int64_t width)
{
    copy_bytes(to, from, width * (int64_t)sizeof(float));
}

static void copy_double(void *to, const void *from, int64_t width)
{
    copy_bytes(to, from, width * (int64_t)sizeof(double));
}

static void copy_bfloat16(void *to, const void *from, int64_t width)
{
    copy_bytes(to, from, width * (int64_t)sizeof(uint16_t));
}

static void copy_number(void *to, const void *from, bool wide)
{
    if (wide)
        memcpy(to, from, sizeof(double));
    else
        memcpy(to, from, sizeof(float));
}

#define DEFINE_COPIES(type)                                                                                  \
    MOIRE_CLONES static void narrow_##type(void *to, const void *from, int64_t width)                        \
    {                                                                                                        \
        uint16_t *restrict out = to;                                                                         \
        const type *restrict in = from;                                                                      \
        for (int64_t k = 0; k < width; k++) out[k] = bfloat16_of((float)in[k]);                              \
    }                                                                                                        \
    MOIRE_CLONES static void widen_##type(void *to, const void *from, int64_t width)                         \
    {                                                                                                        \
        type *restrict out = to;                                                                             \
        const uint16_t *restrict in = from;                                                                  \
        for (int64_t k = 0; k < width; k++) out[k] = bfloat16_value(in[k]);                                  \
    }                                                                                                        \
    MOIRE_CLONES static void round_##type(void *to, const void *from, int64_t width)                         \
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
    const int64_t bytes = (int64_t)moire_element_bytes(exchange->settings.element);
    const bool wide = exchange->settings.element == MOIRE_FLOAT64;
    const int64_t width = exchange->settings.width;
    copy_row *copy = find_copy(&exchange->settings, to->wire, from->wire);
#pragma omp parallel for schedule(static) if (count * width * bytes > PARALLEL_BYTES)
    for (int64_t i = 0; i < count; i++) {
        copy(at(to->rows, to->stride, to->index, i), at(from->rows, from->stride, from->index, i), width);
        if (to->numbers)
            copy_number(at(to->numbers, to->number_stride, to->number_index, i),
                        at(from->numbers, from->number_stride, from->number_index, i), wide);
    }
}

/* Rows that are added in registers, so that their sum is stored once. */
enum { TOGETHER = 8 };

/* out = row[0] + row[1] + ..., from left to right; 1 to TOGETHER rows. */
#define CASE(type, rows)                                                                                     \
    case rows:                                                                                               \
        sum_of_##type(count, rows, row, out);                                                                \
        break;
#define DEFINE_ADD(type)                                                                                     \
    static inline __attribute__((always_inline)) void sum_of_##type(                                         \
        int64_t count, const int rows, const type *const *row, type *restrict out)                           \
    {                                                                                                        \
        for (int64_t k = 0; k < count; k++) {                                                                \
            type sum = row[0][k];                                                                            \
            for (int i = 1; i < rows; i++) sum += row[i][k];                                                 \
            out[k] = sum;                                                                                    \
        }                                                                                                    \
    }                                                                                                        \
    MOIRE_CLONES static void sum_together_##type(int64_t count, int rows, const type *const *row,            \
                                                 type *restrict out)                                         \
    {                                                                                                        \
        switch (rows) {                                                                                      \
            CASE(type, 1)                                                                                    \
            CASE(type, 2)                                                                                    \
            CASE(type, 3) CASE(type, 4) CASE(type, 5) CASE(type, 6) CASE(type, 7) CASE(type, 8)              \
        }                                                                                                    \
    }                                                                                                        \
    MOIRE_CLONES static void add_##type(int64_t count, const type *restrict in, type *restrict out)          \
    {                                                                                                        \
        for (int64_t k = 0; k < count; k++) out[k] += in[k];                                                 \
    }                                                                                                        \
    MOIRE_CLONES static void add_widened_##type(int64_t count, const uint16_t *restrict in,                  \
                                                type *restrict out)                                          \
    {                                                                                                        \
        for (int64_t k = 0; k < count; k++) out[k] += bfloat16_value(in[k]);                                 \
    }                                                                                                        \
    MOIRE_CLONES static void add_rounded_##type(int64_t count, const type *restrict in, type *restrict out)  \
    {                                                                                                        \
        for (int64_t k = 0; k < count; k++) out[k] += bfloat16_rounded((float)in[k]);                        \
    }                                                                                                        \
    MOIRE_CLONES static void round_in_place_##type(int64_t count, type *out)                                 \
    {                                                                                                        \
        for (int64_t k = 0; k < count; k++) out[k] = bfloat16_rounded((float)out[k]);                        \
    }
DEFINE_ADD(float)
DEFINE_ADD(double)

/* Sums that associate in levels go through pieces of a row, so that a node's sum stays in the first cache and
 * needs no memory of the plan. */
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

static const char *row_at(const struct reader *reader, int64_t i)
{
    const struct moire_place *place = place_at(reader, i);
    const struct moire_sum_source *source = &reader->sum->sources[place->source];
    return (const char *)source->data + place->row * source->stride;
}

/* Whether the sum in levels is that of the places one after the other: so it is when every node but the first
 * has one place, and every leaf but the first one node. */
static bool is_one_run(const struct reader *reader)
{
    const int32_t first = place_at(reader, reader->at)->node;
    const int *leaf_of = reader->sum->exchange->leaf_of_node;
    int32_t before = first;
    for (int64_t i = reader->at + 1; i < reader->end; i++) {
        const int32_t node = place_at(reader, i)->node;
        if (node == before ? node != first
                           : leaf_of[node] == leaf_of[before] && leaf_of[node] != leaf_of[first])
            return false;
        before = node;
    }
    return true;
}

/* Rows of the places up to `end`, as many as can be added together and none that is not aligned; 0: not so.
 */
static int gather_rows(const struct reader *reader, int64_t end, size_t alignment, const void *rows[TOGETHER])
{
    int count = 0;
    if (reader->rounds || end - reader->at > TOGETHER) return 0;
    for (int64_t i = reader->at; i < end; i++) {
        rows[count] = row_at(reader, i);
        if ((uintptr_t)rows[count++] % alignment != 0) return 0;
    }
    return count;
}

/* For each element type, on elements [first, first + count) of a row:
 *   first_*     puts a place's row into `out`; rows of the wire are widened, others rounded to it
 *   next_*      adds it
 *   sum_node_*  the places of one node, from reader->at on; it starts from the first row itself, not from
 *               zero: a -0.0 stays
 *   sum_leaf_*  the nodes of one leaf
 *   sum_row_*   the leaves */
#define DEFINE_SUM(type)                                                                                     \
    static void first_##type(const struct reader *r, int64_t i, int64_t first, int64_t count,                \
                             type *restrict out)                                                             \
    {                                                                                                        \
        const char *row = row_at(r, i);                                                                      \
        if (!r->rounds)                                                                                      \
            memcpy(out, row + first * (int64_t)sizeof(type), (size_t)count * sizeof *out);                   \
        else if (r->sum->sources[place_at(r, i)->source].wire)                                               \
            widen_##type(out, row + first * (int64_t)sizeof(uint16_t), count);                               \
        else                                                                                                 \
            round_##type(out, row + first * (int64_t)sizeof(type), count);                                   \
    }                                                                                                        \
    static void next_##type(const struct reader *r, int64_t i, int64_t first, int64_t count,                 \
                            type *restrict out)                                                              \
    {                                                                                                        \
        const void *row = row_at(r, i);                                                                      \
        type value[PIECE];                                                                                   \
        if (!r->rounds) {                                                                                    \
            first_##type(r, i, first, count, value);                                                         \
            add_##type(count, value, out);                                                                   \
        } else if (r->sum->sources[place_at(r, i)->source].wire)                                             \
            add_widened_##type(count, (const uint16_t *)row + first, out);                                   \
        else                                                                                                 \
            add_rounded_##type(count, (const type *)row + first, out);                                       \
    }                                                                                                        \
    static bool sum_gathered_##type(const struct reader *r, int64_t end, int64_t first, int64_t count,       \
                                    type *restrict out)                                                      \
    {                                                                                                        \
        const void *rows[TOGETHER];                                                                          \
        const type *pieces[TOGETHER];                                                                        \
        const int gathered = gather_rows(r, end, sizeof(type), rows);                                        \
        for (int i = 0; i < gathered; i++) pieces[i] = (const type *)rows[i] + first;                        \
        if (gathered) sum_together_##type(count, gathered, pieces, out);                                     \
        return gathered;                                                                                     \
    }                                                                                                        \
    static void sum_node_##type(struct reader *r, int64_t first, int64_t count, type *restrict out)          \
    {                                                                                                        \
        const int32_t node = place_at(r, r->at)->node;                                                       \
        int64_t end = r->at + 1;                                                                             \
        while (end < r->end && place_at(r, end)->node == node) end++;                                        \
        if (!sum_gathered_##type(r, end, first, count, out)) {                                               \
            first_##type(r, r->at, first, count, out);                                                       \
            for (int64_t i = r->at + 1; i < end; i++) next_##type(r, i, first, count, out);                  \
        }                                                                                                    \
        r->at = end;                                                                                         \
        if (r->rounds && r->sum->exchange->nodes > 1) round_in_place_##type(count, out);                     \
    }                                                                                                        \
    static void sum_leaf_##type(struct reader *r, int64_t first, int64_t count, type *restrict out)          \
    {                                                                                                        \
        const int leaf = leaf_at(r, r->at);                                                                  \
        type node_sum[PIECE];                                                                                \
        sum_node_##type(r, first, count, out);                                                               \
        while (r->at < r->end && leaf_at(r, r->at) == leaf) {                                                \
            sum_node_##type(r, first, count, node_sum);                                                      \
            add_##type(count, node_sum, out);                                                                \
        }                                                                                                    \
        if (r->rounds && r->sum->exchange->leaves > 1) round_in_place_##type(count, out);                    \
    }                                                                                                        \
    static void sum_row_##type(struct reader *r, int64_t first, int64_t count, type *restrict out)           \
    {                                                                                                        \
        type leaf_sum[PIECE];                                                                                \
        sum_leaf_##type(r, first, count, out);                                                               \
        while (r->at < r->end) {                                                                             \
            sum_leaf_##type(r, first, count, leaf_sum);                                                      \
            add_##type(count, leaf_sum, out);                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void sum_pieces_##type(const struct reader *reader, int64_t width, char *to, bool to_wire)        \
    {                                                                                                        \
        type out[PIECE];                                                                                     \
        for (int64_t first = 0; first < width; first += PIECE) {                                             \
            const int64_t count = width - first < PIECE ? width - first : PIECE;                             \
            struct reader r = *reader;                                                                       \
            sum_row_##type(&r, first, count, out);                                                           \
            if (to_wire)                                                                                     \
                narrow_##type(to + first * (int64_t)sizeof(uint16_t), out, count);                           \
            else                                                                                             \
                memcpy(to + first * (int64_t)sizeof(type), out, (size_t)count * sizeof(type));               \
        }                                                                                                    \
    }                                                                                                        \
    static void sum_##type(const struct reader *reader, int64_t width, char *to, bool to_wire)               \
    {                                                                                                        \
        const bool direct = !to_wire && (uintptr_t)to % sizeof(type) == 0;                                   \
        if (reader->at == reader->end)                                                                       \
            memset(to, 0, (size_t)width *(to_wire ? sizeof(uint16_t) : sizeof(type)));                       \
        else if (!direct || !is_one_run(reader) ||                                                           \
                 !sum_gathered_##type(reader, reader->end, 0, width, (type *)(void *)to))                    \
            sum_pieces_##type(reader, width, to, to_wire);                                                   \
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
            sum_double(&reader, width, row, narrow && to->wire);
        else
            sum_float(&reader, width, row, narrow && to->wire);
    }
}
