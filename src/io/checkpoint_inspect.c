/* Checkpoints without a model: verify and print. */
#include "moire/io/checkpoint.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/checkpoint_file.h"

enum { BUFFER_BYTES = 1 << 22, COLUMNS = 80 };

/* Checksum of bytes that need not fit in memory at once. */
static moire_status hash_range(int descriptor, const char *path, char *buffer, XXH3_state_t *hash,
                               int64_t offset, int64_t bytes, uint64_t *found)
{
    XXH3_64bits_reset(hash);
    for (int64_t done = 0; done < bytes; ) {
        int64_t now = bytes - done < BUFFER_BYTES ? bytes - done : BUFFER_BYTES;
        MOIRE_TRY(moire_file_pread(descriptor, path, buffer, now, offset + done));
        XXH3_64bits_update(hash, buffer, (size_t)now);
        done += now;
    }
    *found = XXH3_64bits_digest(hash);
    return MOIRE_OK;
}

/* An open file and what hashing needs. */
struct verifier {
    const char *path;
    const struct moire_catalogue *catalogue;
    int descriptor;
    char *buffer;        /* owned */
    XXH3_state_t *hash;  /* owned */
};

static void close_verifier(struct verifier *verifier)
{
    if (verifier->descriptor >= 0) close(verifier->descriptor);
    moire_release(verifier->buffer);
    XXH3_freeState(verifier->hash);
}

static moire_status open_verifier(const char *path, const struct moire_catalogue *catalogue,
                                  struct verifier *verifier)
{
    *verifier = (struct verifier){
        .path = path, .catalogue = catalogue, .descriptor = -1, .hash = XXH3_createState()
    };
    moire_status status =
        verifier->hash ? MOIRE_OK : moire_fail(MOIRE_NO_MEMORY, "no memory for a checksum of %s", path);
    if (status == MOIRE_OK) status = moire_allocate(MOIRE_MEMORY_DATA, BUFFER_BYTES, 1, &verifier->buffer);
    if (status == MOIRE_OK) status = moire_file_open(path, O_RDONLY, &verifier->descriptor);
    if (status != MOIRE_OK) close_verifier(verifier);
    return status;
}

static moire_status verify_entry(const struct verifier *verifier, const struct moire_catalogue_entry *entry)
{
    const uint64_t *checksums = verifier->catalogue->checksums + entry->first_checksum;
    int64_t bytes = entry->bytes / entry->slices;
    for (int64_t slice = 0; slice < entry->slices; slice++) {
        uint64_t found;
        MOIRE_TRY(hash_range(verifier->descriptor, verifier->path, verifier->buffer, verifier->hash,
                             entry->offset + slice * bytes, bytes, &found));
        MOIRE_TRY(moire_checkpoint_compare(verifier->path, entry->group, entry->name,
                                           entry->by_expert ? slice : -1, found, checksums[slice]));
    }
    return MOIRE_OK;
}

moire_status moire_checkpoint_verify(const char *path)
{
    struct moire_catalogue catalogue;
    struct verifier verifier;
    MOIRE_TRY(moire_catalogue_read(path, NULL, 0, &catalogue));
    moire_status status = open_verifier(path, &catalogue, &verifier);
    if (status == MOIRE_OK) {
        for (int64_t i = 0; i < catalogue.count && status == MOIRE_OK; i++)
            status = verify_entry(&verifier, &catalogue.entries[i]);
        close_verifier(&verifier);
    }
    moire_catalogue_free(&catalogue);
    return status;
}

/* A text of several lines, indented by two, folded at the edge. */
static void print_folded(const char *text)
{
    while (*text) {
        int line = (int)strcspn(text, "\n");
        for (int done = 0; done < line || done == 0; done += COLUMNS - 2)
            printf("  %.*s\n", line - done < COLUMNS - 2 ? line - done : COLUMNS - 2, text + done);
        text += line;
        if (*text) text++;
    }
}

static void print_state(const char *path, const struct moire_catalogue *catalogue)
{
    const struct moire_checkpoint_state *state = &catalogue->state;
    int64_t bytes = 0;
    for (int64_t i = 0; i < catalogue->count; i++) bytes += catalogue->entries[i].bytes;
    printf("checkpoint      %s\n", path);
    printf("format_version  %d\n", MOIRE_CHECKPOINT_VERSION);
    printf("step            %" PRId64 "\n", state->step);
    printf("tokens          %" PRId64 "\n", state->tokens);
    printf("sequences       %" PRId64 "\n", state->sequences);
    printf("seed            %" PRIu64 "\n", state->seed);
    printf("element         %s\n", moire_element_name(catalogue->element));
    printf("tensors         %" PRId64 ", %" PRId64 " bytes\n", catalogue->count, bytes);
    printf("config\n");
    print_folded(state->config);
}

/* A name that is longer than its column has a line of its own. */
static void print_entry(const struct moire_catalogue_entry *entry, const char *result)
{
    char shape[80];
    bool long_name = strlen(entry->name) > 27;
    moire_checkpoint_shape_text(entry->dimensions, entry->shape, shape, sizeof shape);
    if (long_name) printf("  %s\n", entry->name);
    printf("  %-27s %21s %8s %12" PRId64 " %6s\n", long_name ? "" : entry->name, shape,
           moire_element_name(entry->element), entry->bytes, result);
}

/* The state of every tensor is shown; the first damage is the status. */
static moire_status print_entries(const struct moire_catalogue *catalogue, const struct verifier *verifier)
{
    moire_status worst = MOIRE_OK;
    const char *group = "";
    for (int64_t i = 0; i < catalogue->count; i++) {
        const struct moire_catalogue_entry *entry = &catalogue->entries[i];
        moire_status status = verifier ? verify_entry(verifier, entry) : MOIRE_OK;
        if (strcmp(group, entry->group) != 0) printf("%s\n", entry->group);
        group = entry->group;
        print_entry(entry, !verifier ? "" : status == MOIRE_OK ? "ok" : "WRONG");
        if (worst == MOIRE_OK) worst = status;
    }
    return worst;
}

moire_status moire_checkpoint_print(const char *path, bool verify)
{
    struct moire_catalogue catalogue;
    struct verifier verifier;
    MOIRE_TRY(moire_catalogue_read(path, NULL, 0, &catalogue));
    moire_status status = verify ? open_verifier(path, &catalogue, &verifier) : MOIRE_OK;
    if (status == MOIRE_OK) {
        print_state(path, &catalogue);
        status = print_entries(&catalogue, verify ? &verifier : NULL);
        if (verify) close_verifier(&verifier);
    }
    moire_catalogue_free(&catalogue);
    return status;
}
