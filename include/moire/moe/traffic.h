/* Traffic: which experts tokens choose where no model decides it, so that exchanges can be measured under a
 * load that is known. The forced router and the measurements of the exchange take it from here.
 *
 * A choice is a function of (setting, seed, step, part, layer, global token number) and, for `remote` alone,
 * of the source rank: any rank can produce the choices of any token without communication, and they are the
 * same for any number of ranks.
 *
 * Legend: E experts, K choices a token. Nothing here is collective. */
#ifndef MOIRE_MOE_TRAFFIC_H
#define MOIRE_MOE_TRAFFIC_H

#include "moire/base/config.h"
#include "moire/cluster/placement.h"

enum { MOIRE_TRAFFIC_MOST_SLOTS = 1024 }; /* K is at most the greatest moe.top_k */

struct moire_traffic_setting {
    const char *kind; /* a name of moire_traffic_kinds */
    int64_t experts, top_k;
    uint64_t seed;
    int layers;      /* of the model; markov's auto goes by depth */
    double exponent; /* zipf */
    double share;    /* hot */
    double repeat;   /* markov; MOIRE_AUTO: by depth, see moire_traffic_repeat */
    double repeat_second;
    /* remote alone; NULL otherwise allowed */
    const struct moire_placement *placement; /* borrowed */
    const int *node_of;                      /* borrowed: node of each rank of the placement */
};
/* The parameters moe.forced*, moe.experts, moe.top_k, model.layers and run.seed. `placement` and `node_of`
 * are borrowed; they and config's texts must outlive what is made of the setting. */
struct moire_traffic_setting moire_traffic_setting_of(const struct moire_config *config,
                                                      const struct moire_placement *placement,
                                                      const int *node_of);

struct moire_traffic {
    struct moire_traffic_setting setting;
    const struct moire_traffic_kind *kind;
    double *tail; /* owned, [E + 1]: sums of the weights that are drawn by, from the last expert on */
    const int32_t *replay; /* borrowed: recorded ids [steps, layers, tokens, K], -1 for none; or NULL */
    int64_t replay_steps, replay_layers, replay_tokens;
};

/* Tokens [first_token, first_token + tokens) of a micro-batch of all ranks. */
struct moire_traffic_batch {
    int64_t step, part; /* optimizer step and micro-batch */
    int layer;          /* of the model: drawn numbers depend on it */
    int moe_layer;      /* counted over layers with experts only: of a recording */
    int64_t first_token, tokens;
};

/* ids [tokens, K], first choice first, distinct within a token. One row of the table each:
 *
 *   even     round robin over the slots of all tokens: every expert gets as many, give or take one.
 *   uniform  K distinct experts drawn one after the other, all as likely.
 *   zipf     the same with probabilities in proportion to (e + 1)^-exponent: expert 0 is the hottest.
 *   hot      the first choice is expert 0 with probability `share`, else another one, all as likely; the
 *            further choices are uniform over the experts that the token does not have yet.
 *   remote   uniform over the experts on other nodes than the source rank's; where these are fewer than K
 *            (as on one node), over those on other ranks; where these are too, over all.
 *   markov   locality from token to token; every choice by itself is uniform. With probability `repeat` the
 *            first choice is that of the token before and the others are drawn; with probability
 *            `repeat_second` (K > 1) the second choice is that of the token before and the others are drawn;
 *            else all are drawn. The first choice then repeats for a share
 *            p + b/(E - 1) + (1 - p - b)/E of the tokens, p and b being the two probabilities (b = 0 where
 *            K = 1). Layers know nothing of each other. So that a token is found in bounded time, tokens
 *            whose number is a multiple of MOIRE_TRAFFIC_CHAIN are drawn anew.
 *   replay   a recording (io/routing.h) by step, place among layers with experts, and token; steps and tokens
 *            beyond its end start again at its beginning. -1 (a dropped choice) stays -1. MOIRE_USAGE:
 * nothing was set; MOIRE_BAD_DATA: too few layers, or an id that is no expert. */
struct moire_traffic_kind {
    const char *name, *help;
    enum { MOIRE_TRAFFIC_ALIKE, MOIRE_TRAFFIC_FALLING, MOIRE_TRAFFIC_FAR } weights; /* of what it draws by */
    moire_status (*generate)(const struct moire_traffic *traffic, const struct moire_traffic_batch *batch,
                             int32_t *ids);
};
extern const struct moire_traffic_kind moire_traffic_kinds[];
extern const int moire_traffic_kind_count;
enum { MOIRE_TRAFFIC_CHAIN = 1024 };

/* MOIRE_USAGE with the nearest name. */
moire_status moire_traffic_find(const char *name, const struct moire_traffic_kind **kind);
/* Checks the setting and allocates; the source is rank 0. MOIRE_USAGE: an unknown kind, K above E or above
 * MOIRE_TRAFFIC_MOST_SLOTS, repeat + repeat_second above 1. */
moire_status moire_traffic_create(const struct moire_traffic_setting *setting, struct moire_traffic *traffic);
void moire_traffic_free(struct moire_traffic *traffic);
/* The rank of the placement whose tokens are asked for next; matters to `remote` alone. O(E). */
void moire_traffic_set_source(struct moire_traffic *traffic, int rank);
/* What `replay` plays; `ids` [steps, layers, tokens, K] are borrowed. */
void moire_traffic_set_replay(struct moire_traffic *traffic, const int32_t *ids, int64_t steps,
                              int64_t layers, int64_t tokens);
/* Fills ids [batch->tokens, K]; no tokens are fine. Thread safe; fails for `replay` alone. */
moire_status moire_traffic_generate(const struct moire_traffic *traffic,
                                    const struct moire_traffic_batch *batch, int32_t *ids);

/* The probabilities `first` and `second` that markov works with in layer `layer`. Where the setting says
 * MOIRE_AUTO they are those that give 8 experts, two of them a token, the repetition that was measured on
 * Mixtral 8x7B (arXiv 2401.04088, table 5, mean over its eight data sets): the first choice repeats from a
 * token to the next for 14.1, 26.4 and 22.7 % of the tokens in layers 0, 15 and 31 of 32 (12.5 % by chance),
 * one of both choices for 48.0, 63.7 and 50.9 % (46.4 % by chance); linear by depth in between. The last of
 * these figures cannot be had together with 22.7 % and uniform choices: it comes out as 52.7 %. */
void moire_traffic_repeat(const struct moire_traffic_setting *setting, int layer, double *first,
                          double *second);

/* Expected number of distinct groups among the K distinct experts of a token, all choices as likely, with the
 * experts in `groups` runs as even as possible (moire_share): the sum over groups g of
 * 1 - C(E - E_g, K) / C(E, K); G (1 - C(E - E/G, K) / C(E, K)) where G divides E. One copy of a token for
 * each group saves 1 - this / K of the copies. 1 <= K <= E. */
double moire_traffic_expected_distinct(int64_t experts, int64_t groups, int64_t top_k);
/* One term of it: the probability that a token has a choice among `members` of the experts. */
double moire_traffic_meets(int64_t experts, int64_t members, int64_t top_k);

#endif
