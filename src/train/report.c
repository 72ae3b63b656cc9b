/* What people and scripts get to see of a run. */
#include <math.h>
#include <stdio.h>

#include "moire/compute/emulate.h"
#include "moire/observe/phases.h"
#include "moire/observe/progress.h"
#include "train/private.h"

/* ---- each step ---- */

moire_status moire_run_metrics(struct moire_run *run, const struct moire_step *step)
{
    static const char *const bytes[MOIRE_LEVELS] = { "bytes_own", "bytes_node", "bytes_far", "bytes_spine" };
    struct moire_metrics *metrics = run->metrics;
    if (!metrics) return MOIRE_OK;
    moire_metrics_begin(metrics);
    moire_metrics_integer(metrics, "step", run->step);
    moire_metrics_real(metrics, "loss", step->loss);
    if (run->evaluated && run->evaluation.tokens > 0)
        moire_metrics_real(metrics, "validation_loss", run->evaluation.loss);
    moire_metrics_real(metrics, "learning_rate", step->rate);
    moire_metrics_real(metrics, "grad_norm", step->norm);
    moire_metrics_integer(metrics, "tokens", step->tokens);
    moire_metrics_real(metrics, "seconds", step->seconds);
    moire_metrics_real(metrics, "tokens_per_second", (double)step->tokens / step->seconds);
    moire_metrics_real(metrics, "exchange_seconds", step->exchange);
    moire_metrics_real(metrics, "exchange_exposed_seconds", step->exchange); /* no compute runs meanwhile */
    moire_metrics_real(metrics, "skew_seconds", step->skew);
    moire_metrics_real(metrics, "expert_seconds", step->experts);
    if (run->model.moe_layers > 0) moire_metrics_real(metrics, "imbalance", step->imbalance);
    moire_metrics_integer(metrics, "dropped", (int64_t)step->dropped);
    for (int level = 0; level < MOIRE_LEVELS; level++)
        moire_metrics_integer(metrics, bytes[level], (int64_t)step->bytes[level]);
    moire_metrics_integer(metrics, "bytes_index", (int64_t)step->index_bytes);
    moire_metrics_real(metrics, "balance_loss", step->balance);
    moire_metrics_real(metrics, "z_loss", step->z);
    if (moire_is_emulated()) moire_metrics_flag(metrics, "emulated", true);
    return moire_metrics_end(metrics);
}

void moire_run_progress(const struct moire_run *run, const struct moire_step *step)
{
    const struct moire_progress_state state = {
        .step = run->step,
        .steps = run->config->train_steps,
        .loss = step->loss,
        .validation_loss = run->evaluation.tokens > 0 ? run->evaluation.loss : -1,
        .tokens_per_second = (double)step->tokens / step->seconds,
        .exposed_share = step->exchange / step->seconds,
    };
    moire_progress_update(&state);
}

/* ---- at the end ---- */

/* Maxima over ranks, of each kind by itself. */
static moire_status print_memory(const struct moire_run *run)
{
    const struct moire_communicator *world = &run->mesh.world;
    int64_t peaks[MOIRE_MEMORY_KINDS], predicted[MOIRE_MEMORY_KINDS];
    for (int kind = 0; kind < MOIRE_MEMORY_KINDS; kind++)
        peaks[kind] = moire_memory_peak_bytes((moire_memory_kind)kind);
    MOIRE_TRY(moire_agree(world, moire_run_memory(run, predicted)));
    MOIRE_TRY(moire_max_integers(world, peaks, MOIRE_MEMORY_KINDS));
    MOIRE_TRY(moire_max_integers(world, predicted, MOIRE_MEMORY_KINDS));
    if (world->rank == 0) moire_train_print_memory(predicted, peaks);
    return MOIRE_OK;
}

static void print_title(void)
{
    char compute[64];
    moire_emulate_describe(compute, sizeof compute);
    putchar('\n');
    if (moire_is_emulated()) printf("compute is %s a rank: all seconds below are of that machine\n", compute);
}

moire_status moire_run_report(struct moire_run *run)
{
    const struct moire_communicator *world = &run->mesh.world;
    if (world->rank == 0) print_title();
    MOIRE_TRY(moire_phases_print(world));
    MOIRE_TRY(print_memory(run));
    if (world->rank != 0) return MOIRE_OK;
    putchar('\n');
    if (run->evaluated) moire_evaluation_print(&run->evaluation, run->data);
    fflush(stdout);
    return MOIRE_OK;
}

