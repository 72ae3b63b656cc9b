#include "moire/moe/reference.h"

#include <math.h>
#include <string.h>

#include "moire/base/config.h"

/* Deliberately plain: one token and one slot at a time, nothing shared with the layer. */

/* One block of memory. Over all tokens: f. Of one token: p = softmax(logits), the logarithm of its
 * denominator, the slots' weights. Of one slot: the hidden row before the weight, and what it comes from. */
struct work {
    double *block;              /* owned */
    double *share;              /* f, [E] */
    double *p, *logit_gradient; /* [E] */
    double lse;
    double *weights, *weight_gradients; /* [K] */
    double *up, *gate, *hidden;         /* [F] */
};

static moire_status work_create(const struct moire_reference *r, struct work *work)
{
    double *at;
    MOIRE_TRY(
        moire_allocate(MOIRE_MEMORY_OTHER, 3 * r->experts + 2 * r->top_k + 3 * r->hidden, sizeof *at, &at));
    work->block = at;
    work->share = at, at += r->experts;
    work->p = at, at += r->experts;
    work->logit_gradient = at, at += r->experts;
    work->weights = at, at += r->top_k;
    work->weight_gradients = at, at += r->top_k;
    work->up = at, at += r->hidden;
    work->gate = at, at += r->hidden;
    work->hidden = at;
    double slots = (double)(r->tokens * r->top_k);
    for (int64_t slot = 0; slot < r->tokens * r->top_k; slot++)
        if (r->chosen[slot] >= 0) work->share[r->chosen[slot]] += 1 / slots;
    return MOIRE_OK;
}

static double dot(int64_t count, const double *x, const double *y)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += x[i] * y[i];
    return sum;
}

static bool takes_part(const struct moire_reference *r, int64_t slot)
{
    return r->chosen[slot] >= 0 && !(r->dropped && r->dropped[slot]);
}

/* p, lse and the weights of one token, by the formulas as published. Dividing by the sum of the chosen and a
 * softmax over the chosen logits are the same. */
