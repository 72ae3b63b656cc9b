/* moire bench exchange: the exchange alone, back end beside back end, without compute.
 *
 * A case is one exchange: of a size, or of a layer of the model. In a case the calls of all back ends
 * (dispatch, combine, prepare) take turns with those of plain MPI and of the copies alone. */
#include <stdio.h>
#include <string.h>

#include "cli/bench_exchange.h"
#include "moire/cli/cli.h"
#include "moire/io/samples.h"

enum { MOST_BACKENDS = 16, MOST_SIZES = 64, NAME = 48, MOST_EXACT_COPIES = 256 };
static const double most_bytes = 1e12; /* of a size */

/* ---- the variants ---- */

/* What a variant calls: of a lane, or of the baseline where there is no lane. */
struct task {
    struct moire_bench_lane *lane;
    struct moire_baseline *baseline;
    int which; /* MOIRE_BENCH_MPI or MOIRE_BENCH_COPIES */
    enum moire_bench_way way;
    char name[NAME];
};

static moire_status run_lane(void *state)
{
    const struct task *task = state;
    return moire_bench_lane_run(task->lane, task->way);
}

static moire_status run_baseline(void *state)
{
    const struct task *task = state;
    const bool combine = task->way == MOIRE_BENCH_COMBINE;
    if (task->which == MOIRE_BENCH_MPI) return moire_baseline_move(task->baseline, combine);
    moire_baseline_pack(task->baseline, combine);
    moire_baseline_unpack(task->baseline, combine);
    return MOIRE_OK;
}

/* The back ends of a case, and what is measured of them. */
struct field {
    const struct moire_bench_case *what;
    struct moire_bench_lane *lanes; /* owned, [moire_backend_count] */
    int lane_count;
    struct moire_baseline baseline;
    struct task *tasks;             /* owned, [variants] */
    struct moire_variant *variants; /* owned */
    int count;
};

static void add_task(struct field *field, struct moire_bench_lane *lane, int which, enum moire_bench_way way)
{
    static const char *const names[MOIRE_BENCH_BASELINES] = { "mpi_alltoallv", "copies" };
    struct task *task = &field->tasks[field->count];
    *task = (struct task) { .lane = lane, .baseline = &field->baseline, .which = which, .way = way };
    snprintf(task->name, sizeof task->name, "%s %s",
             lane ? moire_exchange_backend(lane->exchange) : names[which], moire_bench_way_names[way]);
    field->variants[field->count++] =
        (struct moire_variant) { .name = task->name, .run = lane ? run_lane : run_baseline, .state = task };
}

/* In the order of moire_bench_lane_variant and moire_bench_baseline_variant. */
static void add_tasks(struct field *field)
{
    for (int lane = 0; lane < field->lane_count; lane++)
        for (int way = 0; way < MOIRE_BENCH_WAYS; way++) add_task(field, &field->lanes[lane], 0, way);
    for (int which = 0; field->baseline.plan && which < MOIRE_BENCH_BASELINES; which++)
        for (int way = 0; way < MOIRE_BENCH_PREPARE; way++) add_task(field, NULL, which, way);
}

static moire_status allocate_field(struct field *field)
{
    const int64_t most = moire_backend_count * MOIRE_BENCH_WAYS + MOIRE_BENCH_BASELINES * MOIRE_BENCH_PREPARE;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, moire_backend_count, sizeof *field->lanes, &field->lanes));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, most, sizeof *field->tasks, &field->tasks));
    return moire_allocate(MOIRE_MEMORY_OTHER, most, sizeof *field->variants, &field->variants);
}

static void free_field(struct field *field, bool agreed)
{
    if (agreed) {
        moire_baseline_free(&field->baseline);
        for (int i = 0; i < field->lane_count; i++) moire_bench_lane_free(&field->lanes[i]);
    }
    moire_release(field->variants);
    moire_release(field->tasks);
    moire_release(field->lanes);
}

/* ---- which back ends ---- */

