/* A run so small that it takes a moment, in a directory of its own. */
#ifndef TESTS_TRAIN_TINY_H
#define TESTS_TRAIN_TINY_H

#include "moire/base/config.h"

enum { BATCH = 6, SEQUENCE = 8, EXPERTS = 3, LONGEST = 256 };

extern char scratch[64];                  /* run.dir, the same on all ranks */
const char *in_scratch(const char *name); /* a path in it, until the next call */

void set(struct moire_config *config, const char *name, const char *value);
/* Ten steps of six sequences; no evaluation or checkpoint but the last. Collective, as is clean. */
void make_config(struct moire_config *config);
void clean(struct moire_config *config);

#endif