static void route(const struct moire_reference *r, int64_t t, struct work *work)
{
    const int32_t *chosen = r->chosen + t * r->top_k;
    double sum = 0, chosen_sum = 0;
    for (int64_t e = 0; e < r->experts; e++) {
        work->p[e] = exp(dot(r->dim, r->router + e * r->dim, r->input + t * r->dim));
        sum += work->p[e];
    }
    work->lse = log(sum);
    for (int64_t k = 0; k < r->top_k; k++)
        if (chosen[k] >= 0) chosen_sum += work->p[chosen[k]];
    for (int64_t k = 0; k < r->top_k; k++) {
        double whole = r->weighting == MOIRE_REFERENCE_RAW ? sum : chosen_sum;
        work->weights[k] = chosen[k] >= 0 ? work->p[chosen[k]] / whole : 0;
        if (r->weighting == MOIRE_REFERENCE_EQUAL && chosen[k] >= 0) work->weights[k] = 1 / (double)r->top_k;
    }
    for (int64_t e = 0; e < r->experts; e++) work->p[e] /= sum;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static const double gelu_root = 0.79788456080286535588, gelu_cubic = 0.044715; /* sqrt(2/pi) */

static double gelu(double u)
{
    return u / 2 * (1 + tanh(gelu_root * (u + gelu_cubic * u * u * u)));
}

static double gelu_slope(double u)
{
    double th = tanh(gelu_root * (u + gelu_cubic * u * u * u));
    return (1 + th) / 2 + u / 2 * (1 - th * th) * gelu_root * (1 + 3 * gelu_cubic * u * u);
}

/* The hidden row of one token at one expert, before the weight. */
static void hidden_row(const struct moire_reference *r, int64_t t, int64_t expert, struct work *work)
{
    const double *x = r->input + t * r->dim;
    for (int64_t f = 0; f < r->hidden; f++) {
        int64_t row = (expert * r->hidden + f) * r->dim;
        double u = work->up[f] = dot(r->dim, r->up + row, x);
        if (r->kind == MOIRE_SWIGLU) {
            double g = work->gate[f] = dot(r->dim, r->gate + row, x);
            work->hidden[f] = g * sigmoid(g) * u;
        } else {
            work->hidden[f] = gelu(u);
        }
    }
}

/* output [D] of one token += weight * down hidden. */
static void add_output(const struct moire_reference *r, int64_t expert, double weight,
                       const struct work *work, double *output)
{
    const double *down = r->down + expert * r->dim * r->hidden;
    for (int64_t d = 0; d < r->dim; d++)
        output[d] += weight * dot(r->hidden, down + d * r->hidden, work->hidden);
}

moire_status moire_reference_forward(const struct moire_reference *r, double *output, double *balance_loss,
                                     double *z_loss)
{
    struct work work = { 0 };
    MOIRE_TRY(work_create(r, &work));
    double balance = 0, z = 0;
    for (int64_t t = 0; t < r->tokens; t++) {
        route(r, t, &work);
        balance += dot(r->experts, work.share, work.p);
        z += work.lse * work.lse;
        for (int64_t d = 0; d < r->dim; d++) output[t * r->dim + d] = 0;
        for (int64_t k = 0; k < r->top_k; k++) {
            int64_t slot = t * r->top_k + k;
            if (!takes_part(r, slot)) continue;
            hidden_row(r, t, r->chosen[slot], &work);
            add_output(r, r->chosen[slot], work.weights[k], &work, output + t * r->dim);
        }
    }
    double tokens = r->tokens > 0 ? (double)r->tokens : 1;
    *balance_loss = r->balance_weight * (double)r->experts * balance / tokens;
    *z_loss = r->z_weight * z / tokens;
    moire_release(work.block);
    return MOIRE_OK;
}

/* Of one token at one of its experts: gradients of the weight, of the expert's matrices and of the input. */
struct gradients {
    double *input, *router, *gate, *up, *down;
};

static void expert_backward(const struct moire_reference *r, int64_t t, int64_t k,
                            const double *output_gradient, struct work *work,
                            const struct gradients *gradients)
{
    const int64_t expert = r->chosen[t * r->top_k + k];
    const double weight = work->weights[k], *x = r->input + t * r->dim, *dy = output_gradient + t * r->dim;
    double *dx = gradients->input + t * r->dim;
    hidden_row(r, t, expert, work);
    work->weight_gradients[k] = 0;
    for (int64_t f = 0; f < r->hidden; f++) {
        double through = 0, u = work->up[f], g = work->gate[f], s = sigmoid(g);
        for (int64_t d = 0; d < r->dim; d++) {
            int64_t at = (expert * r->dim + d) * r->hidden + f;
            through += dy[d] * r->down[at];
            gradients->down[at] += dy[d] * weight * work->hidden[f];
        }
        work->weight_gradients[k] += through * work->hidden[f];
        bool gated = r->kind == MOIRE_SWIGLU;
        double du = weight * through * (gated ? g * s : gelu_slope(u));
        double dg = gated ? weight * through * u * s * (1 + g * (1 - s)) : 0;
        for (int64_t d = 0; d < r->dim; d++) {
            int64_t at = (expert * r->hidden + f) * r->dim + d;
            gradients->up[at] += du * x[d];
            dx[d] += du * r->up[at];
            if (!gated) continue;
            gradients->gate[at] += dg * x[d];
            dx[d] += dg * r->gate[at];
        }
    }
}

/* Gradient of the logits of one token: of its weights, which are p or p over the sum of the chosen, of the
 * balance loss and of the z-loss. With gradients g_e of the p_e of a softmax:
 * d/d logit_j = p_j (g_j - sum_e g_e p_e). */
static void logits_backward(const struct moire_reference *r, int64_t t, struct work *work)
{
    const int32_t *chosen = r->chosen + t * r->top_k;
    const double balance = r->balance_weight * (double)r->experts / (double)r->tokens;
    double *gradient = work->logit_gradient, chosen_sum = 0, mean = 0;
    for (int64_t e = 0; e < r->experts; e++) gradient[e] = balance * work->share[e];
    for (int64_t k = 0; k < r->top_k; k++) {
        if (chosen[k] >= 0) chosen_sum += work->p[chosen[k]];
        mean += work->weights[k] * work->weight_gradients[k];
    }
    for (int64_t k = 0; k < r->top_k; k++) {
        if (chosen[k] < 0 || r->weighting == MOIRE_REFERENCE_EQUAL) continue;
        double g = work->weight_gradients[k];
        gradient[chosen[k]] += r->weighting == MOIRE_REFERENCE_RAW ? g : (g - mean) / chosen_sum;
    }
    double inner = dot(r->experts, gradient, work->p), z = 2 * r->z_weight * work->lse / (double)r->tokens;
    for (int64_t e = 0; e < r->experts; e++) gradient[e] = work->p[e] * (gradient[e] - inner + z);
}

static void clear(int64_t count, double *x)
{
    if (x && count > 0) memset(x, 0, (size_t)count * sizeof *x);
}

moire_status moire_reference_backward(const struct moire_reference *r, const double *output_gradient,
                                      double *input_gradient, double *router_gradient, double *gate_gradient,
                                      double *up_gradient, double *down_gradient)
{
    struct work work = { 0 };
    MOIRE_TRY(work_create(r, &work));
    const struct gradients gradients = { input_gradient, router_gradient, gate_gradient, up_gradient,
                                         down_gradient };
    const int64_t matrix = r->experts * r->hidden * r->dim;
    clear(r->tokens * r->dim, input_gradient);
    clear(r->experts * r->dim, router_gradient);
    clear(matrix, gate_gradient);
    clear(matrix, up_gradient);
    clear(matrix, down_gradient);
    for (int64_t t = 0; t < r->tokens; t++) {
        route(r, t, &work);
        for (int64_t k = 0; k < r->top_k; k++) {
            work.weight_gradients[k] = 0;
            if (takes_part(r, t * r->top_k + k)) expert_backward(r, t, k, output_gradient, &work, &gradients);
        }
        logits_backward(r, t, &work);
        for (int64_t e = 0; e < r->experts; e++)
            for (int64_t d = 0; d < r->dim; d++) {
                router_gradient[e * r->dim + d] += work.logit_gradient[e] * r->input[t * r->dim + d];
                input_gradient[t * r->dim + d] += work.logit_gradient[e] * r->router[e * r->dim + d];
            }
    }
    moire_release(work.block);
    return MOIRE_OK;
}
