/* The record of routing: rank order, resumed runs, what does not fit. */
#include "../support/harness.h"

#include <hdf5.h>
#include <string.h>
#include <unistd.h>

#include "../support/capture.h"
#include "checkpoint_fixture.h"
#include "moire/io/routing.h"

enum { LAYERS = 3, TOP_K = 2, EXPERTS = 7 };

static char folder[256];
static struct moire_communicator world;

/* Rank r has r * r tokens, so that rank 0 has none, unless it is alone. */
static int64_t tokens_of(int rank)
{
    return test_ranks == 1 ? 5 : (int64_t)rank * rank;
}

static int64_t first_token(int rank)
{
    int64_t first = 0;
    for (int r = 0; r < rank; r++) first += tokens_of(r);
    return first;
}

/* What token `token` of the whole batch chose; -1 now and then. */
static int32_t chosen(int64_t step, int64_t layer, int64_t token, int64_t slot)
{
    return (int32_t)((step * 31 + layer * 17 + token * 5 + slot) % (EXPERTS + 1)) - 1;
}

static moire_status append(int64_t step)
{
    int64_t tokens = tokens_of(test_rank);
    int32_t *ids;
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, LAYERS * tokens * TOP_K, sizeof *ids, &ids);
    if (status != MOIRE_OK) return status;
    for (int64_t layer = 0; layer < LAYERS; layer++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t k = 0; k < TOP_K; k++)
                ids[(layer * tokens + t) * TOP_K + k] = chosen(step, layer, first_token(test_rank) + t, k);
    status = moire_routing_append(&world, in_folder(folder, "routing.h5"), step, LAYERS, tokens, TOP_K,
                                  EXPERTS, ids);
    moire_release(ids);
    return status;
}

/* The record must be steps [first, first + steps), `missing` of which was not recorded. */
static void expect_record(int64_t first, int64_t steps, int64_t missing)
{
    struct moire_routing_file file;
    int64_t tokens = first_token(test_ranks), wrong = 0;
    moire_status status = moire_routing_read(in_folder(folder, "routing.h5"), &file);
    expect_ok(status);
    if (status != MOIRE_OK) return;
    expect(file.first_step == first && file.steps == steps && file.layers == LAYERS);
    expect(file.tokens == tokens && file.top_k == TOP_K && file.experts == EXPERTS);
    const int32_t *id = file.ids;
    for (int64_t step = first; step < first + file.steps; step++)
        for (int64_t layer = 0; layer < LAYERS; layer++)
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t k = 0; k < TOP_K; k++, id++)
                    wrong += *id != (step == missing ? -1 : chosen(step, layer, t, k));
    expect(wrong == 0);
    const int32_t *source = file.sources;
    for (int64_t step = first; step < first + file.steps; step++)
        for (int rank = 0; rank < test_ranks; rank++)
            for (int64_t t = 0; t < tokens_of(rank); t++) wrong += *source++ != (step == missing ? -1 : rank);
    expect(wrong == 0);
    expect(file.ranks == test_ranks);
    moire_routing_free(&file);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void open_folder(void)
{
    folder_make(folder);
    expect_ok(moire_communicator_world(&world));
}

static void close_folder(void)
{
    moire_communicator_free(&world);
    folder_remove(folder);
}

static void steps_are_in_rank_order(void)
{
    open_folder();
    for (int64_t step = 4; step < 9; step++) {
        expect_ok(append(step));
        expect_record(4, step - 3, -1);
    }
    close_folder();
}

static void a_resumed_run_replaces_what_it_does_again(void)
{
    open_folder();
    for (int64_t step = 4; step < 9; step++) expect_ok(append(step));
    expect_ok(append(6));
    expect_record(4, 3, -1);
    expect_ok(append(8)); /* step 7 was not recorded */
    expect_record(4, 5, 7);
    expect_ok(append(4));
    expect_record(4, 1, -1);
    expect_ok(append(2)); /* before the first */
    expect_record(2, 1, -1);
    expect_ok(append(3));
    expect_record(2, 2, -1);
    close_folder();
}

