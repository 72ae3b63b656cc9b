/* `moire data inspect`: a source, or one token file, for people; 80 columns at most. */
#include "io/private.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NAME_COLUMNS = 33, FILE_COLUMNS = 60, NAME_BYTES = 80 };

/* The end of a long name says more than its start. */
static const char *shortened(const char *name, size_t columns, char text[NAME_BYTES])
{
    size_t bytes = strlen(name);
    if (bytes <= columns) return name;
    const char *tail = name + bytes - (columns - 3);
    while (((unsigned char)*tail & 0xC0) == 0x80) tail++; /* not within a letter of UTF-8 */
    snprintf(text, NAME_BYTES, "...%s", tail);
    return text;
}

static void print_row(const char *name, int64_t files, int64_t tokens, int64_t windows, int64_t validation)
{
    char text[NAME_BYTES], file_text[24] = "-";
    if (files > 0) snprintf(file_text, sizeof file_text, "%" PRId64, files);
    printf("%-*s %7s %15" PRId64 " %10" PRId64 " %10" PRId64 "\n", NAME_COLUMNS,
           shortened(name, NAME_COLUMNS, text), file_text, tokens, windows - validation, validation);
}

void moire_data_print(const struct moire_data *data)
{
    int64_t files = 0, tokens = 0;
    printf("source      %s: %s\n", data->source->name, data->source->help);
    printf("sequences   %" PRId64 " of %" PRId64 " inputs and as many targets\n", data->windows,
           data->sequence);
    printf("vocabulary  %" PRId64 "\n", data->vocabulary);
    printf("checksum    %016" PRIx64 "\n\n", data->checksum);
    printf("%-*s %7s %15s %10s %10s\n", NAME_COLUMNS, "domain", "files", "tokens", "training", "validation");
    for (int64_t i = 0; i < data->domain_count; i++) {
        const struct moire_data_domain *domain = &data->domains[i];
        print_row(domain->name, domain->files, domain->tokens, domain->windows, domain->validation_windows);
        files += domain->files;
        tokens += domain->tokens;
    }
    print_row("total", files, tokens, data->windows, data->validation_windows);
    if (data->domains_left_out > 0)
        printf("left out    %" PRId64 " (domains of less than %" PRId64 " tokens; %" PRId64 " tokens "
               "together)\n", data->domains_left_out, data->sequence + 1, data->tokens_left_out);
    if (data->empty_files > 0) printf("skipped     %" PRId64 " (empty files)\n", data->empty_files);
}

enum { FREQUENT = 4, COUNTED_IDS = 1 << 24 };

struct statistics {
    int64_t tokens, different;
    int32_t smallest, largest;
    int64_t *counts, capacity;    /* by id */
    int64_t beyond;               /* tokens with larger ids, which are not told apart */
    double entropy;               /* bits a token, of single tokens */
    int32_t frequent[FREQUENT];   /* most frequent ids first; -1: none */
};

static moire_status count_block(struct statistics *statistics, const int32_t *tokens, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        int32_t id = tokens[i];
        if (statistics->tokens++ == 0) statistics->smallest = statistics->largest = id;
        if (id < statistics->smallest) statistics->smallest = id;
        if (id > statistics->largest) statistics->largest = id;
        if (id >= COUNTED_IDS) {
            statistics->beyond++;
            continue;
        }
        if (id >= statistics->capacity)
            MOIRE_TRY(moire_grow(MOIRE_MEMORY_DATA, &statistics->counts, &statistics->capacity,
                                 (int64_t)id + 1, sizeof *statistics->counts));
        statistics->counts[id]++;
    }
    return MOIRE_OK;
}

static moire_status count_tokens(const struct moire_data *data, struct statistics *statistics)
{
    int32_t tokens[MOIRE_DATA_BLOCK];
    for (int64_t i = 0; i < data->piece_count; i++) {
        const struct moire_data_piece *piece = &data->pieces[i];
        for (int64_t first = 0; first < piece->tokens; first += MOIRE_DATA_BLOCK) {
            int64_t left = piece->tokens - first, count = left < MOIRE_DATA_BLOCK ? left : MOIRE_DATA_BLOCK;
            MOIRE_TRY(moire_data_read_piece(data, piece, first, count, tokens));
            MOIRE_TRY(count_block(statistics, tokens, count));
        }
    }
    return MOIRE_OK;
}

/* Puts an id where its count belongs among the most frequent. */
static void rank_id(struct statistics *statistics, int32_t id)
{
    int place = FREQUENT;
    while (place > 0 && (statistics->frequent[place - 1] < 0
                         || statistics->counts[statistics->frequent[place - 1]] < statistics->counts[id]))
        place--;
    if (place == FREQUENT) return;
    memmove(statistics->frequent + place + 1, statistics->frequent + place,
            (size_t)(FREQUENT - 1 - place) * sizeof id);
    statistics->frequent[place] = id;
}

static void summarise(struct statistics *statistics)
{
    for (int i = 0; i < FREQUENT; i++) statistics->frequent[i] = -1;
    for (int64_t id = 0; id < statistics->capacity; id++) {
        if (statistics->counts[id] == 0) continue;
        double share = (double)statistics->counts[id] / (double)statistics->tokens;
        statistics->different++;
        statistics->entropy -= share * log2(share);
        rank_id(statistics, (int32_t)id);
    }
}

