/* NumPy's .npy, as far as routing comes in it: the magic, two bytes of version, the length of the header (2
 * bytes in version 1, 4 in version 2), the header (a Python dictionary of descr, fortran_order and shape,
 * then blanks), and the numbers (numpy.lib.format). */
#include <inttypes.h>
#include <string.h>

#include "io/private.h"
#include "moire/base/log.h"
#include "moire/io/routing.h"

static const unsigned char magic[] = { 0x93, 'N', 'U', 'M', 'P', 'Y' };
enum { VERSION_BYTES = 2, AXES = 3, MOST_AXES = 8, TYPE_BYTES = 16, SHOWN = 24 };
enum { TOKEN, LAYER, SLOT };     /* the axes */
enum { MOST_EXPERTS = 1048576 }; /* as of moe.experts */

struct npy {
    const char *path;
    struct moire_file_map map;
    const char *at, *end; /* what is left of the header */
    char type[TYPE_BYTES];
    bool fortran;
    int axes;
    int64_t shape[MOST_AXES];
    int width; /* bytes of a number */
    bool is_signed;
    const unsigned char *numbers;
};

/* ---- the header ---- */

static moire_status fail_at(const struct npy *npy, const char *expected)
{
    int shown = npy->end - npy->at < SHOWN ? (int)(npy->end - npy->at) : SHOWN;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s has a header that cannot be read; found '%.*s' at byte %lld, expected %s; try "
                      "numpy.save of a plain array",
                      npy->path, shown, npy->at, (long long)(npy->at - (const char *)npy->map.data),
                      expected);
}

static void skip_blanks(struct npy *npy)
{
    while (npy->at < npy->end && (*npy->at == ' ' || *npy->at == '\n')) npy->at++;
}

/* The word, if it comes next; blanks before it are skipped. */
static bool accept(struct npy *npy, const char *word)
{
    const size_t bytes = strlen(word);
    skip_blanks(npy);
    if ((size_t)(npy->end - npy->at) < bytes || memcmp(npy->at, word, bytes) != 0) return false;
    npy->at += bytes;
    return true;
}

static moire_status expect(struct npy *npy, const char *word, const char *expected)
{
    return accept(npy, word) ? MOIRE_OK : fail_at(npy, expected);
}

static moire_status read_type(struct npy *npy)
{
    MOIRE_TRY(expect(npy, "'", "a plain type such as '<i4'"));
    const char *close = memchr(npy->at, '\'', (size_t)(npy->end - npy->at));
    if (!close || close - npy->at >= TYPE_BYTES) return fail_at(npy, "a plain type such as <i4'");
    memcpy(npy->type, npy->at, (size_t)(close - npy->at));
    npy->type[close - npy->at] = 0;
    npy->at = close + 1;
    return MOIRE_OK;
}

static moire_status read_order(struct npy *npy)
{
    npy->fortran = accept(npy, "True");
    return npy->fortran ? MOIRE_OK : expect(npy, "False", "True or False");
}

static moire_status read_length(struct npy *npy, int64_t *length)
{
    const char *first = npy->at;
    *length = 0;
    for (; npy->at < npy->end && *npy->at >= '0' && *npy->at <= '9'; npy->at++)
        if (__builtin_mul_overflow(*length, 10, length) ||
            __builtin_add_overflow(*length, *npy->at - '0', length))
            return fail_at(npy, "a length below 2^63");
    return npy->at > first ? MOIRE_OK : fail_at(npy, "a length");
}

static moire_status read_shape(struct npy *npy)
{
    MOIRE_TRY(expect(npy, "(", "a shape such as (1000, 32, 2)"));
    while (!accept(npy, ")")) {
        if (npy->axes == MOST_AXES) return fail_at(npy, "at most 8 axes");
        MOIRE_TRY(read_length(npy, &npy->shape[npy->axes++]));
        if (!accept(npy, ",")) {
            MOIRE_TRY(expect(npy, ")", "',' or ')'"));
            break;
        }
        skip_blanks(npy);
    }
    return MOIRE_OK;
}

static moire_status read_dictionary(struct npy *npy)
{
    static const struct {
        const char *key;
        moire_status (*read)(struct npy *npy);
    } entries[] = { { "'descr'", read_type }, { "'fortran_order'", read_order }, { "'shape'", read_shape } };
    enum { ENTRIES = sizeof entries / sizeof *entries };
    bool seen[ENTRIES] = { false };
    MOIRE_TRY(expect(npy, "{", "'{'"));
    for (int read = 0; read < ENTRIES; read++) {
        int i = 0;
        while (i < ENTRIES && (seen[i] || !accept(npy, entries[i].key))) i++;
        if (i == ENTRIES) return fail_at(npy, "'descr', 'fortran_order' and 'shape', each once");
        seen[i] = true;
        MOIRE_TRY(expect(npy, ":", "':'"));
        MOIRE_TRY(entries[i].read(npy));
        if (!accept(npy, ",") && read + 1 < ENTRIES) return fail_at(npy, "','");
    }
    MOIRE_TRY(expect(npy, "}", "'}'"));
    skip_blanks(npy);
    return npy->at == npy->end ? MOIRE_OK : fail_at(npy, "blanks up to the end of the header");
}

