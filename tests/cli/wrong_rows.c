/* Linked in front of MPI: every MPI_Alltoallv and MPI_Ialltoallv of rows (they have a type of their own,
 * counts have not) changes a bit of what goes to another rank. It turns `moire` into a program whose exchange
 * is wrong. */
#include <mpi.h>

enum { WRONG_BIT = 0x40 };

/* The first byte of a row that goes to another rank; NULL: none does. */
static unsigned char *first_byte(const void *send, const int *counts, const int *displacements,
                                 MPI_Datatype type, MPI_Comm communicator)
{
    int rank, ranks, integers, addresses, types, combiner;
    MPI_Aint low, extent;
    MPI_Type_get_envelope(type, &integers, &addresses, &types, &combiner);
    if (combiner == MPI_COMBINER_NAMED) return NULL;
    MPI_Comm_rank(communicator, &rank);
    MPI_Comm_size(communicator, &ranks);
    MPI_Type_get_extent(type, &low, &extent);
    for (int peer = 0; peer < ranks; peer++)
        if (peer != rank && counts[peer] > 0) return (unsigned char *)send + displacements[peer] * extent;
    return NULL;
}

static void change(const void *send, const int *counts, const int *displacements, MPI_Datatype type,
                   MPI_Comm communicator)
{
    unsigned char *byte = first_byte(send, counts, displacements, type, communicator);
    if (byte) byte[2] ^= WRONG_BIT; /* of the fraction of a float */
}

int MPI_Alltoallv(const void *send, const int send_counts[], const int send_displacements[],
                  MPI_Datatype send_type, void *receive, const int receive_counts[],
                  const int receive_displacements[], MPI_Datatype receive_type, MPI_Comm communicator)
{
    change(send, send_counts, send_displacements, send_type, communicator);
    return PMPI_Alltoallv(send, send_counts, send_displacements, send_type, receive, receive_counts,
                          receive_displacements, receive_type, communicator);
}

int MPI_Ialltoallv(const void *send, const int send_counts[], const int send_displacements[],
                   MPI_Datatype send_type, void *receive, const int receive_counts[],
                   const int receive_displacements[], MPI_Datatype receive_type, MPI_Comm communicator,
                   MPI_Request *request)
{
    change(send, send_counts, send_displacements, send_type, communicator);
    return PMPI_Ialltoallv(send, send_counts, send_displacements, send_type, receive, receive_counts,
                           receive_displacements, receive_type, communicator, request);
}
