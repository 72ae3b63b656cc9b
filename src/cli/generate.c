/* moire generate */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moire/base/log.h"
#include "moire/base/random.h"
#include "moire/cli/cli.h"
#include "moire/train/train.h"

/* One candidate of the draw. */
struct candidate {
    double probability;
    int32_t token;
};

static int likelier_first(const void *a, const void *b)
{
    const struct candidate *left = a, *right = b;
    if (left->probability != right->probability) return left->probability < right->probability ? 1 : -1;
    return left->token - right->token;
}

static int32_t likeliest(const real *logits, int64_t vocabulary)
{
    int32_t best = 0;
    for (int64_t token = 1; token < vocabulary; token++)
        if (logits[token] > logits[best]) best = (int32_t)token;
    return best;
}

/* Temperature, then top-k, then top-p, then the draw number `index`. candidates [V] is scratch. */
static int32_t draw(const struct moire_config *config, const real *logits, int64_t index,
                    struct candidate *candidates)
{
    int64_t vocabulary = config->model_vocabulary, kept = vocabulary;
    if (config->generate_temperature == 0) return likeliest(logits, vocabulary);
    double maximum = logits[likeliest(logits, vocabulary)], sum = 0;
    for (int64_t token = 0; token < vocabulary; token++)
        candidates[token] =
            (struct candidate){ exp(((double)logits[token] - maximum) / config->generate_temperature),
                                (int32_t)token };
    qsort(candidates, (size_t)vocabulary, sizeof *candidates, likelier_first);
    if (config->generate_top_k > 0 && config->generate_top_k < kept) kept = config->generate_top_k;
    for (int64_t i = 0; i < kept; i++) sum += candidates[i].probability;
    double limit = sum * config->generate_top_p, used = 0;
    for (int64_t i = 0; i < kept; i++) {
        used += candidates[i].probability;
        if (used >= limit) kept = i + 1;
    }
    double target = used * moire_random_uniform((uint64_t)config->generate_seed,
                                                moire_random_stream("generate"), (uint64_t)index);
    for (int64_t i = 0; i < kept; i++) {
        target -= candidates[i].probability;
        if (target < 0) return candidates[i].token;
    }
    return candidates[kept - 1].token;
}

/* Bytes of a letter of UTF-8 that is not whole yet. */
struct letter {
    unsigned char bytes[4];
    int count;
};

/* How many bytes a letter has that begins with this one; 1 also where none begins with it. */
static int letter_bytes(unsigned char first)
{
    if (first >= 0xC2 && first <= 0xDF) return 2;
    if (first >= 0xE0 && first <= 0xEF) return 3;
    return first >= 0xF0 && first <= 0xF4 ? 4 : 1;
}

/* Whether the bytes so far begin a letter that can be shown: no overlong form, half of a pair, or control
 * character. */
static bool may_be_letter(const struct letter *letter)
{
    const unsigned char *b = letter->bytes;
    for (int i = 1; i < letter->count; i++)
        if ((b[i] & 0xC0) != 0x80) return false;
    if (letter_bytes(b[0]) == 1) return false;
    if (letter->count < 2) return true;
    if (b[0] == 0xC2) return b[1] >= 0xA0;
    if (b[0] == 0xE0) return b[1] >= 0xA0;
    if (b[0] == 0xED) return b[1] < 0xA0;
    if (b[0] == 0xF0) return b[1] >= 0x90;
    return b[0] != 0xF4 || b[1] < 0x90;
}

/* What waits for the rest of its letter and will not get it. */
static void print_rest(struct letter *letter)
{
    for (int i = 0; i < letter->count; i++) printf("\\x%02x", letter->bytes[i]);
    letter->count = 0;
}

/* Text as it is, in UTF-8; what a terminal could take amiss as \xNN. Tokens over 255 (no byte model) as
 * numbers. */
static void print_token(int32_t token, struct letter *letter)
{
    if (token >= 0x80 && token <= 0xFF) {
        letter->bytes[letter->count++] = (unsigned char)token;
        if (!may_be_letter(letter)) {
            letter->count--;
            print_rest(letter);
            letter->bytes[letter->count++] = (unsigned char)token;
            if (!may_be_letter(letter)) print_rest(letter);
        } else if (letter->count == letter_bytes(letter->bytes[0])) {
            printf("%.*s", letter->count, (const char *)letter->bytes);
            letter->count = 0;
        }
        fflush(stdout);
        return;
    }
    print_rest(letter);
    if (token > 255)
        printf("%d ", token);
    else if (isprint(token) || token == '\n' || token == '\t')
        putchar(token);
    else
        printf("\\x%02x", (unsigned)token);
    fflush(stdout);
}

