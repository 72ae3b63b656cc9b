#include "moire/cluster/communicator.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cluster/pieces.h"

int64_t moire_piece_bytes = (int64_t)1 << 30;

static bool is_empty(const struct moire_communicator *communicator)
{
    return communicator->size == 0; /* a zeroed struct too, whose handle is not MPI_COMM_NULL */
}

moire_status moire_mpi_check(int mpi_result, const struct moire_communicator *communicator,
                             const char *operation)
{
    if (mpi_result == MPI_SUCCESS) return MOIRE_OK;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(mpi_result, text, &length) != MPI_SUCCESS)
        snprintf(text, sizeof text, "error code %d", mpi_result);
    const char *name = communicator && communicator->name[0] ? communicator->name : "unnamed";
    return moire_fail(MOIRE_MPI_ERROR, "%s failed on communicator %s: %s", operation, name, text);
}

moire_status moire_narrow(int64_t count, const char *what, int *narrow)
{
    if (count < 0 || count > INT_MAX)
        return moire_fail(MOIRE_FAILED,
                          "%s does not fit an MPI count; found %lld, expected 0 to %d; use more ranks or a "
                          "smaller batch", what, (long long)count, INT_MAX);
    *narrow = (int)count;
    return MOIRE_OK;
}

/* Takes over a new handle; it is freed again when it cannot be set up. */
static moire_status adopt(MPI_Comm mpi, const char *name, struct moire_communicator *communicator)
{
    struct moire_communicator new = { .mpi = mpi, .rank = -1 };
    snprintf(new.name, sizeof new.name, "%s", name);
    if (mpi != MPI_COMM_NULL) {
        MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN);
        int result = MPI_Comm_rank(mpi, &new.rank);
        if (result == MPI_SUCCESS) result = MPI_Comm_size(mpi, &new.size);
        if (result == MPI_SUCCESS) result = MPI_Comm_set_name(mpi, new.name);
        if (result != MPI_SUCCESS) {
            MPI_Comm_free(&mpi);
            return moire_mpi_check(result, &new, "setting up a communicator");
        }
    }
    *communicator = new;
    return MOIRE_OK;
}

moire_status moire_communicator_world(struct moire_communicator *communicator)
{
    const struct moire_communicator all = { .mpi = MPI_COMM_WORLD, .name = "MPI_COMM_WORLD" };
    return moire_communicator_copy(&all, "world", communicator);
}

moire_status moire_communicator_copy(const struct moire_communicator *parent, const char *name,
                                     struct moire_communicator *communicator)
{
    MPI_Comm mpi;
    MOIRE_TRY(moire_mpi_check(MPI_Comm_dup(parent->mpi, &mpi), parent, "MPI_Comm_dup"));
    return adopt(mpi, name, communicator);
}

moire_status moire_communicator_split(const struct moire_communicator *parent, const char *name, int color,
                                      int key, struct moire_communicator *communicator)
{
    MPI_Comm mpi;
    MOIRE_TRY(moire_mpi_check(MPI_Comm_split(parent->mpi, color, key, &mpi), parent, "MPI_Comm_split"));
    return adopt(mpi, name, communicator);
}

moire_status moire_communicator_split_node(const struct moire_communicator *parent, const char *name,
                                           struct moire_communicator *communicator)
{
    MPI_Comm mpi;
    int result = MPI_Comm_split_type(parent->mpi, MPI_COMM_TYPE_SHARED, parent->rank, MPI_INFO_NULL, &mpi);
    MOIRE_TRY(moire_mpi_check(result, parent, "MPI_Comm_split_type"));
    return adopt(mpi, name, communicator);
}

void moire_communicator_free(struct moire_communicator *communicator)
{
    if (!is_empty(communicator)) MPI_Comm_free(&communicator->mpi);
    *communicator = (struct moire_communicator){ .mpi = MPI_COMM_NULL, .rank = -1 };
}

/* One number says who failed first and how, so that a success costs one small reduction. */
enum { STATUS_BITS = 8 };

