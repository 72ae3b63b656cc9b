#include "moire/moe/layer.h"

#include "moire/compute/linear.h"
#include "moire/compute/vector.h"
#include "moire/observe/phases.h"

/* The whole data path is in moire_moe_forward and moire_moe_backward, at the end. */

static struct moire_router_setting setting_of(const struct moire_moe_layer *layer)
{
    struct moire_router_setting setting = layer->moe->router_setting;
    setting.layer = layer->layer;
    setting.moe_layer = layer->moe_layer;
    return setting;
}

static int64_t offset_of(const struct moire_tensors *tensors, int tensor)
{
    return tensors->list[tensor].offset;
}

/* The matrices of this rank's experts; `gradients` is NULL in forward. */
static struct moire_experts experts_of(const struct moire_moe_layer *layer,
                                       const struct moire_tensors *tensors, const real *parameters,
                                       real *gradients)
{
    const struct moire_moe *moe = layer->moe;
    const bool gated = moe->kind == MOIRE_SWIGLU;
    const int64_t gate = gated ? offset_of(tensors, layer->gate_tensor) : 0;
    const int64_t up = offset_of(tensors, layer->up_tensor), down = offset_of(tensors, layer->down_tensor);
    struct moire_experts experts = { .kind = moe->kind, .dim = moe->dim, .hidden = moe->hidden_size };
    experts.instances = moire_placement_local(&moe->placement, moe->mesh->expert.rank);
    moire_assert(experts.instances == tensors->local_experts);
    experts.gate = gated ? parameters + gate : NULL;
    experts.up = parameters + up;
    experts.down = parameters + down;
    if (!gradients) return experts;
    experts.gate_gradient = gated ? gradients + gate : NULL;
    experts.up_gradient = gradients + up;
    experts.down_gradient = gradients + down;
    return experts;
}

static struct moire_expert_rows rows_of(const struct moire_moe_layer *layer)
{
    const struct moire_plan *plan = layer->plan;
    return (struct moire_expert_rows){
        .segments = plan->segments,
        .segment_count = plan->segment_count,
        .instance_begin = plan->instance_begin,
        .rows = plan->received_rows,
        .input = layer->received->rows.data,
        .weights = layer->received->weights.data,
        .gate = layer->received->gate.data,
        .up = layer->received->up.data,
        .hidden = layer->moe->hidden.data,
    };
}

/* Logits, scores and the choice. Returns this rank's own status: the ranks agree on it in prepare. After a
 * failure nothing is chosen, so that the collective calls up to there find valid experts. */
static moire_status route(struct moire_moe_layer *layer, const real *matrix,
                          const struct moire_micro_batch *batch)
{
    const struct moire_moe *moe = layer->moe;
    const struct moire_router_setting setting = setting_of(layer);
    moire_phase_begin(MOIRE_PHASE_ROUTER);
    moire_linear_forward(batch->tokens, moe->dim, moe->experts, layer->inputs.data, matrix, NULL,
                         layer->logits);
    moe->router->score(&setting, batch->tokens, layer->logits, layer->scores);
    moire_status status = moe->router->select(&setting, batch, layer->logits, layer->scores,
                                              &layer->selection);
    if (status != MOIRE_OK)
        for (int64_t slot = 0; slot < batch->tokens * moe->top_k; slot++) layer->selection.experts[slot] = -1;
    moire_phase_end(MOIRE_PHASE_ROUTER);
    return status;
}

/* The routing as the exchange wants it: every expert has one instance, a slot that is dropped has none. */
static struct moire_routing routing_of(struct moire_moe_layer *layer, int64_t tokens)
{
    const struct moire_moe *moe = layer->moe;
    const struct moire_placement *placement = &moe->placement;
    const int64_t slots = tokens * moe->top_k;
    int64_t target = 0;
    layer->target_begin[0] = 0;
    for (int64_t slot = 0; slot < slots; slot++) {
        int32_t expert = layer->selection.experts[slot];
        if (expert >= 0 && !layer->selection.dropped[slot])
            layer->targets[target++] = placement->expert_instances[placement->expert_begin[expert]];
        layer->target_begin[slot + 1] = target;
    }
    return (struct moire_routing){
        .tokens = tokens,
        .slots = slots,
        .slot_begin = layer->slot_begin,
        .target_begin = layer->target_begin,
        .targets = layer->targets,
    };
}

/* The plan is agreed on within an expert group; the groups meet again in the next collective call over the
 * world, so they agree on leaving too. */
static moire_status agree_groups(struct moire_moe_layer *layer, moire_status status)
{
    const struct moire_mesh *mesh = layer->moe->mesh;
    if (mesh->groups == 1) return status;
    moire_status agreed = moire_agree(&mesh->world, status);
    if (agreed != MOIRE_OK && status == MOIRE_OK) moire_exchange_release(layer->plan);
    return agreed;
}

/* Balance, capacity and the plan: all that waits for the other ranks before rows move. */
static moire_status prepare(struct moire_moe_layer *layer, const struct moire_micro_batch *batch,
                            moire_status local)
{
    struct moire_moe *moe = layer->moe;
    const struct moire_router_setting setting = setting_of(layer);
    moire_phase_begin(MOIRE_PHASE_PREPARE);
    moire_status status = moire_balance_forward(&moe->balance_setting, &setting, batch, layer->logits,
                                                layer->scores, &layer->selection, moe->reduce,
                                                &layer->balance);
    if (status == MOIRE_OK)
        status = moire_capacity_apply(&moe->balance_setting, &setting, batch, &layer->selection, moe->counts,
                                      &layer->balance);
    if (status == MOIRE_OK) {
        struct moire_routing routing = routing_of(layer, batch->tokens);
        status = agree_groups(layer, moire_exchange_prepare(layer->plan, &routing, local));
    }
    moire_phase_end(MOIRE_PHASE_PREPARE);
    return status;
}

