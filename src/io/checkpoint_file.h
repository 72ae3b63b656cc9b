/* What the files of the checkpoint share.
 *
 *   checkpoint.c            the three parts of writing, and their order
 *   checkpoint_shares.c     arenas that ranks share: collected for writing, read in part
 *   checkpoint_layout.c     HDF5: an empty file with every dataset in its place
 *   checkpoint_directory.c  names, "latest", what is kept
 *   checkpoint_catalogue.c  HDF5: what is in a file and where
 *   checkpoint_read.c       from the catalogue to the arenas
 *   checkpoint_inspect.c    verify and print */
#ifndef IO_CHECKPOINT_FILE_H
#define IO_CHECKPOINT_FILE_H

#include "moire/io/checkpoint.h"

#define MOIRE_CHECKSUMS_GROUP "checksums"

/* Paths of one checkpoint. */
struct moire_checkpoint_paths {
    char *final;    /* owned: DIRECTORY/step-00000100.h5 */
    char *partial;  /* owned: DIRECTORY/.step-00000100.h5.partial */
};
moire_status moire_checkpoint_paths_create(const char *directory, int64_t step,
                                           struct moire_checkpoint_paths *paths);
void moire_checkpoint_paths_free(struct moire_checkpoint_paths *paths);

/* The steps below are rank 0's; not collective. */

/* Makes the directory and removes what a killed writer left. */
moire_status moire_checkpoint_prepare_directory(const char *directory);
/* Partial to final name, then "latest"; each synced. When it fails the older files and "latest" are as they
 * were. */
moire_status moire_checkpoint_rename(const char *directory, int64_t step,
                                     const struct moire_checkpoint_paths *paths);
/* Removes all but `keep` files. First to stay is the file of `step`, then older steps, the newest first, then
 * files of later steps: those are of a run that was resumed further back. A file that cannot be removed is a
 * warning. */
void moire_checkpoint_remove_old(const char *directory, int64_t step, int64_t keep);

/* Where one tensor of one group is in the file. */
struct moire_checkpoint_place {
    int64_t data;      /* byte offset of its elements */
    int64_t checksums; /* byte offset of its checksum, or of the first of E */
    int writer;        /* world rank, of a replicated tensor */
};
/* Writes an empty file of the final size, its space reserved, with all datasets and attributes, and finds
 * places[group_count * tensors->count], by group, then tensor. */
moire_status moire_checkpoint_lay_out(const char *path, const struct moire_tensors *tensors,
                                      moire_element element, const struct moire_checkpoint_group *groups,
                                      int group_count, const struct moire_checkpoint_state *state,
                                      struct moire_checkpoint_place *places);

/* Some bytes that one rank writes, and their checksum. */
struct moire_checkpoint_extent {
    const void *data;
    void *collected; /* owned: the data, where it was collected from several ranks; else NULL */
    int64_t bytes;
    int64_t offset;
    int64_t checksum_offset;
};
/* What one rank has to write: the whole input of part 2. */
struct moire_checkpoint_job {
    struct moire_checkpoint_paths paths;
    struct moire_checkpoint_extent *extents; /* owned */
    int64_t count, capacity;
};
void moire_checkpoint_job_free(struct moire_checkpoint_job *job);
/* Part 1. Collective over mesh->world; errors are agreed and leave no file. */
moire_status moire_checkpoint_begin(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    const struct moire_tensors *tensors, moire_element element,
                                    const struct moire_checkpoint_group *groups, int group_count,
                                    const struct moire_checkpoint_state *state, const char *directory,
                                    struct moire_checkpoint_job *job);
/* Whether elements of this tensor of the group are shared between ranks. */
bool moire_checkpoint_is_shared(const struct moire_checkpoint_group *group, const struct moire_tensor *tensor);
/* This rank's number in the placement of the first instance of an expert, and whether the copy of its expert
 * group is the one that is written. */
bool moire_checkpoint_writes_expert(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                    int64_t instance);
/* Fills the extents of shared tensors: each goes to the rank that writes it. Collective over mesh->world; an
 * error of MPI ends the job. */
moire_status moire_checkpoint_collect(const struct moire_mesh *mesh, const struct moire_placement *placement,
                                      const struct moire_tensors *tensors,
                                      const struct moire_checkpoint_group *groups, int group_count,
                                      const struct moire_checkpoint_place *places,
                                      const struct moire_checkpoint_job *job);

/* Bytes of a file that hold one tensor, or one expert of it. */
struct moire_checkpoint_slice {
    const char *path;
    int descriptor;
    const char *group;
    const struct moire_tensor *tensor;
    int64_t expert; /* global; -1: a replicated tensor */
    int64_t bytes, offset;
    uint64_t checksum;
};
/* Reads of the slice, whose first element is element `at` of an arena, what this rank has of the group; with
 * `verify` also the rest, for the checksum. Not collective. */
moire_status moire_checkpoint_read_shared(const struct moire_checkpoint_slice *slice,
                                          const struct moire_tensors *tensors,
                                          const struct moire_checkpoint_group *group, int64_t element_bytes,
                                          int64_t at, bool verify);

/* Part 2. Neither HDF5 nor MPI; not collective. Rank 0 calls it with no extents too: it syncs what part 1
 * wrote. */
moire_status moire_checkpoint_store(const struct moire_checkpoint_job *job);
/* Part 3. `status`: what part 2 gave on this rank. Collective over mesh->world; errors are agreed and leave
 * no partial file. */
moire_status moire_checkpoint_publish(const struct moire_mesh *mesh, const struct moire_checkpoint_job *job,
                                      moire_status status, int64_t step, const char *directory, int64_t keep);

/* One tensor as the file describes it. */
struct moire_catalogue_entry {
    char group[MOIRE_TENSOR_NAME], name[MOIRE_TENSOR_NAME];
    int dimensions;
    int64_t shape[MOIRE_TENSOR_DIMENSIONS];
    moire_element element;
    bool by_expert;          /* has one checksum an expert */
    int64_t slices;          /* checksums: shape[0] by expert, else 1 */
    int64_t bytes, offset;   /* of the elements; a slice is bytes / slices */
    int64_t first_checksum;  /* index of its first in checksums */
};
struct moire_catalogue {
    struct moire_checkpoint_state state;
    moire_element element;
    struct moire_catalogue_entry *entries; /* owned; sorted by group, then name */
    int64_t count, capacity;
    uint64_t *checksums;     /* owned */
    int64_t checksum_count, checksum_capacity;
};
/* Opens and checks the file. `groups`: the ones that are wanted, each must be there; NULL: all. Not
 * collective. */
moire_status moire_catalogue_read(const char *path, const struct moire_checkpoint_group *groups,
                                  int group_count, struct moire_catalogue *catalogue);
void moire_catalogue_free(struct moire_catalogue *catalogue);
const struct moire_catalogue_entry *moire_catalogue_find(const struct moire_catalogue *catalogue,
                                                         const char *group, const char *name);

/* MOIRE_BAD_DATA when the two differ; expert -1: a replicated tensor. */
moire_status moire_checkpoint_compare(const char *path, const char *group, const char *name, int64_t expert,
                                      uint64_t found, uint64_t expected);
/* "8 x 1024 x 256" */
void moire_checkpoint_shape_text(int dimensions, const int64_t *shape, char *text, size_t bytes);

#endif
