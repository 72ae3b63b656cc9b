#include "moire/cluster/shares.h"

#include <string.h>

#include "cluster/pieces.h"
#include "moire/base/memory.h"
#include "moire/cluster/mesh.h"

enum { COLLECT_TAG = 1 };

static bool is_cut(const struct moire_shares *shares)
{
    return shares->communicator != NULL;
}

static moire_status cut(struct moire_shares *shares)
{
    const struct moire_communicator *communicator = shares->communicator;
    const int ranks = communicator->size;
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    MOIRE_TRY(moire_allocate(kind, ranks + 1, sizeof *shares->begin, &shares->begin));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof *shares->counts, &shares->counts));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof *shares->displacements, &shares->displacements));
    int64_t blocks = shares->elements / MOIRE_SHARE_BLOCK;
    int narrow;
    MOIRE_TRY(moire_narrow(blocks, "blocks of elements that ranks share", &narrow));
    for (int rank = 0; rank < ranks; rank++) {
        int64_t first;
        int64_t count = moire_share(blocks, ranks, rank, &first);
        shares->begin[rank] = first * MOIRE_SHARE_BLOCK;
        shares->begin[rank + 1] = (first + count) * MOIRE_SHARE_BLOCK;
    }
    shares->first = shares->begin[communicator->rank];
    shares->count = shares->begin[communicator->rank + 1] - shares->first;
    MPI_Datatype type = shares->element == MOIRE_FLOAT64 ? MPI_DOUBLE : MPI_FLOAT;
    MOIRE_TRY(moire_mpi_check(MPI_Type_contiguous(MOIRE_SHARE_BLOCK, type, &shares->block), communicator,
                              "MPI_Type_contiguous"));
    return moire_mpi_check(MPI_Type_commit(&shares->block), communicator, "MPI_Type_commit");
}

moire_status moire_shares_create(const struct moire_communicator *communicator, int64_t elements,
                                 moire_element element, struct moire_shares *shares)
{
    struct moire_shares new = { .elements = elements, .count = elements, .element = element };
    if (elements % MOIRE_SHARE_BLOCK != 0)
        return moire_fail(MOIRE_FAILED, "a run cannot be shared; found %lld elements, expected a multiple of %d",
                          (long long)elements, MOIRE_SHARE_BLOCK);
    if (communicator && communicator->size > 1) {
        new.communicator = communicator;
        new.block = MPI_DATATYPE_NULL;
        moire_status status = cut(&new);
        if (status != MOIRE_OK) {
            moire_shares_free(&new);
            return status;
        }
    }
    *shares = new;
    return MOIRE_OK;
}

void moire_shares_free(struct moire_shares *shares)
{
    if (is_cut(shares) && shares->block != MPI_DATATYPE_NULL) MPI_Type_free(&shares->block);
    moire_release(shares->displacements);
    moire_release(shares->counts);
    moire_release(shares->begin);
    memset(shares, 0, sizeof *shares);
}

/* Blocks of one rank in one call; the ranks together stay below moire_piece_bytes where that is possible. */
static int64_t piece_blocks(const struct moire_shares *shares)
{
    int64_t bytes = MOIRE_SHARE_BLOCK * (int64_t)moire_element_bytes(shares->element);
    int64_t blocks = moire_piece_bytes / bytes / shares->communicator->size;
    return blocks > 0 ? blocks : 1;
}

moire_status moire_shares_gather(const struct moire_shares *shares, void *run)
{
    if (!is_cut(shares)) return MOIRE_OK;
    const struct moire_communicator *communicator = shares->communicator;
    const int64_t *begin = shares->begin, piece = piece_blocks(shares);
    int64_t largest = begin[1] / MOIRE_SHARE_BLOCK; /* the first share is as large as any */
    for (int64_t done = 0; done < largest; done += piece) {
        for (int rank = 0; rank < communicator->size; rank++) {
            int64_t left = (begin[rank + 1] - begin[rank]) / MOIRE_SHARE_BLOCK - done;
            int64_t now = left < 0 ? 0 : left < piece ? left : piece;
            MOIRE_TRY(moire_narrow(now, "blocks of a share", &shares->counts[rank]));
            MOIRE_TRY(moire_narrow(begin[rank] / MOIRE_SHARE_BLOCK + (now ? done : 0), "the place of a share",
                                   &shares->displacements[rank]));
        }
        int result = MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, run, shares->counts,
                                    shares->displacements, shares->block, communicator->mpi);
        MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Allgatherv"));
    }
    return MOIRE_OK;
}

/* `bytes` from rank `from` to `root`, in pieces. */
static moire_status move(const struct moire_communicator *communicator, int from, int root, char *data,
                         int64_t bytes)
{
    for (int64_t done = 0; done < bytes;) {
        int now, result;
        int64_t left = bytes - done;
        MOIRE_TRY(moire_narrow(left < moire_piece_bytes ? left : moire_piece_bytes, "bytes of a share", &now));
        if (communicator->rank == root)
            result = MPI_Recv(data + done, now, MPI_BYTE, from, COLLECT_TAG, communicator->mpi,
                              MPI_STATUS_IGNORE);
        else
            result = MPI_Send(data + done, now, MPI_BYTE, root, COLLECT_TAG, communicator->mpi);
        MOIRE_TRY(moire_mpi_check(result, communicator, "MPI_Send or MPI_Recv"));
        done += now;
    }
    return MOIRE_OK;
}

moire_status moire_shares_collect(const struct moire_shares *shares, const void *share, int64_t first,
                                  int64_t count, int root, void *range)
{
    const struct moire_communicator *communicator = shares->communicator;
    const int64_t bytes_each = (int64_t)moire_element_bytes(shares->element);
    moire_assert(is_cut(shares));
    for (int rank = 0; rank < communicator->size; rank++) {
        int64_t from, begin = shares->begin[rank];
        int64_t common = moire_overlap(first, count, begin, shares->begin[rank + 1] - begin, &from);
        char *to = (char *)range + (from - first) * bytes_each;
        char *own = (char *)share + (from - begin) * bytes_each;
        if (common == 0 || (communicator->rank != rank && communicator->rank != root)) continue;
        if (rank == root)
            memcpy(to, own, (size_t)(common * bytes_each));
        else
            MOIRE_TRY(move(communicator, rank, root, communicator->rank == root ? to : own,
                           common * bytes_each));
    }
    return MOIRE_OK;
}