/* ---- evaluation ---- */

enum { DOMAINS_SHOWN = 20, EXPERTS_SHOWN = 64, NAME_WIDTH = 40, BAR_WIDTH = 40 };

/* Whether domain a comes before b: most tokens first, then as in the data. */
static bool comes_before(const struct moire_evaluation *evaluation, int a, int b)
{
    int64_t tokens_a = evaluation->domain_tokens[a], tokens_b = evaluation->domain_tokens[b];
    return tokens_a > tokens_b || (tokens_a == tokens_b && a < b);
}

/* The domain that comes next after `last` (-1: the first), or -1. */
static int next_domain(const struct moire_evaluation *evaluation, int last)
{
    int next = -1;
    for (int d = 0; d < evaluation->domains; d++) {
        if (evaluation->domain_tokens[d] == 0 || (last >= 0 && !comes_before(evaluation, last, d))) continue;
        if (next < 0 || comes_before(evaluation, d, next)) next = d;
    }
    return next;
}

static int domains_with_tokens(const struct moire_evaluation *evaluation)
{
    int count = 0;
    for (int d = 0; d < evaluation->domains; d++) count += evaluation->domain_tokens[d] > 0;
    return count;
}

/* The end of a long name says more than its start. */
static void print_name(const char *name)
{
    int bytes = 0;
    while (name[bytes]) bytes++;
    if (bytes <= NAME_WIDTH)
        printf("  %-*s", NAME_WIDTH, name);
    else
        printf("  ...%s", name + bytes - (NAME_WIDTH - 3));
}

static void print_domains(const struct moire_evaluation *evaluation, const struct moire_data *data)
{
    int count = domains_with_tokens(evaluation), shown = 0;
    if (count < 2) return;
    printf("\n  %-*s %12s %9s %11s\n", NAME_WIDTH, "domain", "tokens", "loss", "perplexity");
    for (int d = next_domain(evaluation, -1); d >= 0 && shown < DOMAINS_SHOWN;
         d = next_domain(evaluation, d), shown++) {
        print_name(moire_data_domain_name(data, d));
        double loss = evaluation->domain_loss[d], perplexity = exp(loss);
        printf(" %12lld %9.4f", (long long)evaluation->domain_tokens[d], loss);
        printf(perplexity < 1e6 ? " %11.3f\n" : " %11.4g\n", perplexity);
    }
    if (count > shown) printf("  ... and %d more domains\n", count - shown);
}

static void print_experts(const struct moire_evaluation *evaluation)
{
    double sum = 0, least = INFINITY, most = 0;
    for (int64_t e = 0; e < evaluation->experts; e++) {
        double load = evaluation->load[e];
        sum += load;
        if (load < least) least = load;
        if (load > most) most = load;
    }
    if (!(sum > 0)) return;
    double mean = sum / (double)evaluation->experts;
    printf("\n  tokens an expert: min %.0f, mean %.0f, max %.0f (%.2f x mean)\n", least, mean, most,
           most / mean);
    for (int64_t e = 0; e < evaluation->experts && e < EXPERTS_SHOWN; e++) {
        int bar = (int)(evaluation->load[e] / most * BAR_WIDTH + 0.5);
        printf("  expert %6lld %12.0f  ", (long long)e, evaluation->load[e]);
        while (bar-- > 0) putchar('#');
        putchar('\n');
    }
    if (evaluation->experts > EXPERTS_SHOWN)
        printf("  ... and %lld more experts\n", (long long)(evaluation->experts - EXPERTS_SHOWN));
}

void moire_evaluation_print(const struct moire_evaluation *evaluation, const struct moire_data *data)
{
    if (moire_where.rank > 0) return;
    if (evaluation->tokens == 0) {
        printf("validation: no sequences; see data.validation and evaluate.sequences\n");
        return;
    }
    printf("validation loss %.4f nats a token, perplexity %.5g, %lld tokens\n", evaluation->loss,
           exp(evaluation->loss), (long long)evaluation->tokens);
    print_domains(evaluation, data);
    print_experts(evaluation);
}
