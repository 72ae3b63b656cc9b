/* What the token sources share: an opened source, and tokens that are stored in files (text, llmc, megatron).
 * Included by the files of src/io and by their tests alone. */
#ifndef MOIRE_IO_PRIVATE_H
#define MOIRE_IO_PRIVATE_H

#include "moire/io/data.h"

/* A file of tokens of `width` bytes (1: bytes, 2: uint16, 4: int32; lowest byte first) after a header. */
struct moire_data_file {
    char *path;              /* owned */
    struct moire_file_map map;
    int width;
    int64_t header_bytes;
};

/* Tokens that lie one after the other in a file, and their place in their domain. */
struct moire_data_piece {
    int64_t file;            /* index in files */
    int64_t offset_bytes;    /* of the first token, header included */
    int64_t tokens;
    int64_t first_token;     /* of the domain */
};

/* What losses are told apart by. Its tokens are those of its pieces, joined with nothing between. */
struct moire_data_domain {
    char *name;              /* owned */
    int64_t tokens;
    int64_t files, first_piece, pieces; /* stored tokens only */
    int64_t windows, first_window;      /* first_window: unless windows are interleaved */
    int64_t validation_windows;
};

struct moire_data {
    const struct moire_source *source;
    int64_t sequence, vocabulary;
    uint64_t seed;

    /* Set by a source's open. */
    int64_t tokens, windows;
    struct moire_data_domain *domains; /* owned; those with a window */
    int64_t domain_count, domain_capacity;
    bool interleaved; /* window w is of domain w mod domain_count; else the domains follow one another */
    uint64_t checksum;

    /* Stored tokens. */
    struct moire_data_file *files;     /* owned */
    int64_t file_count, file_capacity;
    struct moire_data_piece *pieces;   /* owned */
    int64_t piece_count, piece_capacity;
    int64_t domains_left_out, tokens_left_out; /* too short for a window */
    int64_t empty_files;

    /* The split: windows kept for validation, ascending; all others are for training. */
    int64_t *validation;     /* owned */
    int64_t validation_windows;
};

enum { MOIRE_DATA_BLOCK = 4096 }; /* tokens that are looked at together where a whole file is */

/* data.c */
moire_status moire_data_add_domain(struct moire_data *data, const char *name);
int moire_data_domain_of(const struct moire_data *data, int64_t window);
void moire_data_free_contents(struct moire_data *data);

/* split.c: cuts the windows. A window is kept for validation when a number in [0, 1) that depends on its
 * index alone is under `share`, so that the split is the same for every run.seed. Then, where there are two
 * windows or more, of a domain and of the whole: at least one stays for training and, unless `share` is 0,
 * one is kept for validation. */
moire_status moire_data_split(struct moire_data *data, double share);

/* stored.c: files, domains and pieces are added in their order, then finished, which counts the windows,
 * leaves out the domains that have none, checks the ids and takes the checksum. moire_data_add_file maps the
 * file; *index is its place. */
moire_status moire_data_add_file(struct moire_data *data, const char *path, int width, int64_t *index);
/* To the last domain. Grows the last piece where it goes on in the file. No tokens: nothing is added. */
moire_status moire_data_add_piece(struct moire_data *data, int64_t file, int64_t offset_bytes,
                                  int64_t tokens);
moire_status moire_data_finish_stored(struct moire_data *data);
moire_status moire_data_fetch_stored(const struct moire_data *data, int64_t window, int32_t *tokens,
                                     int *domain);
/* `count` tokens of a piece from its token `first` on. MOIRE_BAD_DATA: one is not under the vocabulary. */
moire_status moire_data_read_piece(const struct moire_data *data, const struct moire_data_piece *piece,
                                   int64_t first, int64_t count, int32_t *tokens);
/* data.path, or MOIRE_USAGE where it is empty. */
moire_status moire_data_path_given(const struct moire_config *config);

/* text.c: adds the files that match; empty ones are skipped and counted, unless named without a wildcard. */
moire_status moire_data_add_text_files(struct moire_data *data, const char *patterns);

/* llmc.c: 256 header words of 32 bits (magic, version, tokens, zeros), then the tokens as uint16. */
enum { MOIRE_LLMC_MAGIC = 20240520, MOIRE_LLMC_VERSION = 1, MOIRE_LLMC_HEADER_BYTES = 1024 };
/* Adds a checked file to the last domain. */
moire_status moire_data_add_llmc(struct moire_data *data, const char *path);

/* megatron.c: the index PREFIX.idx: magic, version (8 bytes), code of the token type (1), sequences n (8),
 * entries d of the document list (8; one more than documents), int32 tokens [n], int64 byte offsets in
 * PREFIX.bin [n], int64 first sequence of each document [d]. */
#define MOIRE_MEGATRON_MAGIC "MMIDIDX\0" /* nine bytes with the zero that ends it */
enum { MOIRE_MEGATRON_MAGIC_BYTES = 9, MOIRE_MEGATRON_VERSION = 1, MOIRE_MEGATRON_HEADER_BYTES = 34 };
enum { MOIRE_MEGATRON_INT32 = 4, MOIRE_MEGATRON_UINT16 = 8 };
struct moire_megatron_index {
    struct moire_file_map map;
    const char *path;            /* not owned */
    int code, width;
    int64_t sequences, document_entries;
    const unsigned char *sizes, *pointers, *documents; /* in map */
};
/* Maps and checks an index by itself; moire_file_unmap(&index->map) gives it back. `path` must stay. */
moire_status moire_megatron_open_index(const char *path, struct moire_megatron_index *index);
/* Tokens of a sequence. */
int64_t moire_megatron_size(const struct moire_megatron_index *index, int64_t sequence);
/* Adds the .bin of an index to the last domain, sequence after sequence, checked against its size. */
moire_status moire_data_add_megatron(struct moire_data *data, const char *index_path);
/* Adds to a text of the caller: the path without its .bin or .idx, if any, and then `ending`, such as ".idx".
 * A pattern that ends in "**" means every file below. */
moire_status moire_data_token_path(const char *path, const char *ending, struct moire_text *changed);

/* Numbers in files, lowest byte first, at any address. */
static inline uint16_t moire_read_16(const unsigned char *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static inline uint32_t moire_read_32(const unsigned char *bytes)
{
    return moire_read_16(bytes) | (uint32_t)moire_read_16(bytes + 2) << 16;
}

static inline uint64_t moire_read_64(const unsigned char *bytes)
{
    return moire_read_32(bytes) | (uint64_t)moire_read_32(bytes + 4) << 32;
}

static inline void moire_write_number(unsigned char *bytes, uint64_t number, int width)
{
    for (int i = 0; i < width; i++) bytes[i] = (unsigned char)(number >> 8 * i);
}

#endif
