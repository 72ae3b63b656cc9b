/* Files of llm.c and of Megatron, byte by byte, right or wrong. */
#ifndef MOIRE_TESTS_IO_TOKENS_H
#define MOIRE_TESTS_IO_TOKENS_H

#include <stdint.h>

#include "files.h"

/* A file under construction, lowest byte first. */
struct bytes {
    unsigned char data[4096];
    size_t count;
};

static inline void add(struct bytes *bytes, int width, int64_t number)
{
    for (int i = 0; i < width; i++) bytes->data[bytes->count++] = (unsigned char)((uint64_t)number >> 8 * i);
}

static inline void put_bytes(const char *path, const struct bytes *bytes)
{
    put_file(path, bytes->data, bytes->count);
}

/* Ids that are the same for the same place, under `bound`. */
static inline int32_t id_at(int64_t place, int32_t bound)
{
    return (int32_t)((place * 7919 + 13) % bound);
}

static inline struct bytes llmc_file(int64_t magic, int64_t version, int64_t announced, int64_t tokens,
                                     int64_t first, int32_t bound)
{
    struct bytes bytes = { .count = 0 };
    add(&bytes, 4, magic);
    add(&bytes, 4, version);
    add(&bytes, 4, announced);
    while (bytes.count < 1024) add(&bytes, 4, 0);
    for (int64_t i = 0; i < tokens; i++) add(&bytes, 2, id_at(first + i, bound));
    return bytes;
}

static inline void put_llmc(const char *path, int64_t magic, int64_t version, int64_t announced,
                            int64_t tokens)
{
    struct bytes bytes = llmc_file(magic, version, announced, tokens, 0, 256);
    put_bytes(path, &bytes);
}

/* What an index says; the arrays are written as they are. */
struct index {
    const char *magic;
    int64_t version;
    int code;
    int64_t sequences, documents; /* in the header */
    int count;                    /* written */
    int64_t sizes[8], pointers[8], starts[9];
};

static inline struct index good_index(void)
{
    /* Four sequences, the second empty, in the order of the .bin, of 20, 0, 13 and 7 tokens of two bytes. */
    return (struct index){ "MMIDIDX\0", 1, 8, 4, 3, 4, { 20, 0, 13, 7 }, { 0, 40, 40, 66 }, { 0, 2, 4 } };
}

static inline void put_index(const char *path, const struct index *index)
{
    struct bytes bytes = { .count = 9 };
    memcpy(bytes.data, index->magic, 9);
    add(&bytes, 8, index->version);
    add(&bytes, 1, index->code);
    add(&bytes, 8, index->sequences);
    add(&bytes, 8, index->documents);
    for (int i = 0; i < index->count; i++) add(&bytes, 4, index->sizes[i]);
    for (int i = 0; i < index->count; i++) add(&bytes, 8, index->pointers[i]);
    for (int i = 0; i < index->count - 1; i++) add(&bytes, 8, index->starts[i]);
    put_bytes(path, &bytes);
}

#endif
