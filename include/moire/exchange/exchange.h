/* Token exchange: a multicast out and a reduction back.
 *
 * Dispatch sends the row of a token to the instances of its slots. Combine brings rows from there and sums
 * those of each token into the token's row. How many copies travel is the back end's business; what arrives,
 * in which order, and how sums associate is fixed here and the same for every back end, bit for bit. Beside
 * rows, one number a slot travels each way: the slot's weight out, the gradient of the weight back. The
 * backward pass of a layer is the same two moves with the same plan: dispatch the gradients of the outputs,
 * combine the gradients of the inputs.
 *
 * The exchange knows rows, slots and instances, never what an expert computes.
 *
 * Use, once a layer and micro-batch:
 *
 *     moire_exchange_prepare(plan, &routing, status)          collective; counts travel, buffers grow, errors
 *                                                             are agreed
 *     moire_dispatch_begin(plan, ...) .. moire_transfer_end() rows out; no metadata, no allocation
 *     moire_combine_begin(plan, ...) .. moire_transfer_end()  rows back
 *     ... any number of dispatches and combines ...
 *     moire_exchange_release(plan)
 *
 * Legend: T tokens here, D row width, R rows received here, N slots here, C chunks.
 *
 * Chunks: received rows may be taken, and outputs given, chunk by chunk (moire_transfer_chunk) while the other
 * chunks travel. Chunk c of a rank with n instances is the rows of its instances i with floor(i C / n) = c: a
 * run of rows, the same on all ranks, possibly empty. Chunks change when rows move, never the result.
 *
 * Order of received rows: local index of the instance; then nearness of the source (own rank, own node, far);
 * then source rank; then token; then slot (then the order of the slot's targets, should one be there twice).
 *
 * Association of the combine, for one token: its copies (slot, instance) are grouped by node of the instance;
 * within a node they are ordered by instance number, then slot, and summed one after the other, starting from
 * the first row itself; the sums of the nodes of a leaf are summed one after the other in ascending order of
 * nodes, starting from the first; the leaves' sums likewise. A token without copies gets zeros. Numbers of a
 * slot with several instances (slices) are summed in the same way over its instances.
 *
 * Wire type: with bf16 every row is rounded to bfloat16 (to nearest, ties to even) once on its way out, own
 * rows too; on the way back every copy is rounded, then the sum of each node where the exchange has several
 * nodes, then the sum of each leaf where it has several leaves. Sums are made in the element type. So the
 * result depends on the nodes and leaves, and not on the back end, on de-duplication or on which rank an expert
 * is at. Numbers are never rounded.
 *
 * Errors of MPI inside begin, progress and end cannot be agreed on: they come back as MOIRE_MPI_ERROR and the
 * caller ends the job (moire_mpi_abort). */
#ifndef MOIRE_EXCHANGE_EXCHANGE_H
#define MOIRE_EXCHANGE_EXCHANGE_H

#include "moire/base/segment.h"
#include "moire/cluster/communicator.h"
#include "moire/cluster/placement.h"

/* How far a byte goes: to the same rank, in its node, to another node under the same leaf, to another leaf.
 * Without leaves all nodes are under one. */
enum moire_level { MOIRE_LEVEL_SELF, MOIRE_LEVEL_NODE, MOIRE_LEVEL_FAR, MOIRE_LEVEL_SPINE, MOIRE_LEVELS };
const char *moire_level_name(int level); /* "own rank", "in node", "between nodes", "over the spine" */

/* Type of rows under way. MOIRE_WIRE_FP32: rows travel as they are (float64 in double precision too). */
enum moire_wire { MOIRE_WIRE_FP32, MOIRE_WIRE_BF16 };

struct moire_exchange; /* one communicator, placement and back end; any number of plans */

struct moire_exchange_settings {
    const char *backend;   /* name in the table, or "auto" */
    int64_t round_bytes;   /* most bytes to one peer in one MPI call */
    int contexts;          /* most transfers open at once, 1 to 16; each has a communicator of its own */
    moire_element element; /* of rows and numbers */
    int64_t width;         /* D */
    enum moire_wire wire;
    int chunks;            /* C, 1 to 64; 0: 1 */
    int peers_in_flight;   /* most messages of a transfer under way at once, each way; 0: all */
    bool deduplicate;      /* where the back end can: one copy of a row to a node */
    bool check;            /* prepare: compare counts of both sides; always with --enable-debug */
};

/* Finds the back end and lets it set up. `node_of` [size] gives the node of each rank, `leaf_of` [size] the
 * leaf (NULL: one leaf; the ranks of a node have the same), `placement` the instances; all are borrowed until
 * moire_exchange_free. MOIRE_USAGE for an unknown back end (with the nearest name) or one that is not
 * applicable (with its reason), or settings out of range. Failures are agreed. Collective over
 * `communicator`, as is the free. */
moire_status moire_exchange_create(const struct moire_exchange_settings *settings,
                                   const struct moire_communicator *communicator, const int *node_of,
                                   const int *leaf_of, const struct moire_placement *placement,
                                   struct moire_exchange **exchange);
