/* Tokens that are stored in files: what text, llmc and megatron have in common. */
#include "io/private.h"

#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "moire/base/log.h"

/* Of a file over WHOLE_BYTES so many blocks go into the checksum, evenly spread, and its end. */
enum { SAMPLES = 16, SAMPLE_BYTES = 4096, WHOLE_BYTES = 1 << 20 };
/* Token files up to this size together are read through at the start, others checked window by window. */
enum { SCAN_BYTES = 256 << 20 };

moire_status moire_data_path_given(const struct moire_config *config)
{
    if (config->data_path && config->data_path[0]) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE, "data.path is empty; expected file patterns for data.source=%s; try "
                      "data.path=src/**/*.c, or data.source=synthetic, which reads no file",
                      config->data_source);
}

moire_status moire_data_add_file(struct moire_data *data, const char *path, int width, int64_t *index)
{
    struct moire_data_file file = { .width = width };
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_DATA, &data->files, &data->file_capacity, data->file_count + 1,
                         sizeof *data->files));
    MOIRE_TRY(moire_copy_text(path, &file.path));
    moire_status status = moire_file_map(path, &file.map);
    if (status != MOIRE_OK) {
        moire_release(file.path);
        return status;
    }
    *index = data->file_count;
    data->files[data->file_count++] = file;
    return MOIRE_OK;
}

moire_status moire_data_add_piece(struct moire_data *data, int64_t file, int64_t offset_bytes, int64_t tokens)
{
    struct moire_data_domain *domain = &data->domains[data->domain_count - 1];
    struct moire_data_piece *last = domain->pieces ? &data->pieces[data->piece_count - 1] : NULL;
    if (tokens == 0) return MOIRE_OK;
    if (last && last->file == file
        && last->offset_bytes + last->tokens * data->files[file].width == offset_bytes) {
        last->tokens += tokens;
    } else {
        bool other_file = !last || last->file != file; /* before the pieces move */
        MOIRE_TRY(moire_grow(MOIRE_MEMORY_DATA, &data->pieces, &data->piece_capacity, data->piece_count + 1,
                             sizeof *data->pieces));
        data->pieces[data->piece_count++] = (struct moire_data_piece){
            .file = file, .offset_bytes = offset_bytes, .tokens = tokens, .first_token = domain->tokens };
        if (other_file) domain->files++;
        domain->pieces++;
    }
    domain->tokens += tokens;
    return MOIRE_OK;
}

static void widen(const unsigned char *bytes, int width, int64_t count, int32_t *tokens)
{
    if (width == 1)
        for (int64_t i = 0; i < count; i++) tokens[i] = bytes[i];
    else if (width == 2)
        for (int64_t i = 0; i < count; i++) tokens[i] = moire_read_16(bytes + 2 * i);
    else
        for (int64_t i = 0; i < count; i++) tokens[i] = (int32_t)moire_read_32(bytes + 4 * i);
}

static moire_status fail_token(const struct moire_data *data, const struct moire_data_piece *piece,
                               int64_t token, int32_t id)
{
    const struct moire_data_file *file = &data->files[piece->file];
    int64_t position = (piece->offset_bytes - file->header_bytes) / file->width + token;
    if (id < 0)
        return moire_fail(MOIRE_BAD_DATA, "negative token in %s at position %" PRId64 "; found id %" PRId32
                          ", expected 0 to %" PRId64 "; try to make the file again", file->path, position, id,
                          data->vocabulary - 1);
    return moire_fail(MOIRE_BAD_DATA, "token beyond the vocabulary in %s at position %" PRId64 "; found id %"
                      PRId32 ", expected less than %" PRId64 "; try model.vocabulary=%" PRId64 " or more, or "
                      "other data", file->path, position, id, data->vocabulary, (int64_t)id + 1);
}