static moire_status dispatch(struct moire_plan *plan, const struct moire_rows *rows,
                             const struct moire_rows *numbers, struct moire_rows *received,
                             struct moire_rows *received_numbers)
{
    moire_phase_begin(MOIRE_PHASE_DISPATCH);
    moire_status status = moire_dispatch(plan, rows, numbers, received, received_numbers);
    moire_phase_end(MOIRE_PHASE_DISPATCH);
    return status;
}

static moire_status combine(struct moire_plan *plan, const struct moire_rows *outputs,
                            const struct moire_rows *output_numbers, struct moire_rows *rows,
                            struct moire_rows *numbers)
{
    moire_phase_begin(MOIRE_PHASE_COMBINE);
    moire_status status = moire_combine(plan, outputs, output_numbers, rows, numbers);
    moire_phase_end(MOIRE_PHASE_COMBINE);
    return status;
}

/* From the gradients of the slots' weights and of the losses to those of the logits, the matrix and the
 * input. */
static void route_backward(struct moire_moe_layer *layer, const real *matrix, real *matrix_gradient,
                           const struct moire_micro_batch *batch, real *input_gradient)
{
    const struct moire_moe *moe = layer->moe;
    const struct moire_router_setting setting = setting_of(layer);
    const int64_t tokens = batch->tokens;
    real *logit_gradients = moe->logit_gradients;
    moire_phase_begin(MOIRE_PHASE_ROUTER);
    moe->router->backward(&setting, tokens, layer->logits, layer->scores, &layer->selection,
                          moe->slot_gradients.data, logit_gradients);
    moire_balance_backward(&moe->balance_setting, &setting, batch, layer->logits, layer->scores,
                           &layer->balance, logit_gradients);
    moire_linear_backward_weight(tokens, moe->dim, moe->experts, layer->inputs.data, logit_gradients,
                                 matrix_gradient, NULL);
    if (input_gradient)
        moire_linear_backward_input(tokens, moe->dim, moe->experts, logit_gradients, matrix, true,
                                    input_gradient);
    moire_phase_end(MOIRE_PHASE_ROUTER);
}

moire_status moire_moe_forward(struct moire_moe_layer *layer, const struct moire_tensors *tensors,
                               const real *parameters, const struct moire_micro_batch *batch,
                               struct moire_rows *output)
{
    struct moire_moe *moe = layer->moe;
    const struct moire_experts experts = experts_of(layer, tensors, parameters, NULL);
    moire_assert(batch->tokens <= moe->tokens);

    moire_status local = route(layer, parameters + offset_of(tensors, layer->router_tensor), batch);
    MOIRE_TRY(prepare(layer, batch, local));
    MOIRE_TRY(dispatch(layer->plan, &layer->inputs, &layer->slot_weights, &layer->received->rows,
                       &layer->received->weights));
    const struct moire_expert_rows rows = rows_of(layer);
    moire_phase_begin(MOIRE_PHASE_EXPERTS);
    moire_experts_forward(&experts, &rows, moe->outputs.data);
    moire_phase_end(MOIRE_PHASE_EXPERTS);
    MOIRE_TRY(combine(layer->plan, &moe->outputs, NULL, output, NULL));
    if (!batch->training) moire_exchange_release(layer->plan);
    return MOIRE_OK;
}

moire_status moire_moe_forward_again(struct moire_moe_layer *layer, const struct moire_tensors *tensors,
                                     const real *parameters)
{
    if (!layer->moe->recompute) return MOIRE_OK;
    const struct moire_experts experts = experts_of(layer, tensors, parameters, NULL);
    MOIRE_TRY(dispatch(layer->plan, &layer->inputs, &layer->slot_weights, &layer->received->rows,
                       &layer->received->weights));
    const struct moire_expert_rows rows = rows_of(layer);
    moire_phase_begin(MOIRE_PHASE_EXPERTS);
    moire_experts_forward_again(&experts, &rows);
    moire_phase_end(MOIRE_PHASE_EXPERTS);
    return MOIRE_OK;
}

moire_status moire_moe_backward(struct moire_moe_layer *layer, const struct moire_tensors *tensors,
                                const real *parameters, real *gradients,
                                const struct moire_micro_batch *batch,
                                const struct moire_rows *output_gradient, real *input_gradient)
{
    struct moire_moe *moe = layer->moe;
    const struct moire_experts experts = experts_of(layer, tensors, parameters, gradients);
    const int64_t router = offset_of(tensors, layer->router_tensor);
    struct moire_rows *received_gradients = &moe->outputs; /* free since the forward's combine */

    MOIRE_TRY(dispatch(layer->plan, output_gradient, NULL, &moe->output_gradients, NULL));
    const struct moire_expert_rows rows = rows_of(layer);
    moire_phase_begin(MOIRE_PHASE_EXPERTS);
    moire_experts_backward(&experts, &rows, moe->output_gradients.data,
                           input_gradient ? received_gradients->data : NULL, moe->weight_gradients.data,
                           moe->hidden_gradients.data);
    moire_phase_end(MOIRE_PHASE_EXPERTS);
    MOIRE_TRY(combine(layer->plan, received_gradients, &moe->weight_gradients, &moe->inputs_gradient,
                      &moe->slot_gradients));
    if (input_gradient) moire_add(batch->tokens * moe->dim, moe->inputs_gradient.data, input_gradient);
    route_backward(layer, parameters + router, gradients + router, batch, input_gradient);
    moire_exchange_release(layer->plan);
    return MOIRE_OK;
}
