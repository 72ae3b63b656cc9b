/* The truths that the synthetic languages promise. */
#include "../support/harness.h"
#include "files.h"

#include <ctype.h>
#include <math.h>

#include "moire/io/data.h"

enum { S = 200, SEQUENCES = 2003 };

static struct moire_config config_of(int64_t sequences)
{
    struct moire_config config = data_config("synthetic", "", S);
    config.model_vocabulary = 128;
    config.data_synthetic_sequences = sequences;
    return config;
}

static struct moire_data *open_data(const struct moire_config *config)
{
    struct moire_data *data = NULL;
    expect_ok(moire_data_open(config, &data));
    if (!data) fail_msg("the data cannot be opened");
    return data;
}

static moire_status try_open(const struct moire_config *config)
{
    struct moire_data *data = NULL;
    moire_status status = moire_data_open(config, &data);
    if (status == MOIRE_OK) moire_data_close(data);
    return status;
}

/* Calls `check` with every text of a domain; returns how many. `end`: what an item ends with; the last one,
 * which may be cut, is left out ('\0': the text is one item). */
static int64_t each_text(const char *domain_name, char end, void (*check)(const char *text))
{
    struct moire_config config = config_of(SEQUENCES);
    struct moire_data *data = open_data(&config);
    int64_t texts = 0;
    for (int64_t i = 0; i < SEQUENCES; i++) {
        int32_t tokens[S + 1];
        char text[S + 2] = "";
        int domain = -1;
        expect_ok(moire_data_fetch(data, MOIRE_TRAINING, i, tokens, &domain));
        if (strcmp(moire_data_domain_name(data, domain), domain_name) != 0) continue;
        for (int t = 0; t <= S; t++) {
            expect(tokens[t] > 0 && tokens[t] < 128);
            text[t] = (char)tokens[t];
        }
        char *last = strrchr(text, end);
        expect(last != NULL);
        if (!last) continue;
        if (end) last[1] = 0;
        check(text);
        texts++;
    }
    moire_data_close(data);
    return texts;
}

static int64_t operations[128];

static void check_arithmetic(const char *text)
{
    while (*text) {
        int a, b, result, read = 0;
        char operation;
        expect(sscanf(text, "%d%c%d=%d;%n", &a, &operation, &b, &result, &read) == 4 && read > 0);
        if (read == 0) return;
        int largest = operation == '*' ? 9 : 99;
        expect(a >= 0 && a <= largest && b >= 0 && b <= largest && result >= 0);
        expect(operation == '+' ? result == a + b : operation == '-' ? result == a - b : operation == '*'
               && result == a * b);
        operations[(int)operation]++;
        text += read;
    }
}

static void test_arithmetic(void)
{
    memset(operations, 0, sizeof operations);
    expect(each_text("arithmetic", ';', check_arithmetic) == 401);
    expect(operations['+'] > 1000 && operations['-'] > 1000 && operations['*'] > 1000);
}

static int64_t words, deepest;

static void check_brackets(const char *text)
{
    char open[S];
    int64_t depth = 0, pairs = 0;
    for (; *text; text++) {
        const char *kind = strchr("([{<", *text), *closing = strchr(")]}>", *text);
        if (kind) {
            open[depth++] = ")]}>"[kind - &"([{<"[0]];
            pairs++;
            if (depth > deepest) deepest = depth;
        } else if (closing) {
            expect(depth > 0 && open[depth - 1] == *text);
            if (depth > 0) depth--;
        } else {
            expect(*text == ' ' && depth == 0 && pairs >= 1 && pairs <= 8);
            pairs = 0;
            words++;
        }
    }
    expect(depth == 0);
}

static void test_brackets(void)
{
    words = deepest = 0;
    expect(each_text("brackets", ' ', check_brackets) == 401);
    expect(words > 5000 && deepest > 5);
}

static void check_copy(const char *text)
{
    while (*text) {
        size_t letters = strcspn(text, "|");
        expect(letters >= 2 && letters <= 12 && text[letters] == '|'
               && strncmp(text, text + letters + 1, letters) == 0);
        for (size_t i = 0; i < letters; i++) expect(islower((unsigned char)text[i]));
        expect(text[2 * letters + 1] == ';');
        if (text[2 * letters + 1] != ';') return;
        text += 2 * letters + 2;
    }
}

static void test_copy(void)
{
    expect(each_text("copy", ';', check_copy) == 401);
}

static int64_t pairs_seen[26][26], pairs_in_all;
static char first_letter;

static void check_markov(const char *text)
{
    for (; text[1]; text++) {
        int from = text[0] - first_letter, to = text[1] - first_letter;
        expect(from >= 0 && from < 26 && to >= 0 && to < 26);
        if (from < 0 || from >= 26 || to < 0 || to >= 26) return;
        pairs_seen[from][to]++;
        pairs_in_all++;
    }
}

