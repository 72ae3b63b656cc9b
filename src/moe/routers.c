#include <tgmath.h>

#include "compute/elementary.h"
#include "moe/choice.h"

const struct moire_router *const moire_routers[] = {
    &moire_router_softmax,
    &moire_router_mixtral,
    &moire_router_forced,
};
enum { ROUTERS = sizeof moire_routers / sizeof *moire_routers };
const int moire_router_count = ROUTERS;

moire_status moire_router_find(const char *name, const struct moire_router **router)
{
    const char *names[ROUTERS];
    int64_t index;
    for (int i = 0; i < ROUTERS; i++) names[i] = moire_routers[i]->name;
    MOIRE_TRY(moire_name_find("router", name, names, ROUTERS, &index));
    *router = moire_routers[index];
    return MOIRE_OK;
}

/* The largest is subtracted, so that exponentials do not overflow. NaN and +infinity make the row NaN. */
MOIRE_CLONES static void softmax_row(int64_t columns, const real *in, real *out)
{
    real largest = in[0];
    for (int64_t c = 1; c < columns; c++) largest = in[c] > largest ? in[c] : largest;
    for (int64_t c = 0; c < columns; c++) out[c] = moire_exp(in[c] - largest);
    double sum = 0;
    for (int64_t c = 0; c < columns; c++) sum += (double)out[c];
    for (int64_t c = 0; c < columns; c++) out[c] = (real)((double)out[c] / sum);
}

void moire_softmax_rows(int64_t rows, int64_t columns, const real *in, real *out)
{
#pragma omp parallel for schedule(static) if (rows * columns > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t row = 0; row < rows; row++) softmax_row(columns, in + row * columns, out + row * columns);
}

void moire_softmax_score(const struct moire_router_setting *setting, int64_t tokens, const real *logits,
                         real *scores)
{
    moire_softmax_rows(tokens, setting->experts, logits, scores);
}

static inline real comparable(real value)
{
    return isnan(value) ? -(real)INFINITY : value;
}

/* Insertion into the K best so far; most experts fail the first comparison. */
void moire_choose_largest(int64_t experts, int64_t top_k, const real *row, int32_t *chosen)
{
    int64_t count = 0;
    for (int64_t e = 0; e < experts; e++) {
        real value = comparable(row[e]);
        if (count == top_k && !(value > comparable(row[chosen[count - 1]]))) continue;
        int64_t place = count < top_k ? count++ : count - 1;
        for (; place > 0 && value > comparable(row[chosen[place - 1]]); place--)
            chosen[place] = chosen[place - 1];
        chosen[place] = (int32_t)e;
    }
}

void moire_chosen_softmax(int64_t top_k, const real *logits, const int32_t *chosen, real *weights)
{
    real largest = -(real)INFINITY;
    for (int64_t k = 0; k < top_k; k++)
        if (chosen[k] >= 0 && logits[chosen[k]] > largest) largest = logits[chosen[k]];
    double sum = 0;
    for (int64_t k = 0; k < top_k; k++) {
        weights[k] = chosen[k] >= 0 ? moire_exp(logits[chosen[k]] - largest) : 0;
        sum += (double)weights[k];
    }
    for (int64_t k = 0; k < top_k; k++)
        if (chosen[k] >= 0) weights[k] = (real)((double)weights[k] / sum);
}

void moire_chosen_softmax_backward(int64_t experts, int64_t top_k, const int32_t *chosen, const real *weights,
                                   const real *weight_gradients, real *logit_gradients)
{
    double mean = 0;
    for (int64_t e = 0; e < experts; e++) logit_gradients[e] = 0;
    for (int64_t k = 0; k < top_k; k++) mean += (double)weights[k] * (double)weight_gradients[k];
    for (int64_t k = 0; k < top_k; k++)
        if (chosen[k] >= 0) logit_gradients[chosen[k]] += weights[k] * (weight_gradients[k] - (real)mean);
}
