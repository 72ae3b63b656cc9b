/* ucx: one row for each copy, packed by destination (packed.h), sent peer by peer in an order that knows the
 * nodes (schedule.h) as tagged messages of UCX, without MPI in between. The only file that includes UCX.
 *
 * It wins where MPI does not drive the network through UCX, or drives it badly: UCX chooses the transport
 * (shared memory, cross-memory attach, InfiniBand, TCP), and several in parallel, by itself. Its variables
 * (UCX_TLS, UCX_NET_DEVICES, ...) count as for any other program of UCX; none is set here. On one node, and
 * without UCX_TLS, only shared memory is used. Memory: as alltoallv, and an end point for each peer; UCX's
 * own (shared queues, connections, registrations) is not counted.
 *
 * Each exchange has a worker of its own, so no message can meet one of another exchange or of an MPI that
 * uses UCX too. End points are made and connected in init: a peer that cannot be reached is found there,
 * where it can be agreed on, and no transfer has to wait for a connection.
 *
 * Two libraries, and who moves which. A rank inside MPI does not move UCX, and what UCX calls done may still
 * need it: a send that it has copied into a buffer of its own (TCP, a full queue), the answer to a
 * rendezvous, a lane that is being connected. A flush is no way out: it may wait for the peer's UCX in turn
 * (over TCP it does). So a transfer ends at a gate (gate.h), which a rank comes to once all of its messages
 * are done: when it is through, all messages of all ranks are, and nobody waits for anybody's UCX. Until then
 * ranks move both libraries, in moire_exchange_wait and moire_transfer_end. Rows of a dispatch are unpacked
 * meanwhile. Only by shared memory it is known that a copied message which is done lies with its receiver,
 * and no rank waits at the gate (may_owe): for small messages that wait is as long as the rest. */
#include <stdio.h>

#include "exchange/gate.h"
#include "exchange/schedule.h"

static const char wins[] = "messages of UCX, without MPI; wins where MPI uses the wire badly";

#ifdef MOIRE_HAVE_UCX
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <ucp/api/ucp.h>

/* A tag: context, number of the step within the context, source. Messages of a pair of ranks in a context
 * match in order anyway; the number keeps steps apart whatever UCX does. */
enum { SOURCE_BITS = 32, STEP_BITS = 24, CONTEXT_BITS = 8 };
_Static_assert(SOURCE_BITS + STEP_BITS + CONTEXT_BITS == 64, "a tag has 64 bits");
_Static_assert(MOIRE_CONTEXTS_MOST <= 1 << CONTEXT_BITS, "contexts must fit a tag");
_Static_assert(sizeof(int) * 8 <= SOURCE_BITS, "ranks must fit a tag");

enum { COPIED_BYTES = 256 << 10 }; /* a message in a node of fewer is copied; UCX's default as well */
enum { EVENTS_AT_ONCE = 64 };      /* most that one call of progress handles, so that it comes back */

struct context {
    struct moire_schedule_context schedule;
    int64_t steps; /* of earlier transfers */
    struct moire_gate_pass pass;
};

struct state {
    struct moire_schedule schedule;
    struct moire_gate gate;
    ucp_context_h library;
    ucp_worker_h worker;
    ucp_ep_h *peers;      /* [P]: end points; NULL for this rank */
    bool in_memory;       /* all by shared memory, with the sizes that UCX chooses for it */
    bool has_peers;       /* all ranks have workers: alike on all */
    int open;             /* flushes and closes under way */
    ucs_status_t failure; /* the first one that a callback has seen */
};

static moire_status check(ucs_status_t status, const char *operation)
{
    if (status == UCS_OK) return MOIRE_OK;
    const char *transports = getenv("UCX_TLS"), *devices = getenv("UCX_NET_DEVICES");
    return moire_fail(
        MOIRE_FAILED,
        "exchange back end 'ucx': %s: %s; found UCX_TLS = %s and UCX_NET_DEVICES = %s, expected "
        "transports that reach all ranks; try UCX_TLS = all and UCX_NET_DEVICES = all, or "
        "exchange.backend = pairwise",
        operation, ucs_status_string(status), transports ? transports : "not set",
        devices ? devices : "not set");
}

