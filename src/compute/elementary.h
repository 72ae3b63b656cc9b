/* Functions of one number for row loops, and what a row loop needs to be fast.
 *
 * In the float build the exponential is a polynomial without branches, so that loops over it vectorise;
 * its relative error is below 2e-7 (tests/compute/elementary scans it). The double build, which gradients
 * are checked with, calls the C library. Both pass NaN on and give 0 at -infinity, infinity at +infinity. */
#ifndef MOIRE_SRC_COMPUTE_ELEMENTARY_H
#define MOIRE_SRC_COMPUTE_ELEMENTARY_H

#include <stdint.h>
#include <string.h>
#include <tgmath.h>

#include "base/clones.h"
#include "moire/base/real.h"

/* Elements of a local buffer between two loops over a part of a row; a multiple of MOIRE_LANES (sums.h). */
#define MOIRE_PIECE 512
/* Elements under which a parallel region costs more than it brings. */
#define MOIRE_PARALLEL_ELEMENTS 16384

#ifdef MOIRE_REAL_DOUBLE

static inline real moire_exp(real x)
{
    return exp(x);
}

#else

static inline float moire_power_of_two(int32_t exponent)
{
    uint32_t bits = (uint32_t)(exponent + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2. The polynomial interpolates (exp(r) - 1 - r) /
 * r^2 at Chebyshev points. 2^n is applied in two steps, so that subnormal and infinite results need no
 * case of their own. */
static inline real moire_exp(real x)
{
    const float rounder = 0x1.8p23f; /* adding it leaves the rounded number in the low bits */
    const uint32_t rounder_bits = 0x4b400000;
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float shifted = x * 0x1.715476p0f + rounder;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    int32_t n = (int32_t)(bits - rounder_bits), half = n >> 1;
    float whole = shifted - rounder;
    float r = x - whole * 0x1.63p-1f; /* ln 2 in two parts; the first product is exact */
    r = r + whole * 0x1.bd0106p-13f;
    float tail = 0x1.6d1254p-10f * r + 0x1.120cbap-7f;
    tail = tail * r + 0x1.555518p-5f;
    tail = tail * r + 0x1.5554dcp-3f;
    tail = tail * r + 0.5f;
    float mantissa = 1.0f + (r + r * r * tail);
    return mantissa * moire_power_of_two(half) * moire_power_of_two(n - half);
}

#endif

/* 1 / (1 + exp(-x)): accurate at both ends, which 1 + tanh is not. */
static inline real moire_sigmoid(real x)
{
    return 1 / (1 + moire_exp(-x));
}

#endif