static moire_status choose_backends(struct moire_bench_comparison *bench)
{
    const char *names[MOST_BACKENDS], *text = bench->run->config->bench_backends;
    struct moire_paths list;
    moire_status status = MOIRE_OK;
    const bool all = strcmp(text, "all") == 0;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, moire_backend_count, sizeof(bool), &bench->chosen));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, moire_backend_count, sizeof(bool), &bench->skipped));
    MOIRE_TRY(
        moire_allocate(MOIRE_MEMORY_OTHER, moire_backend_count, sizeof *bench->described, &bench->described));
    moire_assert(moire_backend_count <= MOST_BACKENDS);
    for (int i = 0; i < moire_backend_count; i++) {
        names[i] = moire_backends[i]->name;
        bench->chosen[i] = all;
    }
    if (all) return MOIRE_OK;
    MOIRE_TRY(moire_paths_split(text, &list)); /* words between commas */
    for (int64_t i = 0; status == MOIRE_OK && i < list.count; i++) {
        int64_t index;
        status =
            moire_name_find("back end in bench.backends", list.list[i], names, moire_backend_count, &index);
        if (status == MOIRE_OK) bench->chosen[index] = true;
    }
    if (status == MOIRE_OK && list.count == 0)
        status = moire_fail(MOIRE_USAGE,
                            "bench.backends is empty; expected all, or names of back ends separated by "
                            "commas; try bench.backends = all");
    moire_paths_free(&list);
    return status;
}

/* Whether back end `index` runs here; the reason goes to the report, once. */
static moire_status is_applicable(struct moire_bench_comparison *bench, const struct moire_exchange *probe,
                                  int index, bool *applicable)
{
    const char *name = moire_backends[index]->name;
    char why[256] = "", key[64];
    *applicable = moire_backends[index]->applicable(probe, why, sizeof why);
    if (*applicable || bench->skipped[index]) return MOIRE_OK;
    bench->skipped[index] = true;
    snprintf(key, sizeof key, "skipped %s", name);
    return moire_bench_header(bench->run->report, key, "%s", why);
}

static moire_status no_backend(const struct moire_bench_comparison *bench)
{
    return moire_fail(
        MOIRE_USAGE,
        "none of the back ends is applicable here; found bench.backends = %s; try bench.backends = "
        "all",
        bench->run->config->bench_backends);
}

/* Whether one is applicable is asked of an exchange of the same shape with the reference, which always is. */
static moire_status create_lanes(struct moire_bench_comparison *bench, struct field *field)
{
    const struct moire_communicator *world = &bench->run->mesh.world;
    struct moire_exchange *probe = NULL;
    MOIRE_TRY(
        moire_agree(world, moire_bench_exchange_create(field->what, moire_backend_alltoallv.name, &probe)));
    moire_status status = MOIRE_OK;
    for (int i = 0; status == MOIRE_OK && i < moire_backend_count; i++) {
        bool applicable = false;
        if (!bench->chosen[i]) continue;
        status = moire_agree(world, is_applicable(bench, probe, i, &applicable));
        if (status != MOIRE_OK || !applicable) continue;
        status =
            moire_bench_lane_create(field->what, moire_backends[i]->name, &field->lanes[field->lane_count++]);
    }
    if (status == MOIRE_OK || moire_error_is_agreed()) moire_exchange_free(probe);
    MOIRE_TRY(status);
    return field->lane_count > 0 ? MOIRE_OK : moire_cli_agree(no_backend(bench));
}

/* ---- a case ---- */

static moire_status write_samples(const struct moire_bench_comparison *bench,
                                  const struct moire_bench_case *what, const struct moire_measure *measure)
{
    const char *path = bench->run->config->bench_record;
    if (!path || !*path || bench->run->mesh.world.rank > 0) return MOIRE_OK;
    for (int i = 0; i < measure->count; i++) {
        const struct moire_variant *variant = &measure->variants[i];
        MOIRE_TRY(moire_samples_add(path, what->name, variant->name, measure->samples,
                                    bench->run->mesh.world.size, variant->by_rank, variant->skew));
    }
    return MOIRE_OK;
}

