/* Random numbers are counter-based: slot k of token t draws number t K + k of a stream of its own for each
 * layer, step and part, and what happens to a token as a whole is number t of a second stream.
 *
 * Experts are drawn one after the other with probabilities in proportion to weights; the weights come as
 * their sums from the end, so that those of a steep Zipf law keep their digits. */
#include "moire/moe/traffic.h"

#include "compute/elementary.h"
#include "moire/base/random.h"

/* ---- drawing ---- */

/* The experts that a token has so far: ascending, and in the order of choice. */
struct token {
    int64_t count;
    int32_t sorted[MOIRE_TRAFFIC_MOST_SLOTS];
    int32_t *ids; /* [K] */
};

/* A run of experts between two that are already chosen. */
struct gap {
    int64_t first, end;
};

static struct gap gap_at(const struct token *token, int64_t experts, int64_t place)
{
    return (struct gap) { .first = place > 0 ? token->sorted[place - 1] + 1 : 0,
                          .end = place < token->count ? token->sorted[place] : experts };
}

/* The expert of the gap whose weight covers `target` when weights are laid end to end from the last to the
 * first. */
static int32_t search(const double *tail, struct gap gap, double target)
{
    int64_t low = gap.first, high = gap.end - 1;
    target += tail[gap.end];
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        if (tail[middle] > target)
            low = middle;
        else
            high = middle - 1;
    }
    /* Rounding must not lead to a weight of zero. */
    while (low + 1 < gap.end && tail[low] == tail[low + 1]) low++;
    return (int32_t)low;
}

/* One more expert beside those of the token. `uniform` in [0, 1). */
static int32_t draw(const struct moire_traffic *traffic, const struct token *token, double uniform)
{
    const double *tail = traffic->tail;
    const int64_t experts = traffic->setting.experts;
    double mass = 0;
    for (int64_t g = 0; g <= token->count; g++) {
        struct gap gap = gap_at(token, experts, g);
        mass += tail[gap.first] - tail[gap.end];
    }
    double target = uniform * mass;
    int64_t place = -1;
    for (int64_t g = token->count; g >= 0; g--) {
        struct gap gap = gap_at(token, experts, g);
        double part = tail[gap.first] - tail[gap.end];
        /* The last of these also where rounding leaves a rest of the target. */
        if (part > 0 || (place < 0 && gap.first < gap.end)) place = g;
        if (part > 0 && target < part) break;
        target -= part;
    }
    moire_assert(place >= 0);
    return search(tail, gap_at(token, experts, place), target > 0 ? target : 0);
}

static void take(struct token *token, int64_t slot, int32_t expert)
{
    int64_t place = token->count++;
    for (; place > 0 && token->sorted[place - 1] > expert; place--)
        token->sorted[place] = token->sorted[place - 1];
    token->sorted[place] = expert;
    token->ids[slot] = expert;
}

/* What numbers a batch draws. */
struct numbers {
    uint64_t seed, slots, events; /* the two streams */
    int64_t top_k;
};

static uint64_t stream_of(const struct moire_traffic *traffic, const struct moire_traffic_batch *batch,
                          const char *name)
{
    const uint64_t seed = traffic->setting.seed;
    uint64_t stream = moire_random_stream(name);
    stream = moire_random_bits(seed, stream, (uint64_t)batch->layer);
    stream = moire_random_bits(seed, stream, (uint64_t)batch->step);
    return moire_random_bits(seed, stream, (uint64_t)batch->part);
}

static struct numbers numbers_of(const struct moire_traffic *traffic, const struct moire_traffic_batch *batch)
{
    return (struct numbers) { .seed = traffic->setting.seed,
                              .slots = stream_of(traffic, batch, "forced routing"),
                              .events = stream_of(traffic, batch, "forced routing of a token"),
                              .top_k = traffic->setting.top_k };
}

static double slot_number(const struct numbers *numbers, int64_t t, int64_t slot)
{
    return moire_random_uniform(numbers->seed, numbers->slots, (uint64_t)(t * numbers->top_k + slot));
}

static double event_number(const struct numbers *numbers, int64_t t)
{
    return moire_random_uniform(numbers->seed, numbers->events, (uint64_t)t);
}

static void draw_slot(const struct moire_traffic *traffic, const struct numbers *numbers, int64_t t,
                      struct token *token, int64_t slot)
{
    take(token, slot, draw(traffic, token, slot_number(numbers, t, slot)));
}