/* In begin and progress nothing can be agreed on any more: as an error of MPI. */
static moire_status check_moving(ucs_status_t status, const char *operation)
{
    if (status == UCS_OK) return MOIRE_OK;
    return moire_fail(MOIRE_MPI_ERROR, "exchange back end 'ucx': %s: %s; try exchange.backend = pairwise",
                      operation, ucs_status_string(status));
}

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    (void)exchange, (void)why, (void)why_bytes;
    return true;
}

/* Setting up. */

/* Whether MPI, too, finds all ranks on one node: nodes may be pretended. Collective. */
static moire_status find_one_node(const struct moire_exchange *exchange, bool *one_node)
{
    struct moire_communicator node;
    MOIRE_TRY(moire_communicator_split_node(&exchange->communicator, "node", &node));
    *one_node = exchange->nodes == 1 && node.size == exchange->communicator.size;
    moire_communicator_free(&node);
    return MOIRE_OK;
}

/* On one node, unless somebody has said something else: so that it is known how rows travel, see may_owe. */
static bool may_choose(void)
{
    return !getenv("UCX_TLS") && !getenv("UCX_RNDV_THRESH") && !getenv("UCX_RNDV_SEND_NBR_THRESH");
}

static moire_status choose_memory(ucp_config_t *config)
{
    char copied[32];
    snprintf(copied, sizeof copied, "%d", COPIED_BYTES);
    MOIRE_TRY(check(ucp_config_modify(config, "TLS", "shm,self"), "ucp_config_modify"));
    return check(ucp_config_modify(config, "RNDV_SEND_NBR_THRESH", copied), "ucp_config_modify");
}

/* How many ranks share a node's devices tells UCX what each gets of them. */
static moire_status open_library(struct state *state, const struct moire_exchange *exchange)
{
    const int node = exchange->node_of[exchange->communicator.rank];
    const ucp_params_t params = { .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS
                                                | UCP_PARAM_FIELD_ESTIMATED_NUM_PPN,
                                  .features = UCP_FEATURE_TAG,
                                  .estimated_num_eps = (size_t)exchange->communicator.size,
                                  .estimated_num_ppn =
                                      (size_t)(exchange->node_begin[node + 1] - exchange->node_begin[node]) };
    const ucp_worker_params_t worker = { .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                         .thread_mode = UCS_THREAD_MODE_SINGLE };
    ucp_config_t *config = NULL;
    MOIRE_TRY(check(ucp_config_read(NULL, NULL, &config), "ucp_config_read"));
    moire_status chosen = state->in_memory ? choose_memory(config) : MOIRE_OK;
    ucs_status_t status = chosen == MOIRE_OK ? ucp_init(&params, config, &state->library) : UCS_OK;
    ucp_config_release(config);
    MOIRE_TRY(chosen);
    MOIRE_TRY(check(status, "ucp_init"));
    return check(ucp_worker_create(state->library, &worker, &state->worker), "ucp_worker_create");
}

static moire_status set_up(struct moire_exchange *exchange, bool one_node)
{
    const int ranks = exchange->communicator.size;
    struct state *state = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *state, &state));
    exchange->backend_state = state;
    state->in_memory = one_node && may_choose();
    MOIRE_TRY(moire_schedule_create(exchange, &state->schedule));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, ranks, sizeof(ucp_ep_h), &state->peers));
    MOIRE_TRY(moire_packed_contexts_create(exchange, sizeof(struct context)));
    return open_library(state, exchange);
}

/* Waits for all ranks, and moves UCX meanwhile: a peer may not be there yet because it waits for this rank's.
 */
static moire_status meet(struct moire_exchange *exchange)
{
    const struct state *state = exchange->backend_state;
    MPI_Request request = MPI_REQUEST_NULL;
    int result = MPI_Ibarrier(exchange->communicator.mpi, &request), met = 0;
    while (result == MPI_SUCCESS && !met) {
        while (ucp_worker_progress(state->worker)) continue;
        result = MPI_Test(&request, &met, MPI_STATUS_IGNORE);
        if (!met) sched_yield();
    }
    return moire_mpi_check(result, &exchange->communicator, "MPI_Ibarrier");
}

static void note(struct state *state, ucs_status_t status)
{
    if (status != UCS_OK && state->failure == UCS_OK) state->failure = status;
}

/* user_data: the state. */
static void end_of_set_up(void *request, ucs_status_t status, void *user_data)
{
    struct state *state = user_data;
    note(state, status);
    state->open--;
    ucp_request_free(request);
}

