/* A distributed layer (or two) beside the whole problem in double, which every rank has: all tokens, all
 * experts. Numbers are rounded through `real`, so that both see the same. */
#ifndef MOIRE_TESTS_MOE_FIXTURE_H
#define MOIRE_TESTS_MOE_FIXTURE_H

#include "moire/moe/layer.h"
#include "moire/moe/reference.h"
#include "../support/harness.h"

struct problem {
    char label[160];
    const char *router; /* "softmax", "mixtral", "forced" */
    bool normalise;
    int kind;           /* MOIRE_SWIGLU or MOIRE_GELU */
    double capacity;    /* or MOIRE_DROPLESS */
    int expert_ranks;   /* parallel.expert; 0: all */
    int ranks_per_node; /* 0: ask MPI */
    int64_t experts, top_k, tokens, dim, hidden;
    int layers; /* that share everything but their plans; 1 or 2 */
};

struct fixture {
    struct problem problem;
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_tensors tensors;
    struct moire_moe moe;
    struct moire_moe_layer layer[2];
    struct moire_micro_batch batch;                /* this rank's part; uneven, some ranks have none */
    struct moire_rows output, output_gradient;     /* of this rank */
    real *parameters, *gradients, *input_gradient; /* of this rank; gradients are of all layers */
    /* the whole problem; every layer has the same matrices and the same input */
    double *input, *upstream;          /* [T, D]; upstream: gradient of the output */
    double *router, *gate, *up, *down; /* [E, D], [E, F, D], [E, F, D], [E, D, F] */
};

/* Collective. What the fixture holds is drawn from the test's seed. */
void fixture_create(struct fixture *fixture, const struct problem *problem);
void fixture_free(struct fixture *fixture);

/* Writes the parameters and this rank's part of input and upstream into the buffers of the layers, from the
 * whole problem. */
void fixture_load(struct fixture *fixture);
/* One pass of a layer. Backward adds to gradients and input_gradient. */
moire_status fixture_forward(struct fixture *fixture, int layer);
moire_status fixture_backward(struct fixture *fixture, int layer);
void fixture_clear_gradients(struct fixture *fixture);

/* This rank's rows of [T, D], summed over the ranks: the whole. Collective. */
void fixture_gather_rows(const struct fixture *fixture, const real *rows, double *whole);
/* The choices and drops of a layer, [T, K]. Collective. */
void fixture_gather_choice(const struct fixture *fixture, int layer, int32_t *chosen, bool *dropped);
/* A tensor of an arena, summed over the ranks: by expert, [E, ...], or replicated. Collective. */
void fixture_gather_tensor(const struct fixture *fixture, int tensor, const real *arena, double *whole);

/* The oracle, for a choice. */
struct moire_reference fixture_reference(const struct fixture *fixture, const int32_t *chosen,
                                         const bool *dropped);

/* || found - wanted || <= tolerance || wanted ||. */
void expect_array(const struct fixture *fixture, const char *what, const double *found, const double *wanted,
                  int64_t count, double tolerance);
/* calloc that does not fail; not counted. */
void *room(int64_t count, size_t bytes_each);

/* layer.c and layer_failures.c */
struct problem layer_problem(void); /* a small one */
void layer_choice_fails(void);
void layer_one_rank_fails(void);
void layer_not_finite(void);
void layer_refused(void);

#endif