/* Slots from `slot` on. */
static void draw_rest(const struct moire_traffic *traffic, const struct numbers *numbers, int64_t t,
                      struct token *token, int64_t slot)
{
    for (; slot < numbers->top_k; slot++) draw_slot(traffic, numbers, t, token, slot);
}

static bool is_long(const struct moire_traffic *traffic, const struct moire_traffic_batch *batch)
{
    return batch->tokens * traffic->setting.top_k > MOIRE_PARALLEL_ELEMENTS / 16;
}

/* ---- the kinds ---- */

static moire_status generate_even(const struct moire_traffic *traffic,
                                  const struct moire_traffic_batch *batch, int32_t *ids)
{
    const int64_t top_k = traffic->setting.top_k, first = batch->first_token * top_k;
    for (int64_t slot = 0; slot < batch->tokens * top_k; slot++)
        ids[slot] = (int32_t)((first + slot) % traffic->setting.experts);
    return MOIRE_OK;
}

/* uniform, zipf and remote: their weights tell them apart. */
static moire_status generate_drawn(const struct moire_traffic *traffic,
                                   const struct moire_traffic_batch *batch, int32_t *ids)
{
    const struct numbers numbers = numbers_of(traffic, batch);
#pragma omp parallel for schedule(static) if (is_long(traffic, batch))
    for (int64_t t = 0; t < batch->tokens; t++) {
        struct token token;
        token.count = 0;
        token.ids = ids + t * numbers.top_k;
        draw_rest(traffic, &numbers, batch->first_token + t, &token, 0);
    }
    return MOIRE_OK;
}

static int32_t first_of_hot(const struct moire_traffic *traffic, const struct numbers *numbers, int64_t t)
{
    const int64_t others = traffic->setting.experts - 1;
    if (others == 0 || event_number(numbers, t) < traffic->setting.share) return 0;
    uint64_t number = (uint64_t)(t * numbers->top_k);
    return (int32_t)(1 + moire_random_below(numbers->seed, numbers->slots, number, (uint64_t)others));
}

static moire_status generate_hot(const struct moire_traffic *traffic, const struct moire_traffic_batch *batch,
                                 int32_t *ids)
{
    const struct numbers numbers = numbers_of(traffic, batch);
#pragma omp parallel for schedule(static) if (is_long(traffic, batch))
    for (int64_t t = 0; t < batch->tokens; t++) {
        const int64_t number = batch->first_token + t;
        struct token token;
        token.count = 0;
        token.ids = ids + t * numbers.top_k;
        take(&token, 0, first_of_hot(traffic, &numbers, number));
        draw_rest(traffic, &numbers, number, &token, 1);
    }
    return MOIRE_OK;
}

/* What a token of markov takes over from the one before. */
enum event { NOTHING, FIRST, SECOND };

struct chain {
    const struct moire_traffic *traffic;
    struct numbers numbers;
    double first, second; /* probabilities */
};

static enum event event_of(const struct chain *chain, int64_t t)
{
    if (t % MOIRE_TRAFFIC_CHAIN == 0) return NOTHING;
    double number = event_number(&chain->numbers, t);
    if (number < chain->first) return FIRST;
    return number < chain->first + chain->second && chain->numbers.top_k > 1 ? SECOND : NOTHING;
}

/* The choices of token t, given those of the token before. */
static void follow(const struct chain *chain, int64_t t, const int32_t *before, int32_t *ids)
{
    struct token token;
    int64_t slot = 0;
    token.count = 0;
    token.ids = ids;
    switch (event_of(chain, t)) {
    case NOTHING:
        break;
    case FIRST:
        take(&token, slot++, before[0]);
        break;
    case SECOND:
        take(&token, 1, before[1]);
        draw_slot(chain->traffic, &chain->numbers, t, &token, 0);
        slot = 2;
        break;
    }
    draw_rest(chain->traffic, &chain->numbers, t, &token, slot);
}

/* Tokens [begin, end) of one run of MOIRE_TRAFFIC_CHAIN, from the last one before them that was drawn anew.
 */
static void follow_run(const struct chain *chain, int64_t begin, int64_t end, int32_t *ids)
{
    int32_t earlier[2][MOIRE_TRAFFIC_MOST_SLOTS];
    const int32_t *before = NULL;
    int64_t t = begin;
    while (event_of(chain, t) != NOTHING) t--;
    for (; t < end; t++) {
        int32_t *to = t < begin ? earlier[t % 2] : ids + (t - begin) * chain->numbers.top_k;
        follow(chain, t, before, to);
        before = to;
    }
}