/* An operation on each end point, and waits for all of them. Returns the first failure. */
static ucs_status_t on_all_peers(struct state *state, int ranks,
                                 ucs_status_ptr_t (*operation)(ucp_ep_h, const ucp_request_param_t *))
{
    const ucp_request_param_t param = { .op_attr_mask =
                                            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                        .cb.send = end_of_set_up,
                                        .user_data = state };
    state->failure = UCS_OK;
    for (int peer = 0; peer < ranks; peer++) {
        if (!state->peers[peer]) continue;
        ucs_status_ptr_t request = operation(state->peers[peer], &param);
        if (UCS_PTR_IS_ERR(request)) note(state, UCS_PTR_STATUS(request));
        if (UCS_PTR_IS_PTR(request)) state->open++;
    }
    while (state->open > 0)
        if (!ucp_worker_progress(state->worker)) sched_yield();
    return state->failure;
}

/* Room for the address of every rank: its bytes are the most of any rank. */
static moire_status gather_addresses(struct moire_exchange *exchange, const void *own, int64_t own_bytes,
                                     int64_t most_bytes, char **addresses)
{
    const struct moire_communicator *communicator = &exchange->communicator;
    int bytes = 0;
    moire_status status = moire_narrow(most_bytes, "the address of a worker", &bytes);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_EXCHANGE, communicator->size * most_bytes, 1, addresses);
    MOIRE_TRY(moire_agree(communicator, status));
    memcpy(*addresses + communicator->rank * most_bytes, own, (size_t)own_bytes);
    return moire_mpi_check(
        MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, *addresses, bytes, MPI_BYTE, communicator->mpi),
        communicator, "MPI_Allgather");
}

static moire_status exchange_addresses(struct moire_exchange *exchange, char **addresses,
                                       int64_t *address_bytes)
{
    const struct state *state = exchange->backend_state;
    ucp_address_t *own = NULL;
    size_t own_bytes = 0;
    MOIRE_TRY(
        moire_agree(&exchange->communicator, check(ucp_worker_get_address(state->worker, &own, &own_bytes),
                                                   "ucp_worker_get_address")));
    *address_bytes = (int64_t)own_bytes;
    moire_status status = moire_max_integers(&exchange->communicator, address_bytes, 1);
    if (status == MOIRE_OK)
        status = gather_addresses(exchange, own, (int64_t)own_bytes, *address_bytes, addresses);
    ucp_worker_release_address(state->worker, own);
    return status;
}

static moire_status create_peers(struct moire_exchange *exchange, const char *addresses,
                                 int64_t address_bytes)
{
    struct state *state = exchange->backend_state;
    for (int peer = 0; peer < exchange->communicator.size; peer++) {
        if (peer == exchange->communicator.rank) continue;
        const ucp_ep_params_t params = { .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS,
                                         .address =
                                             (const ucp_address_t *)(addresses + peer * address_bytes) };
        MOIRE_TRY(check(ucp_ep_create(state->worker, &params, &state->peers[peer]), "ucp_ep_create"));
    }
    return MOIRE_OK;
}

static moire_status connect_peers(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    char *addresses = NULL;
    int64_t address_bytes = 0;
    moire_status status = exchange_addresses(exchange, &addresses, &address_bytes);
    if (status == MOIRE_OK)
        status = moire_agree(&exchange->communicator, create_peers(exchange, addresses, address_bytes));
    moire_release(addresses);
    MOIRE_TRY(status);
    status = check(on_all_peers(state, exchange->communicator.size, ucp_ep_flush_nbx), "ucp_ep_flush_nbx");
    MOIRE_TRY(meet(exchange));
    return moire_agree(&exchange->communicator, status);
}

static moire_status init(struct moire_exchange *exchange)
{
    bool one_node = false;
    MOIRE_TRY(find_one_node(exchange, &one_node));
    MOIRE_TRY(moire_agree(&exchange->communicator, set_up(exchange, one_node)));
    ((struct state *)exchange->backend_state)->has_peers = true;
    MOIRE_TRY(connect_peers(exchange));
    return moire_gate_create(exchange, one_node, &((struct state *)exchange->backend_state)->gate);
}