/* Fails on all ranks; one says why. */
static void expect_refused(int64_t layers, int64_t tokens, int64_t top_k, int64_t experts,
                           moire_status wanted, const char *said)
{
    static int32_t ids[1000];
    expect_agreed(
        moire_routing_append(&world, in_folder(folder, "routing.h5"), 5, layers, tokens, top_k, experts, ids),
        wanted, said);
}

static void other_sizes_are_refused(void)
{
    int64_t mine = tokens_of(test_rank);
    open_folder();
    expect_ok(append(4));
    expect_refused(LAYERS + 1, mine, TOP_K, EXPERTS, MOIRE_BAD_DATA,
                   "recorded with other sizes; found 3 layers, ");
    expect_refused(LAYERS, mine + 1, TOP_K, EXPERTS, MOIRE_BAD_DATA, "recorded with other sizes");
    expect_refused(LAYERS, mine, TOP_K + 1, EXPERTS, MOIRE_BAD_DATA, "top-2");
    expect_refused(LAYERS, mine, TOP_K, EXPERTS - 1, MOIRE_BAD_DATA, "recorded with other sizes");
    expect_refused(LAYERS, test_rank + 1 == test_ranks ? INT64_C(1) << 30 : mine, TOP_K, EXPERTS,
                   MOIRE_FAILED, "the recorded expert ids of a layer does not fit");
    if (test_ranks > 3) /* each fits, not their sum */
        expect_refused(LAYERS, 1000000000, 2, EXPERTS, MOIRE_FAILED,
                       "the recorded expert ids of a layer does not fit");
    expect_record(4, 1, -1);
    on_root(expect_ok(moire_file_write(in_folder(folder, "routing.h5"), "nothing", 7)));
    expect_refused(LAYERS, mine, TOP_K, EXPERTS, MOIRE_BAD_DATA, "truncated or not HDF5");
    on_root(expect(unlink(in_folder(folder, "routing.h5")) == 0));
    close_folder();
}

static void no_tokens_leave_no_record(void)
{
    open_folder();
    expect_ok(
        moire_routing_append(&world, in_folder(folder, "routing.h5"), 1, LAYERS, 0, TOP_K, EXPERTS, NULL));
    expect(!moire_file_exists(in_folder(folder, "routing.h5")));
    expect_ok(moire_routing_append(&world, in_folder(folder, "routing.h5"), 1, 0, 5, TOP_K, EXPERTS, NULL));
    MPI_Barrier(MPI_COMM_WORLD);
    close_folder();
}

static void expect_read_fails(moire_status status, const char *said)
{
    struct moire_routing_file file;
    expect_failure(moire_routing_read(in_folder(folder, "routing.h5"), &file), status, said);
}

static void put_version(hid_t file)
{
    int64_t version = 3;
    hid_t attribute = H5Aopen(file, "format_version", H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &version);
    H5Aclose(attribute);
}

static void put_few_experts(hid_t file)
{
    int64_t experts = 2;
    hid_t attribute = H5Aopen(file, "experts", H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &experts);
    H5Aclose(attribute);
}

static void drop_ids(hid_t file)
{
    H5Ldelete(file, "experts", H5P_DEFAULT);
}

static void drop_sources(hid_t file)
{
    H5Ldelete(file, "source", H5P_DEFAULT);
}

