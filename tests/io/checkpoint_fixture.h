/* A small model on a mesh, with contents that are a function of a seed, and folders to write it to. */
#ifndef MOIRE_TESTS_CHECKPOINT_FIXTURE_H
#define MOIRE_TESTS_CHECKPOINT_FIXTURE_H

#include "moire/io/checkpoint.h"

enum { FIXTURE_GROUPS = 3 };

struct fixture {
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_placement placement;
    struct moire_tensors tensors;
    moire_element element;
    void *arenas[FIXTURE_GROUPS]; /* owned */
    struct moire_checkpoint_group groups[FIXTURE_GROUPS];
};

/* What the tables of two fixtures may differ in. */
struct fixture_shape {
    int64_t parallel_expert;  /* ranks, or MOIRE_ALL */
    int64_t experts;          /* 0: no expert tensors */
    int64_t width;            /* of all tensors but one */
    moire_element element;
    const char *without;      /* name of a tensor that is left out, or NULL */
};

/* Whether this many ranks can be split so. */
bool fixture_fits(int64_t parallel_expert, int ranks);
/* Collective; ends the program when it fails. Arenas are zero. */
void fixture_open(struct fixture_shape shape, struct fixture *fixture);
void fixture_close(struct fixture *fixture);
/* Other contents for every group, tensor and element; the same for any mesh. */
void fixture_fill(struct fixture *fixture, uint64_t seed);
/* Whether the first `groups` arenas have these bytes. */
bool fixture_equal(const struct fixture *fixture, uint64_t seed, int groups);
/* Writes with state step, tokens = 7 step, sequences = 3 step, seed and `config`. Collective. */
moire_status fixture_write(struct fixture *fixture, int64_t step, const char *config, const char *directory,
                           int64_t keep);

/* An empty folder, the same on all ranks; and its end. Collective. */
void folder_make(char path[256]);
void folder_remove(const char *path);
/* FOLDER/NAME in a static buffer, one of four. */
const char *in_folder(const char *folder, const char *name);
bool is_there(const char *folder, const char *name);
/* Entries of a folder. */
int64_t folder_count(const char *folder);
/* One byte of a file turned around, in place. Not collective. */
void flip_byte(const char *path, int64_t offset);
void copy_file(const char *from, const char *to,
               int64_t bytes); /* the first `bytes`, -1: all; not collective */
/* Rank 0 does it and the others wait. */
#define on_root(...)                       \
    do {                                   \
        MPI_Barrier(MPI_COMM_WORLD);       \
        if (test_rank == 0) {              \
            __VA_ARGS__;                   \
        }                                  \
        MPI_Barrier(MPI_COMM_WORLD);       \
    } while (0)

/* Added over ranks. */
int sum_over_ranks(int value);
/* The call, collective, must fail with `wanted` on all ranks, agreed, and one rank must say `said`. */
#define expect_agreed(call, wanted, said)                                                    \
    do {                                                                                     \
        static struct capture captured_;                                                     \
        capture_begin(&captured_, STDERR_FILENO);                                            \
        moire_status found_ = (call);                                                        \
        capture_end(&captured_);                                                             \
        bool said_ = sum_over_ranks(count_text(captured_.text, "moire: ")) == 1 &&           \
                     sum_over_ranks(count_text(captured_.text, (said))) == 1;                \
        if (!said_) fprintf(stderr, "# rank %d: said: %s\n", test_rank, captured_.text);     \
        expect(found_ == (wanted));                                                          \
        expect(said_);                                                                       \
        expect(moire_error_is_agreed());                                                     \
        moire_error_clear();                                                                 \
    } while (0)

#endif
