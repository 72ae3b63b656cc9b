/* moire bench exchange: what it says. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench_exchange.h"
#include "moire/cli/cli.h"
#include "moire/io/manifest.h"

enum { LINE = 1024 };
static const double tail = 0.99; /* the quantile beside the median */

static const struct moire_bench_column time_columns[] = {
    { "layer", 6, 0 },
    { "bytes", 9, 0 },
    { "backend", 13, MOIRE_BENCH_WORDS },
    { "direction", 9, MOIRE_BENCH_WORDS },
    { "wire_us", 9, 1 },
    { "low_us", 9, 1 },
    { "high_us", 9, 1 },
    { "p99_us", 9, 1 },
    { "skew_us", 8, 1 },
    { "MB/s", 8, 1 },
    { "by_mpi", 6, 2 },
    { "conv", 4, MOIRE_BENCH_WORDS },
};
static const struct moire_bench_column byte_columns[] = {
    { "layer", 6, 0 },
    { "bytes", 9, 0 },
    { "backend", 13, MOIRE_BENCH_WORDS },
    { "direction", 9, MOIRE_BENCH_WORDS },
    { "what", 7, MOIRE_BENCH_WORDS },
    { "own", 12, 0 },
    { "in_node", 12, 0 },
    { "between_nodes", 13, 0 },
    { "over_spine", 12, 0 },
    { "saved", 5, 3 },
};
enum {
    TIME_COLUMNS = sizeof time_columns / sizeof *time_columns,
    BYTE_COLUMNS = sizeof byte_columns / sizeof *byte_columns
};

static bool is_model(const struct moire_bench_comparison *bench)
{
    return bench->run->config->bench_traffic == MOIRE_TRAFFIC_MODEL;
}

/* The layer is said of a model alone. */
static moire_status begin_table(const struct moire_bench_comparison *bench, const char *name,
                                const struct moire_bench_column *columns, int count)
{
    const int skip = is_model(bench) ? 0 : 1;
    return moire_bench_table(bench->run->report, name, columns + skip, count - skip);
}

static moire_status add_row(const struct moire_bench_comparison *bench, const struct moire_bench_cell *cells)
{
    return moire_bench_row(bench->run->report, cells + (is_model(bench) ? 0 : 1));
}

/* ---- the settings ---- */

static moire_status say_versions(const struct moire_bench_comparison *bench)
{
    struct moire_text text = { 0 };
    moire_status status = moire_versions(&text);
    struct moire_text line = { 0 };
    for (char *next = text.data; status == MOIRE_OK && next && *next;) {
        const int letters = (int)strcspn(next, "\n");
        status = moire_text_add(&line, "%s%.*s", line.bytes ? ", " : "", letters, next);
        next += letters + (next[letters] == '\n');
    }
    if (status == MOIRE_OK && line.data)
        status = moire_bench_header(bench->run->report, "versions", "%s", line.data);
    moire_text_free(&line);
    moire_text_free(&text);
    return status;
}

static moire_status say_traffic(const struct moire_bench_comparison *bench)
{
    const struct moire_config *config = bench->run->config;
    const int64_t element = moire_bench_wire_element(config);
    if (!is_model(bench))
        return moire_bench_header(
            bench->run->report, "traffic",
            "as many rows from every rank to every rank, itself too; bytes: of rows from a "
            "rank to a rank; rows of %lld elements, below %lld bytes of 16 or less",
            (long long)config->model_dim, (long long)(config->model_dim * element));
    return moire_bench_header(
        bench->run->report, "traffic",
        "%s, seed %lld: %lld tokens of %lld elements, %lld experts, top-%lld; bytes: of rows "
        "from a rank to a rank, mean over all pairs",
        config->moe_forced, (long long)config->run_seed,
        (long long)(config->train_batch * config->model_sequence), (long long)config->model_dim,
        (long long)config->moe_experts, (long long)config->moe_top_k);
}

static moire_status say_settings(const struct moire_bench_comparison *bench)
{
    const struct moire_config *config = bench->run->config;
    const struct moire_mesh *mesh = &bench->run->mesh;
    const int chunks = moire_bench_chunks(config);
    char peers[32] = "all";
    if (config->exchange_peers_in_flight > 0)
        snprintf(peers, sizeof peers, "%lld", (long long)config->exchange_peers_in_flight);
    return moire_bench_header(bench->run->report, "exchange",
                              "%d rank%s, %d node%s, %d lea%s; wire %s, %d chunk%s, 1 context, rounds of "
                              "%lld bytes, %s peers in flight, de-duplication %s, numbers %s",
                              mesh->expert.size, moire_cli_plural(mesh->expert.size), mesh->nodes,
                              moire_cli_plural(mesh->nodes), mesh->leaves, mesh->leaves == 1 ? "f" : "ves",
                              config->exchange_wire ? "bf16" : "fp32", chunks, moire_cli_plural(chunks),
                              (long long)config->exchange_round_bytes, peers,
                              config->exchange_dedup ? "yes" : "no", config->bench_numbers ? "yes" : "no");
}