static moire_status generate_markov(const struct moire_traffic *traffic,
                                    const struct moire_traffic_batch *batch, int32_t *ids)
{
    struct chain chain = { .traffic = traffic, .numbers = numbers_of(traffic, batch) };
    const int64_t first = batch->first_token, end = first + batch->tokens, top_k = traffic->setting.top_k;
    moire_traffic_repeat(&traffic->setting, batch->layer, &chain.first, &chain.second);
#pragma omp parallel for schedule(static) if (is_long(traffic, batch))
    for (int64_t run = first / MOIRE_TRAFFIC_CHAIN; run < (end - 1) / MOIRE_TRAFFIC_CHAIN + 1; run++) {
        int64_t from = run * MOIRE_TRAFFIC_CHAIN, to = from + MOIRE_TRAFFIC_CHAIN;
        if (from < first) from = first;
        if (to > end) to = end;
        if (from < to) follow_run(&chain, from, to, ids + (from - first) * top_k);
    }
    return MOIRE_OK;
}

static moire_status check_replay(const struct moire_traffic *traffic, const struct moire_traffic_batch *batch)
{
    if (!traffic->replay || traffic->replay_steps < 1 || traffic->replay_tokens < 1)
        return moire_fail(MOIRE_USAGE,
                          "nothing is recorded to replay; try moe.forced_file = the routing.h5 of a run "
                          "with moe.record = yes");
    if (batch->moe_layer >= traffic->replay_layers)
        return moire_fail(MOIRE_BAD_DATA,
                          "the recorded choices have too few layers with experts; found %lld, expected at "
                          "least %d; try a recording of the same model",
                          (long long)traffic->replay_layers, batch->moe_layer + 1);
    return MOIRE_OK;
}

static moire_status generate_replay(const struct moire_traffic *traffic,
                                    const struct moire_traffic_batch *batch, int32_t *ids)
{
    const int64_t top_k = traffic->setting.top_k, experts = traffic->setting.experts;
    MOIRE_TRY(check_replay(traffic, batch));
    int64_t run = (batch->step % traffic->replay_steps) * traffic->replay_layers + batch->moe_layer;
    const int32_t *recorded = traffic->replay + run * traffic->replay_tokens * top_k;
    for (int64_t t = 0; t < batch->tokens; t++) {
        const int32_t *token = recorded + (batch->first_token + t) % traffic->replay_tokens * top_k;
        for (int64_t k = 0; k < top_k; k++) {
            if (token[k] < -1 || token[k] >= experts)
                return moire_fail(MOIRE_BAD_DATA,
                                  "a recorded choice is no expert; found %d, expected -1 to %lld; try a "
                                  "recording of the same model",
                                  (int)token[k], (long long)experts - 1);
            ids[t * top_k + k] = token[k];
        }
    }
    return MOIRE_OK;
}

const struct moire_traffic_kind moire_traffic_kinds[] = {
    { "even", "round robin, perfectly balanced", MOIRE_TRAFFIC_ALIKE, generate_even },
    { "uniform", "K distinct experts, all as likely", MOIRE_TRAFFIC_ALIKE, generate_drawn },
    { "zipf", "expert e in proportion to (e + 1)^-moe.forced_exponent", MOIRE_TRAFFIC_FALLING,
      generate_drawn },
    { "hot", "expert 0 is first choice of moe.forced_share of the tokens, else uniform", MOIRE_TRAFFIC_ALIKE,
      generate_hot },
    { "remote", "uniform over experts on other nodes, or other ranks where there is one node",
      MOIRE_TRAFFIC_FAR, generate_drawn },
    { "markov", "tokens repeat choices of the token before (moe.forced_repeat)", MOIRE_TRAFFIC_ALIKE,
      generate_markov },
    { "replay", "the recording moe.forced_file, which starts again at its end", MOIRE_TRAFFIC_ALIKE,
      generate_replay },
};
enum { KINDS = sizeof moire_traffic_kinds / sizeof *moire_traffic_kinds };
const int moire_traffic_kind_count = KINDS;

moire_status moire_traffic_find(const char *name, const struct moire_traffic_kind **kind)
{
    const char *names[KINDS];
    int64_t index;
    for (int i = 0; i < KINDS; i++) names[i] = moire_traffic_kinds[i].name;
    MOIRE_TRY(moire_name_find("traffic", name, names, KINDS, &index));
    *kind = &moire_traffic_kinds[index];
    return MOIRE_OK;
}

moire_status moire_traffic_generate(const struct moire_traffic *traffic,
                                    const struct moire_traffic_batch *batch, int32_t *ids)
{
    return batch->tokens > 0 ? traffic->kind->generate(traffic, batch, ids) : MOIRE_OK;
}
