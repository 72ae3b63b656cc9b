/* Token sources. A source is a list of sequences of S + 1 tokens (inputs and, shifted by one, targets), each of one
 * domain, cut into a training and a validation part. What sequence number n of a run contains is a function of
 * (files, seed, n) alone: the same for any number of ranks, and a run is resumed in place by its sequence count.
 *
 * Not collective: every rank opens the same files. Zero sequences asked for is fine. */
#ifndef MOIRE_IO_DATA_H
#define MOIRE_IO_DATA_H

#include "moire/base/config.h"

enum moire_split { MOIRE_TRAINING, MOIRE_VALIDATION, MOIRE_SPLITS };

struct moire_data; /* opened source */

/* Opens the source that data.source names. MOIRE_USAGE: no such source (nearest name), data.path empty, or sequence longer than the
 * data (found and needed tokens); MOIRE_NO_FILE: missing, unreadable; MOIRE_BAD_DATA: empty or truncated file, wrong magic, version or size, a token id not
 * under the vocabulary (file, position, id). */
moire_status moire_data_open(const struct moire_config *config, struct moire_data **data);
void moire_data_close(struct moire_data *data);

/* Sequences of a split. The training split has at least one; validation may have none when data.validation is 0. */
int64_t moire_data_sequences(const struct moire_data *data, enum moire_split split);
/* Tokens in all, and domains: names[domain]. */
int64_t moire_data_tokens(const struct moire_data *data);
int moire_data_domains(const struct moire_data *data);
const char *moire_data_domain_name(const struct moire_data *data, int domain);
/* A checksum of the files' names, sizes and a sample of their contents, so that ranks with different data are found. */
uint64_t moire_data_checksum(const struct moire_data *data);

/* Sequence `number` of the run, counted from 0 without end: training goes through all sequences in a pseudo-random order, another each epoch; validation in
 * its stored order (number modulo its count). tokens [S + 1] is filled; *domain is its domain. */
moire_status moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number, int32_t *tokens, int *domain);
/* What is in it, for `moire data inspect`: one line a file or domain, on standard output. */
void moire_data_print(const struct moire_data *data);

/* A kind of source: one file, one line in the table of io/data.c. Splits, order and checks of ids are not its business. */
struct moire_source {
    const char *name, *help;
    /* Sets *state, *tokens (in all), *windows (sequences in all, before the split) and the domains. */
    moire_status (*open)(const struct moire_config *config, struct moire_data *data);
    /* Window `index` in [0, windows): S + 1 tokens and the domain. */
    moire_status (*fetch)(const struct moire_data *data, int64_t index, int32_t *tokens, int *domain);
    void (*close)(struct moire_data *data);
};
extern const struct moire_source *const moire_sources[];
extern const int moire_source_count;
extern const struct moire_source moire_source_text, moire_source_llmc, moire_source_megatron, moire_source_synthetic;
moire_status moire_data_check_source(const char *name); /* MOIRE_USAGE with the nearest name */

/* Token files from text, for `moire data build`: the bytes of the matching files as llm.c .bin (magic 20240520, version 1, 256
 * 32-bit header words, uint16 tokens) or as Megatron .bin and .idx (one document a file). format: "llmc" or "megatron". */
moire_status moire_data_build(const char *patterns, const char *format, const char *output);
/* `moire data inspect FILE`: header and statistics of an llm.c or Megatron file, on standard output. */
moire_status moire_data_inspect_file(const char *path);
/* Whether the file looks like one of these formats. */
bool moire_data_is_token_file(const char *path);

#endif