moire_status moire_bench_exchange_start(const struct moire_bench_comparison *bench)
{
    struct moire_bench_report *report = bench->run->report;
    MOIRE_TRY(say_versions(bench));
    MOIRE_TRY(say_settings(bench));
    MOIRE_TRY(say_traffic(bench));
    MOIRE_TRY(
        moire_bench_header(report, "times",
                           "one call a sample; wire: from the last start of all ranks to the last end, "
                           "median with 95 %% interval, and p99; skew: from the first start to the last, "
                           "median"));
    MOIRE_TRY(moire_bench_header(
        report, "MB/s",
        "(bytes that ranks have for others, a row and its number for every slot, mean over "
        "ranks) / wire / 10^6"));
    return moire_bench_header(report, "by_mpi",
                              "wire over that of mpi_alltoallv, median of the ratios within rounds");
}

/* ---- times ---- */

/* Median and tail of a variant's samples; `numbers` is scratch for all of them. */
struct times {
    double tail, skew;
};

static struct times times_of(const struct moire_measure *measure, const struct moire_variant *variant)
{
    const int ranks = measure->communicator->size;
    double *numbers = measure->scratch; /* what the loop needed before; it has room for every sample */
    struct times times;
    memcpy(numbers, variant->samples, (size_t)measure->samples * sizeof *numbers);
    times.tail = moire_quantile(numbers, measure->samples, tail);
    for (int64_t i = 0; i < measure->samples; i++) {
        numbers[i] = 0;
        for (int rank = 0; rank < ranks; rank++)
            numbers[i] = fmax(numbers[i], variant->skew[i * ranks + rank]);
    }
    times.skew = moire_median_interval(numbers, measure->samples).middle;
    return times;
}

static double bus_bytes(const struct moire_bench_case *what)
{
    double bytes = 0;
    for (int level = MOIRE_LEVEL_NODE; level < MOIRE_LEVELS; level++)
        bytes += (double)(what->row_payload[level] + what->number_payload[level]);
    return bytes / what->run->mesh.world.size;
}

/* `mpi`: the variant that it is compared with, -1: none. */
static moire_status add_times(const struct moire_bench_comparison *bench, const struct moire_bench_case *what,
                              const struct moire_measure *measure, int index, int mpi, const char *backend,
                              enum moire_bench_way way)
{
    const struct moire_variant *found = &measure->variants[index];
    const struct times times = times_of(measure, found);
    const bool moves = way != MOIRE_BENCH_PREPARE && strcmp(backend, "copies") != 0;
    const double ratio = mpi >= 0 && mpi != index ? moire_measure_ratio(measure, index, mpi).middle : NAN;
    const struct moire_bench_cell cells[TIME_COLUMNS] = {
        { .number = what->layer },
        { .number = what->pair_bytes },
        { .words = backend },
        { .words = moire_bench_way_names[way] },
        { .number = 1e6 * found->median.middle },
        { .number = 1e6 * found->median.low },
        { .number = 1e6 * found->median.high },
        { .number = 1e6 * times.tail },
        { .number = 1e6 * times.skew },
        { .number = moves ? bus_bytes(what) / found->median.middle / 1e6 : NAN },
        { .number = moves ? ratio : NAN },
        { .words = found->converged ? "yes" : "no" },
    };
    return add_row(bench, cells);
}

static moire_status add_way(const struct moire_bench_comparison *bench, const struct moire_bench_case *what,
                            const struct moire_bench_lane *lanes, int lane_count,
                            const struct moire_measure *measure, enum moire_bench_way way)
{
    static const char *const names[MOIRE_BENCH_BASELINES] = { "mpi_alltoallv", "copies" };
    const bool beside = bench->run->config->bench_baseline && way != MOIRE_BENCH_PREPARE;
    const int mpi = beside ? moire_bench_baseline_variant(lane_count, MOIRE_BENCH_MPI, way) : -1;
    for (int i = 0; i < lane_count; i++)
        MOIRE_TRY(add_times(bench, what, measure, moire_bench_lane_variant(i, way), mpi,
                            moire_exchange_backend(lanes[i].exchange), way));
    for (int i = 0; beside && i < MOIRE_BENCH_BASELINES; i++)
        MOIRE_TRY(add_times(bench, what, measure, moire_bench_baseline_variant(lane_count, i, way), mpi,
                            names[i], way));
    return MOIRE_OK;
}

static moire_status say_not_converged(const struct moire_bench_comparison *bench,
                                      const struct moire_bench_case *what,
                                      const struct moire_measure *measure)
{
    char key[64], line[LINE] = "";
    size_t used = 0;
    for (int i = 0; i < measure->count; i++)
        if (!measure->variants[i].converged && used < sizeof line)
            used += (size_t)snprintf(line + used, sizeof line - used, "%s%s", used ? ", " : "",
                                     measure->variants[i].name);
    if (used == 0) return MOIRE_OK;
    snprintf(key, sizeof key, "not converged, %s", what->name);
    return moire_bench_header(bench->run->report, key, "%s", line);
}

