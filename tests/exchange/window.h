/* What the tests of memory that the ranks of a node read from each other share. */
#ifndef MOIRE_TESTS_EXCHANGE_WINDOW_H
#define MOIRE_TESTS_EXCHANGE_WINDOW_H

#include "../support/harness.h"
#include "exchange/window.h"

#define EXCHANGE MOIRE_MEMORY_EXCHANGE
enum { MOST_RANKS = 16, FLAGS = 3, BLOCKS = 3 };

extern struct moire_communicator world;
extern int node_of[MOST_RANKS];
extern struct moire_node_memory *memory;
extern struct moire_node_block *blocks[BLOCKS];

int pairs(int rank); /* node of a rank: two a node */
/* Runs a test with world and memory, on each of several maps of nodes; no open file may be left. */
void on_all_nodes(void (*test)(void));
int open_files(void);

/* The blocks without memory, of several kinds; block 1 is of kind EXCHANGE. */
void create_blocks(void);
void free_blocks(void);
/* Contents that tell rank, block and version; whether the first bytes of a peer's block are that, or, for 0
 * bytes, there is none. */
void fill(const struct moire_node_block *block, int64_t version);
bool holds(int peer, int id, int64_t version, int64_t bytes);

/* window_failures.c */
void test_failing_growth(void);
void test_failing_refresh(void);
void test_failing_create(void);

#endif
