/* The MoE layer: score -> select -> plan -> dispatch -> experts -> combine, and the same steps in reverse.
 *
 * Shared by all layers of a model: struct moire_moe (exchange, placement, scratch). One struct
 * moire_moe_layer for each. Every call is collective over the world unless it says otherwise; ranks may have
 * no tokens and no experts. */
#ifndef MOIRE_MOE_LAYER_H
#define MOIRE_MOE_LAYER_H

#include "moire/base/tensors.h"
#include "moire/exchange/exchange.h"
#include "moire/moe/balance.h"
#include "moire/moe/experts.h"

/* What a layer has of the rows that it received. */
struct moire_moe_received {
    struct moire_rows rows, weights; /* [R, D], [R, 1] */
    struct moire_rows up, gate;      /* [R, F]; no gate for gelu */
};

/* Transfers that are open at once: a layer ends each before it begins the next. */
enum { MOIRE_MOE_CONTEXTS = 1 };

struct moire_moe {
    const struct moire_mesh *mesh; /* borrowed */
    const struct moire_router *router;
    struct moire_router_setting router_setting; /* layer fields are set by each layer */
    struct moire_balance_setting balance_setting;
    int kind; /* MOIRE_SWIGLU or MOIRE_GELU */
    int64_t dim, hidden_size, experts, top_k;
    int64_t tokens; /* most tokens a rank brings */
    struct moire_placement placement;
    struct moire_exchange *exchange;
    /* scratch of received rows, shared by all layers */
    struct moire_rows outputs, output_gradients, weight_gradients, hidden, hidden_gradients;
    /* With train.recompute layers keep neither inputs nor received rows: there is one of each, for the layer
     * that is at work, and moire_moe_forward_again fills it. */
    bool recompute;
    struct moire_rows inputs; /* [tokens, D] */
    struct moire_moe_received received;
    real *logit_gradients;             /* [tokens, E] */
    struct moire_rows slot_gradients;  /* [tokens * K, 1] */
    struct moire_rows inputs_gradient; /* [tokens, D] */
    double *reduce;                    /* [2 E + 1] */
    int64_t *counts;                   /* [E] */
    struct moire_traffic traffic;      /* of the forced router; replay is set by train */
};

struct moire_moe_layer {
    struct moire_moe *moe;
    int layer, moe_layer;
    int router_tensor, gate_tensor, up_tensor, down_tensor; /* in the table; gate -1 for gelu */
    /* kept from forward to backward */
    real *logits, *scores; /* [tokens, E] */
    struct moire_selection selection;
    struct moire_balance balance;
    /* [tokens, D]: the layer's input; its owner writes it before the forward, and with train.recompute again
     * before the backward. Then it is that of *moe, which does not move. */
    struct moire_rows inputs;
    struct moire_rows slot_weights; /* [tokens * K, 1]; selection.weights is its data */
    struct moire_moe_received own, *received; /* own, or that of *moe */
    int64_t *slot_begin, *target_begin, *targets;
    struct moire_plan *plan;
};

/* Checks of the configuration that need no memory: names of router, balance and back end, top_k <= experts,
 * capacity, moe.forced and its file. MOIRE_USAGE. Not collective. */
moire_status moire_moe_check(const struct moire_config *config);
/* Adds the tensors of layer `layer` to the table: "layers.N.router" [E, D], "layers.N.experts.gate", ".up"
 * [E, F, D], ".down" [E, D, F] (normal, deviation 0.02, down 0.02 / sqrt(2 L)); sets the indices in *layer
 * (may be NULL). Not collective. */
moire_status moire_moe_describe(const struct moire_config *config, int layer, struct moire_tensors *tensors,
                                struct moire_moe_layer *moe_layer);

/* `tokens`: most tokens this rank brings in a call (0 is fine). *moe must stay where it is until it is freed;
 * after a failure it is zeroed, and freeing it does nothing. The root warns where the weights cannot teach
 * the router (K = 1, normalised). The free is collective too. */
moire_status moire_moe_create(const struct moire_config *config, const struct moire_mesh *mesh,
                              int64_t tokens, struct moire_moe *moe);
void moire_moe_free(struct moire_moe *moe);
/* Room for one layer; layer, moe_layer and the tensor indices must be set, the rest is overwritten. The free
 * is collective too; it does nothing on a zeroed layer. */
moire_status moire_moe_layer_create(struct moire_moe *moe, struct moire_moe_layer *layer);
void moire_moe_layer_free(struct moire_moe_layer *layer);

/* Where a rank is in its expert group. */
struct moire_moe_place {
    int ranks, rank;
    int nodes, node_ranks; /* nodes of the group, ranks of the group on this rank's node */
};
/* Adds to bytes[] what moire_moe_create and so many layers come to hold on a rank of an expert group, buffers
 * of received rows included; rows [layers]. Not collective. */
void moire_moe_memory(const struct moire_config *config, const struct moire_moe_place *place, int64_t tokens,
                      int layers, const struct moire_plan_rows *rows, int64_t bytes[MOIRE_MEMORY_KINDS]);

/* output [T, D] (a buffer of the exchange) = sum over slots; layer->inputs holds the input rows [T, D]. Timed
 * as ROUTER, PREPARE, DISPATCH, EXPERTS, COMBINE. After a forward that was not training the plan is released
 * at once. parameters: the arena. */
moire_status moire_moe_forward(struct moire_moe_layer *layer, const struct moire_tensors *tensors,
                               const real *parameters, const struct moire_micro_batch *batch,
                               struct moire_rows *output);
/* With train.recompute, before the backward: dispatches the inputs again and computes what the backward needs
 * of the experts. Choice, weights and plan are those of the forward, and so are all bits. Timed as DISPATCH
 * and EXPERTS. Without train.recompute there is nothing to do. */
moire_status moire_moe_forward_again(struct moire_moe_layer *layer, const struct moire_tensors *tensors,
                                     const real *parameters);
/* output_gradient [T, D] (a buffer of the exchange); input_gradient [T, D] += ; gradients: the arena, += .
 * input_gradient NULL: not wanted; its products are left out, what travels is the same.
 * Releases the plan. After a forward that was training. An MPI error leaves the plan as it is. */
moire_status moire_moe_backward(struct moire_moe_layer *layer, const struct moire_tensors *tensors,
                                const real *parameters, real *gradients,
                                const struct moire_micro_batch *batch,
                                const struct moire_rows *output_gradient, real *input_gradient);

#endif
