#include "io/private.h"

#include <inttypes.h>
#include <string.h>

#include "moire/base/random.h"

const struct moire_source *const moire_sources[] = {
    &moire_source_text, &moire_source_llmc, &moire_source_megatron, &moire_source_synthetic,
};
enum { SOURCES = sizeof moire_sources / sizeof *moire_sources };
const int moire_source_count = SOURCES;

static moire_status find_source(const char *name, const struct moire_source **source)
{
    const char *names[SOURCES];
    int64_t index;
    for (int i = 0; i < SOURCES; i++) names[i] = moire_sources[i]->name;
    MOIRE_TRY(moire_name_find("token source (data.source)", name, names, SOURCES, &index));
    *source = moire_sources[index];
    return MOIRE_OK;
}

moire_status moire_data_check_source(const char *name)
{
    const struct moire_source *source;
    return find_source(name, &source);
}

moire_status moire_data_open(const struct moire_config *config, struct moire_data **data)
{
    const struct moire_source *source;
    struct moire_data *opened = NULL;
    MOIRE_TRY(find_source(config->data_source, &source));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_DATA, 1, sizeof *opened, &opened));
    opened->source = source;
    opened->sequence = config->model_sequence;
    opened->vocabulary = config->model_vocabulary;
    opened->seed = (uint64_t)config->run_seed;
    moire_status status = source->open(config, opened);
    if (status == MOIRE_OK) status = moire_data_split(opened, config->data_validation);
    if (status != MOIRE_OK) {
        moire_data_close(opened);
        return status;
    }
    *data = opened;
    return MOIRE_OK;
}

void moire_data_free_contents(struct moire_data *data)
{
    for (int64_t i = 0; i < data->file_count; i++) {
        moire_file_unmap(&data->files[i].map);
        moire_release(data->files[i].path);
    }
    for (int64_t i = 0; i < data->domain_count; i++) moire_release(data->domains[i].name);
    moire_release(data->files);
    moire_release(data->pieces);
    moire_release(data->domains);
    moire_release(data->validation);
}

void moire_data_close(struct moire_data *data)
{
    if (!data) return;
    if (data->source->close) data->source->close(data);
    moire_data_free_contents(data);
    moire_release(data);
}

moire_status moire_data_add_domain(struct moire_data *data, const char *name)
{
    char *copy = NULL;
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_DATA, &data->domains, &data->domain_capacity, data->domain_count + 1,
                         sizeof *data->domains));
    MOIRE_TRY(moire_copy_text(name, &copy));
    data->domains[data->domain_count++] = (struct moire_data_domain){
        .name = copy, .first_piece = data->piece_count };
    return MOIRE_OK;
}

int moire_data_domain_of(const struct moire_data *data, int64_t window)
{
    if (data->interleaved) return (int)(window % data->domain_count);
    int64_t low = 0, high = data->domain_count; /* the domain is in [low, high) */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (data->domains[middle].first_window <= window) low = middle;
        else high = middle;
    }
    return (int)low;
}

int64_t moire_data_sequences(const struct moire_data *data, enum moire_split split)
{
    return split == MOIRE_TRAINING ? data->windows - data->validation_windows : data->validation_windows;
}

int64_t moire_data_tokens(const struct moire_data *data)
{
    return data->tokens;
}

int moire_data_domains(const struct moire_data *data)
{
    return (int)data->domain_count;
}

const char *moire_data_domain_name(const struct moire_data *data, int domain)
{
    return data->domains[domain].name;
}

uint64_t moire_data_checksum(const struct moire_data *data)
{
    return data->checksum;
}

/* Training window `place`, counted in stored order: `place` further than the validation windows before it. Of
 * those there are as many as entries v of the list with validation[v] - v <= place, which is how many
 * training windows stand before entry v. */
static int64_t training_window(const struct moire_data *data, int64_t place)
{
    int64_t low = 0, high = data->validation_windows;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (data->validation[middle] - middle <= place) low = middle + 1;
        else high = middle;
    }
    return place + low;
}

/* Place in an epoch's order. Each epoch has a stream of its own. */
static int64_t shuffled(const struct moire_data *data, int64_t number, int64_t count)
{
    uint64_t stream = moire_random_stream("data order") + (uint64_t)(number / count);
    return (int64_t)moire_random_permute(data->seed, stream, (uint64_t)(number % count), (uint64_t)count);
}

moire_status moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                              int32_t *tokens, int *domain)
{
    int64_t count = moire_data_sequences(data, split);
    if (count == 0)
        return moire_fail(MOIRE_USAGE, "no sequence is kept for validation; found data.validation=0 or a "
                          "single sequence; try data.validation=0.05 and more data");
    if (number < 0)
        return moire_fail(MOIRE_FAILED, "there is no sequence number %" PRId64 "; expected 0 or more",
                          number);
    int64_t window = split == MOIRE_TRAINING ? training_window(data, shuffled(data, number, count))
                                             : data->validation[number % count];
    return data->source->fetch(data, window, tokens, domain);
}