/* The prompt's tokens one after the other, then draws, until the text is long enough or the decoder full. */
static moire_status decode(const struct moire_config *config, struct moire_decoder *decoder,
                           struct candidate *candidates)
{
    const struct moire_model *model = decoder->model;
    struct letter letter = { .count = 0 };
    bool prints = model->mesh->world.rank == 0;
    int64_t prompt = (int64_t)strlen(config->generate_prompt), wanted = prompt + config->generate_tokens;
    int32_t token =
        prompt ? (unsigned char)config->generate_prompt[0] : '\n' % (int32_t)config->model_vocabulary;
    if (prints && prompt) print_token(token, &letter);
    for (int64_t position = 0; position + 1 < wanted + !prompt && position < model->sequence; position++) {
        MOIRE_TRY(moire_decoder_step(decoder, token));
        if (position + 1 < prompt)
            token = (unsigned char)config->generate_prompt[position + 1];
        else if (prints)
            token = draw(config, decoder->logits, position, candidates);
        if (prints) print_token(token, &letter);
    }
    if (prints) {
        print_rest(&letter);
        putchar('\n');
    }
    return MOIRE_OK;
}

/* MOIRE_USAGE where the prompt cannot be read by this model. */
static moire_status check_prompt(const struct moire_config *config)
{
    int64_t length = (int64_t)strlen(config->generate_prompt);
    if (length >= config->model_sequence)
        return moire_fail(MOIRE_USAGE,
                          "generate.prompt is too long; found %lld bytes, expected less than model.sequence "
                          "= %lld; try a shorter one",
                          (long long)length, (long long)config->model_sequence);
    for (int64_t i = 0; i < length; i++)
        if ((unsigned char)config->generate_prompt[i] >= config->model_vocabulary)
            return moire_fail(
                MOIRE_USAGE,
                "generate.prompt has a token that the model does not know; found %d at byte %lld, "
                "expected less than model.vocabulary = %lld; try another text",
                (unsigned char)config->generate_prompt[i], (long long)i, (long long)config->model_vocabulary);
    if (length + config->generate_tokens > config->model_sequence)
        moire_warn("the model sees %lld tokens (model.sequence); the text ends there",
                   (long long)config->model_sequence);
    return MOIRE_OK;
}

static moire_status generate(const struct moire_config *config, const struct moire_mesh *mesh,
                             const char *path)
{
    struct moire_model model;
    struct moire_decoder decoder;
    struct candidate *candidates = NULL;
    int64_t step, sequences;
    MOIRE_TRY(moire_agree(&mesh->world, check_prompt(config)));
    MOIRE_TRY(moire_model_create(config, mesh, mesh->world.rank == 0, false, &model));
    moire_status status = moire_train_load(path, &model, NULL, &step, &sequences);
    if (status != MOIRE_OK) goto free_model;
    status = moire_agree(&mesh->world, moire_allocate(MOIRE_MEMORY_OTHER, config->model_vocabulary,
                                                      sizeof *candidates, &candidates));
    if (status != MOIRE_OK) goto free_model;
    status = moire_decoder_create(&model, &decoder);
    if (status != MOIRE_OK) goto release_candidates;
    status = decode(config, &decoder, candidates);
    moire_decoder_free(&decoder);
release_candidates:
    moire_release(candidates);
free_model:
    moire_model_free(&model);
    return status;
}

static moire_status run(int argc, char **argv)
{
    return moire_cli_with_trained(argc, argv, generate);
}

const struct moire_command moire_command_generate = {
    .name = "generate",
    .arguments = "FILE.ini|CHECKPOINT|RUN [--section.key=value ...]",
    .summary = "text from a checkpoint",
    .details = "Goes on from generate.prompt, one token at a time, and prints prompt and text.\n"
               "The text ends where the model's sequence is full. The same seed gives the same\n"
               "text on any number of ranks, up to rounding.\n"
               "\n"
               "  moire generate runs/tiny --generate.prompt='static int '\n"
               "  mpirun -n 2 moire generate runs/tiny --generate.temperature=0",
    .sections = "generate parallel topology exchange",
    .mpi = true,
    .run = run,
};
