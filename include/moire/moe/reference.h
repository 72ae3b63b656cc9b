/* The dense reference layer: one rank, double precision, plain loops over tokens and slots; the oracle of the
 * distributed layer. It is given the choice (experts, -1 or dropped: none) and computes weights, outputs,
 * losses and all gradients. Not collective. */
#ifndef MOIRE_MOE_REFERENCE_H
#define MOIRE_MOE_REFERENCE_H

#include "moire/base/memory.h"

enum { MOIRE_REFERENCE_RAW, MOIRE_REFERENCE_NORMALISED, MOIRE_REFERENCE_AFTER_CHOICE, MOIRE_REFERENCE_EQUAL };

struct moire_reference {
    int64_t tokens, dim, hidden, experts, top_k;
    int kind;                        /* MOIRE_SWIGLU or MOIRE_GELU */
    int weighting;                   /* one of the above */
    double balance_weight, z_weight; /* 0: off */
    const double *input;             /* [T, D] */
    const double *router;            /* [E, D] */
    const double *gate, *up, *down;  /* [E, F, D], [E, F, D], [E, D, F]; gate NULL for gelu */
    const int32_t *chosen;           /* [T, K] */
    const bool *dropped;             /* [T, K] or NULL */
};
/* output [T, D]; *balance_loss and *z_loss weighted. Both functions fail only for want of memory. */
moire_status moire_reference_forward(const struct moire_reference *reference, double *output,
                                     double *balance_loss, double *z_loss);
/* Gradients (overwritten) of <output_gradient, output> + balance_loss + z_loss. */
moire_status moire_reference_backward(const struct moire_reference *reference, const double *output_gradient,
                                      double *input_gradient, double *router_gradient, double *gate_gradient,
                                      double *up_gradient, double *down_gradient);

#endif