/* Finds the header and where the numbers begin. */
static moire_status find_header(struct npy *npy)
{
    const unsigned char *data = npy->map.data;
    const int64_t bytes = npy->map.bytes, lengths = (int64_t)sizeof magic + VERSION_BYTES;
    if (bytes < lengths || memcmp(data, magic, sizeof magic) != 0)
        return moire_fail(MOIRE_BAD_DATA,
                          "%s is no NumPy file; found %lld bytes that begin otherwise, expected \\x93NUMPY; "
                          "try numpy.save",
                          npy->path, (long long)bytes);
    const int version = data[sizeof magic], width = version == 1 ? 2 : 4;
    if ((version != 1 && version != 2) || data[sizeof magic + 1] != 0)
        return moire_fail(MOIRE_BAD_DATA,
                          "%s has another version of the NumPy format; found %d.%d, expected 1.0 or 2.0; try "
                          "numpy.save of a plain array",
                          npy->path, version, data[sizeof magic + 1]);
    int64_t header = -1;
    if (bytes >= lengths + width)
        header = width == 2 ? moire_read_16(data + lengths) : moire_read_32(data + lengths);
    if (header < 0 || header > bytes - lengths - width)
        return moire_fail(
            MOIRE_BAD_DATA,
            "%s is truncated; found %lld bytes, expected a header; try to copy or make the file "
            "again",
            npy->path, (long long)bytes);
    npy->at = (const char *)data + lengths + width;
    npy->end = npy->at + header;
    npy->numbers = data + lengths + width + header;
    return MOIRE_OK;
}

static moire_status check_type(struct npy *npy)
{
    static const struct {
        const char *type;
        int width;
        bool is_signed;
    } types[] = {
        { "|i1", 1, true }, { "|u1", 1, false }, { "<i2", 2, true }, { "<i4", 4, true }, { "<i8", 8, true }
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(npy->type, types[i].type) == 0) {
            npy->width = types[i].width;
            npy->is_signed = types[i].is_signed;
            return MOIRE_OK;
        }
    return moire_fail(
        MOIRE_BAD_DATA, "%s %s; found type '%s', expected |i1, |u1, <i2, <i4 or <i8; try array.astype('<i4')",
        npy->path, npy->type[0] == '>' ? "is big endian" : "holds no integers of a known type", npy->type);
}

/* Shape and size; *numbers is their product. */
static moire_status check_shape(const struct npy *npy, int64_t *numbers)
{
    int64_t bytes = npy->width;
    const int64_t held = npy->map.bytes - (npy->numbers - npy->map.data);
    if (npy->fortran)
        return moire_fail(MOIRE_BAD_DATA,
                          "%s is in Fortran order; found fortran_order True, expected False; try "
                          "numpy.ascontiguousarray before numpy.save",
                          npy->path);
    if (npy->axes != AXES)
        return moire_fail(MOIRE_BAD_DATA,
                          "%s has another shape; found %d axes, expected 3: [tokens, layers, K]; try "
                          "array.reshape",
                          npy->path, npy->axes);
    for (int axis = 0; axis < AXES; axis++) {
        if (npy->shape[axis] < 1)
            return moire_fail(MOIRE_BAD_DATA,
                              "%s is empty; found shape [%lld, %lld, %lld], expected at least one token, "
                              "layer and slot",
                              npy->path, (long long)npy->shape[0], (long long)npy->shape[1],
                              (long long)npy->shape[2]);
        if (__builtin_mul_overflow(bytes, npy->shape[axis], &bytes)) bytes = INT64_MAX / 2 + 1;
    }
    if (bytes != held)
        return moire_fail(
            MOIRE_BAD_DATA,
            "%s is %s; found %lld bytes of numbers, expected [%lld, %lld, %lld] of %d bytes; try "
            "to copy or make the file again",
            npy->path, held < bytes ? "truncated" : "too long", (long long)held, (long long)npy->shape[0],
            (long long)npy->shape[1], (long long)npy->shape[2], npy->width);
    *numbers = bytes / npy->width;
    return MOIRE_OK;
}

/* ---- the numbers ---- */

static int64_t number_at(const struct npy *npy, int64_t index)
{
    const unsigned char *bytes = npy->numbers + index * npy->width;
    switch (npy->width) {
    case 1:
        return npy->is_signed ? (int8_t)bytes[0] : bytes[0];
    case 2:
        return (int16_t)moire_read_16(bytes);
    case 4:
        return (int32_t)moire_read_32(bytes);
    default:
        return (int64_t)moire_read_64(bytes);
    }
}

