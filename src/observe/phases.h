/* The tree of phases, shared by phases.c (this process) and phases_table.c (all ranks). */
#ifndef OBSERVE_PHASES_H
#define OBSERVE_PHASES_H

#include "moire/observe/phases.h"

/* Places in the tree of a process; further ones count in the place around them. */
enum { PLACES = 128 };

/* A place; links are indices, 0 (the root) standing for none. A place comes after its parent. */
struct place {
    moire_phase phase;
    int parent, first_child, last_child, next_sibling;
    int64_t calls;
    double seconds;
};

struct phase_tree {
    struct place *places; /* places[0] is the root, outside all phases */
    int count;            /* the root counts too */
    int64_t capacity;
};

/* The tree of this process. */
const struct phase_tree *phases_own_tree(void);
/* The place of `phase` under `parent`, or 0. */
int phase_tree_find(const struct phase_tree *tree, int parent, moire_phase phase);
/* As above, appended to the parent's children where it is missing; 0 when the tree is full. */
int phase_tree_place(struct phase_tree *tree, int parent, moire_phase phase);

#endif