static moire_status measure_field(struct moire_bench_comparison *bench, struct field *field)
{
    const struct moire_communicator *world = &bench->run->mesh.world;
    struct moire_measure measure = { 0 };
    add_tasks(field);
    moire_status status = moire_bench_measure(bench->run, field->variants, field->count, 0, &measure);
    if (status == MOIRE_OK)
        status = moire_agree(world, moire_bench_exchange_report(bench, field->what, field->lanes,
                                                                field->lane_count, &measure));
    if (status == MOIRE_OK) status = moire_agree(world, write_samples(bench, field->what, &measure));
    moire_measure_free(&measure);
    return status;
}

/* `local`: whether this rank could make the case. */
static moire_status run_case(struct moire_bench_comparison *bench, struct moire_bench_case *what,
                             moire_status local)
{
    const struct moire_communicator *world = &bench->run->mesh.world;
    struct field field = { .what = what };
    if (local == MOIRE_OK) local = allocate_field(&field);
    moire_status status = moire_agree(world, local);
    if (status == MOIRE_OK) status = moire_bench_case_sum(what);
    if (status == MOIRE_OK) status = create_lanes(bench, &field);
    if (status == MOIRE_OK && bench->run->config->bench_baseline)
        status =
            moire_agree(world, moire_baseline_create(field.lanes[0].plan, bench->run->config->bench_numbers,
                                                     &field.baseline));
    if (status == MOIRE_OK) status = measure_field(bench, &field);
    free_field(&field, status == MOIRE_OK || moire_error_is_agreed());
    moire_bench_case_free(what);
    return status;
}

/* ---- sizes ---- */

static moire_status bad_sizes(const char *found)
{
    return moire_fail(
        MOIRE_USAGE,
        "bench.bytes must be numbers of bytes or FIRST:LAST, which doubles from FIRST to LAST, separated "
        "by commas; found '%s', expected at most %d sizes of 1 to 1e12 bytes; try bench.bytes = "
        "64:4194304",
        found, MOST_SIZES);
}

static bool read_range(char *text, int64_t sizes[MOST_SIZES], int *count)
{
    char *colon = strchr(text, ':');
    int64_t first, last;
    if (colon) *colon = 0;
    if (!moire_parse_integer(text, &first) || first < 1) return false;
    last = first;
    if (colon && (!moire_parse_integer(colon + 1, &last) || last < first)) return false;
    if ((double)last > most_bytes) return false;
    for (; first <= last; first *= 2) {
        if (*count == MOST_SIZES) return false;
        sizes[(*count)++] = first;
    }
    return true;
}

static moire_status read_sizes(const char *text, int64_t sizes[MOST_SIZES], int *count)
{
    struct moire_paths list;
    *count = 0;
    MOIRE_TRY(moire_paths_split(text, &list)); /* words between commas */
    bool good = list.count > 0;
    for (int64_t i = 0; good && i < list.count; i++) good = read_range(list.list[i], sizes, count);
    moire_paths_free(&list);
    return good ? MOIRE_OK : bad_sizes(text);
}

static moire_status run_sizes(struct moire_bench_comparison *bench, const int64_t *sizes, int count)
{
    for (int i = 0; i < count; i++) {
        struct moire_bench_case what = { 0 };
        moire_status local = moire_bench_case_of_size(bench->run, sizes[i], &what);
        MOIRE_TRY(run_case(bench, &what, local));
    }
    return MOIRE_OK;
}

/* ---- layers ---- */

/* Whether the traffic of a layer differs from that of the others. */
static bool by_layer(const struct moire_config *config)
{
    return strcmp(config->moe_forced, "replay") == 0 || strcmp(config->moe_forced, "markov") == 0;
}