/* The largest id; MOIRE_BAD_DATA names the place of the first that is none. */
static moire_status check_ids(const struct npy *npy, int64_t numbers, int64_t limit, int64_t *largest)
{
    const int64_t *shape = npy->shape;
    *largest = 0;
    for (int64_t i = 0; i < numbers; i++) {
        int64_t id = number_at(npy, i);
        if (id < 0 || id >= limit)
            return moire_fail(
                MOIRE_BAD_DATA,
                "%s holds an id that is no expert; found %lld at [%lld, %lld, %lld] (token, layer, "
                "slot), expected 0 to %lld; try to leave such tokens out, or --experts",
                npy->path, (long long)id, (long long)(i / (shape[LAYER] * shape[SLOT])),
                (long long)(i / shape[SLOT] % shape[LAYER]), (long long)(i % shape[SLOT]),
                (long long)limit - 1);
        if (id > *largest) *largest = id;
    }
    return MOIRE_OK;
}

/* [tokens, layers, K] becomes [steps, layers, tokens, K]. */
static void transpose(const struct npy *npy, const struct moire_routing_file *file)
{
    const int64_t layers = file->layers, top_k = file->top_k;
    int32_t *to = file->ids;
    for (int64_t step = 0; step < file->steps; step++)
        for (int64_t layer = 0; layer < layers; layer++)
            for (int64_t t = 0; t < file->tokens; t++)
                for (int64_t k = 0; k < top_k; k++) {
                    int64_t token = step * file->tokens + t;
                    *to++ = (int32_t)number_at(npy, (token * layers + layer) * top_k + k);
                }
}

/* No router chooses an expert twice; what does so is padding, or another thing than choices. */
static void warn_of_doubles(const char *path, const struct moire_routing_file *file)
{
    int64_t doubles = 0, rows = file->steps * file->layers * file->tokens;
    for (int64_t row = 0; row < rows; row++) {
        const int32_t *token = file->ids + row * file->top_k;
        bool twice = false;
        for (int64_t k = 1; k < file->top_k; k++)
            for (int64_t i = 0; i < k; i++) twice |= token[i] == token[k];
        doubles += twice;
    }
    if (doubles)
        moire_warn("in %s %lld of %lld choices name an expert twice; is it padding, or no routing?", path,
                   (long long)doubles, (long long)rows);
}

static moire_status fill(const struct npy *npy, int64_t experts, int64_t numbers, int64_t tokens_per_step,
                         struct moire_routing_file *file)
{
    const int64_t tokens = npy->shape[TOKEN];
    int64_t largest;
    MOIRE_TRY(check_ids(npy, numbers, experts ? experts : MOST_EXPERTS, &largest));
    if (tokens_per_step > tokens)
        return moire_fail(
            MOIRE_USAGE, "a step has more tokens than the file; found %lld, expected at most %lld; try fewer",
            (long long)tokens_per_step, (long long)tokens);
    file->tokens = tokens_per_step ? tokens_per_step : tokens;
    file->steps = tokens / file->tokens;
    file->layers = npy->shape[LAYER];
    file->top_k = npy->shape[SLOT];
    file->experts = experts ? experts : largest + 1;
    file->ranks = 1;
    if (file->top_k > file->experts)
        return moire_fail(MOIRE_BAD_DATA,
                          "%s has more choices a token than experts; found %lld, expected at most %lld; try "
                          "--experts, or axes in the order [tokens, layers, K]",
                          npy->path, (long long)file->top_k, (long long)file->experts);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, numbers, sizeof *file->ids, &file->ids));
    MOIRE_TRY(
        moire_allocate(MOIRE_MEMORY_DATA, file->steps * file->tokens, sizeof *file->sources, &file->sources));
    transpose(npy, file);
    return MOIRE_OK;
}

moire_status moire_routing_import(const char *path, int64_t experts, int64_t tokens_per_step,
                                  struct moire_routing_file *file)
{
    struct npy npy = { .path = path };
    struct moire_routing_file read = { 0 };
    int64_t numbers = 0;
    MOIRE_TRY(moire_file_map(path, &npy.map));
    moire_status status = find_header(&npy);
    if (status == MOIRE_OK) status = read_dictionary(&npy);
    if (status == MOIRE_OK) status = check_type(&npy);
    if (status == MOIRE_OK) status = check_shape(&npy, &numbers);
    if (status == MOIRE_OK) status = fill(&npy, experts, numbers, tokens_per_step, &read);
    moire_file_unmap(&npy.map);
    if (status != MOIRE_OK) {
        moire_routing_free(&read);
        return status;
    }
    warn_of_doubles(path, &read);
    *file = read;
    return MOIRE_OK;
}