void moire_exchange_free(struct moire_exchange *exchange);
/* "alltoallv"; also one line a back end on standard output for `moire info`: name, when it wins. Not
 * collective. */
const char *moire_exchange_backend(const struct moire_exchange *exchange);
moire_status moire_exchange_check_backend(const char *name); /* MOIRE_USAGE: unknown (the nearest), or not built */
void moire_exchange_print_backends(void);
/* One line on what the back end has chosen, for a log. Not collective. */
void moire_exchange_describe(const struct moire_exchange *exchange, char *line, size_t line_bytes);

/* Buffers on both sides of a transfer come from here (a back end may need shared or registered memory); plain
 * ones that only have to grow with the received rows may too. Contents are undefined after growing. */
struct moire_rows {
    void *data; /* [capacity_rows, width], owned; may move in moire_exchange_prepare only */
    int64_t width;
    int64_t capacity_rows;
    moire_element element;
    moire_memory_kind kind;
    void *backend; /* the back end's own */
};
/* Room for `rows` rows now; 0 is allowed. Failures are agreed. Collective over the exchange's communicator;
 * the free is too (with a NULL exchange it does nothing). */
moire_status moire_rows_create(struct moire_exchange *exchange, moire_memory_kind kind, int64_t width,
                               int64_t rows, struct moire_rows *buffer);
void moire_rows_free(struct moire_exchange *exchange, struct moire_rows *buffer);

/* What a rank brings: token -> slots -> instances. Borrowed from prepare to release. Any token may have no
 * slot, any slot no instance (dropped), and tokens may be 0. */
struct moire_routing {
    int64_t tokens;              /* T */
    int64_t slots;               /* N = slot_begin[T] */
    const int64_t *slot_begin;   /* [T + 1] */
    const int64_t *target_begin; /* [N + 1] slot -> targets; NULL: one target a slot */
    const int64_t *targets;      /* instance numbers of the placement */
};

/* Sizes that memory follows; of a plan: the largest of all its prepares, each by itself. */
struct moire_plan_rows {
    int64_t tokens, slots; /* brought */
    int64_t copies;        /* sent, own-rank ones included */
    int64_t received;      /* own-rank ones included */
    int64_t out, in;       /* to and from other ranks */
    /* rows through relays, sent and relayed, and the copies that they stand for */
    int64_t relayed_out, relayed_out_copies, relayed_in, relayed_in_copies;
};

/* Everything needed to run one exchange. The fields are for reading, valid from prepare to release. */
struct moire_plan {
    struct moire_exchange *exchange;
    struct moire_routing routing;
    int64_t copies;                /* (slot, instance) pairs sent by this rank, own-rank ones included */
    int64_t received_rows;         /* R */
    int64_t received_rows_maximum; /* over the ranks of the communicator */
    int64_t local_instances;
    int64_t *instance_begin; /* [local_instances + 1]: rows of each local instance */
    struct moire_segment *segments; /* a function of the plan alone; ascending first_row, none without rows */
    int64_t segment_count;
    int64_t *chunk_segment; /* [C + 1]: segments of each chunk */
    int64_t rows_out[MOIRE_LEVELS]; /* that one dispatch of this rank sends, as the back end moves them */
    bool prepared;
    struct moire_plan_rows most; /* valid from the first prepare on */
    struct moire_rows **buffers; /* grown with received_rows */
    int buffer_count;
    void *private_state; /* exchange/order.c */
    void *backend_state; /* the back end's own */
};

/* A plan is made once and prepared many times; several may be prepared at once. `buffers` (borrowed) are
 * those that must hold received_rows rows after each prepare; a buffer may be in several plans. Collective,
 * as is the free. */
moire_status moire_plan_create(struct moire_exchange *exchange, struct moire_rows *const *buffers,
                               int buffer_count, struct moire_plan **plan);
void moire_plan_free(struct moire_plan *plan);

/* Exchanges counts, fixes order and segments, grows buffers (geometrically; counted in
 * moire_exchange_growths) and agrees: `local` is this rank's own status (a failure of the router); when any
 * rank failed or cannot grow, all return that failure (see moire_agree) and the plan is not prepared. Also
 * checks that targets are instances of the placement. The time spent in here is the wait for the last rank.
 * `routing` is not looked at where `local` is a failure, and its arrays not where there are no tokens. A
 * prepared plan is released first. Transfers of other plans may be open (they are moved on), of this one not;
 * a buffer of an open transfer cannot grow. A second prepare of the same size allocates nothing. Collective
 * over the exchange's communicator; a rank with zero tokens takes part. */
moire_status moire_exchange_prepare(struct moire_plan *plan, const struct moire_routing *routing,
                                    moire_status local);
void moire_exchange_release(struct moire_plan *plan);
/* How often memory of this rank has grown in prepare: buffers, staging and tables of the order. */
int64_t moire_exchange_growths(const struct moire_exchange *exchange);

