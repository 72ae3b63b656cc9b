/* Named communicators, checked narrowing of counts, and agreement.
 *
 * Every collective function below returns MOIRE_MPI_ERROR, with MPI's own text and the communicator's name in
 * the message, when MPI reports an error. */
#ifndef MOIRE_CLUSTER_COMMUNICATOR_H
#define MOIRE_CLUSTER_COMMUNICATOR_H

#include <mpi.h>

#include "moire/base/element.h"
#include "moire/base/status.h"

struct moire_communicator {
    MPI_Comm mpi;      /* owned, MPI_ERRORS_RETURN */
    int rank, size;    /* size 0: empty, as a zeroed struct is */
    char name[32];     /* "world", "expert", "data", "node"; also MPI's name of it */
};

/* MPI_Init_thread with FUNNELED (MULTIPLE where asked for), sets moire_where, and finds N ranks that were
 * started as N single-rank jobs: when the world has one rank but the launcher's variables
 * (OMPI_COMM_WORLD_SIZE, PMI_SIZE, PALS_NRANKS, ..., in a Slurm step SLURM_STEP_NUM_TASKS) say more,
 * MOIRE_USAGE with found, expected and the remedy. The failure is agreed but not printed: it is pending on
 * the first rank only. Where MPI runs already it is taken over, and moire_mpi_stop leaves it running. Also
 * after a failure moire_mpi_stop is due. Collective over the job. */
moire_status moire_mpi_start(bool multiple);
/* MPI_Finalize; does nothing where moire_mpi_start did not start MPI. Collective over the job. */
void moire_mpi_stop(void);
bool moire_mpi_is_running(void);
/* Whether a launcher started this process together with others; known before MPI runs. Not collective. */
bool moire_mpi_is_launched(void);
/* Ends every rank at once with this exit code (MPI_Abort); without MPI, this process. Not collective. */
void moire_mpi_abort(int exit_code) __attribute__((noreturn));

/* A copy of the world, with a context of its own. Collective over the world. */
moire_status moire_communicator_world(struct moire_communicator *communicator);
/* MPI_Comm_split; MPI_UNDEFINED as color gives an empty communicator. Collective over `parent`. */
moire_status moire_communicator_split(const struct moire_communicator *parent, const char *name, int color,
                                      int key, struct moire_communicator *communicator);
/* The ranks of `parent` that share a node, in the order of `parent`. Collective over `parent`. */
moire_status moire_communicator_split_node(const struct moire_communicator *parent, const char *name,
                                           struct moire_communicator *communicator);
/* MPI_Comm_dup. Collective over `parent`. */
moire_status moire_communicator_copy(const struct moire_communicator *parent, const char *name,
                                     struct moire_communicator *communicator);
/* Collective over it; an empty one is allowed. */
void moire_communicator_free(struct moire_communicator *communicator);

/* MPI result to status, with the operation's name in the message. Not collective. */
moire_status moire_mpi_check(int mpi_result, const struct moire_communicator *communicator,
                             const char *operation);
/* The only way from int64_t to an MPI count: MOIRE_FAILED naming `what` when it does not fit. Not
 * collective. */
moire_status moire_narrow(int64_t count, const char *what, int *narrow);

/* Agreement: every rank brings its status; all leave with MOIRE_OK, or all with the status of the lowest rank
 * that failed. Only that rank prints its message; the others drop theirs. No error is pending afterwards, and
 * moire_error_is_agreed() is true. A success costs one reduction of 8 bytes. Collective over the
 * communicator. */
moire_status moire_agree(const struct moire_communicator *communicator, moire_status status);

/* Reductions in place, cut into pieces where counts do not fit an int. Collective. */
moire_status moire_sum(const struct moire_communicator *communicator, void *values, int64_t count,
                       moire_element element);
moire_status moire_sum_integers(const struct moire_communicator *communicator, int64_t *values,
                                int64_t count);
moire_status moire_max_integers(const struct moire_communicator *communicator, int64_t *values,
                                int64_t count);
moire_status moire_max_reals(const struct moire_communicator *communicator, double *values, int64_t count);
/* Exclusive prefix sum over ranks: values[i] becomes the sum over lower ranks; rank 0 gets zeros.
 * Collective. */
moire_status moire_prefix_sum_integers(const struct moire_communicator *communicator, int64_t *values,
                                       int64_t count);
/* From `root` to all, in pieces. Collective. */
moire_status moire_broadcast(const struct moire_communicator *communicator, void *data, int64_t bytes,
                             int root);
/* All ranks must have the same value; else MOIRE_USAGE, agreed, naming `what` and the lowest rank that
 * differs from rank 0. Collective. */
moire_status moire_check_same(const struct moire_communicator *communicator, uint64_t value,
                              const char *what);

#endif
