/* Token sources. A source is a list of sequences of S + 1 tokens (inputs and, shifted by one, targets), each
 * of one domain, cut into a training and a validation part. What sequence number n of a run contains is a
 * function of (files, seed, n) alone: the same for any number of ranks, and a run is resumed in place by its
 * sequence count.
 *
 * Sequences. The tokens of a domain's files are joined in the order of their paths with nothing between, and
 * cut every S tokens: sequence w of a domain is its tokens [w S, w S + S]. No sequence crosses from one
 * domain to another. A domain shorter than S + 1 tokens is left out, with one warning that counts them.
 *
 * Domains. data.domain = file: each text file, llm.c shard or Megatron pair, named by its path. kind: text
 * files by the ending of their names ("c"; "other" without one), all shards or pairs together. synthetic: its
 * languages.
 *
 * Split. Sequence w of all is kept for validation when a number in [0, 1), which depends on w alone and not
 * on run.seed, is under data.validation. Then, in each domain and in the whole: where there are two sequences
 * or more, at least one stays for training and, unless data.validation is 0, at least one is kept for
 * validation.
 *
 * Formats. text: bytes. llmc: 256 header words of 32 bits (magic 20240520, version 1, tokens), then uint16.
 * megatron: version 1 of .idx beside .bin; tokens of code 8 (uint16) or 4 (int32, which holds every uint32 id
 * that a vocabulary can have; the format knows no uint32), documents joined; a path with .bin, .idx or
 * neither.
 *
 * Not collective: every rank opens the same files. Zero sequences asked for is fine. */
#ifndef MOIRE_IO_DATA_H
#define MOIRE_IO_DATA_H

#include "moire/base/config.h"

enum moire_split { MOIRE_TRAINING, MOIRE_VALIDATION, MOIRE_SPLITS };

struct moire_data; /* opened source */

/* Opens the source that data.source names. MOIRE_USAGE: no such source (nearest name), data.path empty, or
 * sequence longer than the data (found and needed tokens); MOIRE_NO_FILE: missing, unreadable;
 * MOIRE_BAD_DATA: empty or truncated file, wrong magic, version or size, a token id not under the vocabulary
 * (file, position, id). Ids are checked here where that is cheap (text; token files up to 256 MiB together),
 * and in every fetch. An empty text file that only a wildcard names is skipped, with one warning that counts
 * them. */
moire_status moire_data_open(const struct moire_config *config, struct moire_data **data);
void moire_data_close(struct moire_data *data);

/* Sequences of a split. The training split has at least one; validation may have none when data.validation is
 * 0. */
int64_t moire_data_sequences(const struct moire_data *data, enum moire_split split);
/* Tokens in all, those of domains that are left out too; domains that have a sequence, and their names. */
int64_t moire_data_tokens(const struct moire_data *data);
int moire_data_domains(const struct moire_data *data);
const char *moire_data_domain_name(const struct moire_data *data, int domain);
/* XXH3 of the files' names (without folders), sizes and a sample of their contents, so that ranks with
 * different data are found. */
uint64_t moire_data_checksum(const struct moire_data *data);

/* Sequence `number` of the run, counted from 0 without end: training goes through all sequences in a
 * pseudo-random order, another each epoch; validation in its stored order (number modulo its count). tokens
 * [S + 1] is filled, with anything after a failure; *domain is its domain. Allocates nothing; thread safe.
 * MOIRE_USAGE: no validation sequence; MOIRE_BAD_DATA: a token id not under the vocabulary. */
moire_status moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                              int32_t *tokens, int *domain);
/* What is in it, for `moire data inspect`: one line a domain and totals, on standard output. */
void moire_data_print(const struct moire_data *data);

/* A kind of source: one file, one line in the table of io/data.c. Splits, order and checks of ids are not its
 * business. */
struct moire_source {
    const char *name, *help;
    /* Sets tokens (in all), windows (sequences in all, before the split), domains and checksum. After a
     * failure it is closed like an opened one. */
    moire_status (*open)(const struct moire_config *config, struct moire_data *data);
    /* Window `index` in [0, windows): S + 1 tokens and the domain. */
    moire_status (*fetch)(const struct moire_data *data, int64_t index, int32_t *tokens, int *domain);
    void (*close)(struct moire_data *data); /* NULL: nothing beside what io/data.c frees */
};
extern const struct moire_source *const moire_sources[];
extern const int moire_source_count;
extern const struct moire_source moire_source_text, moire_source_llmc, moire_source_megatron,
    moire_source_synthetic;
moire_status moire_data_check_source(const char *name); /* MOIRE_USAGE with the nearest name */

/* Token files from text, for `moire data build`: the bytes of the matching files, in the order of their
 * paths, as an llm.c .bin or as Megatron .bin and .idx (uint16; one document a file). format: "llmc" or
 * "megatron"; output: a path with or without the ending. Old files of these names stay until the new .bin is
 * whole. */
moire_status moire_data_build(const char *patterns, const char *format, const char *output);
/* `moire data inspect FILE`: header and statistics of an llm.c or Megatron file (.bin, .idx or what both
 * begin with), on standard output. */
moire_status moire_data_inspect_file(const char *path);
/* Whether the file looks like one of these formats; false without an error where there is none. */
bool moire_data_is_token_file(const char *path);

#endif