moire_status moire_data_read_piece(const struct moire_data *data, const struct moire_data_piece *piece,
                                   int64_t first, int64_t count, int32_t *tokens)
{
    const struct moire_data_file *file = &data->files[piece->file];
    widen(file->map.data + piece->offset_bytes + first * file->width, file->width, count, tokens);
    uint32_t vocabulary = (uint32_t)data->vocabulary, wrong = 0;
    for (int64_t i = 0; i < count; i++) wrong |= (uint32_t)tokens[i] >= vocabulary;
    if (!wrong) return MOIRE_OK;
    int64_t i = 0;
    while ((uint32_t)tokens[i] < vocabulary) i++;
    return fail_token(data, piece, first + i, tokens[i]);
}

static const struct moire_data_piece *piece_of(const struct moire_data *data,
                                               const struct moire_data_domain *domain, int64_t token)
{
    int64_t low = domain->first_piece, high = low + domain->pieces; /* the piece is in [low, high) */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (data->pieces[middle].first_token <= token) low = middle;
        else high = middle;
    }
    return &data->pieces[low];
}

moire_status moire_data_fetch_stored(const struct moire_data *data, int64_t window, int32_t *tokens,
                                     int *domain)
{
    int found = moire_data_domain_of(data, window);
    const struct moire_data_domain *from = &data->domains[found];
    int64_t token = (window - from->first_window) * data->sequence;
    const struct moire_data_piece *piece = piece_of(data, from, token);
    for (int64_t left = data->sequence + 1; left > 0; piece++) {
        int64_t first = token - piece->first_token;
        int64_t count = piece->tokens - first < left ? piece->tokens - first : left;
        MOIRE_TRY(moire_data_read_piece(data, piece, first, count, tokens));
        tokens += count;
        token += count;
        left -= count;
    }
    *domain = found;
    return MOIRE_OK;
}

static uint64_t mix(uint64_t checksum, const void *bytes, int64_t count)
{
    return XXH3_64bits_withSeed(bytes, (size_t)count, checksum);
}

static uint64_t mix_number(uint64_t checksum, int64_t number)
{
    unsigned char bytes[8];
    moire_write_number(bytes, (uint64_t)number, 8);
    return mix(checksum, bytes, 8);
}

/* The name without its folder: nodes may mount the data at different places. */
static uint64_t mix_file(uint64_t checksum, const struct moire_data_file *file)
{
    const char *slash = strrchr(file->path, '/'), *name = slash ? slash + 1 : file->path;
    checksum = mix_number(mix(checksum, name, (int64_t)strlen(name)), file->map.bytes);
    if (file->map.bytes <= WHOLE_BYTES) return mix(checksum, file->map.data, file->map.bytes);
    for (int64_t i = 0; i < SAMPLES; i++)
        checksum = mix(checksum, file->map.data + (file->map.bytes - SAMPLE_BYTES) / (SAMPLES - 1) * i,
                       SAMPLE_BYTES);
    return mix(checksum, file->map.data + file->map.bytes - SAMPLE_BYTES, SAMPLE_BYTES);
}

static uint64_t checksum_of(const struct moire_data *data)
{
    uint64_t checksum = 0;
    for (int64_t i = 0; i < data->file_count; i++) checksum = mix_file(checksum, &data->files[i]);
    for (int64_t i = 0; i < data->piece_count; i++) {
        checksum = mix_number(checksum, data->pieces[i].file);
        checksum = mix_number(checksum, data->pieces[i].offset_bytes);
        checksum = mix_number(checksum, data->pieces[i].tokens);
    }
    return checksum;
}