static moire_status print_statistics(const struct moire_data *data)
{
    struct statistics statistics = { 0 };
    moire_status status = count_tokens(data, &statistics);
    if (status != MOIRE_OK) goto release_counts;
    summarise(&statistics);
    printf("tokens      %" PRId64 " of %d bytes\n", statistics.tokens, data->files[0].width);
    printf("token ids   %" PRId32 " to %" PRId32, statistics.smallest, statistics.largest);
    if (statistics.beyond > 0) {
        printf(", %" PRId64 " tokens over %d\n", statistics.beyond, COUNTED_IDS - 1);
        goto release_counts;
    }
    printf(", %" PRId64 " different, %.2f bits a token\nfrequent    ", statistics.different,
           statistics.entropy);
    for (int i = 0; i < FREQUENT && statistics.frequent[i] >= 0; i++) {
        int32_t id = statistics.frequent[i];
        printf("%s%" PRId32 " (%.1f %%)", i ? ", " : "", id,
               100 * (double)statistics.counts[id] / (double)statistics.tokens);
    }
    printf("\n");
release_counts:
    moire_release(statistics.counts);
    return status;
}

/* Whether the file begins with these bytes; no file is a no, not an error. */
static bool begins_with(const char *path, const void *magic, int64_t bytes)
{
    unsigned char start[16];
    int64_t file_bytes;
    int descriptor;
    bool clean = !moire_error_text()[0], same = false;
    if (!moire_file_exists(path)) return false;
    if (moire_file_bytes(path, &file_bytes) == MOIRE_OK && file_bytes >= bytes
        && moire_file_open(path, O_RDONLY | O_NONBLOCK, &descriptor) == MOIRE_OK) {
        same = moire_file_pread(descriptor, path, start, bytes, 0) == MOIRE_OK
            && memcmp(start, magic, (size_t)bytes) == 0;
        close(descriptor);
    }
    if (clean) moire_error_clear(); /* only our own */
    return same;
}

static bool is_llmc(const char *path)
{
    unsigned char magic[4];
    moire_write_number(magic, MOIRE_LLMC_MAGIC, 4);
    return begins_with(path, magic, sizeof magic);
}

/* A path without .bin and .idx counts as a prefix unless there is a file of that name. */
static moire_status find_index(const char *path, struct moire_text *index, bool *found)
{
    if (begins_with(path, MOIRE_MEGATRON_MAGIC, MOIRE_MEGATRON_MAGIC_BYTES)) {
        *found = true;
        return moire_text_add(index, "%s", path);
    }
    MOIRE_TRY(moire_data_token_path(path, ".idx", index));
    *found = begins_with(index->data, MOIRE_MEGATRON_MAGIC, MOIRE_MEGATRON_MAGIC_BYTES);
    return MOIRE_OK;
}

bool moire_data_is_token_file(const char *path)
{
    struct moire_text index = { 0 };
    bool found = is_llmc(path), clean = !moire_error_text()[0];
    if (!found && find_index(path, &index, &found) != MOIRE_OK) {
        found = false;
        if (clean) moire_error_clear();
    }
    moire_text_free(&index);
    return found;
}

static moire_status inspect_llmc(struct moire_data *data, const char *path)
{
    char text[NAME_BYTES];
    MOIRE_TRY(moire_data_add_llmc(data, path));
    printf("file        %s\n", shortened(path, FILE_COLUMNS, text));
    printf("format      llm.c, magic %d, version %d, uint16\n", MOIRE_LLMC_MAGIC, MOIRE_LLMC_VERSION);
    return print_statistics(data);
}

static void print_index(const struct moire_megatron_index *index)
{
    int64_t shortest = index->sequences ? moire_megatron_size(index, 0) : 0, longest = shortest;
    for (int64_t i = 1; i < index->sequences; i++) {
        int64_t size = moire_megatron_size(index, i);
        if (size < shortest) shortest = size;
        if (size > longest) longest = size;
    }
    printf("format      Megatron, version %d, %s (code %d)\n", MOIRE_MEGATRON_VERSION,
           index->width == 2 ? "uint16" : "int32", index->code);
    printf("sequences   %" PRId64 ", of %" PRId64 " to %" PRId64 " tokens\n", index->sequences, shortest,
           longest);
    printf("documents   %" PRId64 "\n", index->document_entries > 0 ? index->document_entries - 1 : 0);
}

static moire_status inspect_megatron(struct moire_data *data, const char *path)
{
    struct moire_megatron_index index;
    char text[NAME_BYTES];
    MOIRE_TRY(moire_data_add_megatron(data, path));
    MOIRE_TRY(moire_megatron_open_index(path, &index));
    printf("file        %s\n", shortened(path, FILE_COLUMNS, text));
    print_index(&index);
    moire_file_unmap(&index.map);
    return print_statistics(data);
}

moire_status moire_data_inspect_file(const char *path)
{
    /* Every id that is not negative is fine here. */
    struct moire_data data = { .vocabulary = (int64_t)INT32_MAX + 1 };
    struct moire_text index = { 0 };
    bool megatron = false, llmc = is_llmc(path);
    moire_status status = llmc ? MOIRE_OK : find_index(path, &index, &megatron);
    if (status == MOIRE_OK && !llmc && !megatron)
        status = moire_file_exists(path)
            ? moire_fail(MOIRE_BAD_DATA, "%s is not a token file; found neither the magic number %d of llm.c "
                         "nor MMIDIDX of Megatron at its start; try moire data build to make one", path,
                         MOIRE_LLMC_MAGIC)
            : moire_fail(MOIRE_NO_FILE, "there is no file %s; expected an llm.c .bin or a Megatron .bin or "
                         ".idx; try another path", path);
    if (status == MOIRE_OK) status = moire_data_add_domain(&data, path);
    if (status == MOIRE_OK) status = llmc ? inspect_llmc(&data, path) : inspect_megatron(&data, index.data);
    moire_text_free(&index);
    moire_data_free_contents(&data);
    return status;
}