/* What an exchange is made for, and what its plans meet. */
struct moire_exchange_sizes {
    const char *backend; /* name in the table; "auto": as alltoallv */
    enum moire_wire wire;
    int chunks, peers_in_flight;
    int ranks; /* of its communicator */
    int nodes, ranks_in_node;
    int buffers; /* of moire_rows_create */
    int64_t instances, local_instances;
    int contexts;
    int64_t width;
    moire_element element;
    int plans;
    const struct moire_plan_rows *rows; /* [plans] */
};
/* Bytes of kind EXCHANGE that such an exchange and its plans come to hold on a rank, without the buffers of
 * moire_rows_create. Those and these grow to what is needed, or by a 32nd part where that is more. Not
 * collective. */
int64_t moire_exchange_memory(const struct moire_exchange_sizes *sizes);

struct moire_transfer; /* an open context */

/* rows [T, D] out to received [R, D]; numbers [N, 1] out to received_numbers [R, 1], or both NULL, alike on
 * all ranks. The buffers must not be touched until moire_transfer_end. The order of begins, and which
 * transfers are open at each, is the same on all ranks; the order of ends is free otherwise. A rank with an
 * open transfer must not wait outside of this folder for one that ends it first. MOIRE_FAILED when all
 * contexts are open, the plan is not prepared, or a buffer has another width or element or too few
 * rows; then nothing has started. Collective in the sense of a non-blocking MPI call. */
moire_status moire_dispatch_begin(struct moire_plan *plan, const struct moire_rows *rows,
                                  const struct moire_rows *numbers, struct moire_rows *received,
                                  struct moire_rows *received_numbers, struct moire_transfer **transfer);
/* outputs [R, D] back and summed into rows [T, D] (overwritten); output_numbers [R, 1] into numbers [N, 1] (a
 * slot without instance gets 0), or both NULL. */
moire_status moire_combine_begin(struct moire_plan *plan, const struct moire_rows *outputs,
                                 const struct moire_rows *output_numbers, struct moire_rows *rows,
                                 struct moire_rows *numbers, struct moire_transfer **transfer);
/* The same, but no row of `outputs` may leave yet: moire_transfer_chunk says which are there, and
 * moire_transfer_end that all are. Others wait for them: say the last chunk before waiting for another
 * transfer that they may end later. */
moire_status moire_combine_open(struct moire_plan *plan, const struct moire_rows *outputs,
                                const struct moire_rows *output_numbers, struct moire_rows *rows,
                                struct moire_rows *numbers, struct moire_transfer **transfer);
/* Begin and end in one. Where no other transfer of the exchange is open a back end may wait inside one call of
 * its library, which costs less than asking again and again. Collective: all ranks call this form. */
moire_status moire_dispatch(struct moire_plan *plan, const struct moire_rows *rows,
                            const struct moire_rows *numbers, struct moire_rows *received,
                            struct moire_rows *received_numbers);
moire_status moire_combine(struct moire_plan *plan, const struct moire_rows *outputs,
                           const struct moire_rows *output_numbers, struct moire_rows *rows,
                           struct moire_rows *numbers);
/* Dispatch: waits until the rows of chunks 0 to `chunk` are in `received` (and moves all open transfers on
 * meanwhile); they may be read from then on. Combine: the rows of chunks 0 to `chunk` in `outputs` are
 * complete; starts to send them, without waiting. Chunks may be skipped and asked for again. `chunk` is 0 to
 * C - 1. */
moire_status moire_transfer_chunk(struct moire_transfer *transfer, int chunk);
/* Moves every open transfer of the exchange on, without waiting. Called between tiles of compute. */
moire_status moire_exchange_progress(struct moire_exchange *exchange);
/* Whether progress has anything to move: an open transfer that is not done. Not collective. */
bool moire_exchange_is_busy(const struct moire_exchange *exchange);
/* Waits (moving all open transfers on and yielding the core) until this one is done, unpacks, closes it. */
moire_status moire_transfer_end(struct moire_transfer *transfer);

/* What one dispatch and one combine of a plan cost, stage by stage: the planner turns stages into seconds. */
struct moire_stage {
    const char *name;                      /* "rows out" */
    int level;                             /* enum moire_level of the slowest wire it uses */
    int64_t messages;                      /* of this rank */
    int64_t bytes_out, bytes_in;           /* of this rank, own-rank rows not counted */
    int64_t node_bytes_out, node_bytes_in; /* of this rank's rows that leave or enter its node */
    int64_t bytes_copied;                  /* by the CPU: packing, unpacking, summing */
    int waits_for;                         /* index of the stage it needs, -1: none */
};
/* At most `room` stages; returns how many there are. Each row counts with its number. Not collective; the
 * plan must be prepared. */
int moire_exchange_volume(const struct moire_plan *plan, struct moire_stage *stages, int room);
/* Bytes that this rank has sent so far, by level: rows and numbers of all transfers; and what prepare sends,
 * counts and, where a back end needs them, lists of rows. Own-rank rows count at MOIRE_LEVEL_SELF. Each byte
 * counts once, at the level of the message that it travels in; a row read through shared memory counts as sent
 * by its owner. */
struct moire_exchange_bytes {
    int64_t rows[MOIRE_LEVELS], numbers[MOIRE_LEVELS], index[MOIRE_LEVELS];
};
void moire_exchange_bytes(const struct moire_exchange *exchange, struct moire_exchange_bytes *bytes);

#endif