/* A worker goes only when no peer closes an end point to it any more. What fails here is of no use to
 * anybody. */
static void close_library(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    if (state->has_peers) {
        on_all_peers(state, exchange->communicator.size, ucp_ep_close_nbx);
        if (meet(exchange) != MOIRE_OK) moire_error_clear();
    }
    if (state->worker) ucp_worker_destroy(state->worker);
    if (state->library) ucp_cleanup(state->library);
}

static void free_exchange(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    if (!state) return;
    close_library(exchange);
    moire_gate_free(&state->gate);
    moire_packed_contexts_free(exchange);
    moire_schedule_free(&state->schedule);
    moire_release(state->peers);
    moire_release(state);
}

/* Moving rows. */

static struct state *state_of(const struct moire_transfer *transfer)
{
    return transfer->exchange->backend_state;
}

/* user_data of both: the transfer. */
static void end_of_send(void *request, ucs_status_t status, void *user_data)
{
    struct moire_transfer *transfer = user_data;
    struct context *context = transfer->backend_state;
    note(state_of(transfer), status);
    context->schedule.send.open--;
    ucp_request_free(request);
}

static void end_of_receive(void *request, ucs_status_t status, const ucp_tag_recv_info_t *info,
                           void *user_data)
{
    struct moire_transfer *transfer = user_data;
    struct context *context = transfer->backend_state;
    (void)info;
    note(state_of(transfer), status);
    context->schedule.receive.open--;
    ucp_request_free(request);
}

static ucp_tag_t tag_of(const struct moire_transfer *transfer, int source)
{
    const struct context *context = transfer->backend_state;
    const uint64_t number = (uint64_t)(transfer - transfer->exchange->transfers),
                   step = (uint64_t)(context->steps + context->schedule.packed.step)
                          & ((UINT64_C(1) << STEP_BITS) - 1);
    return number << (STEP_BITS + SOURCE_BITS) | step << SOURCE_BITS | (uint64_t)source;
}

/* A request, if there is one, is freed by its callback. */
static moire_status count_request(ucs_status_ptr_t request, int *open, const char *operation)
{
    if (UCS_PTR_IS_PTR(request)) return MOIRE_OK;
    (*open)--;
    return check_moving(UCS_PTR_STATUS(request), operation);
}

/* In a node a message of less than 256 KiB (UCX_RNDV_SEND_NBR_THRESH) is copied through shared memory: that
 * is quicker than a rendezvous, whose sender must wait until the receiver has made a system call, and then
 * looks again. Between nodes UCX decides. */
static moire_status start_send(struct moire_transfer *transfer, int peer)
{
    const struct moire_exchange *exchange = transfer->exchange;
    struct context *context = transfer->backend_state;
    const struct moire_packed_context *packed = &context->schedule.packed;
    const bool near = exchange->node_of[peer] == exchange->node_of[exchange->communicator.rank];
    const ucp_request_param_t param = { .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK
                                                        | UCP_OP_ATTR_FIELD_USER_DATA
                                                        | UCP_OP_ATTR_FIELD_MEMORY_TYPE
                                                        | (near ? UCP_OP_ATTR_FLAG_FAST_CMPL : 0),
                                        .cb.send = end_of_send,
                                        .user_data = transfer,
                                        .memory_type = UCS_MEMORY_TYPE_HOST };
    return count_request(
        ucp_tag_send_nbx(state_of(transfer)->peers[peer], moire_packed_from(transfer, packed->send_at[peer]),
                         (size_t)(packed->send_rows[peer] * moire_packed_row_bytes(transfer)),
                         tag_of(transfer, exchange->communicator.rank), &param),
        &context->schedule.send.open, "ucp_tag_send_nbx");
}

static moire_status start_receive(struct moire_transfer *transfer, int peer)
{
    struct context *context = transfer->backend_state;
    const struct moire_packed_context *packed = &context->schedule.packed;
    const ucp_request_param_t param = { .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK
                                                        | UCP_OP_ATTR_FIELD_USER_DATA
                                                        | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                        .cb.recv = end_of_receive,
                                        .user_data = transfer,
                                        .memory_type = UCS_MEMORY_TYPE_HOST };
    return count_request(
        ucp_tag_recv_nbx(state_of(transfer)->worker, moire_packed_to(transfer, packed->receive_at[peer]),
                         (size_t)(packed->receive_rows[peer] * moire_packed_row_bytes(transfer)),
                         tag_of(transfer, peer), UINT64_MAX, &param),
        &context->schedule.receive.open, "ucp_tag_recv_nbx");
}

