/* bfloat16: the upper half of a float32. */
#ifndef MOIRE_EXCHANGE_BFLOAT16_H
#define MOIRE_EXCHANGE_BFLOAT16_H

#include <stdint.h>
#include <string.h>

/* To nearest, ties to even; values beyond the largest bfloat16 become infinite; a NaN stays one. */
static inline uint16_t bfloat16_of(float value)
{
    const uint32_t quiet = 0x0040;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, not_a_number = (bits >> 16) | quiet;
    return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? not_a_number : rounded);
}

static inline float bfloat16_value(uint16_t upper)
{
    const uint32_t bits = (uint32_t)upper << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float bfloat16_rounded(float value)
{
    return bfloat16_value(bfloat16_of(value));
}

#endif
