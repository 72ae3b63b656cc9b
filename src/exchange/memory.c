/* How much memory an exchange comes to hold, from sizes alone. */
#include <string.h>

#include "exchange/private.h"

/* exchange.c */
static int64_t of_exchange(const struct moire_exchange_sizes *sizes)
{
    return (int64_t)sizeof(struct moire_exchange) + (9 * sizes->ranks + 1) * (int64_t)sizeof(int);
}

/* plan.c and order.c */
static int64_t of_plan(const struct moire_exchange_sizes *sizes, const struct moire_plan_rows *rows, int extra)
{
    const int64_t ranks = sizes->ranks, local = sizes->local_instances, instances = sizes->instances,
                  chunks = sizes->chunks > 0 ? sizes->chunks : 1, fixed_words = 1 + extra;
    int64_t fixed = (int64_t)(sizeof(struct moire_plan) + sizeof(struct moire_order))
                    + local * (int64_t)sizeof(struct moire_segment);
    int64_t words = (local + 1) + (instances + 1) + 2 * (ranks + 1) + (ranks * fixed_words + instances)
                    + ranks * (local + fixed_words) + ranks + (ranks + 1) * (chunks + 1);
    int64_t tables = 4 * rows->copies + (rows->tokens + 1) + (rows->slots + 1) + rows->received;
    return fixed + (words + tables) * (int64_t)sizeof(int64_t);
}

static const struct moire_backend *find(const char *name)
{
    for (int i = 0; i < moire_backend_count; i++)
        if (strcmp(moire_backends[i]->name, name) == 0) return moire_backends[i];
    return &moire_backend_alltoallv;
}

int64_t moire_exchange_memory(const struct moire_exchange_sizes *sizes)
{
    const struct moire_backend *backend = find(sizes->backend);
    int64_t bytes = of_exchange(sizes) + backend->memory(sizes);
    for (int i = 0; i < sizes->plans; i++) bytes += of_plan(sizes, &sizes->rows[i], backend->extra_words);
    return bytes;
}
