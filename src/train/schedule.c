#include <math.h>

#include "moire/base/config.h"
#include "moire/train/optimizer.h"

/* Share of the steps from `begin` to `end` that are done after `step`, in [0, 1]. */
static double share_done(int64_t begin, int64_t end, int64_t step)
{
    if (step >= end) return 1;
    return step <= begin ? 0 : (double)(step - begin) / (double)(end - begin);
}

static double cosine(const struct moire_config *config, int64_t step)
{
    const double pi = 3.14159265358979323846, last = config->train_final_ratio;
    double done = share_done(config->train_warmup, config->train_steps, step);
    return last + (1 - last) * (1 + cos(pi * done)) / 2;
}

static double constant(const struct moire_config *config, int64_t step)
{
    (void)config;
    (void)step;
    return 1;
}

static double stable_then_decay(const struct moire_config *config, int64_t step)
{
    int64_t steps = config->train_steps;
    int64_t begin = steps - llround(config->train_decay_fraction * (double)steps);
    if (begin >= steps) return 1; /* no step falls into the decay, the last one neither */
    if (begin < config->train_warmup) begin = config->train_warmup;
    return 1 - (1 - config->train_final_ratio) * share_done(begin, steps, step);
}

const struct moire_schedule moire_schedules[] = {
    { "cosine", "half a cosine from the highest rate to train.final_ratio of it", cosine },
    { "constant", "the highest rate to the end", constant },
    { "wsd", "the highest rate, then a line down over the last train.decay_fraction of the steps",
      stable_then_decay },
};
enum { SCHEDULES = sizeof moire_schedules / sizeof moire_schedules[0] };
const int moire_schedule_count = SCHEDULES;

moire_status moire_schedule_find(const char *name, const struct moire_schedule **schedule)
{
    const char *names[SCHEDULES];
    int64_t index;
    for (int i = 0; i < SCHEDULES; i++) names[i] = moire_schedules[i].name;
    MOIRE_TRY(moire_name_find("train.schedule", name, names, SCHEDULES, &index));
    *schedule = &moire_schedules[index];
    return MOIRE_OK;
}

double moire_schedule_rate(const struct moire_config *config, const struct moire_schedule *schedule,
                           int64_t step)
{
    double factor = step <= config->train_warmup ? (double)step / (double)config->train_warmup
                                                 : schedule->factor(config, step);
    return config->train_learning_rate * factor;
}