static void expect_markov(const char *domain, char first, const int steps[4])
{
    static const double probability[4] = { 0.5, 0.25, 0.125, 0.125 };
    double bits = 0;
    memset(pairs_seen, 0, sizeof pairs_seen);
    pairs_in_all = 0;
    first_letter = first;
    expect(each_text(domain, '\0', check_markov) >= 400);
    for (int from = 0; from < 26; from++) {
        int64_t all = 0, known = 0;
        for (int to = 0; to < 26; to++) all += pairs_seen[from][to];
        expect(all > 2000); /* every letter comes */
        for (int i = 0; i < 4; i++) {
            double share = (double)pairs_seen[from][(from + steps[i]) % 26] / (double)all;
            expect_near(share, probability[i], 0.06);
            known += pairs_seen[from][(from + steps[i]) % 26];
            bits -= share * log2(share) * (double)all / (double)pairs_in_all;
        }
        expect(known == all);
    }
    expect_near(bits, 1.75, 0.02);
}

static void test_markov(void)
{
    expect_markov("markov-lower", 'a', (const int[]){ 7, 1, 12, 20 });
    expect_markov("markov-upper", 'A', (const int[]){ 3, 5, 9, 22 });
}

static void test_order(void)
{
    struct moire_config config = config_of(503);
    config.data_validation = 0.1;
    config.run_seed = (int64_t)(test_seed >> 1);
    struct moire_data *data = open_data(&config), *again = open_data(&config);
    config.run_seed ^= 1;
    struct moire_data *other = open_data(&config);
    int32_t one[S + 1], two[S + 1];
    int domain, same_domain, counts[5] = { 0 }, validation[5] = { 0 }, different = 0;
    int64_t training = moire_data_sequences(data, MOIRE_TRAINING);
    int64_t kept = moire_data_sequences(data, MOIRE_VALIDATION);
    expect(training + kept == 503 && moire_data_tokens(data) == 503 * (S + 1));
    expect(moire_data_domains(data) == 5);
    for (int64_t i = training - 1; i >= 0; i--) {
        expect_ok(moire_data_fetch(data, MOIRE_TRAINING, i, one, &domain));
        expect_ok(moire_data_fetch(again, MOIRE_TRAINING, i, two, &same_domain));
        expect(domain == same_domain && memcmp(one, two, sizeof one) == 0);
        counts[domain]++;
    }
    for (int64_t i = 0; i < kept; i++) {
        expect_ok(moire_data_fetch(data, MOIRE_VALIDATION, i, one, &domain));
        expect_ok(moire_data_fetch(other, MOIRE_VALIDATION, i, two, &same_domain));
        expect(domain == same_domain); /* the same places, other texts */
        different += memcmp(one, two, sizeof one) != 0;
        counts[domain]++;
        validation[domain]++;
    }
    expect(different == kept);
    for (int d = 0; d < 5; d++) expect(counts[d] == 100 + (d < 3) && validation[d] > 0);
    expect(moire_data_checksum(data) == moire_data_checksum(again));
    expect(moire_data_checksum(data) != moire_data_checksum(other));
    moire_data_close(data);
    moire_data_close(again);
    moire_data_close(other);
}

static void test_sizes(void)
{
    struct moire_config config = config_of(2); /* fewer sequences than languages */
    config.data_validation = 0.5;
    struct moire_data *data = open_data(&config);
    expect(moire_data_domains(data) == 2 && moire_data_sequences(data, MOIRE_TRAINING) == 1
           && moire_data_sequences(data, MOIRE_VALIDATION) == 1);
    moire_data_close(data);
    config = config_of(1);
    config.model_sequence = 1;
    data = open_data(&config);
    int32_t tokens[2];
    int domain;
    expect_ok(moire_data_fetch(data, MOIRE_TRAINING, 12345, tokens, &domain));
    moire_data_close(data);
    config.model_vocabulary = 127;
    expect_failure(try_open(&config), MOIRE_USAGE, "expected at least 128 (ASCII)");
    config = config_of(INT64_MAX);
    expect_failure(try_open(&config), MOIRE_USAGE, "too many synthetic sequences");
}

static void print_data(void *data)
{
    moire_data_print(data);
}

static void test_print(void)
{
    struct moire_config config = config_of(SEQUENCES);
    struct moire_data *data = open_data(&config);
    char *text = printed(stdout, print_data, data);
    expect(longest_line(text) <= 80 && strstr(text, "markov-upper")
           && strstr(text, "source      synthetic: "));
    free(text);
    moire_data_close(data);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "arithmetic is right", test_arithmetic },
        { "brackets are balanced", test_brackets },
        { "copies are copies", test_copy },
        { "Markov texts have their probabilities", test_markov },
        { "order, domains, seeds", test_order },
        { "sizes", test_sizes },
        { "print", test_print },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