/* ---- bytes ---- */

static double saved(const struct moire_bench_case *what, const struct moire_exchange_bytes *bytes,
                    enum moire_bench_way way)
{
    const int far = MOIRE_LEVEL_FAR, spine = MOIRE_LEVEL_SPINE;
    const double payload = (double)(what->row_payload[far] + what->row_payload[spine]);
    if (way == MOIRE_BENCH_PREPARE || payload <= 0) return NAN;
    return 1 - (double)(bytes->rows[far] + bytes->rows[spine]) / payload;
}

static moire_status keep(struct moire_bench_comparison *bench, const struct moire_bench_case *what,
                         const struct moire_bench_lane *lane)
{
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_OTHER, &bench->moved, &bench->moved_capacity,
                         bench->moved_count + MOIRE_BENCH_WAYS, sizeof *bench->moved));
    for (int way = 0; way < MOIRE_BENCH_WAYS; way++)
        bench->moved[bench->moved_count++] = (struct moire_bench_moved) {
            .layer = what->layer,
            .pair_bytes = what->pair_bytes,
            .backend = moire_exchange_backend(lane->exchange),
            .way = way,
            .bytes = lane->bytes[way],
            .saved = saved(what, &lane->bytes[way], way),
        };
    return MOIRE_OK;
}

static moire_status add_bytes(const struct moire_bench_comparison *bench,
                              const struct moire_bench_moved *moved, const char *what,
                              const int64_t bytes[MOIRE_LEVELS], double share)
{
    const struct moire_bench_cell cells[BYTE_COLUMNS] = {
        { .number = moved->layer },
        { .number = moved->pair_bytes },
        { .words = moved->backend },
        { .words = moire_bench_way_names[moved->way] },
        { .words = what },
        { .number = (double)bytes[MOIRE_LEVEL_SELF] },
        { .number = (double)bytes[MOIRE_LEVEL_NODE] },
        { .number = (double)bytes[MOIRE_LEVEL_FAR] },
        { .number = (double)bytes[MOIRE_LEVEL_SPINE] },
        { .number = share },
    };
    int64_t all = 0;
    for (int level = 0; level < MOIRE_LEVELS; level++) all += bytes[level];
    return all > 0 ? add_row(bench, cells) : MOIRE_OK;
}

moire_status moire_bench_exchange_finish(const struct moire_bench_comparison *bench)
{
    MOIRE_TRY(
        moire_bench_header(bench->run->report, "volume",
                           "bytes of one call, all ranks together, as the back end moved them; saved: of the "
                           "rows that would leave their node were there one for every slot"));
    MOIRE_TRY(begin_table(bench, "volume", byte_columns, BYTE_COLUMNS));
    for (int64_t i = 0; i < bench->moved_count; i++) {
        const struct moire_bench_moved *moved = &bench->moved[i];
        MOIRE_TRY(add_bytes(bench, moved, "rows", moved->bytes.rows, moved->saved));
        MOIRE_TRY(add_bytes(bench, moved, "numbers", moved->bytes.numbers, NAN));
        MOIRE_TRY(add_bytes(bench, moved, "index", moved->bytes.index, NAN));
    }
    return MOIRE_OK;
}

/* ---- a case ---- */

/* Which algorithm ran: said where it is another one than before. */
static moire_status describe(struct moire_bench_comparison *bench, const struct moire_bench_case *what,
                             const struct moire_bench_lane *lane)
{
    const char *name = moire_exchange_backend(lane->exchange);
    char key[96], line[MOIRE_BENCH_DESCRIPTION];
    moire_exchange_describe(lane->exchange, line, sizeof line);
    for (int i = 0; i < moire_backend_count; i++) {
        char *before = bench->described[i];
        if (strcmp(moire_backends[i]->name, name) != 0 || strcmp(before, line) == 0) continue;
        snprintf(key, sizeof key, *before ? "backend %s, from %s" : "backend %s", name, what->name);
        strcpy(before, line);
        return moire_bench_header(bench->run->report, key, "%s", line);
    }
    return MOIRE_OK;
}

moire_status moire_bench_exchange_report(struct moire_bench_comparison *bench,
                                         const struct moire_bench_case *what,
                                         const struct moire_bench_lane *lanes, int lane_count,
                                         const struct moire_measure *measure)
{
    for (int i = 0; i < lane_count; i++) {
        MOIRE_TRY(keep(bench, what, &lanes[i]));
        MOIRE_TRY(describe(bench, what, &lanes[i]));
    }
    if (!bench->begun) MOIRE_TRY(begin_table(bench, "times", time_columns, TIME_COLUMNS));
    bench->begun = true;
    for (int way = 0; way < MOIRE_BENCH_WAYS; way++)
        MOIRE_TRY(add_way(bench, what, lanes, lane_count, measure, way));
    MOIRE_TRY(moire_bench_describe(bench->run, what->name, measure));
    return say_not_converged(bench, what, measure);
}