static moire_status start(struct moire_transfer *transfer, bool out, int peer)
{
    return out ? start_send(transfer, peer) : start_receive(transfer, peer);
}

static moire_status test(struct moire_transfer *transfer)
{
    struct state *state = state_of(transfer);
    for (int i = 0; i < EVENTS_AT_ONCE && ucp_worker_progress(state->worker); i++) continue;
    return check_moving(state->failure, "a message");
}

static const struct moire_messages messages = { .start = start, .test = test };

/* By shared memory, a copied message that is done lies in the receiver's queue; but after a rendezvous the
 * answer to the sender may still be here. Whether this rank has received one. */
static bool may_owe(const struct moire_transfer *transfer)
{
    const struct moire_order *order = transfer->plan->private_state;
    const int64_t *begin = transfer->combine ? order->out_begin : order->in_begin;
    const int own = transfer->exchange->communicator.rank;
    if (!state_of(transfer)->in_memory) return true;
    for (int peer = 0; peer < transfer->exchange->communicator.size; peer++)
        if (peer != own && (begin[peer + 1] - begin[peer]) * moire_packed_row_bytes(transfer) >= COPIED_BYTES)
            return true;
    return false;
}

/* All messages of this rank are done. */
static moire_status close_transfer(struct moire_transfer *transfer)
{
    struct context *context = transfer->backend_state;
    return moire_gate_pass(&state_of(transfer)->gate, transfer, &context->pass, may_owe(transfer),
                           &transfer->done);
}

/* What the schedule calls done is not, before all ranks are. */
static moire_status progress(struct moire_transfer *transfer)
{
    const struct context *context = transfer->backend_state;
    if (context->pass.under_way) {
        MOIRE_TRY(test(transfer));
        return close_transfer(transfer);
    }
    MOIRE_TRY(moire_schedule_progress(transfer, &state_of(transfer)->schedule, &messages));
    return transfer->done ? close_transfer(transfer) : MOIRE_OK;
}

/* Without rounds nothing travels anywhere, on any rank. */
static moire_status begin(struct moire_transfer *transfer)
{
    const struct moire_order *order = transfer->plan->private_state;
    struct context *context = transfer->backend_state;
    context->steps += context->schedule.packed.step;
    MOIRE_TRY(moire_schedule_begin(transfer, &state_of(transfer)->schedule, &messages));
    return transfer->done && order->rounds > 0 ? close_transfer(transfer) : MOIRE_OK;
}

static int64_t memory(const struct moire_exchange_sizes *sizes)
{
    return moire_schedule_memory(sizes) + moire_gate_memory(sizes) + (int64_t)sizeof(struct state)
           + sizes->ranks * (int64_t)sizeof(ucp_ep_h)
           + sizes->contexts * (int64_t)(sizeof(struct context) - sizeof(struct moire_schedule_context));
}

static void print(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    const struct state *state = exchange->backend_state;
    snprintf(line, line_bytes, "ucx: %lld bytes a row, at most %d peers in flight each way, UCX %s",
             (long long)moire_exchange_row_bytes(exchange, true), state->schedule.window,
             ucp_get_version_string());
}

const struct moire_backend moire_backend_ucx = {
    .name = "ucx",
    .wins = wins,
    .applicable = applicable,
    .init = init,
    .rows_grow = moire_rows_grow_plain,
    .rows_free = moire_rows_free_plain,
    .plan_create = moire_packed_plan_create,
    .prepare = moire_packed_prepare,
    .begin = begin,
    .progress = progress,
    .take = moire_packed_take,
    .end = moire_packed_end,
    .release = moire_packed_release,
    .volume = moire_packed_volume,
    .memory = memory,
    .print = print,
    .plan_free = moire_packed_plan_free,
    .free = free_exchange,
};

#else

static const char missing[] = "this program was built without UCX";

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    (void)exchange;
    snprintf(why, why_bytes, "%s", missing);
    return false;
}

const struct moire_backend moire_backend_ucx = {
    .name = "ucx",
    .wins = wins,
    .missing = missing,
    .applicable = applicable,
};

#endif
