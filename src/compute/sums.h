/* Sums along a row. The association is written down here, in lanes, because a compiler that vectorises a
 * sum may let it depend on the alignment of the row; then the bits of a result would depend on where a row
 * happens to lie. Pieces of MOIRE_PIECE elements are added in double, so that long rows lose nothing. */
#ifndef MOIRE_SRC_COMPUTE_SUMS_H
#define MOIRE_SRC_COMPUTE_SUMS_H

#include "compute/elementary.h"

#define MOIRE_LANES (64 / (int64_t)sizeof(real))
/* At any address, whatever the declared type. */
typedef real moire_lanes __attribute__((vector_size(64), aligned(sizeof(real)), may_alias));

/* Sums over rows: a thread takes so many columns at a time, and adds so many rows before it adds those to
 * the rest. */
#define MOIRE_COLUMNS 64
#define MOIRE_ROWS 128

static inline int64_t moire_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Adds the lanes and the `count` numbers that filled no whole lane. */
static inline double moire_lanes_end(const moire_lanes *lanes, const real *left, int64_t count)
{
    real each[64 / sizeof(real)];
    double sum = 0;
    memcpy(each, lanes, sizeof each);
    for (int64_t k = 0; k < MOIRE_LANES; k++) sum += (double)each[k];
    for (int64_t k = 0; k < count; k++) sum += (double)left[k];
    return sum;
}

/* Sum of at most MOIRE_PIECE numbers. */
static inline double moire_sum_piece(int64_t count, const real *x)
{
    moire_lanes sum = { 0 };
    int64_t i = 0;
    for (; i + MOIRE_LANES <= count; i += MOIRE_LANES) sum += *(const moire_lanes *)(x + i);
    return moire_lanes_end(&sum, x + i, count - i);
}

static inline double moire_sum(int64_t count, const real *x)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i += MOIRE_PIECE)
        sum += moire_sum_piece(moire_least(MOIRE_PIECE, count - i), x + i);
    return sum;
}

/* Sum of (x - a) (y - b) over at most MOIRE_PIECE elements. */
static inline double moire_dot_piece(int64_t count, const real *x, real a, const real *y, real b)
{
    moire_lanes sum = { 0 };
    real left[64 / sizeof(real)];
    int64_t i = 0, rest = 0;
    for (; i + MOIRE_LANES <= count; i += MOIRE_LANES)
        sum += (*(const moire_lanes *)(x + i) - a) * (*(const moire_lanes *)(y + i) - b);
    for (; i + rest < count; rest++) left[rest] = (x[i + rest] - a) * (y[i + rest] - b);
    return moire_lanes_end(&sum, left, rest);
}

/* Sum of (x - a) (y - b). */
static inline double moire_dot(int64_t count, const real *x, real a, const real *y, real b)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i += MOIRE_PIECE)
        sum += moire_dot_piece(moire_least(MOIRE_PIECE, count - i), x + i, a, y + i, b);
    return sum;
}

#endif
