/* Checkpoints in HDF5: one dataset a tensor in its global shape (experts first), readable by h5py, by any
 * number of ranks and any mesh.
 *
 * File: /parameters/NAME, /first_moment/NAME, /second_moment/NAME (groups are given by the caller);
 * /checksums/GROUP/NAME: XXH3-64 of the tensor's bytes, one number for a replicated tensor, one an expert for
 * an expert tensor. Attributes of the root: format_version, step, tokens, seed, sequences, element, and the
 * configuration as text. CHECKPOINT_DIR/step-00000100.h5; "latest" is a symbolic link beside it.
 *
 * Writing has three parts, so that a writer thread can do the middle one: (1) rank 0 reserves the space and
 * lays the file out with HDF5 under a temporary name and the ranks get the offsets of their extents; (2) each
 * rank writes its extents with pwrite and syncs: neither HDF5 nor MPI; (3) the ranks agree, rank 0 renames,
 * syncs the directory, moves "latest" and removes what is beyond keep. A kill at any moment leaves the older
 * checkpoints and "latest" as they were. */
#ifndef MOIRE_IO_CHECKPOINT_H
#define MOIRE_IO_CHECKPOINT_H

#include "moire/base/config.h"
#include "moire/base/tensors.h"
#include "moire/cluster/mesh.h"
#include "moire/cluster/placement.h"
#include "moire/cluster/shares.h"

enum { MOIRE_CHECKPOINT_VERSION = 1 };

/* One arena with the layout of the tensor table; or, where `dense` is not NULL, this rank's shares of such
 * arenas: its share of the dense run, and behind it that of the expert run. */
struct moire_checkpoint_group {
    const char *name; /* "parameters", "first_moment", "second_moment" */
    void *arena;      /* of `element`; read fills it, write reads it */
    const struct moire_shares *dense, *experts; /* borrowed; both or none */
};

struct moire_checkpoint_state {
    int64_t step;      /* optimizer steps done */
    int64_t tokens;    /* training tokens seen */
    int64_t sequences; /* training sequences seen: where the data goes on */
    uint64_t seed;
    char *config; /* configuration as text; owned by whoever filled the state, moire_checkpoint_state_free */
};
void moire_checkpoint_state_free(struct moire_checkpoint_state *state);

/* Writes DIRECTORY/step-N.h5 from all ranks and points "latest" at it. `keep`: newest files that stay, or
 * MOIRE_ALL; files of later steps (of a run that was then resumed further back) go first. Each replicated
 * tensor is written by one rank (spread by bytes), each expert by one of the ranks that hold it. Of shared
 * arenas that rank first collects the tensor, so that for the time of the write the ranks together hold one
 * more copy of what is shared (kind OTHER), an even part each.
 * MOIRE_NO_SPACE before anything older is touched; an old file that cannot be removed is a warning.
 * Collective over mesh->world; errors are agreed. */
moire_status moire_checkpoint_write(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    const struct moire_tensors *tensors, moire_element element,
                                    const struct moire_checkpoint_group *groups, int group_count,
                                    const struct moire_checkpoint_state *state, const char *directory,
                                    int64_t keep);
/* Reads the groups of a checkpoint into arenas of this mesh's layout and verifies every checksum that it
 * reads. MOIRE_BAD_DATA: another shape (tensor, found, expected), a missing or unexpected tensor, truncated,
 * a checksum (tensor and expert named), another version. Rank 0 reads replicated tensors and broadcasts;
 * experts are read by the ranks that hold them; of shared arenas each rank reads its share, and one that
 * would have read the tensor verifies all of it. Collective over mesh->world; errors are agreed. */
moire_status moire_checkpoint_read(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                                   moire_element element, const struct moire_checkpoint_group *groups,
                                   int group_count, const char *path, struct moire_checkpoint_state *state);

/* Only the attributes. Not collective. */
moire_status moire_checkpoint_read_state(const char *path, struct moire_checkpoint_state *state);
/* Every checksum of every dataset, without a model. Not collective. */
moire_status moire_checkpoint_verify(const char *path);
/* Attributes, then one line a tensor (name, shape, element, bytes, checksum state when `verify`), on standard
 * output. Not collective. */
moire_status moire_checkpoint_print(const char *path, bool verify);
/* DIRECTORY/latest resolved, or *path = NULL when there is none; the caller releases *path. Where the
 * link dangles, or is missing beside complete files, the newest of them is taken, with a warning. Not
 * collective. */
moire_status moire_checkpoint_latest(const char *directory, char **path);
/* Whether the file is HDF5 with our attributes. */
bool moire_checkpoint_is(const char *path);

#endif