static moire_status fail_no_window(const struct moire_data *data)
{
    const struct moire_data_domain *longest = &data->domains[0];
    for (int64_t i = 1; i < data->domain_count; i++)
        if (data->domains[i].tokens > longest->tokens) longest = &data->domains[i];
    const char *kind = data->domain_count > 1 ? ", or data.domain=kind, which joins files" : "";
    if (longest->tokens < 2)
        return moire_fail(MOIRE_USAGE, "sequence longer than the data: found %" PRId64 " tokens in the "
                          "longest domain (%s), expected at least %" PRId64 "; try more data%s",
                          longest->tokens, longest->name, data->sequence + 1, kind);
    return moire_fail(MOIRE_USAGE, "sequence longer than the data: found %" PRId64 " tokens in the longest "
                      "domain (%s), expected at least %" PRId64 "; try model.sequence=%" PRId64 " or less%s",
                      longest->tokens, longest->name, data->sequence + 1, longest->tokens - 1, kind);
}

static void leave_out(struct moire_data *data, struct moire_data_domain *domain)
{
    data->domains_left_out++;
    data->tokens_left_out += domain->tokens;
    for (int64_t i = 0; i < domain->pieces; i++)
        moire_file_unmap(&data->files[data->pieces[domain->first_piece + i].file].map);
    moire_release(domain->name);
}

/* Window w of a domain is tokens [w S, w S + S]: S inputs and, shifted by one, S targets. */
static moire_status count_windows(struct moire_data *data)
{
    int64_t kept = 0, all = data->domain_count;
    bool any = false;
    for (int64_t i = 0; i < all; i++) any = any || data->domains[i].tokens > data->sequence;
    if (!any) return fail_no_window(data);
    for (int64_t i = 0; i < all; i++) {
        struct moire_data_domain domain = data->domains[i];
        data->tokens += domain.tokens;
        if (domain.tokens <= data->sequence) {
            leave_out(data, &domain);
            continue;
        }
        domain.first_window = data->windows;
        domain.windows = (domain.tokens - 1) / data->sequence;
        data->windows += domain.windows;
        data->domains[kept++] = domain;
    }
    data->domain_count = kept;
    if (data->domains_left_out > 0)
        moire_warn("domains left out: %" PRId64 " of %" PRId64 ", %" PRId64 " tokens together; each is "
                   "shorter than model.sequence + 1 = %" PRId64 " tokens (data.domain=kind joins files)",
                   data->domains_left_out, all, data->tokens_left_out, data->sequence + 1);
    return MOIRE_OK;
}

static int64_t largest_id(int width)
{
    return width == 1 ? UINT8_MAX : width == 2 ? UINT16_MAX : INT32_MAX;
}

static moire_status scan_piece(const struct moire_data *data, const struct moire_data_piece *piece)
{
    int32_t tokens[MOIRE_DATA_BLOCK];
    for (int64_t first = 0; first < piece->tokens; first += MOIRE_DATA_BLOCK) {
        int64_t left = piece->tokens - first, count = left < MOIRE_DATA_BLOCK ? left : MOIRE_DATA_BLOCK;
        MOIRE_TRY(moire_data_read_piece(data, piece, first, count, tokens));
    }
    return MOIRE_OK;
}

/* Bytes of text always, wider tokens where they are few enough; none where the width allows no wrong id. */
static moire_status check_ids(const struct moire_data *data)
{
    int64_t wide_bytes = 0;
    for (int64_t i = 0; i < data->file_count; i++)
        if (data->files[i].width > 1) wide_bytes += data->files[i].map.bytes;
    for (int64_t d = 0; d < data->domain_count; d++)
        for (int64_t i = 0; i < data->domains[d].pieces; i++) {
            const struct moire_data_piece *piece = &data->pieces[data->domains[d].first_piece + i];
            int width = data->files[piece->file].width;
            if (largest_id(width) < data->vocabulary || (width > 1 && wide_bytes > SCAN_BYTES)) continue;
            MOIRE_TRY(scan_piece(data, piece));
        }
    return MOIRE_OK;
}

moire_status moire_data_finish_stored(struct moire_data *data)
{
    data->checksum = checksum_of(data);
    MOIRE_TRY(count_windows(data));
    return check_ids(data);
}
