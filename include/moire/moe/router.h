/* Routers: `score` (pure: rows of logits to scores), `select` (which experts, with which weights) and
 * `backward`. One file a router, one line in the table of moe/routers.c.
 *
 * Legend: T tokens here, E experts, K slots a token, D dim. The logits are x W^T with W [E, D], computed by
 * the layer.
 *
 *   softmax  p = softmax(logits); the K largest; weight p, divided by the sum of the chosen when
 *            moe.normalise (GShard, arXiv 2006.16668), raw otherwise (Switch, arXiv 2101.03961).
 *   mixtral  the K largest logits; weight = softmax over the K chosen logits (arXiv 2401.04088).
 *   forced   the traffic (moe/traffic.h) that moe.forced names, whatever the logits; weight 1/K, no gradient.
 *            For measurement.
 * Equal scores: the lower expert wins. */
#ifndef MOIRE_MOE_ROUTER_H
#define MOIRE_MOE_ROUTER_H

#include "moire/base/config.h"
#include "moire/base/real.h"
#include "moire/cluster/mesh.h"
#include "moire/moe/traffic.h"

/* What the tokens of this call are. Tokens are in rank order. */
struct moire_micro_batch {
    int64_t tokens;        /* T on this rank */
    int64_t first_token;   /* number of the first one here, within the micro-batch of all ranks */
    int64_t global_tokens; /* of all ranks, in this micro-batch */
    int64_t step;          /* optimizer step and micro-batch, for forced choices */
    int64_t part;
    double share;  /* global_tokens over the tokens of the whole step: weighs the auxiliary losses */
    bool training; /* false: no auxiliary losses, no capacity, nothing kept for backward */
};

struct moire_router_setting {
    int64_t experts, top_k;
    bool normalise;
    const struct moire_traffic *traffic; /* borrowed; forced alone */
    const struct moire_mesh *mesh;
    const struct moire_placement *placement;
    int layer; /* of the model, and counted over layers with experts only */
    int moe_layer;
};

/* The choice for T tokens; arrays are owned by the layer. */
struct moire_selection {
    int32_t *experts; /* [T, K]; -1: no choice */
    real *weights;    /* [T, K] */
    bool *dropped;    /* [T, K]: chosen, but past the expert's capacity */
    bool frozen; /* experts are given (a replayed plan): select computes weights only. For gradient checks */
};

struct moire_router {
    const char *name, *help;
    bool trains; /* its weights get gradients, and balance applies */
    /* scores [T, E] = softmax of logits [T, E], which balance takes its means of. Pure; not collective. */
    void (*score)(const struct moire_router_setting *setting, int64_t tokens, const real *logits,
                  real *scores);
    /* Fills experts (unless frozen) and weights; of logits that are not finite too it chooses valid experts.
     * May be collective over the world: all ranks call it, also with T = 0. A failure may be this rank's own;
     * the layer brings it to prepare. */
    moire_status (*select)(const struct moire_router_setting *setting, const struct moire_micro_batch *batch,
                           const real *logits, const real *scores, struct moire_selection *selection);
    /* logit_gradients [T, E] = d/d logits given weight_gradients [T, K] (overwritten). Not collective. */
    void (*backward)(const struct moire_router_setting *setting, int64_t tokens, const real *logits,
                     const real *scores, const struct moire_selection *selection,
                     const real *weight_gradients, real *logit_gradients);
};
extern const struct moire_router *const moire_routers[];
extern const int moire_router_count;
extern const struct moire_router moire_router_softmax, moire_router_mixtral, moire_router_forced;
/* MOIRE_USAGE with the nearest name. */
moire_status moire_router_find(const char *name, const struct moire_router **router);

/* Row-wise softmax, [rows, columns], into `out` (may be `in`). */
void moire_softmax_rows(int64_t rows, int64_t columns, const real *in, real *out);

#endif