/* Layers with experts: all where their traffic differs, otherwise the first one. */
static moire_status run_layers(struct moire_bench_comparison *bench, struct moire_bench_traffic *traffic,
                               const bool *is_moe)
{
    const struct moire_config *config = bench->run->config;
    int moe_layer = 0;
    for (int layer = 0; layer < config->model_layers; layer++) {
        struct moire_bench_case what = { 0 };
        if (!is_moe[layer]) continue;
        moire_status local = moire_bench_case_of_layer(bench->run, traffic, layer, moe_layer++, &what);
        MOIRE_TRY(run_case(bench, &what, local));
        if (!by_layer(config)) return MOIRE_OK;
    }
    if (moe_layer > 0) return MOIRE_OK;
    return moire_cli_agree(
        moire_fail(MOIRE_USAGE,
                   "the model has no layer with experts; found moe.layers = %s, expected one at "
                   "least; try moe.layers = all",
                   config->moe_layers));
}

static moire_status run_model(struct moire_bench_comparison *bench)
{
    const struct moire_config *config = bench->run->config;
    struct moire_bench_traffic traffic = { .recording = { .ids = NULL } };
    bool *is_moe = NULL;
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, config->model_layers, sizeof *is_moe, &is_moe);
    if (status == MOIRE_OK) status = moire_config_moe_layers(config, is_moe);
    if (status == MOIRE_OK) status = moire_bench_traffic_create(bench->run, &traffic);
    status = moire_agree(&bench->run->mesh.world, status);
    if (status == MOIRE_OK) status = run_layers(bench, &traffic, is_moe);
    moire_bench_traffic_free(&traffic);
    moire_release(is_moe);
    return status;
}

/* ---- the command ---- */

/* The check knows what a sum must be as long as it is exact. */
static moire_status check_exact(const struct moire_config *config)
{
    if (!config->exchange_wire || config->moe_top_k <= MOST_EXACT_COPIES) return MOIRE_OK;
    return moire_fail(
        MOIRE_USAGE,
        "sums of so many rows of bfloat16 cannot be checked; found moe.top_k = %lld, expected at most "
        "%d; try exchange.wire = fp32",
        (long long)config->moe_top_k, MOST_EXACT_COPIES);
}

static moire_status create_record(const struct moire_bench_run *run)
{
    struct moire_text text = { 0 };
    const char *path = run->config->bench_record;
    if (!path || !*path || run->mesh.world.rank > 0) return MOIRE_OK;
    moire_status status = moire_config_text(run->config, false, &text);
    if (status == MOIRE_OK) status = moire_samples_create(path, run->mesh.world.size, text.data);
    moire_text_free(&text);
    return status;
}

static moire_status start(struct moire_bench_comparison *bench, int64_t sizes[MOST_SIZES], int *count)
{
    MOIRE_TRY(check_exact(bench->run->config));
    MOIRE_TRY(choose_backends(bench));
    MOIRE_TRY(read_sizes(bench->run->config->bench_bytes, sizes, count));
    MOIRE_TRY(create_record(bench->run));
    return moire_bench_exchange_start(bench);
}

static moire_status run_bench(struct moire_bench_run *run)
{
    struct moire_bench_comparison bench = { .run = run };
    int64_t sizes[MOST_SIZES];
    int count = 0;
    moire_status status = moire_agree(&run->mesh.world, start(&bench, sizes, &count));
    if (status == MOIRE_OK)
        status = run->config->bench_traffic == MOIRE_TRAFFIC_MODEL ? run_model(&bench)
                                                                   : run_sizes(&bench, sizes, count);
    if (status == MOIRE_OK) status = moire_agree(&run->mesh.world, moire_bench_exchange_finish(&bench));
    moire_release(bench.moved);
    moire_release(bench.described);
    moire_release(bench.skipped);
    moire_release(bench.chosen);
    return status;
}

const struct moire_bench moire_bench_exchange = {
    .part = { .name = "exchange",
              .arguments = "[FILE.ini] [--section.key=value ...]",
              .details = "exchange measures rows out (dispatch), rows back (combine) and prepare, without\n"
                         "compute: every back end beside plain MPI and the copies alone. By size\n"
                         "(bench.bytes), or as the model exchanges (bench.traffic = model). What arrives\n"
                         "is checked first.\n"
                         "\n"
                         "  mpirun -n 4 moire bench exchange --bench.bytes=64:1Mi --format=csv" },
    .emulates = true,
    .file_optional = true,
    .run = run_bench,
};
