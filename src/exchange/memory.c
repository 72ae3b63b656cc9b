/* How much memory an exchange comes to hold, from sizes alone. */
#include "exchange/private.h"

/* exchange.c */
static int64_t of_exchange(const struct moire_exchange_sizes *sizes)
{
    return (int64_t)sizeof(struct moire_exchange) + 6 * sizes->ranks * (int64_t)sizeof(int);
}

/* plan.c and order.c */
static int64_t of_plan(const struct moire_exchange_sizes *sizes, const struct moire_plan_rows *rows)
{
    const int64_t ranks = sizes->ranks, local = sizes->local_instances, instances = sizes->instances;
    int64_t fixed = (int64_t)(sizeof(struct moire_plan) + sizeof(struct moire_order))
                    + local * (int64_t)sizeof(struct moire_segment);
    int64_t words = (local + 1) + (instances + 1) + 2 * (ranks + 1) + (ranks + instances)
                    + ranks * (local + 1) + ranks;
    int64_t tables = 4 * rows->copies + (rows->tokens + 1) + (rows->slots + 1) + rows->received;
    return fixed + (words + tables) * (int64_t)sizeof(int64_t);
}

/* alltoallv.c: its tables; staging is one of each direction for each context. */
static int64_t of_layout(const struct moire_plan_rows *rows)
{
    return (2 * rows->out + rows->in) * (int64_t)sizeof(int64_t)
           + rows->copies * (int64_t)sizeof(struct moire_place);
}

int64_t moire_exchange_memory(const struct moire_exchange_sizes *sizes)
{
    int64_t bytes = of_exchange(sizes), out = 0, in = 0;
    for (int i = 0; i < sizes->plans; i++) {
        const struct moire_plan_rows *rows = &sizes->rows[i];
        bytes += of_plan(sizes, rows) + of_layout(rows);
        if (rows->out > out) out = rows->out;
        if (rows->in > in) in = rows->in;
    }
    return bytes + sizes->contexts * (out + in) * (sizes->width + 1) * (int64_t)moire_element_bytes(sizes->element);
}