static void put_few_sources(hid_t file)
{
    hsize_t extent[] = { 1, (hsize_t)first_token(test_ranks) + 1 };
    hid_t space = H5Screate_simple(2, extent, NULL);
    H5Ldelete(file, "source", H5P_DEFAULT);
    H5Dclose(H5Dcreate2(file, "source", H5T_NATIVE_INT32, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
}

static void put_wrong_source(hid_t file)
{
    int32_t *sources;
    hid_t dataset = H5Dopen2(file, "source", H5P_DEFAULT);
    expect_ok(moire_allocate(MOIRE_MEMORY_OTHER, first_token(test_ranks), sizeof *sources, &sources));
    sources[0] = -2;
    H5Dwrite(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, sources);
    H5Dclose(dataset);
    moire_release(sources);
}

static void put_one_axis(hid_t file)
{
    hsize_t extent = 9;
    hid_t space = H5Screate_simple(1, &extent, NULL);
    H5Ldelete(file, "experts", H5P_DEFAULT);
    H5Dclose(H5Dcreate2(file, "experts", H5T_NATIVE_INT32, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
}

static void a_bad_record_is_refused(void)
{
    static const struct {
        void (*change)(hid_t file);
        const char *said;
    } cases[] = {
        { put_version, "another format; found version 3, expected 2;" },
        { put_few_experts, "holds a wrong expert id;" },
        { drop_ids, "cannot read the expert ids of" },
        { put_one_axis, "have other axes;" },
        { drop_sources, "cannot read the source ranks of" },
        { put_few_sources, "do not fit its expert ids;" },
        { put_wrong_source, "holds a wrong source rank; found -2," },
    };
    open_folder();
    expect_ok(append(4));
    on_root(copy_file(in_folder(folder, "routing.h5"), in_folder(folder, "good.h5"), -1));
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (test_rank == 0) {
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            copy_file(in_folder(folder, "good.h5"), in_folder(folder, "routing.h5"), -1);
            hid_t file = H5Fopen(in_folder(folder, "routing.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
            cases[i].change(file);
            H5Fclose(file);
            expect_read_fails(MOIRE_BAD_DATA, cases[i].said);
        }
        for (int64_t bytes = 0; bytes < 1200; bytes += 100) {
            copy_file(in_folder(folder, "good.h5"), in_folder(folder, "routing.h5"), bytes);
            expect_read_fails(MOIRE_BAD_DATA, "routing.h5");
        }
        unlink(in_folder(folder, "routing.h5"));
        expect_read_fails(MOIRE_NO_FILE, "routing.h5");
    }
    close_folder();
}

/* ---- statistics, against counting token by token ---- */

enum { STEPS = 3, TOKENS = 40, RANKS = 3, SLOTS = 3, WIDE = 12 };

static int32_t made_ids[STEPS * LAYERS * TOKENS * SLOTS], made_sources[STEPS * TOKENS];

/* Step 1 was not recorded, and a slot in ten was dropped. */
static struct moire_routing_file a_record(void)
{
    for (int i = 0; i < STEPS * TOKENS; i++)
        made_sources[i] = i / TOKENS == 1 ? -1 : i % TOKENS * RANKS / TOKENS;
    for (int i = 0; i < STEPS * LAYERS * TOKENS * SLOTS; i++) {
        bool gone = i / (LAYERS * TOKENS * SLOTS) == 1 || test_random_below(10) == 0;
        int32_t expert = (int32_t)test_random_below(WIDE / SLOTS);
        made_ids[i] = gone ? -1 : expert * SLOTS + i % SLOTS;
    }
    return (struct moire_routing_file) { .steps = STEPS,
                                         .layers = LAYERS,
                                         .tokens = TOKENS,
                                         .top_k = SLOTS,
                                         .experts = WIDE,
                                         .first_step = 4,
                                         .ranks = RANKS,
                                         .ids = made_ids,
                                         .sources = made_sources };
}

static void expect_counts(const struct moire_routing_file *file, int64_t step, int64_t layer)
{
    int64_t rows[RANKS * WIDE], wanted[RANKS * WIDE] = { 0 };
    moire_routing_count(file, step, layer, rows);
    for (int64_t t = 0; t < TOKENS; t++)
        for (int64_t k = 0; k < SLOTS; k++) {
            int32_t id = file->ids[((step * LAYERS + layer) * TOKENS + t) * SLOTS + k];
            if (id >= 0) wanted[file->sources[step * TOKENS + t] * WIDE + id]++;
        }
    expect(memcmp(rows, wanted, sizeof rows) == 0);
}

static void expect_distinct(const struct moire_routing_file *file, int64_t step, int64_t layer,
                            const struct moire_placement *placement, const int *group_of)
{
    int64_t copies[2] = { 0, 0 }, slots = 0, distinct = 0;
    expect_ok(moire_routing_distinct(file, step, layer, placement, group_of, copies));
    for (int64_t t = 0; t < TOKENS; t++) {
        bool met[WIDE] = { false };
        for (int64_t k = 0; k < SLOTS; k++) {
            int32_t id = moire_routing_token(file, step, layer, t)[k];
            if (id < 0) continue;
            int rank = placement->instance_rank[id];
            slots++;
            met[group_of ? group_of[rank] : rank] = true;
        }
        for (int g = 0; g < WIDE; g++) distinct += met[g];
    }
    expect(copies[0] == slots && copies[1] == distinct);
}

static void counts_come_from_the_ids(void)
{
    const struct moire_routing_file file = a_record();
    const int nodes[] = { 0, 0, 1, 1, 2 };
    struct moire_placement placement, other;
    int64_t copies[2] = { 0, 0 };
    expect_ok(moire_placement_even(WIDE, 5, &placement));
    expect_ok(moire_placement_even(WIDE + 1, 5, &other));
    for (int64_t step = 0; step < STEPS; step++)
        for (int64_t layer = 0; layer < LAYERS; layer++) {
            expect_counts(&file, step, layer);
            expect_distinct(&file, step, layer, &placement, NULL);
            expect_distinct(&file, step, layer, &placement, nodes);
        }
    expect_failure(moire_routing_distinct(&file, 0, 0, &other, NULL, copies), MOIRE_USAGE,
                   "found 13, expected 12");
    moire_placement_free(&other);
    moire_placement_free(&placement);
}

static void the_summary_is_that_of_the_ids(void)
{
    const struct moire_routing_file file = a_record();
    struct moire_routing_summary summary;
    int64_t slots = 0, dropped = 0, pairs = 0, same = 0;
    double imbalance = 0;
    for (int64_t step = 0; step < STEPS; step += 2)
        for (int64_t layer = 0; layer < LAYERS; layer++) {
            int64_t rows[RANKS * WIDE], sum = 0, most = 0;
            moire_routing_count(&file, step, layer, rows);
            for (int e = 0; e < WIDE; e++) {
                int64_t found = rows[e] + rows[WIDE + e] + rows[2 * WIDE + e];
                sum += found;
                most = found > most ? found : most;
            }
            slots += sum, dropped += TOKENS * SLOTS - sum;
            imbalance += (double)most * WIDE / (double)sum;
            for (int64_t t = 1; t < TOKENS; t++) {
                int32_t one = *moire_routing_token(&file, step, layer, t - 1),
                        next = *moire_routing_token(&file, step, layer, t);
                bool pair = one >= 0 && next >= 0 && made_sources[t - 1] == made_sources[t];
                pairs += pair, same += pair && one == next;
            }
        }
    expect_ok(moire_routing_summarise(&file, &summary));
    expect(summary.slots == slots && summary.dropped == dropped);
    expect_near(summary.imbalance, imbalance / (2 * LAYERS), 1e-12);
    expect_near(summary.repeats, (double)same / (double)pairs, 1e-12);
}

static void a_whole_record_is_read_as_written(void)
{
    const struct moire_routing_file file = a_record();
    struct moire_routing_file read;
    open_folder();
    if (test_rank == 0) {
        const char *path = in_folder(folder, "whole.h5");
        expect(!moire_routing_is(path));
        expect_ok(moire_routing_write(path, &file));
        expect(moire_routing_is(path));
        expect_ok(moire_routing_read(path, &read));
        expect(read.steps == STEPS && read.layers == LAYERS && read.tokens == TOKENS && read.top_k == SLOTS);
        expect(read.experts == WIDE && read.first_step == 4 && read.ranks == RANKS);
        expect(memcmp(read.ids, made_ids, sizeof made_ids) == 0);
        expect(memcmp(read.sources, made_sources, sizeof made_sources) == 0);
        moire_routing_free(&read);
    }
    close_folder();
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "steps are in rank order", steps_are_in_rank_order },
        { "a resumed run replaces what it does again", a_resumed_run_replaces_what_it_does_again },
        { "other sizes are refused", other_sizes_are_refused },
        { "no tokens leave no record", no_tokens_leave_no_record },
        { "a bad record is refused", a_bad_record_is_refused },
        { "counts come from the ids", counts_come_from_the_ids },
        { "the summary is that of the ids", the_summary_is_that_of_the_ids },
        { "a whole record is read as written", a_whole_record_is_read_as_written },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