moire_status moire_agree(const struct moire_communicator *communicator, moire_status status)
{
    int64_t key = INT64_MAX;
    if (status != MOIRE_OK) key = ((int64_t)communicator->rank << STATUS_BITS) | (int64_t)status;
    int result = MPI_Allreduce(MPI_IN_PLACE, &key, 1, MPI_INT64_T, MPI_MIN, communicator->mpi);
    MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Allreduce"));
    if (key == INT64_MAX) return MOIRE_OK;
    if (key >> STATUS_BITS == communicator->rank)
        moire_error_print();
    else
        moire_error_clear();
    moire_error_set_agreed(true);
    return (moire_status)(key & ((1 << STATUS_BITS) - 1));
}

/* Elements of one piece; at least one. */
static int64_t piece_elements(size_t bytes_each)
{
    int64_t elements = moire_piece_bytes / (int64_t)bytes_each;
    return elements > 0 ? elements : 1;
}

static int next_piece(int64_t left, int64_t piece)
{
    return (int)(left < piece ? left : piece); /* at most moire_piece_bytes */
}

static moire_status reduce(const struct moire_communicator *communicator, void *values, int64_t count,
                           MPI_Datatype type, size_t bytes_each, MPI_Op operation)
{
    int64_t piece = piece_elements(bytes_each);
    for (int64_t done = 0; done < count; done += piece) {
        int now = next_piece(count - done, piece);
        char *part = (char *)values + done * (int64_t)bytes_each;
        int result = MPI_Allreduce(MPI_IN_PLACE, part, now, type, operation, communicator->mpi);
        MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Allreduce"));
    }
    return MOIRE_OK;
}

moire_status moire_sum(const struct moire_communicator *communicator, void *values, int64_t count,
                       moire_element element)
{
    MPI_Datatype type = element == MOIRE_FLOAT64 ? MPI_DOUBLE : MPI_FLOAT;
    return reduce(communicator, values, count, type, moire_element_bytes(element), MPI_SUM);
}

moire_status moire_sum_integers(const struct moire_communicator *communicator, int64_t *values, int64_t count)
{
    return reduce(communicator, values, count, MPI_INT64_T, sizeof *values, MPI_SUM);
}

moire_status moire_max_integers(const struct moire_communicator *communicator, int64_t *values, int64_t count)
{
    return reduce(communicator, values, count, MPI_INT64_T, sizeof *values, MPI_MAX);
}

moire_status moire_max_reals(const struct moire_communicator *communicator, double *values, int64_t count)
{
    return reduce(communicator, values, count, MPI_DOUBLE, sizeof *values, MPI_MAX);
}

moire_status moire_prefix_sum_integers(const struct moire_communicator *communicator, int64_t *values,
                                       int64_t count)
{
    int64_t piece = piece_elements(sizeof *values);
    for (int64_t done = 0; done < count; done += piece) {
        int now = next_piece(count - done, piece);
        int result = MPI_Exscan(MPI_IN_PLACE, values + done, now, MPI_INT64_T, MPI_SUM, communicator->mpi);
        MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Exscan"));
    }
    if (communicator->rank == 0 && count > 0)
        memset(values, 0, (size_t)count * sizeof *values); /* MPI leaves it undefined */
    return MOIRE_OK;
}

moire_status moire_broadcast(const struct moire_communicator *communicator, void *data, int64_t bytes,
                             int root)
{
    int64_t piece = piece_elements(1);
    for (int64_t done = 0; done < bytes; done += piece) {
        int now = next_piece(bytes - done, piece);
        int result = MPI_Bcast((char *)data + done, now, MPI_BYTE, root, communicator->mpi);
        MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Bcast"));
    }
    return MOIRE_OK;
}

moire_status moire_check_same(const struct moire_communicator *communicator, uint64_t value, const char *what)
{
    uint64_t first = value;
    moire_status status = MOIRE_OK;
    MOIRE_TRY(moire_broadcast(communicator, &first, sizeof first, 0));
    if (value != first)
        status = moire_fail(MOIRE_USAGE,
                            "%s differs between ranks; found %016llx on rank %d of %s, expected %016llx as "
                            "on rank 0; give every rank the same files, arguments and environment",
                            what, (unsigned long long)value, communicator->rank, communicator->name,
                            (unsigned long long)first);
    return moire_agree(communicator, status);
}
