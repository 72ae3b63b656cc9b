/* A gate at the end of a transfer, for back ends whose rows travel by another library than MPI: a rank is
 * through when all ranks have come. It is non-blocking, and a rank that is through owes nothing to those that
 * are not yet, even if it then waits in MPI or computes.
 *
 * On one node a rank that has come says so in shared memory; between nodes, or where MPI cannot give such
 * memory, by empty MPI messages in a dissemination: to the rank at distance 1, 2, 4, ... after it, each time
 * that it has heard from the one as far before it. (MPI_Ibarrier does that too, at three times the price for
 * two ranks.) */
#ifndef MOIRE_EXCHANGE_GATE_H
#define MOIRE_EXCHANGE_GATE_H

#include <stdatomic.h>

#include "exchange/private.h"

/* What a rank shows of one context: alone in its cache line. */
struct moire_gate_flag {
    _Atomic int64_t came; /* how often so far */
    char apart[64 - sizeof(_Atomic int64_t)];
};

struct moire_gate {                       /* of an exchange */
    MPI_Win window;                       /* MPI_WIN_NULL: by messages */
    const struct moire_gate_flag **flags; /* owned, [P]: of each rank, [contexts] */
    struct moire_gate_flag *own;
};

struct moire_gate_pass { /* of a transfer; zeroed at first, kept from one transfer of a context to the next */
    bool under_way;
    int64_t came;            /* by shared memory: how often */
    int heard;               /* ranks known to have come */
    int distance;            /* by messages: of the turn under way */
    MPI_Request requests[2]; /* of that turn */
};

/* `one_node`: MPI finds all ranks on one; alike on all. Agreed; collective, as is the free, which takes a
 * zeroed one too (where that is alike on all ranks). */
moire_status moire_gate_create(const struct moire_exchange *exchange, bool one_node, struct moire_gate *gate);
void moire_gate_free(struct moire_gate *gate);
/* This rank has come: starts, and then goes on with, a passage; *through: all have, and it is over. `wait`
 * false: nobody can need this rank any more; where a flag is enough to tell that it has come, it is through
 * at once. */
moire_status moire_gate_pass(const struct moire_gate *gate, const struct moire_transfer *transfer,
                             struct moire_gate_pass *pass, bool wait, bool *through);
int64_t moire_gate_memory(const struct moire_exchange_sizes *sizes);

#endif
