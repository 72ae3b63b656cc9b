#include "exchange/gate.h"

/* MPI makes the window on all ranks or on none. */
static bool make_window(const struct moire_exchange *exchange, struct moire_gate *gate)
{
    const int contexts = exchange->settings.contexts;
    const MPI_Aint bytes = contexts * (MPI_Aint)sizeof(struct moire_gate_flag);
    if (MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, exchange->communicator.mpi, &gate->own,
                                &gate->window)
        != MPI_SUCCESS) {
        gate->window = MPI_WIN_NULL;
        return false;
    }
    for (int i = 0; i < contexts; i++) atomic_init(&gate->own[i].came, 0);
    for (int rank = 0; rank < exchange->communicator.size; rank++) {
        MPI_Aint there;
        int unit;
        void *flags;
        if (MPI_Win_shared_query(gate->window, rank, &there, &unit, &flags) != MPI_SUCCESS) return false;
        gate->flags[rank] = flags;
    }
    return true;
}

/* Without the window it goes by messages: no failure. The agreement is also what makes the zeros visible. */
moire_status moire_gate_create(const struct moire_exchange *exchange, bool one_node, struct moire_gate *gate)
{
    const struct moire_communicator *communicator = &exchange->communicator;
    gate->window = MPI_WIN_NULL;
    MOIRE_TRY(moire_agree(communicator, moire_allocate(MOIRE_MEMORY_EXCHANGE, communicator->size,
                                                       sizeof *gate->flags, &gate->flags)));
    if (!one_node || communicator->size == 1) return MOIRE_OK;
    int64_t missing = !make_window(exchange, gate);
    MOIRE_TRY(moire_max_integers(communicator, &missing, 1));
    if (missing && gate->window != MPI_WIN_NULL) MPI_Win_free(&gate->window);
    return MOIRE_OK;
}

void moire_gate_free(struct moire_gate *gate)
{
    if (!gate->flags) return;
    if (gate->window != MPI_WIN_NULL) MPI_Win_free(&gate->window);
    moire_release(gate->flags);
    gate->flags = NULL;
}

int64_t moire_gate_memory(const struct moire_exchange_sizes *sizes)
{
    return sizes->ranks * (int64_t)sizeof(struct moire_gate_flag *);
}

static bool look_at_flags(const struct moire_gate *gate, int context, int ranks, struct moire_gate_pass *pass)
{
    while (pass->heard < ranks
           && atomic_load_explicit(&gate->flags[pass->heard][context].came, memory_order_acquire)
                  >= pass->came)
        pass->heard++;
    return pass->heard == ranks;
}

static moire_status start_turn(const struct moire_communicator *communicator, struct moire_gate_pass *pass)
{
    const int own = communicator->rank, size = communicator->size;
    const int from = (own + size - pass->distance) % size, to = (own + pass->distance) % size;
    int result = MPI_Irecv(NULL, 0, MPI_BYTE, from, 0, communicator->mpi, &pass->requests[0]);
    if (result == MPI_SUCCESS)
        result = MPI_Isend(NULL, 0, MPI_BYTE, to, 0, communicator->mpi, &pass->requests[1]);
    return moire_mpi_check(result, communicator, "MPI_Isend");
}

static moire_status start(const struct moire_gate *gate, const struct moire_communicator *communicator,
                          int context, struct moire_gate_pass *pass)
{
    pass->under_way = true;
    pass->heard = 0;
    pass->came++;
    pass->distance = 1;
    if (gate->window == MPI_WIN_NULL)
        return communicator->size > 1 ? start_turn(communicator, pass) : MOIRE_OK;
    atomic_store_explicit(&gate->own[context].came, pass->came, memory_order_release);
    return MOIRE_OK;
}

static moire_status move_turns(const struct moire_communicator *communicator, struct moire_gate_pass *pass,
                               bool *through)
{
    while (pass->distance < communicator->size) {
        int heard = 0, result = MPI_Testall(2, pass->requests, &heard, MPI_STATUSES_IGNORE);
        MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Testall"));
        if (!heard) return MOIRE_OK;
        pass->distance *= 2;
        if (pass->distance < communicator->size) MOIRE_TRY(start_turn(communicator, pass));
    }
    *through = true;
    return MOIRE_OK;
}

moire_status moire_gate_pass(const struct moire_gate *gate, const struct moire_transfer *transfer,
                             struct moire_gate_pass *pass, bool wait, bool *through)
{
    const struct moire_communicator *communicator = &transfer->communicator;
    const int context = (int)(transfer - transfer->exchange->transfers);
    *through = false;
    if (!pass->under_way) MOIRE_TRY(start(gate, communicator, context, pass));
    if (gate->window == MPI_WIN_NULL)
        MOIRE_TRY(move_turns(communicator, pass, through));
    else
        *through = !wait || look_at_flags(gate, context, communicator->size, pass);
    if (*through) pass->under_way = false;
    return MOIRE_OK;
}
