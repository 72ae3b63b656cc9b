/* The table of tensors: one description of every parameter that drives initialisation, optimizer, gradient
 * sync, checkpoint and `moire inspect`. Parameters, gradients and moments are arenas of the same layout:
 * tensor t of an arena starts at element t->offset. Dense tensors come first, expert tensors after them, so
 * that each of the two is one contiguous run with its own reduction group. Not collective. */
#ifndef MOIRE_BASE_TENSORS_H
#define MOIRE_BASE_TENSORS_H

#include "moire/base/element.h"
#include "moire/base/memory.h"

enum { MOIRE_TENSOR_NAME = 64, MOIRE_TENSOR_DIMENSIONS = 3 };

typedef enum { MOIRE_REPLICATED, MOIRE_BY_EXPERT } moire_sharding;
typedef enum { MOIRE_INIT_ZERO, MOIRE_INIT_ONE, MOIRE_INIT_NORMAL } moire_initialiser;

struct moire_tensor {
    char name[MOIRE_TENSOR_NAME]; /* "layers.3.experts.w1"; also the dataset's name in a checkpoint */
    int dimensions;
    int64_t shape[MOIRE_TENSOR_DIMENSIONS]; /* global; by expert: shape[0] = E */
    moire_sharding sharding;
    moire_initialiser initialiser;
    double deviation; /* of MOIRE_INIT_NORMAL */
    bool decay;       /* weight decay applies (matrices, not norms and biases) */
    int layer;        /* -1: none */
    /* filled by moire_tensors_layout */
    int64_t offset;   /* first element in an arena, a multiple of 16 */
    int64_t elements; /* on this rank */
};

struct moire_tensors {
    struct moire_tensor
        *list; /* owned, in order of addition; pointers into it move while tensors are added */
    int count;
    int64_t capacity;
    int64_t *experts;        /* owned: global expert of each local one, ascending order of local index */
    int64_t local_experts;   /* 0 is normal: a rank may hold no expert */
    int64_t dense_elements;  /* run [0, dense_elements) of an arena, padding (always zero) included */
    int64_t expert_elements; /* run [dense_elements, dense_elements + expert_elements) */
};

moire_status moire_tensors_create(struct moire_tensors *tensors);
/* Copies *tensor into the table; *index is its place, for use after the layout (the list may move while it
 * grows). */
moire_status moire_tensors_add(struct moire_tensors *tensors, const struct moire_tensor *tensor, int *index);
/* Fixes offsets for a rank that holds `local_experts` experts of the given global ids (copied). May be called
 * again. */
moire_status moire_tensors_layout(struct moire_tensors *tensors, const int64_t *experts,
                                  int64_t local_experts);
void moire_tensors_free(struct moire_tensors *tensors);

const struct moire_tensor *moire_tensors_find(const struct moire_tensors *tensors,
                                              const char *name); /* or NULL */
int64_t moire_tensor_global_elements(const struct moire_tensor *tensor);
int64_t moire_tensor_expert_elements(
    const struct moire_tensor *tensor); /* of one expert; replicated: all elements */
static inline int64_t moire_tensors_elements(const struct moire_tensors *tensors)
{
    return tensors->dense_elements + tensors->expert_elements;
}
/* Name of the tensor that holds element `index` of an arena, and where it is by expert its global expert
 * (else -1); NULL for padding. For error messages. */
const char *moire_tensors_at(const struct moire_tensors *tensors, int64_t index, int64_t *expert);

/* Fills an arena of `element` type. A value is a function of (seed, tensor name, global element index) alone,
 * rounded through float, so that it is the same for any mesh and equal in the float and the double build. */
void moire_tensors_initialise(const struct moire_tensors *tensors, uint64_t seed, moire_element element,
                              void *arena);

#endif
