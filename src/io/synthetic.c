/* Texts made from numbers, for tests and for experiments that need domains with a known truth. Tokens are
 * ASCII codes. Sequence w is of domain w mod 5 and a function of (run.seed, w) alone; it starts with a new
 * item and ends where it is full:
 *
 *   arithmetic    "12+7=19;"  sums and differences of numbers under 100, products of numbers under 10
 *   brackets      "([]{}) "   words of 1 to 8 pairs of four kinds, balanced
 *   copy          "qzf|qzf;"  2 to 12 letters, twice
 *   markov-lower  from a small letter to the one 7, 1, 12 or 20 further in the alphabet (round and round)
 *                 with probability 1/2, 1/4, 1/8, 1/8: no model beats 1.75 bits (1.213 nats) a token
 *   markov-upper  the same in capitals with steps 3, 5, 9 and 22
 */

#include "io/private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "moire/base/random.h"

enum { ITEM_BYTES = 64, LEAST_VOCABULARY = 128, MOST_SEQUENCES = 1000000000 };

/* The random numbers of one sequence, in the order of their use. */
struct draws {
    uint64_t seed, stream, next;
    int letter; /* of the Markov texts; -1 at the start */
};

static int draw(struct draws *draws, int bound)
{
    return (int)moire_random_below(draws->seed, draws->stream, draws->next++, (uint64_t)bound);
}

/* Items: each writes less than ITEM_BYTES and returns how many. */

static int arithmetic_item(struct draws *draws, char *text)
{
    int operation = draw(draws, 3), below = operation == 2 ? 10 : 100;
    int a = draw(draws, below), b = draw(draws, below);
    if (operation == 1 && a < b) return snprintf(text, ITEM_BYTES, "%d-%d=%d;", b, a, b - a);
    int result = operation == 0 ? a + b : operation == 1 ? a - b : a * b;
    return snprintf(text, ITEM_BYTES, "%d%c%d=%d;", a, "+-*"[operation], b, result);
}

static int brackets_item(struct draws *draws, char *text)
{
    char open[8];
    int pairs = 1 + draw(draws, 8), depth = 0, bytes = 0;
    for (int opened = 0; opened < pairs || depth > 0; ) {
        if (opened < pairs && (depth == 0 || draw(draws, 2))) {
            int kind = draw(draws, 4);
            text[bytes++] = "([{<"[kind];
            open[depth++] = ")]}>"[kind];
            opened++;
        } else {
            text[bytes++] = open[--depth];
        }
    }
    text[bytes++] = ' ';
    return bytes;
}

static int copy_item(struct draws *draws, char *text)
{
    int letters = 2 + draw(draws, 11);
    for (int i = 0; i < letters; i++) text[i] = (char)('a' + draw(draws, 26));
    text[letters] = '|';
    memcpy(text + letters + 1, text, (size_t)letters);
    text[2 * letters + 1] = ';';
    return 2 * letters + 2;
}

static int markov_item(struct draws *draws, char *text, char first, const int steps[4])
{
    static const int choice[8] = { 0, 0, 0, 0, 1, 1, 2, 3 };
    if (draws->letter < 0) draws->letter = draw(draws, 26);
    else draws->letter = (draws->letter + steps[choice[draw(draws, 8)]]) % 26;
    *text = (char)(first + draws->letter);
    return 1;
}

static int lower_item(struct draws *draws, char *text)
{
    return markov_item(draws, text, 'a', (const int[]){ 7, 1, 12, 20 });
}

static int upper_item(struct draws *draws, char *text)
{
    return markov_item(draws, text, 'A', (const int[]){ 3, 5, 9, 22 });
}

static const struct {
    const char *name;
    int (*item)(struct draws *draws, char *text);
} languages[] = {
    { "arithmetic", arithmetic_item }, { "brackets", brackets_item }, { "copy", copy_item },
    { "markov-lower", lower_item }, { "markov-upper", upper_item },
};
enum { LANGUAGES = sizeof languages / sizeof *languages };

static moire_status fetch_synthetic(const struct moire_data *data, int64_t window, int32_t *tokens,
                                    int *domain)
{
    int language = moire_data_domain_of(data, window);
    struct draws draws = { data->seed, moire_random_stream("synthetic data") + (uint64_t)window, 0, -1 };
    char text[ITEM_BYTES];
    for (int64_t filled = 0; filled <= data->sequence; ) {
        int bytes = languages[language].item(&draws, text);
        for (int i = 0; i < bytes && filled <= data->sequence; i++) tokens[filled++] = text[i];
    }
    *domain = language;
    return MOIRE_OK;
}

static moire_status open_synthetic(const struct moire_config *config, struct moire_data *data)
{
    int64_t sequences = config->data_synthetic_sequences;
    int64_t domains = sequences < LANGUAGES ? sequences : LANGUAGES;
    if (data->vocabulary < LEAST_VOCABULARY)
        return moire_fail(MOIRE_USAGE, "the vocabulary is too small for synthetic data; found "
                          "model.vocabulary=%" PRId64 ", expected at least %d (ASCII); try "
                          "model.vocabulary=%d", data->vocabulary, LEAST_VOCABULARY, LEAST_VOCABULARY);
    if (sequences > MOST_SEQUENCES)
        return moire_fail(MOIRE_USAGE, "too many synthetic sequences; found data.synthetic_sequences=%" PRId64
                          ", expected at most %d; try data.synthetic_sequences=%d", sequences, MOST_SEQUENCES,
                          MOST_SEQUENCES);
    data->interleaved = true;
    data->windows = sequences;
    data->tokens = sequences * (data->sequence + 1);
    for (int64_t i = 0; i < domains; i++) {
        MOIRE_TRY(moire_data_add_domain(data, languages[i].name));
        data->domains[i].windows = (sequences - i + LANGUAGES - 1) / LANGUAGES;
        data->domains[i].tokens = data->domains[i].windows * (data->sequence + 1);
    }
    /* The texts follow from these and from this file. */
    const int64_t facts[] = { sequences, data->sequence, (int64_t)data->seed };
    data->checksum = XXH3_64bits_withSeed(facts, sizeof facts,
                                          moire_random_stream("synthetic data, version 1"));
    return MOIRE_OK;
}

const struct moire_source moire_source_synthetic = {
    .name = "synthetic", .help = "arithmetic, brackets, copies, Markov texts",
    .open = open_synthetic, .fetch = fetch_synthetic,
};
